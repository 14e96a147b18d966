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

mod documents;
mod fault;
mod nodes;

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use mongodb::{
    Client, Collection, Cursor, Database, IndexModel,
    bson::{Document, doc},
    options::{
        Acknowledgment, ClientOptions, CollectionOptions, IndexOptions, ReadPreference, SelectionCriteria, WriteConcern,
    },
};
use serde::de::DeserializeOwned;

use self::{
    documents::{
        BroadcastDocument, FINALISING, RECORDING, UPLOADING, VodDocument, fields, key, keys_of, literally, signed,
    },
    fault::Fault,
};
use super::{
    Bid, BroadcastRow, Claimed, Details, Ending, Progress, RecordingFilter, RecordingRow, Registry, RegistryError,
    VodId, broadcast::Ahead,
};
use crate::live::BroadcastId;

pub use nodes::Beaten;

/// For one operation, whatever it waits for. A publisher waits for two of them.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the driver looks for a server that takes writes.
const SELECTION: Duration = Duration::from_secs(2);
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
}

#[derive(Clone, Copy)]
enum Durability {
    /// On the disks of a majority.
    Sure,
    /// On one server: it is written again before long.
    Quick,
}

impl Mongo {
    /// Reads the address; servers are looked for when the first operation comes. Fails when the address makes no sense.
    pub async fn new(uri: &str, apps: impl IntoIterator<Item = String>) -> Result<Self, RegistryError> {
        let parsed = tokio::time::timeout(2 * PATIENCE, ClientOptions::parse(uri)).await;
        let mut options = match parsed {
            Ok(Ok(options)) => options,
            // What the driver quotes may be a part of the password.
            Ok(Err(_)) if uri.contains('@') => {
                return Err(RegistryError::Address {
                    problem: "it can't be read; special characters in user name and password are to be percent-encoded"
                        .to_owned(),
                });
            }
            Ok(Err(error)) => return Err(RegistryError::Address { problem: error.kind.to_string() }),
            Err(_) => return Err(RegistryError::Address { problem: "its name is not resolved in time".to_owned() }),
        };
        let hosts = options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let prefix = options.default_database.as_ref().map_or_else(String::new, |name| format!("{name}_"));
        options.server_selection_timeout.get_or_insert(SELECTION);
        options.connect_timeout.get_or_insert(SELECTION);
        options.app_name.get_or_insert_with(|| "headwater".to_owned());
        let client = Client::with_options(options)
            .map_err(|error| RegistryError::Address { problem: error.kind.to_string() })?;
        Ok(Self { client, hosts, prefix, apps: apps.into_iter().collect() })
    }

    /// Makes the indexes that are missing. Nothing else works the worse before, except that two recordings could get
    /// one name.
    pub async fn prepare(&self) -> Result<(), RegistryError> {
        let index = |keys: Document| IndexModel::builder().keys(keys).build();
        let unique = IndexOptions::builder().unique(true).build();
        for app in self.databases() {
            let database = self.client.database(&app);
            let broadcasts = database.collection::<Document>("broadcast");
            let wanted = [doc! { "streamId": 1 }, doc! { "status": 1 }, doc! { "endTime": 1 }].map(index);
            self.run(broadcasts.create_indexes(wanted)).await.map_err(|fault| self.explain(fault))?;
            let vods = database.collection::<Document>("vod");
            let file = IndexModel::builder().keys(doc! { "app": 1, "vodName": 1 }).options(unique.clone()).build();
            let wanted = [index(doc! { "node": 1, "processStatus": 1 }), index(doc! { "streamId": 1 }), file];
            self.run(vods.create_indexes(wanted)).await.map_err(|fault| self.explain(fault))?;
        }
        self.prepare_nodes().await
    }

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
        match tokio::time::timeout(PATIENCE, operation.into_future()).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(Fault::Other(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    fn explain(&self, fault: Fault) -> RegistryError {
        fault.explain(&self.hosts)
    }

    /// Begins again as long as others change the row in between. `rule` says `None` when there is nothing to change.
    async fn edit<T>(
        &self,
        id: &BroadcastId,
        mut rule: impl FnMut(&mut BroadcastRow) -> Result<Option<T>, RegistryError>,
    ) -> Result<Option<T>, RegistryError> {
        let broadcasts = self.broadcasts(id.app());
        for attempt in 0..ATTEMPTS_MAX {
            let Some((mut row, revision)) = self.read(id).await? else { return Ok(None) };
            let Some(outcome) = rule(&mut row)? else { return Ok(None) };
            let mine = doc! { "_id": key(id.app(), id.stream()), "revision": revision };
            let change = self.change(row, revision + 1)?;
            let written = self.run(broadcasts.update_one(mine, change)).await.map_err(|fault| self.explain(fault))?;
            if written.matched_count > 0 {
                return Ok(Some(outcome));
            }
            step_back(attempt).await;
        }
        Err(self.contended(id))
    }

    async fn read(&self, id: &BroadcastId) -> Result<Option<(BroadcastRow, i64)>, RegistryError> {
        let key = doc! { "_id": key(id.app(), id.stream()) };
        let found = self.run(self.broadcasts(id.app()).find_one(key)).await.map_err(|fault| self.explain(fault))?;
        Ok(found.map(|document| {
            let revision = document.revision;
            (document.row(), revision)
        }))
    }

    fn change(&self, row: BroadcastRow, revision: i64) -> Result<Document, RegistryError> {
        // Fields that somebody else has added stay.
        let fields = fields(&BroadcastDocument::new(row, revision))
            .map_err(|error| self.explain(Fault::Other(error.to_string())))?;
        Ok(doc! { "$set": fields })
    }

    /// False when there is one already.
    async fn insert(&self, id: &BroadcastId, row: BroadcastRow) -> Result<bool, RegistryError> {
        match self.run(self.broadcasts(id.app()).insert_one(BroadcastDocument::new(row, 1))).await {
            Ok(_) => Ok(true),
            Err(Fault::Duplicate) => Ok(false),
            Err(fault) => Err(self.explain(fault)),
        }
    }

    async fn new_row(&self, id: &BroadcastId, now_us: i64) -> Result<BroadcastRow, RegistryError> {
        // Read after the row was not found: whoever removed it has raised the floor before.
        let floor = self.run(self.meta().find_one(doc! { "_id": EPOCH_FLOOR })).await;
        let floor = floor.map_err(|fault| self.explain(fault))?;
        let epoch = floor.and_then(|floor| floor.get_i64("epoch").ok()).unwrap_or_default();
        Ok(BroadcastRow::new(id, epoch.unsigned_abs(), now_us))
    }

    fn meta(&self) -> Collection<Document> {
        self.collection(&self.cluster(), "headwater", Durability::Sure)
    }

    fn contended(&self, id: &BroadcastId) -> RegistryError {
        self.explain(Fault::Other(format!("{id} is changed by others all the time")))
    }
}

/// No removed broadcast had a higher epoch than what this document says.
const EPOCH_FLOOR: &str = "epochFloor";

/// A moment that differs from one who lost to the next.
async fn step_back(attempt: u32) {
    use std::hash::{BuildHasher, RandomState};
    let spread_ms = 1 << attempt.min(5);
    tokio::time::sleep(Duration::from_millis(RandomState::new().hash_one(attempt) % spread_ms)).await;
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
        Ok(set.await?.is_some())
    }

    async fn set_record(&self, id: &BroadcastId, record_override: Option<bool>) -> Result<bool, RegistryError> {
        let set = self.edit(id, |row| {
            row.record_override = record_override;
            Ok(Some(()))
        });
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
                Ok(_) => return Ok(()),
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

/// As the row's own rule has it, without reading the row first: its condition and its maxima are all there is to it.
fn update_of(progress: &Progress, now_us: i64) -> Document {
    let Ahead { next_gop, discontinuity } = Ahead::of(progress.next_gop, progress.discontinuity);
    let mut set = doc! { "silent": progress.silent };
    if let Some(target_s) = progress.segment_target_s {
        set.insert("segmentTargetS", target_s);
    }
    doc! {
        "q": {
            "_id": key(progress.id.app(), progress.id.stream()),
            "epoch": signed(progress.epoch),
            "status": "broadcasting",
        },
        "u": {
            "$max": { "nextGop": signed(next_gop), "discontinuity": signed(discontinuity), "updateTime": now_us / 1000 },
            "$set": set,
            // Compared for equality only: raised twice is as good as once.
            "$inc": { "revision": 1_i64 },
        },
    }
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
