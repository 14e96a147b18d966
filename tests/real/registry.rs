//! Two processes that share a registry in a real MongoDB.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::cluster::{self, part};
use crate::harness::{Clock, Mongod, Server, light, receiver::Receiver, s, scratch, site::send, until};

fn start(mongod: &Mongod) -> Server {
    start_with(mongod, "")
}

fn start_with(mongod: &Mongod, settings: &str) -> Server {
    Server::with(&format!("[registry]\nmongodb = \"{}\"\n{settings}", mongod.uri("")))
}

fn status(server: &Server, id: &str) -> Option<Value> {
    server.broadcast("live", id).map(|found| found["status"].clone())
}

#[test]
fn a_node_that_is_killed_is_told_of_by_the_other_one_and_its_broadcast_goes_on_there() {
    light(s(120), || {
        let mongod = Mongod::replica_set(scratch("mongod"), 1);
        let receiver = Receiver::away();
        let hook = format!("[apps.live.webhooks]\nurl = \"{}\"\n", receiver.url());
        let (mut one, other) = (start_with(&mongod, &hook), start_with(&mongod, &hook));
        let _publisher = Clock::default().publish(&one.rtmp_url("live/x"));
        one.until_status("x", "broadcasting");
        until("the other one to know", s(10), || status(&other, "x").filter(|status| status == "broadcasting"));
        one.kill();
        let killed = Instant::now();
        until("the end", s(20), || status(&other, "x").filter(|status| status == "terminated_unexpectedly"));
        let after = killed.elapsed();
        println!("told {after:?} after the kill");
        assert!(after < s(5), "told {after:?} after the kill");
        let _again = Clock::default().publish(&other.rtmp_url("live/x"));
        other.until_status("x", "broadcasting");
        // It tells what the dead one could not.
        receiver.come();
        let told = receiver.until_told("x", 3);
        let statuses: Vec<_> = told.iter().map(|told| (told.action(), &told.body["status"])).collect();
        let (started, unexpectedly) = (("liveStreamStarted", &Value::Null), Value::from("terminated_unexpectedly"));
        assert_eq!(statuses, [started, ("liveStreamEnded", &unexpectedly), started]);
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
        for server in [&one, &other] {
            let ready = server.get("/readyz");
            assert_eq!(ready.status(), 200, "it does its work");
            let text = ready.text().expect("text");
            assert!(text.contains("provisionally"), "{text}");
        }

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
fn rest_answers_at_once_while_the_registry_is_away() {
    light(s(120), || {
        let mongod = Mongod::standalone(scratch("mongod"));
        let (one, other) = (start(&mongod), start(&mongod));
        let _publisher = Clock::default().publish(&one.rtmp_url("live/x"));
        one.until_status("x", "broadcasting");
        until("the other one to see it", s(10), || status(&other, "x").filter(|status| status == "broadcasting"));
        let path = "/live/rest/v2/broadcasts";
        let take = |what: &str, request: reqwest::blocking::RequestBuilder, expected: u16| {
            let begun = Instant::now();
            let response = send(request);
            let (status, took) = (response.status(), begun.elapsed());
            let text = response.text().unwrap_or_default();
            println!("{what}: {status} after {took:?}");
            assert_eq!(status, expected, "{what}: {text}");
            assert!(took < Duration::from_millis(1_500), "{what} took {took:?}");
            assert!(expected != 503 || text.contains("registry"), "{what}: {text}");
        };
        let ask = |server: &Server, when: &str| {
            take(&format!("{when}, what lives here"), one.request("GET", &format!("{path}/x")), 200);
            take(&format!("{when}, what is not known"), server.request("GET", &format!("{path}/nobody")), 503);
            take(&format!("{when}, a list"), server.request("GET", &format!("{path}/list/0/10")), 503);
            take(&format!("{when}, recordings"), server.request("GET", "/live/rest/v2/vods/list/0/10"), 503);
            let create = server.request("POST", &format!("{path}/create")).body("{}");
            take(&format!("{when}, something new"), create, 503);
            take(&format!("{when}, a switch"), server.request("PUT", &format!("{path}/x/recording/true")), 503);
            take(&format!("{when}, a deletion"), server.request("DELETE", "/live/rest/v2/vods/7"), 503);
        };
        // It holds its connections and says nothing any more: the worst way to be away.
        mongod.signal(0, "STOP");
        ask(&other, "before it is noticed");
        until("both to notice", s(10), || {
            [&one, &other]
                .iter()
                .all(|server| server.get("/readyz").text().unwrap_or_default().contains("without"))
                .then_some(())
        });
        let begun = Instant::now();
        ask(&other, "when it is known");
        assert!(begun.elapsed() < s(2), "seven answers in {:?}", begun.elapsed());
        mongod.signal(0, "CONT");
    });
}

/// A way to a server on which it takes long to connect, and then none.
fn slow_to_open(server: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(server) else { return };
            let pass = |mut from: TcpStream, mut to: TcpStream, delay: Duration| {
                std::thread::spawn(move || {
                    let mut chunk = [0; 4096];
                    let mut is_first = true;
                    while let Ok(bytes @ 1..) = from.read(&mut chunk) {
                        if std::mem::take(&mut is_first) {
                            std::thread::sleep(delay);
                        }
                        if to.write_all(&chunk[..bytes]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            };
            let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { return };
            pass(from_client, to_server, delay);
            pass(server, client, Duration::ZERO);
        }
    });
    address
}

#[test]
fn what_it_takes_to_connect_is_no_part_of_the_time() {
    light(s(60), || {
        let mongod = Mongod::standalone(scratch("mongod"));
        let database: SocketAddr =
            mongod.uri("").trim_start_matches("mongodb://").trim_end_matches('/').parse().expect("host:port");
        let front = slow_to_open(database, Duration::from_millis(400));
        let server = Server::with(&format!("[registry]\nmongodb = \"mongodb://{front}/\"\n"));
        // The same machine's clock.
        let offset = until("the clock to be read", s(10), || {
            let log = server.log();
            let line = log.lines().find(|line| line.contains("clock is taken over"))?;
            let value = line.split("offset_ms=").nth(1)?.split_whitespace().next()?;
            Some(value.parse::<f64>().expect("a number"))
        });
        println!("off by {offset} ms");
        assert!(offset.abs() < 50.0, "off by {offset} ms");
    });
}

#[test]
fn a_wrong_password_ends_the_start_and_a_database_that_is_not_there_does_not() {
    light(s(90), || {
        let mongod = Mongod::guarded(scratch("mongod"), "operator", "right-one");
        let host = mongod.uri("").trim_start_matches("mongodb://").trim_end_matches('/').to_owned();
        let settings = |password: &str, host: &str| {
            format!("[registry]\nmongodb = \"mongodb://operator:{password}@{host}/?authSource=admin\"\n")
        };
        let mut refused = Server::lonely(&settings("wrong-one", &host));
        let status = refused.wait(s(20));
        let log = refused.log();
        assert!(!status.success(), "{log}");
        assert!(log.contains("neither user name nor password") && log.contains(&host), "{log}");
        assert!(!log.contains("wrong-one"), "{log}");

        let let_in = Server::with(&settings("right-one", &host));
        assert_eq!(let_in.get("/readyz").text().expect("text"), "ready\n");

        // Nobody listens at port 9.
        let without = Server::with(&settings("right-one", "127.0.0.1:9"));
        let ready = without.get("/readyz").text().expect("text");
        assert!(ready.starts_with("ready, without the registry"), "{ready}");
        let log = without.log();
        assert!(log.contains("started without the registry") && !log.contains("right-one"), "{log}");
        let _publisher = Clock::default().publish(&without.rtmp_url("live/x"));
        without.until_status("x", "broadcasting");
    });
}

#[test]
fn of_two_processes_with_one_data_directory_the_older_one_goes() {
    light(s(90), || {
        let mongod = Mongod::standalone(scratch("mongod"));
        let mut one = start(&mongod);
        let mut publisher = Clock::default().publish(&one.rtmp_url("live/x"));
        one.until_status("x", "broadcasting");
        let copy = Server::with_data_of(&one, &format!("[registry]\nmongodb = \"{}\"\n", mongod.uri("")));
        let begun = Instant::now();
        let status = one.wait(s(30));
        println!("gone {:?} after the copy's start", begun.elapsed());
        let log = one.log();
        assert!(!status.success(), "{log}");
        assert!(log.contains("can't share one data directory"), "{log}");
        publisher.wait(s(10));
        // The one that stays does its work.
        let _again = Clock::default().publish(&copy.rtmp_url("live/x"));
        copy.until_status("x", "broadcasting");
        assert_eq!(copy.get("/readyz").status(), 200);
    });
}

#[test]
fn a_node_that_died_is_shown_and_removed_everywhere_by_who_never_heard_it_too() {
    light(s(120), || {
        let mongod = Mongod::standalone(scratch("mongod"));
        let trust = cluster::secret();
        let mut lost = part("origin", &trust, &[], &mongod);
        let first = part("origin", &trust, &[], &mongod);
        let id = until("a list of two", s(10), || {
            let nodes = first.json("/rest/v2/cluster/nodes/0/50");
            let found = nodes.as_array()?.iter().find(|node| node["grpc"] == lost.grpc().to_string())?.clone();
            let is_whole =
                found["memory"].as_str()?.parse::<u32>().ok()? > 0 && found["dbQueryAveargeTimeMs"].as_u64()? > 0;
            (found["phase"] == "ready" && is_whole).then(|| found["id"].as_str().expect("an id").to_owned())
        });
        let path = format!("/rest/v2/cluster/node/{id}");
        assert_eq!(send(first.request("DELETE", &path)).status(), 409, "it lives");
        lost.kill();
        // These come when it is dead already.
        let second = part("origin", &trust, &[&first], &mongod);
        let edge = part("edge", &trust, &[&second], &mongod);
        for server in [&first, &second, &edge] {
            until("it to be shown as dead", s(15), || {
                let nodes = server.json("/rest/v2/cluster/nodes/0/50");
                let found = nodes.as_array()?.iter().find(|node| node["id"] == id.as_str())?.clone();
                (found["status"] == "dead").then_some(())
            });
        }
        // Who has just heard of it by others may think for a moment that it lives.
        until("it to be removed", s(15), || (send(edge.request("DELETE", &path)).status() == 200).then_some(()));
        for server in [&first, &second, &edge] {
            until("it to be gone from the list", s(10), || {
                let nodes = server.json("/rest/v2/cluster/nodes/0/50");
                nodes.as_array()?.iter().all(|node| node["id"] != id.as_str()).then_some(())
            });
        }
        assert_eq!(send(edge.request("DELETE", &path)).status(), 404);
        // Its row has gone as well: who comes now does not hear of it.
        let third = part("origin", &trust, &[&first], &mongod);
        until("the others to be listed", s(10), || {
            (third.json("/rest/v2/cluster/node-count")["number"] == 4).then_some(())
        });
        assert!(
            third
                .json("/rest/v2/cluster/nodes/0/50")
                .as_array()
                .expect("a list")
                .iter()
                .all(|node| node["id"] != id.as_str())
        );
    });
}

#[test]
fn origins_with_registries_of_their_own_are_no_cluster() {
    light(s(60), || {
        let trust = cluster::secret();
        let one = Server::part("origin", &cluster::settings(&trust, &[]));
        let other = Server::part("origin", &cluster::settings(&trust, &[&one]));
        for server in [&one, &other] {
            until("a word of it", s(15), || {
                let log = server.log();
                let line = log.lines().find(|line| line.contains("have different registries"))?;
                assert!(line.contains("ERROR") && line.contains("registry.mongodb"), "{line}");
                Some(())
            });
        }
        let _publisher = Clock::default().publish(&other.rtmp_url("live/x"));
        other.until_status("x", "broadcasting");
        assert_eq!(one.json("/rest/v2/live"), serde_json::json!([]));
        assert_eq!(one.json("/rest/v2/cluster/node-count")["number"], 1);
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
