//! What a dead process left behind. In: every `*.recording` of the store and every unfinished row. Out: files that
//! play and rows that tell the truth. What can't be read is kept, and its row says why. Deliberately absent: deleting
//! anything that was not saved elsewhere first.

use headwater_common::{
    chance,
    ladder::Rendition,
    live::BroadcastId,
    registry::{RecordingRow, RecordingState, VodId},
    store::{Form, Place, Store, StoreError, folder, vod_id_of},
};

use super::{
    Shared,
    finalise::{finalise, step_back},
    rows::Rows,
    tape::{Finished, NEVER_MADE, RECORDING},
};

#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Found, and not yet dealt with.
#[derive(Debug)]
pub(super) struct Leftovers {
    files: Vec<Place>,
    pub(super) rows: Vec<RecordingRow>,
}

/// Must be asked before anything new is recorded: afterwards the dead can't be told from the living.
pub(super) async fn find(store: &Store, rows: &Rows) -> Result<Leftovers, RecoverError> {
    let files = store.list(RECORDING)?;
    let rows = rows.registry.unfinished_recordings(&rows.node).await.unwrap_or_else(|error| {
        tracing::error!(%error, "rows that a dead process left are not looked through, its files are");
        Vec::new()
    });
    Ok(Leftovers { files, rows })
}

impl Leftovers {
    /// One file after the other, at low priority.
    pub(super) fn finalise(self, shared: &Shared) {
        step_back();
        let Shared { store, rows, .. } = shared;
        let Self { files, rows: mut unfinished } = self;
        for draft in files {
            let file = draft.file().strip_suffix(RECORDING).filter(|file| Form::of(file).is_some());
            let Some(file) = file else { continue };
            let Ok(place) = Place::new(draft.app(), file) else { continue };
            unfinished.retain(|row| (row.app.as_str(), row.file.as_str()) != (draft.app(), file));
            let row = match rows.of_file(draft.app(), file) {
                // Another node may have given the name away while the registry knew nothing of this one.
                Ok(row) => row.filter(|row| row.node == rows.node),
                Err(error) => {
                    tracing::error!(file = %draft, %error, "recording left by a dead process can't be looked up");
                    continue;
                }
            };
            // A recording that had failed before stays failed, though it may play now.
            let failed = row.as_ref().and_then(|row| match &row.state {
                RecordingState::Failed { reason } => Some(reason.clone()),
                RecordingState::Uploading { defect } => defect.clone(),
                _ => None,
            });
            let row = row.unwrap_or_else(|| row_of_file(store, rows, &draft, file));
            tracing::warn!(file = %draft, "recording was left unfinished by a dead process");
            finalise(shared, Finished { place, row, failed, written: None });
        }
        for row in unfinished {
            // Those that wait for the bucket are known to who sends them.
            if shared.uploads.is_none() || !matches!(row.state, RecordingState::Uploading { .. }) {
                settle(shared, row);
            }
        }
    }
}

/// A row in the making without a file in the making: renamed and deleted already, or gone for good.
fn settle(shared: &Shared, mut row: RecordingRow) {
    let Shared { store, rows, uploads, .. } = shared;
    let place = Place::new(&row.app, &row.file);
    let defect = match &row.state {
        RecordingState::Uploading { defect } => defect.clone(),
        _ => None,
    };
    row.state = match place.as_ref().map(|place| store.whole_size(place, row.vod_id.as_str())) {
        Ok(Ok(bytes)) => {
            row.bytes = bytes;
            shared.complete(defect)
        }
        // What is begun has bytes before it lacks anything.
        Ok(Err(_)) if row.gaps > 0 && row.bytes == 0 => RecordingState::Failed { reason: NEVER_MADE.to_owned() },
        Ok(Err(error)) => RecordingState::Failed { reason: format!("its file is gone: {error}") },
        Err(error) => RecordingState::Failed { reason: error.to_string() },
    };
    if let RecordingState::Failed { reason } = &row.state {
        row.bytes = 0;
        tracing::error!(app = row.app, file = row.file, reason, "recording was lost");
    }
    rows.save(&row);
    if let (Some(uploads), Ok(place), RecordingState::Uploading { .. }) = (uploads, &place, &row.state) {
        uploads.add(&row, place);
    }
}

/// For a file that the registry knows nothing of.
fn row_of_file(store: &Store, rows: &Rows, draft: &Place, file: &str) -> RecordingRow {
    let stem = Form::stem(file);
    let known = |stream: &str| {
        let id = BroadcastId::new(draft.app(), stream).ok()?;
        rows.broadcast(&id).ok().flatten().map(|row| row.stream)
    };
    // `cam_1` is the second recording of `cam`, or the first of `cam_1`; `cam_480p500kbps` is one of a rendition.
    let is_counter = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let is_rendition = |part: &str| Rendition::parse_name(part).is_some();
    let without = |stem: &'_ str, is: &dyn Fn(&str) -> bool| {
        stem.rsplit_once('_').filter(|(_, part)| is(part)).map_or(stem.len(), |(before, _)| before.len())
    };
    let counted = &stem[..without(stem, &is_counter)];
    let rendered = &counted[..without(counted, &is_rendition)];
    let stream = [stem, counted, rendered].into_iter().find_map(known).unwrap_or_else(|| stem.to_owned());
    let metadata = store.read(draft).ok().and_then(|file| file.metadata().ok());
    let began = metadata.and_then(|m| m.created().or_else(|_| m.modified()).ok()).unwrap_or(std::time::UNIX_EPOCH);
    let began = began.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let started_ms = i64::try_from(began.as_millis()).unwrap_or_default();
    // The folder of its pieces has the id.
    let pieces_id = || {
        let mut folders = store.folders(draft.app()).ok()?;
        folders.retain(|name| vod_id_of(name).is_some_and(|vod_id| folder(file, vod_id) == *name));
        Some(VodId::parse(vod_id_of(folders.last()?)?))
    };
    let vod_id = pieces_id().filter(|_| Form::of(file) == Some(Form::Hls));
    let started_ms = vod_id.as_ref().map_or(started_ms, VodId::started_ms);
    RecordingRow {
        vod_id: vod_id.unwrap_or_else(|| VodId::new(started_ms, chance::entropy())),
        app: draft.app().to_owned(),
        stream,
        file: file.to_owned(),
        node: rows.node.clone(),
        started_ms,
        ..RecordingRow::default()
    }
}
