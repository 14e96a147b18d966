//! What is being written. In: the bytes that the cutter hands out. Out: a fragmented MP4 on the disk, or a playlist and its
//! pieces ([`hls`](super::hls)), and its row in the registry. Deliberately absent: media, and what becomes of it afterwards.
//!
//! While it is written the file is called `<id>.mp4.recording`; a process that is killed leaves it behind like that.

use std::{fs::File, io::Write};

use bytes::Bytes;
use headwater_common::{
    ladder::Rendition,
    live::BroadcastId,
    registry::{RecordingRow, RecordingState, RegistryError, VodId},
    store::{Form, Place, PlaceError, Store, StoreError},
};
use jiff::Timestamp;

use super::{
    gaps::Missing,
    hls::reel::{Reel, ReelError, Written},
    rows::Rows,
    upload::JOURNAL,
};

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
    Write { file: String, source: ReelError },
    #[error("{id} has {COUNTER_MAX} recordings already")]
    NoName { id: BroadcastId },
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug)]
pub(super) struct Tape {
    medium: Medium,
    /// Of the finished file.
    place: Place,
    row: RecordingRow,
}

#[derive(Debug)]
enum Medium {
    File(File),
    Reel(Reel),
}

/// What the cutter hands out, as far as it tells where it belongs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    /// Since the recording began.
    pub(super) from_us: i64,
    pub(super) until_us: i64,
    /// The disk should have it before anything else is written.
    pub(super) sync: bool,
    /// Of the live segments, where it is known.
    pub(super) target_s: Option<u32>,
}

/// What a file is called after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Title<'a> {
    pub(super) id: &'a BroadcastId,
    /// By the operator, instead of the stream's id.
    pub(super) name: Option<&'a str>,
    pub(super) date_time: bool,
    pub(super) rendition: Option<Rendition>,
    pub(super) form: Form,
}

/// A file that has its name and its row, and of which there is nothing yet.
#[derive(Debug)]
pub(super) struct Promise {
    place: Place,
    row: RecordingRow,
    /// Its row says what is missing by now.
    waits: bool,
}

/// Of what was promised and is not there.
pub(super) const NEVER_MADE: &str = "nothing of it was recorded: this machine had no room to make the rendition";

impl Promise {
    /// Takes the next free name.
    pub(super) fn new(
        store: &Store,
        rows: &Rows,
        title: Title<'_>,
        epoch: u64,
        started_ms: i64,
        entropy: u32,
    ) -> Result<Self, TapeError> {
        let (id, stem, ending) = (title.id, title.stem(started_ms), title.form.ending());
        for counter in 0..COUNTER_MAX {
            let name = match counter {
                0 => format!("{stem}{ending}"),
                _ => format!("{stem}_{counter}{ending}"),
            };
            let place = Place::new(id.app(), &name)?;
            let others = [RECORDING, FINALISING, UNREADABLE, JOURNAL].map(|suffix| place.with_suffix(suffix));
            let taken = |place: &Place| store.exists(place);
            if taken(&place) || others.into_iter().flatten().any(|place| taken(&place)) {
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
                // The recording matters more than its row, which is told again when it is over.
                Err(error) => tracing::error!(broadcast = %id, file = %place, %error, "recording has no row"),
            }
            return Ok(Self { place, row, waits: false });
        }
        Err(TapeError::NoName { id: id.clone() })
    }

    /// It is waited for, and this is missing by now.
    pub(super) fn waits(&mut self, rows: &Rows, missing: Missing) {
        self.waits = true;
        rows.save(&lacking(&self.row, missing));
    }

    /// Nothing more will come.
    pub(super) fn fail(self, rows: &Rows, missing: Missing, reason: String) {
        rows.save(&RecordingRow { state: RecordingState::Failed { reason }, ..lacking(&self.row, missing) });
    }
}

/// What its row would be with this missing as well.
fn lacking(row: &RecordingRow, missing: Missing) -> RecordingRow {
    let (gaps, missing_ms) = (row.gaps + missing.gaps, row.missing_ms + missing.duration_us / 1_000);
    RecordingRow { gaps, missing_ms, ..row.clone() }
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
    /// Begins the file that was promised, with its first picture.
    pub(super) fn begin(
        store: &Store,
        rows: &Rows,
        promise: Promise,
        epoch: u64,
        started_ms: i64,
        form: Form,
    ) -> Result<Self, TapeError> {
        let Promise { place, mut row, waits } = promise;
        (row.epoch, row.started_ms) = (epoch, started_ms);
        if waits {
            rows.save(&row);
        }
        match store.create(&place.with_suffix(RECORDING)?) {
            Ok(file) => {
                let medium = match form {
                    Form::Mp4 => Medium::File(file),
                    Form::Hls => Medium::Reel(Reel::new(store, &place, row.vod_id.as_str(), started_ms, file)),
                };
                Ok(Self { medium, place, row })
            }
            Err(error) => {
                let reason = error.to_string();
                rows.save(&RecordingRow { state: RecordingState::Failed { reason }, ..row });
                Err(error.into())
            }
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn row(&self) -> &RecordingRow {
        &self.row
    }

    /// What follows is described by this.
    pub(super) fn describe(&mut self, init: &Bytes) -> Result<(), TapeError> {
        let written = match &mut self.medium {
            Medium::File(file) => {
                let synced = file.write_all(init).and_then(|()| file.sync_data());
                synced.map(|()| init.len() as u64).map_err(ReelError::from)
            }
            Medium::Reel(reel) => reel.turn(init),
        };
        self.row.bytes += written.map_err(|source| self.fault(source))?;
        Ok(())
    }

    pub(super) fn append(&mut self, media: &Bytes, stretch: Stretch) -> Result<(), TapeError> {
        let Stretch { from_us, until_us, sync, target_s } = stretch;
        let written = match &mut self.medium {
            Medium::File(file) => {
                let synced = file.write_all(media).and_then(|()| if sync { file.sync_data() } else { Ok(()) });
                synced.map(|()| (media.len() as u64, until_us)).map_err(ReelError::from)
            }
            Medium::Reel(reel) => {
                let written = reel.append(media, (from_us, until_us), target_s);
                written.map(|bytes| (bytes, reel.lasts_us()))
            }
        };
        let (bytes, lasts_us) = written.map_err(|source| self.fault(source))?;
        self.row.bytes += bytes;
        self.row.duration_ms = lasts_us / 1_000;
        Ok(())
    }

    fn fault(&self, source: ReelError) -> TapeError {
        TapeError::Write { file: self.place.to_string(), source }
    }

    pub(super) fn lost(&mut self, frames: u64) {
        self.row.frames_lost += frames;
    }

    pub(super) fn misses(&mut self, missing: Missing) {
        self.row = lacking(&self.row, missing);
    }

    /// What its row is with what goes on to be missing.
    pub(super) fn row_with(&self, missing: Missing) -> RecordingRow {
        lacking(&self.row, missing)
    }

    /// Lets go of the file; `failed` says what is missing from it.
    pub(super) fn end(self, failed: Option<String>) -> Finished {
        let written = match self.medium {
            Medium::File(_) => None,
            Medium::Reel(reel) => Some(reel.end()),
        };
        Finished { place: self.place, row: self.row, failed, written }
    }
}

/// A fragmented file, or a growing playlist, that nobody writes any more.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) place: Place,
    pub(super) row: RecordingRow,
    pub(super) failed: Option<String>,
    /// Where the process that wrote it lives, what it kept as HLS.
    pub(super) written: Option<Written>,
}
