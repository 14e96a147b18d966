//! The registry of a node that has no other service: one redb file. Survives `kill -9` and power cuts with everything
//! that a method returned for.

mod file;
mod mailboxes;
mod recordings;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use file::File;
use tokio::sync::Notify;

pub(super) use file::VERSION;

use super::{
    Bid, BroadcastRow, Claimed, Details, Ending, Progress, RecordingFilter, RecordingRow, Registry, RegistryError,
    Take, VodId, pace::Pace,
};
use crate::live::BroadcastId;

pub struct Embedded {
    file: Arc<File>,
    /// Of writes: what is read is in memory.
    pace: Pace,
    noted: Notify,
}

impl Embedded {
    /// Opens the file or begins a new one. Broadcasts that a dead process left broadcasting are
    /// `terminated_unexpectedly` then, and returned.
    pub fn open(path: &Path) -> Result<(Self, Vec<BroadcastRow>), RegistryError> {
        let (file, orphans) = File::open(path)?;
        Ok((Self { file: Arc::new(file), pace: Pace::default(), noted: Notify::new() }, orphans))
    }

    /// Writes end with an fsync, which has no place on an async thread.
    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&File) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let begun = Instant::now();
        let written = self.blocking(write).await;
        self.pace.took(begun.elapsed());
        written
    }

    /// What may be to be told is looked for.
    async fn write_news<T: Send + 'static>(
        &self,
        write: impl FnOnce(&File) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let written = self.write(write).await;
        self.noted.notify_one();
        written
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, RegistryError> {
        let file = self.file.clone();
        // A runtime that shuts down begins nothing any more.
        tokio::task::spawn_blocking(move || work(&file)).await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(RegistryError::Closed),
        })
    }
}

#[async_trait]
impl Registry for Embedded {
    async fn claim(&self, id: &BroadcastId, bid: &Bid) -> Result<Claimed, RegistryError> {
        let (id, bid) = (id.clone(), bid.clone());
        self.write_news(move |file| file.claim(&id, &bid)).await
    }

    async fn progress(&self, batch: &[Progress], now_us: i64) -> Result<(), RegistryError> {
        let batch = batch.to_vec();
        self.write(move |file| file.progress(&batch, now_us)).await
    }

    async fn finish(&self, last: &Progress, ending: Ending, now_us: i64) -> Result<bool, RegistryError> {
        let last = last.clone();
        self.write_news(move |file| file.finish(&last, ending, now_us)).await
    }

    async fn create(&self, id: &BroadcastId, details: Details, now_us: i64) -> Result<BroadcastRow, RegistryError> {
        let id = id.clone();
        self.write(move |file| file.create(&id, details, now_us)).await
    }

    async fn set_details(&self, id: &BroadcastId, details: Details) -> Result<bool, RegistryError> {
        let id = id.clone();
        self.write(move |file| file.set_details(&id, details)).await
    }

    async fn set_record(&self, id: &BroadcastId, record_override: Option<bool>) -> Result<bool, RegistryError> {
        let id = id.clone();
        self.write(move |file| file.set_record(&id, record_override)).await
    }

    async fn set_take(
        &self,
        id: &BroadcastId,
        take: &Take,
        on: Option<bool>,
        now_us: i64,
    ) -> Result<bool, RegistryError> {
        let (id, take) = (id.clone(), take.clone());
        self.write(move |file| file.set_take(&id, &take, on, now_us)).await
    }

    async fn get(&self, id: &BroadcastId) -> Result<Option<BroadcastRow>, RegistryError> {
        self.file.get(id)
    }

    async fn list(&self, app: &str, offset: usize, size: usize) -> Result<Vec<BroadcastRow>, RegistryError> {
        self.file.list(app, offset, size)
    }

    async fn count(&self, app: &str) -> Result<usize, RegistryError> {
        self.file.count(app)
    }

    async fn remove(&self, id: &BroadcastId) -> Result<bool, RegistryError> {
        let id = id.clone();
        self.write(move |file| file.remove(&id)).await
    }

    async fn put_recording(&self, row: &RecordingRow) -> Result<(), RegistryError> {
        let row = row.clone();
        self.write_news(move |file| file.put_recording(&row)).await
    }

    async fn recording(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError> {
        self.file.recording(app, vod_id)
    }

    async fn recording_of_file(&self, app: &str, file: &str) -> Result<Option<RecordingRow>, RegistryError> {
        self.file.recording_of_file(app, file)
    }

    async fn list_recordings(
        &self,
        app: &str,
        filter: RecordingFilter<'_>,
        offset: usize,
        size: usize,
    ) -> Result<Vec<RecordingRow>, RegistryError> {
        self.file.list_recordings(app, filter, offset, size)
    }

    async fn count_recordings(&self, app: &str, filter: RecordingFilter<'_>) -> Result<usize, RegistryError> {
        self.file.count_recordings(app, filter)
    }

    async fn unfinished_recordings(&self, node: &str) -> Result<Vec<RecordingRow>, RegistryError> {
        self.file.unfinished_recordings(node)
    }

    fn operation_time(&self) -> Duration {
        self.pace.average()
    }

    async fn remove_recording(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError> {
        let (app, vod_id) = (app.to_owned(), vod_id.clone());
        self.write(move |file| file.remove_recording(&app, &vod_id)).await
    }
}
