//! The engine as a peer sees it: a client of the same WebRTC stack over real sockets.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig,
    change::SdpAnswer,
    format::{self, PayloadParams},
    media::{Direction, KeyframeRequestKind, MediaKind},
    net::{Protocol, Receive},
    rtp::RtpPacket,
};

mod channels;
mod codecs;
mod dtls;
mod enable;
mod invite;
mod publish;

use super::{engine::Engine, *};
use crate::{
    live::{Broadcast, BroadcastId, Claim, Hub, LINGER_US, Publisher, Takeover, TrackWriter, Writer},
    media::{Codec, Conversion, Frame, Info, Kind, Sample, Shape},
    telemetry::Telemetry,
};

mod layers;

const PATIENCE: Duration = Duration::from_secs(20);
const SPS: &[u8] = &[0x67, 0x42, 0xc0, 0x1f, 0xda, 0x01, 0x40, 0x16];
const PPS: &[u8] = &[0x68, 0xce, 0x3c, 0x80];

struct Stage {
    hub: Arc<Hub>,
    telemetry: Telemetry,
    id: BroadcastId,
    engine: Engine,
    writer: Option<Writer>,
    epoch: u64,
    pts_us: i64,
}

fn video_info(reorders: bool) -> Info {
    let mut config = vec![1, SPS[1], SPS[2], SPS[3], 0xff, 0xe1, 0, SPS.len() as u8];
    config.extend(SPS);
    config.extend([1, 0, PPS.len() as u8]);
    config.extend(PPS);
    Info { codec: Codec::H264, config: config.into(), shape: Shape::Video { width: 640, height: 360, reorders } }
}

fn picture(keyframe: bool, bytes: usize) -> Bytes {
    let mut payload = (bytes as u32).to_be_bytes().to_vec();
    payload.push(if keyframe { 0x65 } else { 0x41 });
    payload.resize(4 + bytes, 7);
    payload.into()
}

impl Stage {
    fn new(shards: usize) -> Self {
        Self::listening("127.0.0.1:0", shards)
    }

    fn listening(listen: &str, shards: usize) -> Self {
        let listen = listen.parse().unwrap();
        Self::with(Settings { listen, shards, sessions_max: 100, ..Settings::default() })
    }

    fn with(settings: Settings) -> Self {
        let telemetry = Telemetry::new();
        let engine = Engine::start(settings, &telemetry).unwrap();
        let id = BroadcastId::new("live", "x").unwrap();
        let mut stage = Self { hub: Hub::new(), telemetry, id, engine, writer: None, epoch: 0, pts_us: 0 };
        stage.publish();
        stage
    }

    /// Claims the broadcast, as a publisher that connects (again).
    fn writer_of(&mut self, protocol: &'static str) -> Writer {
        self.epoch += 1;
        let publisher = Publisher { protocol, remote: String::new(), agent: String::new() };
        let claim = Claim {
            epoch: self.epoch,
            next_gop: 0,
            discontinuity: 0,
            born_us: self.hub.get(&self.id).map_or_else(crate::clock::now_us, |known| known.born_us()),
            segment_target_s: None,
            publisher,
        };
        self.hub.claim(&self.id, claim, Takeover::Replace, crate::clock::now_us()).unwrap()
    }

    /// Somebody publishes.
    fn publish(&mut self) {
        let mut writer = self.writer_of("test");
        writer.announce(video_info(false)).unwrap();
        let shape = Shape::Audio { sample_rate: 48_000, channels: 2 };
        writer.announce(Info { codec: Codec::Opus, config: Bytes::new(), shape }).unwrap();
        self.writer = Some(writer);
    }

    fn broadcast(&self) -> Arc<Broadcast> {
        self.hub.get(&self.id).unwrap()
    }

    fn writer(&mut self) -> &mut Writer {
        self.writer.as_mut().unwrap()
    }

    /// One picture and the sound that belongs to it.
    fn write(&mut self, keyframe: bool, bytes: usize) {
        let pts_us = self.pts_us;
        self.pts_us += 33_333;
        let sample = |payload, keyframe| Sample { dts_us: pts_us, pts_us, keyframe, payload };
        let picture = sample(picture(keyframe, bytes), keyframe);
        self.writer().write(Kind::Video, picture, crate::clock::now_us()).unwrap();
        let sound = sample(Bytes::from_static(&[0xfc, 0xff, 0xfe]), true);
        self.writer().write(Kind::Audio, sound, crate::clock::now_us()).unwrap();
    }

    fn gop(&mut self, frames: usize) {
        (0..frames).for_each(|i| self.write(i == 0, if i == 0 { 6_000 } else { 2_000 }));
    }
}

struct Client {
    rtc: Rtc,
    socket: UdpSocket,
    /// What it takes for its address, also behind a NAT that has changed it.
    local: SocketAddr,
    session: SessionId,
    etag: String,
    answer: String,
    video: Vec<RtpPacket>,
    audio: Vec<RtpPacket>,
    /// Counts down with each media datagram; the one at zero is lost.
    lose: Option<usize>,
    /// Datagrams that get lost each way.
    loss_percent: u32,
    dice: u32,
    connected: bool,
}

fn socket(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    socket
}

impl Client {
    fn join(stage: &Stage) -> Self {
        Self::taking(stage, RtcConfig::new())
    }

    /// With the codecs of `config`.
    fn taking(stage: &Stage, config: RtcConfig) -> Self {
        let socket = socket(stage.engine.address().ip());
        let mut rtc = config.set_rtp_mode(true).build(Instant::now());
        rtc.add_local_candidate(Candidate::host(socket.local_addr().unwrap(), "udp").unwrap());
        let mut api = rtc.sdp_api();
        for kind in [MediaKind::Video, MediaKind::Audio] {
            api.add_media(kind, Direction::RecvOnly, None, None, None);
        }
        let (offer, pending) = api.apply().unwrap();
        let answer = stage.engine.view(&stage.broadcast(), &offer.to_sdp_string()).unwrap();
        let accepted = SdpAnswer::from_sdp_string(&answer.sdp).unwrap();
        rtc.sdp_api().accept_answer(pending, accepted).unwrap();
        Self::with(rtc, socket, answer)
    }

    fn with(rtc: Rtc, socket: UdpSocket, answer: Answer) -> Self {
        let (session, etag) = (answer.session, answer.etag);
        let (video, audio) = (Vec::new(), Vec::new());
        let local = socket.local_addr().unwrap();
        Self {
            rtc,
            socket,
            local,
            session,
            etag,
            answer: answer.sdp,
            video,
            audio,
            lose: None,
            loss_percent: 0,
            dice: 1,
            connected: false,
        }
    }

    fn is_lost(&mut self) -> bool {
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.dice >> 16) % 100 < self.loss_percent
    }

    fn send(&mut self) {
        for transmit in self.drain() {
            if transmit.proto == Protocol::Udp && !self.is_lost() {
                self.socket.send_to(&transmit.contents, transmit.destination).unwrap();
            }
        }
    }

    fn drain(&mut self) -> Vec<str0m::net::Transmit> {
        let mut sent = Vec::new();
        let is_opus = |params: &&PayloadParams| params.spec().codec == format::Codec::Opus;
        let opus = self.rtc.codec_config().params().iter().find(is_opus).map(|params| params.pt());
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(_) => return sent,
                Output::Transmit(transmit) => sent.push(transmit),
                Output::Event(Event::RtpPacket(packet)) => {
                    // The section is named until the first receiver report only, the payload type always.
                    let is_opus = Some(packet.header.payload_type) == opus;
                    let packets = if is_opus { &mut self.audio } else { &mut self.video };
                    packets.push(packet);
                }
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(_) => {}
            }
        }
    }

    fn turn(&mut self) {
        let mut buffer = [0; 2_000];
        self.rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
        self.send();
        let Ok((length, source)) = self.socket.recv_from(&mut buffer) else { return };
        if self.is_lost() {
            return;
        }
        if buffer[0] >= 128 && !(192..=223).contains(&buffer[1]) {
            self.lose = self.lose.map(|left| left.wrapping_sub(1));
            if self.lose == Some(usize::MAX) {
                self.lose = None;
                return;
            }
        }
        let receive = Receive::new(Protocol::Udp, source, self.local, &buffer[..length]).unwrap();
        self.rtc.handle_input(Input::Receive(Instant::now(), receive)).unwrap();
        self.send();
    }

    /// Runs until it is so.
    fn until(&mut self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let limit = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(Instant::now() < limit, "waited in vain until {what}: {} video packets", self.video.len());
            self.turn();
        }
    }

    fn pictures(&self) -> usize {
        self.video.iter().filter(|packet| packet.header.marker).count()
    }

    /// Packets that begin with parameter sets.
    fn keyframes(&self) -> usize {
        self.video.iter().filter(|packet| packet.payload.first().is_some_and(|b| b & 0x1f == 24)).count()
    }

    fn assert_seamless(&self) {
        let mut seqs: Vec<u64> = self.video.iter().map(|packet| *packet.seq_no).collect();
        seqs.sort_unstable();
        seqs.dedup();
        assert_eq!(seqs.last().unwrap() - seqs[0] + 1, seqs.len() as u64, "a sequence number is missing");
    }
}

#[test]
fn a_viewer_starts_at_the_newest_keyframe_and_is_live_at_once() {
    let mut stage = Stage::new(2);
    stage.gop(20);
    stage.gop(40);
    let mut client = Client::join(&stage);
    client.until("the gop is there", |client| client.pictures() == 40);
    assert_eq!(client.video[0].payload[0] & 0x1f, 24, "parameter sets first");
    assert_eq!(client.keyframes(), 1, "not the gop before");
    let squeezed = client.video.last().unwrap().header.timestamp.wrapping_sub(client.video[0].header.timestamp);
    assert_eq!(squeezed, 39);
    stage.write(false, 2_000);
    client.until("the live picture is there", |client| client.pictures() == 41);
    let step = client.video.last().unwrap().header.timestamp.wrapping_sub(
        client
            .video
            .iter()
            .rev()
            .find(|packet| packet.header.timestamp != client.video.last().unwrap().header.timestamp)
            .unwrap()
            .header
            .timestamp,
    );
    assert!((2_990..=3_010).contains(&step), "{step} ticks after the squeezed gop");
    client.until("sound is there, from the live edge on", |client| client.audio.len() == 1);
    client.assert_seamless();
    assert_eq!(stage.engine.viewers(&stage.id), 1);
    assert!(stage.engine.sessions(&stage.id)[0].connected);
}

#[test]
fn a_viewer_survives_a_publisher_that_comes_back() {
    let mut stage = Stage::new(2);
    stage.gop(10);
    let mut client = Client::join(&stage);
    client.until("the first gop is there", |client| client.pictures() == 10);
    stage.writer.take().unwrap().finish(crate::clock::now_us());
    stage.publish();
    stage.pts_us = 77_000_000;
    stage.gop(10);
    client.until("the second publisher is seen", |client| client.pictures() == 20);
    assert_eq!(client.keyframes(), 2);
    client.assert_seamless();
    let times: Vec<u32> = client.video.iter().map(|packet| packet.header.timestamp).collect();
    assert!(times.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) < 90_000 * 60), "{times:?}");
}

#[test]
fn a_lost_picture_is_sent_again_and_asked_for_at_the_source() {
    let mut stage = Stage::new(1);
    stage.gop(10);
    let mut client = Client::join(&stage);
    client.until("the gop is there", |client| client.pictures() == 10);
    let ssrc = client.video[0].header.ssrc;
    let before = client.video.last().unwrap().header.timestamp;
    client.rtc.direct_api().stream_rx(&ssrc).unwrap().request_keyframe(KeyframeRequestKind::Pli);
    client.until("the gop is there again", |client| client.pictures() == 20);
    assert_eq!(client.keyframes(), 2);
    let after = client.video.last().unwrap().header.timestamp;
    assert_eq!(after.wrapping_sub(before), 10, "one tick per picture");
    assert!(stage.broadcast().source(Kind::Video).unwrap().take_keyframe_request());
    client.assert_seamless();
}

#[test]
fn a_viewer_who_has_all_there_is_is_not_shown_it_again() {
    let mut stage = Stage::new(1);
    stage.gop(10);
    let mut client = Client::join(&stage);
    client.until("the gop is there", |client| client.pictures() == 10);
    // As a browser does when the publisher, or the way from it, stands still.
    let silent = Instant::now();
    client.until("a while passes", |_| silent.elapsed() > Duration::from_millis(2_200));
    let ssrc = client.video[0].header.ssrc;
    client.rtc.direct_api().stream_rx(&ssrc).unwrap().request_keyframe(KeyframeRequestKind::Pli);
    let track = stage.broadcast().source(Kind::Video).unwrap();
    client.until("it is asked for at the source", |_| track.take_keyframe_request());
    stage.write(true, 1_000);
    client.until("the next picture is there", |client| client.pictures() > 10);
    assert_eq!((client.pictures(), client.keyframes()), (11, 2));
    client.assert_seamless();
}

#[test]
fn a_lost_packet_is_retransmitted() {
    let mut stage = Stage::new(1);
    stage.gop(3);
    let mut client = Client::join(&stage);
    client.until("the gop is there", |client| client.pictures() == 3);
    client.lose = Some(1);
    stage.gop(5);
    // The next packets tell the receiver that one is missing.
    client.until("the others are there", |client| client.lose.is_none() && client.pictures() >= 7);
    let all = client.video[0].seq_no;
    client.until("nothing is missing", |client| {
        let last = client.video.iter().map(|packet| *packet.seq_no).max().unwrap();
        let mut seqs: Vec<u64> = client.video.iter().map(|packet| *packet.seq_no).collect();
        seqs.sort_unstable();
        seqs.dedup();
        client.pictures() >= 8 && last - *all + 1 == seqs.len() as u64
    });
}

#[test]
fn sender_reports_put_picture_and_sound_on_one_clock() {
    let mut stage = Stage::new(1);
    stage.write(true, 2_000);
    let mut client = Client::join(&stage);
    client.until("it is connected", |client| client.connected);
    let began = Instant::now();
    let both = loop {
        assert!(began.elapsed() < PATIENCE, "no report");
        // In step with the wall clock, as a publisher does.
        while stage.broadcast().born_us() + stage.pts_us <= crate::clock::now_us() {
            stage.write(false, 500);
        }
        client.turn();
        let newest = [&client.video, &client.audio].map(|packets| packets.last());
        if let [Some(video), Some(audio)] = newest
            && let (Some(_), Some(_)) = (video.last_sender_info, audio.last_sender_info)
        {
            break [video, audio];
        }
    };
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1_200), "browsers need two of them to begin: {took:?}");
    let [video, audio] = both.map(|packet| {
        let report = packet.last_sender_info.unwrap();
        let rate = i64::from(report.rtp_time.frequency().get());
        let behind = i64::from((report.rtp_time.numer() as u32).wrapping_sub(packet.header.timestamp) as i32);
        let ntp_us = report.ntp_time.duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
        ntp_us - behind * 1_000_000 / rate
    });
    // The newest of each may be one picture apart, and sound is smoothed by up to 15 ms.
    assert!((video - audio).abs() < 50_000, "{} us apart", video - audio);
    assert!((crate::clock::now_us() - video).abs() < 200_000, "{} us from now", crate::clock::now_us() - video);
}

#[test]
fn sessions_end_when_asked_to_and_when_the_broadcast_is_gone() {
    let mut stage = Stage::new(2);
    stage.gop(2);
    let mut asked = Client::join(&stage);
    let mut stays = Client::join(&stage);
    asked.until("it is connected", |client| client.connected);
    stays.until("it is connected", |client| client.connected);
    assert_eq!(stage.engine.viewers(&stage.id), 2);
    assert!(stage.engine.close(&asked.session));
    asked.until("it is told", |client| !client.rtc.is_alive());
    assert!(!stage.engine.close(&asked.session));
    assert_eq!(stage.engine.viewers(&stage.id), 1);
    stage.writer.take().unwrap().finish(crate::clock::now_us());
    stage.hub.sweep(crate::clock::now_us() + LINGER_US + 1_000_000);
    stays.until("it is told", |client| !client.rtc.is_alive());
    assert_eq!(stage.engine.viewers(&stage.id), 0);
    assert_eq!(stage.engine.counts(), (0, 0));
}

#[test]
fn a_viewer_moves_to_a_track_that_suits_it_better() {
    let mut stage = Stage::new(1);
    stage.gop(10);
    let mut client = Client::join(&stage);
    client.until("the source is seen", |client| client.pictures() == 10);
    let mut derived: TrackWriter = stage.broadcast().derive(Conversion::BFrames);
    // The first B-frame was seen: the source doesn't suit browsers any more.
    stage.writer().announce(video_info(true)).unwrap();
    let source = stage.broadcast().source(Kind::Video).unwrap();
    let limit = Instant::now() + PATIENCE;
    while derived.track().readers() == 0 {
        assert!(Instant::now() < limit, "nobody wants the better track");
        client.turn();
    }
    stage.write(false, 2_000);
    client.until("the source goes on until then", |client| client.pictures() == 11);
    let newest = source.read(crate::live::Start::Oldest).try_next().unwrap();
    for i in 0..5 {
        let pts_us = newest.pts_us + i * 33_333;
        derived.write(Frame {
            gop: newest.gop.clone(),
            dts_us: pts_us,
            pts_us,
            keyframe: i == 0,
            payload: picture(i == 0, 500),
            info: Arc::new(video_info(false)),
            rtp: Default::default(),
        });
    }
    client.until("the better track is seen", |client| client.pictures() == 16);
    assert_eq!(source.readers(), 0);
    client.assert_seamless();
    let times: Vec<u32> = client.video.iter().map(|packet| packet.header.timestamp).collect();
    assert!(times.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) < 90_000), "{times:?}");
}

#[test]
fn ice_restarts_without_a_gap() {
    let mut stage = Stage::new(2);
    stage.gop(3);
    let mut client = Client::join(&stage);
    client.until("it plays", |client| client.pictures() == 3);
    let mut api = client.rtc.sdp_api();
    api.ice_restart(true);
    let (offer, pending) = api.apply().unwrap();
    let fragment = Fragment::parse(&offer.to_sdp_string()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let restarted = runtime.block_on(stage.engine.restart(&client.session, fragment.clone())).unwrap();
    assert_ne!(restarted.etag, client.etag);
    let ours = Fragment::parse(&restarted.fragment).unwrap();
    assert_eq!(ours.ufrag, restarted.etag);
    assert!(restarted.fragment.contains("a=candidate:"));
    let IceSession { etag, remote_ufrag: remote, .. } = stage.engine.ice(&client.session).unwrap();
    assert_eq!((etag, remote), (restarted.etag, fragment.ufrag));
    let mut answer = String::new();
    for line in client.answer.lines() {
        answer += &match line {
            _ if line.starts_with("a=ice-ufrag:") => format!("a=ice-ufrag:{}\r\n", ours.ufrag),
            _ if line.starts_with("a=ice-pwd:") => format!("a=ice-pwd:{}\r\n", ours.pwd),
            _ => format!("{line}\r\n"),
        };
    }
    let answer = SdpAnswer::from_sdp_string(&answer).unwrap();
    client.rtc.sdp_api().accept_answer(pending, answer).unwrap();
    stage.gop(3);
    client.until("it goes on", |client| client.pictures() == 6);
    assert!(stage.engine.close(&client.session));
    client.until("the session has one name only", |client| !client.rtc.is_alive());
}

/// A NAT forgets its mapping, a phone leaves the house: the session is answered where it is now.
#[test]
fn a_viewer_whose_address_changes_goes_on_within_seconds() {
    let mut stage = Stage::new(2);
    stage.gop(3);
    let mut client = Client::join(&stage);
    client.until("it plays", |client| client.pictures() == 3);
    client.socket = socket(stage.engine.address().ip());
    let (began, first_us) = (Instant::now(), stage.pts_us);
    client.until("it goes on", |client| {
        if began.elapsed().as_micros() as i64 >= stage.pts_us - first_us {
            stage.write(false, 100);
        }
        client.pictures() > 20
    });
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}: no sooner than the old address is given up",
        began.elapsed()
    );
}

#[test]
fn what_never_connects_is_forgotten() {
    let mut stage = Stage::new(1);
    stage.gop(1);
    let client = Client::join(&stage);
    assert_eq!(stage.engine.counts(), (1, 1));
    stage.engine.expire_for_test(Instant::now() + Duration::from_secs(11));
    assert_eq!(stage.engine.counts(), (0, 0));
    assert!(stage.engine.ice(&client.session).is_none());
}

#[test]
fn a_peer_that_vanishes_is_gone_once_its_consent_has_expired() {
    let mut stage = Stage::new(1);
    stage.gop(1);
    let mut vanishes = Client::join(&stage);
    let mut stays = Client::join(&stage);
    vanishes.until("it is connected", |client| client.connected);
    let silent_since = Instant::now();
    stays.until("it is connected", |client| client.connected);
    // RFC 7675 gives it 30 seconds at most.
    while stage.engine.viewers(&stage.id) > 1 {
        assert!(silent_since.elapsed() < Duration::from_secs(35), "still there");
        stays.turn();
    }
    assert!(silent_since.elapsed() > Duration::from_secs(5), "a short outage is no end");
    assert!(stage.engine.ice(&vanishes.session).is_none());
    assert!(stays.rtc.is_alive() && stage.engine.ice(&stays.session).is_some());
}

#[test]
fn a_panic_ends_one_session_and_is_counted() {
    let mut stage = Stage::new(1);
    stage.gop(1);
    let mut unlucky = Client::join(&stage);
    stage.engine.panic_for_test(&unlucky.session);
    let mut other = Client::join(&stage);
    unlucky.until("it plays", |client| client.pictures() == 1);
    other.until("it plays", |client| client.pictures() == 1);
    stage.write(false, 500);
    other.until("it goes on", |client| client.pictures() == 2);
    assert_eq!(stage.engine.panics_for_test(), 1);
    assert!(stage.engine.ice(&unlucky.session).is_none());
    assert_eq!(stage.engine.viewers(&stage.id), 1);
    stage.write(true, 500);
    other.until("it goes on and on", |client| client.pictures() == 3);
    other.assert_seamless();
}

#[test]
fn viewers_join_over_ipv6() {
    let mut stage = Stage::listening("[::1]:0", 2);
    stage.gop(3);
    let mut client = Client::join(&stage);
    assert!(client.answer.contains(" ::1 "), "{}", client.answer);
    client.until("it plays", |client| client.pictures() == 3);
    let stats = &stage.engine.sessions(&stage.id)[0];
    assert!(stats.connected);
}

#[test]
fn every_picture_survives_five_percent_loss_each_way() {
    let mut stage = Stage::new(1);
    stage.gop(1);
    let mut client = Client::join(&stage);
    client.loss_percent = 5;
    client.until("it plays", |client| client.pictures() > 0);
    let (began, first_us) = (Instant::now(), stage.pts_us);
    let mut written = 0;
    while written < 200 {
        if began.elapsed().as_micros() as i64 >= stage.pts_us - first_us {
            stage.write(written % 60 == 0, 4_000);
            written += 1;
        }
        client.turn();
    }
    // What is lost at the very end is noticed by what comes after it.
    let last = stage.pts_us;
    client.until("all of it is there", |client| {
        if began.elapsed().as_micros() as i64 >= stage.pts_us - first_us {
            stage.write(false, 100);
        }
        let mut seqs: Vec<u64> = client.video.iter().map(|packet| *packet.seq_no).collect();
        seqs.sort_unstable();
        seqs.dedup();
        let settled = seqs.len().saturating_sub(30);
        stage.pts_us > last + 1_500_000 && seqs[..settled].windows(2).all(|pair| pair[1] == pair[0] + 1)
    });
    assert!(client.pictures() > 200, "{}", client.pictures());
    let asked_again = client.keyframes();
    assert!(asked_again <= 6, "{asked_again} keyframes: nothing was given up");
}

/// A connectivity check as the client would send it.
fn check(client: &mut Client) -> (Vec<u8>, SocketAddr) {
    let limit = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < limit);
        client.rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
        if let Some(transmit) = client.drain().into_iter().find(|transmit| transmit.proto == Protocol::Udp) {
            return (transmit.contents.to_vec(), transmit.destination);
        }
        std::thread::yield_now();
    }
}

#[test]
fn checks_reach_their_session_whichever_shard_gets_them() {
    let mut stage = Stage::new(4);
    stage.gop(1);
    let mut client = Client::join(&stage);
    let (check, to) = check(&mut client);
    for _ in 0..24 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&check, to).unwrap();
        let mut reply = [0; 256];
        let length = socket.recv(&mut reply).expect("every check is answered");
        assert!(length > 20 && reply[..2] == [1, 1], "a success response");
    }
    assert_eq!(stage.engine.counts(), (1, 0));
}

#[test]
fn checks_over_tcp_are_answered_and_strangers_are_shown_out() {
    let mut stage = Stage::new(2);
    stage.gop(1);
    let mut client = Client::join(&stage);
    let (check, _) = check(&mut client);
    let mut known = TcpStream::connect(stage.engine.address()).unwrap();
    known.set_read_timeout(Some(PATIENCE)).unwrap();
    known.write_all(&(check.len() as u16).to_be_bytes()).unwrap();
    known.write_all(&check).unwrap();
    let mut reply = [0; 4];
    known.read_exact(&mut reply).unwrap();
    assert_eq!(reply[2..], [1, 1], "a success response");
    let mut stranger = TcpStream::connect(stage.engine.address()).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    stranger.write_all(&[0, 4, 1, 2, 3, 4]).unwrap();
    assert_eq!(stranger.read(&mut reply).unwrap(), 0, "closed");
}

#[test]
fn offers_without_a_common_codec_are_told_so() {
    let mut stage = Stage::new(1);
    stage.gop(1);
    let mut rtc = RtcConfig::new().clear_codecs().enable_vp8(true).build(Instant::now());
    let mut api = rtc.sdp_api();
    api.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
    let (offer, _pending) = api.apply().unwrap();
    let error = stage.engine.view(&stage.broadcast(), &offer.to_sdp_string()).unwrap_err().to_string();
    assert!(error.contains("VP8") && error.contains("H264 with packetization-mode=1"), "{error}");
    assert_eq!(stage.engine.counts(), (0, 0));
}

#[test]
fn damaged_offers_are_refused_and_never_panic() {
    let mut rtc = RtcConfig::new().build(Instant::now());
    let mut api = rtc.sdp_api();
    api.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
    api.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
    let (offer, _pending) = api.apply().unwrap();
    let offer = offer.to_sdp_string();
    assert!(check_offer(&offer).is_ok());
    let lines: Vec<&str> = offer.lines().collect();
    // Each line missing, doubled, cut short.
    for i in 0..lines.len() {
        let with = |replacement: &[&str]| {
            let text = [&lines[..i], replacement, &lines[i + 1..]].concat().join("\r\n") + "\r\n";
            let _ = check_offer(&text);
        };
        with(&[]);
        with(&[lines[i], lines[i]]);
        with(&[&lines[i][..lines[i].len() / 2]]);
        with(&[&format!("{}\u{1F600}9999999999999", lines[i])]);
    }
}
