//! Nodes that die without a word, with publishers and viewers that come back as theirs do.

use std::time::Instant;

use crate::harness::{Clock, Player, Steadfast, cluster::Plan, heavy, light, playlist, s, until};

#[test]
fn viewers_stay_when_the_origin_is_killed_and_the_publisher_comes_back_to_another() {
    heavy(s(150), || {
        let mut cluster = Plan::default().start();
        let publisher = Steadfast::publish(&cluster.balancer.rtmp_url("live/phoenix"));
        cluster.edges[0].until_status("phoenix", "broadcasting");
        let mut viewer = Player::whep(&cluster.edges[0], "live", "phoenix");
        viewer.until("the first picture", s(40), |report| report.number("ids.1") > 30.0);
        let path = "/live/streams/phoenix.m3u8";
        let before = until("a playlist", s(20), || {
            playlist::fetch(&cluster.edges[1], path).filter(|playlist| playlist.segments.len() > 2)
        });
        viewer.reset();
        let owner = cluster.owner("phoenix");
        cluster.origins[owner].kill();
        let killed = Instant::now();
        let other = 1 - owner;
        let survivors = || [&cluster.origins[other], &cluster.edges[0], &cluster.edges[1]];
        let address = cluster.origins[other].machine.address.to_string();
        for node in survivors() {
            until("the broadcast to have moved, as every node tells", s(15), || {
                let broadcast = node.broadcast("live", "phoenix")?;
                let moved = broadcast["originAdress"].as_str()?.contains(&address);
                (moved && broadcast["status"] == "broadcasting").then_some(())
            });
        }
        let told_s = killed.elapsed().as_secs_f64();
        let back = viewer.until("the picture of the second life", s(30), |report| report.number("ids.2") > 0.0);
        let returned_s = (publisher.begun()[1] - killed).as_secs_f64();
        let gap_s = back.number("gap_ms_max") / 1000.0;
        println!(
            "killed origin: publisher returns after {returned_s:.2} s, status is right everywhere after {told_s:.2} s, \
             a WebRTC viewer is without picture for {gap_s:.2} s"
        );
        assert!(told_s < 5.0, "{told_s}");
        assert!(gap_s - returned_s < 3.0, "{gap_s}");
        assert_eq!(back.number("rtc.connections"), 1.0, "the same connection: {:#}", back.0);
        viewer.settle(3.0).assert_sound();

        let after = until("the playlist to go on", s(20), || {
            let after = playlist::fetch(&cluster.edges[1], path)?;
            (after.newest_discontinuity() > before.newest_discontinuity() && after.segments.len() > 2).then_some(after)
        });
        assert!(after.next_sequence() > before.next_sequence() && !after.ended, "{}\n{}", before.text, after.text);
        println!("playlist: {} segments, then {}", before.next_sequence(), after.next_sequence());
    });
}

#[test]
fn a_broadcast_whose_origin_is_killed_is_terminated_once_and_everybody_knows() {
    light(s(90), || {
        let mut cluster = Plan { origins: 3, edges: 1, mongods: 3, ..Plan::default() }.start();
        let _ffmpeg = Clock::default().publish(&cluster.origins[0].rtmp_url("live/orphan"));
        for node in cluster.nodes() {
            node.until_status("orphan", "broadcasting");
        }
        cluster.origins[0].kill();
        let survivors = cluster.origins[1..].iter().chain(&cluster.edges);
        let told = cluster.until_status(survivors, "orphan", "terminated_unexpectedly");
        println!(
            "killed origin without a publisher that returns: told by every node after {:.2} s",
            told.as_secs_f64()
        );
        assert!(told < s(5), "{told:?}");
        for node in cluster.origins[1..].iter().chain(&cluster.edges) {
            until("the dead origin to be listed as such", s(10), || {
                node.listed().into_iter().find(|row| row["status"] == "dead").map(drop)
            });
        }
        until("the registry to know", s(10), || {
            let row = cluster.row("orphan")?;
            row.get_str("status").is_ok_and(|status| status == "terminated_unexpectedly").then_some(())
        });
        let ended = || {
            let logs = cluster.origins[1..].iter().map(|origin| origin.log());
            logs.map(|log| log.matches("ended: its node is dead broadcast=live/orphan").count()).sum::<usize>()
        };
        until("an origin to say that it ended it", s(5), || (ended() > 0).then_some(()));
        assert_eq!(ended(), 1, "once, by one origin");
    });
}

#[test]
fn viewers_of_a_killed_edge_come_back_by_themselves() {
    heavy(s(150), || {
        let mut cluster = Plan { origins: 1, ..Plan::default() }.start();
        let _ffmpeg = Clock { seconds: 150, ..Clock::default() }.publish(&cluster.balancer.rtmp_url("live/nomads"));
        cluster.balancer.origins.until_status("nomads", "broadcasting");
        // Everybody comes to the first edge.
        cluster.edges[1].kill();
        let mut viewers = [
            ("our player", Player::page(&cluster.balancer, "live", "nomads", "&playOrder=webrtc")),
            ("Ant Media's SDK", Player::antmedia(&cluster.balancer, "live", "nomads")),
        ];
        let connections = viewers.each_mut().map(|(_, viewer)| viewer.until_playing().number("rtc.connections"));
        cluster.edges[1].start_again();
        cluster.balancer.until_edge_is_back(1);
        for (_, viewer) in &mut viewers {
            viewer.settle(2.0);
            viewer.reset();
        }
        cluster.edges[0].kill();
        for ((name, viewer), before) in viewers.iter_mut().zip(connections) {
            let moved = viewer.until("a new connection", s(40), |report| report.number("rtc.connections") > before);
            let seen = viewer.until("the picture of the other edge", s(20), |report| {
                report.number("frames") > moved.number("frames") + 15.0
            });
            let gap_ms = seen.number("gap_ms_max");
            println!("killed edge: {name} is without picture for {gap_ms} ms");
            assert!(gap_ms > 100.0 && gap_ms < 15_000.0, "{:#}", seen.0);
        }
    });
}
