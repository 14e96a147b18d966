//! Which recordings of a broadcast are to go on side by side. In: what its application records, and what operators ask for
//! and against. Out: the takes that are wanted. A restart forgets what was asked for, except whether the broadcast as such is
//! recorded, which its row knows. Deliberately absent: whether a take is possible now. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use headwater_common::live::BroadcastId;

/// Each is a thread and files of its own, and maybe an encoder.
const ASKED_FOR_MAX: usize = 8;

/// One recording of a broadcast, beside others. By default: the one of the source, called after the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Take {
    /// Of the rendition that is recorded instead of the source.
    pub height: Option<u32>,
    /// What the operator calls its files, without the ending, instead of the stream's id.
    pub name: Option<String>,
}

impl fmt::Display for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.height {
            Some(height) => write!(f, "{height}p")?,
            None => f.write_str("source")?,
        }
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " as {name:?}"))
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{ASKED_FOR_MAX} recordings of it were asked for already, stop one of them")]
pub struct TooMany;

/// What was asked for and against. It grows with the broadcasts that the registry knows, by a bounded amount each.
#[derive(Debug, Default)]
pub(super) struct Takes {
    said: BTreeMap<BroadcastId, BTreeMap<Take, bool>>,
}

impl Takes {
    /// `by_setting` are the heights that the application records anyway: only there a refusal has to be remembered.
    pub(super) fn say(&mut self, id: &BroadcastId, take: Take, on: bool, by_setting: &[u32]) -> Result<(), TooMany> {
        let said = self.said.entry(id.clone()).or_default();
        let asked_for = said.iter().filter(|(other, on)| **on && **other != take).count();
        if on && asked_for >= ASKED_FOR_MAX {
            return Err(TooMany);
        }
        if on || (take.name.is_none() && take.height.is_some_and(|height| by_setting.contains(&height))) {
            said.insert(take, on);
        } else {
            said.remove(&take);
        }
        if said.is_empty() {
            self.said.remove(id);
        }
        Ok(())
    }

    /// `record` says whether the broadcast as such is recorded, which its renditions follow.
    pub(super) fn wanted(&self, id: &BroadcastId, record: bool, by_setting: &[u32]) -> BTreeSet<Take> {
        let mut wanted = BTreeSet::new();
        if record {
            wanted.insert(Take::default());
            wanted.extend(by_setting.iter().map(|&height| Take { height: Some(height), name: None }));
        }
        for (take, on) in self.said.get(id).into_iter().flatten() {
            if *on {
                wanted.insert(take.clone());
            } else {
                wanted.remove(take);
            }
        }
        wanted
    }

    /// The broadcast is over, and the next one of its name is another.
    pub(super) fn forget(&mut self, id: &BroadcastId) {
        self.said.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(height: u32, name: &str) -> Take {
        let given = (height > 0, !name.is_empty());
        Take { height: given.0.then_some(height), name: given.1.then(|| name.to_owned()) }
    }

    #[test]
    fn one_is_stopped_and_the_others_go_on() {
        let (mut takes, id) = (Takes::default(), BroadcastId::new("live", "x").unwrap());
        let wanted = |takes: &Takes, record| takes.wanted(&id, record, &[480, 240]).into_iter().collect::<Vec<_>>();
        assert_eq!(wanted(&takes, false), []);
        assert_eq!(wanted(&takes, true), [take(0, ""), take(240, ""), take(480, "")]);
        for asked_for in [take(0, "a"), take(0, "b"), take(240, "b")] {
            takes.say(&id, asked_for, true, &[480, 240]).unwrap();
        }
        takes.say(&id, take(480, ""), false, &[480, 240]).unwrap();
        let rest = [take(0, ""), take(0, "a"), take(0, "b"), take(240, ""), take(240, "b")];
        assert_eq!(wanted(&takes, true), rest);
        takes.say(&id, take(0, "b"), false, &[480, 240]).unwrap();
        assert_eq!(wanted(&takes, false), [take(0, "a"), take(240, "b")]);
        takes.forget(&id);
        assert_eq!(wanted(&takes, true).len(), 3);
    }

    #[test]
    fn nobody_fills_the_memory_by_asking() {
        let (mut takes, id) = (Takes::default(), BroadcastId::new("live", "x").unwrap());
        for n in 0..ASKED_FOR_MAX {
            takes.say(&id, take(0, &format!("n{n}")), true, &[]).unwrap();
        }
        assert_eq!(takes.say(&id, take(0, "more"), true, &[]), Err(TooMany));
        assert_eq!(takes.say(&id, take(0, "n1"), true, &[]), Ok(()), "it is there already");
        for n in 0..1_000 {
            takes.say(&id, take(n, &format!("n{n}")), false, &[]).unwrap();
            takes.say(&id, take(n, ""), false, &[]).unwrap();
        }
        assert_eq!(takes.said[&id].len(), ASKED_FOR_MAX - 1);
    }
}
