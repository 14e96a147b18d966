//! One viewer: a WebRTC session without a decoder, and what it saw.
//!
//! In: datagrams and the time. Out: datagrams (through a closure) and [`Seen`]. The socket belongs to the shard.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
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
use crate::rtc::{Arrival, News, Peer, Send, Session, received};

/// Longer than any run.
const NEVER: Duration = Duration::from_secs(86_400);

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
    /// Of the client, told by the last of its sessions.
    pub(super) longest_gap: Option<Duration>,
    /// Over the whole life.
    pub(super) lost: u64,
    pub(super) nacks: u64,
    pub(super) disconnected: bool,
}

/// What a client sees, whichever of its sessions shows it.
#[derive(Debug, Default)]
struct Sight {
    /// By the kernel's clock: what waits in our own queue did arrive.
    last_us: Option<u64>,
    longest_gap: Duration,
}

/// Of one client, in each of its sessions.
#[derive(Clone, Debug, Default)]
pub(super) struct Eyes(Arc<Mutex<Sight>>);

impl Eyes {
    fn see(&self, arrival: Arrival) {
        let mut sight = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gap = sight.gap_until(arrival.wall_us).filter(|_| arrival.measuring);
        sight.longest_gap = sight.longest_gap.max(gap.unwrap_or_default());
        sight.last_us = sight.last_us.max(Some(arrival.wall_us));
    }

    /// Silence until the very end is a gap as well.
    fn longest_gap(&self, wall_us: u64) -> Duration {
        let sight = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sight.longest_gap.max(sight.gap_until(wall_us).unwrap_or(Duration::MAX))
    }
}

impl Sight {
    fn gap_until(&self, wall_us: u64) -> Option<Duration> {
        self.last_us.map(|last_us| Duration::from_micros(wall_us.saturating_sub(last_us)))
    }
}

pub(super) struct Viewer {
    rtc: Rtc,
    eyes: Eyes,
    /// Another session of the client goes on from here.
    leaves: bool,
    closed: bool,
    news: Option<News<Eyes>>,
    audio: Mid,
    audio_pt: Option<Pt>,
    local: SocketAddr,
    wake_at: Instant,
    answered: Instant,
    keyframe: FirstKeyframe,
    sequences: [Sequences; 2],
    nacks: [u64; 2],
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
    type Legacy = Eyes;

    fn news(&mut self) -> Option<News<Eyes>> {
        self.news.take()
    }

    fn wake_at(&self) -> Instant {
        self.wake_at
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8], arrival: Arrival, send: Send<'_>) -> Result<()> {
        self.handle(received(from, self.local, datagram, arrival)?, arrival, send)
    }

    fn wake(&mut self, arrival: Arrival, send: Send<'_>) -> Result<()> {
        self.handle(Input::Timeout(arrival.now), arrival, send)
    }

    fn finish(mut self, wall_us: u64) -> Seen {
        self.seen.longest_gap = (!self.leaves).then(|| self.eyes.longest_gap(wall_us));
        self.seen.lost = self.sequences.iter().map(Sequences::lost).sum();
        self.seen.nacks = self.nacks.iter().sum();
        self.seen
    }
}

impl Viewer {
    pub(super) fn new(session: Session, eyes: Eyes) -> Self {
        let Session { rtc, audio, local, answered, .. } = session;
        Self {
            audio_pt: rtc.codec_config().find(|params| params.spec().codec == Codec::Opus).map(|params| params.pt()),
            rtc,
            eyes,
            leaves: false,
            closed: false,
            news: None,
            audio,
            local,
            wake_at: answered,
            answered,
            keyframe: FirstKeyframe::default(),
            sequences: [Sequences::default(); 2],
            nacks: [0; 2],
            seen: Seen::default(),
        }
    }

    /// A session that another one follows may be closed by the server at any time; str0m calls that an error.
    fn handle(&mut self, input: Input<'_>, arrival: Arrival, send: Send<'_>) -> Result<()> {
        if self.closed {
            return Ok(());
        }
        let outcome = self.rtc.handle_input(input).map_err(Into::into).and_then(|()| self.drain(arrival, send));
        self.closed = outcome.is_err() && self.leaves;
        if self.closed {
            self.wake_at = arrival.now + NEVER;
            return Ok(());
        }
        outcome
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
            Event::ChannelData(said) if !self.leaves && says_goodbye(&said.data) => {
                self.leaves = true;
                self.news = Some(News::Leaves(self.eyes.clone()));
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => self.seen.disconnected |= !self.leaves,
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
            self.news = Some(News::Arrived);
        }
        // Before it nothing can be shown.
        if self.seen.first_keyframe_ms.is_some() {
            self.eyes.see(arrival);
        }
        if !arrival.measuring {
            return;
        }
        self.seen.pictures += u64::from(packet.header.marker);
        if let Some(sent_us) = stamp_of(&packet.payload) {
            self.seen.delays_ms.push((arrival.wall_us as f64 - sent_us as f64) / 1e3);
        }
    }

    fn since_answer_ms(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.answered).as_secs_f64() * 1e3
    }
}

/// In the words of Ant Media's signalling.
fn says_goodbye(message: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(message).is_ok_and(|said| said["definition"] == "server_will_stop")
}

#[cfg(test)]
#[path = "viewer_tests.rs"]
mod tests;
