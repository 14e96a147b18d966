//! The way that a publisher's packets take: blocked, changed in mid-stream, lost.

use std::time::Instant;

use crate::harness::{Broadcaster, Link, Player, Server, heavy, paired, s, site::send, until};

#[test]
fn a_publisher_on_a_network_without_udp_gets_through_by_tcp() {
    heavy(s(60), || {
        let server = Server::start();
        let mut camera = Broadcaster::whip(&server, "live", "tcp", &["--tcp"]);
        assert_eq!(camera.until_connected().text("rtc.protocol"), "tcp");
        server.until_status("tcp", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "tcp").of_browser();
        viewer.until_playing();
        viewer.settle(4.0).assert_sound();
    });
}

#[test]
fn an_ice_restart_and_a_new_address_keep_the_session() {
    heavy(s(90), || {
        let server = Server::start();
        let link = Link::to(server.rtc);
        let mut camera = Broadcaster::whip_via(&link, &server, "live", "roaming");
        let before = camera.until_connected();
        server.until_status("roaming", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "roaming").of_browser();
        viewer.until_playing();
        viewer.settle(2.0);

        camera.order("restart");
        let after = camera.until("the restart", s(10), |report| report.number("session.restarts") == 1.0);
        assert_ne!(before.text("session.etag"), after.text("session.etag"), "an ICE restart has a new entity tag");
        viewer.settle(3.0).assert_sound();

        link.change_address();
        let seen = viewer.settle(4.0);
        seen.assert_sound();
        assert_eq!(seen.number("rtc.connections"), 1.0, "the viewer noticed nothing");
        assert_eq!(server.broadcast("live", "roaming").expect("the broadcast")["status"], "broadcasting");
        assert_eq!(camera.finish().number("stopped"), 200.0, "the same session");
    });
}

/// The cable is pulled. Nobody says goodbye, so the consent checks (RFC 7675) have to notice.
#[test]
fn a_publisher_that_vanishes_is_gone_and_leaves_nothing() {
    paired(s(90), || {
        let server = Server::start();
        let link = Link::to(server.rtc);
        let mut camera = Broadcaster::whip_via(&link, &server, "live", "cable");
        let session = camera.until_connected().text("session.location").to_owned();
        server.until_status("cable", "broadcasting");
        let pulled = Instant::now();
        link.lose(1.0);
        until("the end of the session", s(31), || {
            // Of the wrong type where there is somebody to read it.
            let asked = send(server.request("PATCH", &session).header("content-type", "text/plain").body("?"));
            (asked.status() == 404).then_some(())
        });
        println!("a vanished publisher was noticed after {:?}", pulled.elapsed());
        until("the end of the broadcast", s(15), || {
            (server.broadcast("live", "cable")?["status"] != "broadcasting").then_some(())
        });
    });
}

/// As a laptop whose lid is shut: the browser is gone in the middle of everything.
#[test]
fn a_browser_that_dies_makes_room_for_the_next() {
    heavy(s(60), || {
        let server = Server::start();
        let mut first = Broadcaster::whip(&server, "live", "again", &["--id=1"]);
        first.until_connected();
        server.until_status("again", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "again").of_browser();
        viewer.until_playing();
        first.kill();
        let _second = Broadcaster::whip(&server, "live", "again", &["--id=2"]);
        viewer.until("the second publisher's picture", s(20), |report| report.number("ids.2") > 10.0);
        let seen = viewer.settle(3.0);
        seen.assert_sound();
        assert_eq!(seen.number("rtc.connections"), 1.0, "the same connection");
    });
}
