//! A node that fills up, drains, or leaves.

use std::time::Instant;

use reqwest::blocking::Response;
use serde_json::Value;

use crate::cluster;
use crate::harness::{
    Balancer, Broadcaster, Clock, Mongod, Player, Report, SOUND_OFFER, Server, flv, heavy, light, paired, rtmp::Wire,
    s, scratch, site::send, until,
};

fn ready(server: &Server) -> (u16, String) {
    let response = server.get("/readyz");
    (response.status().as_u16(), response.text().unwrap_or_default())
}

fn post(server: &Server, path: &str) -> (u16, Value) {
    let response = send(server.request("POST", path));
    (response.status().as_u16(), response.json().expect("JSON"))
}

/// A node that is not alone in the world.
fn one_of_a_cluster(settings: &str) -> Server {
    Server::part("origin", &format!("{}{settings}", cluster::settings(&cluster::secret(), &[])))
}

/// Encoders whose media don't matter.
fn publisher(server: &Server, key: &str, caps_ex: f64) -> Wire {
    let mut wire = Wire::connect(server);
    wire.publish_enhanced("live", key, caps_ex).expect("published");
    for tag in flv::clip().iter().take(20) {
        wire.tag(tag).expect("sent");
    }
    wire
}

#[test]
fn a_node_with_nobody_leaves_at_once() {
    light(s(30), || {
        let mut server = Server::start();
        let begun = Instant::now();
        assert!(server.terminate(s(10)).success());
        assert!(begun.elapsed() < s(3), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_publisher_that_could_only_come_back_holds_up_no_lone_node_and_its_recording_is_whole() {
    light(s(60), || {
        let mut server = Server::with("[apps.live]\nrecord = true\n");
        let mut wire = publisher(&server, "stays", 1.0);
        server.until_status("stays", "broadcasting");
        until("a recording", s(10), || (server.metric("headwater_recordings", "") > 0.0).then_some(()));
        // A drain that an operator asked for waits, and the end does not.
        assert_eq!(post(&server, "/rest/v2/drain").0, 202);
        let asked = wire.until_says(&["onStatus"]).expect("a word");
        assert!(asked.says("ReconnectRequest"), "{}", asked.readable());
        let begun = Instant::now();
        assert!(server.terminate(s(20)).success());
        println!("from SIGTERM to the end: {:?}", begun.elapsed());
        assert!(begun.elapsed() < s(10), "{:?}", begun.elapsed());
        let log = server.log();
        assert!(log.contains("there is no other node that they could go to"), "{log}");
        server.start_again();
        assert_eq!(server.recorded()[0]["processStatus"], "ready");
        assert_eq!(server.broadcast("live", "stays").expect("known")["status"], "finished");
    });
}

#[test]
fn a_drain_is_told_at_once_and_can_be_taken_back() {
    light(s(60), || {
        let server = Server::with("[drain]\npublishers_s = 60\n");
        let mut wire = publisher(&server, "stays", 0.0);
        assert_eq!(
            send(server.request("POST", "/rest/v2/drain").header("x-forwarded-for", "198.51.100.9")).status(),
            403
        );
        assert_eq!(ready(&server), (200, "ready\n".to_owned()));

        let (status, answer) = post(&server, "/rest/v2/drain");
        assert_eq!((status, &answer["success"]), (202, &Value::Bool(true)), "{answer}");
        assert_eq!(ready(&server), (503, "draining\n".to_owned()));
        assert_eq!(server.get("/livez").status(), 200);
        assert_eq!(server.metric("headwater_phase", "draining"), 1.0);
        assert_eq!(server.get("/live/rest/v2/version").headers()["connection"], "close");
        let refused = Wire::connect(&server).publish("live", "other").expect_err("nothing new");
        assert!(refused.contains("NetStream.Publish.Denied") && refused.contains("drained"), "{refused}");
        for (path, body) in [("/live/whep/stays", "v=0"), ("/live/whip/other", "v=0")] {
            let offer = server.request("POST", path).header("content-type", "application/sdp").body(body);
            let refused = send(offer);
            assert_eq!(
                (refused.status().as_u16(), &refused.headers()["retry-after"]),
                (503, &"2".parse().unwrap()),
                "{path}"
            );
        }
        let playlist = server.get("/live/streams/stays.m3u8");
        assert_eq!(playlist.status(), 503, "a new player");

        assert_eq!(post(&server, "/rest/v2/undrain").0, 200);
        assert_eq!(ready(&server), (200, "ready\n".to_owned()));
        wire.tag(&flv::clip()[20]).expect("its publisher is still there");
        assert_eq!(server.broadcast("live", "stays").expect("live")["status"], "broadcasting");
        Wire::connect(&server).publish("live", "other").expect("new work is taken");
    });
}

#[test]
fn publishers_that_know_how_to_are_asked_to_connect_anew_and_then_the_node_leaves() {
    light(s(60), || {
        let mut server = one_of_a_cluster("");
        let mut wire = publisher(&server, "moves", 1.0);
        server.until_status("moves", "broadcasting");
        let begun = Instant::now();
        server.signal("TERM");
        let asked = wire.until_says(&["onStatus"]).expect("a word");
        assert!(asked.says("NetConnection.Connect.ReconnectRequest"), "{}", asked.readable());
        wire.tag(&flv::clip()[20]).expect("it may go on until it has connected elsewhere");
        assert_eq!(ready(&server).1, "draining\n");
        assert_eq!(post(&server, "/rest/v2/undrain").0, 409, "the process is going to end");
        drop(wire);
        assert!(server.wait(s(10)).success());
        println!("from SIGTERM to the end: {:?}", begun.elapsed());
    });
}

#[test]
fn publishers_that_stay_are_ended_at_the_deadline_and_their_recording_is_whole() {
    light(s(60), || {
        let mut server = one_of_a_cluster("[drain]\npublishers_s = 2\n");
        let mut wire = publisher(&server, "stays", 0.0);
        server.until_status("stays", "broadcasting");
        until("a recording", s(10), || (server.metric("headwater_recordings", "") > 0.0).then_some(()));
        let begun = Instant::now();
        server.signal("TERM");
        let ended = wire.until_says(&["onStatus"]).expect("a word");
        assert!(ended.says("NetConnection.Connect.Rejected"), "{}", ended.readable());
        assert!(begun.elapsed() >= s(2), "ended after {:?}", begun.elapsed());
        assert!(server.wait(s(10)).success());
        server.start_again();
        assert_eq!(server.recorded()[0]["processStatus"], "ready");
        assert_eq!(server.broadcast("live", "stays").expect("known")["status"], "finished");
    });
}

#[test]
fn a_second_signal_waits_for_nobody() {
    light(s(60), || {
        let mut server = one_of_a_cluster("");
        let _wire = publisher(&server, "stays", 0.0);
        server.until_status("stays", "broadcasting");
        server.signal("TERM");
        until("the drain", s(5), || (ready(&server).1 == "draining\n").then_some(()));
        let begun = Instant::now();
        assert!(server.terminate(s(10)).success());
        assert!(begun.elapsed() < s(5), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_full_node_says_so_to_load_balancers_and_viewers() {
    paired(s(90), || {
        let server = Server::with("[limits]\nsessions = 1\n");
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/full"));
        server.until_playable("full");
        let mut viewer = Player::whep(&server, "live", "full");
        viewer.until_playing();
        until("a full node", s(5), || (ready(&server) == (503, "full\n".to_owned())).then_some(()));
        assert_eq!(server.metric("headwater_used_percent", ""), 100.0);
        let mut other = Player::antmedia(&server, "live", "full");
        let told = other.until("a word of it", s(20), |report| report.count("antmedia.events", "server_will_stop") > 0);
        assert!(told.at("antmedia.errors").to_string().contains("highResourceUsage"), "{:#}", told.0);
        viewer.finish();
        until("room", s(5), || (ready(&server).0 == 200).then_some(()));
        other.until("the SDK to have tried again", s(30), |report| report.number("frames") > 15.0);
    });
}

#[test]
fn a_client_is_told_where_to_go_and_the_sdk_goes_there() {
    paired(s(90), || {
        let server = Server::start();
        let path = |role: &str| format!("/live/rest/v2/placement?streamId=placed&role={role}");
        let placed = server.json(&path("publish"));
        assert_eq!(placed["websocket_url"], server.websocket_url("live"), "{placed}");
        assert_eq!((&placed["fqdn"], &placed["node"]), (&Value::from("127.0.0.1"), &Value::Null), "{placed}");
        assert!(placed["reason"].as_str().is_some_and(|reason| reason.contains("only one")), "{placed}");
        assert_eq!(server.get("/nowhere/rest/v2/placement?streamId=x").status(), 404);
        assert_eq!(server.get("/live/rest/v2/placement").status(), 400, "for what?");

        let mut camera = Broadcaster::antmedia_at(&server.url(&path("publish")), "placed", &["--id=4"]);
        camera.until("publish_started", s(20), |report| report.count("antmedia.events", "publish_started") > 0);
        let mut viewer = Player::antmedia_at(&server.url(&path("play")), "placed").of_browser();
        viewer.until("the camera's picture", s(30), |report| report.number("ids.4") > 30.0);

        post(&server, "/rest/v2/drain");
        let refused = server.get(&path("play"));
        assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"2".parse().unwrap()));
    });
}

#[test]
fn a_session_is_ended_through_any_node_and_clients_are_placed_on_every_one() {
    light(s(60), || {
        let (trust, mongod) = (cluster::secret(), Mongod::standalone(scratch("mongod")));
        let first = cluster::part("origin", &trust, &[], &mongod);
        let second = cluster::part("origin", &trust, &[&first], &mongod);
        let edge = cluster::part("edge", &trust, &[&first], &mongod);
        let all = [&first, &second, &edge];
        let ready = |node: &&Server| {
            let nodes = node.json("/rest/v2/cluster/nodes/0/50");
            nodes.as_array().expect("a list").iter().filter(|node| node["phase"] == "ready").count() == 3
        };
        until("all to know that all are ready", s(10), || all.iter().all(ready).then_some(()));

        let offer = first.request("POST", "/live/whip/x").header("content-type", "application/sdp").body(SOUND_OFFER);
        let created = send(offer);
        assert_eq!(created.status(), 201);
        let location = created.headers()["location"].to_str().expect("text").to_owned();
        let delete = |node: &Server, path: &str| send(node.request("DELETE", path)).status().as_u16();
        let (path, secret) = location.rsplit_once('.').expect("a node's name and a secret");
        assert_eq!(delete(&second, &format!("{path}.1{secret}")), 404);
        assert_eq!(delete(&second, &format!("/live/whip/x/nobody-000000.{secret}")), 404);
        assert_eq!(delete(&second, &location), 200);
        assert_eq!(delete(&first, &location), 404);

        let placed = |node: &Server, role: &str| node.json(&format!("/live/rest/v2/placement?streamId=y&role={role}"));
        for node in all {
            let play = placed(node, "play");
            assert_eq!(play["http_url"], edge.url("/livez"), "{play}");
            assert!(play["node"].is_string() && play["reason"].is_string(), "{play}");
        }
        let _wire = publisher(&second, "y", 0.0);
        for node in all {
            until("it to be known where it is", s(5), || {
                let publish = placed(node, "publish");
                (publish["websocket_url"] == second.websocket_url("live")
                    && publish["reason"] == "the broadcast is there")
                    .then_some(())
            });
        }
        // Where it is drained, it goes to the other one.
        post(&second, "/rest/v2/drain");
        for node in all {
            until("the other origin to be named", s(5), || {
                (placed(node, "publish")["websocket_url"] == first.websocket_url("live")).then_some(())
            });
        }
    });
}

/// Two nodes behind HAProxy, with the same stream, and the one that a viewer is on.
struct Pair {
    nodes: [Server; 2],
    balancer: Balancer,
    _ffmpeg: crate::harness::Publisher,
}

impl Pair {
    fn start() -> Self {
        let nodes = [0, 1].map(|_| Server::with("[drain]\nviewers_s = 8\npublishers_s = 0\n"));
        let urls = nodes.each_ref().map(|node| node.rtmp_url("live/pair"));
        let ffmpeg = Clock { seconds: 120, ..Clock::default() }.publish_to_all(&urls);
        nodes.iter().for_each(|node| node.until_playable("pair"));
        let balancer = Balancer::http(&nodes.each_ref());
        Self { nodes, balancer, _ffmpeg: ffmpeg }
    }

    fn viewers(&self, node: usize) -> u64 {
        // A node that has left has none.
        let answer = self.nodes[node].request("GET", "/live/rest/v2/broadcasts/pair").send();
        let broadcast: Value = answer.and_then(Response::json).unwrap_or_default();
        broadcast["webRTCViewerCount"].as_u64().unwrap_or(0)
    }

    fn of_viewer(&self) -> usize {
        (0..2).find(|node| self.viewers(*node) > 0).expect("a node with the viewer")
    }
}

fn show(what: &str, seen: &Report) {
    println!(
        "{what}: longest time without a new picture {} ms, {} pictures, unreadable {}, backwards {}, delay {}",
        seen.number("gap_ms_max"),
        seen.number("frames"),
        seen.number("unreadable"),
        seen.number("backwards"),
        seen.at("delay_ms")
    );
}

#[test]
fn our_player_moves_to_another_node_without_a_gap() {
    heavy(s(120), || {
        let mut pair = Pair::start();
        let mut viewer = Player::page_at(&pair.balancer.url("/live/play.html?id=pair&playOrder=webrtc"));
        viewer.until_playing();
        let steady = viewer.settle(4.0);
        show("before", &steady);
        let old = pair.of_viewer();
        viewer.reset();
        pair.nodes[old].signal("TERM");
        let begun = Instant::now();
        until("the viewer on the other node", s(8), || (pair.viewers(1 - old) == 1).then_some(()));
        until("the old one without it", s(5), || {
            let gone = !pair.nodes[old].runs() || pair.viewers(old) == 0;
            gone.then_some(())
        });
        println!("moved after {:?}", begun.elapsed());
        assert!(pair.nodes[old].wait(s(10)).success());
        let seen = viewer.until("some more", s(20), |report| report.number("seconds") > 8.0);
        show("while it moved", &seen);
        assert_eq!(seen.text("page.state"), "playing", "{:#}", seen.0);
        assert!(seen.number("gap_ms_max") < 500.0, "a gap: {:#}", seen.0);
        assert!(seen.number("unreadable") <= 1.0, "a broken picture: {:#}", seen.0);
        // HAProxy may have given it the old node once more, which refused.
        assert!((2.0..=4.0).contains(&seen.number("rtc.connections")), "{:#}", seen.0);
    });
}

#[test]
fn players_with_the_sdk_are_sent_to_another_node() {
    heavy(s(120), || {
        let mut pair = Pair::start();
        let url = format!("ws://{}/live/websocket", pair.balancer.http);
        let mut viewer = Player::antmedia_at(&url, "pair");
        viewer.until_playing();
        let old = pair.of_viewer();
        viewer.reset();
        pair.nodes[old].signal("TERM");
        assert!(pair.nodes[old].wait(s(12)).success());
        let seen = viewer.until("the picture again", s(20), |report| {
            report.number("rtc.connections") == 2.0 && report.number("seconds") > 8.0
        });
        show("the SDK", &seen);
        assert_eq!(pair.viewers(1 - old), 1);
        // Its own way to move: stop, half a second, play.
        assert!(seen.number("gap_ms_max") < 3_000.0, "{:#}", seen.0);
    });
}

#[test]
fn a_node_that_dies_is_left_for_another_one() {
    heavy(s(120), || {
        let mut pair = Pair::start();
        let mut viewer = Player::page_at(&pair.balancer.url("/live/play.html?id=pair&playOrder=webrtc"));
        viewer.until_playing();
        let old = pair.of_viewer();
        viewer.reset();
        pair.nodes[old].kill();
        until("the viewer on the other node", s(30), || (pair.viewers(1 - old) == 1).then_some(()));
        let seen = viewer.until("the picture", s(20), |report| {
            report.text("page.state") == "playing" && report.number("frames") > 100.0 && report.number("seconds") > 8.0
        });
        show("after kill -9", &seen);
        assert!(seen.number("gap_ms_max") < 6_000.0, "{:#}", seen.0);
    });
}
