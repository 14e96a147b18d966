//! One broadcast that is pulled: from whom, when anew, and until when.
//!
//! In: where the broadcast lives, how a conversation with a node ended, whether anybody reads. Out: the next conversation.
//! Deliberately absent: what is said in it (`talk`).

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use headwater_common::{
    chance,
    cluster::Upstream,
    live::{Broadcast, BroadcastId, Status},
};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{Inner, changed, loss::Loss, talk};

/// A viewer is told that there is nothing after so long.
const FIND_WITHIN: Duration = Duration::from_secs(3);
/// From the last reader, or the last who asked, to the end of the pull. A WebRTC session is read for from its first
/// connectivity check on, which comes within ten seconds after the answer.
const LINGER: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The first attempt to begin anew comes at once: most that is lost comes back there or elsewhere. All edges lose a
/// node in the same moment, so none waits as long as another one.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// A conversation that lasted so long was a good one.
const GOOD: Duration = Duration::from_secs(10);

/// What those who ask wait for.
#[derive(Clone, Debug)]
enum Progress {
    Trying,
    Here(Arc<Broadcast>),
    Absent,
}

pub(super) struct Pull {
    id: BroadcastId,
    progress: watch::Sender<Progress>,
    wanted: Mutex<Instant>,
}

/// How a conversation ended.
pub(super) enum Outcome {
    Lost(Loss),
    /// It never began.
    Failed(Loss),
    /// The broadcast lives elsewhere now.
    Moved,
    /// Nobody reads it here, or it is over for good.
    Unwanted,
}

impl Pull {
    pub(super) fn new(id: BroadcastId) -> Self {
        Self { id, progress: watch::Sender::new(Progress::Trying), wanted: Mutex::new(Instant::now()) }
    }

    pub(super) fn id(&self) -> &BroadcastId {
        &self.id
    }

    pub(super) async fn found(&self) -> Option<Arc<Broadcast>> {
        let mut progress = self.progress.subscribe();
        let settled = progress.wait_for(|progress| !matches!(progress, Progress::Trying));
        match &*timeout(FIND_WITHIN, settled).await.ok()?.ok()? {
            // What the hub has just forgotten is about to be forgotten here.
            Progress::Here(broadcast) => Some(broadcast.clone()).filter(|broadcast| !broadcast.is_over()),
            Progress::Trying | Progress::Absent => None,
        }
    }

    pub(super) fn touch(&self) {
        *self.lock() = Instant::now();
    }

    /// Nobody has asked for it or read it lately.
    pub(super) fn is_idle(&self) -> bool {
        let read = self.broadcast().is_some_and(|held| held.tracks().iter().any(|track| track.readers() > 0));
        if read {
            self.touch();
        }
        !read && self.lock().elapsed() > LINGER
    }

    /// It has begun.
    pub(super) fn here(&self, broadcast: &Arc<Broadcast>) {
        self.progress.send_replace(Progress::Here(broadcast.clone()));
    }

    /// Those who wait are told that there is nothing; those who watch already wait on.
    fn absent(&self) {
        self.progress.send_if_modified(|progress| {
            let trying = matches!(progress, Progress::Trying);
            if trying {
                *progress = Progress::Absent;
            }
            trying
        });
    }

    /// Returns what was pulled.
    pub(super) fn end(&self) -> Option<Arc<Broadcast>> {
        match self.progress.send_replace(Progress::Absent) {
            Progress::Here(broadcast) => Some(broadcast),
            Progress::Trying | Progress::Absent => None,
        }
    }

    fn broadcast(&self) -> Option<Arc<Broadcast>> {
        match &*self.progress.borrow() {
            Progress::Here(broadcast) => Some(broadcast.clone()),
            Progress::Trying | Progress::Absent => None,
        }
    }

    /// Nobody reads it here, or this node's hub has forgotten it.
    pub(super) async fn unwanted(&self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if self.is_idle() || self.broadcast().is_some_and(|held| held.is_over()) {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Instant> {
        self.wanted.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

pub(super) async fn run(inner: Arc<Inner>, pull: Arc<Pull>, mut upstream: watch::Receiver<Option<Upstream>>) {
    let mut backoff = Backoff::new();
    loop {
        let target = upstream.borrow_and_update().clone();
        let began = Instant::now();
        let outcome = match target {
            Some(target) => talk::follow(&inner, &pull, target, &mut upstream).await,
            None => {
                pull.absent();
                rest(&pull, &mut upstream, None).await
            }
        };
        let outcome = match outcome {
            Outcome::Lost(Loss::Over) if pull.broadcast().is_some_and(|held| held.status() == Status::Ended) => {
                // It is not asked for again, unless somebody publishes it again.
                rest(&pull, &mut upstream, None).await
            }
            Outcome::Lost(loss) => {
                if began.elapsed() > GOOD {
                    backoff = Backoff::new();
                }
                inner.door.errors.inc();
                tracing::warn!(broadcast = %pull.id(), %loss, "pull lost, begins anew");
                rest(&pull, &mut upstream, Some(backoff.next())).await
            }
            Outcome::Failed(loss) => {
                inner.door.errors.inc();
                tracing::debug!(broadcast = %pull.id(), %loss, "pull failed");
                if loss.is_unknown() {
                    pull.absent();
                }
                rest(&pull, &mut upstream, Some(backoff.next())).await
            }
            outcome => outcome,
        };
        let over = pull.broadcast().is_some_and(|held| held.is_over());
        if matches!(outcome, Outcome::Unwanted) && inner.end(&pull, !over) {
            return;
        }
    }
}

/// Waits until the next attempt is due, here or elsewhere.
async fn rest(pull: &Pull, upstream: &mut watch::Receiver<Option<Upstream>>, again: Option<Duration>) -> Outcome {
    let due = async {
        match again {
            Some(after) => sleep(after).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = due => Outcome::Moved,
        () = changed(upstream) => Outcome::Moved,
        () = pull.unwanted() => Outcome::Unwanted,
    }
}

struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(BACKOFF_FIRST)
    }

    fn next(&mut self) -> Duration {
        let most = self.0;
        self.0 = (most * 2).min(BACKOFF_MAX);
        // Half of it is chance.
        most / 2 + chance::a_part_of(most / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_become_rare_and_never_fall_together() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(waits[0] >= BACKOFF_FIRST / 2 && waits[0] <= BACKOFF_FIRST);
        assert!(waits.iter().all(|wait| *wait <= BACKOFF_MAX));
        let last = &waits[10..];
        assert!(last.iter().all(|wait| *wait >= BACKOFF_MAX / 2));
        assert!(last.iter().any(|wait| *wait != last[0]));
    }
}
