//! VP9 (bitstream specification 0.7, "VP Codec ISO Media File Format Binding"). In: vpcC records and frames. Out:
//! whether a frame is a keyframe, its size and colour format, and vpcC made of them. Deliberately absent: inter frames'
//! contents, spatial layers (a superframe is judged by its first frame).

use bytes::{Buf, Bytes};

use super::bits::BitReader;
use super::config::ConfigError;

/// What a keyframe's uncompressed header says (6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyframe {
    pub profile: u8,
    pub bit_depth: u8,
    /// As vpcC counts: 1 is 4:2:0 with chroma beside luma, 2 is 4:2:2, 3 is 4:4:4.
    pub chroma_subsampling: u8,
    pub full_range: bool,
    /// The bitstream's own numbering.
    pub color_space: u8,
    pub width: u32,
    pub height: u32,
}

/// `None` for anything that is no keyframe.
pub fn keyframe(frame: &[u8]) -> Option<Keyframe> {
    let bits = &mut BitReader::new(frame);
    if bits.bits(2)? != 2 {
        return None;
    }
    let profile = bits.byte(1)? | bits.byte(1)? << 1;
    if profile == 3 && bits.flag()? {
        return None;
    }
    let show_existing = bits.flag()?;
    let inter = bits.flag()?;
    bits.skip(2)?; // show_frame, error_resilient_mode
    if show_existing || inter || bits.bits(24)? != 0x49_8342 {
        return None;
    }
    const RGB: u8 = 7;
    let bit_depth = match profile >= 2 {
        true => 10 + 2 * bits.byte(1)?,
        false => 8,
    };
    let color_space = bits.byte(3)?;
    let (full_range, chroma_subsampling) = if color_space == RGB {
        if profile & 1 == 1 {
            bits.flag()?;
        }
        (true, 3)
    } else {
        let full_range = bits.flag()?;
        let subsampling = match profile & 1 == 1 {
            true => {
                let (x, y) = (bits.flag()?, bits.flag()?);
                bits.flag()?;
                match (x, y) {
                    (true, true) => 1,
                    (true, false) => 2,
                    _ => 3,
                }
            }
            false => 1,
        };
        (full_range, subsampling)
    };
    let (width, height) = (bits.bits(16)? + 1, bits.bits(16)? + 1);
    Some(Keyframe { profile, bit_depth, chroma_subsampling, full_range, color_space, width, height })
}

/// What a VPCodecConfigurationRecord says, as far as names need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub profile: u8,
    /// 0 where the writer did not know.
    pub level: u8,
    pub bit_depth: u8,
    pub chroma_subsampling: u8,
}

impl Config {
    pub fn parse(record: &[u8]) -> Result<Self, ConfigError> {
        let (&[profile, level, depth, ..], _) =
            record.split_first_chunk::<8>().ok_or(ConfigError::Malformed("vpcC"))?;
        // Anything else is not a record, or one whose version and flags were not taken off.
        if !matches!(depth >> 4, 8 | 10 | 12) {
            return Err(ConfigError::Malformed("vpcC"));
        }
        Ok(Self { profile, level, bit_depth: depth >> 4, chroma_subsampling: depth >> 1 & 7 })
    }
}

/// The record without the version and flags of the box around it, which some writers of FLV keep.
pub(super) fn bare_record(mut record: Bytes) -> Result<Bytes, ConfigError> {
    // A bare record cannot start like this: its third byte holds the bit depth.
    if record.starts_with(&[1, 0, 0, 0]) {
        record.advance(4);
    }
    Config::parse(&record)?;
    // What may follow, codecInitializationData, is empty for VP8 and VP9.
    record.truncate(8);
    Ok(record)
}

/// A vpcC record for what a keyframe shows.
pub fn build_record(keyframe: &Keyframe) -> Bytes {
    // Bitstream colour space to primaries, transfer and matrix of ISO/IEC 23091-2.
    let [primaries, transfer, matrix] = match keyframe.color_space {
        1 => [5, 6, 5],
        2 => [1, 1, 1],
        3 => [6, 6, 6],
        4 => [7, 7, 7],
        5 => [9, 14, 9],
        7 => [1, 13, 0],
        _ => [2, 2, 2],
    };
    let depth = keyframe.bit_depth << 4 | keyframe.chroma_subsampling << 1 | u8::from(keyframe.full_range);
    let level = level(keyframe.width, keyframe.height);
    Bytes::copy_from_slice(&[keyframe.profile, level, depth, primaries, transfer, matrix, 0, 0])
}

/// The lowest level whose pictures are large enough, at the higher of its two frame rates: the bitstream does not say
/// how many pictures a second there are.
fn level(width: u32, height: u32) -> u8 {
    const LUMA_SAMPLES: [(u64, u8); 9] = [
        (36_864, 10),
        (73_728, 11),
        (122_880, 20),
        (245_760, 21),
        (552_960, 30),
        (983_040, 31),
        (2_228_224, 41),
        (8_912_896, 51),
        (35_651_584, 61),
    ];
    let samples = u64::from(width) * u64::from(height);
    LUMA_SAMPLES.iter().find(|(most, _)| samples <= *most).map_or(62, |&(_, level)| level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyframe_becomes_a_record() {
        // Profile 0, keyframe, shown, BT.601, 4:2:0, 640x360.
        let frame = [0x82, 0x49, 0x83, 0x42, 0x20, 0x27, 0xf0, 0x16, 0x70, 0];
        let shown = keyframe(&frame).unwrap();
        assert_eq!((shown.width, shown.height, shown.bit_depth, shown.chroma_subsampling), (640, 360, 8, 1));
        let record = build_record(&shown);
        assert_eq!(*record, [0, 21, 0x82, 5, 6, 5, 0, 0]);
        assert_eq!(Config::parse(&record).unwrap().level, 21);
        assert_eq!(keyframe(&[0x86, 0x49, 0x83, 0x42, 0x20, 0x27, 0xf0, 0x16, 0x70]), None, "an inter frame");
        let boxed: Vec<u8> = [&[1, 0, 0, 0], &record[..]].concat();
        assert_eq!(bare_record(boxed.into()).unwrap(), record);
    }
}
