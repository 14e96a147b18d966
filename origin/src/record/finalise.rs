//! From the fragmented file to the one that viewers get. In: a file that nobody writes any more, whole or torn. Out: a
//! normal `<id>.mp4` that starts to play before it is all there, and its row. Deliberately absent: hurry. It runs on
//! threads of low priority, few at a time, and whatever fails leaves the fragmented file where it is.
//!
//! Every step can be cut short by a crash: the new file gets its name only when all of it is on the disk, and the
//! fragmented file is deleted only after that.

use std::{
    fs::File,
    io::{self, BufReader, BufWriter},
    sync::{Condvar, Mutex, PoisonError},
};

use headwater_common::{
    fmp4::{
        progressive::{self, RewriteError, Summary},
        read::{Part, Parts},
    },
    registry::{RecordingRow, RecordingState},
    store::{Place, PlaceError, Store, StoreError},
};
use prometheus_client::metrics::gauge::Gauge;
use rustix::fs::Advice;

use super::{
    rows::Rows,
    tape::{FINALISING, Finished, RECORDING, UNREADABLE},
};

/// Files that are rewritten at the same time. It is a copy from disk to disk; more of them only wait for each other.
const AT_ONCE: usize = 2;
const NICE: i32 = 10;
const BUFFER_BYTES: usize = 256 << 10;

/// How much of the disk is left alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Floor {
    pub(super) bytes: u64,
}

#[derive(Debug, thiserror::Error)]
enum FinaliseError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("there is no room for a second copy of {bytes} bytes")]
    NoRoom { bytes: u64 },
}

/// Permits: who waits for one does nothing else.
#[derive(Debug)]
pub(super) struct Desk {
    taken: Mutex<usize>,
    freed: Condvar,
    /// Files at the desk and in front of it.
    files: Gauge,
}

struct Seat<'a>(&'a Desk);

impl Desk {
    pub(super) fn new(files: Gauge) -> Self {
        Self { taken: Mutex::default(), freed: Condvar::new(), files }
    }

    fn sit(&self) -> Seat<'_> {
        self.files.inc();
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken >= AT_ONCE {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        Seat(self)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
        self.0.files.dec();
    }
}

/// Makes the calling thread give way to everybody else.
pub(super) fn step_back() {
    // Zero is the calling thread. Without the priority it works as well, only less politely.
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Finalises one file and returns its row as it is in the registry now. Blocks for as long as the disk takes.
pub(super) fn finalise(desk: &Desk, store: &Store, rows: &Rows, floor: Floor, finished: Finished) -> RecordingRow {
    let Finished { place, mut row, failed } = finished;
    row.state = RecordingState::Finalising;
    rows.save(&row);
    let seat = desk.sit();
    let outcome = finalise_file(store, floor, &place);
    drop(seat);
    row.state = match (outcome, failed) {
        (Ok(file), failed) => {
            row.bytes = file.bytes;
            row.duration_ms = file.duration_ms.unwrap_or(row.duration_ms);
            row.created_ms = file.created_ms;
            if file.torn_bytes > 0 {
                tracing::warn!(file = %place, torn_bytes = file.torn_bytes, "recording was torn, its last fragment is dropped");
            }
            failed.map_or(RecordingState::Ready, |reason| RecordingState::Failed { reason })
        }
        (Err(error), failed) => {
            tracing::error!(file = %place, %error, "recording can't be finalised, it is kept as it is");
            row.bytes = 0;
            RecordingState::Failed { reason: failed.unwrap_or_else(|| error.to_string()) }
        }
    };
    rows.save(&row);
    // Last of all: until here a crash finds everything it needs to begin again.
    if row.bytes > 0
        && let Err(error) =
            place.with_suffix(RECORDING).map_err(FinaliseError::from).and_then(|d| Ok(store.delete(&d)?))
    {
        tracing::error!(file = %place, %error, "the fragmented file of a finalised recording can't be deleted");
    }
    tracing::info!(file = %place, state = ?row.state, bytes = row.bytes, duration_ms = row.duration_ms, "recording finalised");
    row
}

struct Finalised {
    bytes: u64,
    duration_ms: Option<i64>,
    created_ms: Option<i64>,
    torn_bytes: u64,
}

fn finalise_file(store: &Store, floor: Floor, place: &Place) -> Result<Finalised, FinaliseError> {
    let draft = place.with_suffix(RECORDING)?;
    // Renamed already, by a process that died before it could say so.
    if store.exists(place) {
        return finalised(store, place, None, 0);
    }
    let whole = match rewrite(store, floor, place, &draft) {
        Ok(summary) => summary,
        Err(FinaliseError::Rewrite(RewriteError::Empty)) => return set_aside(store, place, &draft),
        Err(error) => {
            // A fragmented file plays as well, it only seeks worse: better than none.
            tracing::warn!(file = %place, %error, "recording can't be rewritten, the fragmented file is kept instead");
            return keep_fragmented(store, place, &draft);
        }
    };
    let duration_ms = i64::try_from(whole.duration_us / 1_000).unwrap_or(i64::MAX);
    finalised(store, place, Some(duration_ms), whole.torn_bytes)
}

fn rewrite(store: &Store, floor: Floor, place: &Place, draft: &Place) -> Result<Summary, FinaliseError> {
    let scratch = place.with_suffix(FINALISING)?;
    let bytes = store.size(draft)?;
    if store.free_bytes()? < bytes.saturating_add(floor.bytes) {
        return Err(FinaliseError::NoRoom { bytes });
    }
    // Left by a process that died over it.
    store.delete(&scratch)?;
    let input = store.read(draft)?;
    let output = store.create(&scratch)?;
    let written = copy(&input, &output);
    // Nobody is about to read either of them: what live viewers need should stay in memory instead.
    for file in [&input, &output] {
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    }
    match written {
        Ok(summary) => {
            store.rename(&scratch, place)?;
            Ok(summary)
        }
        Err(error) => {
            store.delete(&scratch)?;
            Err(error.into())
        }
    }
}

fn copy(input: &File, output: &File) -> Result<Summary, RewriteError> {
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, output);
    let summary = progressive::rewrite(BufReader::new(input), &mut writer)?;
    writer.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(summary)
}

fn keep_fragmented(store: &Store, place: &Place, draft: &Place) -> Result<Finalised, FinaliseError> {
    let file = store.edit(draft)?;
    let mut parts = Parts::new(BufReader::new(&file))?;
    let mut playable = false;
    while let Some(part) = parts.next()? {
        playable |= matches!(part, Part::Fragment(_));
    }
    if !playable {
        return set_aside(store, place, draft);
    }
    let whole = parts.end();
    let torn_bytes = file.metadata()?.len().saturating_sub(whole);
    file.set_len(whole)?;
    file.sync_all()?;
    store.rename(draft, place)?;
    finalised(store, place, None, torn_bytes)
}

/// Nothing in it can be played. It is kept for whoever knows better, and not tried again.
fn set_aside(store: &Store, place: &Place, draft: &Place) -> Result<Finalised, FinaliseError> {
    store.rename(draft, &place.with_suffix(UNREADABLE)?)?;
    Err(RewriteError::Empty.into())
}

fn finalised(
    store: &Store,
    place: &Place,
    duration_ms: Option<i64>,
    torn_bytes: u64,
) -> Result<Finalised, FinaliseError> {
    let metadata = store.read(place)?.metadata()?;
    let created = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let created_ms = i64::try_from(created.as_millis()).ok();
    Ok(Finalised { bytes: metadata.len(), duration_ms, created_ms, torn_bytes })
}
