//! Nodes that are asked to go while they are needed.

use std::time::Instant;

use crate::harness::{Clock, Player, Site, Steadfast, cluster::Plan, crowd::Crowd, ffmpeg::decodes, heavy, s, until};

/// What a machine may add that has no time: the load generator's sessions cost more than the servers' here. The figures
/// themselves are printed.
const BUSY: f64 = 4.0;

#[test]
fn viewers_of_a_draining_edge_are_moved_without_a_gap() {
    an_edge_drains(8, |site| {
        vec![
            ("our player", 1.0, Player::page(site, "live", "exodus", "&playOrder=webrtc")),
            // It has its own way to move: stop, wait half a second, play.
            ("Ant Media's SDK", 3.0, Player::antmedia(site, "live", "exodus")),
        ]
    });
}

#[test]
#[ignore = "a debug build has no time for so many sessions: run it with --release on a quiet machine"]
fn figures_of_a_draining_edge_with_two_hundred_viewers() {
    an_edge_drains(200, |_| Vec::new());
}

/// With this many viewers, and players in browsers that may be without a picture for so many seconds.
fn an_edge_drains(viewers: u32, players: fn(&Site) -> Vec<(&'static str, f64, Player)>) {
    heavy(s(150), move || {
        let mut cluster = Plan { origins: 1, ..Plan::default() }.start();
        let _ffmpeg = Clock { seconds: 150, ..Clock::default() }.publish(&cluster.balancer.rtmp_url("live/exodus"));
        cluster.balancer.origins.until_status("exodus", "broadcasting");
        // Everybody comes to the first edge.
        cluster.edges[1].kill();
        let mut players = players(&cluster.balancer);
        let connections: Vec<_> =
            players.iter_mut().map(|(.., player)| player.until_playing().number("rtc.connections")).collect();
        let whep = cluster.balancer.url("/live/whep/exodus");
        let mut crowd = Crowd::watch(&whep, cluster.network.test(), viewers, 20);
        crowd.until_measuring();
        cluster.edges[1].start_again();
        cluster.balancer.until_edge_is_back(1);
        players.iter_mut().for_each(|(.., player)| player.reset());

        let begun = Instant::now();
        cluster.edges[0].signal("TERM");
        until("/readyz to tell it at once", s(2), || {
            cluster.edges[0].try_get("/readyz").filter(|answer| answer.status() == 503)
        });
        println!("draining edge: /readyz tells it after {:.2?}", begun.elapsed());
        for ((name, gap_s_max, player), before) in players.iter_mut().zip(connections) {
            let seen = player.until("the picture of the other edge", s(30), |report| {
                report.number("rtc.connections") > before && report.number("seconds") > 10.0
            });
            let gap_s = seen.number("gap_ms_max") / 1000.0;
            println!("draining edge: {name} is without picture for {gap_s:.2} s");
            assert!(gap_s < *gap_s_max * BUSY, "{name}: {:#}", seen.0);
        }
        let status = cluster.edges[0].wait(s(40));
        println!("draining edge: {status} after {:.1?} at most", begun.elapsed());
        assert!(status.success(), "{status}");
        let seen = crowd.finish();
        println!(
            "draining edge: of {viewers} viewers {} moved, longest time without a picture {}",
            seen["moved"], seen["gap_ms"]
        );
        assert_eq!((&seen["moved"], &seen["failed"]), (&viewers.into(), &0.into()), "{seen:#}");
        assert!(seen["gap_ms"]["max"].as_f64().expect("a figure") < 1000.0 * BUSY, "{seen:#}");
    });
}

#[test]
fn publishers_of_a_draining_origin_go_elsewhere_and_its_recordings_are_complete() {
    heavy(s(150), || {
        let settings = "[drain]\npublishers_s = 3\n[apps.live]\nrecord = true\n";
        let mut cluster = Plan { edges: 1, settings, ..Plan::default() }.start();
        let _publisher = Steadfast::publish(&cluster.balancer.rtmp_url("live/moving"));
        cluster.edges[0].until_status("moving", "broadcasting");
        let mut viewer = Player::whep(&cluster.edges[0], "live", "moving");
        viewer.until("the first picture", s(40), |report| report.number("ids.1") > 60.0);
        viewer.reset();
        let owner = cluster.owner("moving");
        cluster.origins[owner].signal("TERM");
        let seen = viewer.until("the publisher's next life", s(40), |report| report.number("ids.2") > 30.0);
        let gap_s = seen.number("gap_ms_max") / 1000.0;
        println!("draining origin: a viewer is without picture for {gap_s:.2} s");
        assert!(gap_s < 3.0 * BUSY, "{:#}", seen.0);
        assert_eq!(seen.number("rtc.connections"), 1.0, "{:#}", seen.0);
        let status = cluster.origins[owner].wait(s(30));
        assert!(status.success(), "{status}");
        assert_eq!(cluster.owner("moving"), 1 - owner);
        let vod = until("the recording to be listed elsewhere", s(20), || {
            let listed = cluster.origins[1 - owner].recorded();
            listed.into_iter().find(|vod| vod["streamId"] == "moving" && vod["processStatus"] == "ready")
        });
        let file = cluster.origins[owner].recordings().join("live").join(vod["filePath"].as_str().expect("a path"));
        decodes(&file);
    });
}
