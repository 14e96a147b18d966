//! The registry as the threads of recordings see it: they have nothing else to do and wait for it.

use std::sync::Arc;

use headwater_common::{
    live::BroadcastId,
    registry::{BroadcastRow, RecordingRow, Registry, RegistryError},
};
use tokio::runtime::Handle;

#[derive(Clone)]
pub(super) struct Rows {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) runtime: Handle,
    /// Which node this is.
    pub(super) node: String,
}

impl Rows {
    pub(super) fn put(&self, row: &RecordingRow) -> Result<(), RegistryError> {
        self.runtime.block_on(self.registry.put_recording(row))
    }

    /// For rows that say what has happened already: the file tells the same at the next start.
    pub(super) fn save(&self, row: &RecordingRow) {
        if let Err(error) = self.put(row) {
            tracing::error!(app = row.app, file = row.file, %error, "the state of a recording could not be saved");
        }
    }

    pub(super) fn of_file(&self, app: &str, file: &str) -> Result<Option<RecordingRow>, RegistryError> {
        self.runtime.block_on(self.registry.recording_of_file(app, file))
    }

    pub(super) fn broadcast(&self, id: &BroadcastId) -> Result<Option<BroadcastRow>, RegistryError> {
        self.runtime.block_on(self.registry.get(id))
    }
}
