//! One derived track as its job fills it. In: demand on the track, places on the machine, news from the job's thread.
//! Out: whether the thread should make it now, and what the thread writes. Deliberately absent: the thread.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use headwater_common::{
    live::{Broadcast, Track, TrackWriter},
    media::{Conversion, Frame, Info, Kind},
    telemetry::Door,
};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, watch},
    time,
};

use super::supervise::{Gauges, Places};

/// A page that is reloaded or a player that retries comes back within this, and finds the encoder running.
const LINGER: Duration = Duration::from_secs(5);
/// Who found no room looks again this often. A queue would let one that is large hold up all that are small.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long a track that was too much is left out, then twice as long, and so on.
const LEFT_OUT_MIN: Duration = Duration::from_secs(15);
const LEFT_OUT_MAX: Duration = Duration::from_secs(240);

/// One place is this part of what a picture of 1280×720 takes.
pub(super) const PLACES_PER_720P: u32 = 16;

pub(super) struct Output {
    pub(super) id: usize,
    pub(super) conversion: Conversion,
    pub(super) track: Arc<Track>,
    pen: Mutex<Pen>,
    /// Somebody reads it and there is room: the thread makes it.
    on: AtomicBool,
    /// The thread can't make it, or not in time.
    given_up: Notify,
}

/// Outlives the threads that write with it.
pub(super) struct Pen {
    writer: TrackWriter,
    door: Door,
    /// What a new thread has to go on behind.
    pub(super) written_us: i64,
    pub(super) read_us: i64,
}

/// All that is made of one source track.
pub(super) struct Outputs {
    all: Mutex<Vec<Arc<Output>>>,
    /// How many are on, for who starts the thread; and a number that changes with them, for the thread.
    on: watch::Sender<usize>,
    version: AtomicUsize,
}

impl Outputs {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { all: Mutex::default(), on: watch::Sender::new(0), version: AtomicUsize::new(0) })
    }

    /// To be called once for each conversion.
    pub(super) fn declare(&self, broadcast: &Broadcast, conversion: Conversion, door: Door) -> Arc<Output> {
        let mut all = self.lock();
        let writer = broadcast.derive(conversion);
        let track = writer.track().clone();
        let pen = Mutex::new(Pen { writer, door, written_us: i64::MIN, read_us: i64::MIN });
        let (on, given_up) = (AtomicBool::new(false), Notify::new());
        let output = Arc::new(Output { id: all.len(), conversion, track, pen, on, given_up });
        all.push(output.clone());
        output
    }

    pub(super) fn foretell(&self, conversion: Conversion, info: Info) {
        if let Some(output) = self.lock().iter().find(|output| output.conversion == conversion) {
            output.pen().writer.foretell(info);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Those that are to be made now.
    pub(super) fn on(&self) -> Vec<Arc<Output>> {
        self.lock().iter().filter(|output| output.on.load(Relaxed)).cloned().collect()
    }

    pub(super) fn version(&self) -> usize {
        self.version.load(Relaxed)
    }

    /// Resolves when some output is on, or when none is.
    pub(super) async fn until(&self, some: bool) {
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = self.on.subscribe().wait_for(|on| (*on > 0) == some).await;
    }

    /// Nobody writes any more: nobody should be shown what is in there.
    pub(super) fn clear(&self) {
        self.lock().iter().for_each(|output| output.pen().clear());
    }

    fn switch(&self, output: &Output, on: bool) {
        if output.on.swap(on, Relaxed) != on {
            self.version.fetch_add(1, Relaxed);
            self.on.send_modify(|count| if on { *count += 1 } else { *count -= 1 });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Output>>> {
        self.all.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Output {
    pub(super) fn pen(&self) -> MutexGuard<'_, Pen> {
        // A thread that panicked left it whole.
        self.pen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The thread can't make it, or not in time.
    pub(super) fn give_up(&self) {
        self.given_up.notify_one();
    }

    /// Switches it on while somebody reads it and there is room. Goes on for ever.
    pub(super) async fn attend(
        self: Arc<Self>,
        outputs: Arc<Outputs>,
        source: Arc<Track>,
        gauges: Gauges,
        places: Places,
    ) {
        let mut left_out = LEFT_OUT_MIN;
        loop {
            self.track.wanted().await;
            let place = tokio::select! {
                place = self.place(&source, &gauges, &places) => place,
                () = rested(&self.track) => continue,
            };
            let began = time::Instant::now();
            let running = gauges.running(self.track.kind());
            // What the thread said last, after it was told to stop, does not count any more.
            let _ = time::timeout(Duration::ZERO, self.given_up.notified()).await;
            outputs.switch(&self, true);
            let too_much = tokio::select! {
                () = rested(&self.track) => false,
                () = self.given_up.notified() => true,
            };
            outputs.switch(&self, false);
            drop((place, running));
            if began.elapsed() > LEFT_OUT_MAX {
                left_out = LEFT_OUT_MIN;
            }
            if too_much {
                let _left_out = gauges.left_out();
                let _said = Said::new(&self.track);
                time::sleep(left_out).await;
                left_out = (left_out * 2).min(LEFT_OUT_MAX);
            }
        }
    }

    /// Meanwhile the log, REST and a metric say why nothing comes.
    async fn place(&self, source: &Track, gauges: &Gauges, places: &Places) -> Option<OwnedSemaphorePermit> {
        if self.track.kind() == Kind::Audio {
            return None;
        }
        let takes = self.takes_places(source).clamp(1, places.all.max(1));
        let take = || places.free.clone().try_acquire_many_owned(takes).ok();
        if let Some(place) = take() {
            return Some(place);
        }
        tracing::warn!(
            track = self.track.name(),
            "as many transcodes as this machine takes are running: this one waits"
        );
        let _counted = gauges.waiting();
        let _said = Said::new(&self.track);
        loop {
            time::sleep(LOOK_AGAIN).await;
            if let Some(place) = take() {
                return Some(place);
            }
        }
    }

    fn takes_places(&self, source: &Track) -> u32 {
        let info = match self.conversion {
            Conversion::Rendition(_) => self.track.info().or(source.info()),
            _ => source.info(),
        };
        let pixels = info.map_or(0, |info| info.pixels());
        (pixels * u64::from(PLACES_PER_720P)).div_ceil(1280 * 720) as u32
    }
}

impl Pen {
    pub(super) fn write(&mut self, frame: Frame) {
        // A new encoder's priming, or sound whose clock was set back, may lie before what is written.
        if frame.dts_us <= self.written_us {
            self.door.dropped.inc();
            return;
        }
        self.written_us = frame.dts_us;
        self.door.sent.inc();
        self.writer.write(frame);
    }

    pub(super) fn clear(&mut self) {
        self.writer.clear();
    }
}

/// The track says that it waits, until this is dropped.
struct Said<'a>(&'a Track);

impl<'a> Said<'a> {
    fn new(track: &'a Track) -> Self {
        track.set_waiting(true);
        Self(track)
    }
}

impl Drop for Said<'_> {
    fn drop(&mut self) {
        self.0.set_waiting(false);
    }
}

/// Nobody has read for [`LINGER`].
async fn rested(track: &Track) {
    loop {
        track.unwanted().await;
        if time::timeout(LINGER, track.wanted()).await.is_err() {
            return;
        }
    }
}
