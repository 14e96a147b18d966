//! Our own pages, as a viewer meets them.

use crate::harness::{Clock, Player, Server, heavy, light, paired, s};

#[test]
fn the_pages_are_in_the_binary() {
    light(s(30), || {
        let server = Server::start();
        for (path, kind, word) in [
            ("/", "text/html", "Headwater"),
            ("/live/play.html?id=x", "text/html", "<video"),
            ("/live/publish.html?id=x", "text/html", "Start publishing"),
            ("/live/index.html", "text/html", "Start publishing"),
            ("/assets/style.css", "text/css", "color-scheme"),
            ("/assets/index.js", "text/javascript", "rest/v2/live"),
            ("/assets/play.js", "text/javascript", "playOrder"),
            ("/assets/player.js", "text/javascript", "class Player"),
            ("/assets/session.js", "text/javascript", "If-Match"),
            ("/assets/whep.js", "text/javascript", "RTCPeerConnection"),
            ("/assets/hls.js", "text/javascript", "lowLatencyMode"),
            ("/assets/vod.js", "text/javascript", "loadedmetadata"),
            ("/assets/delivery.js", "text/javascript", "DeliveryError"),
            ("/assets/publish.js", "text/javascript", "new Publisher"),
            ("/assets/publisher.js", "text/javascript", "class Publisher"),
            ("/assets/devices.js", "text/javascript", "isSecureContext"),
            ("/assets/whip.js", "text/javascript", "class Whip"),
            ("/assets/copying.js", "text/javascript", "clipboard"),
            ("/assets/hls.light.min.mjs", "text/javascript", "lowLatencyMode"),
            ("/assets/favicon.svg", "image/svg+xml", "<svg"),
        ] {
            let response = server.get(path);
            assert_eq!(response.status(), 200, "{path}");
            let found = response.headers()["content-type"].to_str().unwrap().to_owned();
            assert!(found.starts_with(kind), "{path}: {found}");
            assert!(response.text().unwrap().contains(word), "{path} has no {word}");
        }
        assert_eq!(server.get("/assets/none.js").status(), 404);
    });
}

#[test]
fn the_player_prefers_webrtc_and_switches_to_hls_and_back() {
    heavy(s(90), || {
        let server = Server::start();
        let _publisher = Clock::default().publish(&server.rtmp_url("live/page"));
        server.until_status("page", "broadcasting");
        let mut viewer = Player::page(&server, "live", "page", "&mute=false");
        viewer.until_playing();
        let seen = viewer.settle(3.0);
        seen.assert_sound();
        assert_eq!((seen.text("page.state"), seen.text("page.way")), ("playing", "webrtc"));
        assert!(seen.text("page.path").contains("passthrough"), "{:#}", seen.0);
        assert!(seen.text("page.delay").contains("ms"), "{:#}", seen.0);

        viewer.press("hls");
        viewer.until("HLS to play", s(30), |report| {
            report.text("page.way") == "hls" && report.text("page.state") == "playing"
        });
        let seen = viewer.settle(4.0);
        assert_eq!(seen.text("page.protocol"), "LL-HLS", "{:#}", seen.0);

        viewer.press("webrtc");
        viewer.until("WebRTC to play again", s(30), |report| {
            report.text("page.way") == "webrtc" && report.text("page.state") == "playing"
        });
        let errors = viewer.finish();
        assert_eq!(errors.at("errors").as_array().map(Vec::len), Some(0), "{:#}", errors.0);
    });
}

#[test]
fn the_player_falls_back_to_hls_where_webrtc_does_not_get_through() {
    heavy(s(90), || {
        // The media address that viewers are told is one that nobody answers on.
        let server = Server::with("[rtc]\npublic_ips = [\"127.77.0.1\"]\n");
        let _publisher = Clock::default().publish(&server.rtmp_url("live/blocked"));
        server.until_status("blocked", "broadcasting");
        let mut viewer = Player::page(&server, "live", "blocked", "");
        let seen = viewer.until("HLS to play", s(40), |report| {
            report.text("page.way") == "hls" && report.text("page.state") == "playing"
        });
        assert!(seen.number("media_time") > 0.0, "{:#}", seen.0);
        viewer.settle(3.0);
    });
}

#[test]
fn the_player_waits_for_a_stream_tells_of_its_end_and_comes_back() {
    paired(s(150), || {
        let server = Server::start();
        let mut viewer = Player::page(&server, "live", "waiting", "");
        viewer.until("the absence to be told", s(20), |report| report.text("page.state") == "absent");
        let first = Clock { id: 1, ..Clock::default() }.publish(&server.rtmp_url("live/waiting"));
        let playing = viewer.until("the stream to start by itself", s(30), |report| {
            report.text("page.state") == "playing" && report.number("ids.1") > 15.0
        });
        assert_eq!(playing.text("page.way"), "webrtc", "{:#}", playing.0);
        first.kill();
        let told = viewer.until("the interruption to be told", s(20), |report| {
            ["interrupted", "ended"].contains(&report.text("page.state"))
        });
        assert!(!told.text("page.words").is_empty(), "{:#}", told.0);
        let second = Clock { id: 2, ..Clock::default() }.publish(&server.rtmp_url("live/waiting"));
        let back = viewer.until("the stream to go on", s(30), |report| {
            report.text("page.state") == "playing" && report.number("ids.2") > 15.0
        });
        assert_eq!(back.number("rtc.connections"), playing.number("rtc.connections"), "a new connection: {:#}", back.0);
        second.stop();
        viewer.until("the end to be told", s(30), |report| report.text("page.state") == "ended");
        let _third = Clock { id: 3, ..Clock::default() }.publish(&server.rtmp_url("live/waiting"));
        viewer.until("the next broadcast", s(40), |report| {
            report.text("page.state") == "playing" && report.number("ids.3") > 15.0
        });
    });
}

#[test]
fn old_links_work() {
    paired(s(60), || {
        let server = Server::start();
        let _publisher = Clock::default().publish(&server.rtmp_url("live/old"));
        server.until_status("old", "broadcasting");
        let mut viewer = Player::page(&server, "live", "", "&name=x&name=old&playOrder=hls&targetLatency=4");
        viewer.until("a word about the missing id", s(20), |report| !report.text("page.words").is_empty());
        viewer.finish();
        let mut viewer = Player::page(&server, "live", "old", "&playOrder=hls,webrtc&targetLatency=4");
        let seen = viewer.until("HLS to play first", s(30), |report| report.text("page.state") == "playing");
        assert_eq!(seen.text("page.way"), "hls");
    });
}
