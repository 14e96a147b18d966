//! What one viewer is sent.
//!
//! In: frames of the tracks it follows, what its path is estimated to carry, the time. Out: packets for its WebRTC
//! stack, as fast as pacing and the estimate allow, and which layer it should follow. Deliberately absent: the network,
//! other viewers, and choosing between tracks that are no layers.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use str0m::{
    Event, Rtc,
    bwe::Bitrate,
    media::{MediaTime, Mid},
    rtp::{ExtensionValues, RtpWrite, Ssrc},
    stats::MediaEgressStats,
};

use super::{
    answer::numbers_packets,
    formats::Formats,
    layers::{Choice, Layer, Switch},
    outgoing::Outgoing,
    pace::Pacer,
    path::Path,
    roster::Card,
    seam::Seam,
    session::{Outcome, Sections},
};
use crate::{
    live::Broadcast,
    media::{Accepts, Delivery, Frame, Kind},
};

/// Frames that wait to be paced out: four gops of OBS's default length. When full the viewer is hopelessly slow: all
/// are dropped and it goes on at the next keyframe.
const QUEUE_FRAMES_MAX: usize = 2_048;
/// Faster than the track itself by these factors, and never slower than these rates.
const PACE: (i64, i64) = (5, 1_500_000);
const PACE_CATCHING_UP: (i64, i64) = (10, 3_750_000);
/// A path that is estimated to carry less than the picture takes is sent this much of the estimate (percent). GoogCC
/// and receivers estimate 85 percent of what gets through, so that this fills no queue on the way.
const PACE_SHORT_PERCENT: i64 = 115;
/// Where there is no layer to fall to, room is looked for until the path is believed to carry this much more than
/// everything takes (percent): encoders overshoot.
const ENOUGH_PERCENT: u64 = 120;
/// Nobody is sent less than this (bytes per second): estimates of a path that carries nothing are no use.
const PACE_LEAST: i64 = 8_000;
/// What waits for longer is skipped when a newer keyframe waits behind it.
const LATE: Duration = Duration::from_secs(1);
/// And this is the most, keyframe or not: a picture that stands still tells more than one that is a minute old.
const TOO_LATE: Duration = Duration::from_secs(3);
/// A gop is sent again to a viewer that lost its picture at most this often.
const REPLAY_EVERY: Duration = Duration::from_secs(1);
/// A viewer that lost something says so sooner than this. Browsers ask for a keyframe after three seconds without a
/// picture as well, though they have all there is: shown again, it would be a jump back.
const SILENT: Duration = Duration::from_secs(2);
/// Packets kept for retransmission, and for how long: with the default (2,000 packets, 3 s) a session takes twice the
/// memory.
const RTX: (usize, Duration) = (256, Duration::from_secs(1));
/// Of what is sent.
const RTX_SHARE: Option<f32> = Some(0.5);
/// A keyframe that is waited for is asked for again after so long.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// One outgoing track of a session.
#[derive(Debug)]
pub(super) struct Out {
    pub(super) mid: Mid,
    formats: Formats,
    ssrc: Ssrc,
    /// The feed it follows.
    pub(super) feed: Option<usize>,
    /// The feed it will follow from that one's next keyframe on.
    pub(super) next_feed: Option<usize>,
    /// Nothing can be decoded before the next keyframe.
    waiting: bool,
    clock: Outgoing,
    /// The viewer wants it.
    enabled: bool,
    /// The peer takes the playout-delay extension.
    delay: bool,
}

#[derive(Debug)]
struct Item {
    frame: Arc<Frame>,
    rtp_time: i64,
    /// The first packet that has not left yet.
    next: usize,
    since: Instant,
}

/// Where the broadcast's clock stands on this machine's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) now: Instant,
    pub(super) unix_us: i64,
}

impl Clock {
    /// The instant of a wall-clock time, for sender reports.
    fn instant(&self, unix_us: i64) -> Instant {
        let ago_us = self.unix_us - unix_us;
        let distance = Duration::from_micros(ago_us.unsigned_abs());
        let instant = if ago_us >= 0 { self.now.checked_sub(distance) } else { self.now.checked_add(distance) };
        instant.unwrap_or(self.now)
    }
}

pub(super) const VIDEO: usize = 0;
pub(super) const AUDIO: usize = 1;

pub(super) fn index(kind: Kind) -> usize {
    match kind {
        Kind::Video => VIDEO,
        Kind::Audio => AUDIO,
    }
}

pub(super) struct Viewing {
    pub(super) broadcast: Arc<Broadcast>,
    /// Video, audio.
    pub(super) outs: [Option<Out>; 2],
    /// What of a keyframe or a gop has still to leave. Video only: sound is never held back.
    queue: VecDeque<Item>,
    pacer: Pacer,
    pub(super) pace_at: Option<Instant>,
    /// Bytes per second of the tracks.
    rates: [i64; 2],
    pub(super) switch: Switch<u32>,
    pub(super) path: Path,
    looks_for_bits_per_s: u64,
    /// There are or were layers to choose from.
    chooses: bool,
    asked: Option<Instant>,
    seam: Seam,
    /// How far frames were seen ahead of the wall clock: sender reports must not speak of the future.
    lead: Duration,
    replayed: Option<Instant>,
    /// When there was a picture to send last.
    news: Option<Instant>,
    /// Packets handed to the stack.
    pub(super) packets: u64,
    pub(super) dropped: u64,
    /// From one picture to another.
    pub(super) switches: u64,
    #[cfg(test)]
    pub(super) panics_at_frame: bool,
}

impl Viewing {
    /// Nothing is sent before the sections are known.
    pub(super) fn new(broadcast: Arc<Broadcast>, now: Instant) -> Self {
        Self {
            broadcast,
            outs: [None, None],
            queue: VecDeque::new(),
            pacer: Pacer::new(now),
            pace_at: None,
            rates: [0, 0],
            switch: Switch::default(),
            path: Path::default(),
            looks_for_bits_per_s: 0,
            chooses: false,
            asked: None,
            seam: Seam::default(),
            lead: Duration::ZERO,
            replayed: None,
            news: None,
            packets: 0,
            dropped: 0,
            switches: 0,
            #[cfg(test)]
            panics_at_frame: false,
        }
    }

    /// What was agreed on with the viewer.
    pub(super) fn open(&mut self, rtc: &mut Rtc, mut sections: Sections) {
        self.outs = [VIDEO, AUDIO].map(|index| {
            let (mid, formats, delay) = sections[index].take()?;
            let mut api = rtc.direct_api();
            let stream = api.stream_tx_by_mid(mid, None)?;
            if index == VIDEO {
                stream.set_rtx_cache(RTX.0, RTX.1, RTX_SHARE);
                stream.set_unpaced(true);
            }
            let ssrc = stream.ssrc();
            let clock = Outgoing::new(if index == VIDEO { 90_000 } else { 48_000 }, *ssrc);
            Some(Out { mid, formats, ssrc, feed: None, next_feed: None, waiting: true, clock, enabled: true, delay })
        });
        let probes = self.outs.iter().flatten().any(|out| numbers_packets(rtc, out.mid));
        self.path = Path::new(probes);
    }

    /// What there is to choose from for this viewer.
    pub(super) fn delivery(&self, kind: Kind) -> Delivery {
        Delivery::WebRtc(self.outs[index(kind)].as_ref().map_or_else(Accepts::default, |out| out.formats.accepts()))
    }

    /// A new frame of a feed. Returns the feed that it has left, if this frame made it switch.
    pub(super) fn frame(
        &mut self,
        rtc: &mut Rtc,
        index: usize,
        feed: usize,
        frame: &Arc<Frame>,
        rate: i64,
        clock: &Clock,
    ) -> Option<usize> {
        let out = self.outs[index].as_mut()?;
        #[cfg(test)]
        assert!(!self.panics_at_frame, "as a test asked for");
        let mut left = None;
        if out.next_feed == Some(feed) && frame.keyframe {
            left = out.feed.replace(feed);
            out.next_feed = None;
            out.clock.switched();
            if index == VIDEO {
                self.queue.clear();
                self.switches += 1;
                self.path.switched(clock.now);
                // Nobody needs what was lost before a keyframe, and a path that has become narrow must not carry it.
                forget_sent(rtc, out.ssrc);
            }
        } else if out.feed != Some(feed) || (out.waiting && !frame.keyframe) {
            return None;
        }
        if !out.enabled {
            out.waiting = true;
            return left;
        }
        out.waiting = false;
        out.clock.shift(self.seam.place(frame, clock.now));
        self.rates[index] = rate;
        match index {
            AUDIO => {
                let rtp_time = out.clock.sound(frame);
                self.write(rtc, AUDIO, frame, 0, rtp_time, clock);
            }
            _ => {
                if self.queue.len() >= QUEUE_FRAMES_MAX {
                    self.dropped += self.queue.len() as u64;
                    self.queue.clear();
                    out.waiting = true;
                    return left;
                }
                let rtp_time = out.clock.picture(frame);
                self.news = Some(clock.now);
                self.queue.push_back(Item { frame: frame.clone(), rtp_time, next: 0, since: clock.now });
            }
        }
        left
    }

    /// The newest keyframe and everything since, for a viewer without a picture: as fast as pacing allows and stamped
    /// as if it had been taken just now, so that the player catches up at once instead of staying late. Or all that came
    /// since the last picture it was sent.
    pub(super) fn catch_up(&mut self, gop: &[Arc<Frame>], rate: i64, now: Instant) {
        let Some(out) = self.outs[VIDEO].as_mut() else { return };
        let Some(anew) = gop.first().map(|frame| frame.keyframe) else { return };
        if !out.enabled || (out.waiting && !anew) {
            return;
        }
        self.rates[VIDEO] = rate;
        if anew {
            self.queue.clear();
        }
        self.news = Some(now);
        if let Some(newest) = gop.last() {
            out.clock.shift(self.seam.place(newest, now));
        }
        let times = out.clock.squeezed(gop);
        let item = |(frame, rtp_time): (&Arc<Frame>, i64)| Item { frame: frame.clone(), rtp_time, next: 0, since: now };
        self.queue.extend(gop.iter().zip(times).map(item));
        out.waiting = false;
    }

    pub(super) fn follows(&self, feed: usize) -> bool {
        self.outs[VIDEO].as_ref().is_some_and(|out| out.feed == Some(feed))
    }

    pub(super) fn waits_for_picture(&self) -> bool {
        self.outs[VIDEO].as_ref().is_none_or(|out| out.waiting)
    }

    /// Whether a gop should be sent again now that the viewer says it has no picture.
    pub(super) fn may_replay(&mut self, now: Instant) -> bool {
        let waiting = self.waits_for_picture();
        // It misses what comes, not what went.
        let silent = self.news.is_some_and(|at| now.saturating_duration_since(at) >= SILENT);
        // What it lacks is on its way.
        let under_way = self.queue.iter().any(|item| item.frame.keyframe);
        let lately = self.replayed.is_some_and(|at| now.saturating_duration_since(at) < REPLAY_EVERY);
        if waiting || silent || under_way || lately {
            return false;
        }
        self.replayed = Some(now);
        true
    }

    /// What the viewer does not want is not sent. Returns whether this is news.
    pub(super) fn enable(&mut self, index: usize, enabled: bool) -> bool {
        let Some(out) = self.outs[index].as_mut().filter(|out| out.enabled != enabled) else { return false };
        out.enabled = enabled;
        if index == VIDEO && !enabled {
            self.queue.clear();
        }
        true
    }

    /// Hands the stack what pacing allows. Tells whether a keyframe should be asked for, because what waits is late.
    pub(super) fn send(&mut self, rtc: &mut Rtc, clock: &Clock) -> bool {
        let late = self.skip(clock.now);
        let short = self.short(clock.now);
        self.pacer.refill(short.unwrap_or_else(|| self.pace()), clock.now);
        if !self.chooses && self.path.probes() {
            let everything = short.map_or(0, |_| self.rates.iter().sum::<i64>() as u64 * 8);
            self.look_for(rtc, everything * ENOUGH_PERCENT / 100);
        }
        self.pace_at = None;
        while let Some(item) = self.queue.front() {
            if !self.pacer.may_send() {
                self.pace_at = Some(self.pacer.next());
                break;
            }
            let (frame, from, rtp_time) = (item.frame.clone(), item.next, item.rtp_time);
            let until = self.write(rtc, VIDEO, &frame, from, rtp_time, clock);
            if until == frame.rtp().len() {
                self.queue.pop_front();
            } else if let Some(item) = self.queue.front_mut() {
                item.next = until;
            }
        }
        late && self.may_ask(clock.now)
    }

    /// Bytes per second.
    fn pace(&self) -> i64 {
        let (factor, least) = if self.queue.len() > 2 { PACE_CATCHING_UP } else { PACE };
        least.max(self.rates[VIDEO] * factor)
    }

    /// What everything it is sent may take (bits per second), if that is less than it takes.
    pub(super) fn limit_bps(&self, now: Instant) -> Option<u64> {
        self.short(now).map(|pace| (pace + self.rates[AUDIO]) as u64 * 8)
    }

    /// The pace (bytes per second) on a path that carries less than the picture takes. An estimate binds when it has
    /// fallen: before that it is low because little was sent.
    fn short(&self, now: Instant) -> Option<i64> {
        let carries = self.path.binds(now).filter(|carries| carries - self.rates[AUDIO] < self.rates[VIDEO])?;
        Some((carries * PACE_SHORT_PERCENT / 100 - self.rates[AUDIO]).max(PACE_LEAST))
    }

    /// Leaves out what waits for too long. Tells whether something does.
    fn skip(&mut self, now: Instant) -> bool {
        let waits = |item: &Item| now.saturating_duration_since(item.since);
        let Some(oldest) = self.queue.front().map(waits).filter(|oldest| *oldest > LATE) else { return false };
        let newest = self.queue.iter().rposition(|item| item.frame.keyframe).filter(|position| *position > 0);
        let Some(out) = self.outs[VIDEO].as_mut() else { return false };
        let skipped = match newest {
            Some(newest) => newest,
            None if oldest > TOO_LATE => {
                out.waiting = true;
                self.queue.len()
            }
            None => 0,
        };
        self.queue.drain(..skipped);
        self.dropped += skipped as u64;
        newest.is_none()
    }

    /// Whether a keyframe may be asked for (again).
    pub(super) fn may_ask(&mut self, now: Instant) -> bool {
        let shown = self.outs[VIDEO].as_ref().is_some_and(|out| out.enabled);
        let may = shown && self.asked.is_none_or(|at| now.saturating_duration_since(at) >= ASK_EVERY);
        if may {
            self.asked = Some(now);
        }
        may
    }

    /// Stops sending what is mostly lost, until the next keyframe: the queue on the way can empty for that.
    pub(super) fn pause_if_lost(&mut self, rtc: &mut Rtc) {
        if let Some(out) = self.outs[VIDEO].as_mut().filter(|_| self.path.is_losing()) {
            self.dropped += self.queue.len() as u64;
            self.queue.clear();
            out.waiting = true;
            forget_sent(rtc, out.ssrc);
        }
    }

    /// The layer to follow, of those there are.
    pub(super) fn choose(&mut self, rtc: &mut Rtc, layers: &[Layer<u32>], card: &Card, now: Instant) -> Option<u32> {
        let sound_bits_per_s = (self.rates[AUDIO] * 8) as u64;
        let sent_bits_per_s = self.rates.iter().sum::<i64>() as u64 * 8;
        let estimate = self.path.carries(sent_bits_per_s, now);
        let Choice { layer, look_for_bits_per_s } = self.switch.choose(layers, sound_bits_per_s, estimate, now)?;
        self.chooses = true;
        if self.look_for(rtc, look_for_bits_per_s) {
            card.update(|stats| stats.target_bps = Some(look_for_bits_per_s));
        }
        Some(layer)
    }

    /// Has the stack find out whether the path carries this much. Tells whether this is news.
    fn look_for(&mut self, rtc: &mut Rtc, bits_per_s: u64) -> bool {
        let is_new = self.looks_for_bits_per_s != bits_per_s;
        if is_new {
            self.looks_for_bits_per_s = bits_per_s;
            rtc.bwe().set_bitrate(Bitrate::ZERO, Bitrate::bps(bits_per_s));
        }
        is_new
    }

    /// Hands packets of a frame to the stack; returns the first that pacing holds back.
    fn write(
        &mut self,
        rtc: &mut Rtc,
        index: usize,
        frame: &Frame,
        from: usize,
        rtp_time: i64,
        clock: &Clock,
    ) -> usize {
        let Some(out) = self.outs[index].as_mut() else { return usize::MAX };
        let taken = clock.instant(self.broadcast.born_us() + out.clock.media_us(rtp_time));
        self.lead = self.lead.max(taken.saturating_duration_since(clock.now));
        let taken = taken.checked_sub(self.lead).unwrap_or(taken);
        let mut api = rtc.direct_api();
        let packets = frame.rtp();
        // A publisher may come back with a codec that this viewer does not know.
        let Some(pt) = out.formats.suiting(&frame.info) else { return packets.len() };
        let Some(stream) = api.stream_tx(&out.ssrc) else { return packets.len() };
        for (i, packet) in packets.iter().enumerate().skip(from) {
            if index == VIDEO {
                if !self.pacer.may_send() {
                    return i;
                }
                self.pacer.sent(packet.payload.len());
            }
            let (seq, time) = out.clock.stamp(rtp_time);
            let mut rtp = RtpWrite::new(pt, seq.into(), time, taken, packet.payload.clone())
                .marker(packet.marker)
                .nackable(index == VIDEO);
            if out.delay && frame.keyframe {
                rtp = rtp.ext_vals(ExtensionValues {
                    play_delay_min: Some(MediaTime::from_hundredths(0)),
                    play_delay_max: Some(MediaTime::from_hundredths(PLAYOUT_DELAY_MAX_HUNDREDTHS)),
                    ..Default::default()
                });
            }
            stream.write_rtp(rtp);
            self.packets += 1;
        }
        packets.len()
    }

    pub(super) fn event(&mut self, event: &Event, card: &Card, now: Instant, outcome: &mut Outcome) {
        match event {
            Event::KeyframeRequest(_) => outcome.picture_wanted = true,
            Event::EgressBitrateEstimate(kind) => {
                if let Some(estimate_bps) = self.path.estimated(kind, now) {
                    card.update(|stats| stats.estimate_bps = Some(estimate_bps));
                }
            }
            Event::MediaEgressStats(media) => self.media_stats(media, card),
            _ => {}
        }
    }

    fn media_stats(&self, media: &MediaEgressStats, card: &Card) {
        if self.outs[VIDEO].as_ref().is_some_and(|out| out.mid == media.mid) {
            card.update(|stats| {
                (stats.nacks, stats.plis) = (media.nacks, media.plis + media.firs);
                // Receiver reports tell; without transport-wide feedback the peer's own figures stay empty.
                stats.rtt_ms = media.rtt.map(|rtt| rtt.as_secs_f32() * 1_000.0).or(stats.rtt_ms);
                stats.lost_percent = media.loss.map(|loss| loss * 100.0).or(stats.lost_percent);
            });
        }
    }
}

/// A player that was allowed no more than this never builds up a longer buffer, whatever its network did to it once.
const PLAYOUT_DELAY_MAX_HUNDREDTHS: u64 = 50;

/// Nothing that was sent so far is sent again.
fn forget_sent(rtc: &mut Rtc, ssrc: Ssrc) {
    if let Some(stream) = rtc.direct_api().stream_tx(&ssrc) {
        stream.set_rtx_cache(RTX.0, RTX.1, RTX_SHARE);
    }
}
