//! What one publisher sends.
//!
//! In: frames as the WebRTC stack put them together, and whether they are let into the hall (`entry`). Out: samples for
//! the hall on one clock, and requests for keyframes. Deliberately absent: the network, and who wants to see it: that
//! somebody needs a keyframe is read from the tracks of the hall.

use std::time::{Duration, Instant};

use bytes::Bytes;
use str0m::{
    Event, Rtc,
    channel::ChannelData,
    format::Codec as Format,
    media::{KeyframeRequestKind, MediaData, Mid, Rid},
    stats::MediaIngressStats,
};
use tokio::sync::oneshot;

use super::{
    clocks::{Arrival, Clock, Clocks, Report},
    entry::Entry,
    reception::Sends,
    reorder::Reorder,
    roster::Card,
    session::{End, Outcome},
};
use crate::{
    intake::Intake,
    live::Fenced,
    media::{Codec, Framing, Kind, Sample, opus},
};

/// Browsers send a keyframe only when they are asked for one. Asked this often a broadcast has gops of two seconds,
/// with room for the round trip: that is what HLS segments and recordings are cut at.
const KEYFRAME_EVERY: Duration = Duration::from_millis(1_900);
/// However many ask, a publisher is asked at most this often.
const KEYFRAME_PAUSE: Duration = Duration::from_millis(500);
/// As the WebRTC stack puts H.264 and H.265 together.
const FRAMING: Framing = Framing::AnnexB;
/// Qualities that one publisher may send side by side. Further ones are not looked at.
const LAYERS_MAX: usize = 4;

pub(super) struct Publishing {
    entry: Entry,
    sends: Sends,
    streams: Vec<Stream>,
    clocks: Clocks,
    keyframes_asked: u64,
}

/// One RTP stream: the sound, the picture, or a layer of it.
struct Stream {
    mid: Mid,
    rid: Option<Rid>,
    kind: Kind,
    /// Among the layers.
    layer: u8,
    clock: Clock,
    reorder: Reorder,
    /// Something was lost: what comes can't be decoded before the next keyframe.
    broken: bool,
    asked: Option<Instant>,
    keyframe: Option<Instant>,
}

impl Publishing {
    /// The knock comes when it is connected.
    pub(super) fn new(sends: Sends) -> (Self, oneshot::Receiver<usize>) {
        let (entry, knocked) = Entry::new();
        (Self { entry, sends, streams: Vec::new(), clocks: Clocks::default(), keyframes_asked: 0 }, knocked)
    }

    pub(super) fn connected(&mut self, shard: usize) {
        self.entry.knock(shard);
    }

    /// Keeps what can't be dealt with before it is let in; returns everything else.
    pub(super) fn hold(&mut self, event: Event) -> Option<Event> {
        self.entry.hold(event)
    }

    pub(super) fn is_let_in(&self) -> bool {
        !self.entry.is_outside()
    }

    /// Says what will come before the first of it has: a recording or a playlist that began with sound or a picture alone
    /// would have to begin anew. Returns what it has said on data channels until now.
    pub(super) fn let_in(
        &mut self,
        mut intake: Box<Intake>,
        rtc: &mut Rtc,
        card: &Card,
        outcome: &mut Outcome,
    ) -> Vec<ChannelData> {
        announce(&mut intake, self.sends).unwrap_or_else(|fenced| outcome.end(fenced.into()));
        let held = self.entry.enter(intake);
        let mut said = Vec::new();
        for event in held.events {
            match event {
                Event::ChannelData(data) => said.push(data),
                event => self.event(event, rtc, card, outcome),
            }
        }
        if held.has_gap {
            self.streams.iter_mut().for_each(|stream| stream.broken = true);
        }
        said
    }

    pub(super) fn event(&mut self, event: Event, rtc: &mut Rtc, card: &Card, outcome: &mut Outcome) {
        match event {
            Event::MediaData(data) => {
                let taken = self.take(data, rtc);
                taken.unwrap_or_else(|fenced| outcome.end(fenced.into()));
            }
            Event::MediaIngressStats(media) => self.media_stats(&media, card),
            _ => {}
        }
    }

    /// Why it may not go on.
    pub(super) fn fenced(&self) -> Option<Fenced> {
        match &self.entry {
            Entry::Inside(intake) => intake.check().err(),
            Entry::Outside { .. } | Entry::Over => None,
        }
    }

    /// Tells the hall how it ended.
    pub(super) fn end(&mut self, end: End, now_us: i64) {
        let entry = std::mem::replace(&mut self.entry, Entry::Over);
        if let (Entry::Inside(intake), End::Asked | End::Left) = (entry, end) {
            intake.finish(now_us);
        }
    }

    fn take(&mut self, data: MediaData, rtc: &mut Rtc) -> Result<(), Fenced> {
        let Entry::Inside(intake) = &mut self.entry else { return Ok(()) };
        let Some(codec) = codec(data.params.spec().codec) else { return Ok(()) };
        let index = match self.streams.iter().position(|stream| stream.mid == data.mid && stream.rid == data.rid) {
            Some(index) => index,
            None => {
                let layer = self.streams.iter().filter(|stream| stream.rid.is_some()).count();
                if layer >= LAYERS_MAX {
                    return Ok(());
                }
                self.streams.push(Stream {
                    mid: data.mid,
                    rid: data.rid,
                    kind: codec.kind(),
                    layer: layer as u8,
                    clock: Clock::new(data.time.denom()),
                    reorder: Reorder::default(),
                    broken: true,
                    asked: None,
                    keyframe: None,
                });
                self.streams.len() - 1
            }
        };
        let stream = &mut self.streams[index];
        let (now, now_us) = (Instant::now(), crate::clock::now_us());
        let is_sound = codec.kind() == Kind::Audio;
        let late_us = now.saturating_duration_since(data.network_time).as_micros() as i64;
        let report = data.last_sender_info.map(|info| Report::new(info.ntp_time, info.rtp_time.numer()));
        let ssrc = rtc.direct_api().stream_rx_by_mid(data.mid, data.rid).map_or(0, |stream| *stream.ssrc());
        let arrival = Arrival { ssrc, is_sound, rtp_time: data.time.numer(), at_us: now_us - late_us, report };
        let pts_us = self.clocks.place(&mut stream.clock, &arrival);
        let mut dts_us = pts_us;
        if !is_sound {
            let keyframe = data.is_keyframe();
            stream.broken = !keyframe && (stream.broken || !data.contiguous);
            if keyframe {
                stream.keyframe = Some(now);
            }
            let track = match stream.rid {
                None => intake.broadcast().source(Kind::Video),
                Some(_) => intake.broadcast().layer(stream.layer),
            };
            let wanted = || track.as_ref().is_some_and(|track| track.take_keyframe_request());
            if stream.may_ask(now) && (stream.broken || stream.is_due(now) || wanted()) {
                stream.asked = Some(now);
                self.keyframes_asked += 1;
                if let Some(source) = rtc.direct_api().stream_rx_by_mid(stream.mid, stream.rid) {
                    source.request_keyframe(KeyframeRequestKind::Pli);
                }
            }
            if stream.broken {
                return Ok(());
            }
            let reorders = track.and_then(|track| track.info()).is_some_and(|info| info.reorders());
            dts_us = stream.reorder.decoding_us(pts_us, keyframe, reorders);
        }
        let sample = Sample { dts_us, pts_us, keyframe: data.is_keyframe(), payload: Bytes::from_owner(data.data) };
        match data.rid {
            Some(rid) if !is_sound => intake.layer_sample(stream.layer, &rid, codec, FRAMING, sample, now_us),
            _ => intake.sample(codec, FRAMING, sample, now_us),
        }
    }

    fn media_stats(&self, media: &MediaIngressStats, card: &Card) {
        let is_meant = |stream: &&Stream| stream.mid == media.mid && stream.rid == media.rid;
        let Some(stream) = self.streams.iter().find(is_meant) else { return };
        // The picture is what suffers first; sound speaks for itself where it is alone.
        if stream.kind == Kind::Audio && self.streams.iter().any(|stream| stream.kind == Kind::Video) {
            return;
        }
        card.update(|stats| {
            stats.keyframes_asked = self.keyframes_asked;
            stats.rtt_ms = media.rtt.map(|rtt| rtt.as_secs_f32() * 1_000.0).or(stats.rtt_ms);
            stats.lost_percent = media.loss.map(|loss| loss * 100.0).or(stats.lost_percent);
            stats.jitter_ms = Some(media.jitter as f32 * 1_000.0 / stream.clock.ticks_per_s() as f32);
        });
    }
}

impl Stream {
    fn may_ask(&self, now: Instant) -> bool {
        self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= KEYFRAME_PAUSE)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.keyframe.is_none_or(|keyframe| now.saturating_duration_since(keyframe) >= KEYFRAME_EVERY)
    }
}

fn announce(intake: &mut Intake, sends: Sends) -> Result<(), Fenced> {
    if sends.picture {
        intake.expect(Kind::Video)?;
    }
    if sends.sound {
        // Stereo whatever is sent: who decodes it gets two channels of mono, and a microphone that is exchanged for
        // music changes nothing.
        intake.configure(Codec::Opus, opus::Config::plain(2).dops())?;
    }
    Ok(())
}

fn codec(format: Format) -> Option<Codec> {
    Some(match format {
        Format::H264 => Codec::H264,
        Format::H265 => Codec::H265,
        Format::Vp8 => Codec::Vp8,
        Format::Vp9 => Codec::Vp9,
        Format::Av1 => Codec::Av1,
        Format::Opus => Codec::Opus,
        _ => return None,
    })
}
