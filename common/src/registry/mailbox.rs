//! What is to be told of one broadcast, in order. In: events, and how the try to tell one went. Out: which is next, and from
//! when on. Deliberately absent: to whom it is told, and how. A [`Mailbox`] is pure: `now` is an argument.
//!
//! Whoever finds a mailbox due takes it for a while, by a write that only one can make: others leave it alone meanwhile, and
//! if the one who took it dies, it is due again. So each event is told at least once, and in its turn. What nobody takes
//! in stays for a day; then the next one has its turn.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{BroadcastRow, BroadcastStatus, Details, Event, Happening, RegistryError};
use crate::live::BroadcastId;

/// Beyond that the oldest are dropped, and counted: a day of a broadcast that is recorded in pieces of five minutes.
const EVENTS_MAX: usize = 400;
/// The end of a broadcast is written within a second or two, and is told before what came of it. With a registry that is
/// away both may be late, and nobody waits longer than this.
const END_WITHIN_MS: i64 = 10_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mailbox {
    pub app: String,
    pub stream_id: String,
    /// The broadcast's own, if it has one, also when its row is gone.
    #[serde(rename = "listenerHookURL")]
    pub listener_hook_url: String,
    /// The oldest first.
    pub events: Vec<Event>,
    /// What the broadcast's row said when it was removed.
    pub removed: Option<Details>,
    /// Before this nobody is to tell anything of it.
    pub due_ms: i64,
    /// Tries in a row that came to nothing.
    pub failures: u32,
    /// Dropped because there were too many.
    pub dropped: u32,
}

/// What becomes of a mailbox.
#[derive(Clone, Debug)]
pub enum Turn {
    /// Somebody tells what is in it, and is left alone until then. Only of one that is due.
    Take { now_ms: i64, until_ms: i64 },
    /// One event needs not be told any more; who took the mailbox goes on with it.
    Told { event: String, until_ms: i64 },
    /// It could not be told, and is tried again then.
    Failed { until_ms: i64 },
    /// Nothing of it can be told before.
    Rest { until_ms: i64 },
}

/// Mailboxes, kept beside the rows.
#[async_trait]
pub trait Mailboxes: Send + Sync {
    /// Woken when this process has written something that is to be told.
    fn noted(&self) -> &Notify;

    /// Puts what rows still hold into mailboxes, where that is not done in one write. Anybody may do it at any time.
    async fn collect_events(&self) -> Result<(), RegistryError>;

    /// Those that are due then, the longest first.
    async fn due_mailboxes(&self, then_ms: i64, size: usize) -> Result<Vec<Mailbox>, RegistryError>;

    /// The mailbox after that, unless it is empty. `None` as well where it is not to be taken.
    async fn turn_mailbox(&self, id: &BroadcastId, turn: &Turn) -> Result<Option<Mailbox>, RegistryError>;

    /// Nothing of these is told before then.
    async fn defer_mailboxes(&self, ids: &[BroadcastId], until_ms: i64) -> Result<(), RegistryError>;
}

impl Mailbox {
    pub(super) fn new(app: &str, stream: &str) -> Self {
        Self { app: app.to_owned(), stream_id: stream.to_owned(), ..Self::default() }
    }

    /// Events that are in it already stay as they are. `hook` is what the broadcast's row says, if there is one.
    pub(super) fn add(&mut self, events: impl IntoIterator<Item = Event>, hook: Option<&str>) {
        if let Some(hook) = hook {
            hook.clone_into(&mut self.listener_hook_url);
        }
        for event in events {
            if self.events.iter().any(|known| known.id == event.id) {
                continue;
            }
            let at = match event.what {
                Happening::LiveStreamEnded { .. } => self.events.len() - self.waiting_for_end(),
                _ => self.events.len(),
            };
            self.events.insert(at, event);
        }
        let too_many = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..too_many);
        self.dropped = self.dropped.saturating_add(too_many as u32);
    }

    /// The row is about to go: what it has to tell, and what whoever tells it needs.
    pub(super) fn inherit(&mut self, row: &BroadcastRow) {
        self.add(row.events.iter().cloned(), Some(&row.details.listener_hook_url));
        self.removed = Some(row.details.clone());
    }

    /// How many at the end are news of recordings whose broadcast was over.
    fn waiting_for_end(&self) -> usize {
        let waits = |event: &&Event| matches!(event.what, Happening::VodReady { after_end: true, .. });
        self.events.iter().rev().take_while(waits).count()
    }

    /// False when nothing changes.
    pub(super) fn turn(&mut self, turn: &Turn) -> bool {
        match turn {
            Turn::Take { now_ms, until_ms } => {
                if self.due_ms > *now_ms {
                    return false;
                }
                self.due_ms = *until_ms;
                for event in &mut self.events {
                    event.tried_ms.get_or_insert(*now_ms);
                }
            }
            Turn::Told { event, until_ms } => {
                self.events.retain(|known| known.id != *event);
                (self.due_ms, self.failures, self.dropped) = (*until_ms, 0, 0);
            }
            Turn::Failed { until_ms } => {
                self.due_ms = *until_ms;
                self.failures = self.failures.saturating_add(1);
            }
            Turn::Rest { until_ms } => self.due_ms = *until_ms,
        }
        true
    }

    /// What is to be told now. `row`: of the broadcast, if there is one. `None`: the end of the broadcast comes first, and is
    /// about to be written.
    pub fn next(&self, row: Option<&BroadcastRow>, now_ms: i64) -> Option<&Event> {
        let goes_on = |row: &BroadcastRow| row.status == BroadcastStatus::Broadcasting || !row.events.is_empty();
        let next = self.events.first()?;
        let waits = self.waiting_for_end() == self.events.len() && now_ms - next.at_ms < END_WITHIN_MS;
        (!waits || !row.is_some_and(goes_on)).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{RecordingRow, RecordingState, VodId};

    fn row(epoch: u64, status: BroadcastStatus) -> BroadcastRow {
        BroadcastRow { app: "live".into(), stream: "x".into(), epoch, status, ..BroadcastRow::default() }
    }

    fn of_broadcast(at_ms: i64, what: Happening) -> Event {
        Event::of_broadcast(&row(1, BroadcastStatus::Created), at_ms, what)
    }

    fn vod(n: u32, after_end: bool, at_ms: i64) -> Event {
        let (vod_id, file) = (VodId::new(1, n), format!("x_{n}.mp4"));
        let row = RecordingRow { app: "live".into(), vod_id, file, state: RecordingState::Ready, ..Default::default() };
        Event::of_recording(&row, after_end, at_ms).unwrap()
    }

    fn ids(mailbox: &Mailbox) -> Vec<&str> {
        mailbox.events.iter().map(|event| event.id.as_str()).collect()
    }

    #[test]
    fn each_event_has_an_id_of_its_own_and_a_recording_that_is_not_ready_none() {
        let ended = Happening::LiveStreamEnded { status: BroadcastStatus::Finished };
        let events = [
            of_broadcast(5, Happening::LiveStreamStarted),
            of_broadcast(5, ended.clone()),
            of_broadcast(6, ended.clone()),
            Event::of_broadcast(&row(2, BroadcastStatus::Finished), 6, ended),
            vod(1, false, 5),
            vod(2, false, 5),
        ];
        let ids: std::collections::BTreeSet<_> = events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(ids.len(), events.len());
        // The signature's parts are joined by full stops.
        assert!(ids.iter().all(|id| id.len() == 36 && !id.contains('.')), "{ids:?}");
        assert_eq!(vod(1, false, 5).id, vod(1, true, 9).id, "made ready twice");
        assert_eq!(Event::of_recording(&RecordingRow::default(), true, 1), None);
    }

    #[test]
    fn one_takes_it_and_the_next_event_has_its_turn_when_the_first_was_told() {
        let mut mailbox = Mailbox::new("live", "x");
        let (first, second) = (of_broadcast(1, Happening::LiveStreamStarted), vod(1, false, 2));
        mailbox.add([first.clone()], None);
        mailbox.add([first.clone(), second.clone()], None);
        assert_eq!(ids(&mailbox), [&*first.id, &*second.id], "known by their ids");
        let take = |now_ms| Turn::Take { now_ms, until_ms: now_ms + 100 };
        assert!(mailbox.turn(&take(10)));
        assert!(!mailbox.turn(&take(109)), "somebody has it");
        assert!(mailbox.turn(&take(110)), "who took it has died");
        assert_eq!(mailbox.events[0].tried_ms, Some(10), "since then it is tried");
        assert!(mailbox.turn(&Turn::Failed { until_ms: 500 }) && mailbox.failures == 1);
        mailbox.add([vod(2, false, 3)], None);
        assert!(!mailbox.turn(&take(499)), "what is new does not overtake");
        assert!(mailbox.turn(&take(500)));
        assert!(mailbox.turn(&Turn::Told { event: first.id.clone(), until_ms: 700 }));
        assert_eq!((ids(&mailbox)[0], mailbox.failures, mailbox.due_ms), (&*second.id, 0, 700));
        assert!(mailbox.turn(&Turn::Told { event: first.id, until_ms: 700 }) && mailbox.events.len() == 2);
    }

    #[test]
    fn the_end_of_a_broadcast_is_told_before_what_came_of_it() {
        let (live, over) = (row(1, BroadcastStatus::Broadcasting), row(1, BroadcastStatus::Finished));
        let mut mailbox = Mailbox::new("live", "x");
        let next = |mailbox: &Mailbox, row, now_ms| mailbox.next(row, now_ms).map(|event| event.id.clone());
        let (piece, last, last_hls) = (vod(1, false, 900), vod(2, true, 1_000), vod(3, true, 1_001));
        mailbox.add([piece.clone()], None);
        assert_eq!(next(&mailbox, Some(&live), 900), Some(piece.id.clone()), "a piece of what goes on");
        mailbox.turn(&Turn::Told { event: piece.id, until_ms: 0 });
        mailbox.add([last.clone(), last_hls.clone()], None);
        assert_eq!(next(&mailbox, Some(&live), 10_999), None);
        assert_eq!(next(&mailbox, Some(&live), 11_000), Some(last.id.clone()), "nobody waits for ever");
        assert_eq!(next(&mailbox, Some(&over), 1_001), Some(last.id.clone()), "it was told before");
        assert_eq!(next(&mailbox, None, 1_001), Some(last.id.clone()), "the broadcast was deleted");
        let ended = of_broadcast(1_500, Happening::LiveStreamEnded { status: BroadcastStatus::Finished });
        let uncollected = BroadcastRow { events: vec![ended.clone()], ..over.clone() };
        assert_eq!(next(&mailbox, Some(&uncollected), 1_500), None, "written, and not collected yet");
        mailbox.add([ended.clone()], None);
        assert_eq!(ids(&mailbox), [&*ended.id, &*last.id, &*last_hls.id]);
        assert_eq!(next(&mailbox, Some(&live), 1_500), Some(ended.id));
    }

    #[test]
    fn a_receiver_that_takes_nothing_in_costs_the_oldest() {
        let mut mailbox = Mailbox::new("live", "x");
        mailbox.add((0..EVENTS_MAX as u32 + 3).map(|n| vod(n, false, 1)), None);
        assert_eq!((mailbox.events.len(), mailbox.dropped), (EVENTS_MAX, 3));
        assert_eq!(mailbox.events[0].id, vod(3, false, 1).id);
        assert!(mailbox.turn(&Turn::Told { event: vod(3, false, 1).id, until_ms: 0 }) && mailbox.dropped == 0);
    }
}
