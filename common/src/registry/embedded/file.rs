//! The file itself: rows in, rows out, each call one transaction. Synchronous: a read takes microseconds, a write ends
//! with an fsync and takes what the disk takes.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};

use super::{mailboxes, recordings};
use crate::{
    live::BroadcastId,
    registry::{Bid, BroadcastRow, Claimed, Details, Ending, Progress, RegistryError, Take},
};

/// Grows when rows change in a way that defaults can't bridge.
pub(in crate::registry) const VERSION: u64 = 1;
/// The default of a gibibyte is for databases, not for a few thousand rows.
const CACHE_BYTES: usize = 8 << 20;

pub(super) type Rows = TableDefinition<'static, &'static str, &'static [u8]>;
/// By `app/stream`.
pub(super) const BROADCASTS: Rows = TableDefinition::new("broadcasts");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const META_VERSION: &str = "version";
/// No removed broadcast had a higher epoch.
const META_EPOCH_FLOOR: &str = "epoch_floor";

pub(super) struct File {
    path: PathBuf,
    /// Forgotten after an error of the disk, because redb takes no more orders then, and opened again by whoever asks
    /// next: a disk that was full for a moment must not end the service.
    database: Mutex<Option<Arc<Database>>>,
}

/// Inside a transaction; the path is added on the way out.
pub(super) enum Fault {
    Storage(Box<redb::Error>),
    Row { key: String, source: serde_json::Error },
    Refused(RegistryError),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Storage(Box::new(error.into()))
    }
}

impl File {
    /// Opens the file or begins a new one; returns the broadcasts that a dead process left broadcasting, too.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<BroadcastRow>), RegistryError> {
        let new = !path.exists();
        let database = open_database(path)?;
        if new {
            // The file is only there for good once its directory says so.
            let synced =
                path.parent().map_or(Ok(()), |parent| std::fs::File::open(parent).and_then(|dir| dir.sync_all()));
            synced.map_err(|error| RegistryError::Open { path: path.to_owned(), source: Box::new(error.into()) })?;
        }
        let file = Self { path: path.to_owned(), database: Mutex::new(Some(Arc::new(database))) };
        let orphans = file.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            let found = meta.get(META_VERSION)?.map(|version| version.value());
            if let Some(found) = found.filter(|found| *found > VERSION) {
                return Err(Fault::Refused(RegistryError::Version { path: path.to_owned(), found }));
            }
            meta.insert(META_VERSION, VERSION)?;
            recordings::prepare(transaction)?;
            mailboxes::prepare(transaction)?;
            let mut table = transaction.open_table(BROADCASTS)?;
            let mut orphans = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                let mut row: BroadcastRow = decode(key.value(), value.value())?;
                if row.orphaned() {
                    orphans.push((key.value().to_owned(), row));
                }
            }
            for (key, row) in &mut orphans {
                mailboxes::post_of(transaction, key, row)?;
                put(&mut table, key, row)?;
            }
            Ok(orphans.into_iter().map(|(_, row)| row).collect())
        })?;
        Ok((file, orphans))
    }

    pub(super) fn claim(&self, id: &BroadcastId, bid: &Bid) -> Result<Claimed, RegistryError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(BROADCASTS)?;
            let mut row = match find(&table, &key_of(id))? {
                Some(row) => row,
                None => new_row(transaction, id, bid.now_us)?,
            };
            let claimed = row.claim(bid).map_err(|denied| Fault::Refused(RegistryError::denied(id, denied)))?;
            mailboxes::post_of(transaction, &key_of(id), &mut row)?;
            put(&mut table, &key_of(id), &row)?;
            Ok(claimed)
        })
    }

    pub(super) fn progress(&self, batch: &[Progress], now_us: i64) -> Result<(), RegistryError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.write(|transaction| {
            let mut table = transaction.open_table(BROADCASTS)?;
            for progress in batch {
                let key = key_of(&progress.id);
                let found: Option<BroadcastRow> = find(&table, &key)?;
                if let Some(mut row) = found
                    && row.progress(progress, now_us)
                {
                    put(&mut table, &key, &row)?;
                }
            }
            Ok(())
        })
    }

    pub(super) fn finish(&self, last: &Progress, ending: Ending, now_us: i64) -> Result<bool, RegistryError> {
        let key = key_of(&last.id);
        self.edit_broadcast(&key, |row| Ok(row.finish(last, ending, now_us)))
    }

    pub(super) fn create(
        &self,
        id: &BroadcastId,
        details: Details,
        now_us: i64,
    ) -> Result<BroadcastRow, RegistryError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(BROADCASTS)?;
            if table.get(key_of(id).as_str())?.is_some() {
                return Err(Fault::Refused(RegistryError::BroadcastExists { id: id.clone() }));
            }
            let mut row = new_row(transaction, id, now_us)?;
            row.details = details;
            put(&mut table, &key_of(id), &row)?;
            Ok(row)
        })
    }

    pub(super) fn set_details(&self, id: &BroadcastId, details: Details) -> Result<bool, RegistryError> {
        self.write(|transaction| {
            let hook = details.listener_hook_url.clone();
            let known = edit(transaction, &key_of(id), |row| {
                row.details = details;
                Ok(true)
            })?;
            if known {
                mailboxes::readdress(transaction, &key_of(id), &hook)?;
            }
            Ok(known)
        })
    }

    pub(super) fn set_record(&self, id: &BroadcastId, record_override: Option<bool>) -> Result<bool, RegistryError> {
        self.edit_broadcast(&key_of(id), |row| {
            row.record_override = record_override;
            Ok(true)
        })
    }

    pub(super) fn set_take(
        &self,
        id: &BroadcastId,
        take: &Take,
        on: Option<bool>,
        now_us: i64,
    ) -> Result<bool, RegistryError> {
        self.edit_broadcast(&key_of(id), |row| {
            row.set_take(take, on, now_us)?;
            Ok(true)
        })
    }

    pub(super) fn get(&self, id: &BroadcastId) -> Result<Option<BroadcastRow>, RegistryError> {
        self.read(BROADCASTS, |table| find(table, &key_of(id)))
    }

    pub(super) fn list(&self, app: &str, offset: usize, size: usize) -> Result<Vec<BroadcastRow>, RegistryError> {
        self.read(BROADCASTS, |table| {
            let (from, to) = bounds(app);
            table.range(from.as_str()..to.as_str())?.skip(offset).take(size).map(decode_entry).collect()
        })
    }

    pub(super) fn count(&self, app: &str) -> Result<usize, RegistryError> {
        self.read(BROADCASTS, |table| {
            let (from, to) = bounds(app);
            Ok(table.range(from.as_str()..to.as_str())?.count())
        })
    }

    pub(super) fn remove(&self, id: &BroadcastId) -> Result<bool, RegistryError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(BROADCASTS)?;
            let Some(row) = find::<BroadcastRow>(&table, &key_of(id))? else { return Ok(false) };
            row.may_be_removed().map_err(|denied| Fault::Refused(RegistryError::denied(id, denied)))?;
            mailboxes::inherit(transaction, &key_of(id), &row)?;
            table.remove(key_of(id).as_str())?;
            let mut meta = transaction.open_table(META)?;
            let floor = meta.get(META_EPOCH_FLOOR)?.map_or(0, |floor| floor.value());
            meta.insert(META_EPOCH_FLOOR, floor.max(row.epoch))?;
            Ok(true)
        })
    }

    fn edit_broadcast(
        &self,
        key: &str,
        rule: impl FnOnce(&mut BroadcastRow) -> Result<bool, RegistryError>,
    ) -> Result<bool, RegistryError> {
        self.write(|transaction| edit(transaction, key, rule))
    }

    pub(super) fn write<T>(
        &self,
        body: impl FnOnce(&WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, RegistryError> {
        let database = self.database()?;
        let run = || {
            let transaction = database.begin_write()?;
            let value = body(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run().map_err(|fault| self.explain(fault))
    }

    pub(super) fn read<K: redb::Key, V: redb::Value, T>(
        &self,
        table: TableDefinition<'_, K, V>,
        body: impl FnOnce(&redb::ReadOnlyTable<K, V>) -> Result<T, Fault>,
    ) -> Result<T, RegistryError> {
        let database = self.database()?;
        let run = || body(&database.begin_read()?.open_table(table)?);
        run().map_err(|fault| self.explain(fault))
    }

    fn database(&self) -> Result<Arc<Database>, RegistryError> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        match &*database {
            Some(database) => Ok(database.clone()),
            None => Ok(database.insert(Arc::new(open_database(&self.path)?)).clone()),
        }
    }

    fn explain(&self, fault: Fault) -> RegistryError {
        let path = self.path.clone();
        if matches!(fault, Fault::Storage(_)) {
            *self.database.lock().unwrap_or_else(PoisonError::into_inner) = None;
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

fn edit(
    transaction: &WriteTransaction,
    key: &str,
    rule: impl FnOnce(&mut BroadcastRow) -> Result<bool, RegistryError>,
) -> Result<bool, Fault> {
    let mut table = transaction.open_table(BROADCASTS)?;
    let Some(mut row) = find::<BroadcastRow>(&table, key)? else { return Ok(false) };
    let changed = rule(&mut row).map_err(Fault::Refused)?;
    if changed {
        mailboxes::post_of(transaction, key, &mut row)?;
        put(&mut table, key, &row)?;
    }
    Ok(changed)
}

fn new_row(transaction: &WriteTransaction, id: &BroadcastId, now_us: i64) -> Result<BroadcastRow, Fault> {
    let meta = transaction.open_table(META)?;
    let floor = meta.get(META_EPOCH_FLOOR)?.map_or(0, |floor| floor.value());
    Ok(BroadcastRow::new(id, floor, now_us))
}

/// Neither half can contain a slash.
pub(super) fn key(app: &str, name: &str) -> String {
    format!("{app}/{name}")
}

pub(super) fn key_of(id: &BroadcastId) -> String {
    key(id.app(), id.stream())
}

/// All keys of an application: `0` follows `/`.
pub(super) fn bounds(app: &str) -> (String, String) {
    (format!("{app}/"), format!("{app}0"))
}

pub(super) fn find<T: DeserializeOwned>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>, Fault> {
    table.get(key)?.map(|value| decode(key, value.value())).transpose()
}

pub(super) fn put<T: Serialize>(
    table: &mut redb::Table<'_, &'static str, &'static [u8]>,
    key: &str,
    row: &T,
) -> Result<(), Fault> {
    let value = serde_json::to_vec(row).map_err(|source| Fault::Row { key: key.to_owned(), source })?;
    table.insert(key, value.as_slice())?;
    Ok(())
}

pub(super) type Entry<'a> = (redb::AccessGuard<'a, &'static str>, redb::AccessGuard<'a, &'static [u8]>);

pub(super) fn decode_entry<T: DeserializeOwned>(entry: Result<Entry<'_>, redb::StorageError>) -> Result<T, Fault> {
    let (key, value) = entry?;
    decode(key.value(), value.value())
}

pub(super) fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(value).map_err(|source| Fault::Row { key: key.to_owned(), source })
}
