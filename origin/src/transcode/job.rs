//! One source track and all that is made of it, from being asked for to resting again. In: outputs that are on. Out: a
//! thread that converts while there are some, started again when it fails. Deliberately absent: demand (`output`), and
//! what is converted into what.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use headwater_common::{
    live::{Broadcast, Start, Track},
    media::{Conversion, Kind},
    telemetry::Door,
};
use tokio::{sync::oneshot, time};

use super::{
    ConvertError,
    converter::Converter,
    libav,
    output::{Output, Outputs},
    pace::Strain,
};

/// A job that failed is tried again after this, then after twice as long, and so on.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How often a thread that gets no frames looks whether it is still needed.
const PATIENCE: Duration = Duration::from_millis(250);

pub(super) struct Job {
    pub(super) broadcast: Arc<Broadcast>,
    pub(super) source: Arc<Track>,
    pub(super) outputs: Arc<Outputs>,
    pub(super) door: Door,
}

impl Job {
    /// Goes on for ever. Dropping the future stops the thread.
    pub(super) async fn run(self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            self.outputs.until(true).await;
            let began = time::Instant::now();
            let outcome = match self.start() {
                Ok(mut worker) => {
                    tokio::select! {
                        () = self.outputs.until(false) => worker.stop.store(true, Relaxed),
                        _ = &mut worker.ended => {}
                    }
                    worker.join().await
                }
                Err(error) => Err(Failure::Thread(error)),
            };
            self.outputs.clear();
            match outcome {
                Ok(()) => {
                    backoff = BACKOFF_MIN;
                    if !self.outputs.on().is_empty() {
                        // The source closed, or somebody came just now: not worth a busy loop in either case.
                        time::sleep(PATIENCE).await;
                    }
                }
                Err(failure) => {
                    self.door.errors.inc();
                    if began.elapsed() > BACKOFF_MAX {
                        backoff = BACKOFF_MIN;
                    }
                    tracing::warn!(
                        broadcast = %self.broadcast.id(), source = self.source.name(), %failure,
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

    fn start(&self) -> std::io::Result<Worker> {
        let stop = Arc::new(AtomicBool::new(false));
        let (alive, ended) = oneshot::channel();
        let work = Work {
            source: self.source.clone(),
            outputs: self.outputs.clone(),
            door: self.door.clone(),
            stop: stop.clone(),
        };
        let span = tracing::info_span!("transcode", broadcast = %self.broadcast.id(), source = self.source.name());
        let name = match self.source.kind() {
            Kind::Video => "transcode-video",
            Kind::Audio => "transcode-audio",
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Dropped however this ends: that is how the job notices.
            let _alive: oneshot::Sender<()> = alive;
            let _entered = span.enter();
            work.run()
        })?;
        Ok(Worker { stop, ended, thread: Some(thread) })
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
    outputs: Arc<Outputs>,
    door: Door,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn run(&self) -> Result<(), ConvertError> {
        libav::init();
        let Some(first) = self.outputs.on().into_iter().next() else { return Ok(()) };
        let mut converter = Converter::new(first.conversion, self.door.clone());
        let mut reader = self.source.read(if converter.complete() { unread(&first) } else { Start::Newest });
        let mut strain = Strain::default();
        let mut active: Vec<Arc<Output>> = Vec::new();
        let mut version = None;
        let mut made = Vec::new();
        while !self.stop.load(Relaxed) {
            if version != Some(self.outputs.version()) {
                version = Some(self.outputs.version());
                self.follow_demand(&mut active, &mut converter);
            }
            let frame = match reader.next_blocking(PATIENCE) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => continue,
            };
            self.door.received.inc();
            for output in active.iter().filter(|output| output.track.take_keyframe_request()) {
                converter.want_keyframe(output.id);
            }
            let turn = converter.take(&frame, reader.behind_us(), &mut made)?;
            self.hand_out(&active, &mut made);
            active.iter().for_each(|output| output.pen().read_us = frame.dts_us);
            if turn.damaged {
                // Publishers that can, send a keyframe; the others do so when they do.
                self.source.request_keyframe();
            }
            if turn.skip {
                self.door.dropped.inc_by(reader.skip_to_newest());
            }
            if strain.is_too_much(frame.dts_us, turn.pace) {
                leave_out_top(&active);
            }
        }
        Ok(())
    }

    /// Makes what is on, and nothing else.
    fn follow_demand(&self, active: &mut Vec<Arc<Output>>, converter: &mut Converter) {
        let on = self.outputs.on();
        active.retain(|output| {
            let stays = on.iter().any(|on| on.id == output.id);
            if !stays {
                tracing::info!(track = output.track.name(), "transcoding ends");
                converter.remove(output.id);
                output.pen().clear();
            }
            stays
        });
        for output in on {
            if active.iter().any(|active| active.id == output.id) {
                continue;
            }
            tracing::info!(track = output.track.name(), "transcoding begins");
            let rendition = match output.conversion {
                Conversion::Rendition(rendition) => Some(rendition),
                _ => None,
            };
            // A playlist can be played at once when its pictures begin with a whole gop.
            let past = output.track.take_past_request().then(|| self.source.read(Start::Whole));
            converter.add(output.id, rendition, output.pen().written_us, past);
            active.push(output);
        }
    }

    fn hand_out(&self, active: &[Arc<Output>], made: &mut Vec<super::video::Made>) {
        for (id, made) in made.drain(..) {
            let Some(output) = active.iter().find(|output| output.id == id) else { continue };
            match made {
                Ok(frame) => output.pen().write(frame),
                Err(error) => {
                    self.door.errors.inc();
                    tracing::warn!(track = output.track.name(), %error, "can't be transcoded for now");
                    output.give_up();
                }
            }
        }
    }
}

/// A playlist is full at once when its sound begins with all that the ring holds.
fn unread(output: &Output) -> Start {
    Start::At { dts_us: output.pen().read_us.saturating_add(1) }
}

/// The largest rendition gives way, so that what is left keeps up. Its viewers are passed the source, or have less.
fn leave_out_top(active: &[Arc<Output>]) {
    let height = |output: &&Arc<Output>| match output.conversion {
        Conversion::Rendition(rendition) => Some(rendition.height),
        _ => None,
    };
    if let Some(top) = active.iter().filter(|output| height(output).is_some()).max_by_key(height) {
        tracing::warn!(track = top.track.name(), "this machine can't keep up: the rendition is left out for a while");
        top.give_up();
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
