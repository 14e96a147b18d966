//! AAC (ISO/IEC 14496-3, ADTS of 13818-7). In: AudioSpecificConfig records, ADTS streams. Out: rate, channels and frame
//! length; raw frames with the record that describes them. Deliberately absent: decoding, LATM, and profiles that are
//! not built on the general audio coder (USAC, ELD).

use bytes::Bytes;

use super::bits::BitReader;
use super::config::ConfigError;

/// What an AudioSpecificConfig says (14496-3 1.6.2.1). Rate and channels are those of the sound that comes out, so
/// with the SBR and PS extensions twice those of the core, where the record says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Of the outermost coder: 2 is LC, 5 HE-AAC (SBR), 29 HE-AAC v2 (SBR and PS).
    pub object_type: u8,
    pub sample_rate: u32,
    pub channels: u8,
    /// Per access unit, at `sample_rate`.
    pub samples_per_frame: u32,
}

impl Config {
    pub fn parse(record: &[u8]) -> Result<Self, ConfigError> {
        Self::read(&mut BitReader::new(record)).unwrap_or(Err(ConfigError::Malformed("AudioSpecificConfig")))
    }

    fn read(bits: &mut BitReader<'_>) -> Option<Result<Self, ConfigError>> {
        let outer = object_type(bits)?;
        let core_rate = sample_rate(bits)?;
        let channel_config = bits.byte(4)?;
        let (mut sbr, mut ps) = (matches!(outer, SBR | PS), outer == PS);
        let mut rate = core_rate;
        let mut core = outer;
        if sbr {
            rate = sample_rate(bits)?;
            core = object_type(bits)?;
        }
        if !matches!(core, 1..=4 | 6 | 7 | 17 | 19..=23) {
            return Some(Err(ConfigError::Unsupported("AAC object type")));
        }
        // GASpecificConfig, 4.4.1.
        let core_samples = if bits.flag()? { 960 } else { 1024 };
        if bits.flag()? {
            bits.skip(14)?; // coreCoderDelay
        }
        bits.flag()?; // extensionFlag
        let mut channels = match channel_config {
            0 => program_channels(bits)?,
            1..=6 => channel_config,
            7 | 12 | 14 => 8,
            11 => 7,
            _ => return None,
        };
        if !sbr
            && channel_config != 0
            && let Some((extension_rate, extension_ps)) = announced_behind(bits)
        {
            (sbr, ps, rate) = (true, extension_ps, extension_rate);
        }
        if ps && channels == 1 {
            channels = 2;
        }
        if rate == 0 || core_rate == 0 || channels == 0 {
            return None;
        }
        // A record may announce SBR without doubling the rate ("downsampled SBR"): the frame lasts as long either way.
        let samples_per_frame =
            if sbr && rate == core_rate.saturating_mul(2) { core_samples * 2 } else { core_samples };
        let object_type = match (sbr, ps) {
            (true, true) => PS,
            (true, false) => SBR,
            _ => core,
        };
        Some(Ok(Self { object_type, sample_rate: rate, channels, samples_per_frame }))
    }
}

/// Splits an ADTS stream into raw frames. An item that is an error is the last one.
pub fn adts_frames(stream: &Bytes) -> AdtsFrames {
    AdtsFrames { stream: stream.clone(), at: 0 }
}

pub struct AdtsFrames {
    stream: Bytes,
    at: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdtsFrame {
    /// The AudioSpecificConfig the header stands for.
    pub record: Bytes,
    pub payload: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdtsError {
    #[error("no ADTS header at byte {offset}")]
    Header { offset: usize },
    #[error("ADTS frame at byte {offset} claims {length} bytes, {left} are left")]
    Length { offset: usize, length: usize, left: usize },
    #[error("ADTS frame at byte {offset} holds several raw blocks")]
    Blocks { offset: usize },
}

impl Iterator for AdtsFrames {
    type Item = Result<AdtsFrame, AdtsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.at;
        let left = &self.stream[offset..];
        if left.is_empty() {
            return None;
        }
        self.at = self.stream.len();
        let Some((header, size, length, blocks)) = adts_header(left) else {
            return Some(Err(AdtsError::Header { offset }));
        };
        if length > left.len() || length <= size {
            return Some(Err(AdtsError::Length { offset, length, left: left.len() }));
        }
        // No encoder is known to write more than one; splitting them would need a decoder.
        if blocks > 1 {
            return Some(Err(AdtsError::Blocks { offset }));
        }
        self.at = offset + length;
        Some(Ok(AdtsFrame { record: header, payload: self.stream.slice(offset + size..self.at) }))
    }
}

/// An AudioSpecificConfig for AAC-LC, as RTP and ADTS describe it by rate and channels only.
pub fn build_record(object_type: u8, sample_rate: u32, channels: u8) -> Bytes {
    let object_type = u64::from(object_type & 0x1f);
    let channels = u64::from(if channels == 8 { 7 } else { channels & 0xf });
    match RATES.iter().position(|&rate| rate == sample_rate) {
        Some(index) => {
            let bits = object_type << 11 | (index as u64) << 7 | channels << 3;
            Bytes::copy_from_slice(&(bits as u16).to_be_bytes())
        }
        None => {
            let bits = object_type << 35 | 15 << 31 | u64::from(sample_rate & 0xff_ffff) << 7 | channels << 3;
            Bytes::copy_from_slice(&bits.to_be_bytes()[3..])
        }
    }
}

const SBR: u8 = 5;
const PS: u8 = 29;

/// 14496-3 table 1.18.
const RATES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

fn object_type(bits: &mut BitReader<'_>) -> Option<u8> {
    match bits.byte(5)? {
        31 => Some(32 + bits.byte(6)?),
        kind => Some(kind),
    }
}

fn sample_rate(bits: &mut BitReader<'_>) -> Option<u32> {
    match bits.bits(4)? {
        15 => bits.bits(24),
        index => RATES.get(index as usize).copied(),
    }
}

/// The backward compatible way to announce SBR, its rate, and PS: behind everything an old decoder reads.
fn announced_behind(bits: &mut BitReader<'_>) -> Option<(u32, bool)> {
    if bits.bits(11)? != 0x2b7 || object_type(bits)? != SBR || !bits.flag()? {
        return None;
    }
    let rate = sample_rate(bits)?;
    Some((rate, bits.bits(11) == Some(0x548) && bits.flag() == Some(true)))
}

/// The channels of a program_config_element (4.4.1.1), where the channel configuration is 0.
fn program_channels(bits: &mut BitReader<'_>) -> Option<u8> {
    bits.skip(4 + 2 + 4)?; // element_instance_tag, object_type, sampling_frequency_index
    let (front, side, back) = (bits.byte(4)?, bits.byte(4)?, bits.byte(4)?);
    let lfe = bits.byte(2)?;
    bits.skip(3 + 4)?; // associated data and coupling elements
    for mixdown_bits in [4, 4, 3] {
        if bits.flag()? {
            bits.skip(mixdown_bits)?;
        }
    }
    let mut channels = lfe;
    for _ in 0..front + side + back {
        channels += if bits.flag()? { 2 } else { 1 };
        bits.skip(4)?;
    }
    Some(channels)
}

/// 13818-7 6.2: the record the header stands for, its size, the frame's length with it, its raw data blocks.
fn adts_header(stream: &[u8]) -> Option<(Bytes, usize, usize, u8)> {
    let header = stream.get(..7)?;
    if header[0] != 0xff || header[1] & 0xf6 != 0xf0 {
        return None;
    }
    let size = if header[1] & 1 == 1 { 7 } else { 9 };
    let object_type = (header[2] >> 6) + 1;
    let rate = *RATES.get(usize::from(header[2] >> 2 & 0xf))?;
    let channels = (header[2] & 1) << 2 | header[3] >> 6;
    let length = usize::from(header[3] & 3) << 11 | usize::from(header[4]) << 3 | usize::from(header[5] >> 5);
    if channels == 0 {
        return None; // the channels are told inside the frame, where nobody but a decoder finds them
    }
    // Configuration 7 means eight channels, and `build_record` takes channels.
    let channels = if channels == 7 { 8 } else { channels };
    Some((build_record(object_type, rate, channels), size, length, (header[6] & 3) + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(object_type: u8, sample_rate: u32, channels: u8, samples_per_frame: u32) -> Config {
        Config { object_type, sample_rate, channels, samples_per_frame }
    }

    #[test]
    fn records_from_the_field_read_right() {
        for (record, expected) in [
            (&[0x12, 0x10][..], config(2, 44_100, 2, 1024)),
            (&[0x11, 0x90], config(2, 48_000, 2, 1024)),
            (&[0x14, 0x08], config(2, 16_000, 1, 1024)),
            // HE-AAC announced up front, 24 kHz core.
            (&[0x2b, 0x11, 0x88, 0x00], config(5, 48_000, 2, 2048)),
            // HE-AAC v2 announced up front.
            (&[0xeb, 0x09, 0x88, 0x00], config(29, 48_000, 2, 2048)),
            // The same announced behind what old decoders read.
            (&[0x13, 0x10, 0x56, 0xe5, 0x98], config(5, 48_000, 2, 2048)),
            (&[0x13, 0x08, 0x56, 0xe5, 0x9d, 0x48, 0x80], config(29, 48_000, 2, 2048)),
            // A rate that is in no table.
            (&*build_record(2, 12_345, 1), config(2, 12_345, 1, 1024)),
            (&*build_record(2, 48_000, 8), config(2, 48_000, 8, 1024)),
        ] {
            assert_eq!(Config::parse(record), Ok(expected), "{record:02x?}");
        }
        assert_eq!(Config::parse(&[0x12]), Err(ConfigError::Malformed("AudioSpecificConfig")));
        assert!(matches!(Config::parse(&[0xf9, 0x48, 0x80, 0, 0]), Err(ConfigError::Unsupported(_))), "USAC");
    }

    #[test]
    fn adts_is_stripped() {
        // LC, 44.1 kHz, stereo, 7 + 3 bytes; then with a checksum.
        let stream = Bytes::from_static(&[
            0xff, 0xf1, 0x50, 0x80, 0x01, 0x5f, 0xfc, 1, 2, 3, 0xff, 0xf0, 0x50, 0x80, 0x01, 0x5f, 0xfc, 9, 9, 4, 0xff,
        ]);
        let frames: Vec<_> = adts_frames(&stream).collect();
        let record = Bytes::from_static(&[0x12, 0x10]);
        assert_eq!(frames[0], Ok(AdtsFrame { record: record.clone(), payload: Bytes::from_static(&[1, 2, 3]) }));
        assert_eq!(frames[1], Ok(AdtsFrame { record, payload: Bytes::from_static(&[4]) }));
        assert_eq!(frames[2], Err(AdtsError::Header { offset: 20 }));
    }
}
