//! From what was written to what viewers get. In: a fragmented file or a growing playlist that nobody writes any more, whole
//! or torn. Out: a normal `<id>.mp4` that starts to play before it is all there, or the playlist of an event that is over,
//! and its row. Deliberately absent: hurry. It runs on threads of low priority, few at a time, and whatever fails leaves
//! what was written where it is.
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
    store::{self, Form, Place, PlaceError, Store, StoreError},
};
use prometheus_client::metrics::gauge::Gauge;
use rustix::fs::Advice;

use super::{
    Shared,
    hls::{
        playlist,
        reel::{ReelError, Written},
        salvage::{Salvaged, salvage},
    },
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
pub(super) enum FinaliseError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Rewrite(#[from] RewriteError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Reel(#[from] ReelError),
    #[error("it ended before its first segment")]
    Empty,
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

/// Finalises one file, and sends it on its way to the bucket if there is one. Blocks for as long as the disk takes.
pub(super) fn finalise(shared: &Shared, finished: Finished) {
    let Shared { desk, store, rows, uploads, .. } = shared;
    let Finished { place, mut row, failed, written } = finished;
    row.state = RecordingState::Finalising;
    rows.save(&row);
    let seat = desk.sit();
    let outcome = match Form::of(place.file()) {
        Some(Form::Hls) => finalise_hls(store, &place, &row, written),
        _ => finalise_file(store, shared.floor(), &place),
    };
    drop(seat);
    row.state = match (outcome, failed) {
        (Ok(file), failed) => {
            let defect = failed.or(file.defect);
            row.bytes = file.bytes;
            row.duration_ms = file.duration_ms.unwrap_or(row.duration_ms);
            row.created_ms = file.created_ms;
            if file.torn_bytes > 0 {
                tracing::warn!(file = %place, torn_bytes = file.torn_bytes, "recording was torn, its last fragment is dropped");
            }
            if let Some(uploads) = uploads {
                uploads.note(&row, &place);
            }
            shared.complete(defect)
        }
        (Err(error), failed) => {
            tracing::error!(file = %place, %error, "recording can't be finalised, it is kept as it is");
            row.bytes = 0;
            if let Some(uploads) = uploads {
                uploads.leave(&row.vod_id);
            }
            RecordingState::Failed { reason: failed.unwrap_or_else(|| error.to_string()) }
        }
    };
    let told = rows.save(&row);
    if let (Some(uploads), RecordingState::Uploading { .. }, false) = (uploads, &row.state, told) {
        uploads.keep_untold(&row, &place);
    }
    // Last of all: until here a crash finds everything it needs to begin again.
    if row.bytes > 0
        && let Err(error) = clear_away(store, &place, told || uploads.is_some())
    {
        tracing::error!(file = %place, %error, "what a finalised recording was made of can't be deleted");
    }
    tracing::info!(file = %place, state = ?row.state, bytes = row.bytes, duration_ms = row.duration_ms, "recording finalised");
    if let (Some(uploads), RecordingState::Uploading { .. }) = (uploads, &row.state) {
        uploads.add(&row, &place);
    }
}

/// Of a finished recording what it was made of is left, empty, as long as the registry knows nothing of it: the next process
/// is to tell it.
pub(super) fn clear_away(store: &Store, place: &Place, told: bool) -> Result<(), FinaliseError> {
    let draft = place.with_suffix(RECORDING)?;
    match Form::of(place.file()) {
        _ if told => drop(store.delete(&draft)?),
        // Of no size, and the segments are looked through again.
        Some(Form::Hls) => {}
        _ => store.write(&draft, b"")?,
    }
    Ok(())
}

struct Finalised {
    bytes: u64,
    duration_ms: Option<i64>,
    created_ms: Option<i64>,
    torn_bytes: u64,
    /// What is missing from it.
    defect: Option<String>,
}

/// `written` is what this process knows of it; what another one left is read from the disk.
fn finalise_hls(
    store: &Store,
    place: &Place,
    row: &RecordingRow,
    written: Option<Written>,
) -> Result<Finalised, FinaliseError> {
    let (draft, vod_id) = (place.with_suffix(RECORDING)?, row.vod_id.as_str());
    let salvaged = match written {
        Some(written) => Salvaged { written, defect: None, remark: None },
        None => salvage(store, place, vod_id, row.started_ms, &std::fs::read(store.path(&draft))?)?,
    };
    let Salvaged { written: Written { target_s, segments }, defect, remark } = salvaged;
    if let Some(remark) = remark {
        tracing::warn!(file = %place, "recording was torn: {remark}");
    }
    if let Some(defect) = &defect {
        tracing::error!(file = %place, defect, "recording has lost something");
    }
    if segments.is_empty() {
        store.delete_pieces(place, vod_id)?;
        store.delete(&draft)?;
        return Err(FinaliseError::Empty);
    }
    let text = playlist::whole(&store::folder(place.file(), vod_id), target_s, &segments);
    store.write(place, text.as_bytes())?;
    let duration_us: i64 = segments.iter().map(|segment| segment.duration_us).sum();
    let file = finalised(store, place, Some(duration_us / 1_000), 0)?;
    Ok(Finalised { bytes: store.whole_size(place, vod_id)?, defect, ..file })
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
    Ok(Finalised { bytes: metadata.len(), duration_ms, created_ms, torn_bytes, defect: None })
}
