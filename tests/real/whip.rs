//! Chromium publishes by WHIP, and others watch: by WebRTC, HLS and from a recording.

use crate::harness::{
    Broadcaster, Player, Server,
    ffmpeg::{decodes, decodes_live},
    heavy, s, until,
};

/// Continuous integration shares its machine, and tests run on a build without optimisation; the figures are printed.
const DELAY_MS: f64 = if cfg!(debug_assertions) { 450.0 } else { 150.0 };

#[test]
fn a_browser_publishes_and_another_watches_at_once() {
    heavy(s(60), || {
        let server = Server::start();
        let mut camera = Broadcaster::whip(&server, "live", "camera", &["--id=3"]);
        let sent = camera.until_connected();
        assert_eq!(sent.number("session.status"), 201.0);
        server.until_status("camera", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "camera").of_browser();
        let first = viewer.until_playing();
        let seen = viewer.settle(4.0);
        println!("WebRTC to WebRTC: delay {}", seen.at("delay_ms"));
        println!("first picture {} ms after the answer", first.number("first_picture_ms"));
        assert!(seen.number("ids.3") > 70.0, "{:#}", seen.0);
        assert!(seen.number("delay_ms.p50") < DELAY_MS, "{:#}", seen.0);
        viewer.until_lips_fit();

        // Chromium offers VP8 first; what plays everywhere is asked for.
        let sending = camera.until("pictures", s(5), |report| report.number("rtc.sent.video.frames") > 100.0);
        assert_eq!(sending.text("rtc.sent.video.codec"), "video/H264", "{:#}", sending.0);
        let broadcast = server.broadcast("live", "camera").expect("a broadcast that plays");
        assert_eq!(broadcast["publishType"], "WebRTC", "{broadcast:#}");
        assert_eq!(broadcast["deliveryPath"]["webrtc"]["video"], "passthrough", "{broadcast:#}");
        assert_eq!(broadcast["deliveryPath"]["webrtc"]["audio"], "passthrough", "{broadcast:#}");
        assert_eq!((&broadcast["width"], &broadcast["height"]), (&640.into(), &360.into()), "{broadcast:#}");

        let last = camera.finish();
        assert_eq!(last.number("stopped"), 200.0, "DELETE ends the session");
        assert_eq!(last.at("errors").as_array().map(Vec::len), Some(0), "{:#}", last.0);
        until("the broadcast to end", s(5), || {
            (server.broadcast("live", "camera")?["status"] == "finished").then_some(())
        });
    });
}

#[test]
fn what_a_browser_publishes_plays_by_hls_and_is_recorded() {
    heavy(s(90), || {
        let server = Server::with("[apps.live]\nrecord = true\n");
        let mut camera = Broadcaster::whip(&server, "live", "kept", &["--id=3"]);
        camera.until_connected();
        server.until_status("kept", "broadcasting");
        let mut viewer = Player::hls(&server, "live", "kept").of_browser();
        viewer.until_playing();
        let seen = viewer.settle(5.0);
        println!(
            "WebRTC to low-latency HLS: delay {}, sound after picture {}",
            seen.at("delay_ms"),
            seen.at("skew_ms")
        );
        seen.assert_sound();
        assert!(seen.number("delay_ms.p50") < 6000.0, "{:#}", seen.0);
        assert!(seen.number("skew_ms.p50").abs() < 200.0, "sound and picture are apart: {:#}", seen.0);
        assert_eq!(seen.at("hls.errors").as_array().map(Vec::len), Some(0), "{:#}", seen.0);
        viewer.finish();
        decodes_live(&server.url("/live/streams/kept.m3u8"), 5);
        camera.finish();
        let (vod, file) = server.until_recorded("kept");
        assert!(vod["duration"].as_f64().unwrap() > 8_000.0, "{vod:#}");
        decodes(&file);
    });
}

#[test]
fn a_browser_without_a_microphone_and_one_without_a_camera_publish() {
    heavy(s(60), || {
        let server = Server::start();
        let _silent = Broadcaster::whip(&server, "live", "silent", &["--no-audio"]);
        server.until_status("silent", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "silent").of_browser();
        viewer.until_playing();
        viewer.settle(3.0);
        viewer.finish();

        let _radio = Broadcaster::whip(&server, "live", "radio", &["--no-video"]);
        server.until_status("radio", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "radio").of_browser();
        let heard = viewer.until("sound without a picture", s(20), |report| {
            report.number("rtc.audio.energy") > 0.001 && report.number("media_time") > 0.5
        });
        assert!(heard.number("frames_total") == 0.0, "{:#}", heard.0);
        heard.assert_sound();
    });
}

/// What happens in a conference: a shared window is resized, the microphone goes off and on, the other camera is taken.
#[test]
fn a_publisher_changes_size_microphone_and_camera_and_the_viewers_follow() {
    heavy(s(90), || {
        let server = Server::with("[apps.live]\nrecord = true\n");
        let mut camera = Broadcaster::whip(&server, "live", "busy", &["--id=3"]);
        camera.until_connected();
        server.until_status("busy", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "busy").of_browser();
        viewer.until_playing();
        viewer.settle(2.0);

        camera.order("size 480x270");
        viewer.until("the new size", s(10), |report| report.number("width") == 480.0);
        viewer.settle(2.0);
        until("the new size in REST", s(5), || (server.broadcast("live", "busy")?["width"] == 480).then_some(()));

        camera.order("hide");
        until("a black picture", s(15), || (viewer.measure(1.0).number("unreadable") > 1.0).then_some(()));
        camera.order("show");
        viewer.settle(2.0);

        camera.order("mute");
        until("a second of silence", s(15), || (viewer.measure(1.0).number("sound_peak") < 0.01).then_some(()));
        camera.order("unmute");
        viewer.until("sound again", s(10), |report| report.number("sound_peak") > 0.03);

        camera.order("camera 7");
        viewer.until("the other camera", s(10), |report| report.number("ids.7") > 30.0);
        viewer.settle(2.0);
        let seen = viewer.until_lips_fit();
        assert_eq!(seen.number("rtc.connections"), 1.0, "the same connection");
        camera.finish();
        let (_, file) = server.until_recorded("busy");
        decodes(&file);
    });
}

#[test]
fn a_browser_that_sends_vp8_only_is_watched_by_webrtc_and_hls() {
    heavy(s(60), || {
        let server = Server::start();
        let mut camera = Broadcaster::whip(&server, "live", "vp8", &["--id=3", "--codec=VP8"]);
        camera.until_connected();
        server.until_status("vp8", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "vp8").of_browser();
        viewer.until_playing();
        let seen = viewer.settle(3.0);
        seen.assert_sound();
        assert_eq!(seen.text("rtc.video.codec"), "video/VP8", "nothing is encoded again: {:#}", seen.0);
        viewer.finish();
        let mut viewer = Player::hls(&server, "live", "vp8").of_browser();
        viewer.until_playing();
        viewer.settle(3.0).assert_sound();
    });
}
