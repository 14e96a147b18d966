//! Recordings in the file, and who has which name.

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::{
    file::{BROADCASTS, Fault, File, Rows, bounds, decode_entry, find, key, put},
    mailboxes,
};
use crate::registry::{BroadcastRow, RecordingFilter, RecordingRow, RegistryError, VodId};

/// By `app/vod id`, so that an application's recordings lie together, oldest first.
const RECORDINGS: Rows = TableDefinition::new("recordings");
/// Vod id by `app/file`: no two recordings share a file.
const FILES: TableDefinition<&str, &str> = TableDefinition::new("recording_files");

pub(super) fn prepare(transaction: &WriteTransaction) -> Result<(), Fault> {
    transaction.open_table(FILES)?;
    transaction.open_table(RECORDINGS)?;
    Ok(())
}

impl File {
    pub(super) fn put_recording(&self, row: &RecordingRow) -> Result<(), RegistryError> {
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
            post_of_recording(transaction, row)?;
            put(&mut table, &key_of_row, &RecordingRow { events: Vec::new(), ..row.clone() })
        })
    }

    pub(super) fn recording(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError> {
        self.read(RECORDINGS, |table| find(table, &key(app, vod_id.as_str())))
    }

    pub(super) fn recording_of_file(&self, app: &str, file: &str) -> Result<Option<RecordingRow>, RegistryError> {
        let owner =
            self.read(FILES, |files| Ok(files.get(key(app, file).as_str())?.map(|id| VodId::parse(id.value()))))?;
        owner.map_or(Ok(None), |vod_id| self.recording(app, &vod_id))
    }

    pub(super) fn list_recordings(
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

    pub(super) fn count_recordings(&self, app: &str, filter: RecordingFilter<'_>) -> Result<usize, RegistryError> {
        Ok(self.list_recordings(app, filter, 0, usize::MAX)?.len())
    }

    pub(super) fn unfinished_recordings(&self, node: &str) -> Result<Vec<RecordingRow>, RegistryError> {
        self.read(RECORDINGS, |table| {
            let rows = table.iter()?.map(decode_entry::<RecordingRow>);
            // Rows of programs that knew of one node only have none.
            let is_ours = |row: &RecordingRow| row.node == node || row.node.is_empty();
            let left = |row: &RecordingRow| row.state.is_unfinished() && is_ours(row);
            rows.filter(|row| row.as_ref().map_or(true, left)).collect()
        })
    }

    pub(super) fn remove_recording(&self, app: &str, vod_id: &VodId) -> Result<Option<RecordingRow>, RegistryError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(RECORDINGS)?;
            let key_of_row = key(app, vod_id.as_str());
            let Some(row) = find::<RecordingRow>(&table, &key_of_row)? else { return Ok(None) };
            table.remove(key_of_row.as_str())?;
            transaction.open_table(FILES)?.remove(key(app, &row.file).as_str())?;
            Ok(Some(row))
        })
    }
}

fn post_of_recording(transaction: &WriteTransaction, row: &RecordingRow) -> Result<(), Fault> {
    if row.events.is_empty() {
        return Ok(());
    }
    let key = key(&row.app, &row.stream);
    let broadcast: Option<BroadcastRow> = find(&transaction.open_table(BROADCASTS)?, &key)?;
    let hook = broadcast.map(|broadcast| broadcast.details.listener_hook_url);
    mailboxes::post(transaction, &key, (&row.app, &row.stream), row.events.clone(), hook.as_deref())
}
