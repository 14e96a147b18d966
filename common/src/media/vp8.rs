//! VP8 (RFC 6386). In: frames. Out: whether one is a keyframe, and its size. Deliberately absent: everything behind the
//! first ten bytes.

use super::bits::BitReader;

/// Width and height, if the frame is a keyframe (9.1).
pub fn keyframe(frame: &[u8]) -> Option<(u32, u32)> {
    let head = frame.get(..10)?;
    if head[0] & 1 != 0 || head[3..6] != [0x9d, 0x01, 0x2a] {
        return None;
    }
    let side = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
    let (width, height) = (side(head[6], head[7]), side(head[8], head[9]));
    (width > 0 && height > 0).then_some((width, height))
}

/// The version field, which vpcC calls profile.
pub(super) fn profile(frame: &[u8]) -> u8 {
    BitReader::new(frame).byte(8).map_or(0, |tag| tag >> 1 & 7)
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_keyframes_have_a_size() {
        let frame = [0x10, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0xe0, 0x41, 0xff];
        assert_eq!(super::keyframe(&frame), Some((640, 480)), "the scaling bits are not part of it");
        assert_eq!(super::keyframe(&[0x11, 0x02, 0x00, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0xe0, 0x01]), None);
        assert_eq!(super::keyframe(&frame[..9]), None);
    }
}
