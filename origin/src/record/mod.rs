//! Recording: a broadcast becomes an MP4 that plays anywhere, and HLS on demand where that is wanted, whatever happens to the
//! process while it is written.
//!
//! In: broadcasts of the hall, the settings of their applications, and the word of an operator at any moment
//! ([`Recorder::set`]). Out: `<data>/<app>/streams/<id>.mp4`, `<id>_1.mp4`, …, `<id>_480p900kbps.mp4` of a rendition, rows in
//! the registry, and the files over HTTP ([`serve_file`]). Several recordings of one broadcast go on side by side, each a
//! [`Take`] with a thread and files of its own. While it lasts, a recording is a fragmented MP4: a killed process loses
//! less than the newest gop, and the next start makes an ordinary file of what is there. Deliberately absent: any way for
//! a slow or full disk to reach the stream. A recording fails alone, and says so in the log, in its row and in the
//! metrics.

mod cutter;
mod error;
mod finalise;
mod gaps;
mod hls;
mod keep;
mod reconcile;
mod recover;
mod rows;
mod serve;
mod session;
mod settings;
mod source;
mod supervise;
mod tape;
mod upload;

use std::{collections::BTreeSet, sync::Arc, thread};

use axum::{
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use headwater_common::{
    clock,
    live::{BroadcastId, Hub, Status},
    registry::{BroadcastRow, RecordingRow, RecordingState, Registry, RegistryError, Take, VodId},
    store::{self, Asked, Form, Place, Store, s3::Bucket},
    telemetry::{Door, Telemetry},
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{oneshot, watch};

pub use error::{DeleteError, SetError, StorageError};
pub use reconcile::{Finding, Reconciler};
pub use recover::RecoverError;
pub use serve::serve_file;
pub use settings::{Rules, Settings};

use finalise::{Desk, Floor};
use rows::Rows;
use serve::InBucket;
use tape::{FINALISING, Finished, RECORDING, TapeError, UNREADABLE};
use upload::Uploads;
pub(crate) use upload::{Stage, UploadProgress};

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
    free_disk: Gauge,
    /// Where there is a bucket.
    uploads: Option<Arc<Uploads>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wishes {
    /// Grows whenever somebody asks for or against a recording.
    version: u64,
    /// The process is about to end.
    closing: bool,
}

impl Recorder {
    /// Finds what a dead process left behind and begins to finalise it in the background. Nothing is recorded before
    /// [`Recorder::run`].
    pub async fn open(
        hub: Arc<Hub>,
        registry: Arc<dyn Registry>,
        store: Store,
        bucket: Option<Bucket>,
        settings: Settings,
        telemetry: &Telemetry,
    ) -> Result<Self, RecoverError> {
        let rows = Rows::new(registry, settings.node.clone(), hub.clone(), settings.webhooks.clone());
        let leftovers = recover::find(&store, &rows).await?;
        let recording = Gauge::default();
        let finalising = Gauge::<i64>::default();
        let free_disk = Gauge::<i64>::default();
        telemetry.register(|metrics| {
            metrics.register("recordings", "Recordings that go on", recording.clone());
            metrics.register("recording_disk_free_bytes", "What recordings can still take", free_disk.clone());
            metrics.register("recordings_finalising", "Files being finalised or waiting for it", finalising.clone());
        });
        let uploads = bucket.map(|bucket| Uploads::new(bucket, store.clone(), rows.clone(), telemetry));
        if let Some(uploads) = &uploads {
            uploads.recover(&leftovers.rows).await;
        }
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
            free_disk,
            uploads,
        });
        shared.in_background(move |shared| leftovers.finalise(shared));
        Ok(Self { shared })
    }

    /// Records whatever is to be recorded until `shutdown` resolves; then ends all recordings, waits until they are
    /// finalised, and a while for those that are on their way to the bucket. Dropping it earlier is safe: the next start
    /// does the rest.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let keeping = keep::run(self.clone());
        tokio::select! {
            () = self.record(shutdown) => {}
            () = keeping => {}
        }
    }

    async fn record(&self, shutdown: impl Future<Output = ()>) {
        let Some(uploads) = &self.shared.uploads else { return supervise::run(&self.shared, shutdown).await };
        let (recording, recorded) = oneshot::channel::<()>();
        let record = async {
            supervise::run(&self.shared, shutdown).await;
            drop(recording);
        };
        let all_are_known = async {
            let _ = recorded.await;
        };
        tokio::join!(record, uploads.run(all_are_known));
    }

    /// Tries the bucket: writes, looks at and deletes an object where an application's recordings go. What waits for it is
    /// sent at once if it works.
    pub async fn test_storage(&self, app: &str) -> Result<(), StorageError> {
        Ok(self.shared.uploads.as_ref().ok_or(StorageError::NoBucket)?.probe(app).await?)
    }

    /// Whether that is an address of a live stream, which comes first: names of streams may end as those of recordings do.
    pub fn is_live(&self, app: &str, asked: Asked<'_>) -> bool {
        let Asked::File(file) = asked else { return false };
        let id = file.strip_suffix(".m3u8").and_then(|stream| BroadcastId::new(app, stream).ok());
        id.is_some_and(|id| self.shared.hub.get(&id).is_some())
    }

    /// A finished recording over HTTP, or a piece of one, from the disk or from the bucket.
    pub async fn serve(&self, app: &str, asked: Asked<'_>, request: Request) -> Response {
        let (method, headers) = (request.method().clone(), request.headers().clone());
        let Shared { store, rows, uploads, .. } = &*self.shared;
        let Ok(place) = asked.place(app) else { return StatusCode::NOT_FOUND.into_response() };
        let response = serve_file(store, &place, request).await;
        let Some(uploads) = uploads.as_ref().filter(|_| response.status() == StatusCode::NOT_FOUND) else {
            return response;
        };
        let row = match row_of(&*rows.registry, app, asked).await {
            Ok(row) => row,
            Err(error) => {
                tracing::error!(file = %place, %error, "recording can't be looked up");
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
        };
        let Some((row, object)) = row.and_then(|row| row.object.clone().map(|object| (row, object))) else {
            return response;
        };
        if object.etag.is_empty() {
            return response;
        }
        let bucket = uploads.bucket();
        match asked {
            Asked::File(file) => {
                let is_playlist = Form::of(file) == Some(Form::Hls);
                let bytes = (!is_playlist).then_some(row.bytes);
                InBucket { bucket, key: &object.key, etag: Some(&object.etag), bytes, is_playlist }
                    .serve(&method, &headers)
                    .await
            }
            Asked::Piece { folder, piece, .. } => {
                let key = format!("{}{piece}", store::beside(&object.key, folder));
                let piece = InBucket { bucket, key: &key, etag: None, bytes: None, is_playlist: false };
                piece.serve(&method, &headers).await
            }
        }
    }

    /// How far a recording has come on its way to the bucket, while this node sends it.
    pub(crate) fn upload(&self, vod_id: &VodId) -> Option<UploadProgress> {
        self.shared.uploads.as_ref()?.progress(vod_id)
    }

    /// Records this take of the broadcast, or doesn't, from now on and whatever its application's setting says. It begins
    /// with the newest gop; others are never touched. A take without a name that does not go on stands for the only one that
    /// does: who asked for a name need not know it any more.
    pub async fn set(&self, id: &BroadcastId, take: Take, on: bool) -> Result<(), SetError> {
        let Shared { hub, rows, store, settings, wishes, .. } = &*self.shared;
        let unknown = || SetError::Unknown { id: id.clone() };
        let rules = self.shared.rules(id);
        if let Some(name) = &take.name {
            Place::new(id.app(), &format!("{name}.mp4"))?;
        }
        if on {
            tape::check_room(store, settings.free_disk_mb_min)
                .map_err(|error: TapeError| SetError::NoRoom { reason: error.to_string() })?;
            let live = hub.get(id).filter(|broadcast| broadcast.status() != Status::Ended);
            if let (Some(height), Some(live)) = (take.height, live) {
                let offered: Vec<_> = live.told().ladder.iter().map(|rendition| rendition.height).collect();
                if !offered.contains(&height) {
                    return Err(SetError::NoRendition { height, offered });
                }
            }
        }
        let row = rows.registry.get(id).await?.ok_or_else(unknown)?;
        let take = if on { take } else { meant(take, self.shared.wanted_by(id, &row))? };
        let known = if take == Take::default() {
            rows.registry.set_record(id, Some(on)).await?
        } else {
            // Only where the application records it anyway a refusal has to be remembered.
            let by_setting =
                take.name.is_none() && take.height.is_some_and(|height| rules.renditions.contains(&height));
            let on = Some(on).filter(|on| *on || by_setting);
            rows.registry.set_take(id, &take, on, clock::now_us()).await?
        };
        if !known {
            return Err(unknown());
        }
        wishes.send_modify(|wishes| wishes.version += 1);
        Ok(())
    }

    /// Deletes a recording, its file first; what is in the bucket goes later, whatever happens meanwhile. `None` when
    /// there is no such recording.
    pub async fn delete(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, DeleteError> {
        let Shared { rows, store, uploads, .. } = &*self.shared;
        let Some(row) = rows.registry.recording(app, vod_id).await? else { return Ok(None) };
        if matches!(row.state, RecordingState::Recording | RecordingState::Finalising) {
            let (app, stream) = (app.to_owned(), row.stream);
            return Err(DeleteError::InProgress { vod_id: vod_id.clone(), app, stream });
        }
        let place = Place::new(&row.app, &row.file)?;
        let uploads =
            uploads.clone().filter(|_| row.object.is_some() || matches!(row.state, RecordingState::Uploading { .. }));
        if uploads.is_none() && row.arrived().is_some() {
            return Err(DeleteError::NoBucket { vod_id: vod_id.clone() });
        }
        let (store, gone) = (store.clone(), row.clone());
        let deleted = tokio::task::spawn_blocking(move || {
            if let Some(uploads) = uploads {
                uploads.forget(&gone, &place).map_err(|error| DeleteError::Upload(error.to_string()))?;
            }
            for suffix in [FINALISING, RECORDING, UNREADABLE] {
                store.delete(&place.with_suffix(suffix)?)?;
            }
            store.delete_pieces(&place, gone.vod_id.as_str())?;
            Ok::<_, DeleteError>(store.delete(&place)?)
        });
        deleted.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        rows.registry.remove_recording(app, vod_id).await?;
        Ok(Some(row))
    }

    /// Resolves when no file waits to be finalised.
    pub async fn finalised(&self) {
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = self.shared.finalising.subscribe().wait_for(|files| *files == 0).await;
    }
}

/// Says in the log whether recordings will arrive. Nothing depends on it: what can't be sent now is sent later.
pub(crate) async fn try_storage(recorder: Recorder, app: String) {
    match recorder.test_storage(&app).await {
        Ok(()) => tracing::info!("the bucket for recordings works"),
        Err(error) => tracing::error!(%error, "the bucket for recordings does not work; they wait on the disk"),
    }
}

impl Shared {
    /// All takes that are to go on: what operators want, and else the settings.
    async fn wanted(&self, id: &BroadcastId) -> Result<BTreeSet<Take>, RegistryError> {
        Ok(self.wanted_by(id, &self.rows.registry.get(id).await?.unwrap_or_default()))
    }

    fn wanted_by(&self, id: &BroadcastId, row: &BroadcastRow) -> BTreeSet<Take> {
        let by_setting = || self.settings.apps.get(id.app()).copied().unwrap_or(self.settings.record);
        row.takes.wanted(row.record_override.unwrap_or_else(by_setting), &self.rules(id).renditions)
    }

    fn rules(&self, id: &BroadcastId) -> Rules {
        self.settings.rules.get(id.app()).cloned().unwrap_or_default()
    }

    /// What becomes of a file that is complete; `defect` is what is missing from it.
    fn complete(&self, defect: Option<String>) -> RecordingState {
        match (&self.uploads, defect) {
            (Some(_), defect) => RecordingState::Uploading { defect },
            (None, Some(reason)) => RecordingState::Failed { reason },
            (None, None) => RecordingState::Ready,
        }
    }

    fn floor(&self) -> Floor {
        Floor { bytes: self.settings.free_disk_mb_min << 20 }
    }

    fn finalise(self: &Arc<Self>, finished: Finished) {
        self.in_background(move |shared| {
            finalise::step_back();
            finalise::finalise(shared, finished);
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

/// Of the recording that an address asks for, or for a piece of.
pub async fn row_of(
    registry: &dyn Registry,
    app: &str,
    asked: Asked<'_>,
) -> Result<Option<RecordingRow>, RegistryError> {
    match asked {
        Asked::File(file) => registry.recording_of_file(app, file).await,
        Asked::Piece { vod_id, .. } => registry.recording(app, &VodId::parse(vod_id)).await,
    }
}

/// Which of those that are wanted is to stop.
fn meant(take: Take, wanted: BTreeSet<Take>) -> Result<Take, SetError> {
    if take.name.is_some() || wanted.contains(&take) {
        return Ok(take);
    }
    let mut alike: Vec<_> = wanted.into_iter().filter(|other| other.height == take.height).collect();
    match alike.len() {
        0 | 1 => Ok(alike.pop().unwrap_or(take)),
        _ => Err(SetError::Which(alike.iter().map(Take::to_string).collect::<Vec<_>>().join(", "))),
    }
}
