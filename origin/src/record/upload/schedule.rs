//! Which upload is due. Pure: `now` and chance are arguments.
//!
//! In: what is to be sent, how it went. Out: what to try now, and until when there is nothing to do. One that failed waits
//! longer each time, up to five minutes, for as many days as it takes; any progress makes it start over. It holds a few
//! hundred bytes per file that waits on the disk, so the disk bounds it.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use headwater_common::{registry::VodId, store::Place};

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
pub(super) struct Schedule {
    entries: BTreeMap<VodId, Entry>,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    due: Instant,
    running: bool,
    /// Nothing shall be left of it.
    unwanted: bool,
    /// In a row, without progress in between.
    failures: u32,
    progress: UploadProgress,
}

/// How far one upload has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UploadProgress {
    pub(crate) stage: Stage,
    pub(crate) sent_bytes: u64,
    /// Why the last try came to nothing, if there was one.
    pub(crate) error: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Waiting,
    Uploading,
    Verifying,
    Retrying,
}

impl Schedule {
    /// One that is known already is to be tried at once.
    pub(super) fn add(&mut self, vod_id: VodId, place: Place, now: Instant) {
        let progress = UploadProgress::default();
        let fresh = Entry { place, due: now, running: false, unwanted: false, failures: 0, progress };
        self.entries.entry(vod_id).or_insert(fresh).due = now;
    }

    /// It is to vanish from the bucket.
    pub(super) fn forget(&mut self, vod_id: VodId, place: Place, now: Instant) {
        self.add(vod_id.clone(), place, now);
        if let Some(entry) = self.entries.get_mut(&vod_id) {
            entry.unwanted = true;
        }
    }

    pub(super) fn is_unwanted(&self, vod_id: &VodId) -> bool {
        self.entries.get(vod_id).is_some_and(|entry| entry.unwanted)
    }

    /// One that is due, the oldest recording first; it runs until it is [`done`](Self::done) or [`failed`](Self::failed).
    pub(super) fn take_due(&mut self, now: Instant) -> Option<(VodId, Place)> {
        let due = self.entries.iter_mut().find(|(_, entry)| !entry.running && entry.due <= now);
        due.map(|(vod_id, entry)| {
            entry.running = true;
            (vod_id.clone(), entry.place.clone())
        })
    }

    /// When one that does not run is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.entries.values().filter(|entry| !entry.running).map(|entry| entry.due).min()
    }

    /// More of it has arrived, or it is looked after again.
    pub(super) fn shows(&mut self, vod_id: &VodId, stage: Stage, sent_bytes: u64) {
        if let Some(entry) = self.entries.get_mut(vod_id) {
            if sent_bytes > entry.progress.sent_bytes {
                entry.failures = 0;
            }
            (entry.progress.stage, entry.progress.sent_bytes) = (stage, sent_bytes);
        }
    }

    pub(super) fn done(&mut self, vod_id: &VodId) {
        self.entries.remove(vod_id);
    }

    /// `chance` is anything; it keeps those that failed together from coming back together.
    pub(super) fn failed(&mut self, vod_id: &VodId, error: String, now: Instant, chance: u32) {
        if let Some(entry) = self.entries.get_mut(vod_id) {
            entry.running = false;
            entry.due = now + pause(entry.failures, chance);
            entry.failures = entry.failures.saturating_add(1);
            (entry.progress.stage, entry.progress.error) = (Stage::Retrying, error);
        }
    }

    /// Nobody waits any longer: something has changed for the better.
    pub(super) fn hurry(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            entry.due = entry.due.min(now);
            entry.failures = 0;
        }
    }

    pub(super) fn progress(&self, vod_id: &VodId) -> Option<UploadProgress> {
        self.entries.get(vod_id).map(|entry| entry.progress.clone())
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn failing(&self) -> usize {
        self.entries.values().filter(|entry| entry.failures > 0).count()
    }
}

/// Doubles each time; between half of that and all of it.
pub(super) fn pause(failures: u32, chance: u32) -> Duration {
    let whole = PAUSE_MIN.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX);
    whole / 2 + whole.mul_f64(f64::from(chance) / f64::from(u32::MAX)) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> (VodId, Place) {
        (VodId::parse(name), Place::new("live", &format!("{name}.mp4")).unwrap())
    }

    #[test]
    fn pauses_grow_to_five_minutes_and_are_spread() {
        let seconds = |failures, chance| pause(failures, chance).as_secs_f64();
        assert_eq!((seconds(0, 0), seconds(0, u32::MAX)), (0.5, 1.0));
        assert_eq!((seconds(3, 0), seconds(3, u32::MAX)), (4.0, 8.0));
        assert_eq!((seconds(9, u32::MAX), seconds(u32::MAX, u32::MAX)), (300.0, 300.0));
        assert_eq!(seconds(20, 0), 150.0);
    }

    #[test]
    fn what_fails_comes_back_and_what_is_new_does_not_wait_for_it() {
        let now = Instant::now();
        let (mut schedule, (a, at), (b, bt)) = (Schedule::default(), one("a"), one("b"));
        schedule.add(a.clone(), at.clone(), now);
        assert_eq!(schedule.take_due(now), Some((a.clone(), at.clone())));
        assert_eq!((schedule.take_due(now), schedule.next_due()), (None, None), "it runs");
        schedule.failed(&a, "no".to_owned(), now, u32::MAX);
        let progress = UploadProgress { stage: Stage::Retrying, sent_bytes: 0, error: "no".to_owned() };
        assert_eq!(schedule.progress(&a), Some(progress));
        assert_eq!(schedule.next_due(), Some(now + PAUSE_MIN));
        schedule.add(b.clone(), bt.clone(), now);
        assert_eq!(schedule.take_due(now), Some((b.clone(), bt)));
        schedule.done(&b);
        assert_eq!(schedule.take_due(now + PAUSE_MIN), Some((a.clone(), at)));
        schedule.failed(&a, "no".to_owned(), now, u32::MAX);
        assert_eq!(schedule.next_due(), Some(now + 2 * PAUSE_MIN), "longer each time");
        schedule.hurry(now);
        assert_eq!(schedule.take_due(now).map(|(id, _)| id), Some(a.clone()));
        schedule.shows(&a, Stage::Uploading, 1);
        assert_eq!(schedule.progress(&a).map(|progress| progress.error), Some("no".to_owned()), "the last one is kept");
        schedule.failed(&a, "no".to_owned(), now, u32::MAX);
        assert_eq!(schedule.next_due(), Some(now + PAUSE_MIN), "progress starts over");
        assert_eq!((schedule.len(), schedule.failing()), (1, 1));
    }

    #[test]
    fn what_is_deleted_while_it_runs_is_known_as_unwanted() {
        let now = Instant::now();
        let (mut schedule, (a, at)) = (Schedule::default(), one("a"));
        schedule.add(a.clone(), at.clone(), now);
        schedule.take_due(now);
        schedule.forget(a.clone(), at, now);
        assert!(schedule.is_unwanted(&a));
        assert_eq!(schedule.take_due(now), None, "it runs still");
    }
}
