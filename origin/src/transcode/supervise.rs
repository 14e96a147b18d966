//! Who needs what. In: the hub's and the broadcasts' changes. Out: derived tracks declared, each with a [`Job`] that
//! waits for somebody to read it. Deliberately absent: the conversions.
//!
//! A declared track costs nothing while nobody reads it, so it stays when its source changes to a format that needs
//! no conversion: readers that still follow it are served from the new format until they choose anew.

use std::{
    sync::{Arc, Weak, atomic::AtomicI64},
    thread::available_parallelism,
};

use headwater_common::{
    live::{Broadcast, Hub, Track},
    media::{Accepts, Conversion, Delivery, Kind},
    telemetry::{Door, Telemetry},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{job::Job, libav};

/// Which conversions an operator wants. Without them tracks are handed out as they are, where an output can take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// B-frame removal, and H.264 from other codecs: a fifth of a core per 720p30 while somebody watches.
    pub video: bool,
    /// AAC→Opus and Opus→AAC: one or two hundredths of a core.
    pub audio: bool,
    /// How many of video may run at a time. Those beyond wait until one rests.
    pub video_jobs_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        // So many 720p30 fill four fifths of the machine. Larger pictures fill it sooner: then all leave out some.
        let video_jobs_max = 4 * available_parallelism().map_or(1, usize::from);
        Self { video: true, audio: true, video_jobs_max }
    }
}

/// The room's counters.
#[derive(Clone)]
pub(super) struct Gauges {
    pub(super) door: Door,
    running: Family<KindLabel, Gauge<i64, AtomicI64>>,
    waiting: Gauge<i64, AtomicI64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

impl Gauges {
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        let running = Family::<KindLabel, Gauge<i64, AtomicI64>>::default();
        let waiting = Gauge::<i64, AtomicI64>::default();
        telemetry.register(|registry| {
            registry.register("transcodes", "Conversions that run now, by kind of track", running.clone());
            let help = "Conversions of video that somebody wants and that wait until another one rests";
            registry.register("transcodes_waiting", help, waiting.clone());
        });
        Self { door: telemetry.door("transcode"), running, waiting }
    }

    /// Counts a conversion until the value is dropped.
    pub(super) fn running(&self, kind: Kind) -> Counted {
        let kind = match kind {
            Kind::Video => "video",
            Kind::Audio => "audio",
        };
        Counted::new(self.running.get_or_create_owned(&KindLabel { kind }))
    }

    /// Counts a conversion that waits until the value is dropped.
    pub(super) fn waiting(&self) -> Counted {
        Counted::new(self.waiting.clone())
    }
}

pub(super) struct Counted(Gauge<i64, AtomicI64>);

impl Counted {
    fn new(gauge: Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Serves the hub until the future is dropped, which also stops every conversion.
pub async fn run(hub: Arc<Hub>, telemetry: Telemetry, settings: Settings) {
    libav::init();
    let gauges = Gauges::new(&telemetry);
    let places = Arc::new(Semaphore::new(settings.video_jobs_max));
    let mut watch = hub.watch();
    let mut known: Vec<Weak<Broadcast>> = Vec::new();
    let mut broadcasts = JoinSet::new();
    loop {
        watch.mark_unchanged();
        known.retain(|broadcast| broadcast.strong_count() > 0);
        for broadcast in hub.list() {
            if known.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(&broadcast))) {
                continue;
            }
            known.push(Arc::downgrade(&broadcast));
            broadcasts.spawn(attend(hub.clone(), broadcast, gauges.clone(), places.clone(), settings));
        }
        tokio::select! {
            changed = watch.changed() => if changed.is_err() { return },
            Some(_) = broadcasts.join_next() => {}
        }
    }
}

/// One broadcast, as long as it is in the hub.
async fn attend(hub: Arc<Hub>, broadcast: Arc<Broadcast>, gauges: Gauges, places: Arc<Semaphore>, settings: Settings) {
    let mut watch = broadcast.watch();
    let mut declared: Vec<Conversion> = Vec::new();
    let mut jobs = JoinSet::new();
    loop {
        watch.mark_unchanged();
        if !hub.get(broadcast.id()).is_some_and(|current| Arc::ptr_eq(&current, &broadcast)) {
            return;
        }
        for conversion in needed(&broadcast, settings) {
            if declared.contains(&conversion) {
                continue;
            }
            declared.push(conversion);
            let Some(source) = broadcast.source(conversion.target().kind()) else { continue };
            if let Some(missing) = missing(&source, conversion) {
                tracing::warn!(broadcast = %broadcast.id(), %conversion, %missing, "can't be transcoded");
                continue;
            }
            let places = (source.kind() == Kind::Video).then(|| places.clone());
            jobs.spawn(Job::new(broadcast.clone(), source, conversion, gauges.clone(), places).run());
        }
        if watch.changed().await.is_err() {
            return;
        }
    }
}

/// For peers that take only what all take: nobody knows who comes, and a track that is not read costs nothing.
fn needed(broadcast: &Broadcast, settings: Settings) -> Vec<Conversion> {
    let mut conversions = Vec::new();
    for (kind, wanted) in [(Kind::Video, settings.video), (Kind::Audio, settings.audio)] {
        let info = broadcast.source(kind).filter(|_| wanted).and_then(|source| source.info());
        for delivery in [Delivery::WebRtc(Accepts::EVERYWHERE), Delivery::Mp4] {
            conversions.extend(info.as_ref().and_then(|info| info.obstacle(delivery)));
        }
    }
    conversions
}

/// FFmpeg is built in many ways. A track that can't be made must not be offered.
fn missing(source: &Track, conversion: Conversion) -> Option<super::ConvertError> {
    let source = source.info()?.codec;
    libav::encoder(conversion.target()).and_then(|_| libav::decoder(source)).err()
}
