//! Two processes that share a registry in a real MongoDB.

use serde_json::Value;

use crate::harness::{Clock, Mongod, Server, light, s, scratch, until};

fn start(mongod: &Mongod) -> Server {
    Server::with(&format!("[registry]\nmongodb = \"{}\"\n", mongod.uri("")))
}

fn status(server: &Server, id: &str) -> Option<Value> {
    server.broadcast("live", id).map(|found| found["status"].clone())
}

#[test]
fn a_node_that_is_killed_is_told_of_by_the_other_one_and_its_broadcast_goes_on_there() {
    light(s(120), || {
        let mongod = Mongod::replica_set(scratch("mongod"), 1);
        let (mut one, other) = (start(&mongod), start(&mongod));
        let _publisher = Clock::default().publish(&one.rtmp_url("live/x"));
        one.until_status("x", "broadcasting");
        until("the other one to know", s(10), || status(&other, "x").filter(|status| status == "broadcasting"));
        one.kill();
        let killed = std::time::Instant::now();
        until("the end", s(20), || status(&other, "x").filter(|status| status == "terminated_unexpectedly"));
        let after = killed.elapsed();
        println!("told {after:?} after the kill");
        assert!(after < s(5), "told {after:?} after the kill");
        let _again = Clock::default().publish(&other.rtmp_url("live/x"));
        other.until_status("x", "broadcasting");
    });
}

#[test]
fn a_registry_that_is_away_stops_nobody_and_is_told_afterwards() {
    light(s(150), || {
        let mut mongod = Mongod::replica_set(scratch("mongod"), 1);
        let (one, other) = (start(&mongod), start(&mongod));
        let lasting = Clock::default().publish(&one.rtmp_url("live/lasting"));
        let brief = Clock::default().publish(&one.rtmp_url("live/brief"));
        one.until_status("lasting", "broadcasting");
        one.until_status("brief", "broadcasting");
        mongod.kill(0);
        let mark = one.log_lines();
        let fresh = Clock::default().publish(&one.rtmp_url("live/fresh"));
        one.until_playable("fresh");
        brief.stop();
        until("lasting goes on", s(10), || status(&one, "lasting").filter(|status| status == "broadcasting"));
        assert_eq!(other.get("/live/rest/v2/broadcasts/lasting").status(), 503, "it is not known there");

        mongod.start_again(0);
        mongod.primary();
        until("the provisional claim", s(20), || status(&other, "fresh").filter(|status| status == "broadcasting"));
        until("the end", s(20), || status(&other, "brief").filter(|status| status == "finished"));
        assert_eq!(status(&other, "lasting").unwrap(), "broadcasting");
        let said = one.log().lines().skip(mark).map(str::to_owned).collect::<Vec<_>>().join("\n");
        assert!(said.contains("let in provisionally") && said.contains("claim renewed"), "{said}");
        for publisher in [lasting, fresh] {
            publisher.stop();
        }
        until("the last end", s(20), || status(&other, "fresh").filter(|status| status == "finished"));
    });
}

#[test]
fn a_newer_publisher_on_the_other_node_takes_over_and_the_old_one_is_turned_away() {
    light(s(120), || {
        let mongod = Mongod::standalone(scratch("mongod"));
        let (one, other) = (start(&mongod), start(&mongod));
        let mut old = Clock::default().publish(&one.rtmp_url("live/x"));
        one.until_status("x", "broadcasting");
        let _new = Clock::default().publish(&other.rtmp_url("live/x"));
        other.until_status("x", "broadcasting");
        old.wait(s(20));
        until("one process to be the owner", s(10), || one.log().contains("taken over by").then_some(()));
        assert!(!other.log().contains("taken over by"), "{}", other.log());
        assert_eq!(status(&other, "x").unwrap(), "broadcasting");
    });
}
