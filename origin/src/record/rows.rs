//! The registry as the threads of recordings see it: they have nothing else to do and wait for it.
//!
//! What it does not take of recordings that are over is told again later. Those that go on tell of themselves.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use headwater_common::{
    live::BroadcastId,
    registry::{BroadcastRow, RecordingRow, Registry, RegistryError, VodId},
};
use tokio::runtime::Handle;

#[derive(Clone)]
pub(super) struct Rows {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) runtime: Handle,
    /// Which node this is.
    pub(super) node: String,
    /// Last words of recordings that it has not taken: a few hundred bytes for each that ended while it was away.
    untold: Arc<Mutex<BTreeMap<VodId, RecordingRow>>>,
}

impl Rows {
    pub(super) fn new(registry: Arc<dyn Registry>, runtime: Handle, node: String) -> Self {
        Self { registry, runtime, node, untold: Arc::default() }
    }

    pub(super) fn put(&self, row: &RecordingRow) -> Result<(), RegistryError> {
        self.runtime.block_on(self.registry.put_recording(row))
    }

    /// For rows that say what has happened already: the file tells the same at the next start. False when the registry has
    /// not taken it.
    pub(super) fn save(&self, row: &RecordingRow) -> bool {
        let saved = self.put(row);
        if let Err(error) = &saved {
            tracing::error!(app = row.app, file = row.file, %error, "the state of a recording could not be saved");
            if !row.state.is_unfinished() {
                self.untold().insert(row.vod_id.clone(), row.clone());
            }
        }
        saved.is_ok()
    }

    /// Returns the rows that the registry has taken now.
    pub(super) async fn tell_again(&self) -> Vec<RecordingRow> {
        let untold: Vec<_> = self.untold().values().cloned().collect();
        let mut told = Vec::new();
        for row in untold {
            match self.registry.put_recording(&row).await {
                Ok(()) => {
                    self.untold().remove(&row.vod_id);
                    told.push(row);
                }
                // By another node, meanwhile.
                Err(error @ RegistryError::FileTaken { .. }) => {
                    tracing::error!(app = row.app, file = row.file, %error, "recording is on the disk and not listed");
                    self.untold().remove(&row.vod_id);
                }
                // The others would not fare better.
                Err(_) => break,
            }
        }
        told
    }

    pub(super) fn of_file(&self, app: &str, file: &str) -> Result<Option<RecordingRow>, RegistryError> {
        self.runtime.block_on(self.registry.recording_of_file(app, file))
    }

    pub(super) fn get(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError> {
        self.runtime.block_on(self.registry.recording(app, vod_id))
    }

    pub(super) fn remove(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError> {
        self.runtime.block_on(self.registry.remove_recording(app, vod_id))
    }

    pub(super) fn broadcast(&self, id: &BroadcastId) -> Result<Option<BroadcastRow>, RegistryError> {
        self.runtime.block_on(self.registry.get(id))
    }

    /// Never held across an await.
    fn untold(&self) -> MutexGuard<'_, BTreeMap<VodId, RecordingRow>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
