//! Broadcasts that are stopped or removed by REST, from anywhere: what their publishers, viewers and operators see of it.

use std::{sync::Barrier, thread, time::Instant};

use serde_json::{Value, json};

use crate::{
    cluster::{part, secret, until_sees},
    harness::{
        Clock, Mongod, Server, flv, light,
        playlist::fetch,
        receiver::{Receiver, Told},
        rtmp::{Wire, closes},
        s, scratch,
        site::send,
        until,
    },
};

const LIST: &str = "/live/rest/v2/broadcasts/list/0/50";

fn path(id: &str) -> String {
    format!("/live/rest/v2/broadcasts/{id}")
}

/// Status and answer.
fn ask(server: &Server, method: &str, path: &str) -> (u16, Value) {
    let response = send(server.request(method, path));
    (response.status().as_u16(), response.json().expect("JSON"))
}

fn remove(server: &Server, id: &str) -> (u16, Value) {
    ask(server, "DELETE", &path(id))
}

type Work<'a, T> = Box<dyn FnOnce() -> T + Send + 'a>;

/// All of them at the same time.
fn at_once<'a, T: Send + 'a>(work: Vec<Work<'a, T>>) -> Vec<T> {
    let barrier = &Barrier::new(work.len());
    thread::scope(|scope| {
        let begin = |work: Work<'a, T>| {
            scope.spawn(move || {
                barrier.wait();
                work()
            })
        };
        let running: Vec<_> = work.into_iter().map(begin).collect();
        running.into_iter().map(|one| one.join().expect("nobody panics")).collect()
    })
}

#[test]
fn what_is_removed_at_an_edge_ends_everywhere_and_its_name_is_free_again() {
    light(s(150), || {
        let (trust, mongod, receiver) = (secret(), Mongod::standalone(scratch("mongod")), Receiver::start());
        let first = part("origin", &trust, &[], &mongod);
        let second = part("origin", &trust, &[&first], &mongod);
        let edge = part("edge", &trust, &[&first, &second], &mongod);
        let nodes = [&first, &second, &edge];
        let wanted = json!({ "streamId": "gone", "name": "The show", "listenerHookURL": receiver.url() });
        let created = send(edge.request("POST", "/live/rest/v2/broadcasts/create").body(wanted.to_string()));
        assert_eq!(created.status(), 200, "{:?}", created.text());
        let mut publisher = Clock::default().publish(&first.rtmp_url("live/gone"));
        edge.until_playable("gone");
        for server in nodes {
            server.until_status("gone", "broadcasting");
        }
        until("some of it to be watched", s(20), || {
            fetch(&edge, "/live/streams/gone.m3u8").filter(|list| list.segments.len() > 1)
        });
        let stranger = send(edge.request("DELETE", &path("gone")).header("x-forwarded-for", "198.51.100.9"));
        assert_eq!(stranger.status(), 403);

        let both =
            at_once(vec![Box::new(|| remove(&edge, "gone")) as Work<'_, _>, Box::new(|| remove(&second, "gone"))]);
        let [(200, done), (404, late)] = &sorted(both)[..] else { panic!("one removes it") };
        assert_eq!(done["success"], true, "{done}");
        assert_eq!(late["success"], false, "{late}");
        publisher.wait(s(15));
        it_is_gone(&nodes, &edge);
        let told = receiver.until_told("gone", 2);
        assert_eq!(told.iter().map(Told::action).collect::<Vec<_>>(), ["liveStreamStarted", "liveStreamEnded"]);
        for told in &told {
            assert_eq!(told.body["streamName"], "The show", "its row is gone, and its name is told: {told:?}");
        }
        assert_eq!(told[1].body["status"], "finished");
        edge.until_recorded("gone");

        let _again = Clock { id: 2, ..Clock::default() }.publish(&second.rtmp_url("live/gone"));
        for server in nodes {
            let broadcast = server.until_status("gone", "broadcasting");
            assert_eq!(broadcast["name"], "", "another broadcast of that name: {broadcast:#}");
        }
        until("its playlist at the edge", s(20), || {
            fetch(&edge, "/live/streams/gone.m3u8").filter(|list| !list.ended && !list.segments.is_empty())
        });
        let (status, done) = remove(&first, "gone");
        let stopped = json!("broadcast is deleted and stopped successfully");
        assert_eq!((status, &done["message"]), (200, &stopped), "where nobody publishes it: {done}");
        races([&first, &second], nodes);
        several_are_removed_and_one_is_stopped(nodes);
    });
}

fn sorted(mut answers: Vec<(u16, Value)>) -> Vec<(u16, Value)> {
    answers.sort_by_key(|(status, _)| *status);
    answers
}

fn it_is_gone(nodes: &[&Server], edge: &Server) {
    for server in nodes {
        assert_eq!(server.json(LIST), json!([]), "{}", server.http);
        assert_eq!(server.json("/live/rest/v2/broadcasts/count")["number"], 0);
        assert_eq!(server.get(&path("gone")).status(), 404, "{}", server.http);
        until("nothing to be live", s(5), || (server.json("/rest/v2/live") == json!([])).then_some(()));
    }
    // As at any end.
    let list = until("the end at the edge", s(10), || fetch(edge, "/live/streams/gone.m3u8").filter(|list| list.ended));
    assert!(!list.segments.is_empty(), "{}", list.text);
}

/// Sends for so long. `None` when the server has hung up.
fn goes_on(wire: Wire, ms: u32) -> Option<Wire> {
    let tags = flv::clip().iter().filter(move |tag| tag.time_ms < ms).cloned();
    let mut wire = wire.play_out(tags.collect::<Vec<_>>()).end().ok()?;
    (!closes(&mut wire.socket, s(1))).then_some(wire)
}

#[test]
fn what_a_killed_node_had_can_be_removed_and_does_not_come_back_with_it() {
    light(s(90), || {
        let (trust, mongod, receiver) = (secret(), Mongod::standalone(scratch("mongod")), Receiver::start());
        let mut first = part("origin", &trust, &[], &mongod);
        let second = part("origin", &trust, &[&first], &mongod);
        let edge = part("edge", &trust, &[&first, &second], &mongod);
        let wanted = json!({ "streamId": "left", "listenerHookURL": receiver.url() });
        let created = send(edge.request("POST", "/live/rest/v2/broadcasts/create").body(wanted.to_string()));
        assert_eq!(created.status(), 200, "{:?}", created.text());
        let mut lost = Wire::connect(&first);
        lost.publish("live", "left").expect("a publisher");
        for server in [&second, &edge] {
            server.until_status("left", "broadcasting");
        }

        first.kill();
        let killed = Instant::now();
        let mut answers = Vec::new();
        until("it to be removed", s(10), || {
            let answer = send(edge.request("DELETE", &path("left"))).status().as_u16();
            answers.push(answer);
            (answer == 200).then_some(())
        });
        println!("removed {:.1} s after its node was killed", killed.elapsed().as_secs_f64());
        let (_, earlier) = answers.split_last().expect("an answer");
        assert!(earlier.iter().all(|status| *status == 502), "its node does not answer: {answers:?}");
        it_is_forgotten(&[&second, &edge]);
        let told = receiver.until_told("left", 2);
        assert_eq!(told.iter().map(Told::action).collect::<Vec<_>>(), ["liveStreamStarted", "liveStreamEnded"]);

        first.start_again();
        for server in [&second, &edge] {
            until_sees(server, &first, "status", "alive");
        }
        it_is_forgotten(&[&first, &second, &edge]);
        let mut again = Wire::connect(&first);
        again.publish("live", "left").expect("the name is free");
        for server in [&first, &second, &edge] {
            server.until_status("left", "broadcasting");
        }
        assert_eq!(receiver.until_told("left", 2).len(), 2, "nobody asked for news of the new one");
    });
}

fn it_is_forgotten(nodes: &[&Server]) {
    for server in nodes {
        assert_eq!(server.json(LIST), json!([]), "{}", server.http);
        assert_eq!(server.get(&path("left")).status(), 404, "{}", server.http);
    }
}

/// A publisher takes over, or begins, at the very moment: it stays and all know it, or it is turned away and nobody does.
fn races(origins: [&Server; 2], nodes: [&Server; 3]) {
    let edge = nodes[2];
    let race = |round: usize| {
        let id = &format!("race{round}");
        let holder = (round > 1).then(|| {
            let mut wire = Wire::connect(origins[0]);
            wire.publish("live", id).expect("a publisher");
            let running = thread::spawn(|| goes_on(wire, 9_000).is_some());
            edge.until_status(id, "broadcasting");
            running
        });
        let begin = || {
            let mut wire = Wire::connect(origins[round % 2]);
            (0_u16, wire.publish("live", id).is_ok().then_some(wire))
        };
        let end = |at: &Server| (remove(at, id).0, None);
        let mut outcomes = at_once(vec![
            Box::new(begin) as Work<'_, _>,
            Box::new(|| end(edge)),
            Box::new(|| end(origins[1 - round % 2])),
        ]);
        let answers: Vec<u16> = outcomes.iter().skip(1).map(|(status, _)| *status).collect();
        let begun = outcomes.remove(0).1.and_then(|wire| goes_on(wire, 4_000));
        println!("round {round}: removed {answers:?}, the new publisher stays: {}", begun.is_some());
        assert!(answers.iter().all(|status| [200, 404, 409].contains(status)), "{answers:?}");
        for server in nodes {
            match begun {
                Some(_) => drop(server.until_status(id, "broadcasting")),
                None => until("nobody to know it", s(10), || (server.get(&path(id)).status() == 404).then_some(())),
            }
        }
        if let Some(holder) = holder {
            assert!(!holder.join().expect("it does not panic"), "it was neither replaced nor stopped");
        }
    };
    thread::scope(|scope| (0..6).for_each(|round| drop(scope.spawn(move || race(round)))));
}

/// `nodes`: two origins and an edge. All are live but the last.
fn several_are_removed_and_one_is_stopped(nodes: [&Server; 3]) {
    let live = |server: &Server, id: &str| {
        let mut wire = Wire::connect(server);
        wire.publish("live", id).expect("a publisher");
        wire
    };
    let (mut here, mut there) = (live(nodes[0], "here"), live(nodes[1], "there"));
    let created = send(nodes[2].request("POST", "/live/rest/v2/broadcasts/create").body(r#"{"streamId":"idle"}"#));
    assert_eq!(created.status(), 200);
    for server in nodes {
        server.until_status("here", "broadcasting");
        server.until_status("there", "broadcasting");
    }
    let (status, stopped) = ask(nodes[2], "POST", &format!("{}/stop", path("here")));
    assert_eq!((status, &stopped["success"]), (200, &json!(true)));
    let words = here.until_says(&["NetStream."]).expect("a word before the end");
    assert!(words.says("NetStream.Unpublish.Success"), "{}", words.readable());
    for server in nodes {
        server.until_status("here", "finished");
    }
    let (status, stopped) = ask(nodes[2], "POST", &format!("{}/stop", path("here")));
    assert_eq!((status, &stopped["success"]), (200, &json!(false)), "it was stopped: {stopped}");
    assert_eq!(ask(nodes[2], "POST", &format!("{}/stop", path("nobody"))).0, 404);

    let (status, done) = ask(nodes[2], "DELETE", "/live/rest/v2/broadcasts?ids=here,there,nobody,idle");
    assert_eq!((status, &done["success"]), (404, &json!(false)), "up to the first that fails: {done}");
    assert!(closes(&mut there.socket, s(8)), "it is stopped where it lives");
    for (id, status) in [("here", 404), ("there", 404), ("idle", 200)] {
        for server in nodes {
            assert_eq!(server.get(&path(id)).status(), status, "{id} at {}", server.http);
        }
    }
    let (status, done) = ask(nodes[2], "DELETE", "/live/rest/v2/broadcasts/?ids=idle");
    assert_eq!((status, &done["success"]), (200, &json!(true)), "{done}");
    assert_eq!(ask(nodes[2], "DELETE", "/live/rest/v2/broadcasts/").1["success"], false);
}
