//! How a growing MP4 is written: in fragments that are handed out often, so that a killed process loses little. In: the frames
//! that wait in the cutter. Out: fragments. Deliberately absent: what belongs into a file.

use super::{Cutter, Fragment, sample};

/// A fragment is handed out when it holds this much, so that a killed process loses less than any gop lasts (a gop is
/// a second or longer).
pub(super) const FRAGMENT_US: i64 = 500_000;
/// The disk is told to keep what was written at the end of each gop, and of each stretch of this length within a
/// long one: what a power cut may cost.
const SYNC_US: i64 = 2_000_000;

impl Cutter {
    /// Hands out a fragment if one is due (or `now`): of each track everything but its last frame.
    pub(super) fn cut(&mut self, now: bool) {
        let newest_us = self.newest_us();
        let gop_ends = {
            let mut newest = self.video.pending.iter().rev();
            match (newest.next(), newest.next()) {
                (Some(frame), Some(before)) => frame.keyframe && frame.gop.id != before.gop.id,
                _ => false,
            }
        };
        let Some(file) = &mut self.file else { return };
        if !(now || gop_ends || newest_us - file.cut_us >= FRAGMENT_US) {
            return;
        }
        let begun_us = file.start_us + file.duration_us;
        let mut fragment = Fragment::new(file.sequence + 1);
        let mut frames = 0;
        for lane in [&mut self.video, &mut self.audio] {
            let Some(spec) = &lane.spec else { continue };
            let Some(last) = lane.pending.pop_back() else { continue };
            frames += lane.pending.len() as u64;
            for frame in lane.pending.drain(..) {
                fragment.push(spec, sample(&frame, file.start_us));
            }
            let end_us = last.dts_us - file.start_us;
            fragment.end(spec.id, end_us);
            file.duration_us = file.duration_us.max(end_us);
            lane.pending.push_back(last);
        }
        file.cut_us = newest_us;
        if fragment.is_empty() {
            return;
        }
        let sync = now || gop_ends || newest_us - file.sync_us >= SYNC_US;
        if sync {
            file.sync_us = newest_us;
        }
        let end_us = file.start_us + file.duration_us;
        file.append(&mut self.steps, fragment, (begun_us, end_us), frames, sync);
    }
}
