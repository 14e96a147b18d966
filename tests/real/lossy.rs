//! Networks that lose, and clients whose address changes in mid-stream.

use crate::harness::{Broadcaster, Clock, Link, Player, Server, heavy, s, until};

const LOSS: f64 = 0.05;

/// All is as if nothing had been lost.
fn until_dry(viewer: &mut Player) {
    viewer.until_lips_fit();
    viewer.until("all pictures", s(10), |seen| seen.number("decoded_fps") > 25.0);
}
#[test]
fn a_viewer_keeps_picture_and_sound_at_five_per_cent_loss_each_way() {
    heavy(s(60), || {
        let server = Server::start();
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/rain"));
        server.until_status("rain", "broadcasting");
        let link = Link::to(server.rtc);
        let mut viewer = Player::whep_via(&link, &server, "live", "rain");
        viewer.until_playing();
        viewer.settle(3.0);
        link.lose(LOSS);
        let wet = viewer.measure(6.0);
        println!("lost {:?}, repaired {}, delay {}", link.lost(), wet.at("rtc.video.repaired"), wet.at("delay_ms"));
        assert!(link.lost()[1] > 20, "the link lost next to nothing: {:?}", link.lost());
        assert!(wet.number("decoded_fps") > 20.0, "the picture stutters: {:#}", wet.0);
        assert!(wet.number("rtc.video.repaired") > 10.0, "nothing was sent again: {:#}", wet.0);
        wet.assert_sound();
        link.lose(0.0);
        until_dry(&mut viewer);
    });
}

#[test]
fn a_publisher_keeps_picture_and_sound_at_five_per_cent_loss_each_way() {
    heavy(s(60), || {
        let server = Server::start();
        let link = Link::to(server.rtc);
        let mut camera = Broadcaster::whip_via(&link, &server, "live", "storm");
        camera.until_connected();
        server.until_status("storm", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "storm").of_browser();
        viewer.until_playing();
        viewer.settle(3.0);
        link.lose(LOSS);
        let wet = viewer.measure(6.0);
        let sent = camera.until("what was sent again", s(5), |report| report.number("rtc.sent.video.repaired") > 10.0);
        println!(
            "lost {:?}, repaired {}, delay {}",
            link.lost(),
            sent.at("rtc.sent.video.repaired"),
            wet.at("delay_ms")
        );
        assert!(link.lost()[0] > 20, "the link lost next to nothing: {:?}", link.lost());
        assert!(wet.number("decoded_fps") > 20.0, "the picture stutters: {:#}", wet.0);
        assert!(wet.number("unreadable") <= 0.02 * wet.number("frames") + 1.0, "damaged pictures: {:#}", wet.0);
        wet.assert_sound();
        link.lose(0.0);
        until_dry(&mut viewer);
    });
}

#[test]
fn a_viewer_whose_address_changes_goes_on_watching() {
    heavy(s(60), || {
        let server = Server::start();
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/roaming"));
        server.until_status("roaming", "broadcasting");
        let link = Link::to(server.rtc);
        let mut viewer = Player::whep_via(&link, &server, "live", "roaming");
        viewer.until_playing();
        viewer.settle(2.0);
        link.change_address();
        let seen = viewer.settle(4.0);
        seen.assert_sound();
        assert_eq!(seen.number("rtc.connections"), 1.0, "the same connection");
    });
}

/// A lift, a tunnel: nothing gets through for a while, and that says nothing about what does afterwards.
#[test]
fn a_viewer_that_was_out_of_reach_sees_everything_again() {
    heavy(s(60), || {
        let server = Server::start();
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/tunnel"));
        server.until_status("tunnel", "broadcasting");
        let link = Link::to(server.rtc);
        let mut viewer = Player::whep_via(&link, &server, "live", "tunnel");
        viewer.until_playing();
        viewer.settle(2.0);
        link.lose(1.0);
        until("the picture to stand still", s(10), || (viewer.measure(1.5).number("frames") == 0.0).then_some(()));
        link.lose(0.0);
        viewer.settle(4.0).assert_sound();
        assert_eq!(server.broadcast("live", "tunnel").unwrap()["webRTCViewerCount"], 1, "the same viewer");
    });
}
