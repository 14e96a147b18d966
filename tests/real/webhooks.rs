//! What becomes of a broadcast is told to who wants to know, however often that takes and whoever dies over it.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::json;

use crate::harness::{
    Clock, Server, light,
    receiver::{Receiver, Told},
    s,
    site::send,
    until,
};

const KEY: &[u8] = b"012345678901234567890123";
/// The same in base64.
const SECRET: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";

fn actions(told: &[Told]) -> Vec<&str> {
    told.iter().map(Told::action).collect()
}

#[test]
fn who_wants_to_know_is_told_in_order_also_of_what_was_broken_off() {
    light(s(120), || {
        let receiver = Receiver::start();
        receiver.refuse(2);
        let mut server = Server::with(&format!(
            "[apps.live]\nrecord = true\n[apps.live.webhooks]\nurl = \"{}\"\nsecret = \"{SECRET}\"\n",
            receiver.url()
        ));
        // Somebody who never answers: the others are not to notice.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let silent = format!("http://{}/", silent.local_addr().expect("an address"));
        create(&server, json!({ "streamId": "aside", "listenerHookURL": silent }));
        assert_eq!(server.broadcast("live", "aside").expect("known")["listenerHookURL"], silent);
        let _aside = Clock { id: 2, ..Clock::default() }.publish(&server.rtmp_url("live/aside"));
        server.until_status("aside", "broadcasting");

        create(&server, json!({ "streamId": "show", "name": "The show", "metaData": "{\"stage\":3}" }));
        let publisher = Clock::default().publish(&server.rtmp_url("live/show"));
        server.until_playable("show");
        receiver.until_told("show", 1);
        publisher.stop();
        let told = receiver.until_told("show", 3);
        it_was_told_as_promised(&server, &receiver, &told);

        it_is_killed_while_nobody_listens(&mut server, &receiver);
    });
}

fn create(server: &Server, broadcast: serde_json::Value) {
    let response = send(server.request("POST", "/live/rest/v2/broadcasts/create").body(broadcast.to_string()));
    assert!(response.status().is_success(), "{:?}", response.text());
}

fn it_was_told_as_promised(server: &Server, receiver: &Receiver, told: &[Told]) {
    let all = receiver.told();
    assert_eq!(all.iter().map(|told| told.answer).collect::<Vec<_>>(), [500, 500, 200, 200, 200]);
    for again in &all[1..3] {
        assert_eq!((&again.id, &again.body), (&all[0].id, &all[0].body), "the same again");
    }
    assert_eq!(actions(told), ["liveStreamStarted", "liveStreamEnded", "vodReady"]);
    let ids: BTreeSet<_> = told.iter().map(|told| &told.id).collect();
    assert_eq!(ids.len(), 3);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis() as i64;
    for told in &all {
        told.assert_signed(KEY);
        assert!(told.path.starts_with("POST /hook "), "{told:?}");
        assert_eq!((&told.body["app"], &told.body["metadata"]), (&json!("live"), &json!({ "stage": 3 })));
        let at_ms: i64 = told.body["timestamp"].as_str().expect("text").parse().expect("milliseconds");
        assert!((now_ms - 60_000..=now_ms).contains(&at_ms), "{told:?}");
    }
    let [started, ended, ready] = told else { unreachable!("three") };
    assert_eq!((&started.body["streamName"], &ended.body["streamName"]), (&json!("The show"), &json!("The show")));
    assert_eq!(ended.body["status"], "finished");
    let (vod, _) = server.until_recorded("show");
    for (told, listed) in [("vodId", "vodId"), ("filePath", "filePath"), ("duration", "duration")] {
        assert_eq!(ready.body[told], vod[listed], "{ready:?} {vod:#}");
    }
    assert_eq!(ready.body["vodName"], "show");
}

fn it_is_killed_while_nobody_listens(server: &mut Server, receiver: &Receiver) {
    receiver.leave();
    let failures = server.metric("headwater_errors_total", "webhook");
    let publisher = Clock::default().publish(&server.rtmp_url("live/broken"));
    let file = server.recordings().join("live/streams/broken.mp4.recording");
    until("two seconds of it to be on the disk", s(30), || {
        file.metadata().is_ok_and(|file| file.len() > 300_000).then_some(())
    });
    until("a try that came to nothing", s(30), || {
        (server.metric("headwater_errors_total", "webhook") > failures).then_some(())
    });
    server.kill();
    publisher.kill();
    server.start_again();
    receiver.come();
    let told = receiver.until_told("broken", 3);
    assert_eq!(actions(&told), ["liveStreamStarted", "liveStreamEnded", "vodReady"]);
    assert_eq!(told[1].body["status"], "terminated_unexpectedly");
    told.iter().for_each(|told| told.assert_signed(KEY));
    // The beginning may have been on its way when the server died; it is the same one then.
    let before = receiver.told().into_iter().filter(|told| told.body["id"] == "broken").collect::<Vec<_>>();
    assert_eq!(before.iter().map(|told| &told.id).collect::<BTreeSet<_>>().len(), 3, "{before:?}");
}
