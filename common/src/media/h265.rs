//! H.265 (ITU-T H.265, ISO/IEC 14496-15). In: hvcC records and NAL units. Out: what a sequence parameter set says,
//! what a NAL unit is for, and hvcC made of parameter sets. Deliberately absent: decoding, and every layer but the
//! base layer (its units are dropped). B slices say nothing about reordering here, since P pictures are usually coded
//! with them: only the sequence parameter set is asked.

use bytes::{Buf, BufMut, Bytes};

use super::bits::{BitReader, unescape};
use super::config::ConfigError;
use super::nal::{ParameterSets, Record};

/// What is read of a sequence parameter set (7.3.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sps {
    pub profile: ProfileTierLevel,
    pub max_sub_layers: u8,
    pub temporal_id_nesting: bool,
    pub chroma_format: u8,
    pub bit_depth_luma: u8,
    pub bit_depth_chroma: u8,
    /// Inside the conformance window.
    pub width: u32,
    pub height: u32,
    /// Of the highest sub-layer.
    pub max_num_reorder_pics: u32,
}

/// general_profile_space to general_level_idc (7.3.3), bit for bit as hvcC repeats them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileTierLevel {
    pub space: u8,
    pub high_tier: bool,
    pub profile: u8,
    pub compatibility: u32,
    pub constraints: [u8; 6],
    pub level: u8,
}

impl Sps {
    /// Reads a NAL unit of type 33, header included.
    pub fn parse(nal: &[u8]) -> Result<Self, ConfigError> {
        let plain = unescape(nal);
        Self::read(&plain).ok_or(ConfigError::Malformed("H.265 sequence parameter set"))
    }

    fn read(plain: &[u8]) -> Option<Self> {
        if kind(plain) != SPS {
            return None;
        }
        let bits = &mut BitReader::new(plain.get(2..)?);
        bits.skip(4)?; // sps_video_parameter_set_id
        let max_sub_layers = bits.byte(3).filter(|&count| count < 7)? + 1;
        let temporal_id_nesting = bits.flag()?;
        let profile = ProfileTierLevel::read(bits)?;
        skip_sub_layers(bits, max_sub_layers - 1)?;
        bits.ue()?; // sps_seq_parameter_set_id
        let chroma_format = bits.ue().filter(|&format| format < 4)? as u8;
        let separate_planes = chroma_format == 3 && bits.flag()?;
        let (full_width, full_height) = (u64::from(bits.ue()?), u64::from(bits.ue()?));
        let [left, right, top, bottom] = match bits.flag()? {
            true => [bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?].map(u64::from),
            false => [0; 4],
        };
        let (sub_width, sub_height) = match chroma_format {
            _ if separate_planes => (1, 1),
            1 => (2, 2),
            2 => (2, 1),
            _ => (1, 1),
        };
        let width = full_width.checked_sub((left + right) * sub_width)?;
        let height = full_height.checked_sub((top + bottom) * sub_height)?;
        let side = 1..=u64::from(u16::MAX);
        if !side.contains(&width) || !side.contains(&height) {
            return None;
        }
        let bit_depth_luma = 8 + bits.ue().filter(|&depth| depth < 8)? as u8;
        let bit_depth_chroma = 8 + bits.ue().filter(|&depth| depth < 8)? as u8;
        bits.ue()?; // log2_max_pic_order_cnt_lsb_minus4
        let every_sub_layer = bits.flag()?;
        let mut max_num_reorder_pics = 0;
        for _ in 0..if every_sub_layer { max_sub_layers } else { 1 } {
            bits.ue()?; // sps_max_dec_pic_buffering_minus1
            max_num_reorder_pics = bits.ue()?;
            bits.ue()?; // sps_max_latency_increase_plus1
        }
        Some(Self {
            profile,
            max_sub_layers,
            temporal_id_nesting,
            chroma_format,
            bit_depth_luma,
            bit_depth_chroma,
            width: width as u32,
            height: height as u32,
            max_num_reorder_pics,
        })
    }
}

impl ProfileTierLevel {
    fn read(bits: &mut BitReader<'_>) -> Option<Self> {
        let space = bits.byte(2)?;
        let high_tier = bits.flag()?;
        let profile = bits.byte(5)?;
        let compatibility = bits.bits(32)?;
        let mut constraints = [0; 6];
        for byte in &mut constraints {
            *byte = bits.byte(8)?;
        }
        Some(Self { space, high_tier, profile, compatibility, constraints, level: bits.byte(8)? })
    }

    /// ISO/IEC 14496-15 E.3: `hvc1.1.6.L93.B0`.
    pub(super) fn rfc6381(&self) -> String {
        use std::fmt::Write;
        let space = ["", "A", "B", "C"][usize::from(self.space & 3)];
        let tier = if self.high_tier { 'H' } else { 'L' };
        let compatibility = self.compatibility.reverse_bits();
        let mut name = format!("hvc1.{space}{}.{compatibility:X}.{tier}{}", self.profile, self.level);
        let used = self.constraints.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        for byte in &self.constraints[..used] {
            let _ = write!(name, ".{byte:X}");
        }
        name
    }

    /// From the front of an hvcC record.
    pub(super) fn of_record(record: &[u8]) -> Option<Self> {
        Self::read(&mut BitReader::new(record.get(1..)?))
    }
}

/// Reads an hvcC record (ISO/IEC 14496-15 8.3.3.1). Its parameter sets may be missing: then they come in band.
pub fn parse_record(record: &Bytes) -> Result<Record, ConfigError> {
    read_record(record.clone()).ok_or(ConfigError::Malformed("hvcC"))
}

/// An hvcC record for the canonical payload: 4-byte lengths, parameter sets complete. The first sequence parameter set
/// speaks for all.
pub fn build_record(sets: &ParameterSets) -> Result<Bytes, ConfigError> {
    let sps = sets.sps.first().ok_or(ConfigError::Malformed("hvcC without sequence parameter set"))?;
    let facts = Sps::parse(sps)?;
    if sets.pps.is_empty() || sets.vps.is_empty() {
        return Err(ConfigError::Malformed("hvcC without video or picture parameter set"));
    }
    let lists = [(VPS, &sets.vps), (SPS, &sets.sps), (PPS, &sets.pps)];
    let every = || lists.iter().flat_map(|(_, list)| list.iter());
    let fits = |list: &&Vec<Bytes>| list.len() <= 255 && list.iter().all(|set| set.len() <= usize::from(u16::MAX));
    if !lists.iter().all(|(_, list)| fits(list)) {
        return Err(ConfigError::Unsupported("more parameter sets than hvcC can hold"));
    }
    let mut record = Vec::with_capacity(32 + every().map(|set| set.len() + 2).sum::<usize>());
    let ptl = &facts.profile;
    record.extend_from_slice(&[1, ptl.space << 6 | u8::from(ptl.high_tier) << 5 | ptl.profile]);
    record.put_u32(ptl.compatibility);
    record.extend_from_slice(&ptl.constraints);
    record.put_u8(ptl.level);
    record.put_u16(0xf000); // min_spatial_segmentation_idc: unknown
    record.put_u8(0xfc); // parallelismType: unknown
    record.put_u8(0xfc | facts.chroma_format);
    record.put_u8(0xf8 | (facts.bit_depth_luma - 8));
    record.put_u8(0xf8 | (facts.bit_depth_chroma - 8));
    record.put_u16(0); // avgFrameRate: unknown
    record.put_u8(facts.max_sub_layers << 3 | u8::from(facts.temporal_id_nesting) << 2 | 3);
    record.put_u8(lists.len() as u8);
    for (kind, list) in lists {
        record.put_u8(0x80 | kind); // array_completeness: none of them in band
        record.put_u16(list.len() as u16);
        for set in list {
            record.put_u16(set.len() as u16);
            record.extend_from_slice(set);
        }
    }
    Ok(record.into())
}

/// What a NAL unit means to the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Vps,
    Sps,
    Pps,
    /// `irap`: decoding can start here (IDR, BLA and CRA pictures).
    Slice {
        irap: bool,
    },
    /// Kept, says nothing by itself: SEI.
    Other,
    /// Of no use in a canonical payload: delimiters, ends of sequence, filler, other layers.
    Dropped,
}

pub(super) fn unit(nal: &[u8]) -> Unit {
    let &[high, low, ..] = nal else { return Unit::Dropped };
    let layer = (high & 1) << 5 | low >> 3;
    match kind(nal) {
        _ if layer > 0 => Unit::Dropped,
        VPS => Unit::Vps,
        SPS => Unit::Sps,
        PPS => Unit::Pps,
        picture @ 0..32 => Unit::Slice { irap: (16..24).contains(&picture) },
        35..=38 => Unit::Dropped,
        _ => Unit::Other,
    }
}

/// Which parameter set a NAL unit of type 32 or 34 is.
pub(super) fn parameter_set_id(nal: &[u8]) -> Option<u32> {
    let bits = &mut BitReader::new(nal.get(2..)?);
    if kind(nal) == VPS { bits.bits(4) } else { bits.ue() }
}

const VPS: u8 = 32;
const SPS: u8 = 33;
const PPS: u8 = 34;

fn kind(nal: &[u8]) -> u8 {
    nal.first().map_or(u8::MAX, |header| header >> 1 & 0x3f)
}

/// The sub-layers' profiles and levels (7.3.3): only to get past them.
fn skip_sub_layers(bits: &mut BitReader<'_>, count: u8) -> Option<()> {
    let mut size = 0;
    for _ in 0..count {
        size += if bits.flag()? { 88 } else { 0 };
        size += if bits.flag()? { 8 } else { 0 };
    }
    if count > 0 {
        bits.skip(usize::from(8 - count) * 2)?;
    }
    bits.skip(size)
}

fn read_record(mut record: Bytes) -> Option<Record> {
    // Version 0 is what early encoders wrote.
    if record.len() < 23 || record[0] > 1 {
        return None;
    }
    let length_size = usize::from(record[21] & 3) + 1;
    let arrays = record[22];
    record.advance(23);
    let mut sets = ParameterSets::default();
    for _ in 0..arrays {
        let kind = record.try_get_u8().ok()? & 0x3f;
        for _ in 0..record.try_get_u16().ok()? {
            let size = usize::from(record.try_get_u16().ok()?);
            if size > record.len() {
                return None;
            }
            let set = record.split_to(size);
            match unit(&set) {
                Unit::Vps if kind == VPS => sets.vps.push(set),
                Unit::Sps if kind == SPS => sets.sps.push(set),
                Unit::Pps if kind == PPS => sets.pps.push(set),
                _ => {}
            }
        }
    }
    Some(Record { length_size, sets })
}
