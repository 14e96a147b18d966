//! Data channels between browsers that publish and watch, and REST's word in between.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Clock, Process, Server, clients, light, paired, s, site::send};

#[test]
fn browsers_that_publish_and_watch_talk_to_each_other() {
    paired(s(90), || {
        let server = Server::start();
        let mut command = Command::new("node");
        command.arg(clients("channels.mjs")).args([&server.url(""), "live", "talk"]);
        let mut browser = Process::start("Chromium, channels.mjs", &mut command);
        let report: Value = browser.line("its report", s(80), |line| serde_json::from_str(line).ok());
        assert!(report["failed"].is_null(), "{}", report["failed"]);
        let (muted, bytes) = (r#"{"eventType":"MIC_MUTED"}"#, json!([0, 255, 254, 1]));
        assert_eq!(report["heard"][0], json!(["grüße 👋", "from REST"]), "the publisher");
        assert_eq!(report["heard"][1], json!([muted, bytes, "from REST"]), "the viewer that spoke");
        assert_eq!(report["heard"][2], json!([muted, bytes, "grüße 👋", "from REST"]), "the other viewer");
        assert_eq!(report["size"], 65_536);
        assert_eq!((&report["rest"]["status"], &report["rest"]["answer"]["success"]), (&json!(200), &json!(true)));
        assert_eq!(report["messages"], json!([[2, 3, 1], [3, 1, 0], [4, 0, 0]]), "by session: sent, received, dropped");
        let data = |name: &str| server.metric(name, "door=\"data\"");
        assert_eq!((data("headwater_received_total"), data("headwater_sent_total")), (4.0, 9.0));
        assert_eq!((data("headwater_dropped_total"), data("headwater_errors_total")), (1.0, 0.0));
    });
}

#[test]
fn rest_says_things_to_broadcasts_that_are_live_only_and_for_those_who_may() {
    light(s(60), || {
        let server = Server::start();
        let say =
            |id: &str, text: String| server.request("POST", &format!("/live/rest/v2/broadcasts/{id}/data")).body(text);
        assert_eq!(send(say("nobody", "hello".to_owned())).status(), 404);
        let _publisher = Clock::default().publish(&server.rtmp_url("live/somebody"));
        server.until_status("somebody", "broadcasting");
        assert_eq!(send(say("somebody", "hello".to_owned())).status(), 200, "nobody hears it, which is no error");
        assert_eq!(send(say("somebody", "x".repeat(65_536))).status(), 200);
        let refused = send(say("somebody", "x".repeat(65_537)));
        assert_eq!(refused.status(), 400);
        assert!(refused.text().unwrap().contains("65537 bytes"));
        let foreign = send(say("somebody", "hello".to_owned()).header("x-forwarded-for", "198.51.100.9"));
        assert_eq!(foreign.status(), 403);
    });
}
