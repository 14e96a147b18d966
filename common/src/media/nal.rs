//! NAL units as H.264 and H.265 share them: with a length in front, or between start codes. In: an access unit in
//! either form. Out: where its units lie, and access units in the other form. Deliberately absent: what a unit means
//! (`h264`, `h265`).

use std::ops::Range;

use bytes::{BufMut, Bytes};

use super::{FrameError, h264, h265};
use crate::media::{Codec, Info};

/// How wide a length is in the canonical payload.
pub const LENGTH_SIZE: usize = 4;

/// How the units of an access unit are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Each unit has its length in front, this many bytes wide (1 to 4).
    Lengths(usize),
    /// Start codes (H.264 and H.265 Annex B).
    AnnexB,
}

/// Walks over the units of a length-prefixed access unit: where each lies, without its length. Empty units are
/// skipped. After an error the walk is over.
pub fn units(payload: &[u8], length_size: usize) -> Units<'_> {
    Units { payload, length_size, at: 0 }
}

pub struct Units<'a> {
    payload: &'a [u8],
    length_size: usize,
    at: usize,
}

impl Iterator for Units<'_> {
    type Item = Result<Range<usize>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let offset = self.at;
            let left = &self.payload[offset..];
            // A few encoders pad with zero bytes that do not even make a length.
            if left.len() < self.length_size && left.iter().all(|&byte| byte == 0) {
                return None;
            }
            self.at = self.payload.len();
            let Some(length) = left.get(..self.length_size) else {
                return Some(Err(FrameError::NalLength { offset, length: 0, left: left.len() }));
            };
            let length = length.iter().fold(0usize, |value, &byte| value << 8 | usize::from(byte));
            let start = offset + self.length_size;
            if length > self.payload.len() - start {
                return Some(Err(FrameError::NalLength { offset, length, left: self.payload.len() - start }));
            }
            self.at = start + length;
            if length > 0 {
                return Some(Ok(start..self.at));
            }
        }
    }
}

/// Walks over the units between start codes. What precedes the first start code is skipped, as are empty units.
pub fn annex_b_units(stream: &[u8]) -> AnnexBUnits<'_> {
    AnnexBUnits { stream, at: start_code(stream, 0).map(|code| code + 3) }
}

pub struct AnnexBUnits<'a> {
    stream: &'a [u8],
    /// Where the next unit starts.
    at: Option<usize>,
}

impl Iterator for AnnexBUnits<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        loop {
            let start = self.at?;
            let next = start_code(self.stream, start);
            self.at = next.map(|code| code + 3);
            let mut end = next.unwrap_or(self.stream.len());
            // trailing_zero_8bits, and the first zero of a four-byte start code: no unit ends with a zero byte.
            while end > start && self.stream[end - 1] == 0 {
                end -= 1;
            }
            if end > start {
                return Some(start..end);
            }
        }
    }
}

/// The canonical access unit with start codes, as decoders and MPEG-TS want it. With `info` its parameter sets go in
/// front, which is what a keyframe needs.
pub fn to_annex_b(payload: &[u8], info: Option<&Info>) -> Result<Bytes, FrameError> {
    let sets = info.map(parameter_sets).unwrap_or_default();
    let mut stream = Vec::with_capacity(payload.len() + sets.iter().map(|set| set.len() + 4).sum::<usize>());
    for set in &sets {
        stream.extend_from_slice(&[0, 0, 0, 1]);
        stream.extend_from_slice(set);
    }
    for unit in units(payload, LENGTH_SIZE) {
        stream.extend_from_slice(&[0, 0, 0, 1]);
        stream.extend_from_slice(&payload[unit?]);
    }
    Ok(stream.into())
}

/// The parameter sets in a track's configuration record, in the order a decoder wants them. Empty for codecs that
/// have none.
pub fn parameter_sets(info: &Info) -> Vec<Bytes> {
    let record = match info.codec {
        Codec::H264 => h264::parse_record(&info.config),
        Codec::H265 => h265::parse_record(&info.config),
        _ => return Vec::new(),
    };
    record.map(|record| record.sets.into_iter().collect()).unwrap_or_default()
}

/// What avcC and hvcC have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub length_size: usize,
    pub sets: ParameterSets,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParameterSets {
    /// H.265 only.
    pub vps: Vec<Bytes>,
    pub sps: Vec<Bytes>,
    pub pps: Vec<Bytes>,
}

impl ParameterSets {
    pub fn is_empty(&self) -> bool {
        self.vps.is_empty() && self.sps.is_empty() && self.pps.is_empty()
    }

    /// Takes in the sets an access unit carried and tells whether that changed anything. A new sequence parameter set
    /// starts over: what it does not bring along stays only if it brought none of that kind. Any other new set
    /// replaces the one with its identifier, which `id` reads.
    pub(super) fn merge(&mut self, found: Self, id: impl Fn(&[u8]) -> Option<u32>) -> bool {
        let mut changed = false;
        if found.sps.iter().any(|set| !self.sps.contains(set)) {
            self.sps = found.sps;
            if !found.vps.is_empty() {
                self.vps = found.vps;
            }
            if !found.pps.is_empty() {
                self.pps = found.pps;
            }
            return true;
        }
        for (known, found) in [(&mut self.vps, found.vps), (&mut self.pps, found.pps)] {
            for set in found {
                if known.contains(&set) {
                    continue;
                }
                match known.iter_mut().find(|old| id(old) == id(&set)) {
                    Some(old) => *old = set,
                    None => known.push(set),
                }
                changed = true;
            }
        }
        changed
    }
}

impl IntoIterator for ParameterSets {
    type Item = Bytes;
    type IntoIter = std::iter::Chain<
        std::iter::Chain<std::vec::IntoIter<Bytes>, std::vec::IntoIter<Bytes>>,
        std::vec::IntoIter<Bytes>,
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.vps.into_iter().chain(self.sps).chain(self.pps)
    }
}

/// Makes the canonical payload of the units worth keeping. Nothing is copied when they already lie one behind the
/// other with 4-byte lengths.
pub(super) fn assemble(payload: &Bytes, kept: &[Range<usize>], framing: Framing) -> Bytes {
    let (Some(first), Some(last)) = (kept.first(), kept.last()) else {
        return Bytes::new();
    };
    let adjoining = kept.windows(2).all(|pair| pair[0].end + LENGTH_SIZE == pair[1].start);
    if framing == Framing::Lengths(LENGTH_SIZE) && adjoining {
        return payload.slice(first.start - LENGTH_SIZE..last.end);
    }
    let size = kept.iter().map(|unit| unit.len() + LENGTH_SIZE).sum();
    let mut canonical = Vec::with_capacity(size);
    for unit in kept {
        canonical.put_u32(unit.len() as u32);
        canonical.extend_from_slice(&payload[unit.clone()]);
    }
    canonical.into()
}

/// The next `00 00 01` at or behind `from`.
fn start_code(stream: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        match *stream.get(at..at + 3)? {
            [0, 0, 1] => return Some(at),
            // Only a zero or a one in third place can belong to a start code.
            [_, _, 2..=255] => at += 3,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_size_walks() {
        for size in 1..=4usize {
            let mut payload = Vec::new();
            for unit in [&b"ab"[..], b"", b"cde"] {
                payload.extend_from_slice(&(unit.len() as u32).to_be_bytes()[4 - size..]);
                payload.extend_from_slice(unit);
            }
            let found: Vec<_> = units(&payload, size).map(|unit| payload[unit.unwrap()].to_vec()).collect();
            assert_eq!(found, [b"ab".to_vec(), b"cde".to_vec()]);
        }
    }

    #[test]
    fn a_wrong_length_names_its_offset() {
        let payload = [0, 0, 0, 1, 9, 0, 0, 0, 5, 1];
        let last = units(&payload, 4).last().unwrap();
        assert_eq!(last, Err(FrameError::NalLength { offset: 5, length: 5, left: 1 }));
        assert_eq!(units(&[0, 0, 0, 1, 9, 0, 0], 4).count(), 1, "zero padding is no unit");
        assert!(units(&[0, 0, 0, 1, 9, 7], 4).last().unwrap().is_err());
    }

    #[test]
    fn start_codes_of_both_lengths_split() {
        let stream = [9, 0, 0, 1, 1, 2, 0, 0, 0, 1, 3, 0, 0, 1, 0, 0, 1, 4, 0, 0];
        let found: Vec<_> = annex_b_units(&stream).map(|unit| stream[unit].to_vec()).collect();
        assert_eq!(found, [vec![1, 2], vec![3], vec![4]]);
        assert_eq!(annex_b_units(&[1, 2, 3]).count(), 0);
    }

    #[test]
    fn adjoining_units_are_not_copied() {
        let payload = Bytes::from_static(&[0, 0, 0, 1, 9, 0, 0, 0, 1, 5, 0, 0, 0, 1, 6]);
        let units: Vec<_> = units(&payload, 4).map(Result::unwrap).collect();
        let kept = assemble(&payload, &units[1..], Framing::Lengths(4));
        assert_eq!(kept.as_ptr(), payload[5..].as_ptr());
        let kept = assemble(&payload, &[units[0].clone(), units[2].clone()], Framing::Lengths(4));
        assert_eq!(*kept, [0, 0, 0, 1, 9, 0, 0, 0, 1, 6]);
    }
}
