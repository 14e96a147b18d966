//! One derived track, from being asked for to resting again. In: demand on the track. Out: a thread that converts
//! while there is demand, started again when it fails. Deliberately absent: what is converted into what.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use headwater_common::{
    live::{Broadcast, Start, Track, TrackWriter},
    media::{Conversion, Frame, Kind},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time,
};

use super::{ConvertError, converter::Converter, libav, supervise::Gauges};

/// A page that is reloaded or a player that retries comes back within this, and finds the encoder running.
const LINGER: Duration = Duration::from_secs(5);
/// A job that failed is tried again after this, then after twice as long, and so on.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How often a thread that gets no frames looks whether it is still needed.
const PATIENCE: Duration = Duration::from_millis(250);

pub(super) struct Job {
    broadcast: Arc<Broadcast>,
    source: Arc<Track>,
    conversion: Conversion,
    gauges: Gauges,
    /// One is taken while the thread runs; sound needs none.
    places: Option<Arc<Semaphore>>,
    track: Arc<Track>,
    output: Arc<Mutex<Output>>,
}

/// The derived track's end of a job. It outlives the threads that write through it.
struct Output {
    writer: TrackWriter,
    gauges: Gauges,
    /// What a new thread has to go on behind.
    written_us: i64,
    read_us: i64,
}

impl Job {
    pub(super) fn new(
        broadcast: Arc<Broadcast>,
        source: Arc<Track>,
        conversion: Conversion,
        gauges: Gauges,
        places: Option<Arc<Semaphore>>,
    ) -> Self {
        let writer = broadcast.derive(conversion);
        let track = writer.track().clone();
        let output = Output { writer, gauges: gauges.clone(), written_us: i64::MIN, read_us: i64::MIN };
        Self { broadcast, source, conversion, gauges, places, track, output: Arc::new(Mutex::new(output)) }
    }

    /// Goes on for ever. Dropping the future stops the thread.
    pub(super) async fn run(self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            self.track.wanted().await;
            let place = match &self.places {
                Some(places) => tokio::select! {
                    place = self.place(places) => Some(place),
                    () = rested(&self.track) => continue,
                },
                None => None,
            };
            let began = time::Instant::now();
            let outcome = match self.start() {
                Ok(mut worker) => {
                    tokio::select! {
                        () = rested(&self.track) => worker.stop.store(true, Relaxed),
                        _ = &mut worker.ended => {}
                    }
                    worker.join().await
                }
                Err(error) => Err(Failure::Thread(error)),
            };
            drop(place);
            // Nobody reads it now, or it begins anew: either way nobody should be shown what is in there.
            self.lock_output().writer.clear();
            match outcome {
                Ok(()) => {
                    backoff = BACKOFF_MIN;
                    if self.track.readers() > 0 {
                        // The source closed, or somebody came just now: not worth a busy loop in either case.
                        time::sleep(PATIENCE).await;
                    }
                }
                Err(failure) => {
                    self.gauges.door.errors.inc();
                    if began.elapsed() > BACKOFF_MAX {
                        backoff = BACKOFF_MIN;
                    }
                    tracing::warn!(
                        broadcast = %self.broadcast.id(), track = self.track.name(), %failure,
                        retry_s = backoff.as_secs(), "transcoding failed"
                    );
                    // A publisher that changes its format may have mended what was wrong.
                    let mut news = self.broadcast.watch();
                    let _ = time::timeout(backoff, news.changed()).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// Meanwhile the log, REST and a metric say why nothing comes.
    async fn place(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = places.clone().try_acquire_owned() {
            return Some(place);
        }
        tracing::warn!(
            broadcast = %self.broadcast.id(), track = self.track.name(),
            "as many transcodes as this machine takes are running: this one waits"
        );
        let _counted = self.gauges.waiting();
        let _said = Said::new(&self.track);
        // Nobody closes it.
        places.clone().acquire_owned().await.ok()
    }

    fn start(&self) -> std::io::Result<Worker> {
        let stop = Arc::new(AtomicBool::new(false));
        let (alive, ended) = oneshot::channel();
        let work = Work {
            source: self.source.clone(),
            track: self.track.clone(),
            conversion: self.conversion,
            gauges: self.gauges.clone(),
            output: self.output.clone(),
            stop: stop.clone(),
        };
        let span = tracing::info_span!("transcode", broadcast = %self.broadcast.id(), track = self.track.name());
        let name = match self.track.kind() {
            Kind::Video => "transcode-video",
            Kind::Audio => "transcode-audio",
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Dropped however this ends: that is how the job notices.
            let _alive: oneshot::Sender<()> = alive;
            let _running = work.gauges.running(work.track.kind());
            let _entered = span.enter();
            tracing::info!("transcoding starts");
            let outcome = work.run();
            tracing::info!("transcoding ends");
            outcome
        })?;
        Ok(Worker { stop, ended, thread: Some(thread) })
    }

    fn lock_output(&self) -> std::sync::MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Convert(ConvertError),
    #[error("panic: {0}")]
    Panic(String),
    #[error("no thread: {0}")]
    Thread(std::io::Error),
}

/// A running thread. Dropping this asks it to stop.
struct Worker {
    stop: Arc<AtomicBool>,
    ended: oneshot::Receiver<()>,
    thread: Option<JoinHandle<Result<(), ConvertError>>>,
}

impl Worker {
    async fn join(mut self) -> Result<(), Failure> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        // A thread sees `stop` with its next frame, or within `PATIENCE`; but an encoder may be busy.
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match joined {
            Ok(Ok(outcome)) => outcome.map_err(Failure::Convert),
            Ok(Err(panic)) => {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                Err(Failure::Panic(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()))
            }
            Err(error) => Err(Failure::Panic(error.to_string())),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// What a thread takes with it.
struct Work {
    source: Arc<Track>,
    track: Arc<Track>,
    conversion: Conversion,
    gauges: Gauges,
    output: Arc<Mutex<Output>>,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn run(&self) -> Result<(), ConvertError> {
        libav::init();
        // Held for as long as the thread lives: there is one writer. A predecessor that panicked left it whole.
        let mut output = self.output.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let door = &self.gauges.door;
        let mut converter = Converter::new(self.conversion, door.clone(), output.written_us);
        // A playlist is full at once when its sound begins with all that the ring holds.
        let everything = Start::At { dts_us: output.read_us.saturating_add(1) };
        let mut reader = self.source.read(if converter.complete() { everything } else { Start::Newest });
        let mut made = Vec::new();
        while !self.stop.load(Relaxed) {
            let frame = match reader.next_blocking(PATIENCE) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => continue,
            };
            door.received.inc();
            if self.track.take_keyframe_request() {
                converter.want_keyframe();
            }
            let turn = converter.take(&frame, reader.behind_us(), &mut made)?;
            output.read_us = frame.dts_us;
            output.write(&mut made);
            if turn.damaged {
                // Publishers that can, send a keyframe; the others do so when they do.
                self.source.request_keyframe();
            }
            if turn.skip {
                door.dropped.inc_by(reader.skip_to_newest());
            }
        }
        Ok(())
    }
}

impl Output {
    fn write(&mut self, made: &mut Vec<Frame>) {
        for frame in made.drain(..) {
            // A new encoder's priming, or sound whose clock was set back, may lie before what is written.
            if frame.dts_us <= self.written_us {
                self.gauges.door.dropped.inc();
                continue;
            }
            self.written_us = frame.dts_us;
            self.gauges.door.sent.inc();
            self.writer.write(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_worker_only() {
        let (alive, ended) = oneshot::channel::<()>();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn(move || -> Result<(), ConvertError> {
            let _alive = alive;
            panic!("a bad frame");
        });
        let mut worker = Worker { stop: stop.clone(), ended, thread: Some(thread) };
        assert!((&mut worker.ended).await.is_err(), "noticed");
        assert_eq!(worker.join().await.unwrap_err().to_string(), "panic: a bad frame");
        assert!(stop.load(Relaxed));
    }
}
