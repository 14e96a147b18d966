//! Peers that are broken or hostile, while somebody else publishes: that session must not notice.

use std::net::UdpSocket;

use crate::harness::{
    Broadcaster, Clock, Link, Player, SOUND_OFFER, Server, flv, heavy, paired, rtmp::Wire, s, site::send, until,
};

const FLOOD_PACKETS: usize = 30_000;
const GROWTH_MB_MAX: f64 = 40.0;

/// A connectivity check (RFC 8489) for this ufrag, whose integrity is wrong.
fn forged_check(ufrag: &str, number: usize) -> Vec<u8> {
    let mut name = format!("{ufrag}:peer").into_bytes();
    let length = name.len() as u16;
    name.resize(name.len().next_multiple_of(4), 0);
    let mut attributes = [&0x0006_u16.to_be_bytes()[..], &length.to_be_bytes(), &name].concat();
    attributes.extend([&0x0008_u16.to_be_bytes()[..], &20_u16.to_be_bytes(), &[7; 20]].concat());
    let mut check = [&0x0001_u16.to_be_bytes()[..], &(attributes.len() as u16).to_be_bytes()].concat();
    check.extend([&0x2112_a442_u32.to_be_bytes()[..], &(number as u64).to_be_bytes(), &[0; 4], &attributes].concat());
    check
}

fn resident_mb(server: &Server) -> f64 {
    server.metric("headwater_process_resident_bytes", "") / 1e6
}

#[test]
fn floods_of_checks_media_and_garbage_from_strangers_change_nothing() {
    heavy(s(60), || {
        let server = Server::start();
        let mut camera = Broadcaster::whip(&server, "live", "calm", &["--id=3"]);
        let ufrag = camera.until_connected().text("session.etag").trim_matches('"').to_owned();
        server.until_status("calm", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "calm").of_browser();
        viewer.until_playing();
        let before_mb = resident_mb(&server);
        assert!(before_mb > 1.0, "no such metric");
        let stranger = UdpSocket::bind("127.0.0.1:0").expect("a port");
        for number in 0..FLOOD_PACKETS {
            let packet = match number % 5 {
                0 => forged_check("nobody", number),
                // Known, so that it is looked up and its integrity looked at.
                1 => forged_check(&ufrag, number),
                // Media before there is a connection, of a source that nobody announced.
                2 => [&[0x80, 96, 0, 1, 0, 0, 0, 1][..], &(number as u32).to_be_bytes(), &[0x65; 900]].concat(),
                // The beginning of a handshake.
                3 => [&[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40][..], &[1; 40]].concat(),
                _ => vec![number as u8; number % 60],
            };
            stranger.send_to(&packet, server.rtc).expect("loopback takes it");
        }
        let seen = viewer.settle(4.0);
        seen.assert_sound();
        assert_eq!(seen.number("rtc.connections"), 1.0);
        let grown_mb = resident_mb(&server) - before_mb;
        println!("{FLOOD_PACKETS} packets of strangers: {grown_mb:.1} MB more");
        assert!(grown_mb < GROWTH_MB_MAX, "memory grew by {grown_mb} MB");
        assert_eq!(server.metric("headwater_webrtc_panics_total", ""), 0.0);
        assert_eq!(camera.finish().number("stopped"), 200.0, "the same session");
    });
}

#[test]
fn a_forged_fingerprint_and_a_handshake_that_never_ends_get_nowhere() {
    heavy(s(60), || {
        let server = Server::start();
        let mut camera = Broadcaster::whip(&server, "live", "honest", &["--id=3"]);
        camera.until_connected();
        let link = Link::to(server.rtc);
        link.lose_handshakes(true);
        let stuck = Broadcaster::whip_via(&link, &server, "live", "stuck");
        let forger = Broadcaster::whip(&server, "live", "forged", &["--forged"]);
        for mut broadcaster in [stuck, forger] {
            let posted = broadcaster.until("the answer", s(20), |report| report.number("session.status") == 201.0);
            let session = posted.text("session.location").to_owned();
            until_gone(&server, &session);
            let last = broadcaster.finish();
            assert_ne!(last.text("rtc.state"), "connected", "{:#}", last.0);
        }
        let mut viewer = Player::whep(&server, "live", "honest").of_browser();
        viewer.until_playing();
        viewer.settle(3.0).assert_sound();
    });
}

/// Until nobody knows the session any more.
fn until_gone(server: &Server, session: &str) {
    until("the session to be forgotten", s(25), || {
        // Of the wrong type where there is somebody to read it.
        let asked = send(server.request("PATCH", session).header("content-type", "text/plain").body("?"));
        (asked.status() == 404).then_some(())
    });
}

/// A request is no publisher: who sends now goes on, and a name that nobody has is still free.
#[test]
fn who_posts_an_offer_and_never_connects_replaces_nobody_and_holds_no_name() {
    heavy(s(60), || {
        let server = Server::with("[apps.live]\ntakeover = \"replace\"\n[apps.first]\ntakeover = \"refuse\"\n");
        let post =
            |path: &str| send(server.request("POST", path).header("content-type", "application/sdp").body(SOUND_OFFER));
        let _camera = Clock::default().publish(&server.rtmp_url("live/one"));
        server.until_status("one", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "one");
        viewer.until_playing();

        let ghost = post("/live/whip/one");
        assert_eq!(ghost.status(), 201);
        let ghost = ghost.headers()["location"].to_str().expect("a path").to_owned();
        assert_eq!(post("/first/whip/two").status(), 201);
        assert!(server.broadcast("first", "two").is_none(), "nobody publishes that");
        let mut wire = Wire::connect(&server);
        wire.publish("first", "two").expect("the name is free");
        let sending = wire.play_out(flv::clip().to_vec());
        let refused = post("/first/whip/two");
        assert_eq!(refused.status(), 409, "{}", refused.text().unwrap_or_default());
        drop(sending);

        until_gone(&server, &ghost);
        let broadcast = server.broadcast("live", "one").expect("it goes on");
        assert_eq!((&broadcast["status"], &broadcast["publishType"]), (&"broadcasting".into(), &"RTMP".into()));
        let seen = viewer.settle(3.0);
        seen.assert_sound();
        assert_eq!(seen.number("rtc.connections"), 1.0, "the viewer noticed nothing");
    });
}

/// Answered while nobody published, connected when somebody does: it is too late, and that somebody is left alone.
#[test]
fn a_publisher_that_is_outrun_while_it_connects_is_turned_away() {
    paired(s(60), || {
        let mut server = Server::with("[apps.first]\ntakeover = \"refuse\"\n");
        let link = Link::to(server.rtc);
        link.lose_handshakes(true);
        let mut slow = Broadcaster::whip_via(&link, &server, "first", "one");
        let posted = slow.until("the answer", s(20), |report| report.number("session.status") == 201.0);
        let mut wire = Wire::connect(&server);
        wire.publish("first", "one").expect("nobody has the name");
        let _sending = wire.play_out(flv::clip().to_vec());
        let mark = server.log_lines();
        link.lose_handshakes(false);
        let told = server.log_line_after(mark, "why", |line| line.contains("turned away").then(|| line.to_owned()));
        assert!(told.contains("being published by rtmp"), "{told}");
        until_gone(&server, posted.text("session.location"));
        slow.until("it to be told", s(10), |report| report.text("rtc.state") != "connected");
        let broadcast = server.broadcast("first", "one").expect("it goes on");
        assert_eq!(broadcast["publishType"], "RTMP", "{broadcast:#}");
    });
}

/// The second one is told, or the first one is: as the application says.
#[test]
fn two_publishers_of_one_name_do_not_share_it() {
    heavy(s(90), || {
        let server = Server::with("[apps.live]\ntakeover = \"replace\"\n[apps.first]\ntakeover = \"refuse\"\n");
        let mut holder = Broadcaster::whip(&server, "first", "one", &["--id=1"]);
        holder.until_connected();
        let refused = Broadcaster::whip_refused(&server, "first", "one");
        assert!(refused.contains("409"), "{refused}");
        holder.until("pictures that go on", s(5), |report| report.number("rtc.sent.video.frames") > 30.0);
        holder.finish();

        let mut old = Broadcaster::whip(&server, "live", "one", &["--id=1"]);
        old.until_connected();
        server.until_status("one", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "one").of_browser();
        viewer.until_playing();
        let _new = Broadcaster::whip(&server, "live", "one", &["--id=2"]);
        viewer.until("the new publisher's picture", s(20), |report| report.number("ids.2") > 10.0);
        viewer.settle(3.0).assert_sound();
        old.until("the old one to be told", s(10), |report| report.text("rtc.state") != "connected");
    });
}
