//! Data channels: what publishers and viewers say to each other.

use std::collections::BTreeMap;

use str0m::{
    change::SdpOffer,
    channel::{ChannelConfig, ChannelId},
};

use super::*;
use crate::{live::Status, rtc::channel::MESSAGE_BYTES_MAX};

/// A peer that says and hears things. Of media it takes what comes and sends none.
struct Talker {
    rtc: Rtc,
    socket: UdpSocket,
    session: SessionId,
    sdp: String,
    channels: Vec<ChannelId>,
    labels: Vec<String>,
    closed: usize,
    /// Binary or not, and what.
    heard: Vec<(bool, Vec<u8>)>,
}

fn peer(stage: &Stage) -> (Rtc, UdpSocket) {
    let socket = UdpSocket::bind((stage.engine.address().ip(), 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut rtc = RtcConfig::new().set_sctp_max_buffered_amount(8 * 1024 * 1024).build(Instant::now());
    rtc.add_local_candidate(Candidate::host(socket.local_addr().unwrap(), "udp").unwrap());
    (rtc, socket)
}

impl Talker {
    fn with(rtc: Rtc, socket: UdpSocket, answer: Answer) -> Self {
        let (session, sdp) = (answer.session, answer.sdp);
        let (channels, labels, heard) = Default::default();
        Self { rtc, socket, session, sdp, channels, labels, closed: 0, heard }
    }

    /// With channels of these names, and the server's answer as it is read.
    fn join(stage: &mut Stage, role: Role, labels: &[&str], read: impl Fn(&str) -> String) -> Self {
        let (mut rtc, socket) = peer(stage);
        let mut api = rtc.sdp_api();
        let direction = if role == Role::Viewer { Direction::RecvOnly } else { Direction::SendOnly };
        for kind in [MediaKind::Video, MediaKind::Audio] {
            api.add_media(kind, direction, None, None, None);
        }
        for label in labels {
            api.add_channel((*label).to_owned());
        }
        let (offer, pending) = api.apply().unwrap();
        let offer = offer.to_sdp_string();
        let answer = match role {
            Role::Viewer => stage.engine.view(&stage.broadcast(), &offer).unwrap(),
            Role::Publisher => {
                let incoming = stage.engine.receive(&offer).unwrap();
                stage.take(incoming)
            }
        };
        let accepted = SdpAnswer::from_sdp_string(&read(&answer.sdp)).unwrap();
        rtc.sdp_api().accept_answer(pending, accepted).unwrap();
        Self::with(rtc, socket, answer)
    }

    fn publisher(stage: &mut Stage) -> Self {
        Self::join(stage, Role::Publisher, &["x"], str::to_owned)
    }

    fn viewer(stage: &mut Stage) -> Self {
        Self::join(stage, Role::Viewer, &["mine"], str::to_owned)
    }

    /// One that lets the server make the offer. What it answers may be changed on the way.
    fn invited(stage: &Stage, change: impl Fn(&str) -> String) -> Self {
        let (mut rtc, socket) = peer(stage);
        let invitation = stage.engine.invite(&stage.broadcast()).unwrap();
        let offer = SdpOffer::from_sdp_string(&invitation.sdp).unwrap();
        let answer = change(&rtc.sdp_api().accept_offer(offer).unwrap().to_sdp_string());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(stage.engine.accept(&invitation.session, &answer)).unwrap();
        Self::with(rtc, socket, invitation)
    }

    fn drain(&mut self) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(_) => return,
                Output::Transmit(transmit) => {
                    self.socket.send_to(&transmit.contents, transmit.destination).unwrap();
                }
                Output::Event(Event::ChannelOpen(id, label)) => {
                    self.channels.push(id);
                    self.labels.push(label);
                }
                Output::Event(Event::ChannelClose(_)) => self.closed += 1,
                Output::Event(Event::ChannelData(data)) => self.heard.push((data.binary, data.data)),
                Output::Event(_) => {}
            }
        }
    }

    fn turn(&mut self) {
        let mut buffer = [0; 2_000];
        self.rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
        self.drain();
        while let Ok((length, source)) = self.socket.recv_from(&mut buffer) {
            let local = self.socket.local_addr().unwrap();
            let receive = Receive::new(Protocol::Udp, source, local, &buffer[..length]).unwrap();
            self.rtc.handle_input(Input::Receive(Instant::now(), receive)).unwrap();
            self.drain();
        }
    }

    /// On the first of its channels.
    fn say(&mut self, text: &str) {
        self.write(0, false, text.as_bytes());
    }

    fn write(&mut self, channel: usize, binary: bool, data: &[u8]) {
        let mut channel = self.rtc.channel(self.channels[channel]).unwrap();
        assert!(channel.write(binary, data).unwrap(), "the sender's buffer is full");
        self.drain();
    }

    fn texts(&self) -> Vec<&str> {
        self.heard.iter().map(|(_, data)| std::str::from_utf8(data).unwrap()).collect()
    }
}

/// Runs all of them until it is so.
fn until<const N: usize>(talkers: [&mut Talker; N], what: &str, mut so: impl FnMut(&[&mut Talker; N]) -> bool) {
    let limit = Instant::now() + PATIENCE;
    let mut talkers = talkers;
    while !so(&talkers) {
        let heard: Vec<usize> = talkers.iter().map(|talker| talker.heard.len()).collect();
        assert!(Instant::now() < limit, "waited in vain until {what}: {heard:?} messages heard");
        talkers.iter_mut().for_each(|talker| talker.turn());
    }
}

fn all_open<const N: usize>(talkers: &[&mut Talker; N]) -> bool {
    talkers.iter().all(|talker| !talker.channels.is_empty())
}

/// A publisher and two viewers, one of which lives on another shard than the publisher.
fn company(distribution: Distribution) -> (Stage, Talker, Talker, Talker) {
    let settings = Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        shards: 2,
        distribution: BTreeMap::from([("live".to_owned(), distribution)]),
        ..Settings::default()
    };
    let mut stage = Stage::with(settings);
    let mut publisher = Talker::publisher(&mut stage);
    until([&mut publisher], "the publisher's channel is open", all_open);
    let home = stage.engine.shard_for_test(&publisher.session).unwrap();
    let mut near: Option<Talker> = None;
    let mut far: Option<Talker> = None;
    // The kernel deals connections out to the shards as it likes.
    for _ in 0..64 {
        let mut viewer = Talker::viewer(&mut stage);
        until([&mut publisher, &mut viewer], "a viewer's channel is open", all_open);
        let is_near = stage.engine.shard_for_test(&viewer.session) == Some(home);
        let seat = if is_near { &mut near } else { &mut far };
        if seat.is_some() {
            assert!(stage.engine.close(&viewer.session));
        } else {
            *seat = Some(viewer);
        }
        if near.is_some() && far.is_some() {
            break;
        }
    }
    (stage, publisher, near.unwrap(), far.unwrap())
}

fn dropped(stage: &Stage) -> u64 {
    stage.engine.exchange_for_test().door.dropped.get()
}

#[test]
fn what_a_publisher_says_reaches_viewers_on_every_shard_as_it_was_said() {
    let (stage, mut publisher, mut near, mut far) = company(Distribution::None);
    let mut invited = Talker::invited(&stage, str::to_owned);
    until([&mut publisher, &mut invited], "the server has opened its channel", all_open);
    assert_eq!(invited.labels, ["x"], "named like the stream");
    publisher.say("{\"eventType\":\"MIC_MUTED\"}");
    publisher.write(0, true, &[0, 255, 254, 0]);
    publisher.write(0, true, &[7; MESSAGE_BYTES_MAX]);
    until([&mut publisher, &mut near, &mut far, &mut invited], "all have heard all", |talkers| {
        talkers[1..].iter().all(|talker| talker.heard.len() == 3)
    });
    for viewer in [&near, &far, &invited] {
        assert_eq!(viewer.heard[0], (false, b"{\"eventType\":\"MIC_MUTED\"}".to_vec()));
        assert_eq!(viewer.heard[1], (true, vec![0, 255, 254, 0]));
        assert_eq!(viewer.heard[2], (true, vec![7; MESSAGE_BYTES_MAX]));
    }
    assert!(publisher.heard.is_empty(), "it does not hear itself");
    assert_eq!(dropped(&stage), 0);
    let door = &stage.engine.exchange_for_test().door;
    assert_eq!((door.received.get(), door.sent.get(), door.errors.get()), (3, 9, 0));
}

#[test]
fn what_a_viewer_says_reaches_all_others() {
    let (_stage, mut publisher, mut near, mut far) = company(Distribution::All);
    near.say("from near");
    far.say("from far");
    until([&mut publisher, &mut near, &mut far], "it was passed on", |[publisher, near, far]| {
        publisher.heard.len() == 2 && !near.heard.is_empty() && !far.heard.is_empty()
    });
    publisher.say("end");
    until([&mut publisher, &mut near, &mut far], "the end is heard", |[_, near, far]| {
        near.texts().contains(&"end") && far.texts().contains(&"end")
    });
    assert_eq!(near.texts(), ["from far", "end"], "nobody hears itself");
    assert_eq!(far.texts(), ["from near", "end"]);
}

#[test]
fn an_application_may_let_viewers_speak_to_the_publisher_only() {
    let (_stage, mut publisher, mut near, mut far) = company(Distribution::Publisher);
    near.say("from near");
    far.say("from far");
    until([&mut publisher, &mut near, &mut far], "the publisher has heard both", |[publisher, ..]| {
        publisher.heard.len() == 2
    });
    // Said later, it arrives later: what others were not to hear would be there by then.
    publisher.say("end");
    until([&mut publisher, &mut near, &mut far], "the end is heard", |[_, near, far]| {
        near.texts().contains(&"end") && far.texts().contains(&"end")
    });
    assert_eq!((near.texts(), far.texts()), (vec!["end"], vec!["end"]));
}

#[test]
fn an_application_may_let_viewers_say_nothing() {
    let (stage, mut publisher, mut near, mut far) = company(Distribution::None);
    near.say("from near");
    let received = &stage.engine.exchange_for_test().door.received;
    until([&mut publisher, &mut near], "it has arrived", |_| received.get() == 1);
    publisher.say("end");
    until([&mut publisher, &mut near, &mut far], "the end is heard", |[_, near, far]| {
        !near.heard.is_empty() && !far.heard.is_empty()
    });
    assert_eq!((near.texts(), far.texts()), (vec!["end"], vec!["end"]));
    assert!(publisher.heard.is_empty());
}

#[test]
fn the_node_itself_speaks_to_everybody() {
    let (stage, mut publisher, mut near, mut far) = company(Distribution::None);
    stage.engine.say(&stage.id, false, Bytes::from_static(b"hello")).unwrap();
    until([&mut publisher, &mut near, &mut far], "all have heard it", |talkers| {
        talkers.iter().all(|talker| talker.texts() == ["hello"])
    });
    let say = |binary, data: Vec<u8>| stage.engine.say(&stage.id, binary, data.into());
    assert_eq!(say(true, Vec::new()), Err(SayError::Empty));
    assert_eq!(say(true, vec![0; MESSAGE_BYTES_MAX + 1]), Err(SayError::TooLong { length: MESSAGE_BYTES_MAX + 1 }));
    assert_eq!(say(false, vec![0xff]), Err(SayError::NotText));
    assert!(say(true, vec![0xff]).is_ok());
}

#[test]
fn what_is_too_long_is_refused_where_it_is_said_and_never_passed_on() {
    let (mut stage, mut publisher, mut near, _) = company(Distribution::All);
    assert!(publisher.sdp.contains("a=max-message-size:65536"), "{}", publisher.sdp);
    let mut channel = publisher.rtc.channel(publisher.channels[0]).unwrap();
    assert!(channel.write(true, &[7; MESSAGE_BYTES_MAX + 1]).is_err(), "the peer knows");
    // A peer that does not care hurts itself.
    let deaf = |sdp: &str| sdp.replace("a=max-message-size:65536", "a=max-message-size:0");
    let mut rude = Talker::join(&mut stage, Role::Viewer, &["rude"], deaf);
    until([&mut rude], "its channel is open", all_open);
    let rude_session = rude.session.clone();
    rude.write(0, true, &[7; 3 * MESSAGE_BYTES_MAX]);
    until([&mut rude], "it is shown out", |_| stage.engine.ice(&rude_session).is_none());
    near.say("short");
    until([&mut publisher, &mut near], "others are heard", |[publisher, _]| !publisher.heard.is_empty());
    assert_eq!(publisher.texts(), ["short"]);
}

#[test]
fn text_that_is_none_is_dropped() {
    let (stage, mut publisher, mut near, _) = company(Distribution::All);
    publisher.write(0, false, &[b'a', 0xff]);
    publisher.say("real");
    until([&mut publisher, &mut near], "the real one is heard", |[_, near]| !near.heard.is_empty());
    assert_eq!(near.texts(), ["real"]);
    assert_eq!(dropped(&stage), 1);
}

#[test]
fn who_speaks_too_fast_is_heard_in_part_and_in_the_end_not_at_all() {
    let (stage, mut publisher, mut flood, mut calm) = company(Distribution::Publisher);
    let (began, mut said) = (Instant::now(), 0);
    while flood.closed == 0 {
        assert!(said < 20_000, "it is never given up");
        (0..20).for_each(|_| flood.say("spam"));
        said += 20;
        publisher.turn();
        flood.turn();
        if said % 500 == 0 {
            calm.say("still here");
            calm.turn();
        }
    }
    // 5 seconds' worth are heard at once, 30 seconds' worth refused; both grow with the time this takes.
    let seconds = began.elapsed().as_secs() as usize + 1;
    assert!(said >= 500 + 3_000 && said < 5_000 + 200 * seconds, "given up after {said}");
    let calm_said = said / 500;
    until([&mut publisher, &mut flood, &mut calm], "the calm one was heard", |[publisher, ..]| {
        publisher.texts().iter().filter(|text| **text == "still here").count() == calm_said
    });
    let heard = publisher.texts().iter().filter(|text| **text == "spam").count();
    assert!((500..=500 + 100 * seconds).contains(&heard), "{heard} heard in {seconds} s");
    assert!(dropped(&stage) >= 3_000);
    assert_eq!(stage.engine.exchange_for_test().door.errors.get(), 1);
    assert!(flood.rtc.is_alive(), "what it watches goes on");
    // It may not come back by another channel.
    flood.rtc.direct_api().create_data_channel(ChannelConfig { label: "again".to_owned(), ..Default::default() });
    until([&mut flood, &mut calm], "the second channel is closed as well", |[flood, _]| flood.closed == 2);
}

#[test]
fn a_viewer_that_does_not_read_loses_messages_and_nobody_else_does() {
    let (stage, mut publisher, mut sleeper, mut reader) = company(Distribution::All);
    let chunk = vec![7; 16_000];
    for i in 1..=40 {
        publisher.write(0, true, &chunk);
        until([&mut publisher, &mut reader], "the reader has it", |[_, reader]| reader.heard.len() == i);
    }
    until([&mut publisher], "the rest is counted", |_| dropped(&stage) > 0);
    let lost = dropped(&stage) as usize;
    assert!((20..30).contains(&lost), "{lost} of 40 lost where 256 KiB fit");
    let waiting = 40 - lost;
    until([&mut publisher, &mut sleeper], "it has what was kept for it", |[_, sleeper]| sleeper.heard.len() == waiting);
    assert!(sleeper.heard.iter().all(|(binary, data)| *binary && *data == chunk), "whole messages only");
    publisher.say("awake?");
    until([&mut publisher, &mut sleeper], "it is told again", |[_, sleeper]| sleeper.heard.len() == waiting + 1);
}

#[test]
fn a_peer_has_a_few_channels_and_is_heard_on_each() {
    let (mut stage, mut publisher, mut near, _) = company(Distribution::All);
    let mut viewer = Talker::join(&mut stage, Role::Viewer, &["1", "2", "3", "4", "5", "6"], str::to_owned);
    until([&mut publisher, &mut viewer], "two are too many", |[_, viewer]| {
        viewer.channels.len() == 6 && viewer.closed == 2
    });
    for channel in 0..6 {
        if viewer.rtc.channel(viewer.channels[channel]).is_some() {
            viewer.write(channel, false, viewer.labels[channel].clone().as_bytes());
        }
    }
    until([&mut publisher, &mut near, &mut viewer], "four are heard", |[publisher, ..]| publisher.heard.len() == 4);
    publisher.say("once");
    until([&mut publisher, &mut viewer], "the answer is heard", |[_, viewer]| !viewer.heard.is_empty());
    publisher.say("twice");
    until([&mut publisher, &mut viewer], "the next is heard", |[_, viewer]| viewer.texts().contains(&"twice"));
    assert_eq!(viewer.texts(), ["once", "twice"], "on one channel only");
}

#[test]
fn a_player_is_told_things_on_its_control_channel_and_nobody_else_is() {
    let (mut stage, mut publisher, mut near, _) = company(Distribution::All);
    let labels = ["headwater/control", "mine", "headwater/control"];
    let mut player = Talker::join(&mut stage, Role::Viewer, &labels, str::to_owned);
    let hears = |stage: &Stage, talker: &Talker| {
        let members = stage.engine.members(Role::Viewer);
        members.into_iter().find(|member| member.session == talker.session).unwrap().hears
    };
    until([&mut publisher, &mut near, &mut player], "its channels are open", |[.., player]| player.channels.len() == 3);
    until([&mut near, &mut player], "the server knows", |[_, player]| hears(&stage, player));
    assert!(!hears(&stage, &near));
    let word: Arc<str> = "go".into();
    stage.engine.instruct(&near.session, &word);
    stage.engine.instruct(&player.session, &word);
    until([&mut near, &mut player], "it hears", |[_, player]| !player.heard.is_empty());
    assert_eq!((player.texts(), near.texts()), (vec!["go"], vec![]));

    // What it says there is for nobody, and what others say does not arrive there.
    player.say("on control");
    player.write(1, false, b"on its own");
    until([&mut publisher, &mut near, &mut player], "others hear it", |[publisher, near, _]| {
        !publisher.heard.is_empty() && !near.heard.is_empty()
    });
    assert_eq!(near.texts(), ["on its own"]);
    for _ in 0..1_000 {
        if player.closed > 0 {
            break;
        }
        (0..20).for_each(|_| player.say("spam"));
        player.turn();
    }
    assert!(player.closed > 0 && !hears(&stage, &player), "who only makes noise there is given up");
}

#[test]
fn a_publisher_that_was_replaced_neither_speaks_nor_listens() {
    let (mut stage, mut old, mut near, mut far) = company(Distribution::Publisher);
    let mut new = Talker::publisher(&mut stage);
    until([&mut old, &mut new], "the new one's channel is open", all_open);
    let old_session = old.session.clone();
    old.say("old");
    until([&mut old], "it is shown out", |_| stage.engine.ice(&old_session).is_none());
    near.say("to whom?");
    new.say("new");
    until([&mut old, &mut new, &mut near, &mut far], "the new one is heard", |[_, new, near, far]| {
        !new.heard.is_empty() && !near.heard.is_empty() && !far.heard.is_empty()
    });
    assert_eq!((near.texts(), far.texts()), (vec!["new"], vec!["new"]));
    assert_eq!((old.texts(), new.texts()), (vec![], vec!["to whom?"]));
}

#[test]
fn who_leaves_is_forgotten() {
    let (stage, mut publisher, near, far) = company(Distribution::All);
    let sessions = [&publisher.session, &near.session, &far.session];
    assert!(sessions.into_iter().all(|session| stage.engine.close(session)));
    until([&mut publisher], "all are gone", |_| stage.engine.counts() == (0, 0));
    assert!(!stage.engine.exchange_for_test().has_circles_for_test());
    assert_eq!(stage.broadcast().status(), Status::Ended);
}

#[test]
fn an_invited_viewer_may_do_without_a_channel() {
    let mut stage = Stage::new(1);
    stage.gop(3);
    let without = |answer: &str| {
        assert!(answer.contains("m=application 9 "), "{answer}");
        answer.replace("m=application 9 ", "m=application 0 ")
    };
    let mut viewer = Talker::invited(&stage, without);
    until([&mut viewer], "it is connected", |_| stage.engine.sessions(&stage.id)[0].connected);
    stage.engine.say(&stage.id, false, Bytes::from_static(b"anybody?")).unwrap();
}
