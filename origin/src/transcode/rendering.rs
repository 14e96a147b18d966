//! One track made of pictures. In: pictures of the source, in display order. Out: H.264 without B-frames, on the
//! source's clock and in its gops, with keyframes where the source has them; in the source's size or in a smaller one.
//! Deliberately absent: decoding, threads, clocks, and when to start or stop.

use std::sync::Arc;

use ffmpeg_next::{self as ff, format::Pixel, software::scaling};
use headwater_common::{
    ladder::Rendition,
    media::{Frame, Gop, Info, RtpCache, Shape},
    telemetry::Door,
};

use super::{
    ConvertError,
    decoder::Picture,
    encoder::{self, H264, Profile, Spending},
    rate::Measured,
};

/// Requests closer together than this are answered by one keyframe: each costs as much as many other pictures.
const KEYFRAME_US_MIN: i64 = 500_000;

pub(super) struct Rendering {
    /// `None`: the source in its own size.
    rendition: Option<Rendition>,
    door: Door,
    scaler: Option<scaling::Context>,
    encoder: Option<H264>,
    keyframe_wanted: bool,
    keyframe_us: i64,
    /// Where the newest picture of the track is shown; all that follow must be later.
    shown_us: i64,
    /// When it was due for decoding.
    due_us: i64,
    /// The gop of what was encoded last.
    last: Option<Arc<Gop>>,
}

impl Rendering {
    /// The track may hold pictures of a predecessor, up to `shown_us`.
    pub(super) fn new(rendition: Option<Rendition>, door: Door, shown_us: i64) -> Self {
        Self {
            rendition,
            door,
            scaler: None,
            encoder: None,
            keyframe_wanted: false,
            keyframe_us: i64::MIN,
            shown_us,
            due_us: i64::MIN,
            last: None,
        }
    }

    /// Somebody can't show a picture before the next keyframe.
    pub(super) fn want_keyframe(&mut self) {
        self.keyframe_wanted = true;
    }

    pub(super) fn has_begun(&self) -> bool {
        self.last.is_some()
    }

    pub(super) fn show(
        &mut self,
        picture: &mut Picture,
        measured: Option<Measured>,
        out: &mut Vec<Frame>,
    ) -> Result<(), ConvertError> {
        let Picture { frame, source } = picture;
        let pts_us = source.pts_us;
        if pts_us <= self.shown_us {
            // A publisher whose clock stumbled; two pictures can't be shown at one time. Said before the encoder sees
            // it: what follows must not refer to a picture that nobody gets.
            self.door.dropped.inc();
            return Ok(());
        }
        let gop = match &self.last {
            Some(last) if source.leading => last.clone(),
            _ => source.gop.clone(),
        };
        let size = self.size((frame.width(), frame.height()));
        let mut scaled = None;
        if !encoder::takes(frame) || size != (frame.width(), frame.height()) {
            scaled = Some(self.scale(frame, size)?);
        }
        let frame = scaled.as_mut().unwrap_or(frame);
        // Not kept when the picture has another size: its successor starts with a keyframe.
        let kept = self.encoder.take().filter(|encoder| encoder.suits(frame, source.profile));
        let asked = self.keyframe_wanted && pts_us.saturating_sub(self.keyframe_us) >= KEYFRAME_US_MIN;
        let gop_opens = self.last.as_ref().is_none_or(|last| last.id != gop.id) && gop.independent;
        let keyframe = kept.is_none() || source.keyframe || gop_opens || asked;
        let mut encoder = match kept {
            Some(encoder) => encoder,
            None => H264::open(frame, source.profile, self.spending(), measured)?,
        };
        if let Some(measured) = measured {
            encoder.follow(measured);
        }
        match encoder.encode(frame, pts_us, keyframe) {
            Ok(Some(encoded)) => {
                if encoded.keyframe {
                    self.keyframe_us = pts_us;
                    self.keyframe_wanted = false;
                }
                self.shown_us = pts_us;
                self.due_us = self.due(pts_us, source.delay_us);
                self.last = Some(gop.clone());
                out.push(Frame {
                    gop,
                    dts_us: self.due_us,
                    pts_us,
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
                tracing::debug!(%error, pts_us, "the encoder failed and is replaced");
                self.door.errors.inc();
            }
        }
        Ok(())
    }

    /// Without reordering decoding order is display order. A rendition stands beside the source in playlists, so its
    /// gops begin at the very time the source's do: where the source reorders, it is decoded as early as that.
    fn due(&self, pts_us: i64, delay_us: i64) -> i64 {
        match self.rendition {
            Some(_) => (pts_us - delay_us).max(self.due_us.saturating_add(1)).min(pts_us),
            None => pts_us,
        }
    }

    fn spending(&self) -> Spending {
        self.rendition.map_or(Spending::LikeSource, |rendition| Spending::AtMost { kbps: rendition.video_kbps })
    }

    /// Even, which is all that browsers are sure to play.
    fn size(&self, (width, height): (u32, u32)) -> (u32, u32) {
        match self.rendition {
            Some(rendition) => rendition.size((width, height)),
            None => ((width & !1).max(2), (height & !1).max(2)),
        }
    }

    /// To 8 bits, 4:2:0 and the size.
    fn scale(&mut self, frame: &ff::frame::Video, size: (u32, u32)) -> Result<ff::frame::Video, ConvertError> {
        let (format, width, height) = (frame.format(), frame.width(), frame.height());
        let fits = |scaler: &scaling::Context| {
            let (input, output) = (scaler.input(), scaler.output());
            (input.format, input.width, input.height) == (format, width, height)
                && (output.width, output.height) == size
        };
        if !self.scaler.as_ref().is_some_and(fits) {
            let flags = scaling::Flags::BILINEAR;
            let scaler = scaling::Context::get(format, width, height, Pixel::YUV420P, size.0, size.1, flags);
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

/// What a rendition of such a source will be, for those who have to know before anybody wants it. `None` for a source
/// whose size is not known.
pub(super) fn foresee(rendition: Rendition, source: &Info) -> Result<Option<Info>, ConvertError> {
    let Shape::Video { width, height, .. } = source.shape else { return Ok(None) };
    if width == 0 || height == 0 {
        return Ok(None);
    }
    let (width, height) = rendition.size((width, height));
    let picture = ff::frame::Video::new(Pixel::YUV420P, width, height);
    let spending = Spending::AtMost { kbps: rendition.video_kbps };
    let encoder = H264::open(&picture, Profile::like(source), spending, None)?;
    Ok(Some(Info::clone(encoder.info())))
}
