//! Ant Media's own clients, unmodified: the JavaScript SDK publishes and plays, the web player plays.

use crate::harness::{Broadcaster, Clock, Player, Report, Server, heavy, paired, s};

/// Whether the SDK has called its application back with this.
fn told(report: &Report, event: &str) -> bool {
    report.count("antmedia.events", event) > 0
}

fn complaints(report: &Report) -> String {
    report.at("antmedia.errors").to_string()
}

#[test]
fn the_sdk_publishes_and_plays() {
    heavy(s(90), || {
        let server = Server::start();
        let mut camera = Broadcaster::antmedia(&server, "live", "sdk", &["--id=4"]);
        camera.until("publish_started", s(20), |report| told(report, "publish_started"));
        server.until_status("sdk", "broadcasting");
        let mut viewer = Player::antmedia(&server, "live", "sdk").of_browser();
        viewer.until("play_started", s(30), |report| told(report, "play_started"));
        viewer.until_playing();
        let seen = viewer.settle(5.0);
        println!("SDK to SDK: delay {}, sound after picture {}", seen.at("delay_ms"), seen.at("skew_ms"));
        seen.assert_sound();
        assert!(seen.number("ids.4") > 100.0, "{:#}", seen.0);
        assert_eq!(complaints(&seen), "[]");

        let sent = camera.until("pictures", s(5), |report| report.number("rtc.sent.video.frames") > 100.0);
        assert_eq!(sent.text("rtc.sent.video.codec"), "video/H264", "{:#}", sent.0);
        assert_eq!(complaints(&sent), "[]");
        let broadcast = server.broadcast("live", "sdk").expect("a broadcast that plays");
        assert_eq!(broadcast["publishType"], "WebRTC", "{broadcast:#}");
        assert_eq!(broadcast["webRTCViewerCount"], 1, "{broadcast:#}");

        camera.order("say hello");
        viewer.until("what the publisher said", s(10), |report| report.count("antmedia.data", "hello") == 1);

        camera.finish();
        server.until_status("sdk", "finished");
        viewer.until("play_finished", s(15), |report| told(report, "play_finished"));
    });
}

#[test]
fn the_web_player_waits_for_a_stream_and_plays_it_by_webrtc() {
    heavy(s(90), || {
        let server = Server::start();
        let mut viewer = Player::antmedia_player(&server, "live", "awaited", "webrtc,hls");
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/awaited"));
        viewer.until_playing();
        let seen = viewer.settle(5.0);
        assert_eq!(seen.text("antmedia.way"), "webrtc", "{:#}", seen.0);
        println!("web player: delay {}", seen.at("delay_ms"));
    });
}

#[test]
fn the_web_player_plays_by_hls() {
    heavy(s(90), || {
        let server = Server::start();
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/segments"));
        server.until_status("segments", "broadcasting");
        let mut viewer = Player::antmedia_player(&server, "live", "segments", "hls,webrtc");
        viewer.until_playing();
        let seen = viewer.settle(5.0);
        assert_eq!(seen.text("antmedia.way"), "hls", "{:#}", seen.0);
        println!("web player: delay {}", seen.at("delay_ms"));
    });
}

#[test]
fn a_publisher_that_is_replaced_stays_away() {
    paired(s(90), || {
        let server = Server::start();
        let mut first = Broadcaster::antmedia(&server, "live", "desk", &["--id=4"]);
        first.until("publish_started", s(20), |report| told(report, "publish_started"));
        let mut viewer = Player::antmedia(&server, "live", "desk").of_browser();
        viewer.until_playing();
        let mut second = Broadcaster::antmedia(&server, "live", "desk", &["--id=5"]);
        second.until("publish_started", s(20), |report| told(report, "publish_started"));
        let gone = first.until("its end", s(10), |report| told(report, "publish_finished"));
        assert!(complaints(&gone).contains("streamIdInUse"), "{:#}", gone.0);
        viewer.until("the second one's picture", s(20), |report| report.number("ids.5") > 15.0);
        // The SDK tries again after three seconds where it was not told to stop.
        let seen = viewer.measure(8.0);
        assert!(seen.at("ids.4").is_null() && seen.number("ids.5") > 100.0, "{:#}", seen.0);
        assert_eq!(seen.number("rtc.connections"), 1.0, "the viewer's session goes on");
    });
}

#[test]
fn publisher_and_viewer_come_back_after_a_restart() {
    paired(s(120), || {
        let mut server = Server::with("[drain]\nviewers_s = 2\npublishers_s = 2\n");
        let mut camera = Broadcaster::antmedia(&server, "live", "again", &["--id=4"]);
        camera.until("publish_started", s(20), |report| told(report, "publish_started"));
        let mut viewer = Player::antmedia(&server, "live", "again").of_browser();
        viewer.until_playing();
        assert!(server.terminate(s(20)).success());
        camera.until("server_will_stop", s(10), |report| told(report, "server_will_stop"));
        server.start_again();
        server.until_status("again", "broadcasting");
        viewer.press("reset");
        viewer.until("the picture after the restart", s(40), |report| {
            report.number("seconds") < 40.0 && report.number("ids.4") > 60.0
        });
    });
}
