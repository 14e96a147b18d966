//! One node's hall, registry, store and recorder over a scratch directory, and publishers with real media.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use headwater_common::{
    live::{BroadcastId, Hub, Publisher, Takeover, Writer, Written},
    media::{Info, Kind, Sample},
    registry::{Ask, Bid, Embedded, Hall, Life, RecordingFilter, RecordingRow, RecordingState, Registry},
    store::{Place, Store, s3::Bucket},
    telemetry::Telemetry,
};
use headwater_origin::record::{Recorder, Settings};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::ffmpeg::Source;

pub(crate) const BORN_US: i64 = 1_750_000_000_000_000;

/// Material begins some milliseconds after zero, and so does a file.
pub(crate) fn began(started_ms: i64, at_us: i64) -> bool {
    (at_us / 1_000..at_us / 1_000 + 70).contains(&started_ms)
}

pub(crate) struct Stage {
    pub(crate) hub: Arc<Hub>,
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) store: Store,
    pub(crate) recorder: Recorder,
    pub(crate) telemetry: Telemetry,
    shutdown: oneshot::Sender<()>,
    run: JoinHandle<()>,
}

pub(crate) fn settings(record: bool) -> Settings {
    Settings { record, free_disk_mb_min: 1, ..Settings::default() }
}

pub(crate) fn id(stream: &str) -> BroadcastId {
    BroadcastId::new("live", stream).unwrap()
}

pub(crate) fn place(file: &str) -> Place {
    Place::new("live", file).unwrap()
}

impl Stage {
    pub(crate) async fn open(data: &Path, registry: &Path, settings: Settings) -> Self {
        fs::create_dir_all(data).unwrap();
        Self::with(data, Arc::new(Embedded::open(registry).unwrap().0), None, settings).await
    }

    pub(crate) async fn with(
        data: &Path,
        registry: Arc<dyn Registry>,
        bucket: Option<Bucket>,
        settings: Settings,
    ) -> Self {
        let (hub, store, telemetry) = (Hub::new(), Store::open(data).unwrap(), Telemetry::new());
        let recorder =
            Recorder::open(hub.clone(), registry.clone(), store.clone(), bucket, settings, &telemetry).await.unwrap();
        let (shutdown, told) = oneshot::channel::<()>();
        let running = recorder.clone();
        let run = tokio::spawn(async move {
            running
                .run(async {
                    let _ = told.await;
                })
                .await;
        });
        Self { hub, registry, store, recorder, telemetry, shutdown, run }
    }

    pub(crate) async fn new(data: &Path, record: bool) -> Self {
        Self::open(data, &data.join("registry.redb"), settings(record)).await
    }

    /// As at the end of the process; everything is released.
    pub(crate) async fn close(self) {
        self.shutdown.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(60), self.run).await.unwrap().unwrap();
    }

    pub(crate) async fn publish(&self, stream: &str, at_us: i64, sources: &[Source]) -> Show {
        let publisher = Publisher { protocol: "test", remote: "here".into(), agent: String::new() };
        let bid = Bid {
            life: Life::default(),
            publisher: publisher.clone(),
            ask: Ask::Enter(Takeover::Replace),
            hall: self.hub.get(&id(stream)).map(|broadcast| Hall::of(&broadcast)),
            webhook: true,
            now_us: at_us,
        };
        let claimed = self.registry.claim(&id(stream), &bid).await.unwrap();
        let claim = claimed.for_hall(publisher);
        let mut writer = self.hub.claim(&id(stream), claim, Takeover::Replace, at_us).unwrap();
        let mut samples: Vec<(Kind, Sample)> = Vec::new();
        for source in sources {
            let info = Info::from_config(source.codec, source.record.clone()).unwrap();
            samples.extend(source.samples.iter().map(|sample| (info.kind(), sample.clone())));
            writer.announce(info).unwrap();
        }
        samples.sort_by_key(|(kind, sample)| (sample.dts_us, *kind));
        Show { writer, at_us, samples, next: 0 }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.store.path(&place(file))
    }

    pub(crate) async fn row(&self, file: &str) -> Option<RecordingRow> {
        self.registry.recording_of_file("live", file).await.unwrap()
    }

    pub(crate) async fn rows(&self) -> Vec<RecordingRow> {
        self.registry.list_recordings("live", RecordingFilter::default(), 0, 1_000).await.unwrap()
    }

    pub(crate) async fn ready(&self, file: &str) -> RecordingRow {
        until(file, async || self.row(file).await.filter(|row| row.state == RecordingState::Ready)).await
    }

    pub(crate) async fn failed(&self, file: &str) -> (RecordingRow, String) {
        let reason = |row: RecordingRow| match row.state.clone() {
            RecordingState::Failed { reason } => Some((row, reason)),
            _ => None,
        };
        until(file, async || self.row(file).await.and_then(reason)).await
    }

    /// Until the recorder has read all that was published (files are written a little later).
    pub(crate) async fn taken(&self, frames: u64) {
        let metric = async || {
            let text = self.telemetry.render();
            let line = text.lines().find_map(|line| line.strip_prefix("headwater_received_total{door=\"record\"} "));
            line.and_then(|count| count.parse::<u64>().ok()).filter(|count| *count >= frames)
        };
        until("frames to be read", metric).await;
    }
}

pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A publisher with its material.
pub(crate) struct Show {
    pub(crate) writer: Writer,
    at_us: i64,
    samples: Vec<(Kind, Sample)>,
    next: usize,
}

impl Show {
    /// Publishes everything up to this time of the material; how many samples of video and audio the hall took.
    pub(crate) fn until(&mut self, end_us: i64) -> (u64, u64) {
        let mut counts = (0, 0);
        while let Some((kind, sample)) = self.samples.get(self.next).filter(|(_, sample)| sample.dts_us < end_us) {
            // Sound from before the first picture stays outside the hall.
            let written = self.writer.write(*kind, sample.clone(), self.at_us + sample.dts_us).unwrap();
            match kind {
                _ if written == Written::Dropped => {}
                Kind::Video => counts.0 += 1,
                Kind::Audio => counts.1 += 1,
            }
            self.next += 1;
        }
        counts
    }

    pub(crate) fn all(&mut self) -> (u64, u64) {
        self.until(i64::MAX)
    }

    pub(crate) fn finish(self) {
        let now_us = self.at_us + self.samples.last().map_or(0, |(_, sample)| sample.dts_us);
        self.writer.finish(now_us);
    }
}
