//! One picture to look at. In: a keyframe. Out: a PNG, JPEG or WebP of it. Deliberately absent: which keyframe, and for whom.

use bytes::Bytes;
use ffmpeg_next::{self as ff, Dictionary, codec::Context, format::Pixel, software::scaling};
use headwater_common::media::Frame;

use super::{ConvertError, libav};

/// Ant Media's default; what is smaller stays as it is.
const HEIGHT_MAX: u32 = 480;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Picture {
    Png,
    Jpeg,
    Webp,
}

impl Picture {
    fn coder(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "mjpeg",
            Self::Webp => "libwebp",
        }
    }

    fn format(self) -> Pixel {
        match self {
            Self::Png => Pixel::RGB24,
            Self::Jpeg => Pixel::YUVJ420P,
            Self::Webp => Pixel::YUV420P,
        }
    }
}

/// Takes some milliseconds of a core. `None` where the frame can't be decoded alone.
pub(crate) fn draw(keyframe: &Frame, picture: Picture) -> Result<Option<Bytes>, ConvertError> {
    libav::init();
    let Some(decoded) = decode(keyframe)? else { return Ok(None) };
    let height = decoded.height().min(HEIGHT_MAX) & !1;
    let width = (u64::from(decoded.width()) * u64::from(height) / u64::from(decoded.height().max(1))) as u32 & !1;
    let (width, height) = (width.max(2), height.max(2));
    let (from, flags) = (decoded.format(), scaling::Flags::BILINEAR);
    let mut scaler =
        scaling::Context::get(from, decoded.width(), decoded.height(), picture.format(), width, height, flags)
            .map_err(ConvertError::Scaler)?;
    let mut scaled = ff::frame::Video::empty();
    scaler.run(&decoded, &mut scaled).map_err(ConvertError::Scaler)?;
    scaled.set_pts(Some(0));
    encode(&scaled, picture).map_err(ConvertError::Still)
}

fn decode(keyframe: &Frame) -> Result<Option<ff::frame::Video>, ConvertError> {
    let mut decoder = libav::open_decoder(&keyframe.info)?;
    let mut packet = ff::Packet::copy(&keyframe.payload);
    packet.set_pts(Some(keyframe.pts_us));
    let mut frame = ff::frame::Video::empty();
    let decoded = decoder.send_packet(&packet).and_then(|()| decoder.send_eof());
    Ok(decoded.and_then(|()| decoder.receive_frame(&mut frame)).is_ok().then_some(frame))
}

fn encode(frame: &ff::frame::Video, picture: Picture) -> Result<Option<Bytes>, ff::Error> {
    let coder = ff::encoder::find_by_name(picture.coder()).ok_or(ff::Error::EncoderNotFound)?;
    let mut video = Context::new_with_codec(coder).encoder().video()?;
    video.set_width(frame.width());
    video.set_height(frame.height());
    video.set_format(frame.format());
    video.set_time_base(libav::TIME_BASE);
    // Good to look at and some tens of kilobytes. PNG knows no such thing, and WebP's own default is as good.
    let options: Dictionary = [("qmin", "2"), ("qmax", "5")].into_iter().collect();
    let mut encoder = video.open_as_with(coder, options)?;
    encoder.send_frame(frame)?;
    encoder.send_eof()?;
    let mut packet = ff::Packet::empty();
    encoder.receive_packet(&mut packet)?;
    Ok(packet.data().map(Bytes::copy_from_slice))
}
