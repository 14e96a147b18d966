//! What a shared registry says of nodes, for those that no link tells of: who died before anybody here heard of them, who
//! lives and can't be reached, whose row an operator took away. Pure.
//!
//! In: all rows of a look, with what follows from their beats. Out: the view's nodes. Who is heard speaks for itself, and
//! the registry is not asked about it.

use std::time::{Duration, Instant};

use super::{Change, LISTED_FOR, Neighbour, View};
use crate::{
    cluster::facts::{Health, NodeFacts},
    registry::Verdict,
};

/// A node by its row.
#[derive(Clone, Debug)]
pub struct Judged {
    /// As of the row: neither load nor age are known.
    pub facts: NodeFacts,
    pub verdict: Verdict,
    pub beat: u64,
    /// Since it was written.
    pub silent: Duration,
}

impl View {
    /// To be called with all rows each time the registry was read.
    pub(in crate::cluster) fn judge(&mut self, rows: Vec<Judged>, now: Instant) -> Change {
        let beats = rows.iter().map(|row| (row.facts.identity.id.clone(), row.beat)).collect();
        let before = std::mem::replace(&mut self.beats, beats);
        let mut change = Change::Nothing;
        for row in rows {
            let has_beaten = before.get(row.facts.id()).is_some_and(|beat| *beat != row.beat);
            change = change.max(self.judge_one(row, has_beaten, now));
        }
        let gone: Vec<_> = before.into_keys().filter(|id| !self.beats.contains_key(id)).collect();
        for id in gone {
            if self.remove(&id) {
                change = Change::Great;
            }
        }
        change
    }

    fn judge_one(&mut self, row: Judged, has_beaten: bool, now: Instant) -> Change {
        let Judged { facts, verdict, silent, .. } = row;
        if facts.id() == self.me.id() || self.is_foreign(&facts) || verdict == Verdict::Unknown {
            return Change::Nothing;
        }
        let is_dead = verdict == Verdict::Dead;
        let ended = facts.end();
        let version = self.version + 1;
        let id = facts.id().clone();
        let change = match self.nodes.get_mut(&id) {
            Some(known) if known.facts.identity.incarnation > facts.identity.incarnation => Change::Nothing,
            Some(known) if known.facts.identity == facts.identity => match known.health {
                Health::Suspect if is_dead => {
                    (known.health, known.since, known.version) = (ended, now, version);
                    Change::Great
                }
                // It lives, though nobody here hears it. Its age stays: nobody else is to think that it was heard.
                Health::Suspect | Health::Dead if has_beaten => {
                    let is_news = known.health == Health::Dead || known.facts.phase != facts.phase;
                    known.facts.phase = facts.phase;
                    (known.health, known.since) = (Health::Suspect, now);
                    if is_news {
                        known.version = version;
                        Change::Great
                    } else {
                        Change::Nothing
                    }
                }
                _ => Change::Nothing,
            },
            // The row outlasts the list.
            _ if is_dead && silent >= LISTED_FOR => Change::Nothing,
            _ => {
                let (health, since) = match is_dead {
                    true => (ended, now.checked_sub(silent).unwrap_or(now)),
                    false => (Health::Suspect, now),
                };
                self.nodes.insert(id.clone(), Neighbour::new(facts, health, since, version));
                Change::Great
            }
        };
        if change != Change::Nothing {
            self.version = version;
        }
        if is_dead && change == Change::Great {
            self.forget_audiences(&id);
        }
        change
    }
}
