//! One try of one transfer: the loop around the machine. In: a place in the store. Out: what the machine asks for, done,
//! until it has an end or the bucket a fault. Files and the registry are touched on threads that may block.

use std::sync::{Arc, PoisonError};

use headwater_common::{
    chance::entropy,
    registry::{ObjectRow, RecordingRow, RecordingState, VodId},
    store::{
        Form, Place,
        s3::{Body, BucketError, Fault},
    },
};

use super::{
    JOURNAL, Stage, UploadError, Uploads,
    machine::{Action, Answer, Journal, Transfer},
};
use crate::pause::pause;

/// Of a request that failed for a reason that may be gone in a second, before the recording has to wait its turn again. A
/// server that works badly still works: it should not make us wait as one does that is gone.
const RETRIES: u32 = 3;

/// What is left of it for one try.
pub(super) struct Patience {
    retries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { retries: RETRIES }
    }
}

impl Uploads {
    pub(super) async fn transfer(self: &Arc<Self>, vod_id: &VodId, place: &Place) -> Result<(), UploadError> {
        let Some(mut transfer) = self.blocking(vod_id, place, Self::begin).await? else { return Ok(()) };
        let (mut saved, mut patience) = (None, Patience::default());
        let file = self.store.path(place);
        loop {
            if self.schedule().is_unwanted(vod_id) {
                transfer.forget();
            }
            let action = transfer.action();
            if saved.as_ref() != Some(transfer.journal()) {
                let journal = transfer.journal().clone();
                saved = Some(journal.clone());
                self.blocking(vod_id, place, move |uploads, vod_id, place| uploads.save(vod_id, place, journal))
                    .await?;
            }
            let stage = if transfer.verifies() { Stage::Verifying } else { Stage::Uploading };
            self.schedule().shows(vod_id, stage, transfer.sent_bytes());
            match &action {
                Action::Gone => {
                    return self.blocking(vod_id, place, |uploads, _, place| uploads.drop_journal(place)).await;
                }
                Action::Arrived { etag } => {
                    let object =
                        ObjectRow { key: transfer.journal().key.clone(), etag: etag.clone(), error: String::new() };
                    let arrived =
                        move |uploads: &Self, vod_id: &VodId, place: &Place| uploads.arrived(vod_id, place, object);
                    if self.blocking(vod_id, place, arrived).await? {
                        return Ok(());
                    }
                    transfer.forget();
                    continue;
                }
                _ => {}
            }
            let before = transfer.sent_bytes();
            match self.ask(&mut transfer, &action, Body::File(&file), &mut patience).await {
                Ok(()) => drop(self.metrics.bytes.inc_by(transfer.sent_bytes().saturating_sub(before))),
                Err(error) => {
                    self.note_failure(vod_id, place, &transfer, error.to_string()).await?;
                    let is_local = matches!(&error, UploadError::Bucket(error) if error.fault == Fault::Local);
                    if is_local && !self.store.exists(place) {
                        return self.blocking(vod_id, place, Self::lost).await;
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn note_failure(
        self: &Arc<Self>,
        vod_id: &VodId,
        place: &Place,
        transfer: &Transfer,
        error: String,
    ) -> Result<(), UploadError> {
        let journal = transfer.journal().clone();
        let note = move |uploads: &Self, vod_id: &VodId, place: &Place| {
            uploads.save(vod_id, place, journal)?;
            uploads.tell(vod_id, place, error)
        };
        self.blocking(vod_id, place, note).await
    }

    /// One request, and a pause if it failed for a reason that may be gone in a second.
    pub(super) async fn ask(
        &self,
        transfer: &mut Transfer,
        action: &Action,
        body: Body<'_>,
        patience: &mut Patience,
    ) -> Result<(), UploadError> {
        match self.request(transfer.journal(), action, body, transfer.bytes()).await {
            Ok(answer) => {
                transfer.answered(answer)?;
                if *action != Action::Look {
                    *patience = Patience::default();
                }
                Ok(())
            }
            Err(error) if patience.retries > 0 && error.is_passing() => {
                transfer.failed(action, error.fault);
                tracing::debug!(key = transfer.journal().key, %error, "upload tries again at once");
                tokio::time::sleep(pause(RETRIES - patience.retries, entropy())).await;
                patience.retries -= 1;
                Ok(())
            }
            Err(error) => {
                transfer.failed(action, error.fault);
                Err(error.into())
            }
        }
    }

    async fn request(
        &self,
        journal: &Journal,
        action: &Action,
        body: Body<'_>,
        bytes: u64,
    ) -> Result<Answer, BucketError> {
        let (bucket, key, vod_id) = (&self.bucket, journal.key.as_str(), journal.vod_id.as_str());
        Ok(match action {
            Action::Look => Answer::Seen(bucket.head(key).await?),
            Action::Sweep => {
                for (found, upload_id) in bucket.uploads(key).await? {
                    // A listing shows what begins with the key; the rest of it belongs to others.
                    if found == key {
                        bucket.abort(key, &upload_id).await?;
                    }
                }
                Answer::Swept
            }
            Action::Put => Answer::Put { etag: bucket.put(key, vod_id, body, bytes).await? },
            Action::Begin => Answer::Begun { upload_id: bucket.begin(key, vod_id).await? },
            Action::Part { upload_id, number, range } => {
                Answer::Part(bucket.part(key, upload_id, *number, body, range.clone()).await?)
            }
            Action::Complete { upload_id, parts } => {
                Answer::Completed { etag: bucket.complete(key, upload_id, parts).await? }
            }
            Action::Abort { upload_id } => {
                bucket.abort(key, upload_id).await?;
                Answer::Aborted
            }
            Action::Delete => {
                bucket.delete(key).await?;
                Answer::Deleted
            }
            Action::Arrived { .. } | Action::Gone => unreachable!("the end is no request"),
        })
    }

    /// `None` when there is nothing to do.
    pub(super) fn begin(&self, vod_id: &VodId, place: &Place) -> Result<Option<Transfer>, UploadError> {
        let row = self.rows.get(place.app(), vod_id)?;
        let mut journal = self.journal(place)?.unwrap_or_default();
        if journal.vod_id != *vod_id {
            journal = Journal { vod_id: vod_id.clone(), key: self.bucket.key(place), ..journal };
        }
        let untold = self.untold().get(vod_id).cloned();
        if row.is_none() && untold.is_none() {
            // Deleted by another node.
            journal.unwanted = true;
        }
        if journal.unwanted {
            // A process may have died between the journal and the row.
            self.rows.remove(place.app(), vod_id)?;
            self.store.delete_pieces(place, vod_id.as_str())?;
            self.store.delete(place)?;
            self.untold().remove(vod_id);
            return Ok(Some(Transfer::new(journal, 0)));
        }
        let size = self.store.whole_size(place, vod_id.as_str());
        if row.as_ref().is_some_and(|row| row.arrived().is_some()) {
            // A process died between the row and the file.
            self.untold().remove(vod_id);
            return self.clean_up(vod_id, place).map(|()| None);
        }
        let mut row = match (untold.flatten(), row, &size) {
            // What the registry has is older.
            (Some(untold), ..) => {
                self.keep(&untold)?;
                untold
            }
            (None, Some(row), _) => row,
            (None, None, Ok(bytes)) => self.adopt(vod_id, place, *bytes)?,
            (None, None, Err(_)) => return self.drop_journal(place).map(|()| None),
        };
        self.untold().remove(vod_id);
        if journal.row.take().is_some() {
            self.save(vod_id, place, journal.clone())?;
        }
        if !matches!(row.state, RecordingState::Uploading { .. }) {
            row.state = RecordingState::Uploading { defect: None };
            self.keep(&row)?;
        }
        Ok(Some(Transfer::new(journal, size.unwrap_or(row.bytes))))
    }

    /// A row for what a process began to send whose registry is lost.
    fn adopt(&self, vod_id: &VodId, place: &Place, bytes: u64) -> Result<RecordingRow, UploadError> {
        let (app, file) = (place.app().to_owned(), place.file().to_owned());
        let stream = Form::stem(&file).to_owned();
        let (vod_id, state, node) =
            (vod_id.clone(), RecordingState::Uploading { defect: None }, self.rows.node.clone());
        let row = RecordingRow { vod_id, app, file, stream, bytes, state, node, ..RecordingRow::default() };
        self.keep(&row)?;
        Ok(row)
    }

    /// Writes the journal as it is, except that a deletion meanwhile is not taken back, nor a row forgotten that the registry
    /// has not taken.
    pub(super) fn save(&self, vod_id: &VodId, place: &Place, mut journal: Journal) -> Result<(), UploadError> {
        let _one_at_a_time = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        journal.unwanted |= self.schedule().is_unwanted(vod_id);
        journal.row = self.untold().get(vod_id).cloned().flatten();
        self.write(place, &journal)
    }

    /// False when nobody wants it any more.
    pub(super) fn arrived(&self, vod_id: &VodId, place: &Place, object: ObjectRow) -> Result<bool, UploadError> {
        let Some(mut row) = self.rows.get(place.app(), vod_id)? else { return Ok(false) };
        let defect = match &row.state {
            RecordingState::Uploading { defect } => defect.clone(),
            _ => None,
        };
        row.state = defect.map_or(RecordingState::Ready, |reason| RecordingState::Failed { reason });
        tracing::info!(file = %place, key = object.key, bytes = row.bytes, "recording is in the bucket");
        row.object = Some(object);
        self.keep(&row)?;
        if self.schedule().is_unwanted(vod_id) {
            return Ok(false);
        }
        self.clean_up(vod_id, place).map(|()| true)
    }

    /// Saves a row, except that a deletion meanwhile is not taken back: it marks the recording as unwanted first and
    /// removes the row then.
    fn keep(&self, row: &RecordingRow) -> Result<(), UploadError> {
        self.rows.put(row)?;
        if self.schedule().is_unwanted(&row.vod_id) {
            self.rows.remove(&row.app, &row.vod_id)?;
        }
        Ok(())
    }

    /// After its row says that the bucket has it.
    fn clean_up(&self, vod_id: &VodId, place: &Place) -> Result<(), UploadError> {
        if !self.bucket.keeps_local() {
            self.store.delete_pieces(place, vod_id.as_str())?;
            self.store.delete(place)?;
        }
        self.drop_journal(place)
    }

    pub(super) fn drop_journal(&self, place: &Place) -> Result<(), UploadError> {
        self.store.delete(&place.with_suffix(JOURNAL)?)?;
        Ok(())
    }

    /// Every node's `/vods` shows why it is not there yet.
    pub(super) fn tell(&self, vod_id: &VodId, place: &Place, error: String) -> Result<(), UploadError> {
        let Some(mut row) = self.rows.get(place.app(), vod_id)? else { return Ok(()) };
        let object = row.object.get_or_insert_default();
        if object.error == error {
            return Ok(());
        }
        object.error = error;
        self.keep(&row)
    }

    /// Somebody took the file away before it was sent.
    pub(super) fn lost(&self, vod_id: &VodId, place: &Place) -> Result<(), UploadError> {
        tracing::error!(file = %place, "recording is gone from the disk, and it is not in the bucket");
        if let Some(mut row) = self.rows.get(place.app(), vod_id)? {
            row.state = RecordingState::Failed { reason: "its file is gone, and it was not sent".to_owned() };
            row.bytes = 0;
            self.keep(&row)?;
        }
        self.drop_journal(place)
    }

    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        vod_id: &VodId,
        place: &Place,
        work: impl FnOnce(&Self, &VodId, &Place) -> Result<T, UploadError> + Send + 'static,
    ) -> Result<T, UploadError> {
        let (uploads, vod_id, place) = (self.clone(), vod_id.clone(), place.clone());
        let done = tokio::task::spawn_blocking(move || work(&uploads, &vod_id, &place)).await;
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }
}
