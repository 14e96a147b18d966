//! One audio conversion. In: the frames of a source track, in order. Out: Opus (48 kHz, 20 ms) or AAC-LC (48 kHz) on
//! the source's clock. A timestamp says when a plain decoder's output for that packet is to be heard, so an encoder's
//! priming lies in front of the first sample and sound is neither early nor late. Deliberately absent: more than two
//! channels (browsers play no others over WebRTC), threads and clocks.

use std::{collections::VecDeque, sync::Arc};

use ffmpeg_next::{
    self as ff, ChannelLayout, Dictionary, Rational,
    codec::{self, Context, decoder, encoder},
    format::{Sample, sample::Type},
    software::resampling,
};
use headwater_common::{
    media::{Codec, Frame, Gop, Info, RtpCache},
    telemetry::Door,
};

use super::{
    ConvertError,
    grid::{Grid, Step, samples_us, us_samples},
    libav,
    trouble::Trouble,
};

const RATE: u32 = 48_000;
/// Transparent for speech and good for music with either codec.
const OPUS_BITS_PER_S: usize = 96_000;
const AAC_BITS_PER_S: usize = 128_000;
/// Gops of recent source frames; an encoder holds back less than this many of them.
const GOPS_MAX: usize = 32;
const PACKED: Sample = Sample::F32(Type::Packed);

pub(super) struct Audio {
    target: Codec,
    bits_per_s: usize,
    door: Door,
    decoding: Option<Decoding>,
    resampler: Option<resampling::Context>,
    encoding: Option<Encoding>,
    grid: Grid,
    /// Resampled and not encoded yet, channels interleaved: less than a frame of the encoder, except within `take`.
    samples: Vec<f32>,
    /// Resampled values still to be left out.
    skip: usize,
    gops: VecDeque<(i64, Arc<Gop>)>,
    /// Samples and rate of the newest decoded frame: what a lost one is taken to have had.
    newest: Option<(usize, u32)>,
    trouble: Trouble,
}

struct Decoding {
    decoder: decoder::Opened,
    info: Arc<Info>,
    epoch: u64,
}

struct Encoding {
    encoder: encoder::audio::Encoder,
    channels: usize,
    info: Arc<Info>,
    /// When sample zero is heard.
    anchor_us: i64,
    sent: i64,
}

impl Audio {
    /// Transparent unless so many thousand bits a second are asked for.
    pub(super) fn new(target: Codec, kbps: Option<u32>, door: Door) -> Self {
        let transparent = if target == Codec::Opus { OPUS_BITS_PER_S } else { AAC_BITS_PER_S };
        Self {
            target,
            bits_per_s: kbps.map_or(transparent, |kbps| kbps as usize * 1_000),
            door,
            decoding: None,
            resampler: None,
            encoding: None,
            grid: Grid::default(),
            samples: Vec::new(),
            skip: 0,
            gops: VecDeque::new(),
            newest: None,
            trouble: Trouble::default(),
        }
    }

    pub(super) fn take(&mut self, frame: &Frame, out: &mut Vec<Frame>) -> Result<(), ConvertError> {
        let same = |decoding: &Decoding| {
            decoding.epoch == frame.gop.epoch
                && (Arc::ptr_eq(&decoding.info, &frame.info)
                    || (decoding.info.codec == frame.info.codec && decoding.info.config == frame.info.config))
        };
        if !self.decoding.as_ref().is_some_and(same) {
            let decoder = libav::open_decoder(&frame.info)?;
            self.decoding = Some(Decoding { decoder, info: frame.info.clone(), epoch: frame.gop.epoch });
        }
        if self.gops.len() >= GOPS_MAX {
            self.gops.pop_front();
        }
        self.gops.push_back((frame.pts_us, frame.gop.clone()));
        for sound in self.decode(frame) {
            self.place(&sound, frame.pts_us)?;
            self.resample(&sound)?;
        }
        self.encode(out)
    }

    fn decode(&mut self, frame: &Frame) -> Vec<ff::frame::Audio> {
        let mut sounds = Vec::new();
        let Some(Decoding { decoder, .. }) = &mut self.decoding else { return sounds };
        let mut packet = ff::Packet::copy(&frame.payload);
        packet.set_pts(Some(frame.pts_us));
        let mut failed = decoder.send_packet(&packet).err();
        let mut sound = ff::frame::Audio::empty();
        while failed.is_none() {
            match decoder.receive_frame(&mut sound) {
                Ok(()) if sound.samples() > 0 && sound.rate() > 0 => {
                    sounds.push(std::mem::replace(&mut sound, ff::frame::Audio::empty()));
                }
                Ok(()) => {}
                Err(ff::Error::Eof | ff::Error::Other { errno: ff::ffi::EAGAIN }) => break,
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            self.lost(frame.dts_us, error);
        }
        if !sounds.is_empty() {
            self.trouble.good();
        }
        sounds
    }

    /// Silence takes the place of a frame that can't be decoded, or all that follows would be early.
    fn lost(&mut self, dts_us: i64, error: ff::Error) {
        self.door.dropped.inc();
        if self.trouble.bad(dts_us) {
            tracing::warn!(%error, "no sound could be decoded for ten seconds");
        }
        if let Some((samples, _)) = self.newest {
            let us = self.grid.lose(samples);
            self.silence(us);
        }
    }

    fn place(&mut self, sound: &ff::frame::Audio, pts_us: i64) -> Result<(), ConvertError> {
        let channels = usize::from(sound.channels().clamp(1, 2));
        self.newest = Some((sound.samples(), sound.rate()));
        let step = self.grid.place(pts_us, sound.samples(), sound.rate());
        let restart_us = match step {
            Step::Restart { at_us } => Some(at_us),
            // Mono became stereo: the stream goes on with another record.
            _ if self.encoding.as_ref().is_none_or(|encoding| encoding.channels != channels) => Some(pts_us),
            _ => None,
        };
        if let Some(anchor_us) = restart_us {
            self.samples.clear();
            self.skip = 0;
            self.resampler = None;
            self.encoding = Some(Encoding::open(self.target, self.bits_per_s, channels, anchor_us)?);
            return Ok(());
        }
        match step {
            Step::Silence { us } => self.silence(us),
            Step::Skip { us } => self.skip += us_samples(us, RATE) as usize * channels,
            Step::Continue | Step::Restart { .. } => {}
        }
        Ok(())
    }

    fn silence(&mut self, us: i64) {
        let Some(encoding) = &self.encoding else { return };
        let values = us_samples(us, RATE).max(0) as usize * encoding.channels;
        self.samples.resize(self.samples.len() + values, 0.0);
    }

    fn resample(&mut self, sound: &ff::frame::Audio) -> Result<(), ConvertError> {
        let Some(encoding) = &self.encoding else { return Ok(()) };
        let input = resampling::context::Definition {
            format: sound.format(),
            channel_layout: sound.channel_layout(),
            rate: sound.rate(),
        };
        let layout = ChannelLayout::default(encoding.channels as i32);
        let fits = |resampler: &resampling::Context| {
            *resampler.input() == input && resampler.output().channel_layout == layout
        };
        let mut resampler = match self.resampler.take().filter(fits) {
            Some(resampler) => resampler,
            None => resampling::Context::get(input.format, input.channel_layout, input.rate, PACKED, layout, RATE)
                .map_err(ConvertError::Resampler)?,
        };
        // Room for everything that comes out: what does not fit would pile up in the resampler.
        let room = us_samples(samples_us(sound.samples() as i64, input.rate), RATE) as usize + 256;
        let mut resampled = ff::frame::Audio::new(PACKED, room, layout);
        resampler.run(sound, &mut resampled).map_err(ConvertError::Resampler)?;
        self.resampler = Some(resampler);
        if resampled.samples() == 0 {
            return Ok(());
        }
        let values = resampled.plane::<f32>(0);
        let skipped = self.skip.min(values.len());
        self.skip -= skipped;
        self.samples.extend_from_slice(&values[skipped..]);
        Ok(())
    }

    fn encode(&mut self, out: &mut Vec<Frame>) -> Result<(), ConvertError> {
        let Some(encoding) = &mut self.encoding else { return Ok(()) };
        let values = encoding.encoder.frame_size() as usize * encoding.channels;
        let mut done = 0;
        while values > 0 && self.samples.len() - done >= values {
            encoding.send(&self.samples[done..done + values])?;
            done += values;
            let mut packet = ff::Packet::empty();
            while encoding.encoder.receive_packet(&mut packet).is_ok() {
                let (Some(data), Some(pts)) = (packet.data(), packet.pts()) else { continue };
                let pts_us = encoding.anchor_us + samples_us(pts, RATE);
                let Some(gop) = gop_at(&mut self.gops, pts_us) else { continue };
                out.push(Frame {
                    gop,
                    dts_us: pts_us,
                    pts_us,
                    keyframe: true,
                    payload: bytes::Bytes::copy_from_slice(data),
                    info: encoding.info.clone(),
                    rtp: RtpCache::default(),
                });
            }
        }
        self.samples.drain(..done);
        Ok(())
    }
}

/// The gop of the source frame that was sounding then. Packets come in order, so older ones are not needed again.
fn gop_at(gops: &mut VecDeque<(i64, Arc<Gop>)>, pts_us: i64) -> Option<Arc<Gop>> {
    while gops.get(1).is_some_and(|(begins_us, _)| *begins_us <= pts_us) {
        gops.pop_front();
    }
    gops.front().map(|(_, gop)| gop.clone())
}

impl Encoding {
    fn open(codec: Codec, bits_per_s: usize, channels: usize, anchor_us: i64) -> Result<Self, ConvertError> {
        let failed = |error| ConvertError::Encoder { codec, error };
        let coder = libav::encoder(codec)?;
        let mut audio = Context::new_with_codec(coder).encoder().audio().map_err(failed)?;
        audio.set_rate(RATE as i32);
        audio.set_channel_layout(ChannelLayout::default(channels as i32));
        audio.set_time_base(Rational(1, RATE as i32));
        audio.set_flags(codec::Flags::GLOBAL_HEADER);
        let (format, options): (_, &[(&str, &str)]) = match codec {
            // "lowdelay" holds back 2.5 ms instead of 6.5; what it gives up helps below 32 kb/s only.
            Codec::Opus => (PACKED, &[("application", "lowdelay"), ("frame_duration", "20")]),
            _ => (Sample::F32(Type::Planar), &[]),
        };
        audio.set_format(format);
        audio.set_bit_rate(if channels == 1 { bits_per_s * 2 / 3 } else { bits_per_s });
        let options: Dictionary = options.iter().collect();
        let encoder = audio.open_as_with(coder, options).map_err(failed)?;
        let info = Info::from_config(codec, libav::extradata(encoder.as_ref()))
            .map_err(|error| ConvertError::Header { codec, error })?;
        Ok(Self { encoder, channels, info: Arc::new(info), anchor_us, sent: 0 })
    }

    fn send(&mut self, values: &[f32]) -> Result<(), ConvertError> {
        let samples = values.len() / self.channels;
        let format = self.encoder.format();
        let mut frame = ff::frame::Audio::new(format, samples, self.encoder.channel_layout());
        frame.set_rate(RATE);
        frame.set_pts(Some(self.sent));
        self.sent += samples as i64;
        if format.is_planar() {
            for channel in 0..self.channels {
                let plane = frame.plane_mut::<f32>(channel);
                for (to, from) in plane.iter_mut().zip(values.iter().skip(channel).step_by(self.channels)) {
                    *to = *from;
                }
            }
        } else {
            frame.plane_mut::<f32>(0).copy_from_slice(values);
        }
        let codec = self.info.codec;
        self.encoder.send_frame(&frame).map_err(|error| ConvertError::Encoder { codec, error })
    }
}
