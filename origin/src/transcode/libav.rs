//! The edge to FFmpeg's libraries. In: what a track carries. Out: opened decoders, and the few fields that the safe
//! wrapper has no word for. What is unsafe of this room is here and in `card`.

use std::sync::Once;

use bytes::Bytes;
use ffmpeg_next::{
    self as ff, Codec as Coder, Rational,
    codec::{Context, Id, decoder},
    ffi,
};
use headwater_common::media::{Codec, Info, opus};

use super::{ConvertError, coder};

/// Everything in the hall counts microseconds.
pub(super) const TIME_BASE: Rational = Rational(1, 1_000_000);

/// Must precede any other call. FFmpeg's own log is off: it writes to stderr, once per damaged macroblock if need be;
/// what matters in it comes back as an error and is counted.
pub(super) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| ff::log::set_level(ff::log::Level::Quiet));
}

/// The encoder for a codec that this room produces.
pub(super) fn encoder(codec: Codec) -> Result<Coder, ConvertError> {
    let name = match codec {
        Codec::H264 => coder::Coder::X264.name(),
        Codec::Opus => "libopus",
        Codec::Aac => "aac",
        other => return Err(ConvertError::Missing(other.name())),
    };
    ff::encoder::find_by_name(name).ok_or(ConvertError::Missing(name))
}

pub(super) fn decoder(codec: Codec) -> Result<Coder, ConvertError> {
    let id = match codec {
        Codec::H264 => Id::H264,
        Codec::H265 => Id::HEVC,
        Codec::Av1 => Id::AV1,
        Codec::Vp8 => Id::VP8,
        Codec::Vp9 => Id::VP9,
        Codec::Aac => Id::AAC,
        Codec::Opus => Id::OPUS,
    };
    decoder::find(id).ok_or(ConvertError::Missing(codec.name()))
}

pub(super) fn open_decoder(info: &Info) -> Result<decoder::Opened, ConvertError> {
    let codec = info.codec;
    let coder = decoder(codec)?;
    let mut context = Context::new_with_codec(coder);
    let extradata = match codec {
        // FFmpeg knows Opus by its Ogg header, the hall by its MP4 box. Nothing is skipped at the start: timestamps
        // count the priming, and a decoder that is opened in mid-stream would swallow sound.
        Codec::Opus => {
            let config = opus::Config::parse(&info.config).map_err(|error| ConvertError::Config { codec, error })?;
            opus::Config { pre_skip: 0, ..config }.opus_head()
        }
        // vpcC is no decoder's business.
        Codec::Vp8 | Codec::Vp9 => Bytes::new(),
        _ => info.config.clone(),
    };
    set_extradata(&mut context, &extradata)?;
    // Frame threads would hold back a picture per thread; one thread decodes 1080p60 several times over.
    context.set_threading(ff::threading::Config::count(1));
    let mut decoder = context.decoder();
    decoder.set_packet_time_base(TIME_BASE);
    decoder.open_as(coder).map_err(|error| ConvertError::Decoder { codec, error })
}

fn set_extradata(context: &mut Context, extradata: &[u8]) -> Result<(), ConvertError> {
    if extradata.is_empty() {
        return Ok(());
    }
    // SAFETY: the context is not open yet and has no extradata. avcodec.h wants it allocated by av_malloc with that
    // many zero bytes behind it, because bit readers read ahead; avcodec_free_context frees it.
    unsafe {
        let buffer = ffi::av_mallocz(extradata.len() + ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize).cast::<u8>();
        if buffer.is_null() {
            return Err(ConvertError::NoMemory);
        }
        std::ptr::copy_nonoverlapping(extradata.as_ptr(), buffer, extradata.len());
        let raw = context.as_mut_ptr();
        (*raw).extradata = buffer;
        (*raw).extradata_size = extradata.len() as i32;
    }
    Ok(())
}

/// The configuration record that an opened encoder made.
pub(super) fn extradata(context: &Context) -> Bytes {
    // SAFETY: the field is either null or points to that many bytes, which live as long as the context.
    unsafe {
        let raw = context.as_ptr();
        let (data, size) = ((*raw).extradata, (*raw).extradata_size);
        if data.is_null() || size <= 0 {
            return Bytes::new();
        }
        Bytes::copy_from_slice(std::slice::from_raw_parts(data, size as usize))
    }
}

/// The rate cap of a video encoder, before or after it is opened: libavcodec's libx264 looks at these fields with
/// every frame and reconfigures itself.
pub(super) fn set_cap(context: &mut Context, bits_per_s: usize, buffer_bits: usize) {
    // SAFETY: plain fields, and nothing else uses the context while it is borrowed.
    unsafe {
        let raw = context.as_mut_ptr();
        (*raw).rc_max_rate = bits_per_s as i64;
        (*raw).rc_buffer_size = buffer_bits.min(i32::MAX as usize) as i32;
    }
}
