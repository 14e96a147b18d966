//! The way of finished recordings into the bucket, however long it takes.
//!
//! In: finished files, deletions, and what earlier processes left behind. Out: objects in the bucket, rows that are ready
//! once the bucket has confirmed them, and disk room. What is to be done is on the disk before it is begun: the row says
//! that the file is not sent yet, the journal beside the file how far its upload has come. So nothing is lost by `kill -9`
//! or by a bucket that is away for days. A local copy goes only when its row says that the bucket has it. Deliberately
//! absent: media, and any way for a slow bucket to reach what is live.
//!
//! What is kept as HLS is sent while it grows, piece by piece ([`convoy`]). The folder of its pieces is the queue.

mod convoy;
mod machine;
mod order;
mod schedule;
mod work;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use headwater_common::{
    chance::entropy,
    clock,
    registry::{RecordingRow, RecordingState, RegistryError, VodId},
    store::{
        Form, Place, PlaceError, Store, StoreError,
        s3::{Bucket, BucketError, ProbeError},
    },
    telemetry::Telemetry,
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::{sync::Notify, task::JoinSet};

pub(crate) use schedule::{Stage, UploadProgress};

use super::{rows::Rows, tape::RECORDING};
use crate::pause::sleep_until;
pub(super) use machine::Journal;
use machine::Mismatch;
use schedule::Schedule;

/// Beside the recording: `<id>.mp4.upload`.
pub(super) const JOURNAL: &str = ".upload";
/// Of each form: one fills most lines; the second keeps the line busy while the first waits for an answer. What grows does not
/// wait for files that take hours.
const AT_ONCE: usize = 2;
/// How long the end of the process waits for uploads that get on.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Uploads {
    bucket: Bucket,
    store: Store,
    rows: Rows,
    /// Those that were not deleted though the registry may have no row of them: it has not taken this one, or the last process
    /// has left them and nobody knows. Gone once the registry has a row.
    untold: Mutex<BTreeMap<VodId, Option<RecordingRow>>>,
    schedule: Mutex<Schedule>,
    /// Held while a journal is written, which blocks; the schedule's is not.
    journals: Mutex<()>,
    /// Held by who tries the bucket: there is one object to try it with.
    probing: tokio::sync::Mutex<()>,
    /// Something was added, or has become urgent.
    woken: Notify,
    metrics: Metrics,
}

#[derive(Clone, Default)]
struct Metrics {
    waiting: Gauge,
    failing: Gauge,
    bytes: Counter,
    failures: Counter,
}

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Over,
    /// All that there is has been sent, and more will come.
    Rests,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum UploadError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("read {place}: {source}")]
    Read { place: Place, source: std::io::Error },
    #[error("journal: {0}")]
    Journal(#[from] serde_json::Error),
}

impl Uploads {
    pub(super) fn new(bucket: Bucket, store: Store, rows: Rows, telemetry: &Telemetry) -> Arc<Self> {
        let metrics = Metrics::default();
        telemetry.register(|registry| {
            let Metrics { waiting, failing, bytes, failures } = metrics.clone();
            registry.register("uploads_waiting", "Recordings that have not arrived in the bucket", waiting);
            registry.register("uploads_failing", "Of these, those whose last try failed", failing);
            registry.register("upload_bytes", "Bytes of recordings that the bucket has taken", bytes);
            registry.register("upload_failures", "Tries that came to nothing", failures);
        });
        let (schedule, journals, probing) = (Mutex::default(), Mutex::default(), tokio::sync::Mutex::default());
        let (untold, woken) = (Mutex::default(), Notify::new());
        Arc::new(Self { bucket, store, rows, untold, schedule, journals, probing, woken, metrics })
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Begins with what earlier processes left: journals, and rows that wait to be sent. Files that are still to be
    /// rewritten come by themselves.
    pub(super) async fn recover(&self, rows: &[RecordingRow]) {
        let mut waiting: HashMap<Place, (VodId, Option<RecordingRow>)> = HashMap::new();
        for row in rows.iter().filter(|row| matches!(row.state, RecordingState::Uploading { .. })) {
            match Place::new(&row.app, &row.file) {
                Ok(place) => drop(waiting.insert(place, (row.vod_id.clone(), None))),
                Err(error) => tracing::error!(vod_id = %row.vod_id, %error, "recording can't be sent to the bucket"),
            }
        }
        match self.left_journals().await {
            // What a journal says is more than what its row says.
            Ok(journals) => waiting.extend(journals),
            Err(error) => {
                tracing::error!(%error, "uploads left by the last process are not looked at until the next start")
            }
        }
        let now = Instant::now();
        for (place, (vod_id, row)) in waiting {
            if !place.with_suffix(RECORDING).is_ok_and(|draft| self.store.exists(&draft)) {
                tracing::info!(file = %place, "recording was not sent to the bucket by the last process");
                self.untold().insert(vod_id.clone(), row);
                self.schedule().add(vod_id, place, now);
            }
        }
        self.count();
    }

    async fn left_journals(&self) -> Result<Vec<(Place, (VodId, Option<RecordingRow>))>, UploadError> {
        let mut found = Vec::new();
        for file in self.store.list(JOURNAL)? {
            let Some(name) = file.file().strip_suffix(JOURNAL).filter(|name| Form::of(name).is_some()) else {
                continue;
            };
            let place = Place::new(file.app(), name)?;
            let Some(Journal { mut vod_id, row, .. }) = self.journal(&place)? else { continue };
            if vod_id == VodId::default() {
                let row = self.rows.registry.recording_of_file(place.app(), place.file()).await?;
                let row = row.filter(|row| row.node == self.rows.node);
                vod_id = row.map_or_else(|| VodId::new(clock::now_us() / 1000, entropy()), |row| row.vod_id);
            }
            found.push((place, (vod_id, row)));
        }
        Ok(found)
    }

    /// A finished file, before its row says that it is to be sent: the disk alone tells the next process what to do.
    pub(super) fn note(&self, row: &RecordingRow, place: &Place) {
        // Of what was sent while it grew, more is known.
        if self.journal(place).is_ok_and(|known| known.is_some_and(|known| known.vod_id == row.vod_id)) {
            return;
        }
        let journal = self.fresh(&row.vod_id, place);
        if let Err(error) = self.write(place, &journal) {
            tracing::error!(file = %place, %error, "upload can't be noted beside the recording");
        }
    }

    /// The registry has not taken the row of a finished file: it hears of it before anything is sent. False when not even
    /// the disk has it.
    pub(super) fn keep_untold(&self, row: &RecordingRow, place: &Place) -> bool {
        self.untold().insert(row.vod_id.clone(), Some(row.clone()));
        let known = self.journal(place).ok().flatten().filter(|known| known.vod_id == row.vod_id);
        let journal = known.unwrap_or_else(|| self.fresh(&row.vod_id, place));
        let saved = self.save(&row.vod_id, place, journal);
        if let Err(error) = &saved {
            tracing::error!(file = %place, %error, "row can't be noted beside the recording, the next start sends it");
        }
        saved.is_ok()
    }

    /// A finished file whose row says that it is to be sent, or one more piece of what is kept as HLS.
    pub(super) fn add(&self, row: &RecordingRow, place: &Place) {
        self.schedule().add(row.vod_id.clone(), place.clone(), Instant::now());
        self.count();
        self.woken.notify_one();
    }

    /// Nothing more will be sent of it now.
    pub(super) fn leave(&self, vod_id: &VodId) {
        self.schedule().done(vod_id);
        self.count();
    }

    /// Nothing shall be left of it in the bucket, and that is on the disk when this returns.
    pub(super) fn forget(&self, row: &RecordingRow, place: &Place) -> Result<(), UploadError> {
        // A transfer that runs writes the same journal.
        let one_at_a_time = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.journal(place)?.filter(|journal| journal.vod_id == row.vod_id);
        let key = row.object.as_ref().map(|object| object.key.clone()).filter(|key| !key.is_empty());
        let fresh = || match key {
            Some(key) => Journal { vod_id: row.vod_id.clone(), key, ..Journal::default() },
            None => self.fresh(&row.vod_id, place),
        };
        self.write(place, &Journal { unwanted: true, ..known.unwrap_or_else(fresh) })?;
        self.schedule().forget(row.vod_id.clone(), place.clone(), Instant::now());
        drop(one_at_a_time);
        self.count();
        self.woken.notify_one();
        Ok(())
    }

    pub(super) fn progress(&self, vod_id: &VodId) -> Option<UploadProgress> {
        self.schedule().progress(vod_id)
    }

    /// Tries the bucket; if it works, nobody waits any longer.
    pub(super) async fn probe(&self, app: &str) -> Result<(), ProbeError> {
        let _one_at_a_time = self.probing.lock().await;
        self.bucket.probe(app, &probe_name(self.store.data())).await?;
        self.schedule().hurry(Instant::now());
        self.woken.notify_one();
        Ok(())
    }

    /// Until `shutdown` resolves, and then for as long as there is hope that what is left gets through.
    pub(super) async fn run(self: &Arc<Self>, shutdown: impl Future<Output = ()>) {
        let mut running = JoinSet::new();
        let mut names: HashMap<_, (VodId, Form)> = HashMap::new();
        let mut shutdown = std::pin::pin!(shutdown);
        let mut patience = None;
        loop {
            let busy = |names: &HashMap<_, (VodId, Form)>, form| {
                names.values().filter(|(_, running)| *running == form).count() >= AT_ONCE
            };
            let mut due = None;
            for form in [Form::Mp4, Form::Hls] {
                while !busy(&names, form) {
                    let Some((vod_id, place)) = self.schedule().take_due(form, Instant::now()) else { break };
                    let task = running.spawn({
                        let (uploads, vod_id) = (self.clone(), vod_id.clone());
                        async move { uploads.send(&vod_id, &place).await }
                    });
                    names.insert(task.id(), (vod_id, form));
                }
                let next = self.schedule().next_due(form).filter(|_| !busy(&names, form));
                due = due.into_iter().chain(next).min();
            }
            let hopeless = self.schedule().len() == 0 || self.schedule().failing() > 0;
            if patience.is_some() && hopeless {
                return;
            }
            tokio::select! {
                () = &mut shutdown, if patience.is_none() => patience = Some(tokio::time::Instant::now() + STOP_PATIENCE),
                () = sleep_until(patience) => return,
                () = sleep_until(due.map(Into::into)) => {}
                () = self.woken.notified() => {}
                Some(ended) = running.join_next_with_id() => {
                    let (task, outcome) = match ended {
                        Ok((task, outcome)) => (task, outcome.map_err(|error| error.to_string())),
                        Err(error) => (error.id(), Err(format!("bug: {error}"))),
                    };
                    if let Some((vod_id, _)) = names.remove(&task) {
                        self.ended(&vod_id, outcome);
                    }
                }
            }
        }
    }

    async fn send(self: &Arc<Self>, vod_id: &VodId, place: &Place) -> Result<End, UploadError> {
        match Form::of(place.file()) {
            Some(Form::Hls) => self.convey(vod_id, place).await,
            _ => self.transfer(vod_id, place).await.map(|()| End::Over),
        }
    }

    fn ended(&self, vod_id: &VodId, outcome: Result<End, String>) {
        match outcome {
            Ok(End::Over) => self.schedule().done(vod_id),
            Ok(End::Rests) => self.schedule().rests(vod_id, Instant::now()),
            Err(error) => {
                self.metrics.failures.inc();
                tracing::warn!(%vod_id, error, "recording is not in the bucket yet, it stays on the disk");
                self.schedule().failed(vod_id, error, Instant::now(), entropy());
            }
        }
        self.count();
    }

    /// Of what nobody has begun to send.
    fn fresh(&self, vod_id: &VodId, place: &Place) -> Journal {
        Journal { vod_id: vod_id.clone(), key: self.bucket.key(place), ..Journal::default() }
    }

    fn count(&self) {
        let schedule = self.schedule();
        self.metrics.waiting.set(schedule.len() as i64);
        self.metrics.failing.set(schedule.failing() as i64);
    }

    fn journal(&self, place: &Place) -> Result<Option<Journal>, UploadError> {
        let file = self.store.path(&place.with_suffix(JOURNAL)?);
        match std::fs::read(&file) {
            // One that can't be read tells nothing: the bucket is asked what it has.
            Ok(text) => Ok(Some(serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::error!(file = %place, %error, "upload journal can't be read, the upload begins again");
                Journal { unsure: true, ..Journal::default() }
            }))),
            Err(_) => Ok(None),
        }
    }

    fn write(&self, place: &Place, journal: &Journal) -> Result<(), UploadError> {
        Ok(self.store.write(&place.with_suffix(JOURNAL)?, &serde_json::to_vec(journal)?)?)
    }

    fn untold(&self) -> MutexGuard<'_, BTreeMap<VodId, Option<RecordingRow>>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never held across an await.
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of this machine and data directory, for good.
fn probe_name(data: &Path) -> String {
    let machine = rustix::system::uname();
    let mut hash = DefaultHasher::new();
    (machine.nodename().to_bytes(), std::fs::canonicalize(data).unwrap_or_default()).hash(&mut hash);
    format!("{:016x}", hash.finish())
}
