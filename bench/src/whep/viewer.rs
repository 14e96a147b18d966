//! One viewer: a WebRTC session without a decoder, and what it saw.
//!
//! In: datagrams and the time. Out: datagrams (through a closure) and [`Seen`]. The socket belongs to the shard.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use str0m::{
    Event, IceConnectionState, Input, Output, Rtc,
    format::Codec,
    media::{Mid, Pt},
    rtp::RtpPacket,
};

use super::picture::{FirstKeyframe, stamp_of};
use crate::rtc::{Arrival, Peer, Send, Session, received};

/// What one viewer has to tell at the end.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) connected_at: Option<Instant>,
    pub(super) connected_ms: Option<f64>,
    pub(super) first_rtp_ms: Option<f64>,
    pub(super) first_keyframe_ms: Option<f64>,
    /// In the measured time, as is all that follows.
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) pictures: u64,
    pub(super) delays_ms: Vec<f64>,
    pub(super) longest_gap: Duration,
    /// Over the whole life.
    pub(super) lost: u64,
    pub(super) nacks: u64,
    pub(super) disconnected: bool,
}

pub(super) struct Viewer {
    rtc: Rtc,
    audio: Mid,
    audio_pt: Option<Pt>,
    local: SocketAddr,
    wake_at: Instant,
    answered: Instant,
    keyframe: FirstKeyframe,
    sequences: [Sequences; 2],
    nacks: [u64; 2],
    last_video: Option<Instant>,
    seen: Seen,
}

/// Sequence numbers of one stream; what never came between the first and the highest is lost.
#[derive(Clone, Copy, Debug, Default)]
struct Sequences {
    first: Option<u64>,
    highest: u64,
    received: u64,
}

impl Sequences {
    fn push(&mut self, sequence: u64) {
        let first = *self.first.get_or_insert(sequence);
        self.highest = self.highest.max(sequence);
        self.received += u64::from(sequence >= first);
    }

    fn lost(&self) -> u64 {
        self.first.map_or(0, |first| (self.highest + 1 - first).saturating_sub(self.received))
    }
}

impl Peer for Viewer {
    type Seen = Seen;

    fn wake_at(&self) -> Instant {
        self.wake_at
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8], arrival: Arrival, send: Send<'_>) -> Result<()> {
        self.rtc.handle_input(received(from, self.local, datagram, arrival)?)?;
        self.drain(arrival, send)
    }

    fn wake(&mut self, arrival: Arrival, send: Send<'_>) -> Result<()> {
        self.rtc.handle_input(Input::Timeout(arrival.now))?;
        self.drain(arrival, send)
    }

    fn finish(mut self, now: Instant) -> Seen {
        // Silence until the very end is a gap as well.
        let silence = self.last_video.map_or(Duration::MAX, |last| now.saturating_duration_since(last));
        self.seen.longest_gap = self.seen.longest_gap.max(silence);
        self.seen.lost = self.sequences.iter().map(Sequences::lost).sum();
        self.seen.nacks = self.nacks.iter().sum();
        self.seen
    }
}

impl Viewer {
    pub(super) fn new(session: Session) -> Self {
        let Session { rtc, audio, local, answered, .. } = session;
        Self {
            audio_pt: rtc.codec_config().find(|params| params.spec().codec == Codec::Opus).map(|params| params.pt()),
            rtc,
            audio,
            local,
            wake_at: answered,
            answered,
            keyframe: FirstKeyframe::default(),
            sequences: [Sequences::default(); 2],
            nacks: [0; 2],
            last_video: None,
            seen: Seen::default(),
        }
    }

    fn drain(&mut self, arrival: Arrival, send: Send<'_>) -> Result<()> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => {
                    self.wake_at = at;
                    return Ok(());
                }
                Output::Transmit(transmit) => send(transmit.destination, &transmit.contents),
                Output::Event(event) => self.apply(event, arrival),
            }
        }
    }

    fn apply(&mut self, event: Event, arrival: Arrival) {
        match event {
            Event::Connected => {
                self.seen.connected_at = Some(arrival.now);
                self.seen.connected_ms = Some(self.since_answer_ms(arrival.now));
            }
            Event::RtpPacket(packet) => self.watch(&packet, arrival),
            Event::MediaIngressStats(stats) => {
                self.nacks[usize::from(stats.mid == self.audio)] = stats.nacks;
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => self.seen.disconnected = true,
            _ => {}
        }
    }

    fn watch(&mut self, packet: &RtpPacket, arrival: Arrival) {
        let sequence = *packet.seq_no;
        let since_answer_ms = self.since_answer_ms(arrival.now);
        self.seen.first_rtp_ms.get_or_insert(since_answer_ms);
        let audio = Some(packet.header.payload_type) == self.audio_pt;
        self.sequences[usize::from(audio)].push(sequence);
        if arrival.measuring {
            self.seen.packets += 1;
            self.seen.bytes += packet.payload.len() as u64;
        }
        if audio {
            return;
        }
        if self.seen.first_keyframe_ms.is_none()
            && self.keyframe.push(sequence, packet.time.numer(), packet.header.marker, &packet.payload)
        {
            self.seen.first_keyframe_ms = Some(since_answer_ms);
            self.keyframe = FirstKeyframe::default();
        }
        let last_video = self.last_video.replace(arrival.now);
        if !arrival.measuring {
            return;
        }
        self.seen.pictures += u64::from(packet.header.marker);
        if let Some(last) = last_video {
            self.seen.longest_gap = self.seen.longest_gap.max(arrival.now - last);
        }
        if let Some(sent_us) = stamp_of(&packet.payload) {
            self.seen.delays_ms.push((arrival.wall_us as f64 - sent_us as f64) / 1e3);
        }
    }

    fn since_answer_ms(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.answered).as_secs_f64() * 1e3
    }
}

#[cfg(test)]
#[path = "viewer_tests.rs"]
mod tests;
