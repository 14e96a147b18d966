//! The registry of a node that has no other service: one redb file. Survives `kill -9` and power cuts with everything
//! that a method returned for.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};

use super::{BroadcastRow, Claimed, Details, Ending, Progress, RecordingFilter, RecordingRow, VodId};
use crate::live::{BroadcastId, Publisher};

/// Grows when rows change in a way that defaults can't bridge.
const VERSION: u64 = 1;
/// The default of a gibibyte is for databases, not for a few thousand rows.
const CACHE_BYTES: usize = 8 << 20;

type Rows = TableDefinition<'static, &'static str, &'static [u8]>;
/// By `app/stream`.
const BROADCASTS: Rows = TableDefinition::new("broadcasts");
/// By `app/vod id`, so that an application's recordings lie together, oldest first.
const RECORDINGS: Rows = TableDefinition::new("recordings");
/// Vod id by `app/file`: no two recordings share a file.
const FILES: TableDefinition<&str, &str> = TableDefinition::new("recording_files");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const META_VERSION: &str = "version";
/// No removed broadcast had a higher epoch.
const META_EPOCH_FLOOR: &str = "epoch_floor";

/// Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// Forgotten after an error of the disk, because redb takes no more orders then, and opened again by whoever asks
    /// next: a disk that was full for a moment must not end the service.
    database: Mutex<Option<Arc<Database>>>,
}

pub struct Opened {
    pub registry: Registry,
    /// Broadcasts that a dead process left broadcasting; they are `terminated_unexpectedly` now.
    pub orphans: Vec<BroadcastRow>,
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("registry {} can't be opened: {source}", .path.display())]
    Open { path: PathBuf, source: Box<redb::Error> },
    #[error("registry {} is held by another process", .path.display())]
    Held { path: PathBuf },
    #[error("registry {} is of version {found}, this program knows up to {VERSION}", .path.display())]
    Version { path: PathBuf, found: u64 },
    #[error("registry {}: {source}", .path.display())]
    Storage { path: PathBuf, source: Box<redb::Error> },
    #[error("registry {}: row {key:?} can't be read: {source}", .path.display())]
    Row { path: PathBuf, key: String, source: serde_json::Error },
    #[error("broadcast {id} exists already")]
    BroadcastExists { id: BroadcastId },
    #[error("file {app}/{file} belongs to another recording")]
    FileTaken { app: String, file: String },
}

/// Inside a transaction; the path is added on the way out.
enum Fault {
    Storage(Box<redb::Error>),
    Row { key: String, source: serde_json::Error },
    Refused(RegistryError),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Storage(Box::new(error.into()))
    }
}

impl Registry {
    /// Opens the file or begins a new one.
    pub fn open(path: &Path) -> Result<Opened, RegistryError> {
        let new = !path.exists();
        let database = open_database(path)?;
        if new {
            // The file is only there for good once its directory says so.
            let synced =
                path.parent().map_or(Ok(()), |parent| std::fs::File::open(parent).and_then(|dir| dir.sync_all()));
            synced.map_err(|error| RegistryError::Open { path: path.to_owned(), source: Box::new(error.into()) })?;
        }
        let registry =
            Self { shared: Arc::new(Shared { path: path.to_owned(), database: Mutex::new(Some(Arc::new(database))) }) };
        let orphans = registry.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get(META_VERSION)?.map(|version| version.value());
            if let Some(found) = found.filter(|found| *found > VERSION) {
                return Err(Fault::Refused(RegistryError::Version { path: path.to_owned(), found }));
            }
            meta.insert(META_VERSION, VERSION)?;
            transaction.open_table(FILES)?;
            transaction.open_table(RECORDINGS)?;
            let mut table = transaction.open_table(BROADCASTS)?;
            let mut orphans = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                let mut row: BroadcastRow = decode(key.value(), value.value())?;
                if row.orphaned() {
                    orphans.push((key.value().to_owned(), row));
                }
            }
            for (key, row) in &orphans {
                put(&mut table, key, row)?;
            }
            Ok(orphans.into_iter().map(|(_, row)| row).collect())
        })?;
        Ok(Opened { registry, orphans })
    }

    /// Gives the broadcast to a publisher: the next epoch, and numbers that nobody has used.
    pub fn claim(&self, id: &BroadcastId, publisher: &Publisher, now_ms: i64) -> Result<Claimed, RegistryError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(BROADCASTS)?;
            let mut row = match find(&table, &key_of(id))? {
                Some(row) => row,
                None => new_row(transaction, id, now_ms)?,
            };
            let claimed = row.claim(publisher, now_ms);
            put(&mut table, &key_of(id), &row)?;
            Ok(claimed)
        })
    }

    /// How far all broadcasts of this node have come, in one transaction. Those held by another claim are left alone.
    pub fn progress(&self, batch: &[Progress], now_ms: i64) -> Result<(), RegistryError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut table = transaction.open_table(BROADCASTS)?;
            for Progress { id, epoch, next_gop, discontinuity } in batch {
                let found: Option<BroadcastRow> = find(&table, &key_of(id))?;
                if let Some(mut row) = found
                    && row.progress(*epoch, *next_gop, *discontinuity, now_ms)
                {
                    put(&mut table, &key_of(id), &row)?;
                }
            }
            Ok(())
        })
    }

    /// The broadcast is over. False, and nothing is changed, when another claim holds it.
    pub fn finish(&self, last: &Progress, ending: Ending, now_ms: i64) -> Result<bool, RegistryError> {
        let key = key_of(&last.id);
        self.edit_broadcast(&key, |row| row.finish(last.epoch, ending, last.next_gop, last.discontinuity, now_ms))
    }

    /// Makes a broadcast known before anybody publishes it.
    pub fn create(&self, id: &BroadcastId, details: Details, now_ms: i64) -> Result<BroadcastRow, RegistryError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(BROADCASTS)?;
            if table.get(key_of(id).as_str())?.is_some() {
                return Err(Fault::Refused(RegistryError::BroadcastExists { id: id.clone() }));
            }
            let mut row = new_row(transaction, id, now_ms)?;
            row.details = details;
            put(&mut table, &key_of(id), &row)?;
            Ok(row)
        })
    }

    /// False when there is no such broadcast.
    pub fn set_details(&self, id: &BroadcastId, details: Details) -> Result<bool, RegistryError> {
        self.edit_broadcast(&key_of(id), |row| {
            row.details = details;
            true
        })
    }

    /// `None` leaves it to the application's setting. False when there is no such broadcast.
    pub fn set_record(&self, id: &BroadcastId, record_override: Option<bool>) -> Result<bool, RegistryError> {
        self.edit_broadcast(&key_of(id), |row| {
            row.record_override = record_override;
            true
        })
    }

    pub fn get(&self, id: &BroadcastId) -> Result<Option<BroadcastRow>, RegistryError> {
        self.read(BROADCASTS, |table| find(table, &key_of(id)))
    }

    /// An application's broadcasts by name.
    pub fn list(&self, app: &str, offset: usize, size: usize) -> Result<Vec<BroadcastRow>, RegistryError> {
        self.read(BROADCASTS, |table| {
            let (from, to) = bounds(app);
            table.range(from.as_str()..to.as_str())?.skip(offset).take(size).map(decode_entry).collect()
        })
    }

    pub fn count(&self, app: &str) -> Result<usize, RegistryError> {
        self.read(BROADCASTS, |table| {
            let (from, to) = bounds(app);
            Ok(table.range(from.as_str()..to.as_str())?.count())
        })
    }

    /// Forgets a broadcast, except that a later one of the same name gets a higher epoch: its last publisher may
    /// still be in the hub. False when there is no such broadcast.
    pub fn remove(&self, id: &BroadcastId) -> Result<bool, RegistryError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(BROADCASTS)?;
            let Some(row) = find::<BroadcastRow>(&table, &key_of(id))? else { return Ok(false) };
            table.remove(key_of(id).as_str())?;
            let mut meta = transaction.open_table(META)?;
            let floor = meta.get(META_EPOCH_FLOOR)?.map_or(0, |floor| floor.value());
            meta.insert(META_EPOCH_FLOOR, floor.max(row.epoch))?;
            Ok(true)
        })
    }

    /// Adds a recording or replaces its row. Refuses a file name that another recording has.
    pub fn put_recording(&self, row: &RecordingRow) -> Result<(), RegistryError> {
        self.write(|transaction| {
            let mut files = transaction.open_table(FILES)?;
            let mut table = transaction.open_table(RECORDINGS)?;
            let file = key(&row.app, &row.file);
            let owner = files.get(file.as_str())?.map(|owner| owner.value().to_owned());
            if owner.is_some_and(|owner| owner != row.vod_id.as_str()) {
                return Err(Fault::Refused(RegistryError::FileTaken { app: row.app.clone(), file: row.file.clone() }));
            }
            let key_of_row = key(&row.app, row.vod_id.as_str());
            let before: Option<RecordingRow> = find(&table, &key_of_row)?;
            if let Some(before) = before.filter(|before| before.file != row.file) {
                files.remove(key(&before.app, &before.file).as_str())?;
            }
            files.insert(file.as_str(), row.vod_id.as_str())?;
            put(&mut table, &key_of_row, row)
        })
    }

    pub fn recording(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError> {
        self.read(RECORDINGS, |table| find(table, &key(app, vod_id.as_str())))
    }

    pub fn recording_of_file(&self, app: &str, file: &str) -> Result<Option<RecordingRow>, RegistryError> {
        let owner =
            self.read(FILES, |files| Ok(files.get(key(app, file).as_str())?.map(|id| VodId::parse(id.value()))))?;
        owner.map_or(Ok(None), |vod_id| self.recording(app, &vod_id))
    }

    /// An application's recordings, newest first.
    pub fn list_recordings(
        &self,
        app: &str,
        filter: RecordingFilter<'_>,
        offset: usize,
        size: usize,
    ) -> Result<Vec<RecordingRow>, RegistryError> {
        self.read(RECORDINGS, |table| {
            let (from, to) = bounds(app);
            let rows = table.range(from.as_str()..to.as_str())?.rev().map(decode_entry);
            rows.filter(|row| row.as_ref().map_or(true, |row| filter.takes(row))).skip(offset).take(size).collect()
        })
    }

    pub fn count_recordings(&self, app: &str, filter: RecordingFilter<'_>) -> Result<usize, RegistryError> {
        Ok(self.list_recordings(app, filter, 0, usize::MAX)?.len())
    }

    /// Recordings of all applications that a dead process left unfinished.
    pub fn unfinished_recordings(&self) -> Result<Vec<RecordingRow>, RegistryError> {
        self.read(RECORDINGS, |table| {
            let rows = table.iter()?.map(decode_entry::<RecordingRow>);
            rows.filter(|row| row.as_ref().map_or(true, |row| row.state.is_unfinished())).collect()
        })
    }

    /// Forgets a recording and returns what was known of it. Its file is the caller's business.
    pub fn remove_recording(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(RECORDINGS)?;
            let key_of_row = key(app, vod_id.as_str());
            let Some(row) = find::<RecordingRow>(&table, &key_of_row)? else { return Ok(None) };
            table.remove(key_of_row.as_str())?;
            transaction.open_table(FILES)?.remove(key(app, &row.file).as_str())?;
            Ok(Some(row))
        })
    }

    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    fn edit_broadcast(&self, key: &str, edit: impl FnOnce(&mut BroadcastRow) -> bool) -> Result<bool, RegistryError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(BROADCASTS)?;
            let Some(mut row) = find::<BroadcastRow>(&table, key)? else { return Ok(false) };
            let changed = edit(&mut row);
            if changed {
                put(&mut table, key, &row)?;
            }
            Ok(changed)
        })
    }

    fn write<T>(&self, body: impl FnOnce(&WriteTransaction) -> Result<T, Fault>) -> Result<T, RegistryError> {
        let database = self.database()?;
        let run = || {
            let transaction = database.begin_write()?;
            let value = body(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|fault| self.explain(fault))
    }

    fn read<K: redb::Key, V: redb::Value, T>(
        &self,
        table: TableDefinition<'_, K, V>,
        body: impl FnOnce(&redb::ReadOnlyTable<K, V>) -> Result<T, Fault>,
    ) -> Result<T, RegistryError> {
        let database = self.database()?;
        let run = || body(&database.begin_read()?.open_table(table)?);
        run().map_err(|fault| self.explain(fault))
    }

    fn database(&self) -> Result<Arc<Database>, RegistryError> {
        let mut database = self.shared.database.lock().unwrap_or_else(PoisonError::into_inner);
        match &*database {
            Some(database) => Ok(database.clone()),
            None => Ok(database.insert(Arc::new(open_database(&self.shared.path)?)).clone()),
        }
    }

    fn explain(&self, fault: Fault) -> RegistryError {
        let path = self.shared.path.clone();
        if matches!(fault, Fault::Storage(_)) {
            *self.shared.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        match fault {
            Fault::Storage(source) => RegistryError::Storage { path, source },
            Fault::Row { key, source } => RegistryError::Row { path, key, source },
            Fault::Refused(error) => error,
        }
    }
}

fn open_database(path: &Path) -> Result<Database, RegistryError> {
    Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => RegistryError::Held { path: path.to_owned() },
        error => RegistryError::Open { path: path.to_owned(), source: Box::new(error.into()) },
    })
}

fn new_row(transaction: &WriteTransaction, id: &BroadcastId, now_ms: i64) -> Result<BroadcastRow, Fault> {
    let meta = transaction.open_table(META)?;
    let floor = meta.get(META_EPOCH_FLOOR)?.map_or(0, |floor| floor.value());
    Ok(BroadcastRow::new(id, floor, now_ms))
}

/// Neither half can contain a slash.
fn key(app: &str, name: &str) -> String {
    format!("{app}/{name}")
}

fn key_of(id: &BroadcastId) -> String {
    key(id.app(), id.stream())
}

/// All keys of an application: `0` follows `/`.
fn bounds(app: &str) -> (String, String) {
    (format!("{app}/"), format!("{app}0"))
}

fn find<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>, Fault> {
    table.get(key)?.map(|value| decode(key, value.value())).transpose()
}

fn put<T: Serialize>(
    table: &mut redb::Table<'_, &'static str, &'static [u8]>,
    key: &str,
    row: &T,
) -> Result<(), Fault> {
    let value = serde_json::to_vec(row).map_err(|source| Fault::Row { key: key.to_owned(), source })?;
    table.insert(key, value.as_slice())?;
    Ok(())
}

type Entry<'a> = (redb::AccessGuard<'a, &'static str>, redb::AccessGuard<'a, &'static [u8]>);

fn decode_entry<T: DeserializeOwned>(entry: Result<Entry<'_>, redb::StorageError>) -> Result<T, Fault> {
    let (key, value) = entry?;
    decode(key.value(), value.value())
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(value).map_err(|source| Fault::Row { key: key.to_owned(), source })
}
