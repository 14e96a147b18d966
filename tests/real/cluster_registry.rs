//! The database is slow, away, or out of one node's reach, and two publishers want the same name.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    Clock, Player, Publisher,
    cluster::{Cluster, Node, Plan},
    crowd::Crowd,
    flv, heavy, light,
    rtmp::{Wire, closes},
    s, until,
};

/// Half a second is the goal; this machine may be busy with other tests, and the figures are printed.
const GAP_MS_MAX: f64 = 3000.0;

#[test]
fn an_origin_cut_off_from_its_database_and_a_cluster_without_any_go_on() {
    heavy(s(180), || {
        let mut cluster = Plan { mongods: 3, ..Plan::default() }.start();
        let ffmpeg = publish(1, &cluster.origins[0].rtmp_url("live/known"));
        for edge in &cluster.edges {
            edge.until_status("known", "broadcasting");
        }
        let mut viewer = Player::whep(&cluster.edges[0], "live", "known");
        viewer.until_playing();
        viewer.settle(2.0);
        match cluster.network.can_be_cut() {
            true => one_origin_is_cut_off(&cluster, &mut viewer),
            false => println!("skipped: one origin alone without its database (wires can't be cut here)"),
        }
        nobody_has_a_database(&mut cluster, 10, 20);
        assert_eq!(viewer.measure(2.0).number("rtc.connections"), 1.0, "the same session through all of it");
        ffmpeg.stop();
        for node in cluster.nodes() {
            node.until_status("known", "finished");
        }
        until_written(&cluster, "known", "finished");
    });
}

fn publish(id: u8, url: &str) -> Publisher {
    Clock { id, seconds: 600, ..Clock::default() }.publish(url)
}

fn until_written(cluster: &Cluster, id: &str, status: &str) {
    until(&format!("the registry to have {id} as {status}"), s(30), || {
        cluster.row(id).filter(|row| row.get_str("status").is_ok_and(|told| told == status))
    });
}

/// The first of them, which has the publisher. Its edges still hear it.
fn one_origin_is_cut_off(cluster: &Cluster, viewer: &mut Player) {
    let origin = &cluster.origins[0].machine;
    cluster.mongod_machines.iter().for_each(|mongod| origin.cut(mongod));
    // Several times what makes a silent origin dead.
    let seen = viewer.measure(8.0);
    println!("origin cut off from MongoDB: longest time without a picture {} ms", seen.number("gap_ms_max"));
    assert!(seen.number("gap_ms_max") < GAP_MS_MAX, "{:#}", seen.0);
    let is_live = |node: &Node| node.broadcast("live", "known").expect("known")["status"] == "broadcasting";
    assert!(cluster.nodes().all(is_live), "somebody took it for dead");
    cluster.mongod_machines.iter().for_each(|mongod| origin.mend(mongod));
    let seen = viewer.measure(3.0);
    assert!(seen.number("gap_ms_max") < GAP_MS_MAX, "{:#}", seen.0);
    assert!(cluster.nodes().all(is_live), "it was ended when it was back");
}

/// Live goes on, what is known can be joined where nobody watched it yet, and a new name can be published.
fn nobody_has_a_database(cluster: &mut Cluster, viewers: u32, seconds: u64) {
    let whep = cluster.edges[0].url("/live/whep/known");
    let mut crowd = Crowd::watch(&whep, cluster.network.test(), viewers, seconds);
    crowd.until_measuring();
    let mongod = cluster.mongod.as_mut().expect("it was planned");
    (0..3).for_each(|member| mongod.kill(member));

    let mut late = Player::whep(&cluster.edges[1], "live", "known");
    let joined = late.until_playing();
    println!("no database: a known broadcast is joined, first picture after {} ms", joined.number("first_picture_ms"));
    late.finish();
    let _new = publish(2, &cluster.balancer.rtmp_url("live/new"));
    cluster.edges[1].until_status("new", "broadcasting");
    let mut late = Player::whep(&cluster.edges[1], "live", "new");
    late.until("the new broadcast's picture", s(20), |report| report.number("ids.2") > 15.0);
    println!("no database: a new broadcast is published");
    late.finish();

    let seen = crowd.finish();
    println!("no database for {seconds} s: {viewers} viewers' longest times without a picture {}", seen["gap_ms"]);
    assert_eq!((&seen["joined"], &seen["disconnected"]), (&viewers.into(), &0.into()), "{seen:#}");
    assert!(seen["gap_ms"]["max"].as_f64().expect("a figure") < GAP_MS_MAX, "{seen:#}");
    assert!(cluster.nodes().all(|node| node.get("/readyz").status() == 200), "nobody gives up");

    let mongod = cluster.mongod.as_mut().expect("it was planned");
    (0..3).for_each(|member| mongod.start_again(member));
    let back = Instant::now();
    for id in ["known", "new"] {
        for node in cluster.nodes() {
            node.until_status(id, "broadcasting");
        }
        until_written(cluster, id, "broadcasting");
    }
    println!("database back: all is written {:.1} s later", back.elapsed().as_secs_f64());
}

#[test]
#[ignore = "takes six minutes and a release build on a quiet machine; its figures are in bench/RESULTS.md"]
fn figures_of_five_minutes_without_any_database() {
    heavy(s(500), || {
        let mut cluster = Plan { mongods: 3, ..Plan::default() }.start();
        let _known = publish(1, &cluster.balancer.rtmp_url("live/known"));
        cluster.edges[0].until_status("known", "broadcasting");
        nobody_has_a_database(&mut cluster, 200, 300);
    });
}

/// Both ask at once, each on an origin of its own: who is still there after some seconds of media.
fn race(wires: Vec<Wire>, app: &str, id: &str) -> Vec<bool> {
    let barrier = Barrier::new(wires.len());
    let run = |mut wire: Wire| {
        barrier.wait();
        if wire.publish(app, id).is_err() {
            return false;
        }
        let tags = flv::clip().iter().filter(|tag| tag.time_ms < 4000).cloned();
        wire.play_out(tags.collect::<Vec<_>>()).end().is_ok_and(|mut wire| !closes(&mut wire.socket, s(1)))
    };
    thread::scope(|scope| {
        let racers: Vec<_> = wires.into_iter().map(|wire| scope.spawn(|| run(wire))).collect();
        racers.into_iter().map(|racer| racer.join().expect("a racer does not panic")).collect()
    })
}

fn compete(wires: Vec<Wire>, app: &str, round: u32) {
    let stay = race(wires, app, &format!("race{round}"));
    println!("two publishers at once, {app} wins, round {round}: {stay:?}");
    assert_eq!(stay.iter().filter(|stays| **stays).count(), 1, "{app}, round {round}: {stay:?}");
}

#[test]
fn of_two_publishers_at_once_on_two_origins_one_wins() {
    light(s(120), || {
        let settings = "[apps.first]\ntakeover = \"refuse\"\n[apps.last]\ntakeover = \"replace\"\n";
        let cluster = Plan { edges: 1, settings, ..Plan::default() }.start();
        let wires = || cluster.origins.iter().map(|origin| Wire::connect(origin)).collect();
        thread::scope(|scope| {
            for round in 0..4 {
                let wires = wires();
                scope.spawn(move || compete(wires, "first", round));
            }
        });
        for round in 0..5 {
            // Nodes look into the registry each second: they meet in another part of it each time, with nothing else
            // that would make one look.
            thread::sleep(Duration::from_millis(200));
            compete(wires(), "last", round);
        }
    });
}
