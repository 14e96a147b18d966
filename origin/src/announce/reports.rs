//! What the registry hears of the hall: how far broadcasts have come, and which have ended. What it could not be told
//! is told later, and when it is back after a time away the two are made to agree.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use headwater_common::{
    clock,
    live::{Broadcast, BroadcastId, Fenced, Hub, SILENT_US, Status},
    registry::{Ask, Bid, BroadcastRow, Duty, Ending, Hall, Progress, RegistryError, audit, is_provisional},
};

use super::Desk;

/// How often ends are looked for; an interrupted broadcast waits ten times this.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often numbers in use are reported to a file though nothing else has changed. A process that is killed is taken for
/// dead since its last report.
const REPORT_EVERY_US: i64 = 10_000_000;
/// The same where nodes share a registry: there the time of a death is known otherwise, and writes are dear.
const REPORT_SHARED_EVERY_US: i64 = 120_000_000;
/// Ends that wait to be told. Of more than that the registry hears without their last numbers, when it lists
/// broadcasts as live that are not.
const UNTOLD_MAX: usize = 1_000;

/// Runs as long as the node does; [`settle`] tells the last ends.
pub(crate) async fn run(desk: Desk) {
    let mut reports = Reports::default();
    let mut interval = tokio::time::interval(SWEEP_EVERY);
    loop {
        interval.tick().await;
        let lost = desk.hub.sweep(clock::now_us());
        reports.notice(&desk);
        reports.tell(&desk, &lost).await;
        reports.tell_again(&desk).await;
        reports.agree(&desk).await;
        desk.witnesses.note(&desk.hub).await;
    }
}

/// When the process stops, what is live ends here and now.
pub(crate) async fn settle(desk: &Desk) {
    for broadcast in published(&desk.hub) {
        if broadcast.status() == Status::Ended {
            continue;
        }
        let end = End::of(desk, &broadcast, Ending::Finished);
        if let Err(error) = end.tell(desk).await {
            tracing::error!(broadcast = %broadcast.id(), %error, "registry was not told of an end");
            if error.is_absence() {
                // The others find out by themselves, and this process is asked to go.
                break;
            }
        }
    }
}

fn published(hub: &Hub) -> Vec<Arc<Broadcast>> {
    hub.list().into_iter().filter(|broadcast| !broadcast.is_mirror()).collect()
}

#[derive(Default)]
struct Reports {
    /// What the registry knows, by broadcast of the hub.
    told: HashMap<BroadcastId, Told>,
    untold: BTreeMap<BroadcastId, End>,
    /// Claims that the hall holds, and since when that is known.
    held: BTreeMap<BroadcastId, (u64, i64)>,
    /// The newest look into the registry that was laid beside the hall.
    agreed_us: Option<i64>,
}

struct Told {
    progress: Progress,
    at_us: i64,
    ended: bool,
}

/// The end of a broadcast, with all that is needed to tell it.
pub(super) struct End {
    last: Progress,
    ending: Ending,
    /// For claims that the registry has not granted yet.
    stay: Bid,
}

impl End {
    pub(super) fn of(desk: &Desk, broadcast: &Broadcast, ending: Ending) -> Self {
        Self { last: progress(broadcast, clock::now_us()), ending, stay: desk.stay(broadcast) }
    }

    pub(super) async fn tell(&self, desk: &Desk) -> Result<(), RegistryError> {
        let Self { last, ending, stay } = self;
        if desk.is_away() {
            return Err(RegistryError::Away);
        }
        let mut last = last.clone();
        if is_provisional(last.epoch) {
            match desk.registry.claim(&last.id, stay).await {
                Ok(claimed) => last.epoch = claimed.epoch,
                // Somebody else has it, or it was removed: nothing is left to tell.
                Err(RegistryError::Outrun { .. } | RegistryError::Removed { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if desk.registry.finish(&last, *ending, clock::now_us()).await? {
            desk.changed();
        }
        Ok(())
    }
}

impl Reports {
    /// Which claims are held now.
    fn notice(&mut self, desk: &Desk) {
        let now_us = desk.monotonic_us();
        let held: BTreeMap<_, _> = published(&desk.hub)
            .into_iter()
            .filter(|broadcast| broadcast.status() != Status::Ended)
            .map(|broadcast| (broadcast.id().clone(), broadcast.claimed_epoch()))
            .collect();
        self.held.retain(|id, (epoch, _)| held.get(id) == Some(epoch));
        for (id, epoch) in held {
            self.held.entry(id).or_insert((epoch, now_us));
        }
    }

    async fn tell(&mut self, desk: &Desk, lost: &[Arc<Broadcast>]) {
        let now_us = clock::now_us();
        let report_every_us = if desk.is_shared() { REPORT_SHARED_EVERY_US } else { REPORT_EVERY_US };
        let broadcasts = published(&desk.hub);
        self.told.retain(|id, _| broadcasts.iter().any(|broadcast| broadcast.id() == id));
        let mut batch = Vec::new();
        for broadcast in &broadcasts {
            let ended = broadcast.status() == Status::Ended;
            let progress = progress(broadcast, now_us);
            let told = self.told.get(broadcast.id());
            let is_told = |told: &Told| match ended {
                true => told.ended && told.progress.epoch == progress.epoch,
                false => now_us - told.at_us < report_every_us && !progress.is_news_after(&told.progress),
            };
            if told.is_some_and(is_told) {
                continue;
            }
            if !ended {
                // A claim without the registry is told by claiming anew.
                if !is_provisional(progress.epoch) {
                    batch.push(progress);
                }
                continue;
            }
            let was_lost = lost.iter().any(|lost| Arc::ptr_eq(lost, broadcast));
            let ending = if was_lost { Ending::TerminatedUnexpectedly } else { Ending::Finished };
            tracing::info!(broadcast = %progress.id, epoch = progress.epoch, ?ending, "broadcast ended");
            self.told.insert(broadcast.id().clone(), Told { progress, at_us: now_us, ended });
            self.end(desk, End::of(desk, broadcast, ending)).await;
        }
        if batch.is_empty() || desk.is_away() {
            return;
        }
        match desk.registry.progress(&batch, now_us).await {
            Ok(()) => {
                let told = batch
                    .into_iter()
                    .map(|progress| (progress.id.clone(), Told { progress, at_us: now_us, ended: false }));
                self.told.extend(told);
            }
            Err(error) => tracing::error!(%error, "registry was not told how far broadcasts have come"),
        }
    }

    async fn end(&mut self, desk: &Desk, end: End) {
        let Err(error) = end.tell(desk).await else { return };
        let id = end.last.id.clone();
        tracing::error!(broadcast = %id, %error, "registry was not told of an end, it will be");
        if self.untold.len() < UNTOLD_MAX || self.untold.contains_key(&id) {
            self.untold.insert(id, end);
        }
    }

    async fn tell_again(&mut self, desk: &Desk) {
        while let Some((id, end)) = self.untold.pop_first() {
            // Published again meanwhile: its newest claim says more.
            if self.held.contains_key(&id) && is_provisional(end.last.epoch) {
                continue;
            }
            if end.tell(desk).await.is_err() {
                self.untold.insert(id, end);
                return;
            }
        }
    }

    /// Lays the newest look into the registry beside the hall.
    async fn agree(&mut self, desk: &Desk) {
        let Some((seen, lives)) = desk.look() else { return };
        if self.held.values().any(|(_, since_us)| *since_us >= seen.asked_us) {
            // Of two who claim at once both may have been seen before the first one was held.
            desk.look_again();
        }
        if self.agreed_us == Some(seen.asked_us) || desk.is_away() {
            return;
        }
        self.agreed_us = Some(seen.asked_us);
        // Only what was held when the rows were asked for: they can't tell of anything newer.
        let was_held = |(id, (epoch, since_us)): (&BroadcastId, &(u64, i64))| {
            (*since_us < seen.asked_us).then(|| (id.clone(), *epoch))
        };
        let held: BTreeMap<_, _> = self.held.iter().filter_map(was_held).collect();
        for duty in audit(&desk.life, &seen.broadcasts, &held, lives) {
            match duty {
                Duty::Stay { id, held } => self.stay(desk, &id, held).await,
                Duty::Fence { id, held, owner } => {
                    if self.turn_away(desk, &id, held, Fenced::Replaced) {
                        tracing::warn!(broadcast = %id, node = owner.node, "taken over by a publisher on another node");
                    }
                }
                Duty::End { row } => self.end_unheard(desk, &row).await,
            }
        }
    }

    async fn stay(&mut self, desk: &Desk, id: &BroadcastId, held: u64) {
        let Some(broadcast) = desk.hub.get(id).filter(|broadcast| broadcast.claimed_epoch() == held) else { return };
        let Some(_claiming) = desk.claiming.alone(id) else { return };
        let claimed = match desk.registry.claim(id, &desk.stay(&broadcast)).await {
            Ok(claimed) => claimed,
            Err(RegistryError::Removed { .. }) => {
                if self.turn_away(desk, id, held, Fenced::Stopped) {
                    tracing::warn!(broadcast = %id, "it was removed while this node was cut off");
                }
                return;
            }
            // The next look tells.
            Err(error) => {
                return tracing::warn!(broadcast = %id, %error, "its publisher goes on, and its claim is not renewed");
            }
        };
        desk.changed();
        if desk.hub.renew(id, held, claimed.epoch, claimed.next_gop, claimed.discontinuity) {
            tracing::info!(broadcast = %id, epoch = format_args!("{:#x}", claimed.epoch), "claim renewed");
            return;
        }
        // Over in the meantime, and the end was told under the old claim.
        let last = Progress { epoch: claimed.epoch, ..progress(&broadcast, clock::now_us()) };
        let stay = desk.stay(&broadcast);
        self.end(desk, End { last, ending: Ending::Finished, stay }).await;
    }

    /// The end of what is not ours to tell. False when that claim does not hold the broadcast any more.
    fn turn_away(&mut self, desk: &Desk, id: &BroadcastId, held: u64, why: Fenced) -> bool {
        let Some(broadcast) = desk.hub.get(id) else { return false };
        let (progress, now_us) = (progress(&broadcast, clock::now_us()), clock::now_us());
        let turned_away = desk.hub.turn_away(id, held, why, now_us);
        if turned_away {
            self.told.insert(id.clone(), Told { progress, at_us: now_us, ended: true });
        }
        turned_away
    }

    async fn end_unheard(&mut self, desk: &Desk, row: &BroadcastRow) {
        let Ok(id) = BroadcastId::new(&row.app, &row.stream) else { return };
        let Some(_claiming) = desk.claiming.alone(&id) else { return };
        let broadcast = desk.hub.get(&id).filter(|broadcast| broadcast.claimed_epoch() == row.epoch);
        if broadcast.as_ref().is_some_and(|broadcast| broadcast.status() != Status::Ended) {
            return;
        }
        let last = broadcast.map_or_else(
            || Progress {
                id: id.clone(),
                epoch: row.epoch,
                next_gop: row.next_gop,
                discontinuity: row.discontinuity,
                segment_target_s: row.segment_target_s,
                silent: true,
            },
            |broadcast| progress(&broadcast, clock::now_us()),
        );
        match desk.registry.finish(&last, Ending::TerminatedUnexpectedly, clock::now_us()).await {
            Ok(true) => {
                tracing::warn!(broadcast = %id, "nobody publishes it here, its end had not been told");
                desk.changed();
            }
            Ok(false) => {}
            Err(error) => tracing::error!(broadcast = %id, %error, "registry was not told of an end"),
        }
    }
}

pub(super) fn progress(broadcast: &Broadcast, now_us: i64) -> Progress {
    let Hall { epoch, next_gop, discontinuity, segment_target_s, .. } = Hall::of(broadcast);
    let silent = broadcast.silent_for_us(now_us).is_none_or(|silent_us| silent_us >= SILENT_US);
    Progress { id: broadcast.id().clone(), epoch, next_gop, discontinuity, segment_target_s, silent }
}

impl Desk {
    pub(super) fn stay(&self, broadcast: &Broadcast) -> Bid {
        Bid {
            life: self.life.clone(),
            publisher: broadcast.publisher(),
            ask: Ask::Stay,
            hall: Some(Hall::of(broadcast)),
            webhook: self.has_webhook(broadcast.id()),
            now_us: clock::now_us(),
        }
    }
}
