//! The H.264 encoder. In: pictures on the source's clock, and what the source spends. Out: access units in the hall's
//! form, one per picture and without delay. Deliberately absent: which pictures are worth encoding.

use std::{sync::Arc, thread::available_parallelism};

use bytes::Bytes;
use ffmpeg_next::{
    self as ff, Dictionary, Rational,
    codec::{self, Context, encoder, threading},
    format::Pixel,
    picture,
};
use headwater_common::media::{Codec, Info};

use super::{ConvertError, card::Surfaces, coder::Coder, libav, nals, rate::Measured};

/// Near the source to the eye, where the cap allows it. The cap is what binds for busy pictures.
const CRF: &str = "21";
/// Without B-frames and in a hurry the same quality takes more bits than the source spent.
const CAP_PER_SOURCE: f64 = 1.25;
/// A smaller picture that takes as much as the source is of no use to anybody.
const CAP_BELOW_SOURCE: f64 = 0.9;
/// Per pixel: what a picture may cost however little the source spends (a slide that becomes a film must not turn to
/// mud until that was measured), and what is assumed while nothing was measured.
const CAP_BITS_PER_PIXEL_MIN: f64 = 0.05;
const CAP_BITS_PER_PIXEL_DEFAULT: f64 = 0.1;
/// The cap follows the source when it is off by more than this.
const CAP_TOLERANCE: f64 = 0.1;
const FRAMES_PER_S_DEFAULT: f64 = 30.0;
/// Up to this size one thread keeps up, and one slice compresses best.
const PIXELS_PER_THREAD: u32 = 1280 * 720;
/// More slices than this cost more bits than they save time.
const THREADS_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    Baseline,
    Main,
    High,
}

impl Profile {
    /// What the audience of this source is known to play.
    pub(super) fn like(source: &Info) -> Self {
        match (source.codec, source.config.get(1)) {
            (Codec::H264, Some(66)) => Self::Baseline,
            (Codec::H264, Some(100..)) => Self::High,
            // The best that every browser offers over WebRTC.
            _ => Self::Main,
        }
    }
}

/// How much an encoder may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spending {
    /// About what the source spends.
    LikeSource,
    /// So much, and never more than the source.
    AtMost { kbps: u32 },
}

pub(super) struct H264 {
    coder: Coder,
    encoder: encoder::video::Encoder,
    /// Where it takes pictures from.
    surfaces: Option<Surfaces>,
    form: Pixel,
    profile: Profile,
    spending: Spending,
    cap: f64,
    /// What the encoder was told: it counts bits per picture.
    frames_per_s: f64,
    info: Arc<Info>,
}

pub(super) struct Encoded {
    pub(super) keyframe: bool,
    pub(super) payload: Bytes,
}

impl H264 {
    /// With the machine's best encoder, or with the one that is always there.
    pub(super) fn open(
        like: &ff::frame::Video,
        profile: Profile,
        spending: Spending,
        source: Option<Measured>,
    ) -> Result<Self, ConvertError> {
        let coder = Coder::chosen();
        match Self::open_with(coder, like, profile, spending, source) {
            Err(_) if coder != Coder::X264 => {
                coder.give_up();
                Self::open_with(Coder::X264, like, profile, spending, source)
            }
            opened => opened,
        }
    }

    pub(super) fn open_with(
        by: Coder,
        like: &ff::frame::Video,
        profile: Profile,
        spending: Spending,
        source: Option<Measured>,
    ) -> Result<Self, ConvertError> {
        let failed = |error| ConvertError::Encoder { codec: Codec::H264, error };
        let coder = by.find()?;
        let (width, height) = (like.width(), like.height());
        let pixels = width * height;
        let mut video = Context::new_with_codec(coder).encoder().video().map_err(failed)?;
        video.set_width(width);
        video.set_height(height);
        let surfaces = by.takes_surfaces().then(|| Surfaces::new(like.format(), width, height)).transpose();
        let surfaces = surfaces.map_err(failed)?;
        match &surfaces {
            Some(surfaces) => {
                video.set_format(Pixel::VAAPI);
                surfaces.lend(&mut video).map_err(failed)?;
            }
            None => video.set_format(like.format()),
        }
        video.set_aspect_ratio(like.aspect_ratio());
        video.set_colorspace(like.color_space());
        video.set_color_range(like.color_range());
        video.set_color_primaries(like.color_primaries());
        video.set_color_transfer_characteristic(like.color_transfer_characteristic());
        video.set_time_base(libav::TIME_BASE);
        let frames_per_s = source.map_or(FRAMES_PER_S_DEFAULT, |source| source.frames_per_s).clamp(1.0, 240.0).round();
        video.set_frame_rate(Some(Rational(frames_per_s as i32, 1)));
        video.set_max_b_frames(0);
        video.set_flags(codec::Flags::GLOBAL_HEADER);
        let threads = available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        // Frame threads would hold back a picture per thread.
        let mut threading = threading::Config::kind(threading::Type::Slice);
        threading.count = if pixels > PIXELS_PER_THREAD { threads } else { 1 };
        video.set_threading(threading);
        let cap = spending.cap(pixels, frames_per_s, source);
        libav::set_cap(&mut video, cap as usize, (cap * spending.buffer_s()) as usize);
        let mut options: Dictionary = by.options().iter().copied().collect();
        options.set("profile", by.profile(profile));
        options.set("level", level(width, height, frames_per_s));
        if by == Coder::X264 {
            options.set("preset", if pixels > PIXELS_PER_THREAD { "superfast" } else { "veryfast" });
            options.set("crf", CRF);
        } else {
            // Cards have no such thing: what may be spent is spent.
            video.set_bit_rate(cap as usize);
        }
        let encoder = video.open_as_with(coder, options).map_err(failed)?;
        let info = nals::info(&libav::extradata(encoder.as_ref()))
            .map_err(|error| ConvertError::Header { codec: Codec::H264, error })?;
        let form = like.format();
        Ok(Self { coder: by, encoder, surfaces, form, profile, spending, cap, frames_per_s, info: Arc::new(info) })
    }

    pub(super) fn info(&self) -> &Arc<Info> {
        &self.info
    }

    pub(super) fn coder(&self) -> Coder {
        self.coder
    }

    /// Whether it can go on with this picture.
    pub(super) fn suits(&self, picture: &ff::frame::Video, profile: Profile) -> bool {
        (self.encoder.width(), self.encoder.height(), self.form, self.profile)
            == (picture.width(), picture.height(), picture.format(), profile)
    }

    /// Keeps the cap near what the source spends.
    pub(super) fn follow(&mut self, source: Measured) {
        // The encoder believes in the picture rate it was opened with.
        let scale = self.frames_per_s / source.frames_per_s.max(1.0);
        let pixels = self.encoder.width() * self.encoder.height();
        let cap = self.spending.cap(pixels, source.frames_per_s, Some(source)) * scale;
        if (cap / self.cap - 1.0).abs() > CAP_TOLERANCE {
            self.cap = cap;
            libav::set_cap(&mut self.encoder, cap as usize, (cap * self.spending.buffer_s()) as usize);
        }
    }

    pub(super) fn encode(
        &mut self,
        picture: &mut ff::frame::Video,
        pts_us: i64,
        keyframe: bool,
    ) -> Result<Option<Encoded>, ff::Error> {
        picture.set_pts(Some(pts_us));
        // A decoded picture remembers what it was; that is not what it will be.
        picture.set_kind(if keyframe { picture::Type::I } else { picture::Type::None });
        match &self.surfaces {
            Some(surfaces) => {
                let carried = surfaces.carry(picture)?;
                self.encoder.send_frame(&carried)?;
            }
            None => self.encoder.send_frame(picture)?,
        }
        let mut packet = ff::Packet::empty();
        match self.encoder.receive_packet(&mut packet) {
            Ok(()) => {}
            Err(ff::Error::Other { errno: ff::ffi::EAGAIN }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let Some(data) = packet.data() else { return Ok(None) };
        Ok(Some(Encoded { keyframe: packet.is_key(), payload: nals::canonical(data) }))
    }
}

/// Pictures that the encoder takes as they are; others go through the scaler.
pub(super) fn takes(picture: &ff::frame::Video) -> bool {
    let full_range = Coder::chosen() == Coder::X264 && picture.format() == Pixel::YUVJ420P;
    (picture.format() == Coder::chosen().format() || full_range)
        && picture.width().is_multiple_of(2)
        && picture.height().is_multiple_of(2)
}

impl Spending {
    /// How long the largest keyframe occupies a path that carries just the cap. Who watches a rendition has such a path.
    fn buffer_s(self) -> f64 {
        match self {
            Self::LikeSource => 1.0,
            Self::AtMost { .. } => 0.5,
        }
    }

    fn cap(self, pixels: u32, frames_per_s: f64, source: Option<Measured>) -> f64 {
        let pixels_per_s = f64::from(pixels) * frames_per_s;
        let times_source =
            |factor: f64, source: Measured| (source.bits_per_s * factor).max(pixels_per_s * CAP_BITS_PER_PIXEL_MIN);
        match self {
            Self::LikeSource => {
                source.map_or(pixels_per_s * CAP_BITS_PER_PIXEL_DEFAULT, |source| times_source(CAP_PER_SOURCE, source))
            }
            Self::AtMost { kbps } => {
                let below_source = source.map_or(f64::INFINITY, |source| times_source(CAP_BELOW_SOURCE, source));
                below_source.min(f64::from(kbps) * 1_000.0)
            }
        }
        // x264 counts in thousands and needs room for a keyframe.
        .max(50_000.0)
    }
}

/// The level (H.264 table A-1) is set by the size and at least 60 pictures a second: a track must not change its
/// name because a source was measured meanwhile. In tenths, as every encoder reads it.
fn level(width: u32, height: u32, frames_per_s: f64) -> &'static str {
    let macroblocks = f64::from(width.div_ceil(16) * height.div_ceil(16));
    let per_s = macroblocks * frames_per_s.max(60.0);
    let levels = [
        ("30", 1_620.0, 40_500.0),
        ("31", 3_600.0, 108_000.0),
        ("32", 5_120.0, 216_000.0),
        ("42", 8_704.0, 522_240.0),
        ("51", 36_864.0, 983_040.0),
        ("52", 36_864.0, 2_073_600.0),
    ];
    let fits = levels.iter().find(|(_, in_one, in_a_second)| macroblocks <= *in_one && per_s <= *in_a_second);
    fits.map_or("62", |(name, ..)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pictures that nothing can compress.
    fn noise(seed: u32) -> ff::frame::Video {
        let mut picture = ff::frame::Video::new(Pixel::YUV420P, 320, 180);
        let mut state = seed;
        for plane in 0..3 {
            for byte in picture.data_mut(plane) {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8;
            }
        }
        picture
    }

    #[test]
    fn the_cap_holds_and_follows_the_source() {
        libav::init();
        let source = |bits_per_s| Measured { bits_per_s, frames_per_s: 30.0 };
        let mut encoder = H264::open(&noise(0), Profile::High, Spending::LikeSource, Some(source(4e6))).unwrap();
        let seconds = |encoder: &mut H264, range: std::ops::Range<i64>| -> f64 {
            let bytes: usize = range
                .clone()
                .flat_map(|second| second * 30..(second + 1) * 30)
                .filter_map(|at| encoder.encode(&mut noise(at as u32), at * 33_333, at == 0).unwrap())
                .map(|encoded| encoded.payload.len())
                .sum();
            bytes as f64 * 8.0 / range.count() as f64
        };
        seconds(&mut encoder, 0..2);
        let before = seconds(&mut encoder, 2..4);
        assert!((4e6..6e6).contains(&before), "{before}");
        encoder.follow(source(1e6));
        seconds(&mut encoder, 4..6);
        let after = seconds(&mut encoder, 6..9);
        assert!((0.8e6..1.5e6).contains(&after), "{after}");
    }
}
