//! How much room recordings have, how long they stay, and that the registry hears of all of them. In: what is free on the disk,
//! and the age of recordings. Out: warnings before it is too late, and deletions by the applications' rules. Deliberately absent: deleting anything to make
//! room.

use std::time::Duration;

use headwater_common::{
    clock,
    registry::{RecordingFilter, RecordingRow, RecordingState},
    store::Place,
};

use super::{Recorder, Shared, finalise::clear_away, rows::Rows};

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Looks at the disk between two looks at what is too old.
const LOOKS_PER_CLEANING: u32 = 30;
const DAY_MS: i64 = 24 * 3_600_000;
/// Rows that are looked at together.
const PAGE: usize = 200;

/// Until it is dropped.
pub(super) async fn run(recorder: Recorder) {
    let mut level = Level::Enough;
    for look in 0u32.. {
        if look.is_multiple_of(LOOKS_PER_CLEANING) {
            clean(&recorder).await;
        }
        let (shared, told) = (recorder.shared.clone(), recorder.shared.rows.tell_again().await);
        let look = move || {
            told.iter().for_each(|row| note_told(&shared, row));
            watch_disk(&shared, level)
        };
        level = tokio::task::spawn_blocking(look).await.unwrap_or(level);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The registry was away when that recording was finished, and knows of it now.
fn note_told(shared: &Shared, row: &RecordingRow) {
    tracing::info!(app = row.app, file = row.file, "the registry has heard of a recording at last");
    let place = Place::new(&row.app, &row.file).ok().filter(|_| row.bytes > 0);
    if let Some(Err(error)) = place.map(|place| clear_away(&shared.store, &place, true)) {
        tracing::error!(file = row.file, %error, "what a finalised recording was made of can't be deleted");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Enough,
    /// Warned of.
    Low,
    /// Nothing is recorded any more.
    Full,
}

/// A level is left a twentieth above where it was entered: a disk around it is not news all the time.
fn level(before: Level, free_mb: u64, warn_mb: u64, min_mb: u64) -> Level {
    let above = |limit: u64, was: bool| free_mb >= if was { limit + limit / 20 } else { limit };
    match before {
        _ if !above(min_mb, before == Level::Full) => Level::Full,
        _ if !above(warn_mb, before != Level::Enough) => Level::Low,
        _ => Level::Enough,
    }
}

fn watch_disk(shared: &Shared, before: Level) -> Level {
    let free = match shared.store.free_bytes() {
        Ok(free) => free,
        Err(error) => {
            tracing::error!(%error, "the room for recordings can't be measured");
            return before;
        }
    };
    shared.free_disk.set(i64::try_from(free).unwrap_or(i64::MAX));
    let (free_mb, min_mb, warn_mb) = (free >> 20, shared.settings.free_disk_mb_min, shared.settings.free_disk_mb_warn);
    let now = level(before, free_mb, warn_mb, min_mb);
    if now != before {
        match now {
            Level::Enough => tracing::info!(free_mb, "recordings have enough room again"),
            Level::Low => {
                tracing::warn!(free_mb, min_mb, "the disk gets full: without the minimum nothing is recorded")
            }
            Level::Full => tracing::error!(free_mb, min_mb, "the disk is full: nothing is recorded"),
        }
    }
    now
}

/// Deletes what is older than its application wants.
async fn clean(recorder: &Recorder) {
    let Shared { rows: registered, settings, .. } = &*recorder.shared;
    let now_ms = clock::now_us() / 1_000;
    for (app, rules) in settings.rules.iter().filter(|(_, rules)| rules.retention_days > 0) {
        let mut old = Vec::new();
        for page in 0.. {
            let listed = registered.registry.list_recordings(app, RecordingFilter::default(), page * PAGE, PAGE).await;
            let rows = match listed {
                Ok(rows) => rows,
                Err(error) => {
                    tracing::error!(app, %error, "recordings that are too old can't be looked for");
                    break;
                }
            };
            let last = rows.len() < PAGE;
            old.extend(
                rows.into_iter().filter(|row| is_old(row, rules.retention_days, now_ms) && reaches(registered, row)),
            );
            if last {
                break;
            }
        }
        for row in old {
            match recorder.delete(app, &row.vod_id).await {
                Ok(_) => tracing::info!(app, file = row.file, "recording is too old and was deleted"),
                Err(error) => {
                    tracing::error!(app, file = row.file, %error, "recording that is too old can't be deleted")
                }
            }
        }
    }
}

/// What is in the bucket outlives the node that made it, and any node may delete it; twice does no harm.
fn reaches(rows: &Rows, row: &RecordingRow) -> bool {
    row.arrived().is_some() || row.node.is_empty() || row.node == rows.node
}

/// Only what has arrived where it belongs, or never will.
fn is_old(row: &RecordingRow, days: u32, now_ms: i64) -> bool {
    let done = matches!(row.state, RecordingState::Ready | RecordingState::Failed { .. });
    done && now_ms - row.created_ms.unwrap_or(row.started_ms) > i64::from(days) * DAY_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_entered_once_and_left_with_some_distance() {
        let mut now = Level::Enough;
        let mut look = |free_mb| {
            now = level(now, free_mb, 1000, 100);
            now
        };
        assert_eq!([1000, 999, 1049, 1050].map(&mut look), [Level::Enough, Level::Low, Level::Low, Level::Enough]);
        assert_eq!([99, 104, 105, 2000].map(&mut look), [Level::Full, Level::Full, Level::Low, Level::Enough]);
    }

    #[test]
    fn what_has_not_arrived_is_never_too_old() {
        let row = |state| RecordingRow { state, created_ms: Some(1), ..RecordingRow::default() };
        let late = 3 * DAY_MS + 2;
        assert!(is_old(&row(RecordingState::Ready), 3, late));
        assert!(!is_old(&row(RecordingState::Ready), 3, late - 1), "not a moment earlier");
        for state in [RecordingState::Recording, RecordingState::Uploading { defect: None }, RecordingState::Finalising]
        {
            assert!(!is_old(&row(state), 3, late));
        }
    }
}
