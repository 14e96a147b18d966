//! Who may publish under a name, and what becomes of the one who did before.

use crate::harness::{Clock, Player, Server, flv, heavy, light, rtmp::Wire, s, until};

#[test]
fn the_newer_publisher_replaces_the_older_and_viewers_stay() {
    heavy(s(90), || {
        let server = Server::start();
        let mut first = Clock { id: 1, ..Clock::default() }.publish(&server.rtmp_url("live/name"));
        server.until_status("name", "broadcasting");
        let mut viewer = Player::whep(&server, "live", "name");
        viewer.until("the first publisher's picture", s(30), |report| report.number("ids.1") > 15.0);
        let _second = Clock { id: 2, ..Clock::default() }.publish(&server.rtmp_url("live/name"));
        viewer.until("the second publisher's picture", s(20), |report| report.number("ids.2") > 15.0);
        let status = first.wait(s(10));
        assert!(!status.success(), "the first publisher is told that it is over: {}", first.text());
        let seen = viewer.settle(3.0);
        assert_eq!(seen.number("rtc.connections"), 1.0, "the same connection");
        assert!(seen.at("ids.1").is_null(), "nothing of the first publisher is left: {:#}", seen.0);
    });
}

#[test]
fn an_application_may_refuse_a_second_publisher() {
    light(s(60), || {
        let server = Server::with("[apps.live]\ntakeover = \"refuse\"\n");
        let mut first = Clock::default().publish(&server.rtmp_url("live/mine"));
        server.until_status("mine", "broadcasting");
        let refusal = Wire::connect(&server).publish("live", "mine").expect_err("the name is taken");
        assert!(refusal.contains("NetStream.Publish.BadName"), "{refusal}");
        assert!(first.runs());
        // One that fell silent does not keep the name: its connection is dead, whatever TCP believes.
        first.freeze();
        until("the silent publisher to lose the name", s(15), || Wire::connect(&server).publish("live", "mine").ok());
    });
}

/// OBS behind a network that changed: the old connection lingers, the new one must not wait for it.
#[test]
fn a_publisher_can_come_back_at_once() {
    light(s(60), || {
        let server = Server::start();
        for _ in 0..5 {
            let mut wire = Wire::connect(&server);
            wire.publish("live", "flaky").expect("published");
            for tag in flv::clip().iter().take(30) {
                wire.tag(tag).expect("sent");
            }
            // Kept open on purpose: dropped only after the next one took over.
            let mut next = Wire::connect(&server);
            next.publish("live", "flaky").expect("published again");
            drop(wire);
        }
        let broadcast = server.broadcast("live", "flaky").expect("a broadcast");
        assert_eq!(broadcast["streamId"], "flaky", "{broadcast:#}");
    });
}

#[test]
fn a_broadcast_ends_when_its_publisher_does() {
    light(s(90), || {
        let server = Server::start();
        let publisher = Clock::default().publish(&server.rtmp_url("live/ends"));
        server.until_status("ends", "broadcasting");
        publisher.stop();
        server.until_status("ends", "finished");
        // A publisher that vanishes without a word is noticed too.
        let publisher = Clock::default().publish(&server.rtmp_url("live/vanishes"));
        server.until_status("vanishes", "broadcasting");
        publisher.freeze();
        until("the vanished publisher to be noticed", s(40), || {
            let broadcast = server.broadcast("live", "vanishes")?;
            (broadcast["status"] != "broadcasting").then_some(())
        });
    });
}

/// A laptop that was closed: TCP knows nothing of it.
#[test]
fn a_publisher_that_fell_silent_is_noticed_within_seconds() {
    light(s(90), || {
        let server = Server::start();
        let publisher = Clock::default().publish(&server.rtmp_url("live/asleep"));
        server.until_playable("asleep");
        publisher.freeze();
        until("REST to say that the publisher is away", s(6), || {
            (server.broadcast("live", "asleep")?["publisherConnected"] == false).then_some(())
        });
        // Its connection is given up after ten seconds, the broadcast waits ten more for it to come back.
        until("the broadcast to end", s(30), || {
            (server.broadcast("live", "asleep")?["status"] == "terminated_unexpectedly").then_some(())
        });
    });
}
