//! Tells whoever wants to know what becomes of broadcasts: Ant Media's webhooks, at least once and in order.
//!
//! In: the registry's mailboxes, which survive this process. Out: POST requests. Any node that shares the registry may tell
//! what another one has written down: a mailbox that is due is taken for a while by one of them, and is due again if that
//! one dies. What a host does not take in is tried again, at longer and longer intervals, for a day. Requests are bounded in
//! time, in number, and by host, so that one that is slow holds up nobody else. Deliberately absent: what is to be told, which
//! the rows decide as they change, and any way from here to a stream.

mod hosts;
mod letter;
mod post;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{body::Bytes, http::Uri};
use headwater_common::{
    chance::{a_part_of, entropy},
    clock,
    config::{App, Config},
    live::BroadcastId,
    registry::{Event, Mailbox, Registry, RegistryError, Turn},
    telemetry::Door,
};
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    membership::Membership,
    pause::{pause, sleep_until},
};
use hosts::Hosts;
use post::Post;

/// How often somebody looks for what others left behind, also in rows, when they died: up to half of that later, so that
/// nodes that began together look at different times. What this node writes wakes it, and what is to be tried again is
/// known from the last look.
const LOOK_EVERY: Duration = Duration::from_secs(12);
/// After a look that came to nothing.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Nodes that wait for the same mailbox look for it at different times: up to that much late.
const LATE_MAX: Duration = Duration::from_millis(500);
/// A mailbox is left to who took it for so long: longer than one request takes.
const TAKEN_MS: i64 = 20_000;
const GIVEN_UP_AFTER_MS: i64 = 24 * 3_600_000;
/// Until the end of a broadcast is written, which is told first.
const REST_MS: i64 = 1_000;
/// Requests at the same time, to all hosts together. A few kilobytes each.
const AT_ONCE: usize = 128;
/// Mailboxes that are looked at together.
const PAGE: usize = 256;
/// How long the end of the process waits until what it has ended is told. The rest is told by other nodes, or the next start.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct Hooks {
    /// By application.
    addressees: BTreeMap<String, Addressee>,
    registry: Arc<dyn Registry>,
    /// Where nodes share the registry.
    membership: Option<Membership>,
    door: Door,
    post: Post,
    hosts: Mutex<Hosts>,
}

/// Who is told of an application's broadcasts, unless one has a webhook of its own.
struct Addressee {
    url: String,
    key: Option<Vec<u8>>,
}

/// Where one event goes.
struct Destination {
    url: String,
    /// Host and port: the rest of an address may be a secret.
    host: String,
}

/// What a look has found.
struct Found {
    visits: Vec<Visit>,
    /// How long it is until another one is due.
    due_after: Option<Duration>,
}

/// One host is asked to take in what became of one broadcast. It has its place at the host until it is dropped.
struct Visit {
    hooks: Arc<Hooks>,
    id: BroadcastId,
    host: String,
}

impl Visit {
    async fn pay(self) {
        if let Err(error) = self.hooks.empty(&self.id).await {
            tracing::warn!(broadcast = %self.id, %error, "what became of it is told later, or again");
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.hooks.hosts().ended(&self.host);
    }
}

impl Hooks {
    pub(crate) fn new(
        config: &Config,
        registry: Arc<dyn Registry>,
        membership: Option<Membership>,
        door: Door,
    ) -> Arc<Self> {
        let addressee = |app: &App| Addressee { url: app.webhooks.url.clone(), key: app.webhooks.key() };
        let addressees = config.apps.iter().map(|(name, app)| (name.clone(), addressee(app))).collect();
        let (post, hosts) = (Post::new(post::LIMIT), Mutex::default());
        Arc::new(Self { addressees, registry, membership, door, post, hosts })
    }

    /// Until `closing` is told or dropped, and then for as long as there is something to tell and somebody who takes it in.
    pub(crate) async fn run(self: Arc<Self>, closing: oneshot::Receiver<()>) {
        let (mut running, mut names) = (JoinSet::new(), BTreeMap::new());
        let (mut closing, mut patience) = (std::pin::pin!(closing), None);
        let (mut collects, mut widely) = (true, tokio::time::Instant::now());
        loop {
            let now = tokio::time::Instant::now();
            if now >= widely {
                (collects, widely) = (true, now + LOOK_EVERY + a_part_of(LOOK_EVERY / 2));
            }
            let taken: BTreeSet<BroadcastId> = names.values().cloned().collect();
            let free = AT_ONCE.saturating_sub(taken.len());
            let next = match self.look(collects || patience.is_some(), free, &taken, widely - now).await {
                Ok(Found { visits, due_after }) => {
                    collects = false;
                    for visit in visits {
                        let id = visit.id.clone();
                        names.insert(running.spawn(visit.pay()).id(), id);
                    }
                    due_after.map_or(widely, |after| widely.min(tokio::time::Instant::now() + after))
                }
                Err(error) => {
                    tracing::debug!(%error, "no look for what is to be told");
                    tokio::time::Instant::now() + LOOK_AGAIN_AFTER
                }
            };
            if patience.is_some() && running.is_empty() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.registry.noted().notified() => collects = true,
                Some(ended) = running.join_next_with_id() => {
                    let task = match ended {
                        Ok((task, ())) => task,
                        Err(error) => {
                            tracing::error!(%error, "telling what became of a broadcast ended by a bug");
                            error.id()
                        }
                    };
                    names.remove(&task);
                }
                _ = &mut closing, if patience.is_none() => {
                    patience = Some(tokio::time::Instant::now() + STOP_PATIENCE);
                }
                () = sleep_until(patience) => return,
            }
        }
    }

    /// Mailboxes to be emptied now, and when the next one is due of those that are within `ahead`. Those whose host has
    /// enough to do wait.
    async fn look(
        self: &Arc<Self>,
        collects: bool,
        free: usize,
        taken: &BTreeSet<BroadcastId>,
        ahead: Duration,
    ) -> Result<Found, RegistryError> {
        if self.membership.as_ref().is_some_and(Membership::is_away) {
            return Err(RegistryError::Away);
        }
        if collects {
            self.registry.collect_events().await?;
        }
        let mut visits: Vec<Visit> = Vec::new();
        let mut next_ms: Option<i64> = None;
        loop {
            let asked_ms = now_ms();
            let page = self.registry.due_mailboxes(asked_ms + ms(ahead), PAGE).await?;
            let is_whole = page.len() < PAGE || page.last().is_some_and(|last| last.due_ms > asked_ms);
            let mut later: BTreeMap<i64, Vec<BroadcastId>> = BTreeMap::new();
            for mailbox in page {
                let Ok(id) = BroadcastId::new(&mailbox.app, &mailbox.stream_id) else { continue };
                if taken.contains(&id) || visits.iter().any(|visit| visit.id == id) {
                    continue;
                }
                if mailbox.due_ms > asked_ms {
                    next_ms = Some(next_ms.unwrap_or(i64::MAX).min(mailbox.due_ms));
                    continue;
                }
                if visits.len() == free {
                    // There is a place as soon as one of them ends.
                    return Ok(Found { visits, due_after: None });
                }
                let host = self.destination(&mailbox).map(|destination| destination.host).unwrap_or_default();
                let now = Instant::now();
                match self.hosts().begin(&host, now) {
                    Ok(()) => visits.push(Visit { hooks: self.clone(), id, host }),
                    Err(then) => later.entry(now_ms() + ms(then - now)).or_default().push(id),
                }
            }
            let is_done = is_whole || later.is_empty();
            for (until_ms, ids) in later {
                self.registry.defer_mailboxes(&ids, until_ms).await?;
                next_ms = Some(next_ms.unwrap_or(i64::MAX).min(until_ms));
            }
            if is_done {
                let late = a_part_of(LATE_MAX);
                let after = |due_ms: i64| Duration::from_millis((due_ms - now_ms()).max(0).unsigned_abs()) + late;
                return Ok(Found { visits, due_after: next_ms.map(after) });
            }
        }
    }

    async fn empty(&self, id: &BroadcastId) -> Result<(), RegistryError> {
        let take = Turn::Take { now_ms: now_ms(), until_ms: now_ms() + TAKEN_MS };
        let mut mailbox = self.registry.turn_mailbox(id, &take).await?;
        while let Some(known) = mailbox {
            if known.dropped > 0 {
                tracing::warn!(broadcast = %id, dropped = known.dropped, "too much waits to be told of it, the oldest is not told");
                self.door.dropped.inc_by(known.dropped.into());
            }
            let turn = self.tell_next(id, &known).await?;
            mailbox = self.registry.turn_mailbox(id, &turn).await?;
            if !matches!(turn, Turn::Told { .. }) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Says what becomes of the mailbox.
    async fn tell_next(&self, id: &BroadcastId, mailbox: &Mailbox) -> Result<Turn, RegistryError> {
        let row = self.registry.get(id).await?;
        let Some(event) = mailbox.next(row.as_ref(), now_ms()) else {
            return Ok(Turn::Rest { until_ms: now_ms() + REST_MS });
        };
        let told = || Turn::Told { event: event.id.clone(), until_ms: now_ms() + TAKEN_MS };
        let failed = || Turn::Failed { until_ms: now_ms() + ms(pause(mailbox.failures, entropy())) };
        let action = event.what.action();
        if event.tried_ms.is_some_and(|tried_ms| now_ms() - tried_ms >= GIVEN_UP_AFTER_MS) {
            tracing::error!(broadcast = %id, action, event = event.id, "nobody took it in for a day, it is not told any more");
            self.door.dropped.inc();
            return Ok(told());
        }
        if !self.addressees.contains_key(id.app()) {
            // Another node may know it, or this one after its next start.
            return Ok(failed());
        }
        let Some(destination) = self.destination(mailbox) else {
            tracing::debug!(broadcast = %id, action, "nobody wants to know any more");
            return Ok(told());
        };
        let details = row.as_ref().map(|row| &row.details).or(mailbox.removed.as_ref());
        let body = letter::body(id.stream(), id.app(), event, details);
        Ok(if self.send(id, event, &destination, body).await { told() } else { failed() })
    }

    /// Whether it was taken in.
    async fn send(&self, id: &BroadcastId, event: &Event, destination: &Destination, body: Bytes) -> bool {
        let Destination { url, host } = destination;
        let key = self.addressees.get(id.app()).and_then(|addressee| addressee.key.as_deref());
        let headers = letter::headers(&event.id, now_ms() / 1_000, &body, key);
        match self.post.send(url, headers, body).await {
            Ok(()) => {
                self.door.sent.inc();
                tracing::debug!(broadcast = %id, action = event.what.action(), event = event.id, host, "told");
                if self.hosts().took(host) {
                    tracing::info!(host, "takes webhooks in again");
                }
                true
            }
            Err(error) => {
                self.door.errors.inc();
                let problem = error.to_string();
                if self.hosts().failed(host, &problem, error.answered(), Instant::now(), entropy()) {
                    let action = event.what.action();
                    tracing::warn!(host, broadcast = %id, action, problem, "a webhook is not taken in, it is tried again");
                }
                false
            }
        }
    }

    /// `None` when nobody wants to know (any more).
    fn destination(&self, mailbox: &Mailbox) -> Option<Destination> {
        let of_app = || self.addressees.get(&mailbox.app).map(|addressee| &addressee.url);
        let own = Some(&mailbox.listener_hook_url).filter(|url| !url.is_empty());
        let url = own.or_else(of_app).filter(|url| !url.is_empty())?;
        let host = url.parse::<Uri>().ok().and_then(|uri| uri.authority().map(ToString::to_string));
        Some(Destination { url: url.clone(), host: host.unwrap_or_default() })
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// By the clock that nodes share.
fn now_ms() -> i64 {
    clock::now_us() / 1_000
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
