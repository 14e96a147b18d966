//! Kept HLS that is being written. In: initialisation sections and segments. Out: pieces in the store, each of them there as a
//! whole or not at all, and the playlist, which grows by a segment only when that is on the disk. Who is killed loses the
//! segment under way, nothing else.
//!
//! While it grows the playlist is called `<stem>.vod.m3u8.recording`.

use std::{fs::File, io, io::Write};

use bytes::Bytes;
use headwater_common::store::{self, Piece, Place, PlaceError, Store, StoreError};

use super::playlist::{Event, Segment, entry, head};

/// What a player may have to expect where nobody knows better.
pub(super) const TARGET_S_MAX: u32 = 10;

#[derive(Debug)]
pub(in crate::record) struct Reel {
    store: Store,
    place: Place,
    vod_id: String,
    started_ms: i64,
    index: File,
    target_s: Option<u32>,
    stretch: Option<u32>,
    segments: Vec<Segment>,
}

/// What was written of a recording.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::record) struct Written {
    pub(in crate::record) target_s: u32,
    pub(in crate::record) segments: Vec<Segment>,
}

#[derive(Debug, thiserror::Error)]
pub(in crate::record) enum ReelError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Index(#[from] io::Error),
}

impl Reel {
    /// `index` is the new file that the playlist grows in.
    pub(in crate::record) fn new(store: &Store, place: &Place, vod_id: &str, started_ms: i64, index: File) -> Self {
        Self {
            store: store.clone(),
            place: place.clone(),
            vod_id: vod_id.to_owned(),
            started_ms,
            index,
            target_s: None,
            stretch: None,
            segments: Vec::new(),
        }
    }

    /// What follows is described by this. Returns the bytes that were written.
    pub(in crate::record) fn turn(&mut self, init: &Bytes) -> Result<u64, ReelError> {
        let stretch = self.stretch.map_or(0, |stretch| stretch + 1);
        self.stretch = Some(stretch);
        self.store.write(&self.place.piece(&self.vod_id, Piece::Init { stretch })?, init)?;
        Ok(init.len() as u64)
    }

    /// A segment that begins and ends so long after the recording's beginning. `target_s` is that of the live segments, and
    /// is asked for once.
    pub(in crate::record) fn append(
        &mut self,
        media: &Bytes,
        (from_us, until_us): (i64, i64),
        target_s: Option<u32>,
    ) -> Result<u64, ReelError> {
        let segment = Segment {
            stretch: self.stretch.unwrap_or_default(),
            number: self.segments.last().map_or(0, |last| last.number + 1),
            at_ms: self.started_ms + from_us / 1_000,
            duration_us: (until_us - from_us).max(1),
        };
        self.store.write(&self.place.piece(&self.vod_id, segment.piece())?, media)?;
        let folder = store::folder(self.place.file(), &self.vod_id);
        let lines = entry(&folder, self.segments.last(), &segment);
        let lines = match self.target_s {
            Some(_) => lines,
            None => head(*self.target_s.insert(target_s.unwrap_or(TARGET_S_MAX) + 1), Event::GoesOn) + &lines,
        };
        // It is there, whatever becomes of the line that says so.
        self.segments.push(segment);
        self.index.write_all(lines.as_bytes())?;
        self.index.sync_data()?;
        Ok(media.len() as u64)
    }

    pub(in crate::record) fn lasts_us(&self) -> i64 {
        self.segments.iter().map(|segment| segment.duration_us).sum()
    }

    pub(in crate::record) fn end(self) -> Written {
        Written { target_s: self.target_s.unwrap_or(TARGET_S_MAX), segments: self.segments }
    }
}
