//! Recording: a broadcast becomes an MP4 that plays anywhere, whatever happens to the process while it is written.
//!
//! In: broadcasts of the hall, the settings of their applications, and the word of an operator at any moment
//! ([`Recorder::set`]). Out: `<data>/<app>/streams/<id>.mp4`, `<id>_1.mp4`, …, rows in the registry, and the files over
//! HTTP ([`serve_mp4`]). While it lasts, a recording is a fragmented MP4: a killed process loses less than the newest
//! gop, and the next start makes an ordinary file of what is there. Deliberately absent: any way for a slow or full
//! disk to reach the stream. A recording fails alone, and says so in the log, in its row and in the metrics.

mod cutter;
mod finalise;
mod recover;
mod rows;
mod serve;
mod session;
mod source;
mod supervise;
mod tape;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    thread,
};

use headwater_common::{
    live::{BroadcastId, Hub},
    registry::{RecordingRow, RecordingState, Registry, RegistryError, VodId},
    store::{Place, PlaceError, Store, StoreError},
    telemetry::{Door, Telemetry},
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{runtime::Handle, sync::watch};

pub use recover::RecoverError;
pub use serve::serve_mp4;

use finalise::{Desk, Floor};
use rows::Rows;
use tape::{FINALISING, Finished, RECORDING, TapeError, UNREADABLE};

#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether broadcasts of an application are recorded; `record` where it is not named.
    pub apps: BTreeMap<String, bool>,
    pub record: bool,
    /// Which node this is: its rows in the registry are told from those of others by that.
    pub node: String,
    /// Recordings end, and none begins, while the disk has less room than this.
    pub free_disk_mb_min: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { apps: BTreeMap::new(), record: false, node: String::new(), free_disk_mb_min: 512 }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    hub: Arc<Hub>,
    rows: Rows,
    store: Store,
    settings: Settings,
    door: Door,
    recording: Gauge,
    desk: Desk,
    /// Files that are being finalised or wait for it.
    finalising: watch::Sender<usize>,
    wishes: watch::Sender<Wishes>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wishes {
    /// Grows whenever somebody asks for or against a recording.
    version: u64,
    /// The process is about to end.
    closing: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error("there is no broadcast {id}")]
    Unknown { id: BroadcastId },
    #[error("{reason}")]
    NoRoom { reason: String },
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    #[error("recording {vod_id} of {app}/{stream} is still being written")]
    InProgress { vod_id: VodId, app: String, stream: String },
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl Recorder {
    /// Finds what a dead process left behind and begins to finalise it in the background. Nothing is recorded before
    /// [`Recorder::run`].
    pub async fn open(
        hub: Arc<Hub>,
        registry: Arc<dyn Registry>,
        store: Store,
        settings: Settings,
        telemetry: &Telemetry,
    ) -> Result<Self, RecoverError> {
        let rows = Rows { registry, runtime: Handle::current(), node: settings.node.clone() };
        let leftovers = recover::find(&store, &rows).await?;
        let recording = Gauge::default();
        let finalising = Gauge::<i64>::default();
        telemetry.register(|metrics| {
            metrics.register("recordings", "Broadcasts being recorded", recording.clone());
            metrics.register("recordings_finalising", "Files being finalised or waiting for it", finalising.clone());
        });
        let shared = Arc::new(Shared {
            hub,
            rows,
            store,
            settings,
            door: telemetry.door("record"),
            recording,
            desk: Desk::new(finalising),
            finalising: watch::Sender::new(0),
            wishes: watch::Sender::default(),
        });
        shared.in_background(move |shared| {
            leftovers.finalise(&shared.desk, &shared.store, &shared.rows, shared.floor());
        });
        Ok(Self { shared })
    }

    /// Records whatever is to be recorded until `shutdown` resolves; then ends all recordings and waits until they
    /// are finalised. Dropping it earlier is safe: the next start does the rest.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        supervise::run(&self.shared, shutdown).await;
    }

    /// Records this broadcast, or doesn't, from now on and whatever its application's setting says. A recording begins
    /// with the newest gop.
    pub async fn set(&self, id: &BroadcastId, on: bool) -> Result<(), SetError> {
        let Shared { rows, store, settings, wishes, .. } = &*self.shared;
        if on {
            tape::check_room(store, settings.free_disk_mb_min)
                .map_err(|error: TapeError| SetError::NoRoom { reason: error.to_string() })?;
        }
        if !rows.registry.set_record(id, Some(on)).await? {
            return Err(SetError::Unknown { id: id.clone() });
        }
        wishes.send_modify(|wishes| wishes.version += 1);
        Ok(())
    }

    /// Deletes a recording, its file first. `None` when there is no such recording.
    pub async fn delete(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, DeleteError> {
        let Shared { rows, store, .. } = &*self.shared;
        let Some(row) = rows.registry.recording(app, vod_id).await? else { return Ok(None) };
        if matches!(row.state, RecordingState::Recording | RecordingState::Finalising) {
            let (app, stream) = (app.to_owned(), row.stream);
            return Err(DeleteError::InProgress { vod_id: vod_id.clone(), app, stream });
        }
        let place = Place::new(&row.app, &row.file)?;
        let store = store.clone();
        let deleted = tokio::task::spawn_blocking(move || {
            for suffix in [FINALISING, RECORDING, UNREADABLE] {
                store.delete(&place.with_suffix(suffix)?)?;
            }
            Ok::<_, DeleteError>(store.delete(&place)?)
        });
        deleted.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        Ok(rows.registry.remove_recording(app, vod_id).await?)
    }

    /// Resolves when no file waits to be finalised.
    pub async fn finalised(&self) {
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = self.shared.finalising.subscribe().wait_for(|files| *files == 0).await;
    }
}

impl Shared {
    /// What the settings and the operator want.
    async fn wants(&self, id: &BroadcastId) -> bool {
        let by_setting = self.settings.apps.get(id.app()).copied().unwrap_or(self.settings.record);
        match self.rows.registry.get(id).await {
            Ok(row) => row.and_then(|row| row.record_override).unwrap_or(by_setting),
            Err(error) => {
                tracing::error!(broadcast = %id, %error, "whether to record can't be looked up, the application's setting holds");
                by_setting
            }
        }
    }

    fn floor(&self) -> Floor {
        Floor { bytes: self.settings.free_disk_mb_min << 20 }
    }

    fn finalise(self: &Arc<Self>, finished: Finished) {
        self.in_background(move |shared| {
            finalise::step_back();
            finalise::finalise(&shared.desk, &shared.store, &shared.rows, shared.floor(), finished);
        });
    }

    /// On a thread of its own: it takes as long as the disk takes. There are as many as there are files to finalise,
    /// and all but a few of them sleep.
    fn in_background(self: &Arc<Self>, work: impl FnOnce(&Arc<Self>) + Send + 'static) {
        struct Done(watch::Sender<usize>);
        impl Drop for Done {
            fn drop(&mut self) {
                self.0.send_modify(|files| *files -= 1);
            }
        }
        self.finalising.send_modify(|files| *files += 1);
        let (done, shared) = (Done(self.finalising.clone()), self.clone());
        let spawned = thread::Builder::new().name("finalise".into()).spawn(move || {
            // Done only when nothing is held any more.
            let _done = done;
            let shared = shared;
            work(&shared);
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread to finalise a recording on, the next start does it");
        }
    }
}

/// Not for secrets: tells apart what happens in the same millisecond.
fn entropy() -> u32 {
    RandomState::new().build_hasher().finish() as u32
}
