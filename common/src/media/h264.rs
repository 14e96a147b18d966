//! H.264 (ITU-T H.264, ISO/IEC 14496-15). In: avcC records and NAL units. Out: what a sequence parameter set says,
//! what a NAL unit is for, and avcC made of parameter sets. Deliberately absent: decoding, layered extensions (SVC,
//! MVC): their units pass through, the base layer is what counts.

use bytes::{Buf, BufMut, Bytes};

use super::bits::{BitReader, unescape};
use super::config::ConfigError;
use super::nal::{ParameterSets, Record};

/// What is read of a sequence parameter set (7.3.2.1.1, Annex E).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sps {
    pub id: u32,
    pub profile: u8,
    /// The byte of constraint flags between profile and level.
    pub compatibility: u8,
    pub level: u8,
    pub chroma_format: u8,
    pub bit_depth_luma: u8,
    pub bit_depth_chroma: u8,
    pub pic_order_cnt_type: u32,
    pub frame_mbs_only: bool,
    /// After cropping.
    pub width: u32,
    pub height: u32,
    /// `num_units_in_tick` and `time_scale`: a picture every 2 × the first ÷ the second of a second.
    pub timing: Option<(u32, u32)>,
    /// Of the bitstream restrictions in the VUI, where the encoder wrote them.
    pub max_num_reorder_frames: Option<u32>,
}

/// What the bitstream says about reordering before a single picture was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reordering {
    Yes,
    Never,
    /// The first B slice will tell.
    Unsaid,
}

impl Sps {
    pub fn reordering(&self) -> Reordering {
        match self.max_num_reorder_frames {
            Some(0) => Reordering::Never,
            Some(_) => Reordering::Yes,
            // Output order is decoding order (8.2.1.3), the baseline profile has no B slices (A.2.1), and intra
            // profiles say so with constraint_set3_flag (E.2.1).
            None if self.pic_order_cnt_type == 2 || self.profile == 66 => Reordering::Never,
            None if matches!(self.profile, 44 | 86 | 100 | 110 | 122 | 244) && self.compatibility & 0x10 != 0 => {
                Reordering::Never
            }
            None => Reordering::Unsaid,
        }
    }

    /// Reads a NAL unit of type 7, header included. A VUI that ends early only costs what it would have said.
    pub fn parse(nal: &[u8]) -> Result<Self, ConfigError> {
        let plain = unescape(nal);
        Self::read(&plain).ok_or(ConfigError::Malformed("H.264 sequence parameter set"))
    }

    fn read(plain: &[u8]) -> Option<Self> {
        let (&[header, profile, compatibility, level], rest) = plain.split_first_chunk::<4>()?;
        if header & 0x1f != SPS {
            return None;
        }
        let bits = &mut BitReader::new(rest);
        let id = bits.ue().filter(|&id| id < 32)?;
        let (mut chroma_format, mut bit_depth_luma, mut bit_depth_chroma, mut separate_planes) = (1, 8, 8, false);
        if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 134 | 135 | 138 | 139) {
            chroma_format = bits.ue().filter(|&format| format < 4)? as u8;
            if chroma_format == 3 {
                separate_planes = bits.flag()?;
            }
            bit_depth_luma = 8 + bits.ue().filter(|&depth| depth < 7)? as u8;
            bit_depth_chroma = 8 + bits.ue().filter(|&depth| depth < 7)? as u8;
            bits.flag()?; // qpprime_y_zero_transform_bypass_flag
            if bits.flag()? {
                for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                    if bits.flag()? {
                        skip_scaling_list(bits, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.ue()?; // log2_max_frame_num_minus4
        let pic_order_cnt_type = bits.ue()?;
        match pic_order_cnt_type {
            0 => {
                bits.ue()?;
            }
            1 => {
                bits.flag()?;
                bits.se()?;
                bits.se()?;
                for _ in 0..bits.ue().filter(|&count| count < 256)? {
                    bits.se()?;
                }
            }
            _ => {}
        }
        bits.ue()?; // max_num_ref_frames
        bits.flag()?; // gaps_in_frame_num_value_allowed_flag
        let width_mbs = u64::from(bits.ue()?) + 1;
        let height_units = u64::from(bits.ue()?) + 1;
        let frame_mbs_only = bits.flag()?;
        if !frame_mbs_only {
            bits.flag()?; // mb_adaptive_frame_field_flag
        }
        bits.flag()?; // direct_8x8_inference_flag
        let [left, right, top, bottom] = match bits.flag()? {
            true => [bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?].map(u64::from),
            false => [0; 4],
        };
        // 7-19 to 7-22: cropping counts chroma samples, and pairs of lines where fields exist.
        let fields = if frame_mbs_only { 1 } else { 2 };
        let (sub_width, sub_height) = match chroma_format {
            _ if separate_planes => (1, 1),
            1 => (2, 2),
            2 => (2, 1),
            _ => (1, 1),
        };
        let width = (width_mbs * 16).checked_sub((left + right) * sub_width)?;
        let height = (height_units * 16 * fields).checked_sub((top + bottom) * sub_height * fields)?;
        let side = 1..=u64::from(u16::MAX);
        if !side.contains(&width) || !side.contains(&height) {
            return None;
        }
        let vui = if bits.flag().unwrap_or(false) { Vui::read(bits) } else { Vui::default() };
        Some(Self {
            id,
            profile,
            compatibility,
            level,
            chroma_format,
            bit_depth_luma,
            bit_depth_chroma,
            pic_order_cnt_type,
            frame_mbs_only,
            width: width as u32,
            height: height as u32,
            timing: vui.timing,
            max_num_reorder_frames: vui.max_num_reorder_frames,
        })
    }
}

/// Reads an avcC record (ISO/IEC 14496-15 5.3.3.1). Its parameter sets may be missing: then they come in band.
pub fn parse_record(record: &Bytes) -> Result<Record, ConfigError> {
    read_record(record.clone()).ok_or(ConfigError::Malformed("avcC"))
}

/// An avcC record for the canonical payload: 4-byte lengths. The first sequence parameter set speaks for all.
pub fn build_record(sets: &ParameterSets) -> Result<Bytes, ConfigError> {
    let sps = sets.sps.first().ok_or(ConfigError::Malformed("avcC without sequence parameter set"))?;
    let facts = Sps::parse(sps)?;
    if sets.pps.is_empty() {
        return Err(ConfigError::Malformed("avcC without picture parameter set"));
    }
    let every = || sets.sps.iter().chain(&sets.pps);
    if sets.sps.len() > 31 || sets.pps.len() > 255 || every().any(|set| set.len() > usize::from(u16::MAX)) {
        return Err(ConfigError::Unsupported("more parameter sets than avcC can hold"));
    }
    let mut record = Vec::with_capacity(16 + every().map(|set| set.len() + 2).sum::<usize>());
    record.extend_from_slice(&[1, facts.profile, facts.compatibility, facts.level, 0xff]);
    for (list, count) in [(&sets.sps, 0xe0 | sets.sps.len() as u8), (&sets.pps, sets.pps.len() as u8)] {
        record.put_u8(count);
        for set in list {
            record.put_u16(set.len() as u16);
            record.extend_from_slice(set);
        }
    }
    if !matches!(facts.profile, 66 | 77 | 88) {
        record.extend_from_slice(&[
            0xfc | facts.chroma_format,
            0xf8 | (facts.bit_depth_luma - 8),
            0xf8 | (facts.bit_depth_chroma - 8),
            0,
        ]);
    }
    Ok(record.into())
}

/// What a NAL unit means to the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Sps,
    Pps,
    Slice {
        idr: bool,
    },
    /// Kept, says nothing by itself: further slice partitions, SEI (captions), layered extensions.
    Other,
    /// Supplemental information that marks a point where decoding can start (D.2.8).
    RecoveryPoint,
    /// Of no use in a canonical payload: delimiters, ends of sequence, filler, SPS extensions.
    Dropped,
}

pub(super) fn unit(nal: &[u8]) -> Unit {
    match nal.first().map_or(DELIMITER, |header| header & 0x1f) {
        SPS => Unit::Sps,
        8 => Unit::Pps,
        1 | 2 => Unit::Slice { idr: false },
        5 => Unit::Slice { idr: true },
        6 if starts_here(nal) => Unit::RecoveryPoint,
        DELIMITER | 10 | 11 | 12 | 13 => Unit::Dropped,
        _ => Unit::Other,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SliceKind {
    P,
    B,
    I,
}

/// The kind of a slice (7.3.3), from as little of its header as that takes.
pub fn slice_kind(nal: &[u8]) -> Option<SliceKind> {
    // Two Exp-Golomb codes of 32 bits at most, and what escaping adds.
    let head = nal.get(1..)?;
    let plain = unescape(&head[..head.len().min(16)]);
    let bits = &mut BitReader::new(&plain);
    bits.ue()?; // first_mb_in_slice
    match bits.ue()? {
        0 | 3 | 5 | 8 => Some(SliceKind::P),
        1 | 6 => Some(SliceKind::B),
        2 | 4 | 7 | 9 => Some(SliceKind::I),
        _ => None,
    }
}

/// Which parameter set a NAL unit of type 7 or 8 is.
pub(super) fn parameter_set_id(nal: &[u8]) -> Option<u32> {
    let head = nal.get(if nal.first()? & 0x1f == SPS { 4 } else { 1 }..)?;
    BitReader::new(&unescape(&head[..head.len().min(8)])).ue()
}

const SPS: u8 = 7;
const DELIMITER: u8 = 9;

#[derive(Default)]
struct Vui {
    timing: Option<(u32, u32)>,
    max_num_reorder_frames: Option<u32>,
}

impl Vui {
    fn read(bits: &mut BitReader<'_>) -> Self {
        let mut vui = Self::default();
        vui.fill(bits);
        vui
    }

    /// E.1.1. `None` when the bits run out: what was filled by then stands.
    fn fill(&mut self, bits: &mut BitReader<'_>) -> Option<()> {
        const EXTENDED_SAR: u32 = 255;
        if bits.flag()? && bits.bits(8)? == EXTENDED_SAR {
            bits.skip(32)?;
        }
        if bits.flag()? {
            bits.flag()?; // overscan_appropriate_flag
        }
        if bits.flag()? {
            bits.skip(4)?; // video_format, video_full_range_flag
            if bits.flag()? {
                bits.skip(24)?; // colour description
            }
        }
        if bits.flag()? {
            bits.ue()?; // chroma_sample_loc_type, both fields
            bits.ue()?;
        }
        if bits.flag()? {
            let (tick, scale) = (bits.bits(32)?, bits.bits(32)?);
            self.timing = (tick > 0 && scale > 0).then_some((tick, scale));
            bits.flag()?; // fixed_frame_rate_flag
        }
        let nal_hrd = bits.flag()?;
        if nal_hrd {
            skip_hrd(bits)?;
        }
        let vcl_hrd = bits.flag()?;
        if vcl_hrd {
            skip_hrd(bits)?;
        }
        if nal_hrd || vcl_hrd {
            bits.flag()?; // low_delay_hrd_flag
        }
        bits.flag()?; // pic_struct_present_flag
        if bits.flag()? {
            bits.flag()?; // motion_vectors_over_pic_boundaries_flag
            for _ in 0..4 {
                bits.ue()?;
            }
            self.max_num_reorder_frames = Some(bits.ue()?);
        }
        Some(())
    }
}

fn read_record(mut record: Bytes) -> Option<Record> {
    let version = record.try_get_u8().ok()?;
    if version != 1 || record.len() < 4 {
        return None;
    }
    record.advance(3); // profile, compatibility, level: the sequence parameter set says the same
    let length_size = usize::from(record.get_u8() & 3) + 1;
    let sps = read_sets(&mut record, 0x1f)?;
    // Some cameras end the record here.
    let pps = if record.is_empty() { Vec::new() } else { read_sets(&mut record, 0xff)? };
    Some(Record { length_size, sets: ParameterSets { vps: Vec::new(), sps, pps } })
}

fn read_sets(record: &mut Bytes, count_mask: u8) -> Option<Vec<Bytes>> {
    let count = record.try_get_u8().ok()? & count_mask;
    let mut sets = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let size = usize::from(record.try_get_u16().ok()?);
        if size > record.len() {
            return None;
        }
        let set = record.split_to(size);
        if !set.is_empty() {
            sets.push(set);
        }
    }
    Some(sets)
}

/// 7.3.2.1.1.1: only to get past it.
fn skip_scaling_list(bits: &mut BitReader<'_>, size: usize) -> Option<()> {
    let (mut last, mut next) = (8i32, 8i32);
    for _ in 0..size {
        if next != 0 {
            next = (last.wrapping_add(bits.se()?)) & 0xff;
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

/// E.1.2: only to get past it.
fn skip_hrd(bits: &mut BitReader<'_>) -> Option<()> {
    let count = bits.ue().filter(|&count| count < 32)? + 1;
    bits.skip(8)?; // bit_rate_scale, cpb_size_scale
    for _ in 0..count {
        bits.ue()?;
        bits.ue()?;
        bits.flag()?;
    }
    bits.skip(20)
}

/// Whether a SEI unit holds a recovery point without delay (D.1.8): the picture it precedes can be decoded by itself.
fn starts_here(nal: &[u8]) -> bool {
    const RECOVERY_POINT: usize = 6;
    let plain = unescape(&nal[1..]);
    let mut rest = &plain[..];
    let number = |rest: &mut &[u8]| -> Option<usize> {
        let mut value = 0;
        loop {
            let (&byte, tail) = rest.split_first()?;
            *rest = tail;
            value += usize::from(byte);
            if byte != 0xff {
                return Some(value);
            }
        }
    };
    while rest.len() > 2 {
        let (Some(kind), Some(size)) = (number(&mut rest), number(&mut rest)) else { return false };
        let Some(message) = rest.get(..size) else { return false };
        if kind == RECOVERY_POINT {
            return BitReader::new(message).ue() == Some(0);
        }
        rest = &rest[size..];
    }
    false
}
