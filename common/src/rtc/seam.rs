//! Where one publisher's frames end and the next one's begin, on a viewer's own clock.
//!
//! In: frames as they are about to be sent, and when. Out: how far the viewer's clock is ahead of the frames'. On one
//! node the broadcast's clock goes on by itself and that is nothing. A node that takes a broadcast over has a clock of
//! its own: players take a step back for frames that are too late, and a step ahead for pictures to be shown that much
//! later. Deliberately absent: RTP and tracks: picture and sound are moved by the same, so that they stay together.

use std::time::Instant;

use crate::media::Frame;

/// Less is jitter of the way here, or of the publisher's start.
const TOLERANCE_US: i64 = 300_000;

#[derive(Debug, Default)]
pub(super) struct Seam {
    now: Option<Epoch>,
    /// The epoch before: its last frames may come after the next one's first.
    shift_before_us: i64,
}

#[derive(Debug)]
struct Epoch {
    number: u64,
    first_gop: u64,
    shift_us: i64,
    /// The newest time that was given out, on the viewer's clock.
    newest_us: i64,
    at: Instant,
}

impl Seam {
    /// How far the viewer's clock is ahead of this frame's.
    pub(super) fn place(&mut self, frame: &Frame, now: Instant) -> i64 {
        let (number, first_gop) = (frame.gop.epoch, frame.gop.id);
        let Some(known) = &mut self.now else {
            self.now = Some(Epoch { number, first_gop, shift_us: 0, newest_us: frame.dts_us, at: now });
            return 0;
        };
        if number != known.number && first_gop < known.first_gop {
            return self.shift_before_us;
        }
        if number != known.number {
            let elapsed_us = now.saturating_duration_since(known.at).as_micros() as i64;
            let expected_us = known.newest_us.saturating_add(elapsed_us);
            let off_us = expected_us - (frame.dts_us + known.shift_us);
            self.shift_before_us = known.shift_us;
            (known.number, known.first_gop) = (number, first_gop);
            if off_us.abs() > TOLERANCE_US {
                known.shift_us += off_us;
            }
            known.newest_us = frame.dts_us + known.shift_us;
            known.at = now;
        }
        let time_us = frame.dts_us + known.shift_us;
        if time_us >= known.newest_us {
            known.newest_us = time_us;
            known.at = now;
        }
        known.shift_us
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use bytes::Bytes;

    use super::*;
    use crate::media::{Codec, Gop, Info, Shape};

    fn frame(epoch: u64, dts_us: i64) -> Frame {
        let gop = Gop {
            id: epoch,
            epoch,
            discontinuity: epoch,
            start_us: dts_us,
            independent: true,
            has_video: true,
            has_audio: true,
            ..Gop::default()
        };
        let shape = Shape::Video { width: 640, height: 360, reorders: false };
        let info = Arc::new(Info { codec: Codec::H264, config: Bytes::new(), shape });
        let (gop, payload) = (Arc::new(gop), Bytes::from_static(b"x"));
        Frame { gop, dts_us, pts_us: dts_us, keyframe: true, payload, info, rtp: Default::default() }
    }

    #[test]
    fn a_clock_that_goes_on_is_left_alone() {
        let (mut seam, start) = (Seam::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(seam.place(&frame(1, 50_000_000), after(0)), 0);
        assert_eq!(seam.place(&frame(1, 50_040_000), after(40)), 0);
        // Three seconds without a publisher, and one that is a little early.
        assert_eq!(seam.place(&frame(2, 52_900_000), after(3_040)), 0);
        assert_eq!(seam.place(&frame(3, 52_940_000), after(3_080)), 0);
    }

    #[test]
    fn another_clock_is_moved_to_where_the_viewer_is_and_so_is_the_sound() {
        for off_us in [-5_000_000, -1_000_000, 700_000, 30_000_000] {
            let (mut seam, start) = (Seam::default(), Instant::now());
            let after = |ms| start + Duration::from_millis(ms);
            seam.place(&frame(1, 50_000_000), after(0));
            let natural_us = 50_000_000 + 2_000_000;
            assert_eq!(seam.place(&frame(2, natural_us + off_us), after(2_000)), -off_us);
            assert_eq!(seam.place(&frame(1, 50_020_000), after(2_010)), 0, "sound of before");
            assert_eq!(seam.place(&frame(2, natural_us + off_us + 5_000), after(2_020)), -off_us);
            // And back: the first one returns, the clock of which the viewer started with.
            let shift_us = seam.place(&frame(3, natural_us + 3_000_000), after(5_000));
            assert!(shift_us.abs() < 20_000, "{shift_us}");
        }
    }
}
