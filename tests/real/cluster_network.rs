//! Wires that lose everything without a word, and clocks that are wrong.

use std::time::{Instant, SystemTime};

use crate::harness::{
    Clock, Player, Site,
    cluster::{Cluster, Node, Plan},
    heavy, playlist, s, until,
};

#[test]
fn a_relay_lives_with_a_lossy_wire_and_is_begun_anew_when_it_stalls() {
    heavy(s(150), || {
        let cluster = Plan { origins: 1, edges: 1, ..Plan::default() }.start();
        let _ffmpeg = Clock { seconds: 140, ..Clock::default() }.publish(&cluster.balancer.rtmp_url("live/afar"));
        cluster.edges[0].until_status("afar", "broadcasting");
        let mut viewer = Player::whep(&cluster.edges[0], "live", "afar");
        viewer.until_playing();
        viewer.settle(2.0);
        match cluster.network.can_be_cut() {
            true => the_wire_is_lossy(&cluster, &mut viewer),
            false => println!("skipped: a lossy wire"),
        }
        nothing_comes(&cluster, &mut viewer);
        let seen = viewer.settle(3.0);
        assert_eq!(seen.number("rtc.connections"), 1.0, "{:#}", seen.0);
    });
}

/// Nothing is missing: what is lost between nodes is sent again.
fn the_wire_is_lossy(cluster: &Cluster, viewer: &mut Player) {
    const LOSS_PERCENT: u8 = 3;
    let (origin, edge) = (&cluster.origins[0].machine, &cluster.edges[0]);
    let mark = edge.log_lines();
    edge.machine.lose(origin, LOSS_PERCENT);
    let seen = viewer.settle(6.0);
    println!(
        "{LOSS_PERCENT} % lost between origin and edge, each way: {} of {} pictures missing, longest time without one {} ms, \
         delay {}",
        seen.number("missing"),
        seen.number("published"),
        seen.number("gap_ms_max"),
        seen.at("delay_ms")
    );
    assert!(seen.number("gap_ms_max") < 1500.0, "{:#}", seen.0);
    assert!(edge.log_says_after(mark, "pull lost").is_none(), "loss is no reason to begin anew");
    edge.machine.mend(origin);
    viewer.settle(2.0);
}

/// The connection stays: TCP alone would take minutes to find out.
fn nothing_comes(cluster: &Cluster, viewer: &mut Player) {
    let (origin, edge) = (&cluster.origins[0], &cluster.edges[0]);
    let can_be_cut = cluster.network.can_be_cut();
    let mark = edge.log_lines();
    let begun = Instant::now();
    match can_be_cut {
        true => edge.machine.cut(&origin.machine),
        false => {
            println!("wires can't be cut here: the origin is frozen instead");
            origin.signal("STOP");
        }
    }
    until("the edge to notice", s(8), || edge.log_says_after(mark, "pull lost"));
    let noticed = begun.elapsed();
    viewer.until("some seconds to pass", s(15), |_| begun.elapsed() > s(6));
    match can_be_cut {
        true => edge.machine.mend(&origin.machine),
        false => origin.signal("CONT"),
    }
    let back = Instant::now();
    viewer.reset();
    viewer.until("the picture", s(20), |report| report.number("frames") > 15.0);
    println!(
        "stalled relay: noticed after {noticed:.2?}, picture {:.2?} after the origin was in reach again",
        back.elapsed()
    );
    assert!(noticed < s(4), "{noticed:?}");
    assert!(back.elapsed() < s(8), "{:?}", back.elapsed());
}

/// Of the newest segment's begin, as the playlist tells it: how old it is by this machine's clock, seconds.
fn age_of_newest_segment_s(site: &Site, path: &str) -> f64 {
    let text = playlist::fetch(site, path).expect("a playlist").text;
    let told = text.lines().filter_map(|line| line.strip_prefix("#EXT-X-PROGRAM-DATE-TIME:")).next_back();
    let told: jiff::Timestamp = told.unwrap_or_else(|| panic!("no date: {text}")).parse().expect("a date");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    now.as_secs_f64() - told.as_microsecond() as f64 / 1e6
}

#[test]
fn clocks_that_are_wrong_by_seconds_break_nothing() {
    heavy(s(120), || {
        const FAST_S: i32 = 5;
        const SLOW_S: i32 = -5;
        let cluster = Plan { skews_s: [&[FAST_S, SLOW_S], &[SLOW_S, FAST_S]], ..Plan::default() }.start();
        let publish =
            |id, origin: &Node| Clock { id, seconds: 100, ..Clock::default() }.publish(&origin.rtmp_url("live/skewed"));
        let _first = publish(1, &cluster.origins[0]);
        for edge in &cluster.edges {
            edge.until_status("skewed", "broadcasting");
        }
        let [slow, fast] = [0, 1].map(|edge| &cluster.edges[edge]);
        let mut viewers = [Player::whep(slow, "live", "skewed"), Player::hls(fast, "live", "skewed")];
        for viewer in &mut viewers {
            viewer.until("the first picture", s(30), |report| report.number("ids.1") > 30.0);
        }
        viewers[0].settle(3.0);
        segments_tell_the_time(&cluster, "a fast origin");
        // To the other origin, whose clock is ten seconds behind.
        let _second = publish(2, &cluster.origins[1]);
        for viewer in &mut viewers {
            viewer.until("the second publisher's picture", s(40), |report| report.number("ids.2") > 30.0);
        }
        for viewer in &mut viewers {
            let seen = viewer.settle(3.0);
            assert!(seen.at("ids.1").is_null(), "the first publisher was replaced: {:#}", seen.0);
        }
        segments_tell_the_time(&cluster, "a slow origin");
        for node in cluster.nodes() {
            node.until_status("skewed", "broadcasting");
        }
    });
}

fn segments_tell_the_time(cluster: &Cluster, from: &str) {
    for (edge, kind) in cluster.edges.iter().zip(["slow", "fast"]) {
        let age_s = age_of_newest_segment_s(edge, "/live/streams/skewed.m3u8");
        println!("clocks wrong by 5 s: {from}'s newest segment on a {kind} edge is {age_s:.2} s old");
        assert!((-0.5..6.0).contains(&age_s), "{age_s}");
    }
}
