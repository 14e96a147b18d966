//! OBS Studio, as it comes from the box and tuned.

use crate::harness::{Player, Publisher, Server, heavy, s};

/// B-frames and a keyframe each eight seconds: a browser shows two pictures a second of that, unless the server helps.
#[test]
fn obs_as_it_comes_from_the_box_plays_by_webrtc_and_hls() {
    heavy(s(120), || {
        let server = Server::start();
        let _obs = Publisher::obs("defaults", &server.rtmp_url("live"), "box", 90);
        server.until_status("box", "broadcasting");

        let mut viewer = Player::whep(&server, "live", "box");
        viewer.until_playing();
        let seen = viewer.measure(8.0);
        seen.assert_moves();
        seen.assert_sound();
        // The encoder holds frames back for its own lookahead: nothing behind it can win that time again.
        assert!(seen.number("delay_ms.p50") < 2000.0, "glass to glass: {:#}", seen.0);
        println!("OBS defaults by WebRTC: {} fps, {}", seen.number("fps"), seen.at("delay_ms"));
        let broadcast = server.broadcast("live", "box").expect("a broadcast that plays");
        assert_eq!(broadcast["deliveryPath"]["webrtc"]["video"], "transcode: b-frames", "{broadcast:#}");
        viewer.finish();

        let mut viewer = Player::hls(&server, "live", "box");
        viewer.until_playing();
        let seen = viewer.measure(8.0);
        seen.assert_moves();
        seen.assert_sound();
        assert_eq!((seen.number("width"), seen.number("height")), (640.0, 360.0));
        let broadcast = server.broadcast("live", "box").expect("a broadcast that plays");
        assert_eq!(broadcast["deliveryPath"]["hls"]["video"], "passthrough", "{broadcast:#}");
        println!("OBS defaults by LL-HLS: {}", seen.at("delay_ms"));
    });
}

#[test]
fn obs_tuned_for_low_latency_goes_through_untouched() {
    heavy(s(90), || {
        let server = Server::start();
        let obs = Publisher::obs("low-latency", &server.rtmp_url("live"), "tuned", 60);
        server.until_status("tuned", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "tuned");
        viewer.until_playing();
        let seen = viewer.measure(6.0);
        seen.assert_moves();
        seen.assert_sound();
        assert!(seen.number("delay_ms.p50") < 500.0, "glass to glass: {:#}", seen.0);
        println!("OBS low latency by WebRTC: {}", seen.at("delay_ms"));
        let broadcast = server.broadcast("live", "tuned").expect("a broadcast that plays");
        assert_eq!(broadcast["deliveryPath"]["webrtc"]["video"], "passthrough", "{broadcast:#}");
        obs.stop();
        server.until_status("tuned", "finished");
    });
}
