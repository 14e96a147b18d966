//! What goes into which file, and when. Pure.
//!
//! In: the frames of one broadcast's video and audio tracks, in any interleaving, each track in order. Out: [`Step`]s:
//! begin a file, append a fragment, end the file. A file begins at a keyframe, sound from before it is left out, and
//! both tracks count from there. What one MP4 can't carry (another publisher, other parameter sets, a track that
//! joins late) ends the file, and the next one begins at a keyframe again.
//!
//! Deliberately absent: file names, disks, clocks.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use headwater_common::{
    fmp4::{self, Fragment, InitError, TrackSpec},
    media::{Frame, Info, Kind, Sample},
};

/// A fragment is handed out when it holds this much, so that a killed process loses less than any gop lasts (a gop is
/// a second or longer).
pub(super) const FRAGMENT_US: i64 = 500_000;
/// The disk is told to keep what was written at the end of each gop, and of each stretch of this length within a
/// long one: what a power cut may cost.
const SYNC_US: i64 = 2_000_000;
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
    Append {
        fragment: Bytes,
        frames: u64,
        /// What the file lasts with it.
        duration_us: i64,
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
    /// A publisher has returned, and his pictures start with one that needs no others.
    awaits_keyframe: bool,
    file: Option<File>,
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

#[derive(Debug)]
struct File {
    start_us: i64,
    epoch: u64,
    sequence: u32,
    duration_us: i64,
    bytes: u64,
    /// Newest decoding time at the last cut and at the last sync.
    cut_us: i64,
    sync_us: i64,
}

impl Cutter {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
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
        let epoch = self.file.as_ref().map(|file| file.epoch).or(gathered_epoch);
        match epoch {
            // The last words of a publisher that was replaced.
            Some(epoch) if frame.gop.epoch < epoch => {
                self.discarded += 1;
                return Ok(());
            }
            Some(epoch) if frame.gop.epoch > epoch => {
                let gap_us = frame.dts_us - self.newest_us();
                match &mut self.file {
                    Some(file) if self.limits.gap_us > 0 && gap_us <= self.limits.gap_us => {
                        file.epoch = frame.gop.epoch;
                        self.awaits_keyframe = true;
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

    /// Hands out what is there, as far as it is known how long it lasts: nothing may follow for a while.
    pub(super) fn flush(&mut self) {
        self.cut(true);
    }

    /// Ends the file; a file that was about to begin is written as it is.
    pub(super) fn finish(&mut self) -> Result<(), InitError> {
        if self.file.is_none() {
            self.begin()?;
        }
        let Some(mut file) = self.file.take() else { return Ok(()) };
        self.awaits_keyframe = false;
        let mut frames = 0;
        let mut fragment = Fragment::new(file.sequence);
        for lane in [&mut self.video, &mut self.audio] {
            frames += lane.pending.len() as u64;
            let Some(spec) = lane.spec.take() else { continue };
            let mut last_us = None;
            for frame in lane.pending.drain(..) {
                let lasts_us = last_us.map_or(0, |last_us| frame.dts_us - last_us);
                last_us = Some(frame.dts_us);
                file.duration_us = file.duration_us.max(frame.dts_us + lasts_us - file.start_us);
                fragment.push(&spec, sample(&frame, file.start_us));
            }
        }
        if !fragment.is_empty() {
            let (fragment, duration_us) = (fragment.finish(), file.duration_us);
            self.steps.push_back(Step::Append { fragment, frames, duration_us, sync: true });
        }
        self.steps.push_back(Step::End);
        Ok(())
    }

    fn handle_video(&mut self, frame: Arc<Frame>) -> Result<(), InitError> {
        let fits = match (&self.file, &self.video.spec, self.video.pending.back()) {
            (Some(_), Some(spec), _) => same_stream(&spec.info, &frame.info),
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
        if !fits || (frame.keyframe && self.is_split_due(frame.dts_us)) || (frame.keyframe && !self.held.is_empty()) {
            let mut next = std::mem::take(&mut self.held);
            if next.is_empty() {
                // Sound of the next file may have arrived before its first picture.
                let early = self.audio.pending.iter().position(|sound| sound.dts_us >= frame.dts_us);
                next = early.map(|first| self.audio.pending.split_off(first)).unwrap_or_default();
            }
            self.finish()?;
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
            (Some(_), Some(spec), _) => same_stream(&spec.info, &frame.info),
            (Some(_), None, _) => false,
            (None, _, Some(before)) => same_stream(&before.info, &frame.info),
            (None, _, None) => true,
        };
        // A camera that was switched off gives no keyframe to wait for.
        let has_pictures = frame.gop.has_video && (self.video.spec.is_some() || !self.video.pending.is_empty());
        if !has_pictures && (!fits || self.is_split_due(frame.dts_us)) {
            self.finish()?;
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
        self.cut(false);
        Ok(())
    }

    fn begin_is_due(&self) -> bool {
        let Some(start_us) = self.start_us() else { return false };
        let gathered_us = self.newest_us() - start_us;
        let has = (!self.video.pending.is_empty(), !self.audio.pending.is_empty());
        let missing = (self.expects_video && !has.0) || (self.expects_audio && !has.1);
        let patience_us = match has {
            (true, true) => FRAGMENT_US,
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
        let bytes = init.len() as u64;
        self.file =
            Some(File { start_us, epoch, sequence: 1, duration_us: 0, bytes, cut_us: start_us, sync_us: start_us });
        self.steps.push_back(Step::Begin { init, start_us, epoch });
        Ok(())
    }

    /// Hands out a fragment if one is due (or `now`): of each track everything but its last frame.
    fn cut(&mut self, now: bool) {
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
        let mut fragment = Fragment::new(file.sequence);
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
        file.sequence += 1;
        let (fragment, duration_us) = (fragment.finish(), file.duration_us);
        file.bytes += fragment.len() as u64;
        self.steps.push_back(Step::Append { fragment, frames, duration_us, sync });
    }

    /// Where the file that is about to begin would start.
    fn start_us(&self) -> Option<i64> {
        self.video.pending.front().or(self.audio.pending.front()).map(|first| first.dts_us)
    }

    fn newest_us(&self) -> i64 {
        [&self.video, &self.audio].iter().filter_map(|lane| Some(lane.pending.back()?.dts_us)).max().unwrap_or(0)
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
