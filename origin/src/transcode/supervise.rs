//! Who needs what. In: the hub's and the broadcasts' changes, the ladders. Out: derived tracks declared, and a [`Job`] for
//! each source that waits for somebody to read one. Deliberately absent: the conversions.
//!
//! A declared track costs nothing while nobody reads it, so it stays when its source changes to a format that needs
//! no conversion: readers that still follow it are served from the new format until they choose anew.

use std::{
    sync::{Arc, Weak, atomic::AtomicI64},
    thread::available_parallelism,
};

use headwater_common::{
    ladder::{self, Rendition, Rung},
    live::{Broadcast, Hub, Track},
    media::{Accepts, Conversion, Delivery, Info, Kind, Shape},
    telemetry::{Door, Telemetry},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    job::Job,
    libav,
    output::{Outputs, PLACES_PER_720P},
    rendering::foresee,
};
use crate::ladders::Ladders;

/// Tracks that are made of one source, in all its life: who changes a broadcast's ladder again and again must not fill
/// the memory.
const OUTPUTS_MAX: usize = 64;

/// Which conversions an operator wants. Without them tracks are handed out as they are, where an output can take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// B-frame removal, and H.264 from other codecs: a fifth of a core per 720p30 while somebody watches.
    pub video: bool,
    /// AAC→Opus and Opus→AAC: one or two hundredths of a core.
    pub audio: bool,
    /// How many of 720p30 may run at a time; larger and smaller ones count by their pixels. Those beyond wait until
    /// others rest: the top of a ladder finds no room first.
    pub video_jobs_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        // So many 720p30 fill four fifths of the machine. More pictures a second fill it sooner: then some are left out.
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
    left_out: Gauge<i64, AtomicI64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

impl Gauges {
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        let running = Family::<KindLabel, Gauge<i64, AtomicI64>>::default();
        let waiting = Gauge::<i64, AtomicI64>::default();
        let left_out = Gauge::<i64, AtomicI64>::default();
        telemetry.register(|registry| {
            registry.register("transcodes", "Conversions that run now, by kind of track", running.clone());
            let help = "Conversions of video that somebody wants and that wait until another one rests";
            registry.register("transcodes_waiting", help, waiting.clone());
            let help = "Renditions that are left out for a while because the machine can't keep up";
            registry.register("renditions_left_out", help, left_out.clone());
        });
        Self { door: telemetry.door("transcode"), running, waiting, left_out }
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

    /// Counts what is left out until the value is dropped.
    pub(super) fn left_out(&self) -> Counted {
        Counted::new(self.left_out.clone())
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
pub async fn run(hub: Arc<Hub>, telemetry: Telemetry, settings: Settings, ladders: Ladders) {
    libav::init();
    let gauges = Gauges::new(&telemetry);
    let places_all = settings.video_jobs_max as u32 * PLACES_PER_720P;
    let places = Places { free: Arc::new(Semaphore::new(places_all as usize)), all: places_all };
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
            let attendant = Attendant {
                broadcast,
                gauges: gauges.clone(),
                places: places.clone(),
                settings,
                ladders: ladders.clone(),
                video: None,
                declared: Vec::new(),
                foretold: None,
                tasks: JoinSet::new(),
            };
            broadcasts.spawn(attendant.run(hub.clone()));
        }
        tokio::select! {
            changed = watch.changed() => if changed.is_err() { return },
            Some(_) = broadcasts.join_next() => {}
        }
    }
}

/// Room on this machine, for pictures.
#[derive(Clone)]
pub(super) struct Places {
    pub(super) free: Arc<Semaphore>,
    pub(super) all: u32,
}

/// One broadcast, as long as it is in the hub.
struct Attendant {
    broadcast: Arc<Broadcast>,
    gauges: Gauges,
    places: Places,
    settings: Settings,
    ladders: Ladders,
    /// All that is made of the source's pictures.
    video: Option<Arc<Outputs>>,
    declared: Vec<Conversion>,
    /// For which ladder and source it was said what renditions will be.
    foretold: Option<(Vec<Rendition>, Arc<Info>)>,
    tasks: JoinSet<()>,
}

impl Attendant {
    async fn run(mut self, hub: Arc<Hub>) {
        let (mut watch, mut ladders) = (self.broadcast.watch(), self.ladders.watch());
        let mut asked_for = None;
        loop {
            watch.mark_unchanged();
            if !hub.get(self.broadcast.id()).is_some_and(|current| Arc::ptr_eq(&current, &self.broadcast)) {
                return;
            }
            let epoch = self.broadcast.epoch();
            // Looked up once for each publisher: that may be a question to a database.
            let rungs = match asked_for.take().filter(|(of, _): &(u64, Vec<Rung>)| *of == epoch) {
                Some((_, rungs)) => rungs,
                None => self.ladders.of(self.broadcast.id()).await,
            };
            let plan = self.plan(&rungs);
            asked_for = Some((epoch, rungs));
            for conversion in self.needed(&plan) {
                self.declare(conversion);
            }
            self.foretell(plan).await;
            tokio::select! {
                changed = watch.changed() => if changed.is_err() { return },
                _ = ladders.changed() => asked_for = None,
            }
        }
    }

    fn source(&self, kind: Kind) -> Option<Arc<Info>> {
        let wanted = match kind {
            Kind::Video => self.settings.video,
            Kind::Audio => self.settings.audio,
        };
        self.broadcast.source(kind).filter(|_| wanted)?.info()
    }

    fn plan(&self, rungs: &[Rung]) -> Vec<Rendition> {
        match self.source(Kind::Video).map(|info| info.shape) {
            Some(Shape::Video { height, .. }) => ladder::plan(rungs, height),
            _ => Vec::new(),
        }
    }

    /// For peers that take only what all take: nobody knows who comes, and a track that is not read costs nothing.
    fn needed(&self, plan: &[Rendition]) -> Vec<Conversion> {
        let mut conversions: Vec<_> = plan.iter().copied().map(Conversion::Rendition).collect();
        for kind in [Kind::Video, Kind::Audio] {
            let Some(info) = self.source(kind) else { continue };
            for delivery in [Delivery::WebRtc(Accepts::EVERYWHERE), Delivery::Mp4] {
                conversions.extend(info.obstacle(delivery));
            }
            if kind == Kind::Audio {
                let with_sound = plan.iter().filter(|rendition| rendition.audio_kbps > 0);
                conversions.extend(with_sound.map(|rendition| Conversion::Sound { kbps: rendition.audio_kbps }));
            }
        }
        conversions
    }

    fn declare(&mut self, conversion: Conversion) {
        if self.declared.contains(&conversion) {
            return;
        }
        self.declared.push(conversion);
        let Some(source) = self.broadcast.source(conversion.target().kind()) else { return };
        let broadcast = self.broadcast.id();
        if let Some(missing) = missing(&source, conversion) {
            tracing::warn!(%broadcast, %conversion, %missing, "can't be transcoded");
            return;
        }
        let known = self.video.clone().filter(|_| source.kind() == Kind::Video);
        let outputs = known.unwrap_or_else(|| {
            let outputs = Outputs::new();
            let (broadcast, door) = (self.broadcast.clone(), self.gauges.door.clone());
            self.tasks.spawn(Job { broadcast, source: source.clone(), outputs: outputs.clone(), door }.run());
            outputs
        });
        if source.kind() == Kind::Video {
            self.video = Some(outputs.clone());
        }
        if outputs.len() >= OUTPUTS_MAX {
            tracing::warn!(%broadcast, %conversion, "left out: so many renditions were asked for already");
            return;
        }
        let output = outputs.declare(&self.broadcast, conversion, self.gauges.door.clone());
        self.tasks.spawn(output.attend(outputs, source, self.gauges.clone(), self.places.clone()));
    }

    /// Says what the renditions will be, and then that there are some: playlists name them before anybody wants them.
    async fn foretell(&mut self, mut plan: Vec<Rendition>) {
        plan.retain(|&rendition| self.broadcast.derived(Conversion::Rendition(rendition)).is_some());
        if let (Some(source), Some(outputs)) = (self.source(Kind::Video), self.video.clone())
            && self.foretold.as_ref().is_none_or(|(told, of)| *told != plan || **of != *source)
        {
            self.foretold = Some((plan.clone(), source.clone()));
            let renditions = plan.clone();
            // An encoder is opened for that, which takes a few milliseconds.
            let foreseen = tokio::task::spawn_blocking(move || {
                let foreseen = |rendition| Some((rendition, foresee(rendition, &source).transpose()?));
                renditions.into_iter().filter_map(foreseen).collect::<Vec<_>>()
            });
            for (rendition, info) in foreseen.await.unwrap_or_default() {
                match info {
                    Ok(info) => outputs.foretell(Conversion::Rendition(rendition), info),
                    Err(error) => {
                        tracing::warn!(broadcast = %self.broadcast.id(), %rendition, %error, "can't be made");
                        plan.retain(|other| *other != rendition);
                    }
                }
            }
        }
        self.broadcast.offer(plan);
    }
}

/// FFmpeg is built in many ways. A track that can't be made must not be offered.
fn missing(source: &Track, conversion: Conversion) -> Option<super::ConvertError> {
    let source = source.info()?.codec;
    libav::encoder(conversion.target()).and_then(|_| libav::decoder(source)).err()
}
