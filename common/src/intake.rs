//! One publisher's samples on their way into the hall, whatever protocol brought them.
//!
//! In: configuration records and samples of one codec each, on the publisher's clock. Out: announcements and samples
//! to the hall's writer. What can't be used is dropped, counted and named in the log; the other track, and the next
//! sample, go on. Deliberately absent: protocols, sockets, tasks and clocks.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use crate::{
    live::{Broadcast, Fenced, Writer, Written},
    media::{AudioClock, Codec, Framing, Info, Inspector, Kind, Sample, Shape},
    telemetry::Door,
};

#[derive(Debug)]
pub struct Intake {
    writer: Writer,
    door: Door,
    video: Lane,
    audio: Lane,
    layers: BTreeMap<u8, Layer>,
    /// The layer that is the source.
    best: Option<u8>,
}

/// What is known of one track.
#[derive(Debug, Default)]
struct Lane {
    inspector: Option<(Codec, Inspector)>,
    clock: Option<AudioClock>,
    /// Named once, not with every sample.
    complaint: String,
}

/// One of several qualities that arrive side by side.
#[derive(Debug)]
struct Layer {
    lane: Lane,
    newest_us: i64,
}

/// A layer that sends nothing for this long has been given up by its publisher: another one is the best then.
const LAYER_SILENT_US: i64 = 700_000;

impl Intake {
    pub fn new(writer: Writer, door: Door) -> Self {
        let (video, audio) = Default::default();
        Self { writer, door, video, audio, layers: BTreeMap::new(), best: None }
    }

    pub fn broadcast(&self) -> &Arc<Broadcast> {
        self.writer.broadcast()
    }

    /// Whether its publisher may go on.
    pub fn check(&self) -> Result<(), Fenced> {
        self.writer.check()
    }

    /// The publisher said that it is done.
    pub fn finish(self, now_us: i64) {
        self.writer.finish(now_us);
    }

    /// There will be samples of this kind, by what the publisher said ahead of them.
    pub fn expect(&mut self, kind: Kind) -> Result<(), Fenced> {
        self.writer.expect(kind)
    }

    /// A configuration record, for protocols that send one.
    pub fn configure(&mut self, codec: Codec, record: Bytes) -> Result<(), Fenced> {
        let kind = codec.kind();
        match self.lane(kind).inspector(codec, Framing::Lengths(4)).configure(record) {
            Ok(Some(info)) => self.announce(info),
            Ok(None) => Ok(()),
            Err(error) => self.complain(kind, format!("{} configuration: {error}", codec.name())),
        }
    }

    /// A sample of the only track of its kind.
    pub fn sample(&mut self, codec: Codec, framing: Framing, sample: Sample, now_us: i64) -> Result<(), Fenced> {
        let kind = codec.kind();
        let inspected = match self.lane(kind).inspector(codec, framing).push(sample) {
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
        self.write(kind, sample, now_us)
    }

    /// A sample of one of several layers of the picture. The best layer that arrives is the source as well.
    pub fn layer_sample(
        &mut self,
        index: u8,
        name: &str,
        codec: Codec,
        framing: Framing,
        sample: Sample,
        now_us: i64,
    ) -> Result<(), Fenced> {
        let layer = self.layers.entry(index).or_insert_with(|| Layer { lane: Lane::default(), newest_us: i64::MIN });
        layer.newest_us = sample.dts_us;
        let inspected = match layer.lane.inspector(codec, framing).push(sample) {
            Ok(inspected) => inspected,
            Err(error) => return self.complain(Kind::Video, format!("layer {name}: {} frame: {error}", codec.name())),
        };
        if let Some(info) = inspected.new_info {
            let broadcast = self.writer.broadcast().id();
            tracing::info!(%broadcast, layer = name, codec = info.rfc6381(), shape = ?info.shape, "layer");
            self.writer.announce_layer(index, name, info.clone())?;
            if self.best == Some(index) {
                self.announce(info)?;
            }
        }
        let Some(sample) = inspected.sample else { return Ok(()) };
        if sample.keyframe && self.best != Some(index) && self.is_better(index) {
            self.best = Some(index);
            if let Some(info) = self.layers.get(&index).and_then(|layer| layer.lane.info()).cloned() {
                self.announce(info)?;
            }
        }
        if self.best == Some(index) {
            // First, because it opens the gop that the layer's copy of the sample belongs to.
            self.write(Kind::Video, sample.clone(), now_us)?;
        } else if !sample.keyframe && self.is_better(index) {
            self.writer.broadcast().layer(index).inspect(|track| track.request_keyframe());
        }
        self.writer.write_layer(index, sample, now_us)?;
        Ok(())
    }

    /// Whether this layer should be the source instead of the one that is.
    fn is_better(&self, index: u8) -> bool {
        let Some(best) = self.best.and_then(|best| self.layers.get(&best)) else { return true };
        let Some(layer) = self.layers.get(&index) else { return false };
        layer.pixels() > best.pixels() || layer.newest_us.saturating_sub(best.newest_us) > LAYER_SILENT_US
    }

    /// What was sent can't be used.
    pub fn complain(&mut self, kind: Kind, complaint: String) -> Result<(), Fenced> {
        self.door.dropped.inc();
        let broadcast = self.writer.broadcast().id().clone();
        let lane = self.lane(kind);
        if lane.complaint != complaint {
            tracing::warn!(%broadcast, ?kind, complaint, "dropped; the like is not reported again");
            lane.complaint = complaint;
        }
        Ok(())
    }

    fn write(&mut self, kind: Kind, sample: Sample, now_us: i64) -> Result<(), Fenced> {
        if self.writer.write(kind, sample, now_us)? == Written::Dropped {
            self.door.dropped.inc();
        }
        Ok(())
    }

    fn announce(&mut self, info: Info) -> Result<(), Fenced> {
        let broadcast = self.writer.broadcast().id();
        tracing::info!(%broadcast, codec = info.rfc6381(), shape = ?info.shape, "track");
        if let Shape::Audio { sample_rate, .. } = info.shape {
            self.audio.clock = info.samples_per_frame().map(|samples| AudioClock::new(samples, sample_rate));
        }
        self.writer.announce(info)
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
    fn inspector(&mut self, codec: Codec, framing: Framing) -> &mut Inspector {
        if self.inspector.as_ref().is_some_and(|(known, _)| *known != codec) {
            self.inspector = None;
        }
        &mut self.inspector.get_or_insert_with(|| (codec, Inspector::new(codec, framing))).1
    }

    fn info(&self) -> Option<&Info> {
        self.inspector.as_ref().and_then(|(_, inspector)| inspector.info())
    }
}

impl Layer {
    fn pixels(&self) -> u64 {
        self.lane.info().map_or(0, Info::pixels)
    }
}
