//! The file that is being written. In: the bytes that the cutter hands out. Out: a fragmented MP4 on the disk and its
//! row in the registry. Deliberately absent: media, and what becomes of the file afterwards.
//!
//! While it is written the file is called `<id>.mp4.recording`; a process that is killed leaves it behind like that.

use std::{fs::File, io, io::Write};

use bytes::Bytes;
use headwater_common::{
    ladder::Rendition,
    live::BroadcastId,
    registry::{RecordingRow, RecordingState, RegistryError, VodId},
    store::{Place, PlaceError, Store, StoreError},
};
use jiff::Timestamp;

use super::{gaps::Missing, rows::Rows, upload::JOURNAL};

pub(super) const RECORDING: &str = ".recording";
pub(super) const FINALISING: &str = ".finalising";
pub(super) const UNREADABLE: &str = ".unreadable";
/// `<id>.mp4`, `<id>_1.mp4`, … up to this.
const COUNTER_MAX: u32 = 100_000;

#[derive(Debug, thiserror::Error)]
pub(super) enum TapeError {
    #[error("{free_mb} MB are left on the disk, at least {floor_mb} MB are kept free")]
    DiskLow { free_mb: u64, floor_mb: u64 },
    #[error("write {file}: {source}")]
    Write { file: String, source: io::Error },
    #[error("{id} has {COUNTER_MAX} recordings already")]
    NoName { id: BroadcastId },
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
pub(super) struct Tape {
    file: File,
    /// Of the finished file.
    place: Place,
    row: RecordingRow,
}

/// What a file is called after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Title<'a> {
    pub(super) id: &'a BroadcastId,
    /// By the operator, instead of the stream's id.
    pub(super) name: Option<&'a str>,
    pub(super) date_time: bool,
    pub(super) rendition: Option<Rendition>,
}

impl Title<'_> {
    fn stem(&self, started_ms: i64) -> String {
        let mut stem = self.name.unwrap_or(self.id.stream()).to_owned();
        if let (true, Ok(at)) = (self.date_time, Timestamp::from_millisecond(started_ms)) {
            stem += &at.strftime("-%Y-%m-%d_%H-%M-%S.%3f").to_string();
        }
        if let Some(rendition) = self.rendition {
            stem += &format!("_{rendition}");
        }
        stem
    }
}

/// Refuses while the disk has no more room than what is kept free.
pub(super) fn check_room(store: &Store, floor_mb: u64) -> Result<(), TapeError> {
    let free_mb = store.free_bytes()? >> 20;
    if free_mb < floor_mb { Err(TapeError::DiskLow { free_mb, floor_mb }) } else { Ok(()) }
}

impl Tape {
    /// Begins a file under the next free name.
    pub(super) fn begin(
        store: &Store,
        rows: &Rows,
        title: Title<'_>,
        epoch: u64,
        started_ms: i64,
        entropy: u32,
    ) -> Result<Self, TapeError> {
        let (id, stem) = (title.id, title.stem(started_ms));
        for counter in 0..COUNTER_MAX {
            let name = match counter {
                0 => format!("{stem}.mp4"),
                _ => format!("{stem}_{counter}.mp4"),
            };
            let place = Place::new(id.app(), &name)?;
            let draft = place.with_suffix(RECORDING)?;
            let others = [FINALISING, UNREADABLE, JOURNAL].map(|suffix| place.with_suffix(suffix));
            let taken = |place: &Place| store.exists(place);
            if taken(&place) || taken(&draft) || others.into_iter().flatten().any(|place| taken(&place)) {
                continue;
            }
            let row = RecordingRow {
                vod_id: VodId::new(started_ms, entropy),
                app: id.app().to_owned(),
                stream: id.stream().to_owned(),
                file: name,
                state: RecordingState::Recording,
                node: rows.node.clone(),
                epoch,
                started_ms,
                ..RecordingRow::default()
            };
            match rows.put(&row) {
                Ok(()) => {}
                Err(RegistryError::FileTaken { .. }) => continue,
                // The recording matters more than its row, and a row is made for every file that has none at the next start.
                Err(error) => tracing::error!(broadcast = %id, file = %place, %error, "recording has no row"),
            }
            return match store.create(&draft) {
                Ok(file) => Ok(Self { file, place, row }),
                Err(error) => {
                    let reason = error.to_string();
                    rows.save(&RecordingRow { state: RecordingState::Failed { reason }, ..row });
                    Err(error.into())
                }
            };
        }
        Err(TapeError::NoName { id: id.clone() })
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn row(&self) -> &RecordingRow {
        &self.row
    }

    pub(super) fn append(&mut self, bytes: &Bytes, sync: bool) -> Result<(), TapeError> {
        let written = self.file.write_all(bytes).and_then(|()| if sync { self.file.sync_data() } else { Ok(()) });
        written.map_err(|source| TapeError::Write { file: self.place.to_string(), source })?;
        self.row.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn lasts(&mut self, duration_ms: i64) {
        self.row.duration_ms = duration_ms;
    }

    pub(super) fn lost(&mut self, frames: u64) {
        self.row.frames_lost += frames;
    }

    pub(super) fn misses(&mut self, missing: Missing) {
        self.row.gaps += missing.gaps;
        self.row.missing_ms += missing.duration_us / 1_000;
    }

    /// Lets go of the file; `failed` says what is missing from it.
    pub(super) fn end(self, failed: Option<String>) -> Finished {
        Finished { place: self.place, row: self.row, failed }
    }
}

/// A fragmented file that nobody writes any more.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) place: Place,
    pub(super) row: RecordingRow,
    pub(super) failed: Option<String>,
}
