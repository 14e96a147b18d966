//! Everything that this node knows of the others: who is there, what is live where, who watches how much. Pure.
//!
//! In: what nodes say of themselves, directly or passed on by others; what a shared registry says of those that say nothing
//! ([`Judged`]); links that broke; the time. Out: where a broadcast is;
//! what changed since a reader last looked. A node alone speaks about itself and about the broadcasts that it holds; the
//! others pass that on with how long ago they heard it, and of two statements of one node the later one counts, whichever
//! way it came. So nobody's order of hearing matters, and nobody can vouch for a dead node: its age stands still, and
//! its last word is as old for who hears it last as for who heard it first.
//!
//! What follows from death is never said, it is concluded here: a broadcast of a dead owner, or of an earlier life of
//! its owner, is terminated, and live again if the owner was merely cut off. Deliberately absent: sockets, and the
//! registry, which decides who may hold a broadcast.

#[cfg(test)]
mod tests;
mod verdicts;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::{Duration, Instant},
};

use super::{
    facts::{Health, Known, Located, NodeFacts, Statement, Status},
    identity::{Identity, NodeId},
};
use crate::{audience::Viewers, live::BroadcastId, node::Phase};

pub use verdicts::Judged;

/// A node that nobody has heard for this long is dead.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(3);
/// How long dead nodes, and those that left, stay in the list.
const LISTED_FOR: Duration = Duration::from_secs(600);
/// How long it is known that a broadcast ended; longer than a hub keeps one.
const ENDED_FOR: Duration = Duration::from_secs(120);
/// Nobody is judged after a pause of our own: it is we who did not listen.
const TICK_MAX: Duration = Duration::from_secs(2);

/// What others pass on of a suspect is a sign of life if it was said so much later: news lie in buffers.
const HEARSAY_LATE_MAX: Duration = Duration::from_millis(500);

/// Another node, and when it last gave a sign of life.
#[derive(Debug)]
struct Neighbour {
    facts: NodeFacts,
    health: Health,
    /// It speaks to us itself.
    linked: bool,
    /// Since when it is suspect: what it said before proves nothing, whoever passes it on.
    doubted: Option<Instant>,
    /// By an operator's order; a sign of life takes it back.
    removed: bool,
    /// The last sign of life, then the end.
    since: Instant,
    version: u64,
}

#[derive(Debug)]
struct Told {
    statement: Statement,
    since: Instant,
    version: u64,
}

/// Whether readers should look at once, or may do so when they do anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    #[default]
    Nothing,
    /// Loads and ages.
    Small,
    Great,
}

/// What changed since a reader last looked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Update {
    pub(super) nodes: Vec<Known>,
    pub(super) removed: Vec<NodeId>,
    pub(super) statements: Vec<Statement>,
}

#[derive(Debug)]
pub(super) struct View {
    me: NodeFacts,
    me_version: u64,
    nodes: BTreeMap<NodeId, Neighbour>,
    /// By broadcast and owner.
    statements: BTreeMap<BroadcastId, BTreeMap<NodeId, Told>>,
    audiences: BTreeMap<BroadcastId, BTreeMap<NodeId, Viewers>>,
    version: u64,
    ticked: Option<Instant>,
    /// By node, as they stood in the registry when it was read last.
    beats: BTreeMap<NodeId, u64>,
}

impl Neighbour {
    fn new(facts: NodeFacts, health: Health, since: Instant, version: u64) -> Self {
        Self { facts, health, linked: false, doubted: None, removed: false, since, version }
    }

    fn known(&self, now: Instant) -> Known {
        let silent = now.saturating_duration_since(self.since);
        Known { facts: self.facts.clone(), health: self.health, silent }
    }
}

impl View {
    pub(super) fn new(me: NodeFacts) -> Self {
        let (nodes, statements, audiences, beats) = Default::default();
        Self { me, me_version: 1, nodes, statements, audiences, version: 1, ticked: None, beats }
    }

    pub(super) fn me(&self) -> &NodeFacts {
        &self.me
    }

    /// An origin that is none of this cluster: what it lets in, another origin may let in as well.
    pub(super) fn is_foreign(&self, facts: &NodeFacts) -> bool {
        self.me.registry.is_another_than(&facts.registry)
    }

    /// Another node that is there and keeps another registry than this one.
    pub(super) fn stranger(&self, facts: &NodeFacts) -> Option<&NodeFacts> {
        let is_stranger = |(known, health): &(&NodeFacts, Health)| {
            health.is_there() && known.id() != facts.id() && known.registry.is_another_than(&facts.registry)
        };
        self.nodes().find(is_stranger).map(|(known, _)| known)
    }

    /// What this node says of itself from now on.
    pub(super) fn describe(&mut self, me: NodeFacts) -> Change {
        let change = if me.phase == self.me.phase { Change::Small } else { Change::Great };
        self.me = me;
        self.version += 1;
        self.me_version = self.version;
        change
    }

    /// What this node says of a broadcast that it holds or held.
    pub(super) fn state(&mut self, broadcast: BroadcastId, epoch: u64, status: Status, now: Instant) -> Change {
        let owner = self.me.identity.clone();
        self.note(Statement { broadcast, owner, epoch, status }, now)
    }

    /// What another node says of itself, over a link with it.
    pub(super) fn hear_itself(&mut self, facts: NodeFacts, now: Instant) -> Change {
        self.hear(Known::direct(facts), true, now)
    }

    /// What somebody passes on of another node, and thinks of it.
    pub(super) fn hear_of(&mut self, known: Known, now: Instant) -> Change {
        self.hear(known, false, now)
    }

    fn hear(&mut self, Known { facts, health, silent }: Known, is_itself: bool, now: Instant) -> Change {
        if facts.id() == self.me.id() || self.is_foreign(&facts) {
            return Change::Nothing;
        }
        // What the news took to get here is not known, and short.
        let said = now.checked_sub(silent.min(LISTED_FOR)).unwrap_or(now);
        let health = if health.is_there() && silent >= DEAD_AFTER { facts.end() } else { health };
        self.version += 1;
        let version = self.version;
        let doubted = (health == Health::Suspect).then_some(now);
        let heard = |facts| Neighbour { linked: is_itself, doubted, ..Neighbour::new(facts, health, said, version) };
        let known = match self.nodes.entry(facts.id().clone()) {
            Entry::Vacant(entry) => {
                entry.insert(heard(facts));
                return Change::Great;
            }
            Entry::Occupied(entry) => entry.into_mut(),
        };
        if !health.is_there() {
            // Of a node that we know ourselves we judge ourselves, but for a life that we have missed.
            let missed = facts.identity.incarnation > known.facts.identity.incarnation;
            if missed {
                *known = heard(facts);
            }
            return if missed { Change::Great } else { Change::Nothing };
        }
        let life = |facts: &NodeFacts| (facts.identity.incarnation, facts.age);
        if life(&facts) <= life(&known.facts) {
            // Its last word is known, and that nothing followed is not.
            let is_doubt = health == Health::Suspect && life(&facts) == life(&known.facts);
            if !is_doubt || known.linked || known.health != Health::Alive {
                return Change::Nothing;
            }
            (known.health, known.doubted, known.version) = (health, doubted, version);
            return Change::Great;
        }
        let before = &known.facts;
        let is_same = (&facts.identity, facts.phase, &facts.grpc, &facts.http)
            == (&before.identity, before.phase, &before.grpc, &before.http);
        let mut heard = heard(facts);
        if known.facts.identity == heard.facts.identity && known.health.is_there() {
            heard.since = said.max(known.since);
            if !is_itself {
                heard.linked = known.linked;
                let is_doubted = known.doubted.is_some_and(|doubted| said < doubted + HEARSAY_LATE_MAX);
                (heard.health, heard.doubted) = match (known.health, health) {
                    _ if known.linked => (known.health, known.doubted),
                    (Health::Suspect, _) if is_doubted => (Health::Suspect, known.doubted),
                    (_, told) => (told, doubted),
                };
            }
        }
        let is_small = is_same && known.health == heard.health;
        *known = heard;
        if is_small { Change::Small } else { Change::Great }
    }

    /// What a node says of a broadcast, whoever passed it on. Nobody but this node itself speaks for it.
    pub(super) fn hear_statement(&mut self, statement: Statement, now: Instant) -> Change {
        let owner = &statement.owner.id;
        if owner == self.me.id() || !self.nodes.contains_key(owner) {
            return Change::Nothing;
        }
        self.note(statement, now)
    }

    fn note(&mut self, statement: Statement, now: Instant) -> Change {
        let owners = self.statements.entry(statement.broadcast.clone()).or_default();
        if owners.get(&statement.owner.id).is_some_and(|told| !statement.is_later_than(&told.statement)) {
            return Change::Nothing;
        }
        self.version += 1;
        let told = Told { since: now, version: self.version, statement };
        owners.insert(told.statement.owner.id.clone(), told);
        Change::Great
    }

    /// How many watch on a node. `all`: what it does not name now, nobody watches there.
    pub(super) fn hear_audiences(&mut self, node: &NodeId, audiences: Vec<(BroadcastId, Viewers)>, all: bool) {
        if all {
            self.forget_audiences(node);
        }
        for (id, viewers) in audiences {
            let by_node = self.audiences.entry(id.clone()).or_default();
            if viewers == Viewers::default() {
                by_node.remove(node);
            } else {
                by_node.insert(node.clone(), viewers);
            }
            if by_node.is_empty() {
                self.audiences.remove(&id);
            }
        }
    }

    fn forget_audiences(&mut self, node: &NodeId) {
        self.audiences.retain(|_, by_node| {
            by_node.remove(node);
            !by_node.is_empty()
        });
    }

    /// Our link with this life of a node broke.
    pub(super) fn lost(&mut self, identity: &Identity, now: Instant) -> Change {
        let Some(known) = self.nodes.get_mut(&identity.id) else { return Change::Nothing };
        if known.facts.identity.incarnation != identity.incarnation {
            return Change::Nothing;
        }
        (known.linked, known.doubted) = (false, Some(now));
        if known.health != Health::Alive {
            return Change::Nothing;
        }
        let left = known.facts.phase == Phase::Stopping;
        known.health = if left { Health::Left } else { Health::Suspect };
        self.version += 1;
        known.version = self.version;
        if left {
            known.since = now;
            self.forget_audiences(&identity.id);
        }
        Change::Great
    }

    /// An operator takes a node out of the list, here or elsewhere. False when it is there, or not known.
    pub(super) fn remove(&mut self, id: &NodeId) -> bool {
        let Some(known) = self.nodes.get_mut(id) else { return false };
        if known.health.is_there() || known.removed {
            return false;
        }
        known.removed = true;
        self.version += 1;
        known.version = self.version;
        true
    }

    /// Time passes. To be called a few times a second.
    pub(super) fn tick(&mut self, now: Instant) -> Change {
        let paused = self.ticked.replace(now).is_some_and(|last| now.saturating_duration_since(last) > TICK_MAX);
        let mut change = Change::Nothing;
        let mut gone = Vec::new();
        for (id, known) in &mut self.nodes {
            let silent = now.saturating_duration_since(known.since);
            match known.health {
                Health::Alive | Health::Suspect if paused => known.since = now,
                Health::Alive | Health::Suspect if silent >= DEAD_AFTER => {
                    known.health = known.facts.end();
                    (known.since, known.linked, known.doubted) = (now, false, None);
                    self.version += 1;
                    known.version = self.version;
                    change = Change::Great;
                    gone.push(id.clone());
                }
                _ => {}
            }
        }
        gone.iter().for_each(|id| self.forget_audiences(id));
        self.nodes
            .retain(|_, known| known.health.is_there() || now.saturating_duration_since(known.since) < LISTED_FOR);
        let (nodes, me) = (&self.nodes, &self.me);
        self.statements.retain(|_, owners| {
            owners.retain(|owner, told| {
                let known = owner == me.id() || nodes.contains_key(owner);
                let stands = !told.statement.status.has_ended();
                known && (stands || now.saturating_duration_since(told.since) < ENDED_FOR)
            });
            !owners.is_empty()
        });
        change
    }

    /// Every other node that was not removed.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&NodeFacts, Health)> {
        self.listed().map(|neighbour| (&neighbour.facts, neighbour.health))
    }

    /// This node, and every other one that was not removed.
    pub(super) fn list(&self, now: Instant) -> Vec<Known> {
        let me = Known::direct(self.me.clone());
        std::iter::once(me).chain(self.listed().map(|neighbour| neighbour.known(now))).collect()
    }

    fn listed(&self) -> impl Iterator<Item = &Neighbour> {
        self.nodes.values().filter(|neighbour| !neighbour.removed)
    }

    pub(super) fn node(&self, id: &NodeId) -> Option<(&NodeFacts, Health)> {
        self.nodes.get(id).filter(|known| !known.removed).map(|known| (&known.facts, known.health))
    }

    /// Where a broadcast is: with the owner of the newest claim, be it over or not.
    pub(super) fn locate(&self, id: &BroadcastId) -> Option<Located> {
        let owners = self.statements.get(id)?.values();
        let seen = owners.map(|told| {
            let Statement { owner, epoch, .. } = &told.statement;
            Located { owner: owner.id.clone(), epoch: *epoch, status: self.conclude(&told.statement) }
        });
        // No two claims have the same epoch, but for registries that are not one.
        seen.max_by_key(|located| (located.epoch, std::cmp::Reverse(located.status), located.owner.clone()))
    }

    /// All broadcasts that are known, with where they are.
    pub(super) fn broadcasts(&self) -> impl Iterator<Item = (&BroadcastId, Located)> {
        self.statements.keys().filter_map(|id| Some((id, self.locate(id)?)))
    }

    fn conclude(&self, statement: &Statement) -> Status {
        let Statement { owner, status, .. } = statement;
        if status.has_ended() || *owner == self.me.identity {
            return *status;
        }
        match self.nodes.get(&owner.id) {
            Some(known) if known.facts.identity == *owner && known.health.is_there() => *status,
            Some(known) if known.facts.identity == *owner && known.health == Health::Left => Status::Finished,
            _ => Status::Terminated,
        }
    }

    /// How many watch on all nodes together.
    pub(super) fn viewers(&self, id: &BroadcastId) -> Viewers {
        let by_node = self.audiences.get(id).into_iter().flatten();
        by_node.fold(Viewers::default(), |sum, (_, viewers)| Viewers {
            webrtc: sum.webrtc + viewers.webrtc,
            hls: sum.hls + viewers.hls,
        })
    }

    /// What changed since version `told`, and the version that the reader then knows; everything since 0. A reader that
    /// comes seldom gets the newest of everything, not what was in between.
    pub(super) fn update(&self, told: u64, now: Instant) -> (Update, u64) {
        let mut update = Update::default();
        if self.me_version > told {
            update.nodes.push(Known::direct(self.me.clone()));
        }
        for known in self.nodes.values().filter(|known| known.version > told) {
            if known.removed {
                update.removed.push(known.facts.id().clone());
            } else {
                update.nodes.push(known.known(now));
            }
        }
        let statements = self.statements.values().flat_map(BTreeMap::values);
        update.statements.extend(statements.filter(|told_of| told_of.version > told).map(|t| t.statement.clone()));
        (update, self.version)
    }
}
