//! The registry that nodes share: MongoDB 4.4 or later, a replica set or a standalone, or what speaks its language.
//!
//! A row is read, the rule is asked, and the result written if the row's `revision` is still the one that was read: so
//! the rules are the same as everywhere, and of two who write at once one begins again. What others rely on (claims,
//! ends, recordings) is written to a majority and its journal, what is repeated anyway to one server. Every write is
//! the same when it is made twice. An application's rows are in the database of its name, nodes in `clusterdb`, as
//! Ant Media's operators know them; a database named in the address goes in front of all these names.
//!
//! Deliberately absent: transactions, change streams, pipelines in updates, and whatever else only one vendor has.
//! Nothing waits longer than [`PATIENCE`].

mod beginning;
mod documents;
mod fault;
mod mailboxes;
mod nodes;
mod rows;

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use mongodb::{
    Client, Collection, Cursor, Database,
    bson::{Document, doc},
    options::{Acknowledgment, CollectionOptions, ReadPreference, SelectionCriteria, WriteConcern},
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use self::{
    documents::{
        BroadcastDocument, FINALISING, RECORDING, UPLOADING, VodDocument, fields, key, keys_of, literally, signed,
    },
    fault::Fault,
    rows::{EPOCH_FLOOR, step_back, update_of},
};
use super::{
    Bid, BroadcastRow, Claimed, Details, Ending, Progress, RecordingFilter, RecordingRow, Registry, RegistryError,
    Take, VodId, pace::Pace,
};
use crate::live::BroadcastId;

pub use nodes::Beaten;

/// For one operation, whatever it waits for. A publisher waits for two of them.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a majority may take to confirm.
const CONFIRMATION: Duration = Duration::from_secs(2);
/// Who loses against others this often has met a bug.
const ATTEMPTS_MAX: u32 = 64;
/// Statements in one command.
const BATCH: usize = 500;

const CLUSTER: &str = "clusterdb";
/// Names that MongoDB, Ant Media or we use otherwise.
const RESERVED: [&str; 5] = ["admin", "local", "config", "clusterdb", "serverdb"];
/// MongoDB takes 63 bytes, hosted ones 38.
const NAME_LENGTH_MAX: usize = 38;

/// Cheap to clone.
#[derive(Clone)]
pub struct Mongo {
    client: Client,
    hosts: String,
    /// In front of each database's name.
    prefix: String,
    apps: BTreeSet<String>,
    pace: Arc<Pace>,
    noted: Arc<Notify>,
    /// Of what is in the database, which all have who share it. Absent before [`Mongo::prepare`].
    id: Arc<OnceLock<String>>,
}

#[derive(Clone, Copy)]
enum Durability {
    /// On the disks of a majority.
    Sure,
    /// On one server: it is written again before long.
    Quick,
}

impl Mongo {
    fn cluster(&self) -> Database {
        self.client.database(&format!("{}{CLUSTER}", self.prefix))
    }

    fn database_name(&self, app: &str) -> String {
        // Rows are told apart by the application's whole name: two that share a database do not meet.
        let mut name = app.to_lowercase().replace('.', "_");
        if self.prefix.is_empty() && RESERVED.contains(&name.as_str()) {
            name.push_str("_app");
        }
        name.insert_str(0, &self.prefix);
        name.truncate(NAME_LENGTH_MAX);
        name
    }

    fn databases(&self) -> BTreeSet<String> {
        self.apps.iter().map(|app| self.database_name(app)).collect()
    }

    fn collection<T: Send + Sync>(&self, database: &Database, name: &str, durability: Durability) -> Collection<T> {
        let write_concern = match durability {
            Durability::Sure => {
                WriteConcern::builder().w(Acknowledgment::Majority).w_timeout(CONFIRMATION).journal(true).build()
            }
            Durability::Quick => WriteConcern::builder().w(Acknowledgment::Nodes(1)).build(),
        };
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        let options = CollectionOptions::builder().write_concern(write_concern).selection_criteria(primary).build();
        database.collection_with_options(name, options)
    }

    fn broadcasts(&self, app: &str) -> Collection<BroadcastDocument> {
        self.collection(&self.client.database(&self.database_name(app)), "broadcast", Durability::Sure)
    }

    fn vods(&self, app: &str) -> Collection<VodDocument> {
        self.collection(&self.client.database(&self.database_name(app)), "vod", Durability::Sure)
    }

    async fn run<T>(&self, operation: impl IntoFuture<Output = mongodb::error::Result<T>>) -> Result<T, Fault> {
        let begun = Instant::now();
        match tokio::time::timeout(PATIENCE, operation.into_future()).await {
            Ok(outcome) => {
                self.pace.took(begun.elapsed());
                Ok(outcome?)
            }
            Err(_) => Err(Fault::Other(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    fn explain(&self, fault: Fault) -> RegistryError {
        fault.explain(&self.hosts)
    }
}

#[async_trait]
impl Registry for Mongo {
    async fn claim(&self, id: &BroadcastId, bid: &Bid) -> Result<Claimed, RegistryError> {
        for attempt in 0..ATTEMPTS_MAX {
            let rule = |row: &mut BroadcastRow| row.claim(bid).map_err(|denied| RegistryError::denied(id, denied));
            if let Some(claimed) = self.edit(id, |row| rule(row).map(Some)).await? {
                return Ok(claimed);
            }
            let mut row = self.new_row(id, bid.now_us).await?;
            let claimed = rule(&mut row)?;
            if self.insert(id, row).await? {
                return Ok(claimed);
            }
            step_back(attempt).await;
        }
        Err(self.contended(id))
    }

    async fn progress(&self, batch: &[Progress], now_us: i64) -> Result<(), RegistryError> {
        let databases: BTreeSet<_> = batch.iter().map(|progress| self.database_name(progress.id.app())).collect();
        for database in databases {
            let ours = batch.iter().filter(|progress| self.database_name(progress.id.app()) == database);
            let updates: Vec<_> = ours.map(|progress| update_of(progress, now_us)).collect();
            for updates in updates.chunks(BATCH) {
                let command = doc! {
                    "update": "broadcast", "updates": updates, "ordered": false, "writeConcern": { "w": 1 },
                };
                let done = self.run(self.client.database(&database).run_command(command)).await;
                let done = done.map_err(|fault| self.explain(fault))?;
                if let Ok(errors) = done.get_array("writeErrors") {
                    return Err(self.explain(Fault::Other(format!(
                        "{} rows were not written: {:?}",
                        errors.len(),
                        errors.first()
                    ))));
                }
            }
        }
        Ok(())
    }

    async fn finish(&self, last: &Progress, ending: Ending, now_us: i64) -> Result<bool, RegistryError> {
        let finished = self.edit(&last.id, |row| Ok(row.finish(last, ending, now_us).then_some(()))).await?;
        Ok(finished.is_some())
    }

    async fn create(&self, id: &BroadcastId, details: Details, now_us: i64) -> Result<BroadcastRow, RegistryError> {
        let row = BroadcastRow { details, ..self.new_row(id, now_us).await? };
        if !self.insert(id, row.clone()).await? {
            return Err(RegistryError::BroadcastExists { id: id.clone() });
        }
        Ok(row)
    }

    async fn set_details(&self, id: &BroadcastId, details: Details) -> Result<bool, RegistryError> {
        let set = self.edit(id, |row| {
            row.details = details.clone();
            Ok(Some(()))
        });
        let known = set.await?.is_some();
        if known {
            self.readdress(id, &details.listener_hook_url).await?;
        }
        Ok(known)
    }

    async fn set_record(&self, id: &BroadcastId, record_override: Option<bool>) -> Result<bool, RegistryError> {
        let set = self.edit(id, |row| {
            row.record_override = record_override;
            Ok(Some(()))
        });
        Ok(set.await?.is_some())
    }

    async fn set_take(
        &self,
        id: &BroadcastId,
        take: &Take,
        on: Option<bool>,
        now_us: i64,
    ) -> Result<bool, RegistryError> {
        let set = self.edit(id, |row| Ok(Some(row.set_take(take, on, now_us)?)));
        Ok(set.await?.is_some())
    }

    async fn get(&self, id: &BroadcastId) -> Result<Option<BroadcastRow>, RegistryError> {
        Ok(self.read(id).await?.map(|(row, _)| row))
    }

    async fn list(&self, app: &str, offset: usize, size: usize) -> Result<Vec<BroadcastRow>, RegistryError> {
        if size == 0 {
            return Ok(Vec::new());
        }
        let broadcasts = self.broadcasts(app);
        let find = broadcasts.find(keys_of(app)).sort(doc! { "_id": 1 }).skip(offset as u64).limit(limit(size));
        let found = self.run(all(find)).await;
        let found = found.map_err(|fault| self.explain(fault))?;
        Ok(found.into_iter().map(BroadcastDocument::row).collect())
    }

    async fn count(&self, app: &str) -> Result<usize, RegistryError> {
        let counted = self.run(self.broadcasts(app).count_documents(keys_of(app))).await;
        Ok(counted.map_err(|fault| self.explain(fault))? as usize)
    }

    async fn remove(&self, id: &BroadcastId) -> Result<bool, RegistryError> {
        for attempt in 0..ATTEMPTS_MAX {
            let Some((row, revision)) = self.read(id).await? else { return Ok(false) };
            row.may_be_removed().map_err(|denied| RegistryError::denied(id, denied))?;
            self.inherit(id, &row).await?;
            let meta = self.meta();
            let raise = meta.update_one(doc! { "_id": EPOCH_FLOOR }, doc! { "$max": { "epoch": signed(row.epoch) } });
            match self.run(raise.upsert(true)).await {
                Ok(_) => {}
                // Two who make the document at once: it is there now.
                Err(Fault::Duplicate) => continue,
                Err(fault) => return Err(self.explain(fault)),
            }
            let mine = doc! { "_id": key(id.app(), id.stream()), "revision": revision };
            let removed = self.run(self.broadcasts(id.app()).delete_one(mine)).await;
            if removed.map_err(|fault| self.explain(fault))?.deleted_count > 0 {
                return Ok(true);
            }
            step_back(attempt).await;
        }
        Err(self.contended(id))
    }

    async fn put_recording(&self, row: &RecordingRow) -> Result<(), RegistryError> {
        let document = VodDocument::new(row.clone());
        let fields = fields(&document).map_err(|error| self.explain(Fault::Other(error.to_string())))?;
        for attempt in 0..ATTEMPTS_MAX {
            let vods = self.vods(&row.app);
            let put = vods.update_one(doc! { "_id": &document.id }, doc! { "$set": &fields }).upsert(true);
            match self.run(put).await {
                Ok(_) => {
                    if !row.events.is_empty() {
                        self.noted.notify_one();
                    }
                    return Ok(());
                }
                // By another recording with this file, or by another writer of this row.
                Err(Fault::Duplicate) => {}
                Err(fault) => return Err(self.explain(fault)),
            }
            let thief = doc! { "app": &row.app, "vodName": &row.file, "_id": { "$ne": &document.id } };
            if self.run(vods.find_one(thief)).await.map_err(|fault| self.explain(fault))?.is_some() {
                return Err(RegistryError::FileTaken { app: row.app.clone(), file: row.file.clone() });
            }
            step_back(attempt).await;
        }
        Err(self.explain(Fault::Duplicate))
    }

    async fn recording(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError> {
        let found = self.run(self.vods(app).find_one(doc! { "_id": key(app, vod_id.as_str()) })).await;
        Ok(found.map_err(|fault| self.explain(fault))?.map(VodDocument::row))
    }

    async fn recording_of_file(&self, app: &str, file: &str) -> Result<Option<RecordingRow>, RegistryError> {
        let found = self.run(self.vods(app).find_one(doc! { "app": app, "vodName": file })).await;
        Ok(found.map_err(|fault| self.explain(fault))?.map(VodDocument::row))
    }

    async fn list_recordings(
        &self,
        app: &str,
        filter: RecordingFilter<'_>,
        offset: usize,
        size: usize,
    ) -> Result<Vec<RecordingRow>, RegistryError> {
        if size == 0 {
            return Ok(Vec::new());
        }
        let vods = self.vods(app);
        let find = vods.find(chosen(app, filter)).sort(doc! { "_id": -1 }).skip(offset as u64).limit(limit(size));
        let found = self.run(all(find)).await;
        Ok(found.map_err(|fault| self.explain(fault))?.into_iter().map(VodDocument::row).collect())
    }

    async fn count_recordings(&self, app: &str, filter: RecordingFilter<'_>) -> Result<usize, RegistryError> {
        let counted = self.run(self.vods(app).count_documents(chosen(app, filter))).await;
        Ok(counted.map_err(|fault| self.explain(fault))? as usize)
    }

    async fn unfinished_recordings(&self, node: &str) -> Result<Vec<RecordingRow>, RegistryError> {
        let mut unfinished = Vec::new();
        for name in self.databases() {
            let vods = self.collection::<VodDocument>(&self.client.database(&name), "vod", Durability::Sure);
            let find = vods.find(doc! { "node": node, "processStatus": { "$in": [RECORDING, FINALISING, UPLOADING] } });
            let found = self.run(all(find)).await;
            unfinished.extend(found.map_err(|fault| self.explain(fault))?.into_iter().map(VodDocument::row));
        }
        Ok(unfinished)
    }

    fn operation_time(&self) -> Duration {
        self.pace.average()
    }

    async fn remove_recording(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError> {
        let removed = self.run(self.vods(app).find_one_and_delete(doc! { "_id": key(app, vod_id.as_str()) })).await;
        Ok(removed.map_err(|fault| self.explain(fault))?.map(VodDocument::row))
    }
}

/// Every document that is found.
async fn all<T: DeserializeOwned>(
    find: impl IntoFuture<Output = mongodb::error::Result<Cursor<T>>>,
) -> mongodb::error::Result<Vec<T>> {
    let mut cursor = find.await?;
    let mut found = Vec::new();
    while cursor.advance().await? {
        found.push(cursor.deserialize_current()?);
    }
    Ok(found)
}

fn limit(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn chosen(app: &str, filter: RecordingFilter<'_>) -> Document {
    let mut chosen = keys_of(app);
    if let Some(stream) = filter.stream {
        chosen.insert("streamId", stream);
    }
    if let Some(part) = filter.search {
        chosen.insert("vodName", literally(part));
    }
    chosen
}
