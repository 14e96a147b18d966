//! From configuration records to [`Info`] and from there to the names playlists use. In: a record as a protocol or a
//! file delivered it. Out: an `Info` whose record is the canonical one, or why there is none. Deliberately absent:
//! learning from pictures (`inspect`).

use bytes::Bytes;

use super::h264::{self, Reordering};
use super::{Codec, Info, Shape, aac, av1, h265, opus, vp9};

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("malformed or incomplete: {0}")]
    Malformed(&'static str),
    #[error("not supported: {0}")]
    Unsupported(&'static str),
}

impl Info {
    /// Reads a configuration record: avcC, hvcC, av1C, vpcC (with or without the version and flags of its box),
    /// AudioSpecificConfig, dOps or OpusHead. [`Info::config`] is the canonical form of it.
    ///
    /// vpcC says nothing about dimensions, nor does an av1C without sequence header: they are 0 until the first
    /// keyframe went through an [`Inspector`](super::Inspector).
    pub fn from_config(codec: Codec, record: Bytes) -> Result<Self, ConfigError> {
        let (config, shape) = match codec {
            Codec::H264 => {
                let sets = h264::parse_record(&record)?.sets;
                let config = h264::build_record(&sets)?;
                let sps = h264::Sps::parse(&sets.sps[0])?;
                let reorders = sps.reordering() == Reordering::Yes;
                (config, Shape::Video { width: sps.width, height: sps.height, reorders })
            }
            Codec::H265 => {
                let sets = h265::parse_record(&record)?.sets;
                let config = h265::build_record(&sets)?;
                let sps = h265::Sps::parse(&sets.sps[0])?;
                let reorders = sps.max_num_reorder_pics > 0;
                (config, Shape::Video { width: sps.width, height: sps.height, reorders })
            }
            Codec::Av1 => {
                let header = av1::Config::parse(&record)?.sequence_header;
                let (width, height) = header.map_or((0, 0), |header| (header.width, header.height));
                (record, Shape::Video { width, height, reorders: false })
            }
            Codec::Vp8 | Codec::Vp9 => {
                (vp9::bare_record(record)?, Shape::Video { width: 0, height: 0, reorders: false })
            }
            Codec::Aac => {
                let config = aac::Config::parse(&record)?;
                (record, Shape::Audio { sample_rate: config.sample_rate, channels: config.channels })
            }
            Codec::Opus => {
                let config = opus::Config::parse(&record)?;
                (config.dops(), Shape::Audio { sample_rate: opus::SAMPLE_RATE, channels: config.channels })
            }
        };
        Ok(Self { codec, config, shape })
    }

    /// The name playlists and media types use (RFC 6381), such as `avc1.640028`. Where the record cannot be read it is
    /// the sample entry's name alone.
    pub fn rfc6381(&self) -> String {
        let record = &self.config[..];
        let name = match self.codec {
            Codec::H264 => match record {
                [_, profile, compatibility, level, ..] => {
                    Some(format!("avc1.{profile:02x}{compatibility:02x}{level:02x}"))
                }
                _ => None,
            },
            Codec::H265 => h265::ProfileTierLevel::of_record(record).map(|profile| profile.rfc6381()),
            Codec::Av1 => av1::Config::parse(record).ok().map(|config| {
                let tier = if config.high_tier { 'H' } else { 'M' };
                format!("av01.{}.{:02}{tier}.{:02}", config.profile, config.level, config.bit_depth)
            }),
            Codec::Vp8 | Codec::Vp9 => vp9::Config::parse(record).ok().map(|config| {
                let entry = self.sample_entry();
                format!("{entry}.{:02}.{:02}.{:02}", config.profile, config.level, config.bit_depth)
            }),
            Codec::Aac => aac::Config::parse(record).ok().map(|config| format!("mp4a.40.{}", config.object_type)),
            Codec::Opus => None,
        };
        name.unwrap_or_else(|| self.sample_entry().to_owned())
    }

    /// The sound in one access unit, in samples, where the record says it. Opus says it in every packet
    /// ([`opus::packet_samples`]).
    pub fn samples_per_frame(&self) -> Option<u32> {
        match self.codec {
            Codec::Aac => aac::Config::parse(&self.config).ok().map(|config| config.samples_per_frame),
            _ => None,
        }
    }

    fn sample_entry(&self) -> &'static str {
        match self.codec {
            Codec::H264 => "avc1",
            Codec::H265 => "hvc1",
            Codec::Av1 => "av01",
            Codec::Vp8 => "vp08",
            Codec::Vp9 => "vp09",
            Codec::Aac => "mp4a.40.2",
            Codec::Opus => "opus",
        }
    }
}
