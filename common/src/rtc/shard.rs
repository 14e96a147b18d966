//! A shard: one thread with its own socket, sessions and timers. Nothing in here is shared with another shard.
//!
//! In: datagrams, marks that a track has frames, commands. Out: datagrams. Per new frame of a track the shard walks
//! over the track's sessions: each is handed the packets, driven once, and its datagrams leave in batches.
//! Deliberately absent: waiting for anything but all of it at once.

mod quality;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    io::IoSliceMut,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use quinn_udp::{RecvMeta, UdpSockRef};
use slab::Slab;
use str0m::{
    Input, RtcError,
    ice::StunMessage,
    net::{Protocol, Receive},
};
use tokio::io::Interest;

use super::{
    Shared,
    exchange::Listeners,
    feed::{Audience, Feed},
    inbox::{Command, Inbox, Letters, Mark, Packet},
    net::{Outbox, canonical},
    roster::{Found, SessionId},
    session::{End, Outcome, Session, is_check},
    tcp::TcpOut,
    viewing::{AUDIO, Clock, VIDEO},
};
use crate::{
    live::{Broadcast, Track},
    media::{Delivery, Frame, Kind},
};

/// System calls for datagrams in one turn; the rest waits for the next, after frames and timers had theirs.
const RECEIVES_PER_TURN: usize = 16;
const RECEIVE_BUFFERS: usize = 8;
const RECEIVE_BYTES: usize = 64 * 1024;
/// Peers of other shards whose packets the kernel gives to this one. When full all are forgotten: their next check
/// teaches us again.
const FOREIGN_MAX: usize = 8_192;
/// Layers are chosen this often where there are several.
const ADAPT_EVERY: Duration = Duration::from_millis(100);
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Messages for data channels that are told in one turn, whatever waits: media comes first.
const TOLD_PER_TURN: usize = 512;

/// How a session comes from one track to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Switching {
    /// With the gop that the other has, if there is one: the one so far does not suit (any more).
    AtOnce,
    /// At the other's next keyframe. The one so far goes on until then.
    AtKeyframe,
}

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

    // What the hall brings.

    fn deliver(&mut self, feed_key: usize) {
        let Some(feed) = self.feeds.get_mut(feed_key) else { return };
        let mut frames = std::mem::take(&mut self.frames);
        let goes_on = feed.take(&mut frames);
        let (index, rate) = (feed.index, feed.rate());
        // Taken out while walking: who leaves meanwhile is dealt with afterwards.
        let subscribers = std::mem::take(&mut feed.subscribers);
        let mut left = Vec::new();
        if !frames.is_empty() {
            let clock = self.clock();
            for &key in &subscribers {
                self.act(key, |session, outbox| {
                    let connected = session.connected;
                    if let Some((viewing, rtc)) = session.viewing_mut().filter(|_| connected) {
                        for frame in &frames {
                            let switched = viewing.frame(rtc, index, feed_key, frame, rate, &clock);
                            left.extend(switched.map(|feed| (key, feed)));
                        }
                    }
                    session.flush(&clock, outbox)
                });
            }
        }
        frames.clear();
        self.frames = frames;
        if !goes_on {
            self.ended.extend(subscribers.iter().map(|&key| (key, End::BroadcastGone)));
        }
        if let Some(feed) = self.feeds.get_mut(feed_key) {
            // Whoever joined during the walk is in the list already.
            feed.subscribers.splice(0..0, subscribers);
        }
        for (key, feed) in left {
            self.leave(feed, key);
        }
        self.bury();
    }

    /// A broadcast changed: perhaps another track suits its viewers better now.
    fn look_at(&mut self, audience_key: usize) {
        let Some(audience) = self.audiences.get_mut(audience_key) else { return };
        if !audience.has_news() {
            return;
        }
        audience.ladder.look_at(audience.broadcast.layers(), Instant::now());
        let layered = audience.ladder.is_choice();
        let (broadcast, keys) = (audience.broadcast.clone(), audience.sessions.clone());
        if layered {
            self.adapting.get_or_insert_with(Instant::now);
        }
        for (index, kind) in [(VIDEO, Kind::Video), (AUDIO, Kind::Audio)] {
            // Most peers take the same codecs.
            let mut chosen: Vec<(Delivery, Option<Arc<Track>>)> = Vec::new();
            for &key in &keys {
                if index == VIDEO && layered && self.adapt(key, audience_key) {
                    continue;
                }
                let viewing = self.sessions.get(key).and_then(|slot| slot.session.viewing());
                let Some(delivery) = viewing.map(|viewing| viewing.delivery(kind)) else { continue };
                let known = chosen.iter().find(|(known, _)| *known == delivery).map(|(_, track)| track.clone());
                let track = known.unwrap_or_else(|| {
                    let track = broadcast.choose(kind, delivery).map(|choice| choice.track);
                    chosen.push((delivery, track.clone()));
                    track
                });
                if let Some(track) = track {
                    self.follow(key, index, &track, Switching::AtOnce);
                }
            }
        }
    }

    /// Makes a session follow a track, at once if it followed none.
    fn follow(&mut self, key: usize, index: usize, track: &Arc<Track>, switching: Switching) {
        let Some(slot) = self.sessions.get(key) else { return };
        let Some(out) = slot.session.viewing().and_then(|viewing| viewing.outs[index].as_ref()) else { return };
        let (now, later) = (out.feed, out.next_feed);
        let follows = |feed: Option<usize>| {
            feed.and_then(|feed| self.feeds.get(feed)).is_some_and(|feed| Arc::ptr_eq(feed.track(), track))
        };
        let (has_it, will_have_it) = (follows(now), follows(later));
        if will_have_it || (has_it && later.is_none()) {
            return;
        }
        if let Some(later) = later {
            self.leave(later, key);
        }
        if has_it {
            self.set_feeds(key, index, now, None);
            return;
        }
        let feed_key = self.subscribe(track, key);
        let Some(feed) = self.feeds.get(feed_key) else { return };
        let connected = self.sessions.get(key).is_some_and(|slot| slot.session.connected);
        let at_once = switching == Switching::AtOnce;
        let gop = if index == VIDEO && connected && at_once { feed.newest_gop() } else { Vec::new() };
        let rate = feed.rate();
        match now {
            Some(old) if connected && gop.is_empty() => self.set_feeds(key, index, Some(old), Some(feed_key)),
            Some(old) => {
                self.set_feeds(key, index, Some(feed_key), None);
                self.leave(old, key);
            }
            None => self.set_feeds(key, index, Some(feed_key), None),
        }
        if !gop.is_empty() {
            let clock = self.clock();
            self.catch_up(key, &gop, rate, &clock);
        }
    }

    fn catch_up(&mut self, key: usize, gop: &[Arc<Frame>], rate: i64, clock: &Clock) {
        self.act(key, |session, outbox| {
            if let Some((viewing, _)) = session.viewing_mut() {
                viewing.catch_up(gop, rate, clock.now);
            }
            session.flush(clock, outbox)
        });
    }

    fn set_feeds(&mut self, key: usize, index: usize, now: Option<usize>, later: Option<usize>) {
        let viewing = self.sessions.get_mut(key).and_then(|slot| slot.session.viewing_mut());
        if let Some(out) = viewing.and_then(|(viewing, _)| viewing.outs[index].as_mut()) {
            (out.feed, out.next_feed) = (now, later);
        }
    }

    fn subscribe(&mut self, track: &Arc<Track>, key: usize) -> usize {
        let known = self.feeds.iter().find(|(_, feed)| Arc::ptr_eq(feed.track(), track)).map(|(key, _)| key);
        let feed_key = known.unwrap_or_else(|| {
            let entry = self.feeds.vacant_entry();
            let feed_key = entry.key();
            let mut feed = Feed::open(track, feed_key, &self.inbox);
            // Catches up with the track; who joins is sent the newest gop by itself.
            feed.take(&mut Vec::new());
            entry.insert(feed);
            feed_key
        });
        if let Some(feed) = self.feeds.get_mut(feed_key) {
            feed.subscribers.push(key);
        }
        feed_key
    }

    fn leave(&mut self, feed_key: usize, key: usize) {
        let Some(feed) = self.feeds.get_mut(feed_key) else { return };
        feed.subscribers.retain(|subscriber| *subscriber != key);
        if feed.subscribers.is_empty() {
            self.feeds.remove(feed_key);
        }
    }

    // What the network brings.

    fn receive(&mut self, buffers: &mut [Vec<u8>]) {
        let port = self.shared.address.port();
        for _ in 0..RECEIVES_PER_TURN {
            let mut metas = [RecvMeta::default(); RECEIVE_BUFFERS];
            let received = {
                let (socket, state) = self.outbox.socket();
                let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
                socket.try_io(Interest::READABLE, || state.recv(UdpSockRef::from(socket), &mut slices, &mut metas))
            };
            // Errors of earlier sends surface here (ICMP): they concern a peer, not the socket.
            let Ok(count) = received else { return };
            for (meta, buffer) in metas.iter().zip(&*buffers).take(count) {
                let Some(ip) = meta.dst_ip else { continue };
                let destination = SocketAddr::new(ip.to_canonical(), port);
                let source = canonical(meta.addr);
                for datagram in buffer[..meta.len.min(buffer.len())].chunks(meta.stride.max(1)) {
                    self.packet(Protocol::Udp, source, destination, datagram, None);
                }
            }
            if count < RECEIVE_BUFFERS {
                return;
            }
        }
    }

    fn packet(&mut self, proto: Protocol, from: SocketAddr, to: SocketAddr, data: &[u8], reply: Option<TcpOut>) {
        self.received += 1;
        let Some(to) = self.shared.candidate_for(to) else { return };
        let Some(key) = self.owner(proto, from, to, data, &reply) else { return };
        let Ok(receive) = Receive::new(proto, from, to, data) else { return };
        let input = Input::Receive(Instant::now(), receive);
        let mut learnt = false;
        self.act(key, |session, outbox| {
            if is_check(data) {
                if !session.accepts(&input) {
                    return Ok(Outcome::default());
                }
                learnt = session.learn(from, reply);
            } else {
                session.heard(proto, from);
            }
            session.drive(input, outbox)
        });
        if learnt && self.sessions.contains(key) {
            self.by_address.insert(from, key);
        }
    }

    /// The session of this shard that a packet is for. Others' are handed over.
    fn owner(
        &mut self,
        proto: Protocol,
        from: SocketAddr,
        to: SocketAddr,
        data: &[u8],
        reply: &Option<TcpOut>,
    ) -> Option<usize> {
        let forward = |shard: usize| {
            if let Some(inbox) = self.shared.inboxes.get(shard) {
                self.shared.meters.handed_over.inc();
                inbox.packet(Packet {
                    proto,
                    source: from,
                    destination: to,
                    data: data.to_vec(),
                    reply: reply.clone(),
                });
            }
        };
        if data.first().is_none_or(|byte| *byte > 1) {
            let own = self.by_address.get(&from).copied();
            if let (None, Some(&shard)) = (own, self.foreign.get(&from)) {
                forward(shard);
            }
            return own;
        }
        // A check names its session, wherever it comes from: addresses are reused.
        let message = StunMessage::parse(data).ok()?;
        let (ufrag, _) = message.split_username()?;
        if let Some(&key) = self.by_ufrag.get(ufrag) {
            return Some(key);
        }
        match self.shared.roster.find(ufrag, self.index) {
            Found::Adopted(session) => Some(self.adopt(session)),
            Found::Shard(shard) if shard != self.index => {
                forward(shard);
                if self.foreign.len() >= FOREIGN_MAX {
                    self.foreign.clear();
                }
                self.foreign.insert(from, shard);
                None
            }
            Found::Shard(_) | Found::Unknown => None,
        }
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

    /// Makes a viewer's session follow what suits it.
    fn follow_broadcast(&mut self, key: usize) {
        let audience = self.sessions.get(key).and_then(|slot| slot.audience);
        for (index, kind) in [(VIDEO, Kind::Video), (AUDIO, Kind::Audio)] {
            if index == VIDEO && audience.is_some_and(|audience| self.adapt(key, audience)) {
                continue;
            }
            let Some(viewing) = self.sessions.get(key).and_then(|slot| slot.session.viewing()) else { return };
            if let Some(choice) = viewing.broadcast.choose(kind, viewing.delivery(kind)) {
                self.follow(key, index, &choice.track, Switching::AtOnce);
            }
        }
    }

    fn audience(&mut self, broadcast: &Arc<Broadcast>) -> usize {
        let known = self.audiences.iter().find(|(_, audience)| Arc::ptr_eq(&audience.broadcast, broadcast));
        if let Some((key, _)) = known {
            return key;
        }
        let entry = self.audiences.vacant_entry();
        let key = entry.key();
        let audience = entry.insert(Audience::open(broadcast, key, &self.inbox));
        audience.ladder.look_at(broadcast.layers(), Instant::now());
        if audience.ladder.is_choice() {
            self.adapting.get_or_insert_with(Instant::now);
        }
        key
    }

    // What others say and ask for.

    /// Passes on what was said about broadcasts, to those of this shard who have a data channel.
    fn tell(&mut self) {
        let mut told = 0;
        while told < TOLD_PER_TURN {
            let messages = self.inbox.messages();
            let Some(first) = messages.first() else { return };
            let (listeners, now) = (self.listeners.of(&first.broadcast), Instant::now());
            for &key in &listeners {
                self.act(key, |session, outbox| session.tell(&messages, now, outbox));
            }
            told += messages.len() * listeners.len().max(1);
        }
        self.inbox.nudge();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Close(id) => self.ended.extend(self.by_id.get(&id).map(|&key| (key, End::Asked))),
            Command::Accept { id, answer, reply } => {
                let Some(&key) = self.by_id.get(&id) else { return };
                let Some(slot) = self.sessions.get_mut(key) else { return };
                let accepted = slot.session.accept(&answer);
                // Who asked may have gone.
                let _ = reply.send(accepted);
                self.follow_broadcast(key);
                self.act(key, |session, outbox| session.drive(Input::Timeout(Instant::now()), outbox));
            }
            Command::Enable { id, kind, enabled } => {
                let Some(&key) = self.by_id.get(&id) else { return };
                let Some(slot) = self.sessions.get_mut(key) else { return };
                if slot.session.enable(kind, enabled) && enabled && kind == Kind::Video {
                    self.show_picture(key, true);
                }
            }
            Command::Restart { id, fragment, reply } => {
                let Some(slot) = self.by_id.get(&id).and_then(|&key| self.sessions.get_mut(key)) else { return };
                let restarted = slot.session.restart(&fragment).map(|(ice, restarted)| {
                    let old = slot.session.card.ice().local_ufrag;
                    self.shared.roster.rename(&old, &ice.local_ufrag);
                    if let Some(key) = self.by_ufrag.remove(&old) {
                        self.by_ufrag.insert(ice.local_ufrag.clone(), key);
                    }
                    slot.session.card.set_ice(ice);
                    restarted
                });
                // Who asked may have gone.
                let _ = reply.send(restarted);
                if let Some(&key) = self.by_id.get(&id) {
                    self.act(key, |session, outbox| session.drive(Input::Timeout(Instant::now()), outbox));
                }
            }
            Command::Pin { id, quality } => {
                let Some(&key) = self.by_id.get(&id) else { return };
                if let Some(slot) = self.sessions.get_mut(key) {
                    slot.session.pin(quality);
                }
                self.follow_broadcast(key);
            }
            Command::Stop => {
                self.ended.extend(self.sessions.iter().map(|(key, _)| (key, End::Asked)));
                self.stopped = true;
            }
        }
    }

    // Sessions.

    /// The only way to a session: a panic in there ends that session and nothing else.
    fn act(&mut self, key: usize, act: impl FnOnce(&mut Session, &mut Outbox) -> Result<Outcome, RtcError>) {
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let (session, outbox) = (&mut slot.session, &mut self.outbox);
        match catch_unwind(AssertUnwindSafe(|| act(session, outbox))) {
            Ok(Ok(outcome)) => {
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
        let listens = slot.session.channels.listens();
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

    /// A viewer has just joined, or lost its picture.
    fn show_picture(&mut self, key: usize, joined: bool) {
        let clock = self.clock();
        let viewing = self.sessions.get_mut(key).and_then(|slot| slot.session.viewing_mut());
        let Some((viewing, _)) = viewing else { return };
        let feed = viewing.outs[VIDEO].as_ref().and_then(|out| out.feed);
        let Some(feed) = feed.and_then(|feed| self.feeds.get(feed)) else { return };
        if !joined {
            feed.track().request_keyframe();
            if !viewing.may_replay(clock.now) {
                return;
            }
        }
        let (gop, rate) = (feed.newest_gop(), feed.rate());
        self.catch_up(key, &gop, rate, &clock);
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
            if slot.session.expired(clock.now) {
                self.ended.push_back((key, End::Vanished));
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
        let overflowed = self.inbox.overflowed.swap(0, Relaxed);
        door.dropped.inc_by(std::mem::take(&mut self.outbox.dropped) + overflowed);
    }
}
