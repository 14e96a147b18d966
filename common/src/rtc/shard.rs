//! A shard: one thread with its own socket, sessions and timers. Nothing in here is shared with another shard.
//!
//! In: datagrams, marks that a track has frames, commands. Out: datagrams. Per new frame of a track the shard walks
//! over the track's sessions: each is handed the packets, driven once, and its datagrams leave in batches.
//! Deliberately absent: waiting for anything but all of it at once.

mod following;
mod network;
mod quality;
mod requests;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use slab::Slab;
use str0m::RtcError;

use super::{
    Shared,
    exchange::Listeners,
    feed::{Audience, Feed},
    inbox::{Inbox, Letters, Mark, Packet},
    net::Outbox,
    roster::SessionId,
    session::{End, Outcome, Session},
    viewing::Clock,
};
use crate::media::Frame;

const RECEIVE_BUFFERS: usize = 8;
const RECEIVE_BYTES: usize = 64 * 1024;
/// Layers are chosen this often where there are several.
const ADAPT_EVERY: Duration = Duration::from_millis(100);
const HOUSEKEEPING: Duration = Duration::from_secs(1);

struct Slot {
    session: Box<Session>,
    /// A publisher has none.
    audience: Option<usize>,
    /// It is among the `listeners`.
    listens: bool,
    /// Of its entry in `timers`; others are stale.
    scheduled: Option<Instant>,
}

pub(super) struct Shard {
    index: usize,
    shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    outbox: Outbox,
    sessions: Slab<Slot>,
    by_address: HashMap<SocketAddr, usize>,
    by_ufrag: HashMap<String, usize>,
    by_id: HashMap<SessionId, usize>,
    foreign: HashMap<SocketAddr, usize>,
    feeds: Slab<Feed>,
    audiences: Slab<Audience>,
    listeners: Listeners,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    /// In the order of their reasons: the first is what happened, others follow from it.
    ended: VecDeque<(usize, End)>,
    housekeeping: Instant,
    /// Set while some broadcast has layers.
    adapting: Option<Instant>,
    received: u64,
    frames: Vec<Arc<Frame>>,
    stopped: bool,
}

impl Shard {
    pub(super) fn new(index: usize, shared: Arc<Shared>, outbox: Outbox) -> Self {
        Self {
            index,
            inbox: shared.inboxes[index].clone(),
            listeners: Listeners::new(index, shared.exchange.clone()),
            shared,
            outbox,
            sessions: Slab::new(),
            by_address: HashMap::new(),
            by_ufrag: HashMap::new(),
            by_id: HashMap::new(),
            foreign: HashMap::new(),
            feeds: Slab::new(),
            audiences: Slab::new(),
            timers: BinaryHeap::new(),
            ended: VecDeque::new(),
            housekeeping: Instant::now(),
            adapting: None,
            received: 0,
            frames: Vec::new(),
            stopped: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut letters = Letters::default();
        let mut buffers = vec![vec![0; RECEIVE_BYTES]; RECEIVE_BUFFERS];
        let inbox = self.inbox.clone();
        while !self.stopped {
            let timer = self.timers.peek().map(|Reverse((at, _))| *at);
            let next = [timer, self.adapting].into_iter().flatten().fold(self.housekeeping, Instant::min);
            tokio::select! {
                () = inbox.arrived() => {}
                _ = self.outbox.socket().0.readable() => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
            inbox.take(&mut letters);
            // Sound and pictures first: they are what a viewer sees late.
            for mark in letters.marks.drain(..) {
                match mark {
                    Mark::Feed(key) => self.deliver(key),
                    Mark::Audience(key) => self.look_at(key),
                }
            }
            self.receive(&mut buffers);
            for Packet { proto, source, destination, data, reply } in letters.packets.drain(..) {
                self.packet(proto, source, destination, &data, reply);
            }
            for command in letters.commands.drain(..) {
                self.obey(command);
            }
            self.fire();
            self.tell();
            self.bury();
            self.outbox.flush();
            self.count();
        }
    }

    fn clock(&self) -> Clock {
        Clock { now: Instant::now(), unix_us: crate::clock::now_us() }
    }

    fn adopt(&mut self, session: Box<Session>) -> usize {
        let broadcast = session.viewing().map(|viewing| viewing.broadcast.clone());
        let audience = broadcast.map(|broadcast| self.audience(&broadcast));
        let (id, ufrag) = (session.card.id.clone(), session.card.ice().local_ufrag);
        let key = self.sessions.insert(Slot { session, audience, listens: false, scheduled: None });
        self.by_id.insert(id, key);
        self.by_ufrag.insert(ufrag, key);
        if let Some(audience) = audience.and_then(|audience| self.audiences.get_mut(audience)) {
            audience.sessions.push(key);
        }
        self.follow_broadcast(key);
        self.schedule(key);
        key
    }

    /// The only way to a session: a panic in there ends that session and nothing else.
    fn act(&mut self, key: usize, act: impl FnOnce(&mut Session, &mut Outbox) -> Result<Outcome, RtcError>) {
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let (session, outbox) = (&mut slot.session, &mut self.outbox);
        match catch_unwind(AssertUnwindSafe(|| act(session, outbox))) {
            Ok(Ok(outcome)) => {
                if outcome.connected {
                    slot.session.knock(self.index);
                }
                if let Some(end) = outcome.over {
                    self.ended.push_back((key, end));
                } else if outcome.connected || outcome.picture_wanted {
                    self.show_picture(key, outcome.connected);
                } else if outcome.keyframe_wanted {
                    self.ask_for_keyframe(key);
                }
                self.attend(key);
                self.schedule(key);
            }
            Ok(Err(err)) => {
                tracing::debug!(session = %slot.session.card.id, %err, "WebRTC session failed");
                self.ended.push_back((key, End::Failed));
            }
            Err(_) => {
                tracing::error!(session = %slot.session.card.id, "WebRTC session panicked");
                self.shared.meters.panics.inc();
                self.ended.push_back((key, End::Panicked));
            }
        }
    }

    /// Keeps the listeners those who have a data channel.
    fn attend(&mut self, key: usize) {
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let listens = slot.session.listens();
        if std::mem::replace(&mut slot.listens, listens) == listens {
            return;
        }
        let broadcast = &slot.session.card.broadcast;
        if listens {
            self.listeners.join(broadcast, key);
        } else {
            self.listeners.leave(broadcast, key);
        }
    }

    fn schedule(&mut self, key: usize) {
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let at = slot.session.deadline();
        if slot.scheduled.is_none_or(|scheduled| at < scheduled) {
            slot.scheduled = Some(at);
            self.timers.push(Reverse((at, key)));
        }
    }

    fn fire(&mut self) {
        let clock = self.clock();
        while let Some(&Reverse((at, key))) = self.timers.peek() {
            if at > clock.now {
                break;
            }
            self.timers.pop();
            let Some(slot) = self.sessions.get_mut(key).filter(|slot| slot.scheduled == Some(at)) else { continue };
            slot.scheduled = None;
            if let Some(end) = slot.session.expired(clock.now) {
                self.ended.push_back((key, end));
            } else if slot.session.deadline() <= clock.now {
                self.act(key, |session, outbox| session.flush(&clock, outbox));
            } else {
                self.schedule(key);
            }
        }
        if self.adapting.is_some_and(|at| at <= clock.now) {
            self.adapt_all(clock.now);
        }
        if self.housekeeping <= clock.now {
            self.housekeeping = clock.now + HOUSEKEEPING;
            if self.index == 0 {
                let mut late = self.shared.roster.expire(clock.now);
                late.iter_mut().for_each(|session| session.settle(End::Vanished));
                self.shared.door.errors.inc_by(late.len() as u64);
            }
        }
    }

    fn bury(&mut self) {
        while let Some((key, end)) = self.ended.pop_front() {
            let Some(mut slot) = self.sessions.try_remove(key) else { continue };
            slot.session.end(end, Instant::now(), &mut self.outbox);
            for out in slot.session.viewing().iter().flat_map(|viewing| viewing.outs.iter().flatten()) {
                for feed in [out.feed, out.next_feed].into_iter().flatten() {
                    self.leave(feed, key);
                }
            }
            if let Some(audience_key) = slot.audience
                && let Some(audience) = self.audiences.get_mut(audience_key)
            {
                audience.sessions.retain(|session| *session != key);
                if audience.sessions.is_empty() {
                    self.audiences.remove(audience_key);
                }
            }
            if slot.listens {
                self.listeners.leave(&slot.session.card.broadcast, key);
            }
            self.by_address.retain(|_, session| *session != key);
            let card = &slot.session.card;
            self.by_ufrag.remove(&card.ice().local_ufrag);
            self.by_id.remove(&card.id);
            self.shared.roster.remove(card);
            if matches!(end, End::Failed | End::Panicked) || !slot.session.connected {
                self.shared.door.errors.inc();
            }
            self.outbox.dropped += slot.session.dropped();
            tracing::info!(session = %card.id, broadcast = %card.broadcast, role = ?card.role,
                seconds = card.began.elapsed().as_secs(), connected = slot.session.connected, why = ?end,
                "WebRTC session ended");
        }
    }

    fn count(&mut self) {
        let door = &self.shared.door;
        door.received.inc_by(std::mem::take(&mut self.received));
        door.sent.inc_by(std::mem::take(&mut self.outbox.sent));
        self.shared.meters.egress_bytes.inc_by(std::mem::take(&mut self.outbox.sent_bytes));
        let overflowed = self.inbox.overflowed.swap(0, Relaxed);
        door.dropped.inc_by(std::mem::take(&mut self.outbox.dropped) + overflowed);
    }
}
