//! Which upload is due. Pure: `now` and chance are arguments.
//!
//! In: what is to be sent, how it went. Out: what to try now, and until when there is nothing to do. One that failed waits
//! longer each time, up to five minutes, for as many days as it takes; any progress makes it start over. It holds a few
//! hundred bytes per file that waits on the disk, so the disk bounds it.

use std::{collections::BTreeMap, time::Instant};

use headwater_common::{
    registry::VodId,
    store::{Form, Place},
};

use crate::pause::pause;

#[derive(Debug, Default)]
pub(super) struct Schedule {
    entries: BTreeMap<VodId, Entry>,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    due: Instant,
    running: bool,
    /// All that there was of it has been sent, and it grows.
    rests: bool,
    /// It has grown while it ran.
    grown: bool,
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
    /// One that is known already is to be tried at once, unless it fails: what grows must not hurry a bucket that is away.
    pub(super) fn add(&mut self, vod_id: VodId, place: Place, now: Instant) {
        let entry = self.entries.entry(vod_id).or_insert_with(|| Entry::new(place, now));
        if entry.failures == 0 {
            entry.due = now;
        }
        entry.grown = entry.running;
        entry.rests = false;
    }

    /// It is to vanish from the bucket.
    pub(super) fn forget(&mut self, vod_id: VodId, place: Place, now: Instant) {
        let entry = self.entries.entry(vod_id).or_insert_with(|| Entry::new(place, now));
        (entry.due, entry.rests, entry.unwanted) = (now, false, true);
    }

    pub(super) fn is_unwanted(&self, vod_id: &VodId) -> bool {
        self.entries.get(vod_id).is_some_and(|entry| entry.unwanted)
    }

    /// One that is due, the one that waits longest first, then the oldest recording; it runs until it is
    /// [`done`](Self::done), [`rests`](Self::rests) or has [`failed`](Self::failed).
    pub(super) fn take_due(&mut self, form: Form, now: Instant) -> Option<(VodId, Place)> {
        let due = self.entries.iter_mut().filter(|(_, entry)| entry.waits(form) && entry.due <= now);
        due.min_by_key(|(_, entry)| entry.due).map(|(vod_id, entry)| {
            (entry.running, entry.grown) = (true, false);
            (vod_id.clone(), entry.place.clone())
        })
    }

    /// When one that does not run is due.
    pub(super) fn next_due(&self, form: Form) -> Option<Instant> {
        self.entries.values().filter(|entry| entry.waits(form)).map(|entry| entry.due).min()
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

    /// All that there was of it has been sent. If it has grown meanwhile, it is due again.
    pub(super) fn rests(&mut self, vod_id: &VodId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(vod_id) {
            entry.running = false;
            (entry.rests, entry.due, entry.failures) = (!entry.grown && !entry.unwanted, now, 0);
            (entry.progress.stage, entry.progress.error) = (Stage::Waiting, String::new());
        }
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

impl Entry {
    fn new(place: Place, due: Instant) -> Self {
        let progress = UploadProgress::default();
        Self { place, due, running: false, rests: false, grown: false, unwanted: false, failures: 0, progress }
    }

    fn waits(&self, form: Form) -> bool {
        !self.running && !self.rests && Form::of(self.place.file()).unwrap_or_default() == form
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PAUSE_MIN: Duration = Duration::from_secs(1);

    fn one(name: &str) -> (VodId, Place) {
        (VodId::parse(name), Place::new("live", &format!("{name}.mp4")).unwrap())
    }

    #[test]
    fn what_fails_comes_back_and_what_is_new_does_not_wait_for_it() {
        let now = Instant::now();
        let (mut schedule, (a, at), (b, bt)) = (Schedule::default(), one("a"), one("b"));
        schedule.add(a.clone(), at.clone(), now);
        assert_eq!(schedule.take_due(Form::Mp4, now), Some((a.clone(), at.clone())));
        assert_eq!((schedule.take_due(Form::Mp4, now), schedule.next_due(Form::Mp4)), (None, None), "it runs");
        schedule.failed(&a, "no".to_owned(), now, u32::MAX);
        let progress = UploadProgress { stage: Stage::Retrying, sent_bytes: 0, error: "no".to_owned() };
        assert_eq!(schedule.progress(&a), Some(progress));
        assert_eq!(schedule.next_due(Form::Mp4), Some(now + PAUSE_MIN));
        schedule.add(b.clone(), bt.clone(), now);
        assert_eq!(schedule.take_due(Form::Mp4, now), Some((b.clone(), bt)));
        schedule.done(&b);
        assert_eq!(schedule.take_due(Form::Mp4, now + PAUSE_MIN), Some((a.clone(), at)));
        schedule.failed(&a, "no".to_owned(), now, u32::MAX);
        assert_eq!(schedule.next_due(Form::Mp4), Some(now + 2 * PAUSE_MIN), "longer each time");
        schedule.hurry(now);
        assert_eq!(schedule.take_due(Form::Mp4, now).map(|(id, _)| id), Some(a.clone()));
        schedule.shows(&a, Stage::Uploading, 1);
        assert_eq!(schedule.progress(&a).map(|progress| progress.error), Some("no".to_owned()), "the last one is kept");
        schedule.failed(&a, "no".to_owned(), now, u32::MAX);
        assert_eq!(schedule.next_due(Form::Mp4), Some(now + PAUSE_MIN), "progress starts over");
        assert_eq!((schedule.len(), schedule.failing()), (1, 1));
    }

    #[test]
    fn what_is_deleted_while_it_runs_is_known_as_unwanted() {
        let now = Instant::now();
        let (mut schedule, (a, at)) = (Schedule::default(), one("a"));
        schedule.add(a.clone(), at.clone(), now);
        schedule.take_due(Form::Mp4, now);
        schedule.forget(a.clone(), at, now);
        assert!(schedule.is_unwanted(&a));
        assert_eq!(schedule.take_due(Form::Mp4, now), None, "it runs still");
    }

    #[test]
    fn what_grows_while_it_is_sent_is_sent_again() {
        let now = Instant::now();
        let (mut schedule, id) = (Schedule::default(), VodId::parse("a"));
        let place = Place::new("live", "a.vod.m3u8").unwrap();
        let take = |schedule: &mut Schedule| schedule.take_due(Form::Hls, now).is_some();
        schedule.add(id.clone(), place.clone(), now);
        assert_eq!(schedule.take_due(Form::Mp4, now), None, "a file that takes hours is not in its way");
        assert!(take(&mut schedule));
        schedule.rests(&id, now);
        assert!(!take(&mut schedule) && schedule.next_due(Form::Hls).is_none());
        assert_eq!(schedule.progress(&id).map(|progress| progress.stage), Some(Stage::Waiting));
        schedule.add(id.clone(), place.clone(), now);
        assert!(take(&mut schedule));
        schedule.add(id.clone(), place.clone(), now);
        schedule.rests(&id, now);
        assert!(take(&mut schedule), "it has grown meanwhile");
        schedule.failed(&id, "no".to_owned(), now, u32::MAX);
        schedule.add(id.clone(), place.clone(), now);
        assert!(!take(&mut schedule), "a bucket that is away is not hurried");
        schedule.forget(id.clone(), place, now);
        assert!(take(&mut schedule));
        schedule.rests(&id, now);
        assert!(take(&mut schedule), "a deletion is not forgotten");
    }
}
