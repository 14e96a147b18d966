//! Mailboxes in the database, beside the rows: one document per broadcast of which something is to be told.
//!
//! A document is changed as a whole or not at all, so a row's own write has the event in it, and marks the row as `untold`.
//! From there it is carried into the mailbox and taken out of the row, by whoever comes first. Who dies in between leaves
//! it to be carried again; its id stays the same.

use async_trait::async_trait;
use mongodb::{
    Collection, IndexModel,
    bson::{self, Document, doc},
};
use tokio::sync::Notify;

use super::{
    ATTEMPTS_MAX, BATCH, Durability, Mongo, all,
    documents::{BroadcastDocument, VodDocument, key},
    fault::Fault,
    rows::{first_revision, step_back},
};
use crate::{
    live::BroadcastId,
    registry::{BroadcastRow, Event, Mailbox, Mailboxes, RegistryError, Turn},
};

impl Mongo {
    pub(super) async fn prepare_mailboxes(&self) -> Result<(), RegistryError> {
        let index = IndexModel::builder().keys(doc! { "dueMs": 1 }).build();
        let made = self.run(self.mailboxes().create_index(index)).await;
        made.map(drop).map_err(|fault| self.explain(fault))
    }

    /// Puts events into a broadcast's mailbox. `hook` is what its row says.
    pub(super) async fn post(
        &self,
        id: &BroadcastId,
        events: &[Event],
        hook: Option<&str>,
    ) -> Result<(), RegistryError> {
        let add = |mailbox: &mut Mailbox| {
            mailbox.add(events.to_vec(), hook);
            true
        };
        self.edit_mailbox(id, true, add).await.map(drop)
    }

    /// The row of this broadcast is about to go.
    pub(super) async fn inherit(&self, id: &BroadcastId, row: &BroadcastRow) -> Result<(), RegistryError> {
        let inherit = |mailbox: &mut Mailbox| {
            mailbox.inherit(row);
            true
        };
        let has_news = !row.events.is_empty();
        self.edit_mailbox(id, has_news, inherit).await?;
        if has_news {
            self.noted.notify_one();
        }
        Ok(())
    }

    /// What waits is told there instead.
    pub(super) async fn readdress(&self, id: &BroadcastId, hook: &str) -> Result<(), RegistryError> {
        let readdress = |mailbox: &mut Mailbox| {
            hook.clone_into(&mut mailbox.listener_hook_url);
            true
        };
        self.edit_mailbox(id, false, readdress).await.map(drop)
    }

    /// Begins again as long as others change it in between. `rule` says whether it has changed anything.
    async fn edit_mailbox(
        &self,
        id: &BroadcastId,
        make: bool,
        mut rule: impl FnMut(&mut Mailbox) -> bool,
    ) -> Result<Option<Mailbox>, RegistryError> {
        let (mailboxes, name) = (self.mailboxes(), key(id.app(), id.stream()));
        for attempt in 0..ATTEMPTS_MAX {
            let found = self.run(mailboxes.find_one(doc! { "_id": &name })).await;
            let found = found.map_err(|fault| self.explain(fault))?;
            let revision = found.as_ref().and_then(|found| found.get_i64("revision").ok());
            let mut mailbox = match found {
                Some(found) => self.read_mailbox(found)?,
                None if make => Mailbox::new(id.app(), id.stream()),
                None => return Ok(None),
            };
            if !rule(&mut mailbox) {
                return Ok(None);
            }
            let is_empty = mailbox.events.is_empty();
            let mut document =
                bson::serialize_to_document(&mailbox).map_err(|error| self.explain(Fault::Other(error.to_string())))?;
            document.insert("revision", revision.map_or_else(first_revision, |revision| revision + 1));
            let mine = doc! { "_id": &name, "revision": revision };
            let written = match revision {
                Some(_) if is_empty => self.run(mailboxes.delete_one(mine)).await.map(|done| done.deleted_count > 0),
                Some(_) => {
                    let changed = self.run(mailboxes.update_one(mine, doc! { "$set": document })).await;
                    changed.map(|done| done.matched_count > 0)
                }
                None => {
                    document.insert("_id", &name);
                    match self.run(mailboxes.insert_one(document)).await {
                        Err(Fault::Duplicate) => Ok(false),
                        made => made.map(|_| true),
                    }
                }
            };
            if written.map_err(|fault| self.explain(fault))? {
                return Ok((!is_empty).then_some(mailbox));
            }
            step_back(attempt).await;
        }
        Err(self.contended(id))
    }

    async fn collect_of_broadcasts(&self, database: &str) -> Result<(), RegistryError> {
        let database = self.client.database(database);
        let broadcasts = self.collection::<BroadcastDocument>(&database, "broadcast", Durability::Sure);
        let find = broadcasts.find(doc! { "untold": true }).limit(BATCH as i64);
        for document in self.run(all(find)).await.map_err(|fault| self.explain(fault))? {
            let row = document.row();
            let Ok(id) = BroadcastId::new(&row.app, &row.stream) else { continue };
            self.post(&id, &row.events, Some(&row.details.listener_hook_url)).await?;
            let take_out = |event: &Event| !row.events.iter().any(|posted| posted.id == event.id);
            self.edit(&id, |row| {
                row.events.retain(take_out);
                Ok(Some(()))
            })
            .await?;
        }
        Ok(())
    }

    async fn collect_of_recordings(&self, database: &str) -> Result<(), RegistryError> {
        let database = self.client.database(database);
        let vods = self.collection::<VodDocument>(&database, "vod", Durability::Sure);
        let find = vods.find(doc! { "untold": true }).limit(BATCH as i64);
        for document in self.run(all(find)).await.map_err(|fault| self.explain(fault))? {
            let row = document.row();
            let Ok(id) = BroadcastId::new(&row.app, &row.stream) else { continue };
            let hook = self.read(&id).await?.map(|(row, _)| row.details.listener_hook_url);
            self.post(&id, &row.events, hook.as_deref()).await?;
            // There is nothing more to tell of one that is ready.
            let told = doc! { "$set": { "events": [], "untold": null } };
            let mine = doc! { "_id": key(&row.app, row.vod_id.as_str()) };
            self.run(vods.update_one(mine, told)).await.map_err(|fault| self.explain(fault))?;
        }
        Ok(())
    }

    fn read_mailbox(&self, document: Document) -> Result<Mailbox, RegistryError> {
        bson::deserialize_from_document(document).map_err(|error| self.explain(Fault::Other(error.to_string())))
    }

    fn mailboxes(&self) -> Collection<Document> {
        self.collection(&self.cluster(), "mailbox", Durability::Sure)
    }
}

#[async_trait]
impl Mailboxes for Mongo {
    fn noted(&self) -> &Notify {
        &self.noted
    }

    async fn collect_events(&self) -> Result<(), RegistryError> {
        for database in self.databases() {
            self.collect_of_broadcasts(&database).await?;
            self.collect_of_recordings(&database).await?;
        }
        Ok(())
    }

    async fn due_mailboxes(&self, then_ms: i64, size: usize) -> Result<Vec<Mailbox>, RegistryError> {
        let mailboxes = self.mailboxes();
        let find = mailboxes.find(doc! { "dueMs": { "$lte": then_ms } }).sort(doc! { "dueMs": 1 }).limit(size as i64);
        let found = self.run(all(find)).await.map_err(|fault| self.explain(fault))?;
        found.into_iter().map(|document| self.read_mailbox(document)).collect()
    }

    async fn turn_mailbox(&self, id: &BroadcastId, turn: &Turn) -> Result<Option<Mailbox>, RegistryError> {
        self.edit_mailbox(id, false, |mailbox| mailbox.turn(turn)).await
    }

    async fn defer_mailboxes(&self, ids: &[BroadcastId], until_ms: i64) -> Result<(), RegistryError> {
        let keys: Vec<_> = ids.iter().map(|id| key(id.app(), id.stream())).collect();
        let later = doc! { "$set": { "dueMs": until_ms }, "$inc": { "revision": 1_i64 } };
        let deferred = self.run(self.mailboxes().update_many(doc! { "_id": { "$in": keys } }, later)).await;
        deferred.map(drop).map_err(|fault| self.explain(fault))
    }
}
