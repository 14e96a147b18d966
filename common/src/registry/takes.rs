//! Which recordings of a broadcast are to go on side by side. In: what its application records, what operators ask for
//! and against, and how the broadcast goes on. Out: the takes that are wanted. What was asked for is kept in the
//! broadcast's row: it outlives the process, and goes on wherever the publisher comes back to. Deliberately absent: the
//! one recording of the source that the row's `record_override` decides about, and whether a take is possible now. Pure.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use super::broadcast::RESUME_MS;

/// Each is a thread and files of its own, and maybe an encoder.
const ASKED_FOR_MAX: usize = 8;

/// One recording of a broadcast, beside others. By default: the one of the source, called after the stream. Kept under the
/// names that REST has for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Take {
    /// Of the rendition that is recorded instead of the source.
    #[serde(rename = "resolutionHeight")]
    pub height: Option<u32>,
    /// What the operator calls its files, without the ending, instead of the stream's id.
    #[serde(rename = "fileName")]
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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Asked {
    #[serde(flatten)]
    pub(super) take: Take,
    /// Or against it, where the application's setting records it.
    #[serde(rename = "recording")]
    pub(super) on: bool,
}

/// What was asked for and against.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Takes {
    pub(super) asked: Vec<Asked>,
    /// The broadcast is over, and the next one of its name is another if it comes later than this. A node that died has
    /// ended nothing: what was asked for then waits for the publisher's return.
    pub(super) until_ms: Option<i64>,
}

impl Takes {
    /// `None` leaves it to the application's setting.
    pub(super) fn switch(&mut self, take: &Take, on: Option<bool>, now_ms: i64) -> Result<(), TooMany> {
        self.forget_if_over(now_ms);
        let asked_for = self.asked.iter().filter(|asked| asked.on && asked.take != *take).count();
        if on == Some(true) && asked_for >= ASKED_FOR_MAX {
            return Err(TooMany);
        }
        self.asked.retain(|asked| asked.take != *take);
        self.asked.extend(on.map(|on| Asked { take: take.clone(), on }));
        Ok(())
    }

    /// A publisher has the broadcast since then.
    pub(super) fn begin(&mut self, began_ms: i64) {
        self.forget_if_over(began_ms);
        self.until_ms = None;
    }

    pub(super) fn end(&mut self, ended_ms: i64) {
        self.until_ms = Some(ended_ms + RESUME_MS);
    }

    fn forget_if_over(&mut self, now_ms: i64) {
        if self.until_ms.is_some_and(|until_ms| now_ms >= until_ms) {
            *self = Self::default();
        }
    }

    /// `record` says whether the broadcast as such is recorded, which its renditions follow; `by_setting` are the heights
    /// that the application records with it.
    pub fn wanted(&self, record: bool, by_setting: &[u32]) -> BTreeSet<Take> {
        let mut wanted = BTreeSet::new();
        if record {
            wanted.insert(Take::default());
            wanted.extend(by_setting.iter().map(|&height| Take { height: Some(height), name: None }));
        }
        for Asked { take, on } in &self.asked {
            if *on {
                wanted.insert(take.clone());
            } else {
                wanted.remove(take);
            }
        }
        wanted
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
        let mut takes = Takes::default();
        let wanted = |takes: &Takes, record| takes.wanted(record, &[480, 240]).into_iter().collect::<Vec<_>>();
        assert_eq!(wanted(&takes, false), []);
        assert_eq!(wanted(&takes, true), [take(0, ""), take(240, ""), take(480, "")]);
        for asked_for in [take(0, "a"), take(0, "b"), take(240, "b")] {
            takes.switch(&asked_for, Some(true), 1).unwrap();
        }
        takes.switch(&take(480, ""), Some(false), 2).unwrap();
        let rest = [take(0, ""), take(0, "a"), take(0, "b"), take(240, ""), take(240, "b")];
        assert_eq!(wanted(&takes, true), rest);
        takes.switch(&take(0, "b"), None, 3).unwrap();
        assert_eq!(wanted(&takes, false), [take(0, "a"), take(240, "b")]);
    }

    #[test]
    fn nobody_fills_the_memory_by_asking() {
        let mut takes = Takes::default();
        for n in 0..ASKED_FOR_MAX {
            takes.switch(&take(0, &format!("n{n}")), Some(true), 1).unwrap();
        }
        assert_eq!(takes.switch(&take(0, "more"), Some(true), 1), Err(TooMany));
        assert_eq!(takes.switch(&take(0, "n1"), Some(true), 1), Ok(()), "it is there already");
        assert_eq!(takes.asked.len(), ASKED_FOR_MAX);
        takes.switch(&take(0, "n1"), None, 1).unwrap();
        takes.switch(&take(0, "more"), Some(true), 1).unwrap();
        assert_eq!(takes.asked.len(), ASKED_FOR_MAX);
    }

    #[test]
    fn what_was_asked_for_ends_with_the_broadcast_and_not_with_its_node() {
        let (mut takes, a, b) = (Takes::default(), take(0, "a"), take(0, "b"));
        let names =
            |takes: &Takes| takes.wanted(false, &[]).into_iter().filter_map(|take| take.name).collect::<String>();
        takes.switch(&a, Some(true), 1_000).unwrap();
        // Long before anybody publishes, and after a death that ended nothing.
        for began_ms in [9_000_000, 99_000_000] {
            takes.begin(began_ms);
            assert_eq!(names(&takes), "a");
        }
        takes.end(100_000_000);
        takes.begin(100_000_000 + RESUME_MS - 1);
        assert_eq!(names(&takes), "a", "its publisher came back in time");
        takes.end(200_000_000);
        takes.switch(&b, Some(true), 200_000_000 + RESUME_MS).unwrap();
        assert_eq!(names(&takes), "b", "asked for a broadcast that is still to come");
        takes.begin(300_000_000);
        assert_eq!(names(&takes), "b");
        takes.end(400_000_000);
        takes.begin(400_000_000 + RESUME_MS);
        assert_eq!(takes, Takes::default(), "another broadcast");
    }
}
