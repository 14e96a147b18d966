//! One publisher, three qualities side by side.

use std::time::Instant;

use crate::harness::{Broadcaster, Link, Player, Server, heavy, s};

#[test]
fn three_layers_arrive_and_the_best_is_what_plays() {
    heavy(s(90), || {
        let server = Server::start();
        let mut camera = Broadcaster::whip(&server, "live", "layers", &["--id=3", "--simulcast", "--size=1280x720"]);
        camera.until_connected();
        let sent = camera.until("three layers to be sent", s(30), |report| {
            ["l", "m", "h"].iter().all(|layer| report.number(&format!("rtc.sent.{layer}.frames")) > 10.0)
        });
        let heights = ["l", "m", "h"].map(|layer| sent.number(&format!("rtc.sent.{layer}.height")));
        assert_eq!(heights, [180.0, 360.0, 720.0], "{:#}", sent.0);
        let mut viewer = Player::whep(&server, "live", "layers").of_browser();
        viewer.until("the best layer's picture", s(20), |report| report.number("height") == 720.0);
        let seen = viewer.measure(4.0);
        assert_eq!(seen.number("backwards"), 0.0, "{:#}", seen.0);
        assert!(seen.number("unreadable") <= 0.02 * seen.number("frames") + 1.0, "damaged pictures: {:#}", seen.0);
        // Three encoders share two processors with all the rest.
        assert!(seen.number("decoded_fps") > 10.0, "{:#}", seen.0);
        seen.assert_sound();
    });
}

#[test]
fn a_viewer_gets_the_layer_that_its_network_carries_and_climbs_back_when_it_can() {
    heavy(s(110), || {
        let server = Server::start();
        let mut camera = Broadcaster::whip(&server, "live", "narrow", &["--id=3", "--simulcast", "--size=1280x720"]);
        camera.until("three layers to be sent", s(30), |report| {
            ["l", "m", "h"].iter().all(|layer| report.number(&format!("rtc.sent.{layer}.frames")) > 10.0)
        });
        let link = Link::to(server.rtc);
        let mut viewer = Player::whep_via(&link, &server, "live", "narrow").of_browser();
        viewer.until("the best layer's picture", s(30), |report| report.number("height") == 720.0);
        link.limit_down(Some(450_000));
        let limited = Instant::now();
        viewer.until("a smaller layer", s(20), |report| report.number("height") < 720.0);
        println!("a smaller layer after {:?}", limited.elapsed());
        let seen = viewer.measure(4.0);
        assert!(seen.number("decoded_fps") > 5.0, "{:#}", seen.0);
        assert_eq!(seen.number("backwards"), 0.0, "{:#}", seen.0);
        link.limit_down(None);
        let lifted = Instant::now();
        viewer.until("the best layer again", s(if cfg!(debug_assertions) { 20 } else { 10 }), |report| {
            report.number("height") == 720.0
        });
        println!("the best layer again after {:?}", lifted.elapsed());
        let seen = viewer.measure(3.0);
        assert!(seen.number("unreadable") <= 0.02 * seen.number("frames") + 1.0, "damaged pictures: {:#}", seen.0);
        assert_eq!(seen.number("rtc.connections"), 1.0);
    });
}
