//! Opus (RFC 6716, RFC 7845, "Encapsulation of Opus in ISO Base Media File Format"). In: OpusHead or dOps records,
//! packets. Out: channels, dOps, how long a packet sounds. Deliberately absent: decoding, the Ogg container.

use bytes::{Buf, BufMut, Bytes};

use super::config::ConfigError;

/// Opus always decodes to this rate, whatever the encoder was fed (RFC 7845 5.1).
pub const SAMPLE_RATE: u32 = 48_000;

/// What dOps and OpusHead say alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub channels: u8,
    /// Samples at 48 kHz to throw away at the start.
    pub pre_skip: u16,
    pub input_sample_rate: u32,
    pub output_gain: i16,
    pub mapping_family: u8,
    /// Stream count, coupled count and a byte per channel; empty for family 0.
    pub mapping: Bytes,
}

impl Config {
    /// Mono or stereo, as WebRTC sends it.
    pub fn plain(channels: u8) -> Self {
        Self {
            channels: channels.clamp(1, 2),
            pre_skip: 0,
            input_sample_rate: SAMPLE_RATE,
            output_gain: 0,
            mapping_family: 0,
            mapping: Bytes::new(),
        }
    }

    /// Reads OpusHead (RFC 7845 5.1) or the body of dOps, told apart by the magic number.
    pub fn parse(record: &Bytes) -> Result<Self, ConfigError> {
        Self::read(record.clone())
            .filter(|config| config.channels > 0)
            .ok_or(ConfigError::Malformed("Opus identification header"))
    }

    fn read(mut record: Bytes) -> Option<Self> {
        let ogg = record.starts_with(MAGIC);
        if ogg {
            record.advance(MAGIC.len());
        }
        if record.len() < 11 {
            return None;
        }
        let version = record.get_u8();
        // dOps is version 0, OpusHead 1; the upper half of the byte is for changes nobody can read yet.
        if version & 0xf0 != 0 {
            return None;
        }
        let channels = record.get_u8();
        let (pre_skip, input_sample_rate, output_gain) = match ogg {
            true => (record.get_u16_le(), record.get_u32_le(), record.get_i16_le()),
            false => (record.get_u16(), record.get_u32(), record.get_i16()),
        };
        let mapping_family = record.get_u8();
        let mapping = match mapping_family {
            0 if channels > 2 => return None,
            0 => Bytes::new(),
            _ => {
                let size = 2 + usize::from(channels);
                if record.len() < size {
                    return None;
                }
                record.split_to(size)
            }
        };
        Some(Self { channels, pre_skip, input_sample_rate, output_gain, mapping_family, mapping })
    }

    /// The body of a dOps box.
    pub fn dops(&self) -> Bytes {
        let mut record = Vec::with_capacity(11 + self.mapping.len());
        record.extend_from_slice(&[0, self.channels]);
        record.put_u16(self.pre_skip);
        record.put_u32(self.input_sample_rate);
        record.put_i16(self.output_gain);
        record.put_u8(self.mapping_family);
        record.extend_from_slice(&self.mapping);
        record.into()
    }

    /// An OpusHead packet, as Ogg, WebM and FLV carry it.
    pub fn opus_head(&self) -> Bytes {
        let mut record = Vec::with_capacity(19 + self.mapping.len());
        record.extend_from_slice(MAGIC);
        record.extend_from_slice(&[1, self.channels]);
        record.put_u16_le(self.pre_skip);
        record.put_u32_le(self.input_sample_rate);
        record.put_i16_le(self.output_gain);
        record.put_u8(self.mapping_family);
        record.extend_from_slice(&self.mapping);
        record.into()
    }
}

/// How many samples at 48 kHz a packet sounds (RFC 6716 3.1). `None` for what is no packet: empty, or longer than the
/// 120 ms that are allowed.
pub fn packet_samples(packet: &[u8]) -> Option<u32> {
    let toc = *packet.first()?;
    let per_frame = match toc >> 3 {
        config @ 0..12 => [480, 960, 1920, 2880][usize::from(config & 3)],
        config @ 12..16 => [480, 960][usize::from(config & 1)],
        config => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3f),
    };
    Some(per_frame * frames).filter(|&samples| samples > 0 && samples <= 5760)
}

/// 1 or 2, as the packet was coded (RFC 6716 3.1); `None` for what is no packet.
pub fn packet_channels(packet: &[u8]) -> Option<u8> {
    packet_samples(packet)?;
    packet.first().map(|toc| 1 + (toc >> 2 & 1))
}

const MAGIC: &[u8] = b"OpusHead";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_turn_into_each_other() {
        let stereo = Config { pre_skip: 312, ..Config::plain(2) };
        let surround = Config {
            channels: 6,
            mapping_family: 1,
            mapping: Bytes::from_static(&[4, 2, 0, 4, 1, 2, 3, 5]),
            output_gain: -256,
            ..Config::plain(2)
        };
        for config in [stereo, surround] {
            assert_eq!(Config::parse(&config.dops()).as_ref(), Ok(&config));
            assert_eq!(Config::parse(&config.opus_head()).as_ref(), Ok(&config));
        }
        assert!(Config::parse(&Bytes::from_static(b"OpusHead")).is_err());
    }

    #[test]
    fn packets_tell_how_long_they_sound() {
        assert_eq!(packet_samples(&[0xfc]), Some(960), "CELT 20 ms, one frame");
        assert_eq!(packet_samples(&[0x08]), Some(960), "SILK 20 ms");
        assert_eq!(packet_samples(&[0x19]), Some(5760), "SILK 60 ms, twice");
        assert_eq!(packet_samples(&[0xe3, 0x04]), Some(480), "CELT 2.5 ms, four times");
        assert_eq!(
            (packet_channels(&[0xf8]), packet_channels(&[0xfc]), packet_channels(&[0xff, 63])),
            (Some(1), Some(2), None)
        );
        assert_eq!((packet_samples(&[]), packet_samples(&[0xfb]), packet_samples(&[0xff, 63])), (None, None, None));
    }
}
