//! The front of the room: starts the shards, answers offers, tells who watches.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Instant,
};

use bytes::Bytes;
use prometheus_client::metrics::counter::Counter;
use str0m::{Candidate, config::DtlsCert, crypto::from_feature_flags, net::TcpType};
use tokio::sync::{oneshot, watch};

use super::{
    Quality, Restarted,
    answer::{Measured, answer, invite, sends},
    census::Census,
    channel::{self, Channels, SayError},
    corridor::{Corridor, Side},
    exchange::{Distribution, Exchange, Message, Speaker, To},
    inbox::{Command, Inbox},
    net::{self, Outbox},
    publishing::Publishing,
    reception::{self, Sends},
    roster::{Card, Ice, Role, Roster, SessionId, SessionStats, State},
    sdp::{Fragment, SdpError},
    session::{Agreed, End, Part, Session},
    shard::Shard,
    tcp,
    viewing::Viewing,
};
use crate::{
    intake::Intake,
    live::{Broadcast, BroadcastId},
    media::{Accepts, Codec, Kind},
    telemetry::{Door, Telemetry},
};

#[derive(Clone, Debug)]
pub struct Settings {
    /// UDP and TCP. `[::]` serves IPv4 as well.
    pub listen: SocketAddr,
    /// What peers can reach us at when that is not an address of this machine (NAT). Empty: all of the machine's.
    pub public_ips: Vec<IpAddr>,
    /// Threads; 0 means one per core.
    pub shards: usize,
    /// Further viewers and publishers are told that the node is full.
    pub sessions_max: usize,
    /// Who hears what viewers say on data channels, by application; all where nothing is said.
    pub distribution: BTreeMap<String, Distribution>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: (Ipv6Addr::UNSPECIFIED, 50_000).into(),
            public_ips: Vec::new(),
            shards: 0,
            sessions_max: 20_000,
            distribution: BTreeMap::new(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("WebRTC can't listen on {address} (UDP and TCP): {source}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("this machine's addresses can't be listed: {0}")]
    Addresses(io::Error),
    #[error("{0} can't be announced to WebRTC peers: {1}")]
    Candidate(SocketAddr, String),
    #[error("no certificate for DTLS could be made")]
    Certificate,
    #[error("a WebRTC thread could not be started: {0}")]
    Thread(io::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Sdp(#[from] SdpError),
    #[error("too many sessions are being set up")]
    Busy,
    #[error("this node has all the {sessions_max} sessions it takes")]
    Full { sessions_max: usize },
}

#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    #[error("there is no such session")]
    Gone,
    #[error(transparent)]
    Sdp(#[from] SdpError),
}

/// What a peer is told.
#[derive(Clone, Debug)]
pub struct Answer {
    pub session: SessionId,
    /// An answer, or an offer where the peer was invited.
    pub sdp: String,
    /// Names the ICE session, for entity tags.
    pub etag: String,
}

/// Somebody who is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub session: SessionId,
    /// It has a control channel: this node can tell it things.
    pub hears: bool,
}

/// What a session's peers call it.
#[derive(Clone, Debug)]
pub struct IceSession {
    pub broadcast: BroadcastId,
    pub role: Role,
    /// Names the ICE session, for entity tags.
    pub etag: String,
    pub remote_ufrag: String,
}

/// A publisher's offer that was understood.
pub struct Incoming(Box<Agreed>, Sends);

#[derive(Debug)]
pub(super) struct Meters {
    pub(super) panics: Counter,
    pub(super) handed_over: Counter,
    pub(super) egress_bytes: Counter,
}

/// What all shards see.
pub(super) struct Shared {
    pub(super) address: SocketAddr,
    pub(super) roster: Roster,
    pub(super) inboxes: Vec<Arc<Inbox>>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) door: Door,
    pub(super) meters: Meters,
    sessions_max: usize,
    announced: Vec<SocketAddr>,
    candidates: Vec<Candidate>,
    cert: DtlsCert,
}

impl Shared {
    fn check_room(&self) -> Result<(), JoinError> {
        let sessions_max = self.sessions_max;
        if self.roster.counts().0 >= sessions_max {
            self.door.errors.inc();
            return Err(JoinError::Full { sessions_max });
        }
        Ok(())
    }

    /// How the path of a viewer who comes now is measured.
    fn measured(&self, broadcast: &Broadcast) -> Measured {
        Measured::suiting(broadcast, self.roster.counts().0 / self.inboxes.len())
    }

    /// A session that no check has arrived for is over.
    pub(super) fn forget(&self, card: &Card, end: End) {
        if let Some(mut session) = self.roster.remove(card) {
            session.settle(end);
        }
    }

    /// Changes a session that waits for its first check here and now; its shard does it to one that it has.
    fn change(&self, id: &SessionId, change: impl FnOnce(&mut Session), command: Command) {
        let Some(card) = self.roster.card(id) else { return };
        if self.roster.with_pending(&card.ice().local_ufrag, change).is_none()
            && let Some(shard) = self.roster.shard_of(&card)
        {
            self.inboxes[shard].command(command);
        }
    }

    /// From now on its first connectivity check finds the session.
    fn await_check(&self, agreed: Agreed, id: &BroadcastId, part: Part, now: Instant) -> Result<Answer, JoinError> {
        let (sdp, ice) = (agreed.sdp.clone(), agreed.ice.clone());
        let role = match part {
            Part::Viewer(_) => Role::Viewer,
            Part::Publisher(_) => Role::Publisher,
        };
        let card = Card::new(id.clone(), role, ice.clone(), now, crate::clock::now_us());
        let session = card.id.clone();
        let channels = Channels::new(self.exchange.clone(), id, role);
        if !self.roster.await_check(Box::new(Session::new(agreed, card, part, channels, now))) {
            self.door.errors.inc();
            return Err(JoinError::Busy);
        }
        Ok(Answer { session, sdp, etag: ice.local_ufrag })
    }

    /// The candidate that a peer must have sent to: behind a NAT the packet says otherwise.
    pub(super) fn candidate_for(&self, destination: SocketAddr) -> Option<SocketAddr> {
        if self.announced.contains(&destination) {
            return Some(destination);
        }
        self.announced.iter().copied().find(|address| address.is_ipv4() == destination.is_ipv4())
    }
}

/// All WebRTC sessions of this node. Cheap to clone; the last clone that goes ends the sessions.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    pub fn start(settings: Settings, telemetry: &Telemetry) -> Result<Self, StartError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = if settings.shards == 0 { cores } else { settings.shards };
        let bind = |source| StartError::Bind { address: settings.listen, source };
        let (sockets, address) = net::bind(settings.listen, shards).map_err(bind)?;
        let own = net::addresses(settings.listen.ip()).map_err(StartError::Addresses)?;
        let public = if settings.public_ips.is_empty() { &own } else { &settings.public_ips };
        let announced: Vec<SocketAddr> = public.iter().map(|ip| SocketAddr::new(*ip, address.port())).collect();
        let mut candidates = Vec::new();
        for &address in &announced {
            let unusable = |err: str0m::error::IceError| StartError::Candidate(address, err.to_string());
            candidates.push(Candidate::host(address, "udp").map_err(unusable)?);
            let tcp = Candidate::builder().tcp().host(address).tcptype(TcpType::Passive).build();
            candidates.push(tcp.map_err(unusable)?);
        }
        let cert = from_feature_flags().dtls_provider.generate_certificate().ok_or(StartError::Certificate)?;
        let (panics, handed_over) = (Counter::default(), Counter::default());
        let meters = Meters { panics, handed_over, egress_bytes: telemetry.egress() };
        telemetry.register(|registry| {
            registry.register("webrtc_panics", "Sessions ended by a bug", meters.panics.clone());
            let help = "Packets that arrived at another shard than their session's";
            registry.register("webrtc_handed_over", help, meters.handed_over.clone());
        });
        let inboxes: Vec<Arc<Inbox>> = (0..shards).map(|_| Arc::default()).collect();
        let exchange = Exchange::new(telemetry.door("data"), inboxes.clone(), settings.distribution);
        let shared = Arc::new(Shared {
            address,
            roster: Roster::default(),
            inboxes,
            exchange: Arc::new(exchange),
            door: telemetry.door("webrtc"),
            meters,
            sessions_max: settings.sessions_max,
            announced,
            candidates,
            cert,
        });
        telemetry.register(|registry| registry.register_collector(Box::new(Census(shared.clone()))));
        let mut threads = Vec::new();
        for (index, sockets) in sockets.into_iter().enumerate() {
            let (shared, own) = (shared.clone(), own.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(StartError::Thread)?;
            let (udp, listener) = {
                let _entered = runtime.enter();
                let udp = tokio::net::UdpSocket::from_std(sockets.udp).map_err(bind)?;
                (udp, tokio::net::TcpListener::from_std(sockets.tcp).map_err(bind)?)
            };
            let outbox = Outbox::new(udp, own).map_err(bind)?;
            let run = move || {
                runtime.block_on(async move {
                    tokio::spawn(tcp::serve(listener, shared.inboxes[index].clone()));
                    Shard::new(index, shared, outbox).run().await;
                });
            };
            let thread = std::thread::Builder::new().name(format!("webrtc-{index}")).spawn(run);
            threads.push(thread.map_err(StartError::Thread)?);
        }
        tracing::info!(%address, shards, candidates = ?shared.announced, "WebRTC listens");
        Ok(Self(Arc::new(Inner { shared, threads: Mutex::new(threads) })))
    }

    /// Where it listens: the port may have been chosen by the system.
    pub fn address(&self) -> SocketAddr {
        self.0.shared.address
    }

    /// Answers somebody who wants to watch. The session begins with its first connectivity check, or is forgotten
    /// after ten seconds.
    pub fn view(&self, broadcast: &Arc<Broadcast>, offer: &str) -> Result<Answer, JoinError> {
        let shared = &self.0.shared;
        shared.check_room()?;
        let now = Instant::now();
        let (measured, cert) = (shared.measured(broadcast), Some(&shared.cert));
        let (mut agreed, sections) = answer(offer, sends(broadcast), measured, &shared.candidates, cert, now)?;
        let mut viewing = Viewing::new(broadcast.clone(), now);
        viewing.open(&mut agreed.rtc, sections);
        shared.await_check(agreed, broadcast.id(), Part::Viewer(viewing), now)
    }

    /// Makes an offer to somebody who wants to watch; [`accept`](Self::accept) takes the answer.
    pub fn invite(&self, broadcast: &Arc<Broadcast>) -> Result<Answer, JoinError> {
        let shared = &self.0.shared;
        shared.check_room()?;
        let now = Instant::now();
        let (stream, measured, cert) = (broadcast.id().stream(), shared.measured(broadcast), Some(&shared.cert));
        let agreed = invite(stream, sends(broadcast), measured, &shared.candidates, cert, now)?;
        shared.await_check(agreed, broadcast.id(), Part::Viewer(Viewing::new(broadcast.clone(), now)), now)
    }

    /// Takes the answer to an invitation.
    pub async fn accept(&self, id: &SessionId, answer: &str) -> Result<(), RestartError> {
        let shared = &self.0.shared;
        let card = shared.roster.card(id).ok_or(RestartError::Gone)?;
        let accepted = shared.roster.with_pending(&card.ice().local_ufrag, |session| session.accept(answer));
        if let Some(accepted) = accepted {
            return Ok(accepted?);
        }
        let shard = shared.roster.shard_of(&card).ok_or(RestartError::Gone)?;
        let (reply, accepted) = oneshot::channel();
        shared.inboxes[shard].command(Command::Accept { id: id.clone(), answer: answer.to_owned(), reply });
        Ok(accepted.await.map_err(|_| RestartError::Gone)??)
    }

    /// Looks at the offer of somebody who wants to publish.
    pub fn receive(&self, offer: &str) -> Result<Incoming, JoinError> {
        let shared = &self.0.shared;
        shared.check_room()?;
        let (agreed, sends) = reception::answer(offer, &shared.candidates, Some(&shared.cert), Instant::now())?;
        Ok(Incoming(Box::new(agreed), sends))
    }

    /// Answers a publisher. Like a viewer's, the session begins with its first connectivity check. Once it is connected,
    /// and only then, `entry` is polled: it comes to the publisher's place in the hall, or to nothing where somebody else
    /// has it; that ends the session. To be called in a runtime that can do what `entry` does.
    pub fn publish(
        &self,
        incoming: Incoming,
        broadcast: &BroadcastId,
        entry: impl Future<Output = Option<Intake>> + Send + 'static,
    ) -> Result<Answer, JoinError> {
        let Incoming(agreed, sends) = incoming;
        let (publishing, knocked) = Publishing::new(sends);
        let part = Part::Publisher(Box::new(publishing));
        let answer = self.0.shared.await_check(*agreed, broadcast, part, Instant::now())?;
        let (shared, id) = (self.0.shared.clone(), answer.session.clone());
        tokio::spawn(async move {
            // Fails when the session is over.
            if let Ok(shard) = knocked.await {
                let intake = entry.await.map(Box::new);
                shared.inboxes[shard].command(Command::LetIn { id, intake });
            }
        });
        Ok(answer)
    }

    /// Sends a viewer picture or sound, or stops sending it. A session that is over is left alone.
    pub fn enable(&self, id: &SessionId, kind: Kind, enabled: bool) {
        let enable = |session: &mut Session| {
            session.enable(kind, enabled);
        };
        self.0.shared.change(id, enable, Command::Enable { id: id.clone(), kind, enabled });
    }

    /// Says something to the publisher and all viewers of a broadcast who have a data channel now.
    pub fn say(&self, broadcast: &BroadcastId, binary: bool, data: Bytes) -> Result<(), SayError> {
        channel::check(binary, &data)?;
        self.0.shared.exchange.pass(Message {
            broadcast: broadcast.clone(),
            from: Speaker::Node,
            to: To::Everybody,
            binary,
            data,
        });
        Ok(())
    }

    /// Connects those who have a data channel here with those on another node, until the value is dropped.
    pub fn corridor(&self, broadcast: &BroadcastId, side: Side) -> Corridor {
        Corridor::open(self.0.shared.exchange.clone(), broadcast.clone(), side)
    }

    /// The numbers of one session, while it lasts.
    pub fn stats(&self, id: &SessionId) -> Option<SessionStats> {
        Some(self.0.shared.roster.card(id)?.stats())
    }

    /// How far a session has come, while it lasts.
    pub fn state(&self, id: &SessionId) -> Option<watch::Receiver<State>> {
        Some(self.0.shared.roster.card(id)?.state())
    }

    /// `false` if there is no such session (any more).
    pub fn close(&self, id: &SessionId) -> bool {
        self.end(id, End::Asked)
    }

    /// Ends a session whose peer is to come back on another node: of a publisher, the broadcast is not over.
    pub fn send_away(&self, id: &SessionId) {
        self.end(id, End::SentAway);
    }

    fn end(&self, id: &SessionId, end: End) -> bool {
        let shared = &self.0.shared;
        let Some(card) = shared.roster.card(id) else { return false };
        match shared.roster.shard_of(&card).and_then(|shard| shared.inboxes.get(shard)) {
            Some(inbox) => inbox.command(Command::Close(id.clone(), end)),
            None => shared.forget(&card, end),
        }
        true
    }

    /// Everybody of this role.
    pub fn members(&self, role: Role) -> Vec<Member> {
        let cards = self.0.shared.roster.all().into_iter().filter(|card| card.role == role);
        cards.map(|card| Member { session: card.id.clone(), hears: card.hears() }).collect()
    }

    /// Says something to one player. One that has no control channel does not hear it.
    pub fn instruct(&self, id: &SessionId, text: &Arc<str>) {
        let shared = &self.0.shared;
        let shard = shared.roster.card(id).and_then(|card| shared.roster.shard_of(&card));
        if let Some(inbox) = shard.and_then(|shard| shared.inboxes.get(shard)) {
            inbox.command(Command::Instruct { id: id.clone(), text: text.clone() });
        }
    }

    /// Gives a session new ICE credentials; media goes on meanwhile.
    pub async fn restart(&self, id: &SessionId, fragment: Fragment) -> Result<Restarted, RestartError> {
        let shared = &self.0.shared;
        let card = shared.roster.card(id).ok_or(RestartError::Gone)?;
        let old = card.ice().local_ufrag;
        if let Some(restarted) = shared.roster.with_pending(&old, |session| session.restart(&fragment)) {
            let (ice, restarted) = restarted?;
            shared.roster.rename(&old, &ice.local_ufrag);
            card.set_ice(ice);
            return Ok(restarted);
        }
        let shard = shared.roster.shard_of(&card).ok_or(RestartError::Gone)?;
        let (reply, restarted) = oneshot::channel();
        shared.inboxes[shard].command(Command::Restart { id: id.clone(), fragment, reply });
        Ok(restarted.await.map_err(|_| RestartError::Gone)??)
    }

    /// Sends a viewer one quality, or again what its network carries. A session that is over is left alone.
    pub fn pin(&self, id: &SessionId, quality: Quality) {
        self.0.shared.change(id, |session| session.pin(quality), Command::Pin { id: id.clone(), quality });
    }

    pub fn ice(&self, id: &SessionId) -> Option<IceSession> {
        let card = self.0.shared.roster.card(id)?;
        let Ice { local_ufrag, remote_ufrag } = card.ice();
        Some(IceSession { broadcast: card.broadcast.clone(), role: card.role, etag: local_ufrag, remote_ufrag })
    }

    pub fn viewers(&self, broadcast: &BroadcastId) -> usize {
        self.0.shared.roster.viewers(broadcast)
    }

    pub fn sessions(&self, broadcast: &BroadcastId) -> Vec<SessionStats> {
        self.0.shared.roster.cards(broadcast).iter().map(|card| card.stats()).collect()
    }

    #[cfg(test)]
    pub(super) fn expire_for_test(&self, now: Instant) {
        self.0.shared.roster.expire(now);
    }

    /// Of a session that no check has arrived for yet.
    #[cfg(test)]
    pub(super) fn panic_for_test(&self, id: &SessionId) {
        let roster = &self.0.shared.roster;
        let ufrag = roster.card(id).map(|card| card.ice().local_ufrag).unwrap_or_default();
        roster.with_pending(&ufrag, |session| {
            if let Some((viewing, _)) = session.viewing_mut() {
                viewing.panics_at_frame = true;
            }
        });
    }

    #[cfg(test)]
    pub(super) fn panics_for_test(&self) -> u64 {
        self.0.shared.meters.panics.get()
    }

    #[cfg(test)]
    pub(super) fn exchange_for_test(&self) -> &Exchange {
        &self.0.shared.exchange
    }

    #[cfg(test)]
    pub(super) fn shard_for_test(&self, id: &SessionId) -> Option<usize> {
        let roster = &self.0.shared.roster;
        roster.shard_of(&*roster.card(id)?)
    }

    /// All sessions, and how many of them nothing was heard of yet.
    pub fn counts(&self) -> (usize, usize) {
        self.0.shared.roster.counts()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.inboxes.iter().for_each(|inbox| inbox.command(Command::Stop));
        let threads = std::mem::take(self.threads.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()));
        for thread in threads {
            // A shard that panicked has nothing left to say.
            let _ = thread.join();
        }
    }
}

/// Takes an offer as far as it can be taken without a broadcast: for fuzzing.
#[doc(hidden)]
pub fn check_offer(text: &str) -> Result<String, SdpError> {
    let sends = |kind: Kind, peer: Accepts| match kind {
        Kind::Video => peer.takes(Codec::H264),
        Kind::Audio => peer.takes(Codec::Opus),
    };
    answer(text, sends, Measured::ForLayers, &[], None, Instant::now()).map(|(agreed, _)| agreed.sdp)
}
