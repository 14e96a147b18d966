//! The send time that travels inside the video: an SEI NAL unit in front of every access unit (H.264 D.1.7,
//! user_data_unregistered). Servers pass SEI on untouched, so a viewer without a decoder can measure delay.
//!
//! The time is written as hexadecimal digits: there are no zero bytes in the whole NAL unit, so it needs no emulation
//! prevention in any framing.

use std::time::{SystemTime, UNIX_EPOCH};

const UUID: [u8; 16] = *b"headwater-bench.";
const DIGITS: usize = 16;
/// NAL header (type 6), payload type 5, payload size.
const HEADER: [u8; 3] = [0x06, 0x05, (UUID.len() + DIGITS) as u8];
const STOP_BIT: u8 = 0x80;

pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// An unwritten stamp, and where in it the time belongs.
pub(crate) fn nal() -> (Vec<u8>, usize) {
    let nal = [&HEADER[..], &UUID, &[b'0'; DIGITS], &[STOP_BIT]].concat();
    (nal, HEADER.len() + UUID.len())
}

pub(crate) fn write(digits: &mut [u8], time_us: u64) {
    digits[..DIGITS].copy_from_slice(format!("{time_us:016x}").as_bytes());
}

/// The time in a NAL unit, or in an aggregate that contains one.
pub(crate) fn read(nal: &[u8]) -> Option<u64> {
    let uuid = nal.windows(UUID.len()).position(|window| window == UUID)?;
    let digits = nal.get(uuid + UUID.len()..)?.get(..DIGITS)?;
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let (mut nal, at) = nal();
        write(&mut nal[at..], 1_795_230_000_123_456);
        assert_eq!(read(&nal), Some(1_795_230_000_123_456));
        assert!(!nal.contains(&0));
        assert_eq!(read(&nal[..nal.len() - 4]), None);
        assert_eq!(read(b"\x06\x05\x10someone else's SEI"), None);
    }
}
