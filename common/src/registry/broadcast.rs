//! The life of a broadcast's row: created, claimed (again and again, each time with a higher epoch), finished or lost.
//! Pure: rows and `now` in, rows out.

use serde::{Deserialize, Serialize};

use super::{Ask, Bid, Claimed, Denied, Event, Happening, Take, Takes, TooMany, epoch};
use crate::{
    ladder::Rung,
    live::{BroadcastId, Takeover},
};

/// Numbers that are set aside with every claim and every report of progress. A process that is killed has used more
/// numbers than it reported, and its successor must not use them again; a gop lasts about a second or longer, so this
/// covers reports that come as seldom as every two minutes, and late.
const GOPS_AHEAD: u64 = 256;
const DISCONTINUITIES_AHEAD: u64 = 16;
/// A publisher that comes back within this goes on with the same clock and the same segments: players that wait for
/// it need not begin anew. As long as an ended broadcast stays in the hall.
pub(super) const RESUME_MS: i64 = crate::live::LINGER_US / 1000;

/// One life of a node: the id stays over restarts, the incarnation does not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Life {
    pub node: String,
    /// Below 2^63, because databases know signed numbers only.
    pub incarnation: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BroadcastStatus {
    /// Known by name, never published or not yet.
    #[default]
    Created,
    Broadcasting,
    Finished,
    /// Its publisher vanished, or the process that served it died.
    TerminatedUnexpectedly,
}

/// How a broadcast ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Finished,
    TerminatedUnexpectedly,
}

/// What whoever created the broadcast says about it; the server only keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Details {
    pub name: String,
    pub description: String,
    pub metadata: String,
    /// Who is told what becomes of it, instead of the application's webhook. Empty: nobody else.
    pub listener_hook_url: String,
    /// The qualities that are made of it. `None`: as the application's setting says.
    pub ladder: Option<Vec<Rung>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BroadcastRow {
    pub app: String,
    pub stream: String,
    pub status: BroadcastStatus,
    /// Of the newest claim; before the first as high as `floor`.
    pub epoch: u64,
    /// Claims up to this one are none of this row: where they were of its name, that row was removed.
    pub floor: u64,
    /// Whose claim it is.
    pub owner: Life,
    /// Its publisher sends nothing: another one may have the broadcast, whatever the settings say.
    pub silent: bool,
    /// Wall-clock of timestamp zero.
    pub born_us: i64,
    /// Seconds that no segment outlasts, once that is known.
    pub segment_target_s: Option<u32>,
    /// The first gop number that nobody can have used.
    pub next_gop: u64,
    /// At least as high as any discontinuity number that was used.
    pub discontinuity: u64,
    /// Protocol of the newest publisher.
    pub publish_type: String,
    /// Address of the newest publisher.
    pub remote: String,
    pub agent: String,
    pub created_ms: i64,
    /// When the newest publisher took it.
    pub started_ms: Option<i64>,
    pub updated_ms: i64,
    pub ended_ms: Option<i64>,
    /// Record this broadcast or don't, whatever the application's setting says.
    pub record_override: Option<bool>,
    /// What else is recorded of it.
    pub takes: Takes,
    /// Its application has a webhook, by the newest claim.
    pub webhook: bool,
    /// To be told, and not in the broadcast's mailbox yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    pub details: Details,
}

/// How far a broadcast that goes on has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub id: BroadcastId,
    pub epoch: u64,
    pub next_gop: u64,
    pub discontinuity: u64,
    pub segment_target_s: Option<u32>,
    pub silent: bool,
}

/// The first numbers that nobody uses before the next report.
pub(super) struct Ahead {
    pub(super) next_gop: u64,
    pub(super) discontinuity: u64,
}

impl Ahead {
    pub(super) fn of(next_gop: u64, discontinuity: u64) -> Self {
        Self { next_gop: next_gop + GOPS_AHEAD, discontinuity: discontinuity + DISCONTINUITIES_AHEAD }
    }
}

impl Progress {
    /// Whether the registry must hear of it now, having heard `told` last: something that others go by has changed, or
    /// half of the numbers that were set aside are used up.
    pub fn is_news_after(&self, told: &Self) -> bool {
        self.epoch != told.epoch
            || self.silent != told.silent
            || self.segment_target_s != told.segment_target_s
            || self.next_gop >= told.next_gop + GOPS_AHEAD / 2
            || self.discontinuity >= told.discontinuity + DISCONTINUITIES_AHEAD / 2
    }
}

impl BroadcastRow {
    /// `floor` is higher than zero where rows were removed: their publishers may still be around.
    pub fn new(id: &BroadcastId, floor: u64, now_us: i64) -> Self {
        Self {
            app: id.app().to_owned(),
            stream: id.stream().to_owned(),
            epoch: floor,
            floor,
            created_ms: now_us / 1000,
            updated_ms: now_us / 1000,
            ..Self::default()
        }
    }

    /// Gives the broadcast to who asks.
    pub(super) fn claim(&mut self, bid: &Bid) -> Result<Claimed, Denied> {
        self.yields_to(bid)?;
        let claimed = self.terms(bid, epoch::after(self.newest_epoch(bid)));
        self.hand_over(bid, &claimed);
        Ok(claimed)
    }

    /// The same, by what is known of the row while the registry is away. It only lasts if [`BroadcastRow::claim`]
    /// says so later. Gop numbers go on from the seconds of the Unix epoch: nobody counts that fast.
    pub fn claim_provisionally(&mut self, bid: &Bid) -> Result<Claimed, Denied> {
        self.yields_to(bid)?;
        let mut claimed = self.terms(bid, epoch::provisional(self.newest_epoch(bid), &bid.life));
        if !self.is_what_the_hall_holds(bid) {
            let seconds = u64::try_from(bid.now_us / 1_000_000).unwrap_or_default();
            claimed.next_gop = claimed.next_gop.max(seconds);
        }
        self.hand_over(bid, &claimed);
        Ok(claimed)
    }

    /// Whether a claim would be granted.
    pub fn yields_to(&self, bid: &Bid) -> Result<(), Denied> {
        let held_elsewhere = self.status == BroadcastStatus::Broadcasting && self.owner.node != bid.life.node;
        match bid.ask {
            Ask::Enter(Takeover::Refuse) if held_elsewhere && !self.silent => Err(self.in_use()),
            Ask::Stay if held_elsewhere && self.epoch > bid.hall.map_or(0, |hall| hall.epoch) => {
                Err(Denied::Outrun { owner: self.owner.clone(), epoch: self.epoch })
            }
            // Its node was cut off, and thought dead, when an operator removed it.
            Ask::Stay if bid.hall.is_some_and(|hall| self.has_forgotten(hall.epoch)) => Err(Denied::Removed),
            Ask::Enter(_) | Ask::Stay => Ok(()),
        }
    }

    /// Whether it may be removed: only what is over is. A claim that comes first is met here, one that comes later finds no
    /// row.
    pub(super) fn may_be_removed(&self) -> Result<(), Denied> {
        if self.status == BroadcastStatus::Broadcasting { Err(self.in_use()) } else { Ok(()) }
    }

    fn in_use(&self) -> Denied {
        Denied::InUse { owner: self.owner.clone(), protocol: self.publish_type.clone(), remote: self.remote.clone() }
    }

    /// Whether the row that this claim was of, or was made after, was removed. A claim that was made without the registry, by a
    /// node that knew of no row, may be of a broadcast that began since: it is taken for that.
    pub fn has_forgotten(&self, epoch: u64) -> bool {
        let granted = epoch::granted(epoch);
        granted > 0 && granted <= self.floor
    }

    fn newest_epoch(&self, bid: &Bid) -> u64 {
        self.epoch.max(bid.hall.map_or(0, |hall| hall.epoch))
    }

    /// Nobody else has had the broadcast since: the hall knows its numbers exactly.
    fn is_what_the_hall_holds(&self, bid: &Bid) -> bool {
        bid.hall.is_some_and(|hall| hall.epoch >= self.epoch)
    }

    fn terms(&self, bid: &Bid, epoch: u64) -> Claimed {
        let goes_on = match self.ended_ms {
            Some(ended_ms) => bid.now_us / 1000 - ended_ms < RESUME_MS,
            None => self.status == BroadcastStatus::Broadcasting,
        };
        // Zero in rows of programs that did not know of it.
        let goes_on = goes_on && self.born_us != 0;
        // What lingers there may have been removed: that was another broadcast of this name.
        let (born_us, segment_target_s) = match bid.hall.filter(|hall| !self.has_forgotten(hall.epoch)) {
            Some(hall) if !goes_on || bid.ask == Ask::Stay => (hall.born_us, hall.segment_target_s),
            hall if goes_on => (self.born_us, self.segment_target_s.or(hall.and_then(|hall| hall.segment_target_s))),
            _ => (bid.now_us, None),
        };
        let break_between = u64::from(self.started_ms.is_some() || bid.hall.is_some());
        let (next_gop, discontinuity) = match (bid.hall, bid.ask) {
            // Its publisher goes on, and so do its numbers, unless somebody else has used them.
            (Some(hall), Ask::Stay)
                if self.is_what_the_hall_holds(bid)
                    && (epoch::is_same_grant(hall.epoch, self.epoch)
                        || (hall.next_gop >= self.next_gop && hall.discontinuity >= self.discontinuity)) =>
            {
                (hall.next_gop, hall.discontinuity)
            }
            (Some(hall), Ask::Enter(_)) if hall.epoch == self.epoch => {
                (hall.next_gop, hall.discontinuity + break_between)
            }
            (hall, _) => {
                let (gop, discontinuity) = hall.map_or((0, 0), |hall| (hall.next_gop, hall.discontinuity));
                (self.next_gop.max(gop), self.discontinuity.max(discontinuity) + break_between)
            }
        };
        Claimed { epoch, next_gop, discontinuity, born_us, segment_target_s }
    }

    fn hand_over(&mut self, bid: &Bid, claimed: &Claimed) {
        let began_us = match bid.hall {
            Some(hall) if bid.ask == Ask::Stay => hall.began_us,
            _ => bid.now_us,
        };
        let goes_on = self.status == BroadcastStatus::Broadcasting;
        self.epoch = claimed.epoch;
        self.owner = bid.life.clone();
        self.silent = false;
        self.born_us = claimed.born_us;
        self.segment_target_s = claimed.segment_target_s;
        self.status = BroadcastStatus::Broadcasting;
        self.publish_type = bid.publisher.protocol.to_owned();
        self.remote.clone_from(&bid.publisher.remote);
        self.agent.clone_from(&bid.publisher.agent);
        self.started_ms = Some(began_us / 1000);
        self.takes.begin(began_us / 1000);
        self.ended_ms = None;
        self.set_aside(claimed.next_gop, claimed.discontinuity, bid.now_us / 1000);
        self.webhook = bid.webhook;
        if !goes_on {
            self.note(began_us / 1000, Happening::LiveStreamStarted);
        }
    }

    /// False when another claim holds the row.
    pub(super) fn progress(&mut self, progress: &Progress, now_us: i64) -> bool {
        if !self.held_under(progress.epoch) {
            return false;
        }
        self.silent = progress.silent;
        self.segment_target_s = self.segment_target_s.or(progress.segment_target_s);
        self.set_aside(progress.next_gop, progress.discontinuity, now_us / 1000);
        true
    }

    /// False when another claim holds the row. Numbers are exact now, except that they never go back.
    pub(super) fn finish(&mut self, last: &Progress, ending: Ending, now_us: i64) -> bool {
        if !self.held_under(last.epoch) {
            return false;
        }
        self.segment_target_s = self.segment_target_s.or(last.segment_target_s);
        self.next_gop = last.next_gop.max(self.next_gop.saturating_sub(GOPS_AHEAD));
        self.discontinuity = last.discontinuity.max(self.discontinuity.saturating_sub(DISCONTINUITIES_AHEAD));
        self.end(ending, now_us / 1000);
        self.takes.end(now_us / 1000);
        true
    }

    pub(super) fn set_take(&mut self, take: &Take, on: Option<bool>, now_us: i64) -> Result<(), TooMany> {
        self.takes.switch(take, on, now_us / 1000)
    }

    /// For rows that a dead process left: nobody broadcasts when the registry is opened. The last sign of life is
    /// taken for the end. False when there is nothing to do.
    pub(super) fn orphaned(&mut self) -> bool {
        let orphaned = self.status == BroadcastStatus::Broadcasting;
        if orphaned {
            self.end(Ending::TerminatedUnexpectedly, self.updated_ms);
        }
        orphaned
    }

    /// For rows of a life that is over. The numbers that were set aside are taken for used. False when it does not hold
    /// the row (any more).
    pub(super) fn bury(&mut self, life: &Life, now_us: i64) -> bool {
        let held = self.held_by(life);
        if held {
            self.end(Ending::TerminatedUnexpectedly, now_us / 1000);
        }
        held
    }

    /// Whether this life of a node has it.
    pub fn held_by(&self, life: &Life) -> bool {
        self.status == BroadcastStatus::Broadcasting && self.owner == *life
    }

    fn end(&mut self, ending: Ending, now_ms: i64) {
        self.status = match ending {
            Ending::Finished => BroadcastStatus::Finished,
            Ending::TerminatedUnexpectedly => BroadcastStatus::TerminatedUnexpectedly,
        };
        self.silent = false;
        self.updated_ms = now_ms;
        self.ended_ms = Some(now_ms);
        self.note(now_ms, Happening::LiveStreamEnded { status: self.status });
    }

    /// Whether somebody is told what becomes of it.
    pub fn is_told(&self) -> bool {
        self.webhook || !self.details.listener_hook_url.is_empty()
    }

    fn note(&mut self, at_ms: i64, what: Happening) {
        if self.is_told() {
            self.events.push(Event::of_broadcast(self, at_ms, what));
        }
    }

    fn held_under(&self, epoch: u64) -> bool {
        self.epoch == epoch && self.status == BroadcastStatus::Broadcasting
    }

    fn set_aside(&mut self, next_gop: u64, discontinuity: u64, now_ms: i64) {
        let ahead = Ahead::of(next_gop, discontinuity);
        self.next_gop = self.next_gop.max(ahead.next_gop);
        self.discontinuity = self.discontinuity.max(ahead.discontinuity);
        self.updated_ms = now_ms;
    }
}
