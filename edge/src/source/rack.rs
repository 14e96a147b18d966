//! Room for the payloads of one track. In: payloads that are slices of whatever came together with them. Out: copies, several
//! side by side. What comes of other broadcasts must not stay in memory for as long as a frame does, so it is copied; and what
//! is beside it is of the same track and leaves at about the same time, so that the allocator is asked once for many. Deliberately
//! absent: when anything leaves.

use bytes::{Bytes, BytesMut};

/// So many payloads of one size have room side by side, if they are not large ones.
const SIDE_BY_SIDE: usize = 16;
/// Whoever keeps one payload keeps no more than this of its neighbours.
const BYTES_MAX: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Rack(BytesMut);

impl Rack {
    pub(super) fn keep(&mut self, payload: &[u8]) -> Bytes {
        if payload.len() >= BYTES_MAX / 2 {
            return Bytes::copy_from_slice(payload);
        }
        if self.0.capacity() < payload.len() {
            self.0 = BytesMut::with_capacity((payload.len() * SIDE_BY_SIDE).min(BYTES_MAX));
        }
        self.0.extend_from_slice(payload);
        self.0.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_lie_side_by_side_and_large_ones_by_themselves() {
        let mut rack = Rack::default();
        let kept: Vec<Bytes> = (0..40).map(|number| rack.keep(&[number; 300])).collect();
        assert!((0..).zip(&kept).all(|(number, kept)| kept[..] == [number; 300]));
        let beside = kept.windows(2).filter(|two| two[0].as_ptr().wrapping_add(300) == two[1].as_ptr()).count();
        assert!((36..40).contains(&beside), "{beside}");

        let large = rack.keep(&[7; 100_000]);
        assert_eq!(large, [7; 100_000][..]);
        // A smaller one still finds room in what is left.
        let small = rack.keep(&[8; 100]);
        assert_eq!(kept[39].as_ptr().wrapping_add(300), small.as_ptr());
        assert!(rack.keep(&[9; 30_000]).len() == 30_000 && rack.0.capacity() < BYTES_MAX);
    }
}
