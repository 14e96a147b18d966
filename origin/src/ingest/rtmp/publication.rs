//! One stream on its way from tag bodies into the hall.
//!
//! In: bodies of FLV tags with their timestamps. Out: announcements and samples to the hall's writer. A body that
//! can't be used is dropped, counted and named in the log; the other track, and the next body, go on. Deliberately
//! absent: sockets, tasks and clocks.

use bytes::Bytes;
use headwater_common::{
    live::{Fenced, Writer, Written},
    media::{AudioClock, Codec, Framing, Info, Inspector, Kind, Sample, Shape},
    telemetry,
};

use super::flv::{self, Body, Tag};

pub(super) struct Publication {
    writer: Writer,
    door: telemetry::Door,
    video: Lane,
    audio: Lane,
}

/// What is known of one track.
#[derive(Default)]
struct Lane {
    inspector: Option<(Codec, Inspector)>,
    clock: Option<AudioClock>,
    /// Named once, not with every frame.
    complaint: String,
}

impl Publication {
    pub(super) fn new(writer: Writer, door: telemetry::Door) -> Self {
        Self { writer, door, video: Lane::default(), audio: Lane::default() }
    }

    pub(super) fn name(&self) -> String {
        self.writer.broadcast().id().to_string()
    }

    /// The publisher said that it is done.
    pub(super) fn finish(self, now_us: i64) {
        self.writer.finish(now_us);
    }

    pub(super) fn write(&mut self, kind: Kind, timestamp_ms: i64, body: &Bytes, now_us: i64) -> Result<(), Fenced> {
        self.door.received.inc();
        let read = match kind {
            Kind::Video => flv::video(body),
            Kind::Audio => flv::audio(body),
        };
        let Body { tag, tracks_ignored } = match read {
            Ok(body) => body,
            Err(error) => return self.complain(kind, error.to_string()),
        };
        if tracks_ignored > 0 {
            self.complain(kind, "only the first track of a multitrack stream is taken".to_owned())?;
        }
        match tag {
            Tag::Config { codec, record } => self.configure(kind, codec, record),
            Tag::Frame { codec, keyframe, composition_us, offset_us, payload } => {
                let dts_us = timestamp_ms.saturating_mul(1000).saturating_add(offset_us);
                let pts_us = dts_us.saturating_add(composition_us);
                self.frame(kind, codec, Sample { dts_us, pts_us, keyframe, payload }, now_us)
            }
            Tag::Unsupported(codec) => self.complain(kind, format!("{codec} is not carried")),
            Tag::End(_) | Tag::Ignored => Ok(()),
        }
    }

    fn configure(&mut self, kind: Kind, codec: Codec, record: Bytes) -> Result<(), Fenced> {
        match self.lane(kind).inspector(codec).configure(record) {
            Ok(Some(info)) => self.announce(info),
            Ok(None) => Ok(()),
            Err(error) => self.complain(kind, format!("{} configuration: {error}", codec.name())),
        }
    }

    fn frame(&mut self, kind: Kind, codec: Codec, sample: Sample, now_us: i64) -> Result<(), Fenced> {
        let inspected = match self.lane(kind).inspector(codec).push(sample) {
            Ok(inspected) => inspected,
            Err(error) => return self.complain(kind, format!("{} frame: {error}", codec.name())),
        };
        if let Some(info) = inspected.new_info {
            self.announce(info)?;
        }
        let Some(mut sample) = inspected.sample else { return Ok(()) };
        // RTMP rounds to milliseconds, sound is finer than that.
        if let Some(clock) = &mut self.lane(kind).clock {
            sample.dts_us = clock.snap(sample.dts_us);
            sample.pts_us = sample.dts_us;
        }
        if self.writer.write(kind, sample, now_us)? == Written::Dropped {
            self.door.dropped.inc();
        }
        Ok(())
    }

    fn announce(&mut self, info: Info) -> Result<(), Fenced> {
        let broadcast = self.writer.broadcast().id().clone();
        tracing::info!(%broadcast, codec = info.rfc6381(), shape = ?info.shape, "track");
        if let Shape::Audio { sample_rate, .. } = info.shape {
            self.audio.clock = info.samples_per_frame().map(|samples| AudioClock::new(samples, sample_rate));
        }
        self.writer.announce(info)
    }

    fn complain(&mut self, kind: Kind, complaint: String) -> Result<(), Fenced> {
        self.door.dropped.inc();
        let broadcast = self.writer.broadcast().id().clone();
        let lane = self.lane(kind);
        if lane.complaint != complaint {
            tracing::warn!(%broadcast, ?kind, complaint, "dropped; the like is not reported again");
            lane.complaint = complaint;
        }
        Ok(())
    }

    fn lane(&mut self, kind: Kind) -> &mut Lane {
        match kind {
            Kind::Video => &mut self.video,
            Kind::Audio => &mut self.audio,
        }
    }
}

impl Lane {
    /// Begins anew when the codec changes in the middle of a stream.
    fn inspector(&mut self, codec: Codec) -> &mut Inspector {
        if self.inspector.as_ref().is_some_and(|(known, _)| *known != codec) {
            self.inspector = None;
        }
        let new = || (codec, Inspector::new(codec, Framing::Lengths(4)));
        &mut self.inspector.get_or_insert_with(new).1
    }
}
