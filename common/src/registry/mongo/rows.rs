//! Rows of broadcasts as documents that somebody else may change at any moment: read, asked by the rule, and written if
//! their `revision` is still the one that was read.

use std::time::Duration;

use mongodb::{
    Collection,
    bson::{Document, doc},
};

use super::{
    ATTEMPTS_MAX, Durability, Mongo,
    documents::{BroadcastDocument, fields, key, signed},
    fault::Fault,
};
use crate::{
    chance,
    live::BroadcastId,
    registry::{BroadcastRow, Progress, RegistryError, broadcast::Ahead},
};

/// No removed broadcast had a higher epoch than what this document says.
pub(super) const EPOCH_FLOOR: &str = "epochFloor";

/// A moment that differs from one who lost to the next.
pub(super) async fn step_back(attempt: u32) {
    tokio::time::sleep(chance::a_part_of(Duration::from_millis(1 << attempt.min(5)))).await;
}

/// Of a new document. One that was removed and made anew has another: whoever has read the old one must not overwrite it.
pub(super) fn first_revision() -> i64 {
    // With room to count up.
    i64::from(chance::entropy()) << 30
}

impl Mongo {
    /// Begins again as long as others change the row in between. `rule` says `None` when there is nothing to change.
    pub(super) async fn edit<T>(
        &self,
        id: &BroadcastId,
        mut rule: impl FnMut(&mut BroadcastRow) -> Result<Option<T>, RegistryError>,
    ) -> Result<Option<T>, RegistryError> {
        let broadcasts = self.broadcasts(id.app());
        for attempt in 0..ATTEMPTS_MAX {
            let Some((mut row, revision)) = self.read(id).await? else { return Ok(None) };
            let Some(outcome) = rule(&mut row)? else { return Ok(None) };
            let mine = doc! { "_id": key(id.app(), id.stream()), "revision": revision };
            let has_news = !row.events.is_empty();
            let change = self.change(row, revision + 1)?;
            let written = self.run(broadcasts.update_one(mine, change)).await.map_err(|fault| self.explain(fault))?;
            if written.matched_count > 0 {
                if has_news {
                    self.noted.notify_one();
                }
                return Ok(Some(outcome));
            }
            step_back(attempt).await;
        }
        Err(self.contended(id))
    }

    pub(super) async fn read(&self, id: &BroadcastId) -> Result<Option<(BroadcastRow, i64)>, RegistryError> {
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
    pub(super) async fn insert(&self, id: &BroadcastId, row: BroadcastRow) -> Result<bool, RegistryError> {
        let has_news = !row.events.is_empty();
        match self.run(self.broadcasts(id.app()).insert_one(BroadcastDocument::new(row, first_revision()))).await {
            Ok(_) => {
                if has_news {
                    self.noted.notify_one();
                }
                Ok(true)
            }
            Err(Fault::Duplicate) => Ok(false),
            Err(fault) => Err(self.explain(fault)),
        }
    }

    pub(super) async fn new_row(&self, id: &BroadcastId, now_us: i64) -> Result<BroadcastRow, RegistryError> {
        // Read after the row was not found: whoever removed it has raised the floor before.
        let floor = self.run(self.meta().find_one(doc! { "_id": EPOCH_FLOOR })).await;
        let floor = floor.map_err(|fault| self.explain(fault))?;
        let epoch = floor.and_then(|floor| floor.get_i64("epoch").ok()).unwrap_or_default();
        Ok(BroadcastRow::new(id, epoch.unsigned_abs(), now_us))
    }

    pub(super) fn meta(&self) -> Collection<Document> {
        self.collection(&self.cluster(), "headwater", Durability::Sure)
    }

    pub(super) fn contended(&self, id: &BroadcastId) -> RegistryError {
        self.explain(Fault::Other(format!("{id} is changed by others all the time")))
    }
}

/// As the row's own rule has it, without reading the row first: its condition and its maxima are all there is to it.
pub(super) fn update_of(progress: &Progress, now_us: i64) -> Document {
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
