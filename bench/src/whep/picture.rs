//! Just enough of H.264 over RTP (RFC 6184) to see when the first keyframe is complete and to read stamps.

use std::collections::BTreeMap;

use crate::stamp;

const IDR: u8 = 5;
const SEI: u8 = 6;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

/// The send time, if this packet carries one.
pub(super) fn stamp_of(payload: &[u8]) -> Option<u64> {
    let kind = payload.first()? & 31;
    (kind == SEI || kind == STAP_A).then(|| stamp::read(payload)).flatten()
}

fn has_idr(payload: &[u8]) -> bool {
    let kind = |byte: Option<&u8>| byte.map(|byte| byte & 31);
    match kind(payload.first()) {
        Some(FU_A) => kind(payload.get(1)) == Some(IDR),
        Some(STAP_A) => {
            let mut rest = payload.get(1..).unwrap_or_default();
            while let Some((length, behind)) = rest.split_first_chunk::<2>() {
                if kind(behind.first()) == Some(IDR) {
                    return true;
                }
                rest = behind.get(usize::from(u16::from_be_bytes(*length))..).unwrap_or_default();
            }
            false
        }
        direct => direct == Some(IDR),
    }
}

/// Waits for the first keyframe of which nothing is missing.
#[derive(Debug, Default)]
pub(super) struct FirstKeyframe {
    /// By RTP time; emptied as it fills, a viewer that gets no keyframe must not remember everything.
    pictures: BTreeMap<u64, Picture>,
}

#[derive(Debug)]
struct Picture {
    lowest: u64,
    last: Option<u64>,
    packets: u64,
    idr: bool,
}

const PICTURES_MAX: usize = 16;

impl FirstKeyframe {
    /// True as soon as a keyframe is complete.
    pub(super) fn push(&mut self, sequence: u64, time: u64, marker: bool, payload: &[u8]) -> bool {
        let fresh = Picture { lowest: sequence, last: None, packets: 0, idr: false };
        let picture = self.pictures.entry(time).or_insert(fresh);
        picture.lowest = picture.lowest.min(sequence);
        picture.packets += 1;
        picture.idr |= has_idr(payload);
        if marker {
            picture.last = Some(sequence);
        }
        let complete = picture.idr && picture.last.is_some_and(|last| last + 1 - picture.lowest == picture.packets);
        if self.pictures.len() > PICTURES_MAX {
            self.pictures.pop_first();
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FU_A_IDR: &[u8] = &[0x7c, 0x85, 1, 2, 3];
    const FU_A_IDR_END: &[u8] = &[0x7c, 0x45, 4];
    const FU_A_DELTA: &[u8] = &[0x7c, 0x81, 1];
    const STAP_A_WITH_IDR: &[u8] = &[0x78, 0, 2, 0x67, 1, 0, 2, 0x65, 9];

    #[test]
    fn a_keyframe_counts_when_nothing_is_missing() {
        let mut first = FirstKeyframe::default();
        assert!(!first.push(7, 0, true, FU_A_DELTA));
        assert!(!first.push(8, 3000, false, FU_A_IDR));
        assert!(!first.push(10, 3000, true, FU_A_IDR_END), "9 is missing");
        assert!(first.push(9, 3000, false, FU_A_IDR), "9 came late");
    }

    #[test]
    fn an_aggregate_may_hold_the_keyframe() {
        assert!(FirstKeyframe::default().push(1, 0, true, STAP_A_WITH_IDR));
        assert!(!has_idr(&[0x78, 0, 9]), "cut short");
    }

    #[test]
    fn stamps_are_read_alone_and_in_aggregates() {
        let (mut nal, at) = stamp::nal();
        stamp::write(&mut nal[at..], 42);
        assert_eq!(stamp_of(&nal), Some(42));
        let aggregate = [&[0x78, 0, nal.len() as u8][..], &nal].concat();
        assert_eq!(stamp_of(&aggregate), Some(42));
        assert_eq!(stamp_of(FU_A_IDR), None);
    }
}
