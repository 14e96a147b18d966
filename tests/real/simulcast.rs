//! One publisher, three qualities side by side.

use crate::harness::{Broadcaster, Player, Server, heavy, s};

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
