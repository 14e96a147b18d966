//! From 32-bit timestamps, which begin anew after 49.7 days, to a timeline that does not.

/// One timeline for all chunk streams: one that falls silent before a wrap and returns after it must not be left
/// behind by 49 days.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    latest_media_ms: Option<i64>,
}

impl Timeline {
    /// The moment nearest to the latest media that has this timestamp. Only media moves the timeline: commands carry
    /// zero in the middle of a stream.
    pub(super) fn place(&mut self, timestamp: u32, is_media: bool) -> i64 {
        let placed = match self.latest_media_ms {
            None => i64::from(timestamp),
            Some(latest) => {
                let difference = timestamp.wrapping_sub(latest as u32).cast_signed();
                latest.saturating_add(difference.into())
            }
        };
        if is_media {
            self.latest_media_ms = Some(placed);
        }
        placed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_over_the_wrap_and_survives_zeroes_in_between() {
        let mut timeline = Timeline::default();
        assert_eq!(timeline.place(u32::MAX - 9, true), 0xffff_fff6);
        timeline.place(0, false);
        assert_eq!(timeline.place(u32::MAX - 12, true), 0xffff_fff3);
        assert_eq!(timeline.place(20, true), 0x1_0000_0014);
        assert_eq!(timeline.place(u32::MAX, true), 0xffff_ffff);
        assert_eq!(timeline.place(40, true), 0x1_0000_0028);
    }

    #[test]
    fn may_begin_before_zero() {
        let mut timeline = Timeline::default();
        timeline.place(5, true);
        assert_eq!(timeline.place(u32::MAX, true), -1);
    }
}
