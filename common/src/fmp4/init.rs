//! What stands at the front of a fragmented file: `ftyp` and `moov`. In: what each track is. Out: their bytes.
//! Deliberately absent: durations (nobody knows them yet), edit lists, encryption.

use bytes::Bytes;
use mp4_atom::{
    Atom, Audio, Av01, Av1c, Avc1, Avcc, Codec as Entry, Dinf, Dops, Dref, Encode, Esds, FourCC, Ftyp, Hdlr, Hvc1,
    Hvcc, Mdhd, Mdia, Minf, Moov, Mp4a, Mvex, Mvhd, Opus, Smhd, Stbl, Stsd, Tkhd, Trak, Trex, Url, Visual, Vmhd, Vp08,
    Vp09, VpcC, esds,
};

use crate::media::{Codec, Info, Kind, Shape};

/// One track of a file: its number, from 1, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackSpec {
    pub id: u32,
    pub info: std::sync::Arc<Info>,
}

#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("{} track {id}: its configuration record does not fit into MP4: {source}", codec.name())]
    Record { id: u32, codec: Codec, source: mp4_atom::Error },
    #[error("MP4: {0}")]
    Encode(#[from] mp4_atom::Error),
}

impl TrackSpec {
    /// Ticks per second: 90000 for pictures, the sample rate for sound.
    pub fn timescale(&self) -> u32 {
        match self.info.shape {
            Shape::Video { .. } => 90_000,
            Shape::Audio { sample_rate, .. } => sample_rate.max(1),
        }
    }
}

/// `ftyp` and `moov` for these tracks.
pub fn init(tracks: &[TrackSpec]) -> Result<Bytes, InitError> {
    let moov = Moov {
        mvhd: Mvhd { next_track_id: tracks.iter().map(|track| track.id).max().unwrap_or(0) + 1, ..movie_header() },
        trak: tracks.iter().map(trak).collect::<Result<_, _>>()?,
        mvex: Some(Mvex {
            mehd: None,
            trex: tracks
                .iter()
                .map(|track| Trex { track_id: track.id, default_sample_description_index: 1, ..Trex::default() })
                .collect(),
        }),
        ..Moov::default()
    };
    let mut bytes = Vec::with_capacity(2048);
    ftyp(b"iso6", tracks.iter().map(|track| track.info.codec)).encode(&mut bytes)?;
    moov.encode(&mut bytes)?;
    Ok(bytes.into())
}

pub(super) fn ftyp(major: &[u8; 4], codecs: impl Iterator<Item = Codec>) -> Ftyp {
    let mut brands = vec![FourCC::new(b"iso6"), FourCC::new(b"isom"), FourCC::new(b"mp41")];
    for codec in codecs {
        // av01 is the brand that AV1's binding (2.1) demands.
        if codec == Codec::Av1 && !brands.contains(&FourCC::new(b"av01")) {
            brands.push(FourCC::new(b"av01"));
        }
    }
    Ftyp { major_brand: major.into(), minor_version: 512, compatible_brands: brands }
}

pub(super) fn movie_header() -> Mvhd {
    Mvhd { timescale: MOVIE_TIMESCALE, rate: 1.into(), volume: 1.into(), ..Mvhd::default() }
}

pub(super) const MOVIE_TIMESCALE: u32 = 90_000;

fn trak(track: &TrackSpec) -> Result<Trak, InitError> {
    let sound = track.info.kind() == Kind::Audio;
    let (width, height) = match track.info.shape {
        Shape::Video { width, height, .. } => (side(width), side(height)),
        Shape::Audio { .. } => (0, 0),
    };
    let entry = sample_entry(&track.info).map_err(|source| InitError::Record {
        id: track.id,
        codec: track.info.codec,
        source,
    })?;
    Ok(Trak {
        tkhd: Tkhd {
            track_id: track.id,
            enabled: true,
            in_movie: true,
            volume: if sound { 1 } else { 0 }.into(),
            width: width.into(),
            height: height.into(),
            ..Tkhd::default()
        },
        mdia: Mdia {
            mdhd: Mdhd { timescale: track.timescale(), language: "und".into(), ..Mdhd::default() },
            hdlr: match sound {
                true => Hdlr { handler: FourCC::new(b"soun"), name: "Sound".into() },
                false => Hdlr { handler: FourCC::new(b"vide"), name: "Video".into() },
            },
            minf: Minf {
                vmhd: (!sound).then(Vmhd::default),
                smhd: sound.then(Smhd::default),
                dinf: Dinf { dref: Dref { entries: vec![Url::default().into()] } },
                stbl: Stbl {
                    stsd: Stsd { codecs: vec![entry] },
                    stco: Some(mp4_atom::Stco::default()),
                    ..Stbl::default()
                },
                ..Minf::default()
            },
        },
        ..Trak::default()
    })
}

fn sample_entry(info: &Info) -> Result<Entry, mp4_atom::Error> {
    let record = &mut &info.config[..];
    let visual = match info.shape {
        Shape::Video { width, height, .. } => {
            Visual { data_reference_index: 1, width: side(width), height: side(height), ..Visual::default() }
        }
        Shape::Audio { .. } => Visual::default(),
    };
    let audio = match info.shape {
        Shape::Audio { sample_rate, channels } => Audio {
            data_reference_index: 1,
            channel_count: channels.into(),
            sample_size: 16,
            // The field ends at 65535; players take the rate from the record anyway.
            sample_rate: u16::try_from(sample_rate).unwrap_or(0).into(),
        },
        Shape::Video { .. } => {
            Audio { data_reference_index: 1, channel_count: 0, sample_size: 16, sample_rate: 0.into() }
        }
    };
    Ok(match info.codec {
        Codec::H264 => Avc1 { visual, avcc: Avcc::decode_body(record)?, ..Avc1::default() }.into(),
        Codec::H265 => Hvc1 { visual, hvcc: Hvcc::decode_body(record)?, ..Hvc1::default() }.into(),
        Codec::Av1 => Av01 { visual, av1c: Av1c::decode_body(record)?, ..Av01::default() }.into(),
        Codec::Vp8 | Codec::Vp9 => {
            // This box has a version and flags in front of the record.
            let boxed = [&[1, 0, 0, 0], &info.config[..]].concat();
            let vpcc = VpcC::decode_body(&mut &boxed[..])?;
            match info.codec {
                Codec::Vp8 => Vp08 { visual, vpcc, ..Vp08::default() }.into(),
                _ => Vp09 { visual, vpcc, ..Vp09::default() }.into(),
            }
        }
        Codec::Aac => Mp4a { audio, esds: esds(&info.config), btrt: None, taic: None }.into(),
        Codec::Opus => Opus { audio, dops: Dops::decode_body(record)?, btrt: None }.into(),
    })
}

/// ISO/IEC 14496-14 3.1.2, 5.6.1: AAC (0x40) as an audio stream (5).
fn esds(record: &[u8]) -> Esds {
    Esds {
        es_desc: esds::EsDescriptor {
            dec_config: esds::DecoderConfig {
                object_type_indication: 0x40,
                stream_type: 5,
                dec_specific: Some(esds::DecoderSpecific { raw: record.to_vec(), ..Default::default() }),
                ..Default::default()
            },
            ..Default::default()
        },
    }
}

fn side(pixels: u32) -> u16 {
    u16::try_from(pixels).unwrap_or(u16::MAX)
}
