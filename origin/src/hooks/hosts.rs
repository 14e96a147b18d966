//! How those behave who are told, by host. In: who is asked now, and how it went. Out: whether to ask a host now or when, and
//! whether a failure is worth a line in the log. One that does not answer at all is left alone for longer and longer, up to
//! a minute, with all that is to be told it; one that answers badly is not: the next broadcast may be welcome there. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::pause::pause;

/// Requests to one host at the same time.
const AT_ONCE: usize = 8;
/// Without an answer, in a row.
const SILENT_MAX: u32 = 3;
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How soon one that has enough to do may be asked for more.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// The same failure of the same host is said once in so long.
const SAID_EVERY: Duration = Duration::from_secs(600);
/// Beyond that, those that are not asked now are forgotten: they begin with a clean slate.
const KNOWN_MAX: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Hosts {
    known: BTreeMap<String, Host>,
}

#[derive(Debug, Default)]
struct Host {
    running: usize,
    /// Requests in a row that were not answered.
    silent: u32,
    /// Not to be asked before.
    rests_until: Option<Instant>,
    failing: bool,
    /// What was said of it in the log, and when.
    said: BTreeMap<String, Instant>,
}

impl Hosts {
    /// A request to it begins, or may begin then.
    pub(super) fn begin(&mut self, name: &str, now: Instant) -> Result<(), Instant> {
        if self.known.len() >= KNOWN_MAX {
            self.known.retain(|_, host| host.running > 0);
        }
        let host = self.known.entry(name.to_owned()).or_default();
        if let Some(rests_until) = host.rests_until.filter(|until| now < *until) {
            return Err(rests_until);
        }
        // The first after a rest is alone: it shows how the host is now.
        let at_once = if host.silent >= SILENT_MAX { 1 } else { AT_ONCE };
        if host.running >= at_once {
            return Err(now + BUSY_FOR);
        }
        host.running += 1;
        Ok(())
    }

    pub(super) fn ended(&mut self, name: &str) {
        if let Some(host) = self.known.get_mut(name) {
            host.running -= 1;
            if host.running == 0 && !host.failing {
                self.known.remove(name);
            }
        }
    }

    /// It took something in. True when it did not before.
    pub(super) fn took(&mut self, name: &str) -> bool {
        let Some(host) = self.known.get_mut(name) else { return false };
        (host.silent, host.rests_until) = (0, None);
        std::mem::take(&mut host.failing)
    }

    /// `answered`: badly, but it did. True when that is worth a line. `chance` is anything.
    pub(super) fn failed(&mut self, name: &str, problem: &str, answered: bool, now: Instant, chance: u32) -> bool {
        let Some(host) = self.known.get_mut(name) else { return false };
        host.failing = true;
        host.silent = if answered { 0 } else { host.silent.saturating_add(1) };
        if let Some(more) = host.silent.checked_sub(SILENT_MAX) {
            host.rests_until = Some(now + pause(more + 2, chance).min(SILENCE_MAX));
        }
        host.said.retain(|_, said| now - *said < SAID_EVERY);
        let is_news = !host.said.contains_key(problem);
        if is_news {
            host.said.insert(problem.to_owned(), now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_gets_so_many_requests_at_once_and_others_are_not_touched() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        for _ in 0..AT_ONCE {
            assert_eq!(hosts.begin("a", now), Ok(()));
        }
        assert_eq!(hosts.begin("a", now), Err(now + BUSY_FOR));
        assert_eq!(hosts.begin("b", now), Ok(()));
        hosts.ended("a");
        assert_eq!(hosts.begin("a", now), Ok(()));
        (0..AT_ONCE).for_each(|_| hosts.ended("a"));
        hosts.ended("b");
        assert!(hosts.known.is_empty(), "nothing is kept of those that behave");
    }

    #[test]
    fn one_that_is_silent_is_left_alone_and_asked_once_and_one_that_answers_is_not() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        let fail = |hosts: &mut Hosts, answered, at| {
            hosts.begin("a", at).unwrap();
            let said = hosts.failed("a", if answered { "answered 500" } else { "no answer" }, answered, at, u32::MAX);
            hosts.ended("a");
            said
        };
        assert_eq!(
            [true, true, true, true].map(|answered| fail(&mut hosts, answered, now)),
            [true, false, false, false]
        );
        assert_eq!([false, false].map(|answered| fail(&mut hosts, answered, now)), [true, false]);
        assert_eq!(hosts.begin("a", now), Ok(()), "twice is no habit");
        assert!(!hosts.failed("a", "no answer", false, now, u32::MAX));
        hosts.ended("a");
        let rests_until = hosts.begin("a", now).unwrap_err();
        assert_eq!(rests_until, now + Duration::from_secs(4));
        assert_eq!(hosts.begin("a", rests_until), Ok(()));
        assert_eq!(hosts.begin("a", rests_until), Err(rests_until + BUSY_FOR), "one shows how it is");
        assert!(hosts.took("a") && !hosts.took("a"), "said once");
        assert_eq!(hosts.begin("a", rests_until), Ok(()));
        for _ in 0..50 {
            hosts.failed("a", "no answer", false, now, u32::MAX);
        }
        assert_eq!(hosts.begin("a", now), Err(now + SILENCE_MAX));
        assert!(hosts.failed("a", "no answer", false, now + SAID_EVERY, 0), "said again");
    }
}
