//! One broadcast being recorded: a thread of its own that looks into the hall ten times a second, hands the frames to
//! the cutter, and writes what comes back. A slow disk makes this thread late and nobody else.
//!
//! In: a broadcast, which take of it, and the word to stop. Out: one file after the other, each handed over to be
//! finalised, and how it ended. Deliberately absent: whether to record at all.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, Thread},
    time::{Duration, Instant},
};

use headwater_common::{
    chance,
    fmp4::InitError,
    ladder::Rendition,
    live::{Broadcast, Status},
    media::{Delivery, Kind},
    store::Form,
};
use tokio::sync::oneshot;

use super::{
    Rules, Shared,
    cutter::{Cutter, Step},
    gaps::Missing,
    source::{From, Source},
    tape::{NEVER_MADE, Promise, Stretch, Tape, TapeError, Title, check_room},
};

/// Far less than the hall keeps, and much more seldom than frames come.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After the publisher's end, tracks made by a transcoder may still deliver.
const TAIL: Duration = Duration::from_millis(500);
/// How late a row may say what is being left out of a rendition, and so by how much it is wrong after a `kill -9`.
const TELL_EVERY: Duration = Duration::from_secs(5);
const STACK_BYTES: usize = 512 << 10;

#[derive(Debug)]
pub(super) enum Outcome {
    /// It was told to stop, or the broadcast is over: up to this claim, of which nothing is left to record.
    Over {
        epoch: u64,
    },
    Failed,
}

#[derive(Debug)]
pub(super) struct Session {
    stop: Arc<AtomicBool>,
    thread: Thread,
}

/// What is recorded, and what it is called.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) broadcast: Arc<Broadcast>,
    /// Instead of the source.
    pub(super) rendition: Option<Rendition>,
    /// By an operator, instead of the stream's id.
    pub(super) name: Option<String>,
    pub(super) form: Form,
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Tape(#[from] TapeError),
    #[error(transparent)]
    Init(#[from] InitError),
}

impl Session {
    /// The receiver fails if the thread panics.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        subject: Subject,
        from: From,
    ) -> std::io::Result<(Self, oneshot::Receiver<Outcome>)> {
        let Subject { broadcast, rendition, name, form } = subject;
        let (report, outcome) = oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        // Subscribed to before the tracks are looked at: what changes in between is seen twice, not missed.
        let changes = broadcast.watch();
        let rules = shared.rules(broadcast.id());
        let source = Source::new(broadcast, rendition, from);
        let mut work = Work {
            shared: shared.clone(),
            source,
            changes,
            cutter: Cutter::new(rules.limits, form),
            rules,
            name,
            form,
            promise: None,
            tape: None,
            told_open: false,
            stop: stop.clone(),
            lost: 0,
            warned: false,
        };
        let run = move || {
            let id = work.source.broadcast().id().clone();
            let counted = Counted::new(&work.shared);
            let outcome = match work.run() {
                Ok(epoch) => Outcome::Over { epoch },
                Err(error) => {
                    tracing::error!(broadcast = %id, %error, "recording failed, the stream goes on");
                    work.shared.door.errors.inc();
                    work.source.end();
                    work.note_missing();
                    work.hand_over(Some(error.to_string()));
                    work.give_up(error.to_string());
                    Outcome::Failed
                }
            };
            drop((counted, work));
            let _ = report.send(outcome);
        };
        let thread = thread::Builder::new().name("record".into()).stack_size(STACK_BYTES).spawn(run)?.thread().clone();
        Ok((Self { stop, thread }, outcome))
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.thread.unpark();
    }
}

/// One more recording in the metrics, as long as it lives.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.recording.inc();
        Self(shared.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.recording.dec();
    }
}

struct Work {
    shared: Arc<Shared>,
    source: Source,
    changes: tokio::sync::watch::Receiver<u64>,
    rules: Rules,
    cutter: Cutter,
    name: Option<String>,
    form: Form,
    /// Of the file that is to begin with the next picture of a rendition, once that is late.
    promise: Option<Promise>,
    tape: Option<Tape>,
    /// The row says that something is being left out.
    told_open: bool,
    stop: Arc<AtomicBool>,
    /// Frames lost so far, over all files.
    lost: u64,
    /// It was said what is missing.
    warned: bool,
}

impl Work {
    fn run(&mut self) -> Result<u64, SessionError> {
        check_room(&self.shared.store, self.shared.settings.free_disk_mb_min)?;
        let gap = Duration::from_micros(self.rules.limits.gap_us.unsigned_abs());
        let mut over_since: Option<Instant> = None;
        let mut lost_since: Option<Instant> = None;
        let mut flushed = false;
        let mut told_at = Instant::now();
        loop {
            // Looked at before the frames, so that nothing written earlier is missed.
            let stop = self.stop.load(Relaxed);
            let epoch = self.source.broadcast().epoch();
            let status = self.source.broadcast().status();
            let some = self.drain()?;
            if status == Status::Interrupted {
                lost_since.get_or_insert_with(Instant::now);
            }
            match status {
                Status::Live => (over_since, lost_since, flushed) = (None, None, false),
                Status::Interrupted if !flushed => {
                    self.cutter.flush();
                    self.apply()?;
                    flushed = true;
                }
                Status::Interrupted => {}
                Status::Ended if some => over_since = Some(Instant::now()),
                Status::Ended => {}
            }
            let over = status == Status::Ended
                && over_since.get_or_insert_with(Instant::now).elapsed() >= TAIL
                && lost_since.is_none_or(|since| since.elapsed() >= gap);
            if stop || over || self.source.is_withdrawn() {
                self.source.end();
                self.note_missing();
                self.cutter.finish()?;
                self.apply()?;
                self.give_up(NEVER_MADE.to_owned());
                return Ok(epoch);
            }
            if told_at.elapsed() >= TELL_EVERY {
                self.tell_open_gap()?;
                told_at = Instant::now();
            }
            thread::park_timeout(LOOK_EVERY);
        }
    }

    /// Takes everything that is there; true if anything was.
    fn drain(&mut self) -> Result<bool, SessionError> {
        let mut some = false;
        self.cutter.target(self.source.broadcast().segment_target_s());
        loop {
            let frame = self.source.next();
            // A change that precedes this frame in the hall is seen before the frame is used: an announced track must
            // be expected before a file begins without it.
            if self.changes.has_changed().unwrap_or(false) {
                self.changes.mark_unchanged();
                self.source.refresh();
            }
            let Some(frame) = frame else { break };
            some = true;
            self.note_missing();
            self.cutter.expect(self.source.has(Kind::Video), self.source.has(Kind::Audio));
            self.shared.door.received.inc();
            self.cutter.handle_frame(frame)?;
            self.apply()?;
        }
        let lost = self.source.skipped() + self.cutter.discarded();
        if lost > self.lost {
            let frames = lost - self.lost;
            self.lost = lost;
            self.shared.door.dropped.inc_by(frames);
            if let Some(tape) = &mut self.tape {
                tape.lost(frames);
            }
            tracing::warn!(broadcast = %self.source.broadcast().id(), frames, "frames are missing from the recording");
        }
        Ok(some)
    }

    fn apply(&mut self) -> Result<(), SessionError> {
        while let Some(step) = self.cutter.poll_step() {
            match step {
                Step::Begin { init, start_us, epoch } => {
                    let Shared { store, rows, settings, .. } = &*self.shared;
                    check_room(store, settings.free_disk_mb_min)?;
                    let started_ms = self.wall_ms(start_us);
                    let promise = self.promise.take().map_or_else(|| self.promise(started_ms, epoch), Ok)?;
                    let tape = Tape::begin(store, rows, promise, epoch, started_ms, self.form)?;
                    let broadcast = self.source.broadcast();
                    tracing::info!(broadcast = %broadcast.id(), file = %tape.place(), vod_id = %tape.row().vod_id, "recording");
                    self.tape.insert(tape).describe(&init)?;
                    self.note_missing();
                    self.warn_of_gaps();
                }
                Step::Turn { init } => {
                    if let Some(tape) = &mut self.tape {
                        tape.describe(&init)?;
                    }
                }
                Step::Append { fragment, frames, from_us, until_us, sync } => {
                    let Some(tape) = &mut self.tape else { continue };
                    if sync {
                        check_room(&self.shared.store, self.shared.settings.free_disk_mb_min)?;
                    }
                    let target_s = self.source.broadcast().segment_target_s();
                    tape.append(&fragment, Stretch { from_us, until_us, sync, target_s })?;
                    if self.form == Form::Hls
                        && let Some(uploads) = &self.shared.uploads
                    {
                        uploads.add(tape.row(), tape.place());
                    }
                    self.shared.door.sent.inc_by(frames);
                }
                Step::End => self.hand_over(None),
            }
        }
        Ok(())
    }

    /// In the row of the file that goes on, or else of the next one.
    fn note_missing(&mut self) {
        if let Some(tape) = &mut self.tape
            && let Some(missing) = self.source.poll_missing()
        {
            let Missing { gaps, duration_us, .. } = missing;
            tracing::warn!(broadcast = %self.source.broadcast().id(), file = %tape.place(), gaps, missing_ms = duration_us / 1_000, "a recorded rendition was not made for a while");
            tape.misses(missing);
            self.shared.rows.save(tape.row());
            self.told_open = false;
        }
    }

    /// Of a rendition that is not made at the moment the row says so already: a process that is killed can't.
    fn tell_open_gap(&mut self) -> Result<(), SessionError> {
        let open = self.source.open_gap();
        match (open, &self.tape) {
            (Some(open), Some(tape)) => drop(self.shared.rows.save(&tape.row_with(open))),
            (Some(open), None) => {
                let promise = match self.promise.take() {
                    Some(promise) => promise,
                    None => self.promise(self.wall_ms(open.from_us), self.source.broadcast().epoch())?,
                };
                self.promise.insert(promise).waits(&self.shared.rows, open);
            }
            // It has come after all.
            (None, Some(tape)) if self.told_open => drop(self.shared.rows.save(tape.row())),
            (None, _) => {}
        }
        self.told_open = open.is_some() && self.tape.is_some();
        Ok(())
    }

    fn promise(&self, started_ms: i64, epoch: u64) -> Result<Promise, TapeError> {
        let title = Title {
            id: self.source.broadcast().id(),
            name: self.name.as_deref(),
            date_time: self.rules.date_time,
            rendition: self.source.rendition(),
            form: self.form,
        };
        Promise::new(&self.shared.store, &self.shared.rows, title, epoch, started_ms, chance::entropy())
    }

    /// On the broadcast's clock.
    fn wall_ms(&self, at_us: i64) -> i64 {
        (self.source.broadcast().born_us() + at_us) / 1_000
    }

    /// A rendition that was wanted and of which no file has come is told of, too.
    fn give_up(&mut self, reason: String) {
        let missing = self.source.poll_missing();
        let broadcast = self.source.broadcast();
        let promise = match (self.promise.take(), missing) {
            (Some(promise), _) => promise,
            (None, Some(missing)) => match self.promise(self.wall_ms(missing.from_us), broadcast.epoch()) {
                Ok(promise) => promise,
                Err(error) => return tracing::error!(broadcast = %broadcast.id(), %error, "a recording is not told of"),
            },
            (None, None) => return,
        };
        self.shared.door.errors.inc();
        tracing::error!(broadcast = %broadcast.id(), rendition = ?self.source.rendition(), reason, "nothing was recorded");
        promise.fail(&self.shared.rows, missing.unwrap_or_default(), reason);
    }

    fn hand_over(&mut self, failed: Option<String>) {
        if let Some(tape) = self.tape.take() {
            self.shared.finalise(tape.end(failed));
        }
    }

    /// Tracks that nobody can put into an MP4, said once: when the first file begins, who converts tracks has had the
    /// time to say so.
    fn warn_of_gaps(&mut self) {
        if std::mem::replace(&mut self.warned, true) {
            return;
        }
        let broadcast = self.source.broadcast();
        for kind in [Kind::Video, Kind::Audio] {
            if let Some(info) = broadcast.source(kind).and_then(|track| track.info())
                && broadcast.choose(kind, Delivery::Mp4).is_none()
            {
                let codec = info.codec.name();
                tracing::warn!(broadcast = %broadcast.id(), codec, "a track can't be recorded: MP4 does not carry it and nobody converts it");
            }
        }
    }
}
