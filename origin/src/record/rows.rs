//! The registry as the threads of recordings see it: they have nothing else to do and wait for it.
//!
//! What it does not take of recordings that are over is told again later. Those that go on tell of themselves. With a row that
//! says that a recording is ready goes the news of it, for whoever wants to know.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use headwater_common::{
    clock,
    live::{BroadcastId, Hub, Status},
    registry::{BroadcastRow, Event, RecordingRow, RecordingState, Registry, RegistryError, VodId},
};
use tokio::runtime::Handle;

#[derive(Clone)]
pub(super) struct Rows {
    pub(super) registry: Arc<dyn Registry>,
    pub(super) runtime: Handle,
    /// Which node this is.
    pub(super) node: String,
    hub: Arc<Hub>,
    /// Applications that have one.
    webhooks: Arc<BTreeSet<String>>,
    /// Last words of recordings that it has not taken: a few hundred bytes for each that ended while it was away.
    untold: Arc<Mutex<BTreeMap<VodId, RecordingRow>>>,
}

impl Rows {
    pub(super) fn new(registry: Arc<dyn Registry>, node: String, hub: Arc<Hub>, webhooks: BTreeSet<String>) -> Self {
        let (webhooks, untold) = (Arc::new(webhooks), Arc::default());
        Self { registry, runtime: Handle::current(), node, hub, webhooks, untold }
    }

    pub(super) fn put(&self, row: &RecordingRow) -> Result<(), RegistryError> {
        self.runtime.block_on(self.write(row))
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
            match self.write(&row).await {
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

    async fn write(&self, row: &RecordingRow) -> Result<(), RegistryError> {
        match self.news_of(row).await {
            Some(event) => self.registry.put_recording(&RecordingRow { events: vec![event], ..row.clone() }).await,
            None => self.registry.put_recording(row).await,
        }
    }

    /// Where the registry does not say whether somebody wants to know, who tells it will see.
    async fn news_of(&self, row: &RecordingRow) -> Option<Event> {
        if row.state != RecordingState::Ready {
            return None;
        }
        let id = BroadcastId::new(&row.app, &row.stream).ok()?;
        let is_told = match self.webhooks.contains(&row.app) {
            true => true,
            false => self.registry.get(&id).await.map_or(true, |row| row.is_some_and(|row| row.is_told())),
        };
        let is_over = self.hub.get(&id).is_none_or(|broadcast| broadcast.status() == Status::Ended);
        Event::of_recording(row, is_over, clock::now_us() / 1_000).filter(|_| is_told)
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
