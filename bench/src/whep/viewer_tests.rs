//! The viewer against a WebRTC server in the same thread: no socket, and a clock that we turn.

use str0m::{
    Candidate, RtcConfig,
    change::SdpOffer,
    channel::ChannelId,
    media::{Direction, MediaKind},
    net::{Protocol, Receive},
    rtp::RtpWrite,
};

use super::*;
use crate::{
    rtc::{Offering, Part, Shared},
    stamp,
};

const VIEWER: &str = "127.0.0.1:5001";
const SERVER: &str = "127.0.0.1:5002";

struct Pair {
    viewer: Viewer,
    server: Rtc,
    video: Option<Mid>,
    channel: Option<ChannelId>,
    now: Instant,
    wall_us: u64,
}

impl Pair {
    fn connected() -> Self {
        let (viewer, server): (SocketAddr, SocketAddr) = (VIEWER.parse().unwrap(), SERVER.parse().unwrap());
        let now = Instant::now();
        let part = Part { direction: Direction::RecvOnly, follows: true };
        let offering = Offering::new(&Shared::new().unwrap(), viewer, part).unwrap();
        let mut rtc = RtcConfig::new().set_rtp_mode(true).set_ice_lite(true).build(now);
        rtc.add_local_candidate(Candidate::host(server, "udp").unwrap());
        let offer = SdpOffer::from_sdp_string(&offering.offer).unwrap();
        let answer = rtc.sdp_api().accept_offer(offer).unwrap().to_sdp_string();
        let viewer = Viewer::new(offering.accept(&answer, now, now).unwrap(), Eyes::default());
        let mut pair = Self { viewer, server: rtc, video: None, channel: None, now, wall_us: 1_000_000 };
        for _ in 0..1000 {
            pair.step(false);
            if pair.channel.is_some() && pair.viewer.seen.connected_ms.is_some() {
                return pair;
            }
        }
        panic!("no connection");
    }

    /// Five milliseconds pass and all datagrams arrive.
    fn step(&mut self, measuring: bool) {
        self.now += Duration::from_millis(5);
        self.wall_us += 5_000;
        let arrival = Arrival { now: self.now, wall_us: self.wall_us, measuring };
        let (viewer, server): (SocketAddr, SocketAddr) = (VIEWER.parse().unwrap(), SERVER.parse().unwrap());
        let mut to_server = Vec::new();
        self.viewer.wake(arrival, &mut |_, datagram| to_server.push(datagram.to_vec())).unwrap();
        self.server.handle_input(Input::Timeout(self.now)).unwrap();
        loop {
            match self.server.poll_output().unwrap() {
                Output::Transmit(transmit) => self
                    .viewer
                    .receive(server, &transmit.contents, arrival, &mut |_, datagram| to_server.push(datagram.to_vec()))
                    .unwrap(),
                Output::Event(Event::MediaAdded(media)) if media.kind == MediaKind::Video => {
                    self.video = Some(media.mid)
                }
                Output::Event(Event::ChannelOpen(id, _)) => self.channel = Some(id),
                Output::Event(_) => {}
                Output::Timeout(_) if to_server.is_empty() => return,
                Output::Timeout(_) => {
                    for datagram in std::mem::take(&mut to_server) {
                        let receive = Receive::new(Protocol::Udp, viewer, server, &datagram).unwrap();
                        self.server.handle_input(Input::Receive(self.now, receive)).unwrap();
                    }
                }
            }
        }
    }

    fn send(&mut self, sequence: u64, time: u32, marker: bool, payload: &[u8]) {
        let pt = self.server.codec_config().find(|params| params.spec().codec == Codec::H264).unwrap().pt();
        let mut api = self.server.direct_api();
        let stream = api.stream_tx_by_mid(self.video.unwrap(), None).unwrap();
        stream.write_rtp(RtpWrite::new(pt, sequence.into(), time, self.now, payload.to_vec()).marker(marker));
    }
}

const IDR_BEGINS: &[u8] = &[0x7c, 0x85, 1, 2, 3];
const IDR_ENDS: &[u8] = &[0x7c, 0x45, 4];
const DELTA: &[u8] = &[0x41, 0x9a, 7];

#[test]
fn a_viewer_tells_what_it_saw() {
    let mut pair = Pair::connected();
    pair.send(100, 0, false, IDR_BEGINS);
    pair.step(false);
    assert!(pair.viewer.seen.first_rtp_ms.is_some() && pair.viewer.seen.first_keyframe_ms.is_none());
    pair.send(101, 0, true, IDR_ENDS);
    pair.step(false);
    assert!(pair.viewer.seen.first_keyframe_ms > pair.viewer.seen.first_rtp_ms);
    assert_eq!(pair.viewer.seen.packets, 0, "nothing was measured yet");

    // 102 is lost; the stamp left 5 ms before it arrives.
    let (mut stamp, at) = stamp::nal();
    stamp::write(&mut stamp[at..], pair.wall_us);
    pair.send(103, 3000, false, &stamp);
    pair.send(104, 3000, true, DELTA);
    pair.step(true);
    for _ in 0..400 {
        pair.step(true);
    }
    pair.send(105, 6000, true, DELTA);
    pair.step(true);

    let seen = pair.viewer.finish(pair.wall_us);
    assert_eq!((seen.packets, seen.pictures, seen.lost), (3, 2, 1));
    assert_eq!(seen.delays_ms, [5.0]);
    assert!(seen.longest_gap >= Some(Duration::from_secs(2)), "{:?}", seen.longest_gap);
    assert!(seen.nacks > 0, "the lost packet was asked for");
}

#[test]
fn a_viewer_that_is_asked_to_go_leaves_its_eyes_to_the_next() {
    let mut pair = Pair::connected();
    pair.send(100, 0, true, IDR_BEGINS);
    pair.step(true);
    assert!(matches!(pair.viewer.news(), Some(News::Arrived)));
    for _ in 0..400 {
        pair.step(true);
    }
    let channel = pair.channel.expect("the control channel");
    let word = br#"{"command":"notification","definition":"server_will_stop"}"#;
    assert!(pair.server.channel(channel).unwrap().write(false, word).unwrap());
    pair.step(true);
    let Some(News::Leaves(eyes)) = pair.viewer.news() else { panic!("nobody follows") };
    assert!(eyes.longest_gap(pair.wall_us) >= Duration::from_secs(2), "what was not seen before counts");
    assert_eq!(pair.viewer.finish(pair.wall_us).longest_gap, None, "it is told by who follows");
}

#[test]
fn lost_is_what_never_came() {
    let mut sequences = Sequences::default();
    assert_eq!(sequences.lost(), 0);
    for sequence in [10, 11, 14, 13] {
        sequences.push(sequence);
    }
    assert_eq!(sequences.lost(), 1);
}
