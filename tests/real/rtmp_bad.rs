//! Publishers that are broken or hostile: each is told why or hung up on, the log says who and what, and another stream
//! plays on without a gap.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::harness::{
    Clock, Player, Server, flv, heavy, light,
    rtmp::{self, Amf, Wire},
    s, until,
};

/// The log has a line about this peer that says one of these words.
fn assert_logged(server: &mut Server, mark: usize, peer: SocketAddr, words: &[&str]) {
    let port = format!(":{}", peer.port());
    server.log_line_after(mark, &format!("a line about {peer} with one of {words:?}"), |line| {
        let lower = line.to_lowercase();
        (line.contains(&port) && words.iter().any(|word| lower.contains(word))).then_some(())
    });
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// Sends bytes on a fresh connection and expects to be hung up on.
fn refused(server: &mut Server, bytes: &[u8], words: &[&str]) {
    let mark = server.log_lines();
    let mut socket = rtmp::dial(server);
    let peer = socket.local_addr().unwrap();
    // Closed in the middle of our writing is as good.
    let _ = socket.write_all(bytes);
    assert!(
        rtmp::closes(&mut socket, s(15)),
        "the connection stays open after {:02x?}…",
        &bytes[..bytes.len().min(16)]
    );
    assert_logged(server, mark, peer, words);
}

/// Through the handshake, then these bytes.
fn refused_after_handshake(server: &mut Server, bytes: &[u8], words: &[&str]) {
    let mark = server.log_lines();
    let mut wire = Wire::connect(server);
    let peer = wire.local_addr();
    let _ = wire.socket.write_all(bytes);
    assert!(rtmp::closes(&mut wire.socket, s(15)), "the connection stays open");
    assert_logged(server, mark, peer, words);
}

#[test]
fn garbage_instead_of_a_handshake() {
    light(s(60), || {
        let mut server = Server::start();
        refused(&mut server, &[0xff; 4000], &["handshake", "0xff"]);
        refused(&mut server, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", &["http"]);
        refused(&mut server, &[0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], &["tls"]);
        // Half a handshake and then silence: the server does not wait for ever.
        let mut half = vec![3];
        half.resize(700, 0);
        let mark = server.log_lines();
        let mut socket = rtmp::dial(&server);
        let peer = socket.local_addr().unwrap();
        socket.write_all(&half).unwrap();
        assert!(rtmp::closes(&mut socket, s(30)), "half a handshake is waited for");
        assert_logged(&mut server, mark, peer, &["no publish request within"]);
    });
}

#[test]
fn chunks_that_lie() {
    light(s(60), || {
        let mut server = Server::start();
        // A message of 16 MB begins on each of many chunk streams and never ends.
        let mut many = Vec::new();
        for channel in 3..63u8 {
            many.extend([channel, 0, 0, 0, 0xff, 0xff, 0xff, 9, 1, 0, 0, 0]);
            many.extend(vec![0; 65_536]);
            for _ in 0..8 {
                many.push(0xc0 | channel);
                many.extend(vec![0; 65_536]);
            }
        }
        refused_after_handshake(&mut server, &many, &["unfinished", "bytes"]);
        // A chunk size of four gigabytes, then a message: what it claims must not be allocated.
        let huge = [2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        refused_after_handshake(&mut server, &[&huge[..], &[0xc4; 64]].concat(), &["chunk"]);
        // A continuation of what never began.
        refused_after_handshake(&mut server, &[0xc7, 1, 2, 3], &["chunk stream"]);
        let zero = [2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        refused_after_handshake(&mut server, &zero, &["chunk size"]);
    });
}

#[test]
fn amf_that_nests_without_end() {
    light(s(30), || {
        let mut server = Server::start();
        let mark = server.log_lines();
        let mut wire = Wire::connect(&server);
        let mut body = vec![2, 0, 7];
        body.extend(b"connect");
        body.extend([0, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0]);
        for _ in 0..20_000 {
            body.extend([3, 0, 1, b'a']);
        }
        wire.send(3, rtmp::COMMAND, 0, 0, &body).unwrap();
        assert!(rtmp::closes(&mut wire.socket, s(15)));
        let peer = wire.local_addr();
        assert_logged(&mut server, mark, peer, &["nested"]);
        assert!(server.runs());
    });
}

#[test]
fn names_that_are_none() {
    light(s(60), || {
        let server = Server::start();
        let long = "x".repeat(300);
        for (app, key, words) in [
            ("live", "a b", ["' '", "a b"]),
            ("live", "../etc/passwd", ["'/'", "dot"]),
            ("live", "naïve", ["ï", "stream id"]),
            ("live", "", ["empty", "stream id"]),
            ("live", long.as_str(), ["300", "at most"]),
            ("nowhere", "ok", ["nowhere", "app"]),
        ] {
            let mut wire = Wire::connect(&server);
            let refusal = wire.publish(app, key).expect_err("a name that is none is refused");
            // The peer's text is not always ASCII, and what is shown of it here is.
            let told = words.iter().any(|word| refusal.contains(word)) || refusal.contains("Publish.BadName");
            assert!(told || refusal.contains("Rejected"), "{app}/{key}: {refusal}");
            assert!(refusal.contains("NetStream.") || refusal.contains("NetConnection."), "{app}/{key}: {refusal}");
        }
        assert_eq!(server.json("/rest/v2/live").as_array().map(Vec::len), Some(0));
    });
}

#[test]
fn media_that_is_none() {
    light(s(60), || {
        let mut server = Server::start();
        let mark = server.log_lines();
        // The parameter sets are noise: nobody could ever decode this.
        let mut wire = Wire::connect(&server);
        let peer = wire.local_addr();
        wire.publish("live", "noise").expect("published");
        let mut config = vec![0x17, 0, 0, 0, 0, 1, 0x42, 0, 0x1e, 0xff, 0xe1, 0, 8, 0x67];
        config.extend([0xff; 7]);
        config.extend([1, 0, 4, 0x68, 0xff, 0xff, 0xff]);
        wire.send(6, flv::VIDEO, 1, 0, &config).unwrap();
        for (number, tag) in
            flv::clip().iter().filter(|tag| tag.kind == flv::VIDEO && !tag.is_config()).take(60).enumerate()
        {
            // Hung up on already: as good.
            if wire.send(6, flv::VIDEO, 1, number as u32 * 33, &tag.body).is_err() {
                break;
            }
        }
        let words = ["sps", "parameter", "config", "avc", "h264"];
        let port = format!(":{}", peer.port());
        server.log_line_after(mark, "a line about parameter sets that are none", |line| {
            let lower = line.to_lowercase();
            let about = line.contains(&port) || line.contains("noise");
            (about && words.iter().any(|word| lower.contains(word))).then_some(())
        });
        // Lengths of NAL units that point beyond the frame.
        let mut wire = Wire::connect(&server);
        wire.publish("live", "torn").expect("published");
        for tag in flv::clip().iter().filter(|tag| tag.kind == flv::VIDEO).take(90) {
            let mut tag = tag.clone();
            if !tag.is_config() && tag.body.len() > 9 {
                tag.body[5..9].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
            }
            if wire.tag(&tag).is_err() {
                break;
            }
        }
        until("the server to have taken it", s(10), || (server.get("/livez").status() == 200).then_some(()));
        assert!(server.runs() && !server.log().contains("panicked"), "{}", server.log());
    });
}

#[test]
fn commands_out_of_order() {
    light(s(30), || {
        let mut server = Server::start();
        let mark = server.log_lines();
        let mut wire = Wire::connect(&server);
        let peer = wire.local_addr();
        wire.command(1, &[Amf::Text("publish"), Amf::Number(1.0), Amf::Null, Amf::Text("early"), Amf::Text("live")])
            .unwrap();
        assert!(rtmp::closes(&mut wire.socket, s(15)));
        assert_logged(&mut server, mark, peer, &["before connect"]);
    });
}

/// All of it at once, while somebody watches something else.
#[test]
fn none_of_it_is_noticed_by_who_watches_another_stream() {
    heavy(s(120), || {
        let server = Server::with("[rtmp]\nconnections_max = 150\n");
        let _good = Clock::default().publish(&server.rtmp_url("live/good"));
        server.until_status("good", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "good");
        viewer.until_playing();
        viewer.settle(2.0);

        // Hundreds who connect and say nothing: those beyond the limit are closed at once.
        let silent: Vec<TcpStream> = (0..300).map(|_| rtmp::dial(&server)).collect();
        let mut attackers = Vec::new();
        for round in 0..20u8 {
            let mut socket = rtmp::dial(&server);
            let _ = socket.write_all(&[round; 3000]);
            attackers.push(socket);
        }
        let seen = viewer.measure(5.0);
        seen.assert_moves();
        assert!(seen.number("gap_ms_max") < 600.0, "{:#}", seen.0);
        let open = silent.into_iter().filter_map(|mut socket| {
            let closed = rtmp::closes(&mut socket, Duration::from_millis(20));
            (!closed).then_some(socket)
        });
        let mut open: Vec<_> = open.collect();
        assert!(open.len() < 151, "{} silent connections are held, 150 are allowed", open.len());
        // And those within it do not stay for ever.
        until("the silent ones to be closed", s(40), || {
            open.retain_mut(|socket| !rtmp::closes(socket, Duration::from_millis(5)));
            open.is_empty().then_some(())
        });
        let _second = Clock { id: 2, ..Clock::default() }.publish(&server.rtmp_url("live/second"));
        server.until_status("second", "broadcasting");
    });
}
