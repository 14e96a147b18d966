//! Publishers: what they send reaches the hall, whatever the network does to it.

use std::sync::LazyLock;

use str0m::{
    format::Codec as Format,
    media::{Frequency, MediaTime, Mid, Rid, Simulcast, SimulcastLayer},
};
use tokio::{
    runtime::Runtime,
    sync::{oneshot, watch},
    time::timeout,
};

use super::*;
use crate::{
    intake::Intake,
    live::{Fenced, Start, Status},
};

/// 320 × 240, constrained baseline.
const REAL_SPS: &[u8] = &[0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x07, 0xc4];

/// A publisher of pictures and sound in real time, as fast as the test turns.
struct Sender {
    rtc: Rtc,
    socket: UdpSocket,
    session: SessionId,
    video: Mid,
    audio: Mid,
    rids: Vec<Rid>,
    loss_percent: u32,
    dice: u32,
    began: Instant,
    pictures: u64,
    sounds: u64,
    keyframes_wanted: usize,
    keyframe_due: bool,
    connected: bool,
}

/// An access unit in Annex B.
fn annex_b(keyframe: bool, bytes: usize) -> Vec<u8> {
    let mut unit = Vec::new();
    let slice = [&[if keyframe { 0x65 } else { 0x41 }, 0x88][..], &vec![7; bytes]].concat();
    let units: &[&[u8]] = if keyframe { &[REAL_SPS, PPS, &slice] } else { &[&slice] };
    for nal in units {
        unit.extend([0, 0, 0, 1]);
        unit.extend_from_slice(nal);
    }
    unit
}

impl Stage {
    /// A hall without a publisher.
    pub(super) fn empty(shards: usize) -> Self {
        let mut stage = Self::new(shards);
        stage.writer.take().unwrap().finish(crate::clock::now_us());
        stage
    }

    fn claim(&mut self) -> Intake {
        Intake::new(self.writer_of("webrtc"), Telemetry::new().door("test"))
    }

    /// With whatever decides whether it is let in.
    fn answer(&self, incoming: Incoming, entry: impl Future<Output = Option<Intake>> + Send + 'static) -> Answer {
        // Shared: one that is dropped among asynchronous code panics.
        static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
        let _entered = RUNTIME.enter();
        self.engine.publish(incoming, &self.id, entry).unwrap()
    }

    /// One that is let in.
    pub(super) fn take(&mut self, incoming: Incoming) -> Answer {
        let intake = self.claim();
        self.answer(incoming, async { Some(intake) })
    }
}

impl Sender {
    fn join(stage: &mut Stage, rids: &[&str]) -> Self {
        Self::answered(stage, rids, Stage::take)
    }

    fn answered(stage: &mut Stage, rids: &[&str], answer: impl FnOnce(&mut Stage, Incoming) -> Answer) -> Self {
        let socket = UdpSocket::bind((stage.engine.address().ip(), 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        let mut rtc = RtcConfig::new().build(Instant::now());
        rtc.add_local_candidate(Candidate::host(socket.local_addr().unwrap(), "udp").unwrap());
        let mut api = rtc.sdp_api();
        let layers = (!rids.is_empty()).then(|| {
            let send = rids.iter().map(|rid| SimulcastLayer::new(rid)).collect();
            Simulcast { send, recv: Vec::new() }
        });
        let video = api.add_media(MediaKind::Video, Direction::SendOnly, None, None, layers);
        let audio = api.add_media(MediaKind::Audio, Direction::SendOnly, None, None, None);
        let (offer, pending) = api.apply().unwrap();
        let incoming = stage.engine.receive(&offer.to_sdp_string()).unwrap();
        let answer = answer(stage, incoming);
        let accepted = SdpAnswer::from_sdp_string(&answer.sdp).unwrap();
        rtc.sdp_api().accept_answer(pending, accepted).unwrap();
        Self {
            rtc,
            socket,
            session: answer.session,
            video,
            audio,
            rids: rids.iter().map(|rid| Rid::from(*rid)).collect(),
            loss_percent: 0,
            dice: 1,
            began: Instant::now(),
            pictures: 0,
            sounds: 0,
            keyframes_wanted: 0,
            keyframe_due: true,
            connected: false,
        }
    }

    fn is_lost(&mut self) -> bool {
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.dice >> 16) % 100 < self.loss_percent
    }

    fn drain(&mut self) {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(_) => return,
                Output::Transmit(transmit) if self.is_lost() => drop(transmit),
                Output::Transmit(transmit) => {
                    self.socket.send_to(&transmit.contents, transmit.destination).unwrap();
                }
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::KeyframeRequest(_)) => {
                    self.keyframes_wanted += 1;
                    self.keyframe_due = true;
                }
                Output::Event(_) => {}
            }
        }
    }

    fn write(&mut self, mid: Mid, rid: Option<Rid>, format: Format, time: MediaTime, data: Vec<u8>) {
        let Some(mut writer) = self.rtc.writer(mid) else { return };
        let pt = writer.payload_params().find(|params| params.spec().codec == format).map(|params| params.pt());
        if let Some(rid) = rid {
            writer = writer.rid(rid);
        }
        writer.write(pt.unwrap(), Instant::now(), time, data).unwrap();
        self.drain();
    }

    /// Sends what is due and takes what has come.
    fn turn(&mut self) {
        let mut buffer = [0; 2_000];
        self.rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
        self.drain();
        if self.connected && self.began.elapsed().as_millis() as u64 >= self.pictures * 33 {
            let keyframe = std::mem::take(&mut self.keyframe_due);
            // RTP clocks of picture and sound have nothing to do with each other.
            let time = MediaTime::new(5_000_000 + self.pictures * 33 * 90, Frequency::NINETY_KHZ);
            let layers =
                if self.rids.is_empty() { vec![None] } else { self.rids.clone().into_iter().map(Some).collect() };
            for (nth, rid) in layers.into_iter().enumerate() {
                let bytes = if keyframe { 6_000 } else { 1_500 } >> nth;
                self.write(self.video, rid, Format::H264, time, annex_b(keyframe, bytes));
            }
            self.pictures += 1;
        }
        if self.connected && self.began.elapsed().as_millis() as u64 >= self.sounds * 20 {
            let time = MediaTime::new(77 + self.sounds * 960, Frequency::FORTY_EIGHT_KHZ);
            self.write(self.audio, None, Format::Opus, time, vec![0xfc, 0xff, 0xfe]);
            self.sounds += 1;
        }
        let Ok((length, source)) = self.socket.recv_from(&mut buffer) else { return };
        if self.is_lost() {
            return;
        }
        let local = self.socket.local_addr().unwrap();
        let receive = Receive::new(Protocol::Udp, source, local, &buffer[..length]).unwrap();
        self.rtc.handle_input(Input::Receive(Instant::now(), receive)).unwrap();
        self.drain();
    }

    fn until(&mut self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let limit = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(
                Instant::now() < limit,
                "waited in vain until {what}: {} pictures, {} sounds, asked for {} keyframes",
                self.pictures,
                self.sounds,
                self.keyframes_wanted
            );
            self.turn();
        }
    }
}

fn frames(broadcast: &Broadcast, kind: Kind) -> u64 {
    broadcast.source(kind).map_or(0, |track| track.stats().frames)
}

#[test]
fn what_a_publisher_sends_is_in_the_hall_and_plays() {
    let mut stage = Stage::empty(2);
    let broadcast = stage.broadcast();
    let mut sender = Sender::join(&mut stage, &[]);
    sender.until("pictures are in the hall", |_| frames(&broadcast, Kind::Video) > 30);
    let video = broadcast.source(Kind::Video).unwrap();
    assert_eq!(video.info().unwrap().shape, Shape::Video { width: 320, height: 240, reorders: false });
    let frame = video.read(Start::Oldest).try_next().unwrap();
    assert!(frame.keyframe);
    assert_eq!(frame.payload[..4], 6_002_u32.to_be_bytes(), "canonical form");
    assert_eq!(stage.engine.viewers(&stage.id), 0, "a publisher does not watch");

    let mut viewer = Client::join(&stage);
    let limit = Instant::now() + PATIENCE;
    while viewer.pictures() < 30 {
        assert!(Instant::now() < limit, "{} pictures", viewer.pictures());
        sender.turn();
        viewer.turn();
    }
    viewer.assert_seamless();
    assert!(stage.engine.close(&sender.session));
    sender.until("the end is known", |_| broadcast.status() == Status::Ended);
    let session = sender.session.clone();
    sender.until("nothing remains", |_| stage.engine.state(&session).is_none());
}

#[test]
fn who_never_connects_asks_for_nothing() {
    let mut stage = Stage::empty(1);
    let (entry, mut asked) = oneshot::channel::<()>();
    let sender = Sender::answered(&mut stage, &[], |stage, incoming| {
        stage.answer(incoming, async move {
            drop(entry);
            panic!("it was never connected");
        })
    });
    let state = stage.engine.state(&sender.session).unwrap();
    let broadcast = stage.broadcast();
    assert_eq!((*state.borrow(), broadcast.status()), (State::Connecting, Status::Ended));
    stage.engine.expire_for_test(Instant::now() + Duration::from_secs(11));
    assert_eq!(stage.engine.counts(), (0, 0));
    // What would have asked is dropped, not run.
    let limit = Instant::now() + PATIENCE;
    while asked.try_recv() != Err(oneshot::error::TryRecvError::Closed) {
        assert!(Instant::now() < limit, "it still waits");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(broadcast.status(), Status::Ended);
}

/// A registry takes its time; the first keyframe is not repeated for that.
#[test]
fn what_is_sent_before_a_publisher_is_let_in_is_in_the_hall_afterwards() {
    let mut stage = Stage::empty(1);
    let (let_in, entry) = oneshot::channel::<Intake>();
    let mut sender =
        Sender::answered(&mut stage, &[], |stage, incoming| stage.answer(incoming, async move { entry.await.ok() }));
    let engine = stage.engine.clone();
    sender.until("some pictures are sent", |sender| sender.pictures > 20 && sender.sounds > 20);
    let broadcast = stage.broadcast();
    assert_eq!((broadcast.status(), frames(&broadcast, Kind::Video)), (Status::Ended, 0));
    assert_eq!(*engine.state(&sender.session).unwrap().borrow(), State::Connecting, "not let in yet");
    assert!(!engine.sessions(&stage.id)[0].connected);
    let_in.send(stage.claim()).ok().unwrap();
    let sent = sender.pictures;
    let broadcast = stage.broadcast();
    sender.until("all of them are in the hall", |_| frames(&broadcast, Kind::Video) >= sent);
    assert_eq!(*engine.state(&sender.session).unwrap().borrow(), State::Connected);
    let mut reader = broadcast.source(Kind::Video).unwrap().read(Start::Oldest);
    let pictures: Vec<_> = std::iter::from_fn(|| reader.try_next()).collect();
    assert!(pictures[0].keyframe);
    let steps = pictures.windows(2).map(|pair| pair[1].dts_us - pair[0].dts_us);
    assert!(steps.clone().all(|step| (20_000..50_000).contains(&step)), "{:?}", steps.collect::<Vec<_>>());
    assert!(frames(&broadcast, Kind::Audio) >= 20);
}

#[test]
fn a_publisher_that_is_not_let_in_is_told_and_leaves_nothing() {
    let mut stage = Stage::empty(1);
    let mut sender =
        Sender::answered(&mut stage, &[], |stage, incoming| stage.answer(incoming, std::future::ready(None)));
    let state = stage.engine.state(&sender.session).unwrap();
    sender.until("it is told", |_| *state.borrow() == State::Ended(End::Refused));
    let engine = stage.engine.clone();
    sender.until("nothing remains", |sender| engine.state(&sender.session).is_none());
    assert_eq!(stage.broadcast().status(), Status::Ended);
}

/// What was asked for is given back at once.
#[test]
fn a_publisher_that_goes_before_it_is_let_in_holds_nothing() {
    let mut stage = Stage::empty(1);
    let (let_in, entry) = oneshot::channel::<Intake>();
    let mut sender =
        Sender::answered(&mut stage, &[], |stage, incoming| stage.answer(incoming, async move { entry.await.ok() }));
    sender.until("it sends", |sender| sender.pictures > 2);
    let engine = stage.engine.clone();
    assert!(engine.close(&sender.session));
    sender.until("it is gone", |sender| engine.state(&sender.session).is_none());
    let_in.send(stage.claim()).ok().unwrap();
    let broadcast = stage.broadcast();
    sender.until("the broadcast is free", |_| broadcast.status() == Status::Ended);
}

#[test]
fn a_publishers_numbers_are_known_and_summed_up() {
    let mut stage = Stage::empty(1);
    let broadcast = stage.broadcast();
    let mut sender = Sender::join(&mut stage, &[]);
    let engine = stage.engine.clone();
    let numbers = || engine.sessions(broadcast.id()).pop().unwrap();
    sender.until("bitrates are known", |_| numbers().receive_bps > 100_000);
    let numbers = numbers();
    assert_eq!((numbers.role, numbers.connected, numbers.protocol), (Role::Publisher, true, "udp"));
    assert!(numbers.keyframes_asked >= 1 && numbers.bytes_received > 100_000, "{numbers:?}");
    assert!(numbers.remote.starts_with("127.0.0.1:"), "{numbers:?}");
    let metrics = stage.telemetry.render();
    let sum = |line: &str| {
        let value = metrics.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_else(|| panic!("{line}: {metrics}"));
        value.trim().parse::<f64>().unwrap()
    };
    assert_eq!(sum("headwater_webrtc_sessions{role=\"publisher\"}"), 1.0);
    assert_eq!(sum("headwater_webrtc_sessions{role=\"viewer\"}"), 0.0);
    assert!(sum("headwater_webrtc_receive_bits_per_second{role=\"publisher\"}") > 100_000.0);
}

#[test]
fn a_publisher_is_asked_for_keyframes_when_somebody_needs_one_and_never_in_a_storm() {
    let mut stage = Stage::empty(1);
    let broadcast = stage.broadcast();
    let mut sender = Sender::join(&mut stage, &[]);
    sender.until("pictures are in the hall", |_| frames(&broadcast, Kind::Video) > 10);
    let (before, began) = (sender.keyframes_wanted, Instant::now());
    sender.until("a second has passed", |_| {
        broadcast.source(Kind::Video).unwrap().request_keyframe();
        began.elapsed() > Duration::from_secs(1)
    });
    let asked = sender.keyframes_wanted - before;
    assert!((1..=3).contains(&asked), "asked {asked} times");
    // Nobody needs one now, and still a gop does not last for ever.
    sender.until("the request has been seen", |_| !broadcast.source(Kind::Video).unwrap().take_keyframe_request());
    let (before, began) = (sender.keyframes_wanted, Instant::now());
    sender.until("it was asked again", |sender| sender.keyframes_wanted > before);
    assert!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
}

#[test]
fn loss_is_repaired_before_frames_reach_the_hall() {
    let mut stage = Stage::empty(1);
    let broadcast = stage.broadcast();
    let mut sender = Sender::join(&mut stage, &[]);
    sender.until("pictures are in the hall", |_| frames(&broadcast, Kind::Video) > 5);
    sender.loss_percent = 5;
    let (sent, arrived) = (sender.pictures, frames(&broadcast, Kind::Video));
    sender.until("150 more were sent", |sender| sender.pictures > sent + 150);
    sender.loss_percent = 0;
    let (sent, arrived_before) = (sender.pictures - sent, arrived);
    sender.until("the rest has come", |_| frames(&broadcast, Kind::Video) - arrived_before > sent * 9 / 10);
    assert!(frames(&broadcast, Kind::Audio) > 150);
}

#[test]
fn layers_arrive_side_by_side_and_the_best_is_the_source() {
    let mut stage = Stage::empty(2);
    let broadcast = stage.broadcast();
    let mut sender = Sender::join(&mut stage, &["h", "l"]);
    sender.until("both layers are in the hall", |_| {
        let layers = broadcast.layers();
        layers.len() == 2 && layers.iter().all(|layer| layer.stats().frames > 20)
    });
    let names: Vec<_> = broadcast.layers().iter().map(|layer| layer.name().to_owned()).collect();
    assert_eq!(names, ["video:h", "video:l"]);
    assert!(frames(&broadcast, Kind::Video) > 20);
    // The encoder gives one of them up: outputs of one picture go on with the other.
    let gone = sender.rids.remove(0);
    let before = frames(&broadcast, Kind::Video);
    sender.until("the source goes on", |_| frames(&broadcast, Kind::Video) > before + 60);
    sender.rids.insert(0, gone);
}

#[test]
fn a_publisher_that_vanishes_leaves_nothing_but_an_interrupted_broadcast() {
    let mut stage = Stage::empty(1);
    let broadcast = stage.broadcast();
    let mut sender = Sender::join(&mut stage, &[]);
    sender.until("pictures are in the hall", |_| frames(&broadcast, Kind::Video) > 5);
    let state = stage.engine.state(&sender.session).unwrap();
    assert_eq!(*state.borrow(), State::Connected);
    drop(sender);
    let limit = Instant::now() + Duration::from_secs(40);
    while broadcast.status() == Status::Live {
        assert!(Instant::now() < limit, "still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(broadcast.status(), Status::Interrupted);
    assert_eq!(*state.borrow(), State::Ended(End::Vanished));
    assert_eq!(stage.engine.counts(), (0, 0));
}

/// What follows on being connected.
fn after_connected(mut state: watch::Receiver<State>) -> State {
    Runtime::new().unwrap().block_on(async {
        let next = state.wait_for(|state| *state != State::Connected);
        *timeout(PATIENCE, next).await.expect("it ends").expect("its last state is told")
    })
}

#[test]
fn a_goodbye_counts_whatever_follows_it() {
    let mut stage = Stage::empty(1);
    let broadcast = stage.broadcast();
    let mut sender = Sender::join(&mut stage, &[]);
    sender.until("pictures are in the hall", |_| frames(&broadcast, Kind::Video) > 5);
    let state = stage.engine.state(&sender.session).unwrap();
    sender.rtc.close().unwrap();
    sender.drain();
    // The shard takes them all at once.
    for _ in 0..50 {
        sender.socket.send_to(&[0x80; 64], stage.engine.address()).unwrap();
    }
    assert_eq!(after_connected(state), State::Ended(End::Left));
    assert_eq!(broadcast.status(), Status::Ended);
}

#[test]
fn a_publisher_that_is_replaced_is_told() {
    let mut stage = Stage::empty(1);
    let broadcast = stage.broadcast();
    let mut first = Sender::join(&mut stage, &[]);
    first.until("pictures are in the hall", |_| frames(&broadcast, Kind::Video) > 5);
    let state = stage.engine.state(&first.session).unwrap();
    let _second = stage.claim();
    first.until("the first is sent away", |_| *state.borrow() == State::Ended(End::Replaced));
    assert_eq!(broadcast.status(), Status::Live, "the second one's");
}

/// It is connected and sends nothing: the hall is nobody whom it meets by itself.
#[test]
fn a_publisher_whose_broadcast_is_stopped_is_told_though_it_sends_nothing() {
    let mut stage = Stage::empty(1);
    let broadcast = stage.broadcast();
    let mut sender = Sender::join(&mut stage, &[]);
    sender.until("pictures are in the hall", |_| frames(&broadcast, Kind::Video) > 5);
    let state = stage.engine.state(&sender.session).unwrap();
    let held = broadcast.claimed_epoch();
    assert!(stage.hub.turn_away(broadcast.id(), held, Fenced::Stopped, crate::clock::now_us()));
    assert_eq!((after_connected(state), broadcast.status()), (State::Ended(End::Stopped), Status::Ended));
}

#[test]
fn an_offer_that_is_not_taken_says_why() {
    let stage = Stage::new(1);
    let mut rtc = RtcConfig::new().build(Instant::now());
    let mut api = rtc.sdp_api();
    api.add_media(MediaKind::Video, Direction::SendOnly, None, None, None);
    let offer = api.apply().unwrap().0.to_sdp_string();
    let refusal = |offer: &str| match stage.engine.receive(offer).err().expect("a refusal") {
        JoinError::Sdp(err) => err,
        other => panic!("{other}"),
    };
    assert_eq!(refusal(&offer.replace("a=sendonly", "a=recvonly")), SdpError::NothingSent);
    let unknown = ["H264", "VP8", "VP9", "AV1", "H265"].iter().fold(offer.clone(), |o, name| o.replace(name, "H261"));
    let text = refusal(&unknown).to_string();
    assert!(text.contains("H261") && text.contains("H264, VP8"), "{text}");
    let forged = offer.replace("sha-256 ", "sha-256 zz:");
    assert!(matches!(refusal(&forged), SdpError::Refused(_)));
    assert!(stage.engine.receive(&offer).is_ok());
    assert_eq!(stage.engine.counts(), (0, 0), "looking at an offer leaves nothing behind");
}
