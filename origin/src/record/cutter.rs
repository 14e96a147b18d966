//! What goes into which file, and when. Pure.
//!
//! In: the frames of one broadcast's video and audio tracks, in any interleaving, each track in order. Out: [`Step`]s:
//! begin a file, append a fragment, end the file. A file begins at a keyframe, sound from before it is left out, and
//! both tracks count from there. What one MP4 can't carry (another publisher, other parameter sets, a track that
//! joins late) ends the file, and the next one begins at a keyframe again.
//!
//! Kept HLS is the same, except that it is cut into segments ([`segments`]), and that a format that changes, or a publisher
//! that returns, does not end it: it turns to another initialisation section.
//!
//! Deliberately absent: file names, disks, clocks.

mod fragments;
mod segments;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use headwater_common::{
    fmp4::{self, Fragment, InitError, TrackSpec},
    media::{Frame, Info, Kind, Sample},
    store::Form,
};

/// How long the first file waits for a track that is known to exist but has not delivered, and for a second kind of
/// track that nobody has announced yet.
const EXPECTED_PATIENCE_US: i64 = 4_000_000;
const LONE_PATIENCE_US: i64 = 1_000_000;
/// What may be held while a file waits to begin; more than this begins it. Frames are shared with the hall.
const GATHERED_BYTES_MAX: usize = 32 << 20;
/// Sound that waits for a keyframe to begin a file with; the oldest leaves.
const HELD_US_MAX: i64 = 20_000_000;

/// What the tape has to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// A new file, from here on the broadcast's clock.
    Begin {
        init: Bytes,
        start_us: i64,
        epoch: u64,
    },
    /// What follows in the file is described by this.
    Turn {
        init: Bytes,
    },
    Append {
        fragment: Bytes,
        frames: u64,
        /// Since the file began. The end is what the file lasts with it.
        from_us: i64,
        until_us: i64,
        /// The disk should have it before anything else is written.
        sync: bool,
    },
    End,
}

/// What else ends a file, and what doesn't. Zero: never, none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// A file that lasts so long ends at the next keyframe, or one that has grown to so many bytes.
    pub(super) split_us: i64,
    pub(super) split_bytes: u64,
    /// Between two publishers whose media goes on in one file, if it is of the same kind.
    pub(super) gap_us: i64,
}

#[derive(Debug, Default)]
pub(super) struct Cutter {
    limits: Limits,
    form: Form,
    /// Of segments.
    target_us: i64,
    /// A publisher has returned, and his pictures start with one that needs no others.
    awaits_keyframe: bool,
    file: Option<File>,
    /// A file that goes on with another stretch, as soon as that can begin.
    carried: Option<File>,
    video: Lane,
    audio: Lane,
    /// Sound that only the next file can carry, all of one format.
    held: VecDeque<Arc<Frame>>,
    expects_video: bool,
    expects_audio: bool,
    steps: VecDeque<Step>,
    discarded: u64,
}

#[derive(Debug, Default)]
struct Lane {
    /// Frames that the present file, or the one that is about to begin, will carry. Once a file is open the last one
    /// stays until its successor tells how long it lasts.
    pending: VecDeque<Arc<Frame>>,
    /// As the present file describes it.
    spec: Option<TrackSpec>,
}

#[derive(Debug, Default)]
struct File {
    start_us: i64,
    epoch: u64,
    /// Fragments so far.
    sequence: u32,
    duration_us: i64,
    bytes: u64,
    /// Newest decoding time at the last cut and at the last sync.
    cut_us: i64,
    sync_us: i64,
    /// Of the segment under way: when it began, and its gop.
    segment_us: i64,
    gop: u64,
    /// Of the stretch.
    discontinuity: u64,
}

impl Cutter {
    pub(super) fn new(limits: Limits, form: Form) -> Self {
        Self { limits, form, target_us: segments::TARGET_US, ..Self::default() }
    }

    fn is_hls(&self) -> bool {
        self.form == Form::Hls
    }

    /// Which kinds of track are known to exist: a file waits a while for their first frames.
    pub(super) fn expect(&mut self, video: bool, audio: bool) {
        self.expects_video = video;
        self.expects_audio = audio;
    }

    /// Frames that no file could carry: between a change of the sound's format and the next keyframe.
    pub(super) fn discarded(&self) -> u64 {
        self.discarded
    }

    pub(super) fn poll_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    pub(super) fn handle_frame(&mut self, frame: Arc<Frame>) -> Result<(), InitError> {
        let gathered_epoch =
            [&self.video, &self.audio].into_iter().find_map(|lane| Some(lane.pending.front()?.gop.epoch));
        let epoch = self.file.as_ref().or(self.carried.as_ref()).map(|file| file.epoch).or(gathered_epoch);
        match epoch {
            // The last words of a publisher that was replaced.
            Some(epoch) if frame.gop.epoch < epoch => {
                self.discarded += 1;
                return Ok(());
            }
            Some(epoch) if frame.gop.epoch > epoch => {
                let gap_us = frame.dts_us - self.newest_us();
                match self.file.as_mut().or(self.carried.as_mut()) {
                    Some(file) if self.limits.gap_us > 0 && gap_us <= self.limits.gap_us => {
                        file.epoch = frame.gop.epoch;
                        if self.is_hls() {
                            self.interrupt()?;
                            self.let_go_of_held();
                        } else {
                            self.awaits_keyframe = true;
                        }
                    }
                    _ => {
                        self.finish()?;
                        self.let_go_of_held();
                    }
                }
            }
            _ => {}
        }
        match frame.info.kind() {
            Kind::Video => self.handle_video(frame),
            Kind::Audio => self.handle_audio(frame),
        }
    }

    /// Hands out what is there, as far as it is known how long it lasts: nothing may follow for a while. A segment is not
    /// cut short for that: it ends when somebody else has come, or nobody.
    pub(super) fn flush(&mut self) {
        if !self.is_hls() {
            self.cut(true);
        }
    }

    /// Ends the file; a file that was about to begin is written as it is.
    pub(super) fn finish(&mut self) -> Result<(), InitError> {
        if self.file.is_none() {
            self.begin()?;
        }
        if self.close().or(self.carried.take()).is_some() {
            self.steps.push_back(Step::End);
        }
        Ok(())
    }

    /// Hands out all that there is for the file, which is not open any more.
    fn close(&mut self) -> Option<File> {
        if self.is_hls() {
            self.cut_segments(true);
        }
        let newest_us = self.newest_us();
        let mut file = self.file.take()?;
        self.awaits_keyframe = false;
        let mut frames = 0;
        let mut end_us = match self.form {
            Form::Mp4 => file.start_us + file.duration_us,
            Form::Hls => file.segment_us,
        };
        let mut fragment = Fragment::new(file.sequence + 1);
        for lane in [&mut self.video, &mut self.audio] {
            frames += lane.pending.len() as u64;
            let Some(spec) = lane.spec.take() else { continue };
            let mut last_us = None;
            for frame in lane.pending.drain(..) {
                let lasts_us = last_us.map_or(0, |last_us| frame.dts_us - last_us);
                last_us = Some(frame.dts_us);
                end_us = end_us.max(frame.dts_us + lasts_us);
                fragment.push(&spec, sample(&frame, file.start_us));
            }
        }
        if !fragment.is_empty() {
            let begun_us = file.segment_us;
            file.append(&mut self.steps, fragment, (begun_us, end_us), frames, true);
        }
        file.cut_us = newest_us;
        Some(file)
    }

    fn handle_video(&mut self, frame: Arc<Frame>) -> Result<(), InitError> {
        let fits = match (&self.file, &self.video.spec, self.video.pending.back()) {
            (Some(_), Some(spec), _) => same_stream(&spec.info, &frame.info) && !self.breaks(&frame),
            (Some(_), None, _) => false,
            (None, _, Some(before)) => same_stream(&before.info, &frame.info),
            (None, _, None) => true,
        };
        let begins = !fits || (self.video.pending.is_empty() && self.file.is_none()) || self.awaits_keyframe;
        if begins && !frame.keyframe {
            self.discarded += 1;
            return Ok(());
        }
        self.awaits_keyframe = false;
        let splits = frame.keyframe && self.is_split_due(frame.dts_us);
        if !fits || splits || (frame.keyframe && !self.held.is_empty()) {
            let mut next = std::mem::take(&mut self.held);
            if next.is_empty() {
                // Sound of the next file may have arrived before its first picture.
                let early = self.audio.pending.iter().position(|sound| sound.dts_us >= frame.dts_us);
                next = early.map(|first| self.audio.pending.split_off(first)).unwrap_or_default();
            }
            if splits { self.finish() } else { self.interrupt() }?;
            self.audio.pending = next;
        }
        if self.file.is_none() && self.video.pending.is_empty() {
            self.audio.leave_out_before(frame.dts_us);
        }
        self.video.pending.push_back(frame);
        self.advance()
    }

    fn handle_audio(&mut self, frame: Arc<Frame>) -> Result<(), InitError> {
        let fits = match (&self.file, &self.audio.spec, self.audio.pending.back()) {
            (Some(_), Some(spec), _) => same_stream(&spec.info, &frame.info) && !self.breaks(&frame),
            (Some(_), None, _) => false,
            (None, _, Some(before)) => same_stream(&before.info, &frame.info),
            (None, _, None) => true,
        };
        // A camera that was switched off gives no keyframe to wait for.
        let has_pictures = frame.gop.has_video && (self.video.spec.is_some() || !self.video.pending.is_empty());
        let splits = self.is_split_due(frame.dts_us);
        if !has_pictures && (!fits || splits) {
            if splits { self.finish() } else { self.interrupt() }?;
            self.let_go_of_held();
        } else if !fits || !self.held.is_empty() {
            if self.held.back().is_some_and(|before| !same_stream(&before.info, &frame.info)) {
                self.let_go_of_held();
            }
            let newest_us = frame.dts_us;
            self.held.push_back(frame);
            while self.held.front().is_some_and(|oldest| newest_us - oldest.dts_us > HELD_US_MAX) {
                self.held.pop_front();
                self.discarded += 1;
            }
            return Ok(());
        }
        if self.file.is_none()
            && let Some(first) = self.video.pending.front()
            && frame.dts_us < first.dts_us
        {
            return Ok(());
        }
        self.audio.pending.push_back(frame);
        self.advance()
    }

    fn is_split_due(&self, at_us: i64) -> bool {
        let Some(file) = &self.file else { return false };
        let Limits { split_us, split_bytes, .. } = self.limits;
        let lasts_us = at_us - file.start_us;
        (split_us > 0 && lasts_us >= split_us) || (split_bytes > 0 && file.bytes >= split_bytes)
    }

    fn let_go_of_held(&mut self) {
        self.discarded += self.held.len() as u64;
        self.held.clear();
    }

    fn advance(&mut self) -> Result<(), InitError> {
        if self.file.is_none() && self.begin_is_due() {
            self.begin()?;
        }
        match self.form {
            Form::Mp4 => self.cut(false),
            Form::Hls => self.cut_segments(false),
        }
        Ok(())
    }

    fn begin_is_due(&self) -> bool {
        let Some(start_us) = self.start_us() else { return false };
        let gathered_us = self.newest_us() - start_us;
        let has = (!self.video.pending.is_empty(), !self.audio.pending.is_empty());
        let missing = (self.expects_video && !has.0) || (self.expects_audio && !has.1);
        let patience_us = match has {
            (true, true) => fragments::FRAGMENT_US,
            _ if missing => EXPECTED_PATIENCE_US,
            _ => LONE_PATIENCE_US,
        };
        let bytes: usize = self.video.pending.iter().chain(&self.audio.pending).map(|frame| frame.payload.len()).sum();
        gathered_us >= patience_us || bytes > GATHERED_BYTES_MAX
    }

    /// Begins a file with what was gathered, if anything was.
    fn begin(&mut self) -> Result<(), InitError> {
        let Some(start_us) = self.start_us() else { return Ok(()) };
        let mut tracks = Vec::with_capacity(2);
        let mut epoch = 0;
        for (id, lane) in [(1, &mut self.video), (2, &mut self.audio)] {
            if let Some(first) = lane.pending.front() {
                lane.spec = Some(TrackSpec { id, info: first.info.clone() });
                epoch = epoch.max(first.gop.epoch);
            }
            tracks.extend(lane.spec.clone());
        }
        let init = fmp4::init(&tracks)?;
        let first = self.video.pending.front().or(self.audio.pending.front());
        let (gop, discontinuity) = first.map(|first| (first.gop.id, first.gop.discontinuity)).unwrap_or_default();
        let mut file = self.carried.take().unwrap_or(File { start_us, ..File::default() });
        let begins = file.bytes == 0;
        file.bytes += init.len() as u64;
        self.file =
            Some(File { epoch, cut_us: start_us, sync_us: start_us, segment_us: start_us, gop, discontinuity, ..file });
        self.steps.push_back(if begins { Step::Begin { init, start_us, epoch } } else { Step::Turn { init } });
        Ok(())
    }

    /// Where the file that is about to begin would start.
    fn start_us(&self) -> Option<i64> {
        self.video.pending.front().or(self.audio.pending.front()).map(|first| first.dts_us)
    }

    fn newest_us(&self) -> i64 {
        let newest = [&self.video, &self.audio].iter().filter_map(|lane| Some(lane.pending.back()?.dts_us)).max();
        newest.or(self.carried.as_ref().map(|file| file.cut_us)).unwrap_or(0)
    }
}

impl Lane {
    fn leave_out_before(&mut self, start_us: i64) {
        self.pending.retain(|frame| frame.dts_us >= start_us);
    }
}

fn sample(frame: &Frame, start_us: i64) -> Sample {
    Sample {
        dts_us: frame.dts_us - start_us,
        pts_us: frame.pts_us - start_us,
        keyframe: frame.keyframe,
        payload: frame.payload.clone(),
    }
}

/// That a B-frame was seen is news to outputs, but the stream goes on as before.
fn same_stream(one: &Arc<Info>, other: &Arc<Info>) -> bool {
    Arc::ptr_eq(one, other) || (one.codec == other.codec && one.config == other.config)
}
