//! REST as existing clients know it, health for load balancers, metrics for Prometheus.

use serde_json::Value;

use crate::harness::{Clock, Server, light, s, site::send, until};

#[test]
fn broadcasts_are_listed_with_the_names_that_clients_know() {
    light(s(60), || {
        let server = Server::start();
        assert_eq!(server.json("/live/rest/v2/broadcasts/list/0/50"), serde_json::json!([]));
        assert_eq!(server.get("/live/rest/v2/broadcasts/nobody").status(), 404);
        assert_eq!(server.get("/nowhere/rest/v2/broadcasts/list/0/50").status(), 404);

        let _publisher = Clock::default().publish(&server.rtmp_url("live/known"));
        let broadcast = server.until_status("known", "broadcasting");
        assert_eq!(broadcast["streamId"], "known");
        assert_eq!(broadcast["type"], "liveStream");
        assert_eq!(broadcast["publishType"], "RTMP");
        let broadcast = until("the picture's size", s(10), || {
            server.broadcast("live", "known").filter(|broadcast| broadcast["width"] == 640)
        });
        assert_eq!(broadcast["height"], 360);
        assert!(broadcast["startTime"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "{broadcast:#}");
        for count in ["hlsViewerCount", "webRTCViewerCount", "rtmpViewerCount", "dashViewerCount"] {
            assert!(broadcast[count].is_u64(), "{count}: {broadcast:#}");
        }
        for (delivery, kind) in [("webrtc", "video"), ("webrtc", "audio"), ("hls", "video"), ("hls", "audio")] {
            let path = &broadcast["deliveryPath"][delivery][kind];
            assert!(
                path.as_str().is_some_and(|path| path.starts_with("passthrough") || path.starts_with("transcode")),
                "{broadcast:#}"
            );
        }
        until("bytes to be counted", s(10), || {
            server.broadcast("live", "known")?["receivedBytes"].as_u64().filter(|bytes| *bytes > 10_000)
        });

        let list = server.json("/live/rest/v2/broadcasts/list/0/50");
        assert_eq!(list[0]["streamId"], "known", "{list:#}");
        assert_eq!(server.json("/live/rest/v2/broadcasts/list/1/50"), serde_json::json!([]));

        let live = server.json("/rest/v2/live");
        assert_eq!((&live[0]["app"], &live[0]["streamId"]), (&Value::from("live"), &Value::from("known")), "{live:#}");
        assert_eq!(live[0]["tracks"][0]["width"], 640, "{live:#}");
        assert_eq!(live[0]["deliveryPath"]["webrtc"]["video"], "passthrough", "{live:#}");
        let version = server.json("/rest/v2/version");
        assert!(version["versionName"].is_string(), "{version:#}");
    });
}

#[test]
fn changes_are_refused_to_who_is_not_allowed() {
    light(s(60), || {
        let server = Server::start();
        let _publisher = Clock::default().publish(&server.rtmp_url("live/guarded"));
        server.until_status("guarded", "broadcasting");
        let path = "/live/rest/v2/broadcasts/guarded/recording/true";
        let forwarded = send(server.request("PUT", path).header("x-forwarded-for", "198.51.100.9"));
        assert_eq!(forwarded.status(), 403, "a proxy does not lend its address");
        let sessions = "/live/rest/v2/broadcasts/guarded/webrtc-client-stats/0/50";
        assert_eq!(server.json(sessions), serde_json::json!([]));
        let forwarded = send(server.request("GET", sessions).header("x-forwarded-for", "198.51.100.9"));
        assert_eq!(forwarded.status(), 403, "viewers' addresses are not for everybody");
        let foreign = send(server.request("PUT", path).header("origin", "https://evil.example"));
        assert_eq!(foreign.status(), 403, "a page of somebody else");
        assert_eq!(server.broadcast("live", "guarded").unwrap()["mp4Enabled"], 0);

        let server = Server::with("[http]\nadmin_networks = [\"192.0.2.0/24\"]\n");
        let refused = send(server.request("PUT", path));
        assert_eq!(refused.status(), 403);
        assert!(refused.text().unwrap().contains("admin_networks"), "the refusal says what to change");
    });
}

#[test]
fn the_registry_survives_a_restart() {
    light(s(90), || {
        let mut server = Server::start();
        let publisher = Clock::default().publish(&server.rtmp_url("live/before"));
        server.until_status("before", "broadcasting");
        publisher.stop();
        server.until_status("before", "finished");
        assert!(server.terminate(s(20)).success());
        server.start_again();
        assert_eq!(server.broadcast("live", "before").expect("known")["status"], "finished");

        let _publisher = Clock::default().publish(&server.rtmp_url("live/killed"));
        server.until_status("killed", "broadcasting");
        server.kill();
        server.start_again();
        let killed = server.broadcast("live", "killed").expect("known");
        assert_eq!(killed["status"], "terminated_unexpectedly");
        let _again = Clock::default().publish(&server.rtmp_url("live/killed"));
        server.until_status("killed", "broadcasting");
    });
}

#[test]
fn health_and_metrics() {
    light(s(60), || {
        let mut server = Server::with("[drain]\npublishers_s = 0\n");
        assert_eq!(server.get("/livez").status(), 200);
        assert_eq!(server.get("/readyz").status(), 200);
        assert_eq!(server.get("/no/such/page").status(), 404);
        let _publisher = Clock::default().publish(&server.rtmp_url("live/metered"));
        server.until_status("metered", "broadcasting");
        let text = server.get("/metrics").text().unwrap();
        assert!(text.trim_end().ends_with("# EOF"), "OpenMetrics ends with # EOF: {text}");
        until("frames to be counted", s(10), || {
            (server.metric("headwater_received_total", "rtmp") > 30.0).then_some(())
        });
        let errors = server.metric("headwater_errors_total", "rtmp");
        let mut socket = crate::harness::rtmp::dial(&server);
        std::io::Write::write_all(&mut socket, &[0xff; 100]).unwrap();
        until("the error to be counted", s(20), || {
            (server.metric("headwater_errors_total", "rtmp") > errors).then_some(())
        });
        assert!(server.terminate(s(20)).success(), "asked to stop, it stops by itself and says so");
    });
}
