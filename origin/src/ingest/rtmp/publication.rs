//! One stream on its way from tag bodies into the hall.
//!
//! In: bodies of FLV tags with their timestamps. Out: records and samples to the publisher's intake. A body that can't
//! be used is dropped, counted and named in the log; the other track, and the next body, go on. Deliberately absent:
//! sockets, tasks and clocks.

use bytes::Bytes;
use headwater_common::{
    intake::Intake,
    live::{Fenced, Writer},
    media::{Framing, Kind, Sample},
    telemetry,
};

use super::flv::{self, Body, Tag};

pub(super) struct Publication {
    intake: Intake,
    door: telemetry::Door,
    returns: bool,
}

impl Publication {
    pub(super) fn new(writer: Writer, door: telemetry::Door) -> Self {
        Self { intake: Intake::new(writer, door.clone()), door, returns: false }
    }

    pub(super) fn name(&self) -> String {
        self.intake.broadcast().id().to_string()
    }

    /// Whether its publisher may go on.
    pub(super) fn check(&self) -> Result<(), Fenced> {
        self.intake.check()
    }

    /// The publisher was asked to connect anew, perhaps to another node: when it leaves here, that is not the end.
    pub(super) fn expect_return(&mut self) {
        self.returns = true;
    }

    /// The publisher said that it is done.
    pub(super) fn finish(self, now_us: i64) {
        if !self.returns {
            self.intake.finish(now_us);
        }
    }

    pub(super) fn write(&mut self, kind: Kind, timestamp_ms: i64, body: &Bytes, now_us: i64) -> Result<(), Fenced> {
        self.door.received.inc();
        let read = match kind {
            Kind::Video => flv::video(body),
            Kind::Audio => flv::audio(body),
        };
        let Body { tag, tracks_ignored } = match read {
            Ok(body) => body,
            Err(error) => return self.intake.complain(kind, error.to_string()),
        };
        if tracks_ignored > 0 {
            let complaint = "only the first track of a multitrack stream is taken";
            self.intake.complain(kind, complaint.to_owned())?;
        }
        match tag {
            Tag::Config { codec, record } => self.intake.configure(codec, record),
            Tag::Frame { codec, keyframe, composition_us, offset_us, payload } => {
                let dts_us = timestamp_ms.saturating_mul(1000).saturating_add(offset_us);
                let pts_us = dts_us.saturating_add(composition_us);
                let sample = Sample { dts_us, pts_us, keyframe, payload };
                self.intake.sample(codec, Framing::Lengths(4), sample, now_us)
            }
            Tag::Unsupported(codec) => self.intake.complain(kind, format!("{codec} is not carried")),
            Tag::End(_) | Tag::Ignored => Ok(()),
        }
    }
}
