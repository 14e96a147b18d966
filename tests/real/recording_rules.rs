//! How recordings are cut, named and kept, by an application's settings and by the word of an operator.

use serde_json::Value;

use crate::harness::{
    Clock, Server,
    ffmpeg::{self, decodes},
    flv, light,
    rtmp::Wire,
    s,
    site::send,
    until,
};

fn with(rules: &str) -> Server {
    Server::with(&format!("[apps.live]\nrecord = true\n[apps.live.recording]\n{rules}\n"))
}

/// Ready recordings by name, with their length in seconds.
fn ready(server: &Server) -> Vec<(String, f64)> {
    let vods = server.recorded().into_iter().filter(|vod| vod["processStatus"] == "ready");
    let name = |vod: &Value| vod["vodName"].as_str().expect("a name").to_owned();
    let mut ready: Vec<_> =
        vods.map(|vod| (name(&vod), vod["duration"].as_f64().expect("a length") / 1000.0)).collect();
    ready.sort_by(|(one, _), (other, _)| one.cmp(other));
    ready
}

fn until_ready(server: &Server, count: usize) -> Vec<(String, f64)> {
    let ready = until("the recordings", s(30), || Some(ready(server)).filter(|ready| ready.len() == count));
    for (name, _) in &ready {
        let file = server.dir.join(name);
        std::fs::write(&file, server.get(&format!("/live/streams/{name}")).bytes().unwrap()).unwrap();
        decodes(&file);
    }
    ready
}

fn tags(from: &'static [flv::Tag], ms: std::ops::Range<u32>) -> Vec<flv::Tag> {
    from.iter().filter(|tag| tag.is_config() || ms.contains(&tag.time_ms)).cloned().collect()
}

fn publish(server: &Server, id: &str, tags: Vec<flv::Tag>) -> Wire {
    let mut wire = Wire::connect(server);
    wire.publish("live", id).expect("published");
    wire.play_out(tags).end().expect("sent")
}

#[test]
fn a_long_recording_is_split_at_keyframes_and_nothing_is_missing() {
    light(s(60), || {
        let server = with("split_s = 3");
        publish(&server, "cut", tags(flv::clip(), 0..8000)).goodbye();
        let files = until_ready(&server, 3);
        assert_eq!(
            files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["cut.mp4", "cut_1.mp4", "cut_2.mp4"]
        );
        let lengths: Vec<_> = files.iter().map(|(_, length)| *length).collect();
        assert!(lengths[..2].iter().all(|length| (2.9..3.2).contains(length)), "{lengths:?}");
        let sum: f64 = lengths.iter().sum();
        assert!((7.8..8.3).contains(&sum), "{lengths:?}");
    });
}

#[test]
fn a_large_recording_is_split_by_size() {
    light(s(60), || {
        let server = with("split_mb = 5");
        publish(&server, "big", tags(flv::bulky(), 0..6000)).goodbye();
        let files = until_ready(&server, 3);
        let sum: f64 = files.iter().map(|(_, length)| length).sum();
        assert!((5.8..6.3).contains(&sum), "{files:?}");
        let first =
            server.recorded().iter().find(|vod| vod["vodName"] == "big.mp4").unwrap()["fileSize"].as_u64().unwrap();
        assert!((5 << 20..9 << 20).contains(&first), "{first} bytes: five MB and the rest of a gop");
    });
}

#[test]
fn who_is_lost_and_returns_goes_on_in_the_same_file() {
    light(s(90), || {
        let server = with("gap_tolerance_s = 10");
        drop(publish(&server, "gap", tags(flv::clip(), 0..3000)));
        until("the publisher to be missed", s(5), || {
            (server.broadcast("live", "gap")?["publisherConnected"] == false).then_some(())
        });
        publish(&server, "gap", tags(flv::clip(), 0..3000)).goodbye();
        let files = until_ready(&server, 1);
        // Three seconds each, and what may lie between them: the clock of the broadcast goes on.
        assert!((5.8..13.0).contains(&files[0].1), "{files:?}");
        // One that said goodbye begins a file of its own.
        publish(&server, "gap", tags(flv::clip(), 0..2000)).goodbye();
        assert_eq!(until_ready(&server, 2)[1].0, "gap_1.mp4");
    });
}

#[test]
fn who_is_lost_begins_another_file_where_no_gap_is_tolerated() {
    light(s(60), || {
        let server = with("gap_tolerance_s = 0");
        drop(publish(&server, "gap", tags(flv::clip(), 0..2000)));
        publish(&server, "gap", tags(flv::clip(), 0..2000)).goodbye();
        until_ready(&server, 2);
    });
}

#[test]
fn an_operator_names_recordings_and_names_carry_the_time() {
    light(s(60), || {
        let server = with("date_time = true");
        let put =
            |query: &str| send(server.request("PUT", &format!("/live/rest/v2/broadcasts/show/recording/true?{query}")));
        let mut wire = Wire::connect(&server);
        wire.publish("live", "show").expect("published");
        let playing = wire.play_out(tags(flv::clip(), 0..7000));
        until("the recording to begin", s(10), || (!server.recorded().is_empty()).then_some(()));
        for (query, status) in [("fileName=a%2Fb", 400), ("recordType=webm", 400), ("fileName=encore", 200)] {
            assert_eq!(put(query).status(), status, "{query}");
        }
        playing.end().expect("sent").goodbye();
        let files = until_ready(&server, 2);
        for ((name, length), stem) in files.iter().zip(["encore-", "show-"]) {
            let time = name.strip_prefix(stem).and_then(|rest| rest.strip_suffix(".mp4")).expect(stem);
            let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
            assert_eq!(shape, "0000-00-00_00-00-00.000");
            assert!(*length > 0.9, "{files:?}");
        }
        assert!((6.8..7.3).contains(&files[1].1), "the other one goes on: {files:?}");
    });
}

/// Recordings that go on, by name.
fn going_on(server: &Server) -> Vec<String> {
    let vods = server.recorded().into_iter().filter(|vod| vod["processStatus"] == "recording");
    let mut names: Vec<_> = vods.map(|vod| vod["vodName"].as_str().expect("a name").to_owned()).collect();
    names.sort();
    names
}

fn until_going_on(server: &Server, names: &[&str]) {
    until(&format!("{names:?} to go on"), s(20), || (going_on(server) == names).then_some(()));
}

#[test]
fn several_recordings_of_a_broadcast_begin_and_end_each_by_itself() {
    light(s(90), || {
        let server = Server::start();
        let ask = |path: &str| send(server.request("PUT", &format!("/live/rest/v2/broadcasts/many/recording/{path}")));
        let put = |path: &str| assert_eq!(ask(path).status(), 200, "{path}");
        let _publisher = Clock::default().publish(&server.rtmp_url("live/many"));
        server.until_status("many", "broadcasting");
        put("true?fileName=alone");
        until_going_on(&server, &["alone.mp4"]);
        put("true");
        put("true?baseFileName=second");
        put("true?fileName=second&recordType=mp4");
        until_going_on(&server, &["alone.mp4", "many.mp4", "second.mp4"]);
        put("false?fileName=second");
        until_going_on(&server, &["alone.mp4", "many.mp4"]);
        // Who stops without a name means the one without, and then the only one that is left.
        put("false");
        until_going_on(&server, &["alone.mp4"]);
        put("true?fileName=third");
        until_going_on(&server, &["alone.mp4", "third.mp4"]);
        let which = ask("false");
        assert_eq!(which.status(), 409);
        let said = which.json::<Value>().unwrap()["message"].to_string();
        assert!(said.contains("alone") && said.contains("third"), "{said}");
        put("false?fileName=third");
        until_going_on(&server, &["alone.mp4"]);
        put("false");
        until_going_on(&server, &[]);
        until_ready(&server, 4);
        let none = ask("true?resolutionHeight=240");
        assert_eq!(none.status(), 400);
        assert!(none.json::<Value>().unwrap()["message"].to_string().contains("no rendition of 240 lines"));
    });
}

#[test]
fn renditions_are_recorded_side_by_side_through_a_gap_and_a_crash() {
    light(s(120), || {
        let mut server = Server::with(
            "[apps.live]\nrecord = true\n\
             ladder = [{ height = 144, video_kbps = 150, audio_kbps = 64 }, { height = 90, video_kbps = 80 }]\n\
             [apps.live.recording]\nrenditions = [144]\n",
        );
        let encoders = |server: &Server| server.metric("headwater_transcodes{", "video");
        let mut wire = Wire::connect(&server);
        wire.publish("live", "cam").expect("published");
        let playing = wire.play_out(tags(flv::clip(), 0..6000));
        until_going_on(&server, &["cam.mp4", "cam_144p150kbps.mp4"]);
        let small = "/live/rest/v2/broadcasts/cam/recording/true?resolutionHeight=90&fileName=small";
        assert_eq!(send(server.request("PUT", small)).status(), 200);
        let all = ["cam.mp4", "cam_144p150kbps.mp4", "small_90p80kbps.mp4"];
        until_going_on(&server, &all);
        assert_eq!(encoders(&server), 2.0, "what is recorded is made, though nobody watches");
        drop(playing.end().expect("sent"));
        until("the publisher to be missed", s(5), || {
            (server.broadcast("live", "cam")?["publisherConnected"] == false).then_some(())
        });
        publish(&server, "cam", tags(flv::clip(), 0..3000)).goodbye();
        let files = until_ready(&server, 3);
        assert_eq!(files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), all);
        // Both of its halves; the last one was asked for later.
        assert!(files.iter().all(|(_, length)| *length > 4.0), "{files:?}");
        assert!((files[0].1 - files[1].1).abs() < 3.5, "{files:?}");
        assert_eq!(all.map(|name| height(&server, name)), [180, 144, 90]);
        until("the encoders to rest", s(30), || (encoders(&server) == 0.0).then_some(()));

        let mut wire = Wire::connect(&server);
        wire.publish("live", "cam").expect("published");
        let playing = wire.play_out(tags(flv::clip(), 0..6000));
        let again = ["cam_1.mp4", "cam_144p150kbps_1.mp4", "small_90p80kbps_1.mp4"];
        until_going_on(&server, &again);
        let wire = playing.end().expect("sent");
        server.kill();
        drop(wire);
        server.start_again();
        let files = until_ready(&server, 6);
        let after: Vec<_> = files.iter().filter(|(name, _)| again.contains(&name.as_str())).collect();
        assert!(after.iter().all(|(_, length)| (2.0..6.3).contains(length)) && after.len() == 3, "{files:?}");
        assert_eq!(again.map(|name| height(&server, name)), [180, 144, 90]);
        assert!(server.recorded().iter().all(|vod| vod["streamId"] == "cam"));
    });
}

/// Of the pictures in a recording that was downloaded.
fn height(server: &Server, name: &str) -> u32 {
    ffmpeg::height(&server.dir.join(name).display().to_string())
}

/// Some seconds of all recordings together.
fn until_written(server: &Server) {
    until("frames in the files", s(20), || {
        (server.metric("headwater_sent_total", "\"record\"") >= 200.0).then_some(())
    });
}

#[test]
fn what_was_asked_for_goes_on_after_a_crash_and_what_was_stopped_does_not() {
    light(s(120), || {
        let mut server = Server::with("[apps.live]\nladder = [{ height = 90, video_kbps = 80 }]\n");
        let ask = |server: &Server, path: &str| {
            send(server.request("PUT", &format!("/live/rest/v2/broadcasts/asked/recording/{path}"))).status()
        };
        let put = |server: &Server, path: &str| assert_eq!(ask(server, path), 200, "{path}");
        let publish = |server: &Server| {
            let mut wire = Wire::connect(server);
            wire.publish("live", "asked").expect("published");
            wire.play_out(tags(flv::clip(), 0..18_000))
        };
        let playing = publish(&server);
        until("the rendition to be offered", s(20), || {
            (ask(&server, "true?resolutionHeight=90&fileName=small") == 200).then_some(())
        });
        for name in ["encore", "dropped"] {
            put(&server, &format!("true?fileName={name}"));
        }
        until_going_on(&server, &["dropped.mp4", "encore.mp4", "small_90p80kbps.mp4"]);
        put(&server, "false?fileName=dropped");
        until_going_on(&server, &["encore.mp4", "small_90p80kbps.mp4"]);
        until_written(&server);
        server.kill();
        drop(playing);

        server.start_again();
        let playing = publish(&server);
        until_going_on(&server, &["encore_1.mp4", "small_90p80kbps_1.mp4"]);
        put(&server, "false?fileName=encore");
        until_going_on(&server, &["small_90p80kbps_1.mp4"]);
        until_written(&server);
        server.kill();
        drop(playing);

        server.start_again();
        let playing = publish(&server);
        until_going_on(&server, &["small_90p80kbps_2.mp4"]);
        until_written(&server);
        put(&server, "false?resolutionHeight=90");
        until_going_on(&server, &[]);
        drop(playing);
        until_ready(&server, 6);
    });
}

#[test]
fn what_is_too_old_is_deleted_and_a_disk_that_gets_full_is_warned_of() {
    light(s(60), || {
        let rules = "[record]\nfree_disk_mb_warn = 100000000\n[apps.live]\nrecord = true\n[apps.live.recording]\nretention_days = 1\n";
        let mut server = Server::with(rules);
        publish(&server, "old", tags(flv::clip(), 0..2000)).goodbye();
        until_ready(&server, 1);
        until("the warning", s(5), || server.log().contains("the disk gets full").then_some(()));
        assert!(server.metric("headwater_recording_disk_free_bytes", "") > 0.0);
        server.kill();
        server.start_again_with_clock("+23h");
        assert_eq!(ready(&server).len(), 1);
        server.kill();
        server.start_again_with_clock("+25h");
        until("the recording to go", s(10), || server.recorded().is_empty().then_some(()));
        assert_eq!(server.get("/live/streams/old.mp4").status(), 404);
    });
}
