//! Watching by WebRTC: delay, the network's limits, the tracks that are there, and WHEP to the letter.

use std::time::Duration;

use crate::harness::{Clock, Player, Publisher, Server, flv, heavy, light, paired, rtmp::Wire, s, site::send};

const DELAY_MS: f64 = 250.0;
const FIRST_PICTURE_MS: f64 = 150.0;
/// Continuous integration shares its machine; the figures themselves are printed.
const BUSY: f64 = 3.0;

#[test]
fn low_latency_h264_goes_through_within_a_quarter_of_a_second() {
    heavy(s(60), || {
        let server = Server::start();
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/fast"));
        server.until_status("fast", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "fast");
        let first = viewer.until_playing();
        let seen = viewer.settle(4.0);
        println!(
            "first picture {} ms after the answer, delay {}",
            first.number("first_picture_ms"),
            seen.at("delay_ms")
        );
        assert!(seen.number("delay_ms.p50") < BUSY * DELAY_MS, "{:#}", seen.0);
        assert!(first.number("first_picture_ms") < BUSY * FIRST_PICTURE_MS, "{:#}", first.0);
        assert!(seen.text("rtc.video.codec").ends_with("H264"), "{:#}", seen.0);
        assert_eq!(seen.text("rtc.protocol"), "udp");
        let broadcast = server.broadcast("live", "fast").expect("a broadcast that plays");
        assert_eq!(broadcast["deliveryPath"]["webrtc"]["video"], "passthrough", "{broadcast:#}");
        assert_eq!(broadcast["webRTCViewerCount"], 1, "{broadcast:#}");
        viewer.until_lips_fit();
        assert_eq!(viewer.finish().number("stopped"), 200.0, "DELETE ends the session");
        crate::harness::until("the viewer to be gone", s(5), || {
            (server.broadcast("live", "fast")?["webRTCViewerCount"] == 0).then_some(())
        });
    });
}

#[test]
fn a_network_without_udp_is_served_by_tcp() {
    heavy(s(60), || {
        let server = Server::start();
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/tcp"));
        server.until_status("tcp", "broadcasting");
        let mut viewer = Player::whep_tcp(&server, "live", "tcp");
        viewer.until_playing();
        let seen = viewer.settle(4.0);
        seen.assert_sound();
        assert_eq!(seen.text("rtc.protocol"), "tcp");
    });
}

#[test]
fn gstreamer_publishes() {
    heavy(s(60), || {
        let server = Server::start();
        let _gst = Publisher::gstreamer(&server.rtmp_url("live/gst"));
        server.until_status("gst", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "gst");
        viewer.until_playing();
        // Its picture has no clock: only the rate can be seen.
        let seen = viewer.measure(4.0);
        assert!(seen.number("decoded_fps") >= 25.0, "{:#}", seen.0);
        seen.assert_sound();
    });
}

#[test]
fn a_camera_without_sound_and_a_radio_without_picture_play() {
    heavy(s(90), || {
        let server = Server::start();
        let _camera = Clock { audio: false, ..Clock::default() }.publish(&server.rtmp_url("live/camera"));
        let _radio = Clock { video: false, ..Clock::default() }.publish(&server.rtmp_url("live/radio"));
        server.until_status("camera", "broadcasting");
        server.until_status("radio", "broadcasting");

        let mut viewer = Player::whep(&server, "live", "camera");
        viewer.until_playing();
        viewer.settle(3.0);
        viewer.finish();

        let mut viewer = Player::whep(&server, "live", "radio");
        let heard = viewer.until("sound without a picture", s(20), |report| {
            report.number("rtc.audio.energy") > 0.001 && report.number("media_time") > 0.5
        });
        assert!(heard.number("frames_total") == 0.0, "{:#}", heard.0);
        heard.assert_sound();
    });
}

/// An encoder that finds its microphone three seconds later.
#[test]
fn sound_that_comes_late_is_heard_by_who_comes_after_it() {
    paired(s(60), || {
        let server = Server::start();
        let mut wire = Wire::connect(&server);
        wire.publish("live", "late").expect("published");
        let late = flv::clip().iter().filter(|tag| tag.kind != flv::AUDIO || tag.is_config() || tag.time_ms > 3000);
        let tags: Vec<_> = late
            .cloned()
            .map(|mut tag| {
                if tag.kind == flv::AUDIO && tag.is_config() {
                    tag.time_ms = 3000;
                }
                tag
            })
            .collect();
        let mut tags = tags;
        tags.sort_by_key(|tag| tag.time_ms);
        let _sending = wire.play_out(tags);
        server.until_status("late", "broadcasting");
        crate::harness::until("the sound to be known", s(10), || {
            let broadcast = server.broadcast("live", "late")?;
            broadcast["deliveryPath"]["webrtc"]["audio"].is_string().then_some(())
        });
        let mut viewer = Player::whep(&server, "live", "late");
        viewer.until_playing();
        viewer.until("sound", s(10), |report| report.number("sound_peak") > 0.03);
    });
}

#[test]
fn a_publisher_comes_back_and_the_viewers_never_left() {
    heavy(s(90), || {
        let server = Server::start();
        let first = Clock { id: 1, ..Clock::default() }.publish(&server.rtmp_url("live/again"));
        server.until_status("again", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "again");
        viewer.until_playing();
        first.kill();
        viewer.until("the picture to stand still", s(10), |report| report.number("gap_ms_max") > 1000.0);
        let _second = Clock { id: 2, ..Clock::default() }.publish(&server.rtmp_url("live/again"));
        viewer.until("the second publisher's picture", s(20), |report| report.number("ids.2") > 10.0);
        let seen = viewer.settle(3.0);
        seen.assert_sound();
        assert_eq!(seen.number("rtc.connections"), 1.0, "the same connection");
        assert_eq!(seen.text("rtc.state"), "connected");
        assert!(seen.number("delay_ms.p50") < BUSY * DELAY_MS, "{:#}", seen.0);
    });
}

/// Encoders send keyframes seldom; a viewer who comes in between must not wait for the next one.
#[test]
fn long_gops_do_not_delay_the_first_picture() {
    heavy(s(60), || {
        let server = Server::start();
        let _ffmpeg = Clock { gop_frames: 240, ..Clock::default() }.publish(&server.rtmp_url("live/long"));
        server.until_status("long", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "long");
        let first = viewer.until_playing();
        println!("gop of 8 s: first picture after {} ms", first.number("first_picture_ms"));
        assert!(first.number("first_picture_ms") < 1500.0, "{:#}", first.0);
        let seen = viewer.until("the live edge", s(15), |report| {
            report.number("seconds") > 3.0 && report.number("delay_ms.min") < BUSY * DELAY_MS
        });
        assert!(seen.number("backwards") == 0.0, "{:#}", seen.0);
    });
}

const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=recvonly\r\na=rtcp-mux\r\na=setup:actpass\r\n\
    a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
    a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n\
    a=rtpmap:96 H264/90000\r\na=fmtp:96 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=recvonly\r\na=rtcp-mux\r\na=setup:actpass\r\n\
    a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n\
    a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n\
    a=rtpmap:111 opus/48000/2\r\n";

#[test]
fn whep_answers_as_its_specification_says() {
    light(s(40), || {
        let server = Server::start();
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/spec"));
        server.until_playable("spec");
        let offer = |path: &str, kind: &str, body: &str| {
            let request = server.request("POST", path).header("content-type", kind).body(body.to_owned());
            send(request)
        };

        assert_eq!(offer("/live/whep/nobody", "application/sdp", OFFER).status(), 404);
        assert_eq!(offer("/live/whep/bad%20id", "application/sdp", OFFER).status(), 404);
        assert_eq!(offer("/live/whep/spec", "text/plain", OFFER).status(), 415);
        assert_eq!(offer("/live/whep/spec", "application/sdp", "hello").status(), 400);
        assert_eq!(send(server.request("GET", "/live/whep/spec")).status(), 405);
        assert_eq!(send(server.request("PUT", "/live/whep/spec")).status(), 405);
        let foreign = OFFER.replace("H264/90000", "VP8/90000").replace("opus/48000/2", "PCMU/8000");
        assert_eq!(offer("/live/whep/spec", "application/sdp", &foreign).status(), 406);

        let options = send(
            server
                .request("OPTIONS", "/live/whep/spec")
                .header("origin", "https://viewer.example")
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "content-type"),
        );
        assert!(options.status().is_success(), "{options:?}");
        assert!(options.headers().contains_key("access-control-allow-origin"), "{options:?}");

        let request = server.request("POST", "/live/whep/spec").header("content-type", "application/sdp");
        let answer = send(request.header("origin", "https://viewer.example").body(OFFER));
        assert_eq!(answer.status(), 201);
        assert_eq!(answer.headers()["content-type"], "application/sdp");
        let exposed = answer.headers()["access-control-expose-headers"].to_str().unwrap().to_lowercase();
        assert!(exposed.contains("location") || exposed == "*", "{exposed}");
        let location = answer.headers()["location"].to_str().unwrap().to_owned();
        let location = location.strip_prefix(&server.url("")).unwrap_or(&location).to_owned();
        let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
        let sdp = answer.text().unwrap();
        assert!(sdp.contains("a=sendonly") && sdp.contains("a=candidate:"), "{sdp}");
        assert!(sdp.contains(" udp ") && sdp.to_lowercase().contains("tcptype passive"), "{sdp}");

        let trickle = "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\nm=video 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
            a=candidate:1 1 udp 2130706431 127.0.0.1 40000 typ host\r\n";
        let patch = |kind: &str, tag: Option<&str>| {
            let request = server.request("PATCH", &location).header("content-type", kind).body(trickle);
            send(match tag {
                Some(tag) => request.header("if-match", tag),
                None => request,
            })
            .status()
        };
        const FRAGMENT: &str = "application/trickle-ice-sdpfrag";
        assert_eq!(patch(FRAGMENT, Some(&etag)), 204, "candidates are taken");
        assert_eq!(patch(FRAGMENT, None), 428, "which ICE session?");
        assert_eq!(patch(FRAGMENT, Some("\"other\"")), 412, "not that one");
        assert_eq!(patch("text/plain", Some(&etag)), 415);
        assert_eq!(send(server.request("DELETE", &location)).status(), 200);
        assert_eq!(send(server.request("DELETE", &location)).status(), 404, "a session ends once");
    });
}

/// Someone who posts offers and never comes must not fill the node.
#[test]
fn a_viewer_that_never_connects_is_forgotten() {
    light(s(60), || {
        let server = Server::start();
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/ghost"));
        server.until_playable("ghost");
        let request = server.request("POST", "/live/whep/ghost").header("content-type", "application/sdp");
        let answer = send(request.body(OFFER));
        assert_eq!(answer.status(), 201, "{}", answer.text().unwrap());
        let location = answer.headers()["location"].to_str().unwrap().to_owned();
        let location = location.strip_prefix(&server.url("")).unwrap_or(&location).to_owned();
        crate::harness::until("the session to be forgotten", Duration::from_secs(45), || {
            let patch = server.request("PATCH", &location).header("content-type", "application/trickle-ice-sdpfrag");
            (send(patch.body("a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\n")).status() == 404)
                .then_some(())
        });
    });
}
