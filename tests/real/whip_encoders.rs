//! WHIP encoders that are no browsers, each with its habits.

use crate::harness::{Clock, Player, Publisher, Server, ffmpeg::decodes_live, heavy, s, until};

/// Offers without candidates, wants to be the DTLS server with a certificate on the curve P-224, never answers a request for a keyframe.
#[test]
fn ffmpeg_publishes_by_whip() {
    heavy(s(90), || {
        let server = Server::start();
        let encoder = Clock { id: 5, ..Clock::default() }.publish_whip(&server.url("/live/whip/ffmpeg"));
        server.until_status("ffmpeg", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "ffmpeg");
        viewer.until_playing();
        let seen = viewer.settle(4.0);
        println!("FFmpeg by WHIP: delay {}", seen.at("delay_ms"));
        assert!(seen.number("ids.5") > 60.0, "{:#}", seen.0);
        viewer.until_lips_fit();
        decodes_live(&server.url("/live/streams/ffmpeg.m3u8"), 4);
        encoder.stop();
        until("the broadcast to end", s(5), || {
            (server.broadcast("live", "ffmpeg")?["status"] != "broadcasting").then_some(())
        });
    });
}

/// Shows an RSA certificate, bundles its second section with port 0, writes OPUS in capitals, sends its candidates one by
/// one, and first of all what it has encoded while it connected.
#[test]
fn gstreamer_publishes_by_whip() {
    heavy(s(90), || {
        let server = Server::start();
        let encoder = Publisher::gstreamer_whip(&server.url("/live/whip/gstreamer"));
        server.until_status("gstreamer", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "gstreamer");
        viewer.until_playing();
        // Its picture has no clock: only the rate can be seen.
        let seen = until("a steady picture", s(20), || {
            let seen = viewer.measure(3.0);
            (seen.number("decoded_fps") >= 25.0 && seen.number("gap_ms_max") < 500.0).then_some(seen)
        });
        seen.assert_sound();
        decodes_live(&server.url("/live/streams/gstreamer.m3u8"), 4);
        let words = encoder.stop();
        assert!(words.contains("candidate 204") && words.contains("DELETE 200"), "{words}");
        until("the broadcast to end", s(5), || {
            (server.broadcast("live", "gstreamer")?["status"] == "finished").then_some(())
        });
    });
}

/// The certificate is such as browsers and OBS have one.
#[test]
fn gstreamer_publishes_vp8_with_a_certificate_on_p256() {
    heavy(s(60), || {
        let server = Server::start();
        let encoder = Publisher::gstreamer_whip_vp8_p256(&server.url("/live/whip/p256"));
        server.until_status("p256", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "p256");
        viewer.until_playing();
        let seen = until("a steady picture", s(20), || {
            let seen = viewer.measure(3.0);
            (seen.number("decoded_fps") >= 25.0).then_some(seen)
        });
        seen.assert_sound();
        encoder.stop();
    });
}
