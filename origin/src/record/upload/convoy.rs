//! Kept HLS on its way into the bucket, while it grows and after. In: a place in the store. Out: its pieces in the bucket, each
//! confirmed, then the playlist that names them. Once the last playlist has arrived it is ready, as any recording. Deliberately
//! absent: what comes next ([`order`](super::order)), and rows of what still grows: those are the recorder's.

use std::{io::ErrorKind, sync::Arc};

use headwater_common::{
    registry::{ObjectRow, VodId},
    store::{self, Piece, Place, s3::Body},
};

use super::{
    End, Stage, UploadError, Uploads,
    machine::{Action, Journal, Transfer},
    order::{Next, Order},
    work::Patience,
};
use crate::record::tape::RECORDING;

/// Then others have their turn.
const PIECES_PER_TURN: u32 = 32;

/// What there is to send.
struct Cargo {
    journal: Journal,
    text: String,
    grows: bool,
}

/// What a try begins with.
enum Begin {
    Nothing,
    Unwanted(Journal),
    Send(Cargo),
}

impl Uploads {
    pub(super) async fn convey(self: &Arc<Self>, vod_id: &VodId, place: &Place) -> Result<End, UploadError> {
        let mut cargo = match self.blocking(vod_id, place, Self::load).await? {
            Begin::Nothing => return Ok(End::Over),
            Begin::Unwanted(journal) => return self.unship(vod_id, place, journal).await,
            Begin::Send(cargo) => cargo,
        };
        let outcome = self.ship(vod_id, place, &mut cargo).await;
        match outcome {
            Err(error) if !cargo.grows => {
                let said = error.to_string();
                self.blocking(vod_id, place, move |uploads, vod_id, place| uploads.tell(vod_id, place, said)).await?;
                Err(error)
            }
            outcome => outcome,
        }
    }

    async fn ship(self: &Arc<Self>, vod_id: &VodId, place: &Place, cargo: &mut Cargo) -> Result<End, UploadError> {
        let Cargo { journal, text, grows } = cargo;
        let mut order = Order::new(text, (journal.sent, journal.listed), !*grows);
        let mut left = PIECES_PER_TURN;
        loop {
            if self.schedule().is_unwanted(vod_id) {
                let journal = Journal { unwanted: true, ..journal.clone() };
                return self.unship(vod_id, place, journal).await;
            }
            self.schedule().shows(vod_id, Stage::Uploading, journal.sent_bytes);
            match order.next() {
                Next::Piece(piece) if left > 0 => {
                    left -= 1;
                    let bytes = self.ship_piece(vod_id, place, &journal.key, piece).await?;
                    journal.sent_bytes += bytes;
                    order.arrived();
                    self.note_reached(vod_id, place, journal, &order).await?;
                }
                Next::Piece(_) => {
                    // It is due again at once, behind those that wait.
                    self.schedule().add(vod_id.clone(), place.clone(), std::time::Instant::now());
                    return Ok(End::Rests);
                }
                Next::Playlist { end } => {
                    self.ship_playlist(vod_id, place, journal, &text[..end]).await?;
                    order.arrived();
                    self.note_reached(vod_id, place, journal, &order).await?;
                }
                Next::Last => {
                    let etag = self.ship_playlist(vod_id, place, journal, text).await?;
                    let object = ObjectRow { key: journal.key.clone(), etag, error: String::new() };
                    let arrived =
                        move |uploads: &Self, vod_id: &VodId, place: &Place| uploads.arrived(vod_id, place, object);
                    if self.blocking(vod_id, place, arrived).await? {
                        return Ok(End::Over);
                    }
                    let journal = Journal { unwanted: true, ..journal.clone() };
                    return self.unship(vod_id, place, journal).await;
                }
                Next::Rest => return Ok(End::Rests),
            }
        }
    }

    /// `playlist`: its key.
    async fn ship_piece(
        &self,
        vod_id: &VodId,
        place: &Place,
        playlist: &str,
        piece: Piece,
    ) -> Result<u64, UploadError> {
        let at = place.piece(vod_id.as_str(), piece)?;
        let (file, bytes) = (self.store.path(&at), self.store.size(&at)?);
        let key = format!("{}{piece}", folder_beside(playlist, place, vod_id));
        let journal = Journal { vod_id: vod_id.clone(), key, ..Journal::default() };
        self.deliver(Transfer::of_piece(journal, bytes), Body::File(&file)).await?;
        self.metrics.bytes.inc_by(bytes);
        Ok(bytes)
    }

    /// Returns its ETag.
    async fn ship_playlist(
        self: &Arc<Self>,
        vod_id: &VodId,
        place: &Place,
        journal: &mut Journal,
        text: &str,
    ) -> Result<String, UploadError> {
        let transfer = Transfer::of_playlist(journal.clone(), text.len() as u64);
        let (transfer, etag) = self.deliver(transfer, Body::Text(text)).await?;
        if transfer.journal().key != journal.key {
            journal.key.clone_from(&transfer.journal().key);
            self.keep_journal(vod_id, place, journal).await?;
        }
        Ok(etag)
    }

    /// One object, until the bucket confirms it or has a fault.
    async fn deliver(&self, mut transfer: Transfer, body: Body<'_>) -> Result<(Transfer, String), UploadError> {
        let mut patience = Patience::default();
        loop {
            match transfer.action() {
                Action::Arrived { etag } => return Ok((transfer, etag)),
                Action::Gone => return Ok((transfer, String::new())),
                action => self.ask(&mut transfer, &action, body, &mut patience).await?,
            }
        }
    }

    /// Takes everything of it out of the bucket.
    async fn unship(self: &Arc<Self>, vod_id: &VodId, place: &Place, journal: Journal) -> Result<End, UploadError> {
        self.keep_journal(vod_id, place, &journal).await?;
        let folder = folder_beside(&journal.key, place, vod_id);
        // The playlist first: what is gone must not be named.
        self.deliver(Transfer::new(journal, 0), Body::Text("")).await?;
        for object in self.bucket.list(&folder).await? {
            self.bucket.delete(&object.key).await?;
        }
        self.blocking(vod_id, place, |uploads, _, place| uploads.drop_journal(place)).await?;
        Ok(End::Over)
    }

    async fn note_reached(
        self: &Arc<Self>,
        vod_id: &VodId,
        place: &Place,
        journal: &mut Journal,
        order: &Order,
    ) -> Result<(), UploadError> {
        if order.reached() == (journal.sent, journal.listed) {
            return Ok(());
        }
        (journal.sent, journal.listed) = order.reached();
        self.keep_journal(vod_id, place, journal).await
    }

    async fn keep_journal(
        self: &Arc<Self>,
        vod_id: &VodId,
        place: &Place,
        journal: &Journal,
    ) -> Result<(), UploadError> {
        let journal = journal.clone();
        self.blocking(vod_id, place, move |uploads, vod_id, place| uploads.save(vod_id, place, journal)).await
    }

    fn load(&self, vod_id: &VodId, place: &Place) -> Result<Begin, UploadError> {
        let draft = place.with_suffix(RECORDING)?;
        // Until that is deleted the row belongs to the recorder, and the last playlist is not yet to be sent.
        if self.store.exists(&draft) && !self.schedule().is_unwanted(vod_id) {
            let journal = self.journal(place)?.filter(|journal| journal.vod_id == *vod_id);
            let journal = journal.unwrap_or_else(|| self.fresh(vod_id, place));
            return Ok(match self.read(&draft)? {
                Some(text) => Begin::Send(Cargo { journal, text, grows: true }),
                None => Begin::Nothing,
            });
        }
        let Some(transfer) = self.begin(vod_id, place)? else { return Ok(Begin::Nothing) };
        let journal = transfer.journal().clone();
        if journal.unwanted {
            return Ok(Begin::Unwanted(journal));
        }
        match self.read(place)? {
            Some(text) => Ok(Begin::Send(Cargo { journal, text, grows: false })),
            None => self.lost(vod_id, place).map(|()| Begin::Nothing),
        }
    }

    fn read(&self, place: &Place) -> Result<Option<String>, UploadError> {
        match std::fs::read(self.store.path(place)) {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(UploadError::Read { place: place.clone(), source }),
        }
    }
}

/// What the keys of all pieces begin with.
fn folder_beside(playlist: &str, place: &Place, vod_id: &VodId) -> String {
    store::beside(playlist, &store::folder(place.file(), vod_id.as_str()))
}
