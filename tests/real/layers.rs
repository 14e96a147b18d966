//! Chromium sends three layers, another one watches through a link that becomes narrow and wide again.

use std::time::Instant;

use crate::harness::{Broadcaster, Link, Player, Server, heavy, s};

/// Carries the smallest layer (150 kbit/s) with the sound, not the next (500 kbit/s).
const NARROW: u64 = 260_000;
const WIDE: u64 = 20_000_000;

#[test]
fn a_viewer_gets_the_layer_that_its_link_carries_and_climbs_back() {
    heavy(s(180), || {
        let server = Server::start();
        let mut camera = Broadcaster::whip(&server, "live", "layers", &["--id=3", "--simulcast", "--size=1280x720"]);
        camera.until_connected();
        camera.until("three layers to be sent", s(30), |report| {
            ["l", "m", "h"].iter().all(|layer| report.number(&format!("rtc.sent.{layer}.frames")) > 10.0)
        });
        let link = Link::to(server.rtc);
        link.limit_down(Some(WIDE));
        let mut viewer = Player::whep_via(&link, &server, "live", "layers").of_browser();
        viewer.until("the best layer", s(20), |report| report.number("height") == 720.0);
        for _ in 0..2 {
            viewer.settle(2.0);
            link.limit_down(Some(NARROW));
            let limited = Instant::now();
            viewer.until("a smaller layer", s(5), |report| report.number("height") < 720.0);
            let down = limited.elapsed();
            let fallen = viewer.until("the smallest layer", s(10), |report| report.number("height") == 180.0);
            let narrow = viewer.measure(8.0);
            link.limit_down(Some(WIDE));
            let lifted = Instant::now();
            let climbed = viewer.until("the best layer again", s(10), |report| report.number("height") == 720.0);
            println!("down after {down:?}, up after {:?}", lifted.elapsed());
            for seen in [&fallen, &narrow, &climbed] {
                println!(
                    "gap {}, delay {}, freezes {}",
                    seen.at("gap_ms_max"),
                    seen.at("delay_ms"),
                    seen.at("rtc.video.freezes")
                );
                assert_eq!(seen.number("backwards"), 0.0, "{:#}", seen.0);
            }
            // Until it is noticed, two of three packets are lost.
            assert!(fallen.number("gap_ms_max") < 2_000.0, "{:#}", fallen.0);
            assert!(narrow.number("gap_ms_max") < 500.0, "{:#}", narrow.0);
            assert!(climbed.number("gap_ms_max") < 500.0, "{:#}", climbed.0);
            assert!(narrow.number("decoded_fps") > 20.0, "{:#}", narrow.0);
        }
    });
}
