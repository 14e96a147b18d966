//! Mailboxes in the file: what is to be told is put there in the transaction that makes it true.

use async_trait::async_trait;
use redb::{ReadableTable, WriteTransaction};
use tokio::sync::Notify;

use super::{
    Embedded,
    file::{Fault, File, Rows, decode_entry, find, key, key_of, put},
};
use crate::{
    live::BroadcastId,
    registry::{BroadcastRow, Event, Mailbox, Mailboxes, RegistryError, Turn},
};

/// By `app/stream`.
const MAILBOXES: Rows = Rows::new("mailboxes");

/// Who took one in the last process is dead, and who is told has had time enough to come back.
pub(super) fn prepare(transaction: &WriteTransaction) -> Result<(), Fault> {
    let mut table = transaction.open_table(MAILBOXES)?;
    let mailboxes = table.iter()?.map(decode_entry).collect::<Result<Vec<Mailbox>, _>>()?;
    for mailbox in mailboxes {
        let name = key(&mailbox.app, &mailbox.stream_id);
        put(&mut table, &name, &Mailbox { due_ms: 0, ..mailbox })?;
    }
    Ok(())
}

/// What the row of a broadcast has to tell.
pub(super) fn post_of(transaction: &WriteTransaction, key: &str, row: &mut BroadcastRow) -> Result<(), Fault> {
    let events = std::mem::take(&mut row.events);
    post(transaction, key, (&row.app, &row.stream), events, Some(&row.details.listener_hook_url))
}

pub(super) fn post(
    transaction: &WriteTransaction,
    key: &str,
    (app, stream): (&str, &str),
    events: Vec<Event>,
    hook: Option<&str>,
) -> Result<(), Fault> {
    if events.is_empty() {
        return Ok(());
    }
    let mut table = transaction.open_table(MAILBOXES)?;
    let mut mailbox = find(&table, key)?.unwrap_or_else(|| Mailbox::new(app, stream));
    mailbox.add(events, hook);
    put(&mut table, key, &mailbox)
}

/// The row of this broadcast goes. Without a mailbox nothing is left to tell: events never wait in rows here.
pub(super) fn inherit(transaction: &WriteTransaction, key: &str, row: &BroadcastRow) -> Result<(), Fault> {
    let mut table = transaction.open_table(MAILBOXES)?;
    let Some(mut mailbox) = find::<Mailbox>(&table, key)? else { return Ok(()) };
    mailbox.inherit(row);
    put(&mut table, key, &mailbox)
}

/// What waits is told there instead.
pub(super) fn readdress(transaction: &WriteTransaction, key: &str, hook: &str) -> Result<(), Fault> {
    let mut table = transaction.open_table(MAILBOXES)?;
    let Some(mailbox) = find::<Mailbox>(&table, key)? else { return Ok(()) };
    put(&mut table, key, &Mailbox { listener_hook_url: hook.to_owned(), ..mailbox })
}

impl File {
    fn due_mailboxes(&self, then_ms: i64, size: usize) -> Result<Vec<Mailbox>, RegistryError> {
        let mut due = self.read(MAILBOXES, |table| {
            let mailboxes = table.iter()?.map(decode_entry::<Mailbox>);
            let is_due = |mailbox: &Mailbox| mailbox.due_ms <= then_ms;
            mailboxes.filter(|entry| entry.as_ref().map_or(true, is_due)).collect::<Result<Vec<_>, _>>()
        })?;
        due.sort_by_key(|mailbox| mailbox.due_ms);
        due.truncate(size);
        Ok(due)
    }

    fn turn_mailbox(&self, id: &BroadcastId, turn: &Turn) -> Result<Option<Mailbox>, RegistryError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(MAILBOXES)?;
            let Some(mut mailbox) = find::<Mailbox>(&table, &key_of(id))? else { return Ok(None) };
            if !mailbox.turn(turn) {
                return Ok(None);
            }
            if mailbox.events.is_empty() {
                table.remove(key_of(id).as_str())?;
                return Ok(None);
            }
            put(&mut table, &key_of(id), &mailbox)?;
            Ok(Some(mailbox))
        })
    }

    fn defer_mailboxes(&self, ids: &[BroadcastId], until_ms: i64) -> Result<(), RegistryError> {
        self.write(|transaction| {
            let mut table = transaction.open_table(MAILBOXES)?;
            for id in ids {
                if let Some(mut mailbox) = find::<Mailbox>(&table, &key_of(id))? {
                    mailbox.turn(&Turn::Rest { until_ms });
                    put(&mut table, &key_of(id), &mailbox)?;
                }
            }
            Ok(())
        })
    }
}

#[async_trait]
impl Mailboxes for Embedded {
    fn noted(&self) -> &Notify {
        &self.noted
    }

    async fn collect_events(&self) -> Result<(), RegistryError> {
        Ok(())
    }

    async fn due_mailboxes(&self, then_ms: i64, size: usize) -> Result<Vec<Mailbox>, RegistryError> {
        self.blocking(move |file| file.due_mailboxes(then_ms, size)).await
    }

    async fn turn_mailbox(&self, id: &BroadcastId, turn: &Turn) -> Result<Option<Mailbox>, RegistryError> {
        let (id, turn) = (id.clone(), turn.clone());
        self.write(move |file| file.turn_mailbox(&id, &turn)).await
    }

    async fn defer_mailboxes(&self, ids: &[BroadcastId], until_ms: i64) -> Result<(), RegistryError> {
        let ids = ids.to_vec();
        self.write(move |file| file.defer_mailboxes(&ids, until_ms)).await
    }
}
