//! One source of pictures, decoded. In: the frames of a source track, in order, and the pace. Out: pictures in display
//! order, each with what is known of its frame, and how much the source spends. Deliberately absent: what is made of them.

use std::{collections::VecDeque, sync::Arc};

use ffmpeg_next::{self as ff, Discard, codec::decoder};
use headwater_common::{
    media::{Frame, Gop, Info},
    telemetry::Door,
};

use super::{
    ConvertError,
    encoder::Profile,
    libav,
    pace::Pace,
    rate::{Measured, Rate},
    trouble::Trouble,
};

/// Frames inside the decoder. H.264 reorders 16 at most; when full, the oldest is taken for lost.
const WAITING_MAX: usize = 64;

pub(super) struct Decoder {
    door: Door,
    decoding: Option<Decoding>,
    waiting: VecDeque<Waiting>,
    rate: Rate,
    trouble: Trouble,
    /// Where the source's newest keyframe is shown, and how long after it was due for decoding.
    keyframe_us: i64,
    delay_us: i64,
    damaged: bool,
}

struct Decoding {
    decoder: decoder::Opened,
    info: Arc<Info>,
    epoch: u64,
}

/// What is known of a frame while the decoder has it.
pub(super) struct Waiting {
    pub(super) pts_us: i64,
    pub(super) keyframe: bool,
    /// Shown before the keyframe it was sent after (an open gop), so it belongs to the gop before.
    pub(super) leading: bool,
    pub(super) gop: Arc<Gop>,
    pub(super) profile: Profile,
    /// How much later than decoded the gop's keyframe is shown.
    pub(super) delay_us: i64,
    /// The decoder was allowed to leave it out.
    skippable: bool,
}

pub(super) struct Picture {
    pub(super) frame: ff::frame::Video,
    pub(super) source: Waiting,
}

impl Decoder {
    pub(super) fn new(door: Door) -> Self {
        Self {
            door,
            decoding: None,
            waiting: VecDeque::new(),
            rate: Rate::default(),
            trouble: Trouble::default(),
            keyframe_us: i64::MIN,
            delay_us: 0,
            damaged: false,
        }
    }

    /// What the source spends, once that is known.
    pub(super) fn measured(&self) -> Option<Measured> {
        self.rate.measured()
    }

    /// Whether something could not be decoded since this was asked last.
    pub(super) fn take_damage(&mut self) -> bool {
        std::mem::take(&mut self.damaged)
    }

    pub(super) fn take(&mut self, frame: &Frame, pace: Pace) -> Result<Vec<Picture>, ConvertError> {
        let mut pictures = self.adapt(frame)?;
        self.rate.add(frame.dts_us, frame.payload.len());
        if frame.keyframe {
            self.keyframe_us = frame.pts_us;
            self.delay_us = frame.pts_us - frame.dts_us;
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
            self.door.dropped.inc();
        }
        let info = self.decoding.as_ref().map_or(&frame.info, |decoding| &decoding.info);
        self.waiting.push_back(Waiting {
            pts_us: frame.pts_us,
            keyframe: frame.keyframe,
            leading: !frame.keyframe && frame.pts_us < self.keyframe_us,
            gop: frame.gop.clone(),
            profile: Profile::like(info),
            delay_us: self.delay_us,
            skippable: pace == Pace::Newest,
        });
        self.decode(frame, pace, &mut pictures);
        Ok(pictures)
    }

    /// A new publisher or other parameter sets need a new decoder. What the old one still holds is shown, as far as it
    /// precedes the new picture.
    fn adapt(&mut self, frame: &Frame) -> Result<Vec<Picture>, ConvertError> {
        let same = |decoding: &Decoding| {
            decoding.epoch == frame.gop.epoch
                && (Arc::ptr_eq(&decoding.info, &frame.info)
                    || (decoding.info.codec == frame.info.codec && decoding.info.config == frame.info.config))
        };
        let mut pictures = Vec::new();
        if self.decoding.as_ref().is_some_and(same) {
            return Ok(pictures);
        }
        if let Some(mut old) = self.decoding.take() {
            if old.decoder.send_eof().is_ok() {
                self.receive(&mut old.decoder, &mut pictures, frame.dts_us);
            }
            pictures.retain(|picture| picture.source.pts_us < frame.pts_us);
            self.waiting.clear();
            self.rate = Rate::default();
            self.keyframe_us = i64::MIN;
        }
        let decoder = libav::open_decoder(&frame.info)?;
        self.decoding = Some(Decoding { decoder, info: frame.info.clone(), epoch: frame.gop.epoch });
        Ok(pictures)
    }

    fn decode(&mut self, frame: &Frame, pace: Pace, pictures: &mut Vec<Picture>) {
        let Some(mut decoding) = self.decoding.take() else { return };
        // B-frames that no other picture needs are half the work of catching up.
        decoding.decoder.skip_frame(if pace == Pace::Newest { Discard::NonReference } else { Discard::Default });
        let mut packet = ff::Packet::copy(&frame.payload);
        packet.set_pts(Some(frame.pts_us));
        packet.set_dts(Some(frame.dts_us));
        if let Err(error) = decoding.decoder.send_packet(&packet) {
            self.broken(frame.dts_us, error);
        }
        self.receive(&mut decoding.decoder, pictures, frame.dts_us);
        self.decoding = Some(decoding);
    }

    fn receive(&mut self, decoder: &mut decoder::Opened, pictures: &mut Vec<Picture>, dts_us: i64) {
        let mut frame = ff::frame::Video::empty();
        loop {
            match decoder.receive_frame(&mut frame) {
                Ok(()) => {}
                Err(ff::Error::Eof | ff::Error::Other { errno: ff::ffi::EAGAIN }) => return,
                Err(error) => {
                    // A decoder that does nothing but fail must not keep us here.
                    self.broken(dts_us, error);
                    return;
                }
            }
            let Some(source) = frame.pts().and_then(|pts_us| self.source_of(pts_us)) else { continue };
            self.trouble.good();
            pictures.push(Picture { frame: std::mem::replace(&mut frame, ff::frame::Video::empty()), source });
        }
    }

    /// Pictures come in display order: what should have been shown before and was not, is lost.
    fn source_of(&mut self, pts_us: i64) -> Option<Waiting> {
        let index = self.waiting.iter().position(|waiting| waiting.pts_us == pts_us)?;
        let found = self.waiting.remove(index)?;
        let door = &self.door;
        self.waiting.retain(|waiting| {
            let lost = waiting.pts_us < pts_us;
            if lost && !waiting.skippable {
                door.dropped.inc();
            }
            !lost
        });
        Some(found)
    }

    fn broken(&mut self, dts_us: i64, error: ff::Error) {
        self.damaged = true;
        if self.trouble.bad(dts_us) {
            tracing::warn!(%error, "no picture could be decoded for ten seconds");
        }
    }
}
