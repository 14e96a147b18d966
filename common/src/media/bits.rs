//! Reads single bits. In: bytes of a configuration record or of a NAL unit. Out: numbers, or `None` where the bits
//! ran out: every caller says with `?` what that means to it. Deliberately absent: any opinion about a codec.

use std::borrow::Cow;

pub(crate) struct BitReader<'a> {
    data: &'a [u8],
    /// In bits.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0 }
    }

    pub(crate) fn left(&self) -> usize {
        self.data.len() * 8 - self.at
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        let byte = self.data.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// At most 32 bits.
    pub(crate) fn bits(&mut self, count: u32) -> Option<u32> {
        debug_assert!(count <= 32);
        let mut value = 0u64;
        for _ in 0..count {
            value = value << 1 | u64::from(self.flag()?);
        }
        Some(value as u32)
    }

    /// At most 8 bits.
    pub(crate) fn byte(&mut self, count: u32) -> Option<u8> {
        self.bits(count.min(8)).map(|value| value as u8)
    }

    pub(crate) fn skip(&mut self, count: usize) -> Option<()> {
        if count > self.left() {
            return None;
        }
        self.at += count;
        Some(())
    }

    /// ue(v), H.264 9.1. Values of 32 bits and more do not exist in any syntax element.
    pub(crate) fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1u32 << zeros) - 1 + self.bits(zeros)?)
    }

    /// se(v), H.264 9.1.1.
    pub(crate) fn se(&mut self) -> Option<i32> {
        let code = i64::from(self.ue()?);
        let magnitude = (code + 1) / 2;
        Some(if code % 2 == 1 { magnitude } else { -magnitude } as i32)
    }
}

/// Takes the emulation prevention bytes out of a NAL unit (H.264 7.4.1, H.265 7.4.2): `00 00 03` becomes `00 00`.
pub(crate) fn unescape(nal: &[u8]) -> Cow<'_, [u8]> {
    if !nal.windows(3).any(|three| three == [0, 0, 3]) {
        return Cow::Borrowed(nal);
    }
    let mut plain = Vec::with_capacity(nal.len());
    let mut zeros = 0;
    for &byte in nal {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        plain.push(byte);
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_codes_read_back() {
        // 1 | 010 | 011 | 00100 | 00101 and padding: 0 1 2 3 4
        let mut bits = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        assert_eq!((0..5).map(|_| bits.ue().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let mut bits = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        assert_eq!((0..5).map(|_| bits.se().unwrap()).collect::<Vec<_>>(), [0, 1, -1, 2, -2]);
    }

    #[test]
    fn reading_past_the_end_is_none_and_stays_there() {
        let mut bits = BitReader::new(&[0xff]);
        assert_eq!(bits.bits(8), Some(0xff));
        assert_eq!((bits.flag(), bits.bits(3), bits.ue(), bits.skip(1), bits.left()), (None, None, None, None, 0));
        assert_eq!(BitReader::new(&[0; 16]).ue(), None, "more zeros than any code has");
        assert_eq!(BitReader::new(&[0, 0, 0, 1, 0, 0, 0, 0]).ue(), Some(u32::MAX / 2), "the longest code there is");
    }

    #[test]
    fn emulation_prevention_goes_away() {
        assert_eq!(*unescape(&[1, 0, 0, 3, 1, 0, 0, 3, 0, 0, 3]), [1, 0, 0, 1, 0, 0, 0, 0]);
        assert!(matches!(unescape(&[1, 0, 3, 0]), Cow::Borrowed(_)));
    }
}
