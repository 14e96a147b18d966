//! Viewers of a broadcast with layers, behind links that become narrow and wide again. What is measured is time, and each of
//! these takes a twentieth of a core: they run beside each other.

use std::collections::VecDeque;

use str0m::format::CodecConfig;

use super::*;
use crate::{
    ladder::Rendition,
    live::{Reader, Start, TrackWriter},
    media::{Conversion, Frame},
};

/// Of the picture, and bytes of one: 30 a second make 150 kbit/s, 500 kbit/s and 1.5 Mbit/s.
const LAYERS: [(u32, usize); 3] = [(180, 625), (360, 2_080), (720, 6_250)];
const PICTURE_US: i64 = 33_333;
/// A keyframe is that many times larger.
const KEYFRAME: usize = 4;
/// A link that carries everything.
const WIDE: f64 = 20_000_000.0;
/// What the queue before a narrow link holds.
const LINK_QUEUE: Duration = Duration::from_millis(300);

/// A publisher of several layers in step with the wall clock. Keyframes come every two seconds and on request.
struct Simulcast {
    began: Instant,
    began_us: i64,
    pictures: i64,
    count: usize,
    /// Instead of all layers but the best: renditions of that one.
    made: Vec<Made>,
}

/// A rendition, as a transcoder makes it.
struct Made {
    source: Reader,
    writer: TrackWriter,
    info: Arc<Info>,
    begun: bool,
}

impl Made {
    /// While somebody reads it, and no keyframe but the source's and those that are asked for.
    fn work(&mut self, index: usize) {
        while let Some(frame) = self.source.try_next() {
            let wanted = self.writer.track().readers() > 0;
            let keyframe = frame.keyframe || self.writer.track().take_keyframe_request() || !self.begun;
            self.begun = wanted;
            if !wanted {
                self.writer.clear();
                continue;
            }
            let mut payload = picture(keyframe, LAYERS[index].1 * if keyframe { KEYFRAME } else { 1 }).to_vec();
            payload[5..].fill(index as u8);
            let (gop, info, payload) = (frame.gop.clone(), self.info.clone(), payload.into());
            let Frame { dts_us, pts_us, .. } = *frame;
            self.writer.write(Frame { gop, dts_us, pts_us, keyframe, payload, info, rtp: Default::default() });
        }
    }
}

impl Simulcast {
    /// A source of one picture, and two renditions of it.
    fn ladder(stage: &mut Stage) -> Self {
        let info = |height: u32| {
            let shape = Shape::Video { width: height * 16 / 9, height, reorders: false };
            Info { shape, ..video_info(false) }
        };
        stage.writer().announce(info(720)).unwrap();
        let broadcast = stage.broadcast().clone();
        let renditions = [1, 0].map(|index: usize| {
            let (height, bytes) = LAYERS[index];
            Rendition { height, video_kbps: bytes as u32 * 8 * 30 / 1_000, audio_kbps: 0 }
        });
        let made = renditions.iter().rev().map(|&rendition| {
            let writer = broadcast.derive(Conversion::Rendition(rendition));
            writer.foretell(info(rendition.height));
            let source = broadcast.source(Kind::Video).unwrap().read(Start::Live);
            Made { source, writer, info: Arc::new(info(rendition.height)), begun: false }
        });
        let made = made.collect();
        broadcast.offer(renditions.to_vec());
        let (began, began_us) = (Instant::now(), stage.pts_us);
        let mut ladder = Self { began, began_us, pictures: 0, count: 3, made };
        ladder.write_until(stage, 60);
        (ladder.began, ladder.began_us, ladder.pictures) = (Instant::now(), stage.pts_us, 0);
        ladder
    }

    fn begin(stage: &mut Stage, count: usize) -> Self {
        for (index, (height, _)) in LAYERS.iter().enumerate().take(count) {
            let shape = Shape::Video { width: height * 16 / 9, height: *height, reorders: false };
            let info = Info { shape, ..video_info(false) };
            stage.writer().announce_layer(index as u8, &height.to_string(), info).unwrap();
        }
        let mut simulcast =
            Self { began: Instant::now(), began_us: stage.pts_us, pictures: 0, count, made: Vec::new() };
        simulcast.write_until(stage, 60);
        simulcast.began = Instant::now();
        simulcast.began_us = stage.pts_us;
        simulcast.pictures = 0;
        simulcast
    }

    fn write_due(&mut self, stage: &mut Stage) {
        self.write_until(stage, self.began.elapsed().as_micros() as i64 / PICTURE_US);
    }

    fn write_until(&mut self, stage: &mut Stage, pictures: i64) {
        while self.pictures < pictures {
            let regular = self.pictures % 60 == 0;
            self.pictures += 1;
            stage.pts_us = self.began_us + self.pictures * PICTURE_US;
            let (pts_us, now_us) = (stage.pts_us, crate::clock::now_us());
            let sound = Bytes::from_static(&[0xfc, 0xff, 0xfe]);
            let sound = Sample { dts_us: pts_us, pts_us, keyframe: true, payload: sound };
            let sent = if self.made.is_empty() { 0..self.count } else { 2..3 };
            for index in sent.rev() {
                if !self.made.is_empty() {
                    // RTMP: keyframes come when they come.
                    let mut payload = picture(regular, LAYERS[2].1 * if regular { KEYFRAME } else { 1 }).to_vec();
                    payload[5..].fill(2);
                    let sample = Sample { dts_us: pts_us, pts_us, keyframe: regular, payload: payload.into() };
                    stage.writer().write(Kind::Video, sample, now_us).unwrap();
                    self.made.iter_mut().enumerate().for_each(|(index, made)| made.work(index));
                    continue;
                }
                let track = stage.broadcast().layer(index as u8).unwrap();
                let keyframe = track.take_keyframe_request() || regular;
                let bytes = LAYERS[index].1 * if keyframe { KEYFRAME } else { 1 };
                let mut payload = picture(keyframe, bytes).to_vec();
                payload[5..].fill(index as u8);
                let sample = Sample { dts_us: pts_us, pts_us, keyframe, payload: payload.into() };
                if index == self.count - 1 {
                    stage.writer().write(Kind::Video, sample.clone(), now_us).unwrap();
                }
                stage.writer().write_layer(index as u8, sample, now_us).unwrap();
            }
            stage.writer().write(Kind::Audio, sound, now_us).unwrap();
        }
    }
}

/// What lies between the server and a viewer.
struct Link {
    bits_per_s: f64,
    queue: VecDeque<(Instant, SocketAddr, Vec<u8>)>,
    free_at: Instant,
}

impl Link {
    fn new() -> Self {
        Self { bits_per_s: WIDE, queue: VecDeque::new(), free_at: Instant::now() }
    }

    fn take(&mut self, source: SocketAddr, datagram: &[u8]) {
        let now = Instant::now();
        let begins = self.free_at.max(now);
        if begins - now > LINK_QUEUE {
            return;
        }
        let takes = datagram.len() as f64 * 8.0 / self.bits_per_s;
        self.free_at = begins + Duration::from_secs_f64(takes);
        self.queue.push_back((self.free_at, source, datagram.to_vec()));
    }
}

struct Watcher {
    client: Client,
    link: Link,
    /// Layer and arrival of each picture that is newer than all before: what was lost may come later.
    seen: Vec<(u8, Instant)>,
    newest: u64,
    packets: usize,
}

impl Watcher {
    fn join(stage: &Stage) -> Self {
        Self::with(Client::join(stage))
    }

    /// One that can't report on every packet.
    fn join_estimating(stage: &Stage) -> Self {
        let mut config = RtcConfig::new();
        let mut params = config.codec_config().params().to_vec();
        params.iter_mut().for_each(|params| params.set_fb_transport_cc(false));
        *config.codec_config() = CodecConfig::new_from_payload_params(params);
        Self::with(Client::taking(stage, config))
    }

    fn with(client: Client) -> Self {
        client.socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        Self { client, link: Link::new(), seen: Vec::new(), newest: 0, packets: 0 }
    }

    fn turn(&mut self) {
        let mut buffer = [0; 2_000];
        let local = self.client.socket.local_addr().unwrap();
        self.client.rtc.handle_input(Input::Timeout(Instant::now())).unwrap();
        self.client.send();
        while let Ok((length, source)) = self.client.socket.recv_from(&mut buffer) {
            self.link.take(source, &buffer[..length]);
            if self.link.queue.front().is_some_and(|(at, ..)| *at <= Instant::now()) {
                break;
            }
        }
        while self.link.queue.front().is_some_and(|(at, ..)| *at <= Instant::now()) {
            let Some((at, source, datagram)) = self.link.queue.pop_front() else { break };
            let receive = Receive::new(Protocol::Udp, source, local, &datagram).unwrap();
            self.client.rtc.handle_input(Input::Receive(at, receive)).unwrap();
            self.client.send();
        }
        for packet in &self.client.video[self.packets..] {
            if packet.header.marker && *packet.seq_no > self.newest {
                self.newest = *packet.seq_no;
                self.seen.push((*packet.payload.last().unwrap(), Instant::now()));
            }
        }
        self.packets = self.client.video.len();
    }

    fn layer(&self) -> Option<u8> {
        self.seen.last().map(|(layer, _)| *layer)
    }

    fn watch(&mut self, stage: &mut Stage, simulcast: &mut Simulcast, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            simulcast.write_due(stage);
            self.turn();
        }
    }

    /// How long it takes until this layer is seen.
    fn until(&mut self, stage: &mut Stage, simulcast: &mut Simulcast, layer: u8, limit: u64) -> Duration {
        let began = Instant::now();
        while self.layer() != Some(layer) {
            let stats = &stage.engine.sessions(&stage.id)[0];
            assert!(began.elapsed() < Duration::from_secs(limit), "{:?}, not {layer}: {stats:?}", self.layer());
            simulcast.write_due(stage);
            self.turn();
        }
        began.elapsed()
    }

    fn switches_since(&self, since: Instant) -> usize {
        let seen: Vec<u8> = self.seen.iter().filter(|(_, at)| *at >= since).map(|(layer, _)| *layer).collect();
        seen.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    fn longest_gap(&self) -> Duration {
        self.seen.windows(2).map(|pair| pair[1].1 - pair[0].1).max().unwrap()
    }

    /// RTP times only ever go on, and by no more than the pictures that were left out.
    fn assert_continuous(&self) {
        let mut packets: Vec<(u64, u32)> =
            self.client.video.iter().map(|packet| (*packet.seq_no, packet.header.timestamp)).collect();
        packets.sort_unstable();
        for pair in packets.windows(2) {
            let step = pair[1].1.wrapping_sub(pair[0].1);
            assert!(step < 90_000, "{step} ticks between packets {} and {}", pair[0].0, pair[1].0);
        }
    }
}

/// Other tests take the processor from the link in here, which then looks narrow. That it takes less than ten seconds is
/// judged with a real browser, alone.
const CLIMB_S_MAX: u64 = 40;

#[test]
fn a_viewer_gets_what_its_link_carries() {
    let mut stage = Stage::new(1);
    let mut simulcast = Simulcast::begin(&mut stage, 3);
    let mut watcher = Watcher::join(&stage);
    assert!(watcher.client.answer.contains("transport-cc"), "{}", watcher.client.answer);
    watcher.turn();
    while watcher.layer().is_none() {
        simulcast.write_due(&mut stage);
        watcher.turn();
    }
    assert_eq!(watcher.layer(), Some(1), "what is certain to fit comes first");
    watcher.until(&mut stage, &mut simulcast, 2, CLIMB_S_MAX);
    for _ in 0..2 {
        watcher.link.bits_per_s = 400_000.0;
        watcher.until(&mut stage, &mut simulcast, 0, 5);
        let settled = Instant::now();
        watcher.watch(&mut stage, &mut simulcast, 8);
        assert!(watcher.switches_since(settled) <= 2);
        assert_eq!(watcher.layer(), Some(0));
        watcher.link.bits_per_s = WIDE;
        watcher.until(&mut stage, &mut simulcast, 2, CLIMB_S_MAX);
        let settled = Instant::now();
        watcher.watch(&mut stage, &mut simulcast, 5);
        assert_eq!(watcher.switches_since(settled), 0);
    }
    // The link carries a quarter of what it is sent until that is noticed, and loses the rest.
    let longest = watcher.longest_gap();
    assert!(longest < Duration::from_secs(2), "nothing was seen for {longest:?}");
    watcher.assert_continuous();
    let stats = &stage.engine.sessions(&stage.id)[0];
    assert_eq!(stats.layer_height, Some(720));
    assert!(stats.estimate_bps.is_some_and(|estimate| estimate > 1_500_000), "{stats:?}");
    assert!(stats.layer_switches >= 5, "{stats:?}");
}

#[test]
fn a_viewer_may_choose_for_itself() {
    let mut stage = Stage::new(1);
    let mut simulcast = Simulcast::begin(&mut stage, 3);
    let mut watcher = Watcher::join(&stage);
    stage.engine.pin(&watcher.client.session, Quality::Height(180));
    watcher.until(&mut stage, &mut simulcast, 0, 5);
    let joined = Instant::now();
    watcher.watch(&mut stage, &mut simulcast, 3);
    assert_eq!(watcher.switches_since(joined), 0);
    stage.engine.pin(&watcher.client.session, Quality::Height(720));
    watcher.until(&mut stage, &mut simulcast, 2, 2);
    // There is none of this height: what the link carries.
    stage.engine.pin(&watcher.client.session, Quality::Height(480));
    watcher.watch(&mut stage, &mut simulcast, 1);
    stage.engine.pin(&watcher.client.session, Quality::Height(360));
    watcher.until(&mut stage, &mut simulcast, 1, 2);
    stage.engine.pin(&watcher.client.session, Quality::Auto);
    watcher.until(&mut stage, &mut simulcast, 2, 10);
    watcher.assert_continuous();
}

#[test]
fn renditions_are_layers_that_are_made_when_a_viewer_needs_them() {
    let mut stage = Stage::new(1);
    let mut ladder = Simulcast::ladder(&mut stage);
    let mut watcher = Watcher::join(&stage);
    assert!(watcher.client.answer.contains("transport-cc"), "{}", watcher.client.answer);
    watcher.until(&mut stage, &mut ladder, 1, 5);
    watcher.until(&mut stage, &mut ladder, 2, CLIMB_S_MAX);
    watcher.watch(&mut stage, &mut ladder, 1);
    let frames = |ladder: &Simulcast| ladder.made.iter().map(|made| made.writer.track().stats().frames).sum::<u64>();
    let before = frames(&ladder);
    watcher.watch(&mut stage, &mut ladder, 3);
    assert_eq!(frames(&ladder), before, "the source is watched, and nothing else is made");

    watcher.link.bits_per_s = 400_000.0;
    watcher.until(&mut stage, &mut ladder, 0, 5);
    watcher.watch(&mut stage, &mut ladder, 4);
    assert_eq!(watcher.layer(), Some(0));
    watcher.link.bits_per_s = WIDE;
    watcher.until(&mut stage, &mut ladder, 2, CLIMB_S_MAX);
    assert!(watcher.longest_gap() < Duration::from_secs(3), "nothing was seen for {:?}", watcher.longest_gap());

    stage.engine.pin(&watcher.client.session, Quality::Height(360));
    watcher.until(&mut stage, &mut ladder, 1, 2);
    // The machine has no room for it any more.
    ladder.made[1].writer.track().set_waiting(true);
    watcher.until(&mut stage, &mut ladder, 2, 10);
    watcher.assert_continuous();
}

#[test]
fn a_layer_that_dies_is_left_at_once() {
    let mut stage = Stage::new(1);
    let mut simulcast = Simulcast::begin(&mut stage, 3);
    let mut watcher = Watcher::join(&stage);
    watcher.until(&mut stage, &mut simulcast, 2, 10);
    simulcast.count = 2;
    watcher.until(&mut stage, &mut simulcast, 1, 4);
    simulcast.count = 3;
    watcher.until(&mut stage, &mut simulcast, 2, 10);
    watcher.assert_continuous();
}

/// A viewer of one picture that takes about a megabit per second, who says every second what it believes its path to
/// carry. Returns bits per second that arrived, and how far the last picture is behind.
fn watch_believing(
    stage: &mut Stage,
    watcher: &mut Watcher,
    believes: impl Fn(u64) -> u64,
    seconds: u64,
) -> (f64, f64) {
    assert!(!watcher.client.answer.contains("transport-cc"), "{}", watcher.client.answer);
    let began = Instant::now();
    let mut told = None;
    while began.elapsed() < Duration::from_secs(seconds) {
        while began.elapsed().as_micros() as i64 >= stage.pts_us {
            let regular = stage.pts_us / PICTURE_US % 30 == 0;
            stage.write(regular, if regular { 16_000 } else { 4_000 });
        }
        watcher.turn();
        let second = began.elapsed().as_secs();
        let ssrc = watcher.client.video.first().map(|packet| packet.header.ssrc);
        if let Some(ssrc) = ssrc.filter(|_| told != Some(second))
            && let Some(stream) = watcher.client.rtc.direct_api().stream_rx(&ssrc)
        {
            stream.request_remb(believes(second).into());
            told = Some(second);
        }
    }
    let bytes: usize = watcher.client.video.iter().map(|packet| packet.payload.len()).sum();
    let times =
        [watcher.client.video.first(), watcher.client.video.last()].map(|packet| packet.unwrap().header.timestamp);
    let shown_s = f64::from(times[1].wrapping_sub(times[0])) / 90_000.0;
    (bytes as f64 * 8.0 / seconds as f64, began.elapsed().as_secs_f64() - shown_s)
}

#[test]
fn what_a_narrow_path_takes_too_long_for_is_skipped() {
    let mut stage = Stage::new(1);
    let mut watcher = Watcher::join_estimating(&stage);
    let believes = |second| if second < 1 { 2_000_000 } else { 500_000 - 30_000 * (second % 2) };
    let (bits_per_s, behind_s) = watch_believing(&mut stage, &mut watcher, believes, 12);
    assert!(behind_s < 3.0, "{behind_s} s behind after 12 s at half of what the picture takes");
    assert!(watcher.longest_gap() < Duration::from_secs(2));
    assert!((400_000.0..700_000.0).contains(&bits_per_s), "{bits_per_s} bit/s");
    let limit = Instant::now() + PATIENCE;
    while stage.engine.sessions(&stage.id)[0].skipped == 0 {
        assert!(Instant::now() < limit, "nobody counted");
        watcher.turn();
    }
}

#[test]
fn a_receiver_that_saw_little_yet_is_not_held_back() {
    let mut stage = Stage::new(1);
    let mut watcher = Watcher::join_estimating(&stage);
    let (bits_per_s, behind_s) = watch_believing(&mut stage, &mut watcher, |second| 100_000 + 8_000 * second, 5);
    assert!(behind_s < 0.5, "{behind_s} s behind");
    assert!(bits_per_s > 900_000.0, "{bits_per_s} bit/s");
    assert_eq!(stage.engine.sessions(&stage.id)[0].skipped, 0);
}

/// A picture of about a megabit per second and nothing to choose from, for so long in step with the wall clock. Returns
/// bits per second that arrived.
fn watch_alone(stage: &mut Stage, watcher: &mut Watcher, seconds: u64) -> f64 {
    let (began, began_us, before) = (Instant::now(), stage.pts_us, watcher.client.video.len());
    while began.elapsed() < Duration::from_secs(seconds) {
        while began_us + began.elapsed().as_micros() as i64 >= stage.pts_us {
            let regular = stage.pts_us / PICTURE_US % 30 == 0;
            stage.write(regular, if regular { 16_000 } else { 4_000 });
        }
        watcher.turn();
    }
    let bytes: usize = watcher.client.video[before..].iter().map(|packet| packet.payload.len()).sum();
    bytes as f64 * 8.0 / seconds as f64
}

#[test]
fn a_single_picture_is_sent_as_the_link_carries_it() {
    let mut stage = Stage::new(1);
    let mut watcher = Watcher::join(&stage);
    assert!(watcher.client.answer.contains("transport-cc"), "few sessions: {}", watcher.client.answer);
    let skipped = |stage: &Stage| stage.engine.sessions(&stage.id)[0].skipped;
    let bits_per_s = watch_alone(&mut stage, &mut watcher, 5);
    assert!(bits_per_s > 900_000.0, "{bits_per_s} bit/s over a wide link");
    assert_eq!(skipped(&stage), 0);

    watcher.link.bits_per_s = 600_000.0;
    watch_alone(&mut stage, &mut watcher, 4);
    let (settled, before) = (Instant::now(), watcher.seen.len());
    let bits_per_s = watch_alone(&mut stage, &mut watcher, 8);
    assert!((250_000.0..610_000.0).contains(&bits_per_s), "{bits_per_s} bit/s over a narrow link");
    let seen: Vec<Instant> = [settled].into_iter().chain(watcher.seen[before..].iter().map(|(_, at)| *at)).collect();
    let longest = seen.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest < Duration::from_secs(2), "nothing was seen for {longest:?}");
    assert!(skipped(&stage) > 0);

    watcher.link.bits_per_s = WIDE;
    let widened = Instant::now();
    while watch_alone(&mut stage, &mut watcher, 2) < 900_000.0 {
        assert!(widened.elapsed() < Duration::from_secs(CLIMB_S_MAX), "it never came back");
    }
    println!("the whole picture again after {:?}", widened.elapsed());
}
