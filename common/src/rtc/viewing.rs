//! What one viewer is sent.
//!
//! In: frames of the tracks it follows, the time. Out: packets for its WebRTC stack, as fast as pacing allows.
//! Deliberately absent: the network, other viewers, and choosing tracks.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use str0m::{
    Event, Rtc,
    bwe::BweKind,
    media::{MediaTime, Mid},
    rtp::{ExtensionValues, RtpWrite, Ssrc},
    stats::MediaEgressStats,
};

use super::{
    formats::Formats,
    outgoing::Outgoing,
    pace::Pacer,
    roster::Card,
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
/// A gop is sent again to a viewer that lost its picture at most this often.
const REPLAY_EVERY: Duration = Duration::from_secs(1);
/// Packets kept for retransmission, and for how long: with the default (2,000 packets, 3 s) a session takes twice the
/// memory.
const RTX: (usize, Duration) = (256, Duration::from_secs(1));
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
    /// Bytes per second of the video track.
    rate: i64,
    /// How far frames were seen ahead of the wall clock: sender reports must not speak of the future.
    lead: Duration,
    replayed: Option<Instant>,
    /// Packets handed to the stack.
    pub(super) packets: u64,
    pub(super) dropped: u64,
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
            rate: 0,
            lead: Duration::ZERO,
            replayed: None,
            packets: 0,
            dropped: 0,
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
                stream.set_rtx_cache(RTX.0, RTX.1, Some(0.5));
            }
            let ssrc = stream.ssrc();
            let clock = Outgoing::new(if index == VIDEO { 90_000 } else { 48_000 }, *ssrc);
            Some(Out { mid, formats, ssrc, feed: None, next_feed: None, waiting: true, clock, enabled: true, delay })
        });
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
            self.queue.clear();
        } else if out.feed != Some(feed) || (out.waiting && !frame.keyframe) {
            return None;
        }
        if !out.enabled {
            out.waiting = true;
            return left;
        }
        out.waiting = false;
        match index {
            AUDIO => {
                let rtp_time = out.clock.sound(frame);
                self.write(rtc, AUDIO, frame, 0, rtp_time, clock);
            }
            _ => {
                self.rate = rate;
                if self.queue.len() >= QUEUE_FRAMES_MAX {
                    self.dropped += self.queue.len() as u64;
                    self.queue.clear();
                    out.waiting = true;
                    return left;
                }
                let rtp_time = out.clock.picture(frame);
                self.queue.push_back(Item { frame: frame.clone(), rtp_time, next: 0 });
            }
        }
        left
    }

    /// The newest keyframe and everything since, for a viewer without a picture: as fast as pacing allows and stamped
    /// as if it had been taken just now, so that the player catches up at once instead of staying late.
    pub(super) fn catch_up(&mut self, gop: &[Arc<Frame>], rate: i64) {
        let Some(out) = self.outs[VIDEO].as_mut() else { return };
        if !out.enabled || !gop.first().is_some_and(|frame| frame.keyframe) {
            return;
        }
        self.rate = rate;
        self.queue.clear();
        let times = out.clock.squeezed(gop);
        let items = gop.iter().zip(times).map(|(frame, rtp_time)| Item { frame: frame.clone(), rtp_time, next: 0 });
        self.queue.extend(items);
        out.waiting = false;
    }

    /// Whether a gop should be sent again now that the viewer says it has no picture.
    pub(super) fn may_replay(&mut self, now: Instant) -> bool {
        let waiting = self.outs[VIDEO].as_ref().is_none_or(|out| out.waiting);
        // What it lacks is on its way.
        let under_way = self.queue.iter().any(|item| item.frame.keyframe);
        let lately = self.replayed.is_some_and(|at| now.saturating_duration_since(at) < REPLAY_EVERY);
        if waiting || under_way || lately {
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

    /// Hands the stack what pacing allows.
    pub(super) fn send(&mut self, rtc: &mut Rtc, clock: &Clock) {
        let (factor, least) = if self.queue.len() > 2 { PACE_CATCHING_UP } else { PACE };
        self.pacer.refill(least.max(self.rate * factor), clock.now);
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

    pub(super) fn event(&mut self, event: &Event, card: &Card, outcome: &mut Outcome) {
        match event {
            Event::KeyframeRequest(_) => outcome.picture_wanted = true,
            Event::EgressBitrateEstimate(BweKind::Remb { estimate, .. } | BweKind::Twcc { estimate, .. }) => {
                card.update(|stats| stats.estimate_bps = Some(estimate.as_u64()));
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
