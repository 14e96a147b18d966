//! Where the segments of kept HLS end: where the live ones do, at the gops that were minted. In: the frames that wait in the
//! cutter. Out: whole segments. What breaks the timeline (another publisher, other parameters, a hole) begins another
//! stretch of the same file. Deliberately absent: gops that are cut short to wait less, as live parts are.

use std::{collections::VecDeque, sync::Arc};

use super::{Cutter, File, Fragment, Frame, InitError, Kind, Step, sample};

/// Until the broadcast knows its own: the longest that there is.
pub(super) const TARGET_US: i64 = 10_000_000;
/// What a segment may last beyond the target: slow pictures come when they come. The playlist's target is a second more.
const SLACK_US: i64 = 1_000_000;
/// A track that falls so far behind the other one is not waited for.
const SILENT_US: i64 = 1_000_000;
/// Nothing came for so long: time that nobody shall sit through.
const HOLE_US: i64 = 1_000_000;

/// Where the segment under way ends.
#[derive(Clone, Copy, Debug)]
struct Boundary {
    at_us: i64,
    /// The gop that begins there, if one does.
    gop: Option<u64>,
}

impl Cutter {
    /// How long the broadcast's segments last, when that is known.
    pub(in crate::record) fn target(&mut self, target_s: Option<u32>) {
        self.target_us = target_s.map_or(TARGET_US, |target_s| i64::from(target_s) * 1_000_000);
    }

    /// This frame can't follow what is there without a break, though it would fit.
    pub(super) fn breaks(&self, frame: &Frame) -> bool {
        let Some(file) = self.file.as_ref().filter(|_| self.is_hls()) else { return false };
        let leads = self.leading() == frame.info.kind();
        let hole = frame.dts_us - self.newest_us() > HOLE_US;
        leads && frame.keyframe && (frame.gop.discontinuity != file.discontinuity || hole)
    }

    /// What decides where segments end.
    fn leading(&self) -> Kind {
        if self.video.spec.is_some() { Kind::Video } else { Kind::Audio }
    }

    /// Ends the stretch, or the file where it has no stretches.
    pub(super) fn interrupt(&mut self) -> Result<(), InitError> {
        if !self.is_hls() {
            return self.finish();
        }
        if self.file.is_none() {
            self.begin()?;
        }
        self.carried = self.close().or(self.carried.take());
        Ok(())
    }

    /// Hands out the segments that are complete; with `last`, nothing more will join them.
    pub(super) fn cut_segments(&mut self, last: bool) {
        while let Some(boundary) = self.boundary(last) {
            self.cut_segment(boundary);
        }
    }

    fn boundary(&self, last: bool) -> Option<Boundary> {
        let file = self.file.as_ref()?;
        let (leading, other) = match self.leading() {
            Kind::Video => (&self.video, &self.audio),
            Kind::Audio => (&self.audio, &self.video),
        };
        let newest_us = self.newest_us();
        let latest_us = file.segment_us + self.target_us;
        let next = leading.pending.iter().find(|frame| frame.gop.id > file.gop && frame.dts_us > file.segment_us);
        match next.filter(|next| next.dts_us <= latest_us + SLACK_US) {
            Some(next) => {
                let passed = other.spec.is_none()
                    || other.pending.back().is_some_and(|frame| frame.dts_us >= next.dts_us)
                    || newest_us >= next.dts_us + SILENT_US;
                (last || passed).then_some(Boundary { at_us: next.dts_us, gop: Some(next.gop.id) })
            }
            // Pictures are away, and sound goes on.
            None => {
                let patience_us = SLACK_US + if last { 0 } else { SILENT_US };
                (newest_us > latest_us + patience_us).then_some(Boundary { at_us: latest_us, gop: None })
            }
        }
    }

    fn cut_segment(&mut self, boundary: Boundary) {
        let Some(file) = &mut self.file else { return };
        let mut fragment = Fragment::new(file.sequence + 1);
        let mut frames = 0;
        for lane in [&mut self.video, &mut self.audio] {
            let Some(spec) = &lane.spec else { continue };
            let taken = take_before(&mut lane.pending, boundary.at_us);
            frames += taken.len() as u64;
            let last_us = taken.last().map(|frame| frame.dts_us);
            for frame in taken {
                fragment.push(spec, sample(&frame, file.start_us));
            }
            // Behind a pause the last one does not last until the next.
            let next_us = lane.pending.front().map(|next| next.dts_us);
            if let (Some(last_us), Some(next_us)) = (last_us, next_us)
                && next_us - last_us <= HOLE_US
            {
                fragment.end(spec.id, next_us - file.start_us);
            }
        }
        let begun_us = std::mem::replace(&mut file.segment_us, boundary.at_us);
        file.gop = boundary.gop.unwrap_or(file.gop);
        file.cut_us = boundary.at_us;
        if !fragment.is_empty() {
            file.append(&mut self.steps, fragment, (begun_us, boundary.at_us), frames, true);
        }
    }
}

impl File {
    /// Hands out what begins and ends then.
    pub(super) fn append(
        &mut self,
        steps: &mut VecDeque<Step>,
        fragment: Fragment,
        (begun_us, end_us): (i64, i64),
        frames: u64,
        sync: bool,
    ) {
        self.sequence += 1;
        let (from_us, until_us) = (begun_us - self.start_us, end_us - self.start_us);
        self.duration_us = self.duration_us.max(until_us);
        let fragment = fragment.finish();
        self.bytes += fragment.len() as u64;
        steps.push_back(Step::Append { fragment, frames, from_us, until_us, sync });
    }
}

fn take_before(pending: &mut VecDeque<Arc<Frame>>, at_us: i64) -> Vec<Arc<Frame>> {
    let first = pending.iter().position(|frame| frame.dts_us >= at_us).unwrap_or(pending.len());
    pending.drain(..first).collect()
}
