//! One video conversion. In: the frames of a source track, in order, and the pace. Out: H.264 without B-frames, on the
//! source's clock and in its gops, in display order, with keyframes where the source has them. Deliberately absent:
//! threads, clocks, and when to start or stop.

use std::{collections::VecDeque, sync::Arc};

use ffmpeg_next::{self as ff, Discard, codec::decoder, format::Pixel, software::scaling};
use headwater_common::{
    media::{Frame, Gop, Info, RtpCache},
    telemetry::Door,
};

use super::{
    ConvertError,
    encoder::{self, H264, Profile},
    libav,
    pace::Pace,
    rate::Rate,
    trouble::Trouble,
};

/// Requests closer together than this are answered by one keyframe: each costs as much as many other pictures.
const KEYFRAME_US_MIN: i64 = 500_000;
/// Frames inside the decoder. H.264 reorders 16 at most; when full, the oldest is taken for lost.
const WAITING_MAX: usize = 64;

pub(super) struct Video {
    door: Door,
    decoding: Option<Decoding>,
    waiting: VecDeque<Waiting>,
    /// The newest picture that was decoded but not encoded, while catching up.
    held: Option<Picture>,
    scaler: Option<scaling::Context>,
    encoder: Option<H264>,
    rate: Rate,
    trouble: Trouble,
    keyframe_wanted: bool,
    keyframe_us: i64,
    /// Where the newest picture of the track is shown; all that follow must be later.
    shown_us: i64,
    /// The gop of what was encoded last.
    last: Option<Arc<Gop>>,
    left_out_last: bool,
    /// Where the source's newest keyframe is shown.
    source_keyframe_us: i64,
    damaged: bool,
}

struct Decoding {
    decoder: decoder::Opened,
    info: Arc<Info>,
    epoch: u64,
}

/// What is known of a frame while the decoder has it.
struct Waiting {
    pts_us: i64,
    dts_us: i64,
    keyframe: bool,
    /// Shown before the keyframe it was sent after (an open gop), so it belongs to the gop before.
    leading: bool,
    gop: Arc<Gop>,
    profile: Profile,
    /// The decoder was allowed to leave it out.
    skippable: bool,
}

struct Picture {
    frame: ff::frame::Video,
    source: Waiting,
}

impl Video {
    /// The track may hold pictures of a predecessor, up to `shown_us`.
    pub(super) fn new(door: Door, shown_us: i64) -> Self {
        Self {
            door,
            decoding: None,
            waiting: VecDeque::new(),
            held: None,
            scaler: None,
            encoder: None,
            rate: Rate::default(),
            trouble: Trouble::default(),
            keyframe_wanted: false,
            keyframe_us: i64::MIN,
            shown_us,
            last: None,
            left_out_last: false,
            source_keyframe_us: i64::MIN,
            damaged: false,
        }
    }

    /// Somebody can't show a picture before the next keyframe.
    pub(super) fn want_keyframe(&mut self) {
        self.keyframe_wanted = true;
    }

    /// Whether something could not be decoded since this was asked last.
    pub(super) fn take_damage(&mut self) -> bool {
        std::mem::take(&mut self.damaged)
    }

    pub(super) fn take(&mut self, frame: &Frame, pace: Pace, out: &mut Vec<Frame>) -> Result<(), ConvertError> {
        self.adapt(frame, pace, out)?;
        self.rate.add(frame.dts_us, frame.payload.len());
        if frame.keyframe {
            self.source_keyframe_us = frame.pts_us;
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
            self.door.dropped.inc();
        }
        let info = self.decoding.as_ref().map_or(&frame.info, |decoding| &decoding.info);
        self.waiting.push_back(Waiting {
            pts_us: frame.pts_us,
            dts_us: frame.dts_us,
            keyframe: frame.keyframe,
            leading: !frame.keyframe && frame.pts_us < self.source_keyframe_us,
            gop: frame.gop.clone(),
            profile: Profile::like(info),
            skippable: pace == Pace::Newest,
        });
        let pictures = self.decode(frame, pace);
        self.show(pictures, pace, out)
    }

    /// A new publisher or other parameter sets need a new decoder. What the old one still holds is shown, as far as it
    /// precedes the new picture.
    fn adapt(&mut self, frame: &Frame, pace: Pace, out: &mut Vec<Frame>) -> Result<(), ConvertError> {
        let same = |decoding: &Decoding| {
            decoding.epoch == frame.gop.epoch
                && (Arc::ptr_eq(&decoding.info, &frame.info)
                    || (decoding.info.codec == frame.info.codec && decoding.info.config == frame.info.config))
        };
        if self.decoding.as_ref().is_some_and(same) {
            return Ok(());
        }
        if let Some(mut old) = self.decoding.take() {
            let mut pictures = Vec::new();
            if old.decoder.send_eof().is_ok() {
                self.receive(&mut old.decoder, &mut pictures, frame.dts_us);
            }
            pictures.retain(|picture| picture.source.pts_us < frame.pts_us);
            self.show(pictures, pace, out)?;
            self.waiting.clear();
            self.rate = Rate::default();
            self.source_keyframe_us = i64::MIN;
        }
        let decoder = libav::open_decoder(&frame.info)?;
        self.decoding = Some(Decoding { decoder, info: frame.info.clone(), epoch: frame.gop.epoch });
        Ok(())
    }

    fn decode(&mut self, frame: &Frame, pace: Pace) -> Vec<Picture> {
        let mut pictures = Vec::new();
        let Some(mut decoding) = self.decoding.take() else { return pictures };
        // B-frames that no other picture needs are half the work of catching up.
        decoding.decoder.skip_frame(if pace == Pace::Newest { Discard::NonReference } else { Discard::Default });
        let mut packet = ff::Packet::copy(&frame.payload);
        packet.set_pts(Some(frame.pts_us));
        packet.set_dts(Some(frame.dts_us));
        if let Err(error) = decoding.decoder.send_packet(&packet) {
            self.broken(frame.dts_us, error);
        }
        self.receive(&mut decoding.decoder, &mut pictures, frame.dts_us);
        self.decoding = Some(decoding);
        pictures
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

    fn show(&mut self, pictures: Vec<Picture>, pace: Pace, out: &mut Vec<Frame>) -> Result<(), ConvertError> {
        if pace == Pace::Newest {
            for picture in pictures {
                if self.held.replace(picture).is_some() && self.last.is_some() {
                    self.door.dropped.inc();
                }
            }
            return Ok(());
        }
        // The live edge is reached. If the decoder has nothing newer at hand, the held picture is the newest.
        if let Some(held) = self.held.take() {
            if pictures.is_empty() {
                self.encode(held, out)?;
            } else if self.last.is_some() {
                self.door.dropped.inc();
            }
        }
        for picture in pictures {
            let left_out = pace == Pace::EverySecond && !self.left_out_last && !picture.source.keyframe;
            self.left_out_last = left_out;
            if left_out {
                self.door.dropped.inc();
            } else {
                self.encode(picture, out)?;
            }
        }
        Ok(())
    }

    fn encode(&mut self, picture: Picture, out: &mut Vec<Frame>) -> Result<(), ConvertError> {
        let Picture { mut frame, source } = picture;
        let pts_us = source.pts_us;
        if pts_us <= self.shown_us {
            // A publisher whose clock stumbled; two pictures can't be shown at one time. Said before the encoder sees
            // it: what follows must not refer to a picture that nobody gets.
            self.door.dropped.inc();
            return Ok(());
        }
        let gop = match &self.last {
            Some(last) if source.leading => last.clone(),
            _ => source.gop,
        };
        if !encoder::takes(&frame) {
            frame = self.scale(&frame)?;
        }
        // Not kept when the picture has another size: its successor starts with a keyframe.
        let kept = self.encoder.take().filter(|encoder| encoder.suits(&frame, source.profile));
        let asked = self.keyframe_wanted && pts_us.saturating_sub(self.keyframe_us) >= KEYFRAME_US_MIN;
        let gop_opens = self.last.as_ref().is_none_or(|last| last.id != gop.id) && gop.independent;
        let keyframe = kept.is_none() || source.keyframe || gop_opens || asked;
        let measured = self.rate.measured();
        let mut encoder = match kept {
            Some(encoder) => encoder,
            None => H264::open(&frame, source.profile, measured)?,
        };
        if let Some(measured) = measured {
            encoder.follow(measured);
        }
        match encoder.encode(&mut frame, pts_us, keyframe) {
            Ok(Some(encoded)) => {
                if encoded.keyframe {
                    self.keyframe_us = pts_us;
                    self.keyframe_wanted = false;
                }
                self.shown_us = pts_us;
                self.last = Some(gop.clone());
                out.push(Frame {
                    gop,
                    // Without reordering decoding order is display order.
                    dts_us: encoded.pts_us,
                    pts_us: encoded.pts_us,
                    keyframe: encoded.keyframe,
                    payload: encoded.payload,
                    info: encoder.info().clone(),
                    rtp: RtpCache::default(),
                });
                self.encoder = Some(encoder);
            }
            // Zero latency means a packet per picture; an encoder that breaks this, or fails, is replaced by the next
            // picture.
            Ok(None) => {
                self.door.errors.inc();
            }
            Err(error) => {
                tracing::debug!(%error, dts_us = source.dts_us, "the encoder failed and is replaced");
                self.door.errors.inc();
            }
        }
        Ok(())
    }

    /// To 8 bits, 4:2:0 and an even number of pixels, which is all that browsers are sure to play.
    fn scale(&mut self, frame: &ff::frame::Video) -> Result<ff::frame::Video, ConvertError> {
        let (format, width, height) = (frame.format(), frame.width(), frame.height());
        let fits = |scaler: &scaling::Context| {
            let input = scaler.input();
            (input.format, input.width, input.height) == (format, width, height)
        };
        if !self.scaler.as_ref().is_some_and(fits) {
            let (even_width, even_height) = ((width & !1).max(2), (height & !1).max(2));
            let flags = scaling::Flags::BILINEAR;
            let scaler = scaling::Context::get(format, width, height, Pixel::YUV420P, even_width, even_height, flags);
            self.scaler = Some(scaler.map_err(ConvertError::Scaler)?);
        }
        let mut scaled = ff::frame::Video::empty();
        if let Some(scaler) = &mut self.scaler {
            scaler.run(frame, &mut scaled).map_err(ConvertError::Scaler)?;
        }
        scaled.set_color_space(frame.color_space());
        scaled.set_color_range(frame.color_range());
        scaled.set_color_primaries(frame.color_primaries());
        scaled.set_color_transfer_characteristic(frame.color_transfer_characteristic());
        Ok(scaled)
    }
}
