//! One viewer: a WebRTC session without a decoder, and what it saw.
//!
//! In: datagrams and the time. Out: datagrams (through a closure) and [`Seen`]. The socket belongs to the shard.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use str0m::{
    Candidate, Event, IceConnectionState, Input, Output, Rtc, RtcConfig,
    change::{SdpAnswer, SdpPendingOffer},
    config::{CryptoProvider, DtlsCert},
    format::Codec,
    media::{Direction, MediaKind, Pt},
    net::{Protocol, Receive},
    rtp::RtpPacket,
};

use super::picture::{FirstKeyframe, stamp_of};

/// What all viewers of this process share: a certificate for each would cost more than the rest of the join.
pub(super) struct Shared {
    provider: Arc<CryptoProvider>,
    certificate: DtlsCert,
}

impl Shared {
    pub(super) fn new() -> Result<Self> {
        let provider = Arc::new(str0m::crypto::from_feature_flags());
        let certificate = provider.dtls_provider.generate_certificate().context("no DTLS certificate")?;
        Ok(Self { provider, certificate })
    }
}

/// A viewer that has made its offer.
pub(super) struct Offering {
    rtc: Rtc,
    pending: SdpPendingOffer,
    audio: Option<Pt>,
    pub(super) local: SocketAddr,
    pub(super) offer: String,
}

impl Offering {
    pub(super) fn new(shared: &Shared, local: SocketAddr) -> Result<Self> {
        let mut config = RtcConfig::new()
            .set_crypto_provider(shared.provider.clone())
            .set_dtls_cert(shared.certificate.clone())
            .clear_codecs()
            .enable_h264(true)
            .enable_opus(true, false)
            .set_rtp_mode(true)
            .set_stats_interval(Some(Duration::from_secs(1)));
        let audio = config.codec_config().find(|params| params.spec().codec == Codec::Opus).map(|params| params.pt());
        let mut rtc = config.build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp")?);
        let mut changes = rtc.sdp_api();
        changes.add_media(MediaKind::Video, Direction::RecvOnly, None, None, None);
        changes.add_media(MediaKind::Audio, Direction::RecvOnly, None, None, None);
        let (offer, pending) = changes.apply().context("an offer without changes")?;
        Ok(Self { rtc, pending, audio, local, offer: offer.to_sdp_string() })
    }

    pub(super) fn accept(mut self, answer: &str, answered: Instant) -> Result<Viewer> {
        let answer = SdpAnswer::from_sdp_string(answer).context("the answer is no SDP")?;
        self.rtc.sdp_api().accept_answer(self.pending, answer).context("the answer does not fit the offer")?;
        Ok(Viewer {
            rtc: self.rtc,
            audio: self.audio,
            local: self.local,
            wake_at: answered,
            answered,
            keyframe: FirstKeyframe::default(),
            sequences: [Sequences::default(); 2],
            nacks: [0; 2],
            last_video: None,
            seen: Seen::default(),
        })
    }
}

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
    audio: Option<Pt>,
    local: SocketAddr,
    pub(super) wake_at: Instant,
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

/// A datagram's place in time: when it was handed over, and when the kernel got it by the wall clock.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub(super) now: Instant,
    pub(super) wall_us: u64,
    pub(super) measuring: bool,
}

impl Viewer {
    pub(super) fn receive(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        arrival: Arrival,
        send: impl FnMut(SocketAddr, &[u8]),
    ) -> Result<()> {
        let receive = Receive::new(Protocol::Udp, from, self.local, datagram)?;
        self.rtc.handle_input(Input::Receive(arrival.now, receive))?;
        self.drain(arrival, send)
    }

    pub(super) fn wake(&mut self, arrival: Arrival, send: impl FnMut(SocketAddr, &[u8])) -> Result<()> {
        self.rtc.handle_input(Input::Timeout(arrival.now))?;
        self.drain(arrival, send)
    }

    fn drain(&mut self, arrival: Arrival, mut send: impl FnMut(SocketAddr, &[u8])) -> Result<()> {
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
                let known = self.rtc.media(stats.mid).is_some_and(|media| media.kind() == MediaKind::Audio);
                self.nacks[usize::from(known)] = stats.nacks;
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => self.seen.disconnected = true,
            _ => {}
        }
    }

    fn watch(&mut self, packet: &RtpPacket, arrival: Arrival) {
        let sequence = *packet.seq_no;
        let since_answer_ms = self.since_answer_ms(arrival.now);
        self.seen.first_rtp_ms.get_or_insert(since_answer_ms);
        let audio = Some(packet.header.payload_type) == self.audio;
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

    pub(super) fn finish(mut self, now: Instant) -> Seen {
        // Silence until the very end is a gap as well.
        let silence = self.last_video.map_or(Duration::MAX, |last| now.saturating_duration_since(last));
        self.seen.longest_gap = self.seen.longest_gap.max(silence);
        self.seen.lost = self.sequences.iter().map(Sequences::lost).sum();
        self.seen.nacks = self.nacks.iter().sum();
        self.seen
    }
}

#[cfg(test)]
#[path = "viewer_tests.rs"]
mod tests;
