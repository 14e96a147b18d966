//! Origins and edges as processes of their own: that they find each other, notice who is gone, and answer for each other.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::harness::{Clock, Mongod, SOUND_OFFER, Server, light, s, scratch, server::headwater, site::send, until};

/// What `headwater cluster-secret` prints, as settings.
pub(crate) fn secret() -> String {
    let output = headwater().arg("cluster-secret").output().expect("the binary runs");
    assert!(output.status.success());
    format!("secret = \"{}\"\n", String::from_utf8(output.stdout).expect("text").trim())
}

/// A cluster's nodes share `trust`, and begin with these origins.
pub(crate) fn settings(trust: &str, origins: &[&Server]) -> String {
    let origins: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.grpc())).collect();
    format!("[apps.live]\nrecord = true\n[cluster]\norigins = [{}]\n{trust}", origins.join(", "))
}

/// One of those that share `mongod`.
pub(crate) fn part(role: &'static str, trust: &str, origins: &[&Server], mongod: &Mongod) -> Server {
    let mut settings = settings(trust, origins);
    if role == "origin" {
        settings.push_str(&format!("[registry]\nmongodb = \"{}\"\n", mongod.uri("")));
    }
    Server::part(role, &settings)
}

/// The nodes that a server lists, by the address of their gRPC.
fn nodes(server: &Server) -> BTreeMap<SocketAddr, Value> {
    let list = server.json("/rest/v2/cluster/nodes/0/50");
    let address = |node: &Value| node["grpc"].as_str().expect("an address").parse().expect("an address");
    list.as_array().expect("a list").iter().map(|node| (address(node), node.clone())).collect()
}

#[track_caller]
pub(crate) fn until_sees(server: &Server, other: &Server, key: &str, value: &str) -> Value {
    until(&format!("a node to be seen as {value}"), s(10), || {
        nodes(server).remove(&other.grpc()).filter(|node| node[key] == value)
    })
}

#[test]
fn nodes_find_each_other_and_every_one_shows_all() {
    light(s(90), || {
        let (trust, mongod) = (secret(), Mongod::standalone(scratch("mongod")));
        let first = part("origin", &trust, &[], &mongod);
        let second = part("origin", &trust, &[&first], &mongod);
        // Given one origin, it learns of the other.
        let edge = part("edge", &trust, &[&second], &mongod);
        for server in [&first, &second, &edge] {
            for (other, role) in [(&first, "origin"), (&second, "origin"), (&edge, "edge")] {
                let node = until_sees(server, other, "phase", "ready");
                assert_eq!((&node["role"], &node["status"]), (&Value::from(role), &Value::from("alive")), "{node:#}");
                assert_eq!(node["http"], format!("http://{}", other.http), "{node:#}");
                assert_eq!((&node["ip"], &node["reachable"]), (&Value::from("127.0.0.1"), &Value::from(true)));
                assert!(node["lastUpdateTime"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "{node:#}");
                assert!(node["cpu"].as_str().is_some_and(|cpu| cpu.parse::<u32>().is_ok()), "{node:#}");
            }
            assert_eq!(server.json("/rest/v2/cluster/node-count")["number"], 3);
            assert_eq!(server.json("/rest/v2/cluster-mode-status")["success"], true);
        }
        assert_eq!(edge.json("/rest/v2/cluster/nodes/1/1").as_array().map(Vec::len), Some(1));

        let mut alone = Server::start();
        assert_eq!(alone.json("/rest/v2/cluster-mode-status")["success"], false);
        assert_eq!(alone.json("/rest/v2/cluster/nodes/0/50"), serde_json::json!([]));
        assert!(alone.terminate(s(10)).success());
    });
}

#[test]
fn an_origin_serves_no_viewers_and_an_edge_takes_no_publishers() {
    light(s(60), || {
        let trust = secret();
        let origin = Server::part("origin", &settings(&trust, &[]));
        let edge = Server::part("edge", &settings(&trust, &[&origin]));
        let _publisher = Clock::default().publish(&origin.rtmp_url("live/here"));
        origin.until_playable("here");
        assert_eq!(origin.get("/live/streams/here.m3u8").status(), 404);
        assert_eq!(send(origin.request("POST", "/live/whep/here")).status(), 404);
        assert_eq!(send(edge.request("POST", "/live/whip/here")).status(), 404);
        assert!(TcpStream::connect(edge.rtmp).is_err(), "nobody listens for RTMP");
        assert!(TcpStream::connect(origin.rtmp).is_ok());
    });
}

#[test]
fn a_killed_origin_is_dead_everywhere_within_five_seconds_and_what_it_held_is_terminated() {
    light(s(120), || {
        let (trust, mongod) = (secret(), Mongod::standalone(scratch("mongod")));
        let mut first = part("origin", &trust, &[], &mongod);
        let second = part("origin", &trust, &[&first], &mongod);
        let edge = part("edge", &trust, &[&first, &second], &mongod);
        until_sees(&edge, &second, "phase", "ready");
        let _publisher = Clock::default().publish(&first.rtmp_url("live/lost"));
        first.until_playable("lost");
        for server in [&second, &edge] {
            let live = until("the broadcast to be listed", s(5), || {
                server.json("/rest/v2/live").as_array().cloned().filter(|list| list.len() == 1)
            });
            assert_eq!(live[0]["streamId"], "lost");
            assert_eq!(live[0]["originAdress"], "127.0.0.1");
            server.until_status("lost", "broadcasting");
        }

        let begun = Instant::now();
        first.kill();
        for server in [&second, &edge] {
            until("its broadcast to be called terminated", s(5), || {
                let broadcast = server.broadcast("live", "lost")?;
                (broadcast["status"] == "terminated_unexpectedly").then_some(())
            });
            until_sees(server, &first, "status", "dead");
        }
        assert!(begun.elapsed() < s(5), "{:?}", begun.elapsed());
        assert_eq!(edge.get("/readyz").status(), 200, "an edge outlives the origin that it asked");
        assert_eq!(edge.json("/rest/v2/live"), serde_json::json!([]));

        // Removed at an edge, it is gone everywhere; one that is there stays.
        let id = |server: &Server| nodes(&edge)[&server.grpc()]["id"].as_str().expect("an id").to_owned();
        let (dead, alive) = (id(&first), id(&second));
        assert_eq!(send(edge.request("DELETE", &format!("/rest/v2/cluster/node/{alive}"))).status(), 409);
        assert_eq!(send(edge.request("DELETE", "/rest/v2/cluster/node/nobody")).status(), 404);
        let path = format!("/rest/v2/cluster/node/{dead}");
        let foreign = send(edge.request("DELETE", &path).header("x-forwarded-for", "198.51.100.9"));
        assert_eq!(foreign.status(), 403);
        assert_eq!(send(edge.request("DELETE", &path)).status(), 200);
        for server in [&second, &edge] {
            until("it to be gone from the list", s(5), || (nodes(server).len() == 2).then_some(()));
        }

        // It comes back as the same node.
        first.start_again();
        let back = until_sees(&edge, &first, "status", "alive");
        assert_eq!(back["id"], dead);
    });
}

#[test]
fn who_stops_has_left_and_is_not_dead() {
    light(s(90), || {
        let (trust, mongod) = (secret(), Mongod::standalone(scratch("mongod")));
        let first = part("origin", &trust, &[], &mongod);
        let mut second = part("origin", &trust, &[&first], &mongod);
        let mut edge = part("edge", &trust, &[&first], &mongod);
        until_sees(&edge, &second, "phase", "ready");
        for server in [&mut second, &mut edge] {
            assert!(server.terminate(s(15)).success());
        }
        for server in [&second, &edge] {
            until_sees(&first, server, "status", "left");
        }
    });
}

#[test]
fn an_edge_waits_for_an_origin_and_a_stranger_waits_for_ever() {
    light(s(60), || {
        let trust = secret();
        let origin = Server::part("origin", &settings(&trust, &[]));
        let stranger = Server::lonely_part("edge", &settings(&secret(), &[&origin]));
        let ready = |server: &Server| {
            let answer =
                until("an answer", s(10), || TcpStream::connect(server.http).ok().map(|_| server.get("/readyz")));
            (answer.status().as_u16(), answer.text().expect("text"))
        };
        until("the stranger to complain", s(10), || {
            let log = stranger.log();
            (log.contains("no link with this node") && log.contains("certificate")).then_some(())
        });
        assert_eq!(ready(&stranger).0, 503);
        assert_eq!(nodes(&origin).len(), 1);
        assert_eq!(stranger.get("/live/rest/v2/broadcasts/list/0/50").status(), 502, "it has nobody to ask");

        // Neither TLS without a certificate nor plain text gets an answer.
        let mut plain = TcpStream::connect(origin.grpc()).expect("connect");
        plain.set_read_timeout(Some(s(10))).expect("a socket");
        plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("sent");
        let mut heard = Vec::new();
        // The rest of what was sent may come back as a reset.
        let _ = plain.read_to_end(&mut heard);
        assert!(heard.len() <= 7 && heard.first().is_none_or(|kind| *kind == 21), "an alert at most: {heard:?}");
    });
}

/// The status that a node's gRPC tells whoever may ask.
fn health(runtime: &tokio::runtime::Runtime, channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    let mut client = HealthClient::new(channel.clone());
    runtime.block_on(client.check(request)).expect("an answer").into_inner().status()
}

#[test]
fn certificates_instead_of_a_secret_and_health_for_who_has_them() {
    light(s(90), || {
        let folder = scratch("certificates");
        let output = headwater().args(["cluster-cert", "--out"]).arg(&folder).output().expect("the binary runs");
        assert!(output.status.success());
        let path = |file: &str| folder.join(file).display().to_string();
        let [ca, certificate, key] = ["ca.pem", "certificate.pem", "key.pem"].map(path);
        let trust = format!("ca = \"{ca}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n");
        let mut origin = Server::part("origin", &settings(&trust, &[]));
        let edge = Server::part("edge", &settings(&trust, &[&origin]));
        until_sees(&origin, &edge, "phase", "ready");

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let read = |path: &str| std::fs::read_to_string(path).expect("a file that was written");
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&ca))).domain_name("headwater-node");
        let connect = |server: &Server, tls: ClientTlsConfig| {
            let endpoint = Endpoint::from_shared(format!("https://{}", server.grpc())).expect("an address");
            let endpoint = endpoint.timeout(s(5)).tls_config(tls).expect("certificates");
            runtime.block_on(async { endpoint.connect().await })
        };
        let with_certificate = tls.clone().identity(Identity::from_pem(read(&certificate), read(&key)));
        for server in [&origin, &edge] {
            let channel = connect(server, with_certificate.clone()).expect("a connection");
            for service in ["", "headwater.v1.Cluster"] {
                until("the node to serve", s(5), || {
                    (health(&runtime, &channel, service) == ServingStatus::Serving).then_some(())
                });
            }
        }
        // Refused with the handshake or with the first request (RFC 8446 section 4.4.2.4).
        if let Ok(channel) = connect(&origin, tls) {
            let answer = runtime.block_on(HealthClient::new(channel).check(HealthCheckRequest::default()));
            assert!(answer.is_err(), "answered without a certificate: {answer:?}");
        }
        assert!(origin.terminate(s(15)).success());
        std::fs::remove_dir_all(folder).expect("remove the certificates");
    });
}

#[test]
fn requests_land_anywhere() {
    light(s(120), || {
        let (trust, mongod) = (secret(), Mongod::standalone(scratch("mongod")));
        let first = part("origin", &trust, &[], &mongod);
        let second = part("origin", &trust, &[&first], &mongod);
        let edge = part("edge", &trust, &[&second], &mongod);
        until_sees(&edge, &first, "phase", "ready");
        let publisher = Clock::default().publish(&first.rtmp_url("live/there"));
        first.until_playable("there");
        let path = "/live/rest/v2/broadcasts/there";
        for server in [&second, &edge] {
            let broadcast = until("the owner to be known", s(5), || {
                server.broadcast("live", "there").filter(|broadcast| broadcast["width"] == 640)
            });
            assert_eq!(broadcast["publishType"], "RTMP", "as its owner tells it: {broadcast:#}");
            assert_eq!(broadcast["originAdress"], "127.0.0.1");
            assert_eq!(server.json(&format!("{path}/broadcast-statistics"))["totalWebRTCWatchersCount"], 0);
            assert_eq!(server.json(&format!("{path}/webrtc-client-stats/0/50")), serde_json::json!([]));

            let change = |on: bool| server.request("PUT", &format!("{path}/recording/{on}"));
            let refused = send(change(true).header("x-forwarded-for", "198.51.100.9"));
            assert_eq!(refused.status(), 403, "a proxy does not lend its address, nor does a node");
            let refused = send(
                server
                    .request("GET", &format!("{path}/webrtc-client-stats/0/50"))
                    .header("x-forwarded-for", "198.51.100.9"),
            );
            assert_eq!(refused.status(), 403);
            for (on, enabled) in [(false, -1), (true, 1)] {
                let changed = send(change(on));
                assert_eq!(changed.status(), 200, "{:?}", changed.text());
                assert_eq!(first.broadcast("live", "there").expect("known")["mp4Enabled"], enabled);
            }
            let said = send(server.request("POST", &format!("{path}/data")).body("hello"));
            assert_eq!(said.status(), 200, "{:?}", said.text());
        }
        let version = edge.json("/rest/v2/version");
        assert!(version["versionName"].is_string(), "{version:#}");
        let preflight = send(edge.request("OPTIONS", path).header("origin", "https://page.example"));
        assert_eq!(preflight.headers()["access-control-allow-origin"], "https://page.example");
        publisher.stop();
        edge.until_status("there", "finished");
    });
}

#[test]
fn the_sessions_of_all_nodes_are_listed_on_each() {
    light(s(90), || {
        let trust = secret();
        let origin = Server::part("origin", &settings(&trust, &[]));
        let edges = [0, 1].map(|_| Server::part("edge", &settings(&trust, &[&origin])));
        let _publisher = Clock::default().publish(&origin.rtmp_url("live/watched"));
        origin.until_playable("watched");
        let offer = SOUND_OFFER.replace("sendonly", "recvonly");
        for edge in [&edges[0], &edges[1], &edges[1]] {
            until("a session", s(10), || {
                let request = edge.request("POST", "/live/whep/watched").header("content-type", "application/sdp");
                (send(request.body(offer.clone())).status() == 201).then_some(())
            });
        }
        let page = |server: &Server, span: &str| {
            let response = server.get(&format!("/live/rest/v2/broadcasts/watched/webrtc-client-stats/{span}"));
            assert_eq!(response.status(), 200);
            let total = response.headers()["x-total-count"].to_str().expect("text").to_owned();
            let sessions: Vec<Value> = response.json().expect("a list");
            let name = |session: &Value| (session["node"].to_string(), session["clientId"].to_string());
            (total, sessions.iter().map(name).collect::<Vec<_>>())
        };
        for server in [&origin, &edges[0], &edges[1]] {
            let (total, all) =
                until("all three", s(5), || Some(page(server, "0/50")).filter(|(_, all)| all.len() == 3));
            assert_eq!(total, "3");
            let of_nodes: std::collections::BTreeSet<_> = all.iter().map(|(node, _)| node).collect();
            assert_eq!(of_nodes.len(), 2, "{all:?}");
            let (first, second) = (page(server, "0/2").1, page(server, "2/2").1);
            assert_eq!((first.len(), second.len()), (2, 1));
            assert_eq!([first, second].concat(), all);
            assert_eq!(page(server, "3/50").1, []);
        }
        // One that stands still costs its own, and a moment.
        edges[1].signal("STOP");
        let begun = Instant::now();
        let (_, rest) = page(&origin, "0/50");
        assert!(begun.elapsed() < s(3), "{:?}", begun.elapsed());
        edges[1].signal("CONT");
        assert_eq!(rest.len(), 1, "{rest:?}");
        assert!(origin.log().contains("its sessions are not listed"), "{}", origin.log());
    });
}

#[test]
fn recordings_are_played_from_the_edge() {
    light(s(120), || {
        let trust = secret();
        let origin = Server::part("origin", &settings(&trust, &[]));
        let edge = Server::part("edge", &settings(&trust, &[&origin]));
        let publisher = Clock { seconds: 4, ..Clock::default() }.publish(&origin.rtmp_url("live/kept"));
        // As listed and downloaded there.
        let (vod, file) = edge.until_recorded("kept");
        drop(publisher);
        let whole = std::fs::read(&file).expect("the download");
        assert_eq!(&whole[4..8], b"ftyp");
        let path = format!("/live/{}", vod["filePath"].as_str().expect("a path"));
        let part = send(edge.request("GET", &path).header("range", "bytes=100-299"));
        assert_eq!(part.status(), 206);
        assert_eq!(part.headers()["content-range"], format!("bytes 100-299/{}", whole.len()));
        assert_eq!(part.bytes().expect("a part").as_ref(), &whole[100..300]);
        let head = send(edge.request("HEAD", &path));
        assert_eq!(head.headers()["content-length"], whole.len().to_string());
        assert_eq!(edge.get("/live/streams/nothing.mp4").status(), 404);
        let id = vod["vodId"].as_str().expect("an id");
        assert_eq!(send(edge.request("DELETE", &format!("/live/rest/v2/vods/{id}"))).status(), 200);
        assert_eq!(edge.get(&path).status(), 404);
    });
}

/// An origin's name may stand for others tomorrow.
#[test]
fn an_edge_survives_every_origin_but_one() {
    light(s(120), || {
        let (trust, mongod) = (secret(), Mongod::standalone(scratch("mongod")));
        let mut first = part("origin", &trust, &[], &mongod);
        let edge = part("edge", &trust, &[&first], &mongod);
        let second = part("origin", &trust, &[&first], &mongod);
        until_sees(&edge, &second, "phase", "ready");
        first.kill();
        let begun = Instant::now();
        // Reading goes on with whoever answers, from the first moment.
        while begun.elapsed() < Duration::from_secs(4) {
            assert_eq!(edge.get("/live/rest/v2/broadcasts/list/0/50").status(), 200);
        }
        let _publisher = Clock::default().publish(&second.rtmp_url("live/left"));
        second.until_playable("left");
        edge.until_status("left", "broadcasting");
    });
}
