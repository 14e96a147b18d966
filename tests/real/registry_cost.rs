//! What a node asks of a registry that it shares, as the registry counts it.

use std::{fmt::Write as _, thread, time::Duration};

use crate::harness::{Clock, Mongod, Server, heavy, receiver::Receiver, s, scratch, until};

const KINDS: [&str; 6] = ["query", "insert", "update", "delete", "getmore", "command"];
const BROADCASTS: usize = 100;

/// `serverStatus().opcounters`, of which the server itself and whoever asks for them have a part.
fn operations(mongod: &Mongod) -> [i64; 6] {
    let status = mongod.command(0, mongodb::bson::doc! { "serverStatus": 1 });
    let counters = status.get_document("opcounters").expect("counters");
    KINDS.map(|kind| counters.get_i64(kind).or_else(|_| counters.get_i32(kind).map(i64::from)).expect("a number"))
}

/// Prints operations a second, and returns all of them together.
fn measure(what: &str, mongod: &Mongod, time: Duration) -> f64 {
    let before = operations(mongod);
    thread::sleep(time);
    let after = operations(mongod);
    let mut line = String::new();
    let mut together = 0.0;
    for (n, kind) in KINDS.iter().enumerate() {
        let each = (after[n] - before[n]) as f64 / time.as_secs_f64();
        together += each;
        write!(line, "{kind} {each:.2}, ").expect("text");
    }
    println!("{what}, {} s: {line}together {together:.2} a second", time.as_secs());
    together
}

#[test]
#[ignore = "takes six minutes; its figures are in bench/RESULTS.md"]
fn figures_of_what_a_shared_registry_is_asked() {
    heavy(s(600), || {
        let mongod = Mongod::replica_set(scratch("mongod"), 1);
        let alone = measure("the server alone", &mongod, s(20));
        let receiver = Receiver::start();
        let settings = format!(
            "[registry]\nmongodb = \"{}\"\n[apps.live.webhooks]\nurl = \"{}\"\n",
            mongod.uri(""),
            receiver.url()
        );
        let server = Server::with(&settings);
        measure("nothing published", &mongod, s(40));
        // One FFmpeg connects to one after the other, and the first would be taken for silent before it has all of a hundred.
        let urls: Vec<_> = (0..BROADCASTS).map(|n| server.rtmp_url(&format!("live/b{n}"))).collect();
        let clock = || Clock { video: false, seconds: 400, ..Clock::default() };
        let _publishers: Vec<_> = urls.chunks(10).map(|urls| clock().publish_to_all(urls)).collect();
        until("all to be told of", s(120), || {
            let started = receiver.told().into_iter().filter(|told| told.action() == "liveStreamStarted");
            (started.count() >= BROADCASTS).then_some(())
        });
        // Twice as long as it is between two reports of a broadcast.
        let together = measure("100 broadcasts and a webhook, after all had come and were told of", &mongod, s(240));
        let is_live =
            |n| server.broadcast("live", &format!("b{n}")).is_some_and(|known| known["status"] == "broadcasting");
        assert!((0..BROADCASTS).all(is_live), "all have gone on");
        assert!(together - alone < 4.0, "{together} a second, {alone} of them without the node");
    });
}
