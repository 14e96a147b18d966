//! From the publisher's clock to the broadcast's. In: timestamps of one publisher, track by track. Out: microseconds
//! since the broadcast was born, never going backwards within a track, continuing across publishers.
//!
//! Real encoders jump: a laptop that slept, a looped file, a 32-bit counter reset. A jump moves the offset so that
//! the broadcast goes on where wall-clock says it should be; small steps back are clamped and counted.

/// A step back beyond this, or ahead beyond [`AHEAD_US_MAX`], is another clock and not jitter.
const BACK_US_MAX: i64 = 1_000_000;
const AHEAD_US_MAX: i64 = 10_000_000;
/// How far a source may run ahead of wall-clock within one step and still be believed (a burst after a stall).
const SURPLUS_US_MAX: i64 = 5_000_000;
/// The tracks of one publisher jump one after another; the second one adopts the first one's new offset when that
/// puts it this near to where it should be.
const ADOPT_US_MAX: i64 = 2_000_000;
/// A decoder takes two samples at one instant for one. Several ticks of the coarsest clock of a container (44.1 kHz), so
/// that they stay apart there as well.
const DISTANCE_US_MIN: i64 = 100;

/// The clock of one publisher session.
#[derive(Debug)]
pub(super) struct Timeline {
    /// Broadcast time of the session's first sample: no sample of this session may be earlier than the last session's.
    floor_us: i64,
    /// The newest offset that any track uses; `None` until the first sample.
    offset_us: Option<i64>,
}

/// One track's place on it.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    offset_us: i64,
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    source_dts_us: i64,
    dts_us: i64,
    now_us: i64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) dts_us: i64,
    pub(super) pts_us: i64,
    /// The source's clock jumped here.
    pub(super) jumped: bool,
    /// The timestamp went back a little and was held at its predecessor's.
    pub(super) clamped: bool,
}

impl Timeline {
    pub(super) fn new(floor_us: i64) -> Self {
        Self { floor_us, offset_us: None }
    }

    /// `now_us` counts from the broadcast's birth.
    pub(super) fn place(&mut self, cursor: &mut Cursor, dts_us: i64, pts_us: i64, now_us: i64) -> Placed {
        let composition_us = pts_us.saturating_sub(dts_us);
        let mut jumped = false;
        match cursor.last {
            None => {
                cursor.offset_us = *self.offset_us.get_or_insert(now_us.max(self.floor_us).saturating_sub(dts_us));
            }
            Some(last) => {
                let step_us = dts_us.saturating_sub(last.source_dts_us);
                let elapsed_us = (now_us - last.now_us).max(0);
                jumped = step_us < -BACK_US_MAX
                    || (step_us > AHEAD_US_MAX && step_us.saturating_sub(elapsed_us) > SURPLUS_US_MAX);
                if jumped {
                    let expected_us = last.dts_us + elapsed_us.max(1);
                    let adopted = self.offset_us.filter(|offset| {
                        *offset != cursor.offset_us
                            && dts_us.saturating_add(*offset).abs_diff(expected_us) <= ADOPT_US_MAX.unsigned_abs()
                    });
                    cursor.offset_us = adopted.unwrap_or(expected_us.saturating_sub(dts_us));
                    self.offset_us = Some(cursor.offset_us);
                }
            }
        }
        let wanted_us = dts_us.saturating_add(cursor.offset_us);
        let earliest_us = cursor.last.map_or(self.floor_us, |last| last.dts_us + DISTANCE_US_MIN);
        let placed_us = wanted_us.max(earliest_us);
        cursor.last = Some(Last { source_dts_us: dts_us, dts_us: placed_us, now_us });
        Placed {
            dts_us: placed_us,
            pts_us: wanted_us.saturating_add(composition_us).max(placed_us),
            jumped,
            clamped: wanted_us < earliest_us && !jumped,
        }
    }
}
