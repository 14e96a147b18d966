//! The registry as the threads of recordings see it: they have nothing else to do and wait for it. What a registry that is away
//! does not hear is told when it is back. With a row that says that a recording is ready goes the news of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use headwater_common::{
    clock,
    live::{BroadcastId, Hub, Status},
    registry::{BroadcastRow, Event, RecordingRow, RecordingState, Registry, RegistryError, VodId},
};
use tokio::runtime::Handle;

const AGAIN_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Rows {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) runtime: Handle,
    /// Which node this is.
    pub(super) node: String,
    hub: Arc<Hub>,
    /// Applications that have one.
    webhooks: Arc<BTreeSet<String>>,
    /// The newest state of those that the registry has not heard of: one row per recording that ends while it is away.
    unsaved: Arc<Mutex<BTreeMap<VodId, RecordingRow>>>,
}

impl Rows {
    pub(super) fn new(registry: Arc<dyn Registry>, node: String, hub: Arc<Hub>, webhooks: BTreeSet<String>) -> Self {
        let (webhooks, unsaved) = (Arc::new(webhooks), Arc::default());
        Self { registry, runtime: Handle::current(), node, hub, webhooks, unsaved }
    }

    pub(super) fn put(&self, row: &RecordingRow) -> Result<(), RegistryError> {
        self.runtime.block_on(self.write(row))
    }

    /// For rows that say what has happened already: the file tells the same at the next start.
    pub(super) fn save(&self, row: &RecordingRow) {
        if let Some(older) = self.unsaved().get_mut(&row.vod_id) {
            return row.clone_into(older);
        }
        let Err(error) = self.put(row) else { return };
        tracing::error!(app = row.app, file = row.file, %error, "the state of a recording could not be saved");
        if error.is_absence() {
            let is_first = {
                let mut unsaved = self.unsaved();
                unsaved.insert(row.vod_id.clone(), row.clone());
                unsaved.len() == 1
            };
            if is_first {
                self.runtime.spawn(self.clone().save_again());
            }
        }
    }

    async fn save_again(self) {
        loop {
            tokio::time::sleep(AGAIN_EVERY).await;
            let Some(row) = self.unsaved().values().next().cloned() else { return };
            match self.write(&row).await {
                Err(error) if error.is_absence() => continue,
                Err(error) => {
                    tracing::error!(app = row.app, file = row.file, %error, "the state of a recording could not be saved");
                }
                Ok(()) => {}
            }
            let mut unsaved = self.unsaved();
            if unsaved.get(&row.vod_id) == Some(&row) {
                unsaved.remove(&row.vod_id);
            }
            if unsaved.is_empty() {
                return;
            }
        }
    }

    async fn write(&self, row: &RecordingRow) -> Result<(), RegistryError> {
        match self.news_of(row).await {
            Some(event) => self.registry.put_recording(&RecordingRow { events: vec![event], ..row.clone() }).await,
            None => self.registry.put_recording(row).await,
        }
    }

    /// Whether anybody wants it is known to who tells it, should the registry not say.
    async fn news_of(&self, row: &RecordingRow) -> Option<Event> {
        if row.state != RecordingState::Ready {
            return None;
        }
        let id = BroadcastId::new(&row.app, &row.stream).ok()?;
        let wants =
            |found: Result<Option<BroadcastRow>, _>| found.map_or(true, |row| row.is_some_and(|row| row.is_told()));
        if !self.webhooks.contains(&row.app) && !wants(self.registry.get(&id).await) {
            return None;
        }
        let is_over = self.hub.get(&id).is_none_or(|broadcast| broadcast.status() == Status::Ended);
        Event::of_recording(row, is_over, clock::now_us() / 1_000)
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

    fn unsaved(&self) -> MutexGuard<'_, BTreeMap<VodId, RecordingRow>> {
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
