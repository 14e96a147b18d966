//! One publisher: a WebRTC session that sends the clip in real time, again and again, and what became of it.
//!
//! In: datagrams and the time. Out: datagrams (through a closure) and [`Seen`]. Packetising (RFC 6184), retransmission
//! and sender reports are the WebRTC stack's. Deliberately absent: an answer to the server's wish for a keyframe,
//! because the next one of a clip is where it is; such wishes are counted.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use str0m::{
    Event, IceConnectionState, Input, Output, Rtc,
    format::Codec,
    media::{Frequency, MediaTime, Mid, Pt},
};

use super::media::Media;
use crate::{
    clip::Kind,
    rtc::{Arrival, Peer, Send, Session, received},
};

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) connected_at: Option<Instant>,
    /// From the POST on.
    pub(super) connected_ms: Option<f64>,
    /// In the measured time, as are the next two.
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) late_ms: Vec<f64>,
    /// Over the whole life. What the server told in receiver reports; `None` if it sent none.
    pub(super) lost: Option<u64>,
    pub(super) packets: u64,
    pub(super) nacks: u64,
    pub(super) keyframes_wanted: u64,
    pub(super) disconnected: bool,
}

pub(super) struct Publisher {
    rtc: Rtc,
    media: Arc<Media>,
    video: Lane,
    audio: Lane,
    local: SocketAddr,
    asked: Instant,
    wake_at: Instant,
    playhead: Option<Playhead>,
    seen: Seen,
}

struct Lane {
    mid: Mid,
    pt: Pt,
    packets: u64,
    nacks: u64,
    keyframes_wanted: u64,
    lost: Option<u64>,
}

/// The place in the clip.
struct Playhead {
    began: Instant,
    round: u32,
    next: usize,
}

impl Publisher {
    pub(super) fn new(mut session: Session, media: Arc<Media>) -> Result<Self> {
        let mut lane = |mid, codec: Codec| {
            let writer = session.rtc.writer(mid);
            let pt = writer.and_then(|writer| {
                writer.payload_params().find(|params| params.spec().codec == codec).map(|params| params.pt())
            });
            let pt = pt.with_context(|| format!("the answer does not take {codec}"))?;
            anyhow::Ok(Lane { mid, pt, packets: 0, nacks: 0, keyframes_wanted: 0, lost: None })
        };
        let (video, audio) = (lane(session.video, Codec::H264)?, lane(session.audio, Codec::Opus)?);
        let Session { rtc, local, asked, answered, .. } = session;
        Ok(Self { rtc, media, video, audio, local, asked, wake_at: answered, playhead: None, seen: Seen::default() })
    }

    fn drain(&mut self, now: Instant, send: Send<'_>) -> Result<()> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => {
                    self.wake_at = at;
                    return Ok(());
                }
                Output::Transmit(transmit) => send(transmit.destination, &transmit.contents),
                Output::Event(event) => self.apply(event, now),
            }
        }
    }

    fn apply(&mut self, event: Event, now: Instant) {
        match event {
            Event::Connected => {
                self.seen.connected_at = Some(now);
                self.seen.connected_ms = Some(now.saturating_duration_since(self.asked).as_secs_f64() * 1e3);
                self.playhead = Some(Playhead { began: now, round: 0, next: 0 });
            }
            Event::MediaEgressStats(stats) => {
                let lane = if stats.mid == self.video.mid { &mut self.video } else { &mut self.audio };
                (lane.packets, lane.nacks, lane.keyframes_wanted) =
                    (stats.packets, stats.nacks, stats.plis + stats.firs);
                lane.lost = stats.remote.map(|remote| remote.packets_lost).or(lane.lost);
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => self.seen.disconnected = true,
            _ => {}
        }
    }

    /// Sends what is due.
    fn publish(&mut self, arrival: Arrival, send: Send<'_>) -> Result<()> {
        let media = self.media.clone();
        while let Some((due, sample, time)) = self.playhead.as_ref().map(|playhead| playhead.look(&media))
            && due <= arrival.now
        {
            let (lane, time) = match sample.kind {
                Kind::Video => (&self.video, MediaTime::from_90khz((time.as_micros() * 9 / 100) as u64)),
                Kind::Audio => {
                    (&self.audio, MediaTime::new((time.as_millis() * 48) as u64, Frequency::FORTY_EIGHT_KHZ))
                }
            };
            let data = sample.stamped();
            if arrival.measuring {
                self.seen.frames += 1;
                self.seen.bytes += data.len() as u64;
                if sample.kind == Kind::Video {
                    self.seen.late_ms.push((arrival.now - due).as_secs_f64() * 1e3);
                }
            }
            let writer = self.rtc.writer(lane.mid).context("the server wants no media")?;
            writer.write(lane.pt, arrival.now, time, data)?;
            self.drain(arrival.now, send)?;
            self.playhead.as_mut().into_iter().for_each(|playhead| playhead.advance(&media));
        }
        Ok(())
    }
}

impl Playhead {
    /// What comes next, when it is due and where on the media clock it is.
    fn look<'a>(&self, media: &'a Media) -> (Instant, &'a super::media::Sample, Duration) {
        let sample = &media.samples[self.next];
        let time = media.length * self.round + sample.time;
        (self.began + time, sample, time)
    }

    fn advance(&mut self, media: &Media) {
        self.next += 1;
        if self.next == media.samples.len() {
            (self.next, self.round) = (0, self.round + 1);
        }
    }
}

impl Peer for Publisher {
    type Seen = Seen;
    type Legacy = ();

    fn wake_at(&self) -> Instant {
        let due = self.playhead.as_ref().map(|playhead| playhead.look(&self.media).0);
        due.map_or(self.wake_at, |due| due.min(self.wake_at))
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8], arrival: Arrival, send: Send<'_>) -> Result<()> {
        self.rtc.handle_input(received(from, self.local, datagram, arrival)?)?;
        self.drain(arrival.now, send)
    }

    fn wake(&mut self, arrival: Arrival, send: Send<'_>) -> Result<()> {
        self.rtc.handle_input(Input::Timeout(arrival.now))?;
        self.drain(arrival.now, send)?;
        self.publish(arrival, send)
    }

    fn finish(mut self, _wall_us: u64) -> Seen {
        for lane in [&self.video, &self.audio] {
            self.seen.packets += lane.packets;
            self.seen.nacks += lane.nacks;
            self.seen.keyframes_wanted += lane.keyframes_wanted;
            self.seen.lost = lane.lost.map(|lost| lost + self.seen.lost.unwrap_or(0)).or(self.seen.lost);
        }
        self.seen
    }
}
