//! AV1 (bitstream specification 1.0.0 with errata 1, "AV1 Codec ISO Media File Format Binding"). In: av1C records and
//! temporal units. Out: what the sequence header says, where a temporal unit's OBUs lie, whether decoding can start
//! there, and av1C made of a sequence header. Deliberately absent: tiles, operating points beyond the first. Pictures
//! leave the decoder one per temporal unit, in order, so AV1 never reorders.

use std::ops::Range;

use bytes::Bytes;

use super::FrameError;
use super::bits::BitReader;
use super::config::ConfigError;

/// What a sequence header says (5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceHeader {
    pub profile: u8,
    /// Of the first operating point.
    pub level: u8,
    pub high_tier: bool,
    pub bit_depth: u8,
    pub monochrome: bool,
    pub subsampling_x: bool,
    pub subsampling_y: bool,
    pub chroma_sample_position: u8,
    pub reduced_still_picture: bool,
    pub width: u32,
    pub height: u32,
}

impl SequenceHeader {
    /// Reads the payload of an OBU of type 1, its header not included.
    pub fn parse(payload: &[u8]) -> Result<Self, ConfigError> {
        Self::read(&mut BitReader::new(payload)).ok_or(ConfigError::Malformed("AV1 sequence header"))
    }

    fn read(bits: &mut BitReader<'_>) -> Option<Self> {
        let profile = bits.byte(3).filter(|&profile| profile < 3)?;
        bits.flag()?; // still_picture
        let reduced = bits.flag()?;
        let (mut level, mut high_tier) = (0, false);
        if reduced {
            level = bits.byte(5)?;
        } else {
            let mut delay_bits = None;
            if bits.flag()? {
                bits.skip(64)?; // num_units_in_display_tick, time_scale
                if bits.flag()? {
                    bits.ue()?; // uvlc() is ue(v) by another name
                }
                if bits.flag()? {
                    delay_bits = Some(bits.bits(5)? as usize + 1);
                    bits.skip(32 + 5 + 5)?;
                }
            }
            let display_delay = bits.flag()?;
            for point in 0..=bits.bits(5)? {
                bits.skip(12)?; // operating_point_idc
                let point_level = bits.byte(5)?;
                let point_tier = point_level > 7 && bits.flag()?;
                if point == 0 {
                    (level, high_tier) = (point_level, point_tier);
                }
                if let Some(delay_bits) = delay_bits
                    && bits.flag()?
                {
                    bits.skip(2 * delay_bits + 1)?;
                }
                if display_delay && bits.flag()? {
                    bits.skip(4)?;
                }
            }
        }
        let (width_bits, height_bits) = (bits.bits(4)? + 1, bits.bits(4)? + 1);
        let (width, height) = (bits.bits(width_bits)? + 1, bits.bits(height_bits)? + 1);
        if !reduced && bits.flag()? {
            bits.skip(4 + 3)?; // frame id lengths
        }
        bits.skip(3)?; // use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
        if !reduced {
            bits.skip(4)?; // enable_interintra_compound to enable_dual_filter
            let order_hint = bits.flag()?;
            if order_hint {
                bits.skip(2)?;
            }
            let screen_content = bits.flag()? || bits.flag()?;
            if screen_content && !bits.flag()? {
                bits.flag()?; // seq_force_integer_mv
            }
            if order_hint {
                bits.skip(3)?;
            }
        }
        bits.skip(3)?; // enable_superres, enable_cdef, enable_restoration

        // color_config(), 5.5.2.
        let high_bit_depth = bits.flag()?;
        let twelve = profile == 2 && high_bit_depth && bits.flag()?;
        let monochrome = profile != 1 && bits.flag()?;
        let description = match bits.flag()? {
            true => [bits.byte(8)?, bits.byte(8)?, bits.byte(8)?],
            false => [2, 2, 2],
        };
        const SRGB: [u8; 3] = [1, 13, 0];
        let (subsampling_x, subsampling_y) = if monochrome {
            bits.flag()?;
            (true, true)
        } else if description == SRGB {
            (false, false)
        } else {
            bits.flag()?; // color_range
            match profile {
                0 => (true, true),
                1 => (false, false),
                _ if twelve => {
                    let x = bits.flag()?;
                    (x, x && bits.flag()?)
                }
                _ => (true, false),
            }
        };
        let chroma_sample_position = if !monochrome && subsampling_x && subsampling_y { bits.byte(2)? } else { 0 };
        Some(Self {
            profile,
            level,
            high_tier,
            bit_depth: if twelve { 12 } else { 8 + 2 * u8::from(high_bit_depth) },
            monochrome,
            subsampling_x,
            subsampling_y,
            chroma_sample_position,
            reduced_still_picture: reduced,
            width,
            height,
        })
    }
}

/// What an av1C record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub profile: u8,
    pub level: u8,
    pub high_tier: bool,
    pub bit_depth: u8,
    /// Where the record came with one.
    pub sequence_header: Option<SequenceHeader>,
}

impl Config {
    pub fn parse(record: &[u8]) -> Result<Self, ConfigError> {
        let (&[marker, profile_level, flags, delay], obus) =
            record.split_first_chunk::<4>().ok_or(ConfigError::Malformed("av1C"))?;
        if marker != 0x81 || delay >> 5 != 0 {
            return Err(ConfigError::Malformed("av1C"));
        }
        let mut sequence_header = None;
        for obu in self::obus(obus) {
            let obu = obu.map_err(|_| ConfigError::Malformed("av1C"))?;
            if obu.kind == SEQUENCE_HEADER {
                sequence_header = Some(SequenceHeader::parse(&obus[obu.payload])?);
            }
        }
        let bit_depth = match (flags & 0x40 != 0, flags & 0x20 != 0) {
            (true, true) => 12,
            (true, false) => 10,
            _ => 8,
        };
        Ok(Self {
            profile: profile_level >> 5,
            level: profile_level & 0x1f,
            high_tier: flags & 0x80 != 0,
            bit_depth,
            sequence_header,
        })
    }
}

/// An av1C record around a sequence header, given as the payload of its OBU.
pub fn build_record(sequence_header: &[u8]) -> Result<Bytes, ConfigError> {
    let facts = SequenceHeader::parse(sequence_header)?;
    let mut record = Vec::with_capacity(4 + 1 + 5 + sequence_header.len());
    record.extend_from_slice(&[
        0x81,
        facts.profile << 5 | facts.level,
        u8::from(facts.high_tier) << 7
            | u8::from(facts.bit_depth > 8) << 6
            | u8::from(facts.bit_depth == 12) << 5
            | u8::from(facts.monochrome) << 4
            | u8::from(facts.subsampling_x) << 3
            | u8::from(facts.subsampling_y) << 2
            | facts.chroma_sample_position,
        0,
        SEQUENCE_HEADER << 3 | HAS_SIZE,
    ]);
    let mut size = sequence_header.len();
    while size >= 0x80 {
        record.push(size as u8 | 0x80);
        size >>= 7;
    }
    record.push(size as u8);
    record.extend_from_slice(sequence_header);
    Ok(record.into())
}

/// One open bitstream unit of a temporal unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obu {
    pub kind: u8,
    /// With header and size.
    pub whole: Range<usize>,
    /// Where the header's second byte is, if it has one.
    pub extension: Option<usize>,
    pub payload: Range<usize>,
}

/// Walks over the OBUs of a temporal unit in the low overhead format (5.2), where the last may do without a size.
/// After an error the walk is over.
pub fn obus(unit: &[u8]) -> Obus<'_> {
    Obus { unit, at: 0 }
}

pub struct Obus<'a> {
    unit: &'a [u8],
    at: usize,
}

impl Iterator for Obus<'_> {
    type Item = Result<Obu, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.at;
        if offset == self.unit.len() {
            return None;
        }
        self.at = self.unit.len();
        Some(self.read(offset).ok_or(FrameError::Obu { offset }))
    }
}

impl Obus<'_> {
    fn read(&mut self, offset: usize) -> Option<Obu> {
        let header = *self.unit.get(offset)?;
        if header & 0x80 != 0 {
            return None;
        }
        let extension = (header & HAS_EXTENSION != 0).then_some(offset + 1);
        let mut start = extension.unwrap_or(offset) + 1;
        let mut end = self.unit.len();
        if header & HAS_SIZE != 0 {
            let (size, used) = leb128(self.unit.get(start..)?)?;
            start += used;
            end = start.checked_add(size)?;
        }
        if start > end || end > self.unit.len() {
            return None;
        }
        self.at = end;
        Some(Obu { kind: header >> 3 & 0xf, whole: offset..end, extension, payload: start..end })
    }
}

/// What a temporal unit holds, looked at once.
pub(super) struct TemporalUnit {
    /// Where the units worth keeping lie.
    pub(super) kept: Vec<Range<usize>>,
    /// Payload of the last sequence header in it.
    pub(super) sequence_header: Option<Range<usize>>,
    pub(super) has_frame: bool,
    /// Starts with a shown keyframe. One that was decoded earlier and is shown now does not count: what it refers to
    /// is not in here.
    pub(super) keyframe: bool,
}

pub(super) fn inspect(unit: &[u8], known: Option<&SequenceHeader>) -> Result<TemporalUnit, FrameError> {
    let mut found = TemporalUnit { kept: Vec::new(), sequence_header: None, has_frame: false, keyframe: false };
    let mut reduced = known.is_some_and(|header| header.reduced_still_picture);
    for obu in obus(unit) {
        let obu = obu?;
        match obu.kind {
            TEMPORAL_DELIMITER | TILE_LIST | PADDING => continue,
            SEQUENCE_HEADER => {
                let header = SequenceHeader::parse(&unit[obu.payload.clone()]).map_err(FrameError::ParameterSet)?;
                reduced = header.reduced_still_picture;
                found.sequence_header = Some(obu.payload.clone());
            }
            FRAME_HEADER | FRAME if !found.has_frame => {
                found.has_frame = true;
                found.keyframe = reduced || unit.get(obu.payload.start).is_some_and(|byte| byte >> 4 == SHOWN_KEYFRAME);
            }
            _ => {}
        }
        found.kept.push(obu.whole);
    }
    Ok(found)
}

pub(super) const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;
const TILE_LIST: u8 = 8;
const PADDING: u8 = 15;

const HAS_EXTENSION: u8 = 0x04;
pub(super) const HAS_SIZE: u8 = 0x02;

/// show_existing_frame 0, frame_type 00, show_frame 1 (5.9.2).
const SHOWN_KEYFRAME: u8 = 0b0001;

/// 4.10.5: the value, and how many bytes it took.
fn leb128(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok().map(|value| (value as usize, index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an encoder wrote for 320x240, 8 bit.
    const HEADER: [u8; 11] = [0x00, 0x00, 0x00, 0x04, 0x3c, 0xff, 0xbc, 0x02, 0xf8, 0x00, 0x40];

    #[test]
    fn obus_walk_and_end_where_they_are_torn() {
        let unit = [0x12, 0x00, 0x0a, 0x02, 7, 7, 0x30, 0x10, 1];
        let found: Vec<_> = obus(&unit).map(Result::unwrap).collect();
        assert_eq!(found.iter().map(|obu| obu.kind).collect::<Vec<_>>(), [2, 1, 6]);
        assert_eq!(found[1].payload, 4..6);
        assert_eq!(found[2].payload, 7..9, "without a size it goes to the end");
        assert_eq!(obus(&[0x12, 0x00, 0x0a, 0x05, 1]).last(), Some(Err(FrameError::Obu { offset: 2 })));
        assert_eq!(obus(&[0x34]).last(), Some(Err(FrameError::Obu { offset: 0 })), "extension byte is missing");
    }

    #[test]
    fn a_sequence_header_becomes_a_record() {
        let header = SequenceHeader::parse(&HEADER).unwrap();
        assert_eq!((header.width, header.height, header.bit_depth), (320, 240, 8));
        let record = build_record(&HEADER).unwrap();
        assert_eq!(record[..6], [0x81, 0x00, 0x0c, 0x00, 0x0a, 0x0b], "as the encoder's own record");
        let config = Config::parse(&record).unwrap();
        assert_eq!(config.sequence_header, Some(header));
        assert_eq!((config.profile, config.level, config.bit_depth), (header.profile, header.level, header.bit_depth));
    }
}
