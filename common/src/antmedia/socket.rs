//! One client's socket: the loop around the protocol.
//!
//! In: text messages, and what becomes of the client's streams. Out: replies; sessions begin and end in the engine.
//! Nothing queues here: while a reply is being taken nothing is read, and a client that does not take it is gone. What
//! happens meanwhile is a value that is looked at again. Deliberately absent: the protocol.
//!
//! A socket that closes ends no media: its client has gone for good and its media with it (RFC 7675), or it comes
//! back within seconds.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    Action, Ending, Entrance, Found, Look, Machine, Measured, Outcome, Refusal, Rendition, Shared, Ticket, seats::Taken,
};
use crate::{
    clock,
    intake::Intake,
    live::{Broadcast, BroadcastId, Publisher, Status, Track},
    media::{Accepts, Delivery, Kind, Shape},
    node::Busy,
    rtc::{End, JoinError, Quality, RestartError, SessionId, State},
    telemetry::Door,
    waiting,
};

/// The SDK pings every three seconds; browsers let background pages do so once a minute.
const SILENT_MAX: Duration = Duration::from_secs(150);
/// A client that does not take a reply in this time is gone.
const SEND_MAX: Duration = Duration::from_secs(10);
/// A publisher's SDK whose socket broke ends its stream and is back in a second: its viewers stay so long.
const RETURN_WITHIN: Duration = Duration::from_secs(3);
/// What a client says beyond this, per turn, waits in its connection. A publisher's start is twenty messages.
const MESSAGES_PER_TURN: u32 = 100;
const TURN: Duration = Duration::from_secs(1);
/// How often a viewer is told how its stream arrives, in turns: about as often as a session's numbers are refreshed.
const TURNS_PER_MEASUREMENT: u32 = 5;

/// The client has gone, or is to go.
struct Gone;

/// What a stream's watcher saw.
enum News {
    /// Somebody publishes it now.
    Live,
    /// Nobody does.
    Absent(BroadcastId),
    /// It can be offered.
    Complete(Arc<Broadcast>),
    State(State),
    /// What is played has ended.
    Over,
}

/// What lies behind a ticket.
#[derive(Default)]
struct Held {
    watcher: Option<AbortHandle>,
    session: Option<SessionId>,
    /// What is played.
    broadcast: Option<Arc<Broadcast>>,
    /// Why a publisher that was connected was not let in.
    refusal: Arc<OnceLock<Refusal>>,
}

impl Held {
    fn of(session: SessionId) -> Self {
        Self { session: Some(session), ..Self::default() }
    }
}

pub(super) struct Socket<'a> {
    web: WebSocket,
    machine: Machine,
    publisher: Publisher,
    shared: &'a Shared,
    seat: &'a Taken,
    held: HashMap<Ticket, Held>,
    /// They only watch: dropping one undoes nothing. One at a time for each ticket.
    watchers: JoinSet<(Ticket, News)>,
}

impl<'a> Socket<'a> {
    pub(super) fn new(web: WebSocket, app: String, publisher: Publisher, shared: &'a Shared, seat: &'a Taken) -> Self {
        let (held, watchers) = (HashMap::new(), JoinSet::new());
        Self { web, machine: Machine::new(app), publisher, shared, seat, held, watchers }
    }

    pub(super) async fn run(mut self) {
        let mut turn = interval(TURN);
        turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut messages, mut turns, mut heard, mut told) = (0, 0_u32, Instant::now(), false);
        let node = &self.shared.node;
        loop {
            let publishes = self.machine.publishes();
            self.seat.set_publishes(publishes);
            let actions = tokio::select! {
                _ = turn.tick() => {
                    (messages, turns) = (0, turns.wrapping_add(1));
                    if heard.elapsed() > SILENT_MAX {
                        return self.close(close_code::POLICY, "nothing was said for too long").await;
                    }
                    if turns.is_multiple_of(TURNS_PER_MEASUREMENT) { self.machine.measure() } else { Vec::new() }
                }
                () = self.seat.sent_away(), if !told => {
                    told = true;
                    self.machine.send_away()
                }
                _ = node.publishers_asked(0), if !told && publishes => {
                    told = true;
                    self.seat.set_told(true);
                    self.machine.send_away()
                }
                () = node.stopping(), if !told => {
                    told = true;
                    self.machine.send_away()
                }
                () = node.staying(), if told => {
                    told = false;
                    self.seat.set_told(false);
                    self.machine.keep();
                    Vec::new()
                }
                Some(seen) = self.watchers.join_next() => match seen {
                    Ok((ticket, news)) => self.news(ticket, news),
                    // The ticket was let go of.
                    Err(_) => Vec::new(),
                },
                message = self.web.recv(), if messages < MESSAGES_PER_TURN => {
                    (messages, heard) = (messages + 1, Instant::now());
                    match message {
                        Some(Ok(Message::Text(text))) => self.machine.receive(&text),
                        // A goodbye is answered by the next read, which then has nothing more to tell.
                        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => Vec::new(),
                        Some(Ok(Message::Binary(_))) => {
                            return self.close(close_code::UNSUPPORTED, "only text is understood here").await;
                        }
                        Some(Err(_)) | None => return,
                    }
                }
            };
            if let Err(Gone) = self.apply(actions).await {
                return;
            }
        }
    }

    async fn apply(&mut self, actions: Vec<Action>) -> Result<(), Gone> {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Send(reply) => self.send(reply.text()).await?,
                Action::Publish { ticket, stream, token, offer } => {
                    let outcome = self.publish(ticket, stream, token, &offer).await;
                    actions.extend(self.machine.outcome(ticket, outcome));
                }
                Action::Invite { ticket, stream } => actions.extend(self.look_for(ticket, stream)),
                Action::Accept { ticket, answer } => {
                    if let Some(outcome) = self.accept(ticket, &answer).await {
                        actions.extend(self.machine.outcome(ticket, outcome));
                    }
                }
                Action::Enable { ticket, kind, enabled } => {
                    if let Some(session) = self.session(ticket) {
                        self.shared.engine.enable(&session, kind, enabled);
                    }
                }
                Action::Quality { ticket, height } => {
                    if let Some(session) = self.session(ticket) {
                        self.shared.engine.pin(&session, height.map_or(Quality::Auto, Quality::Height));
                    }
                }
                Action::Measure(ticket) => {
                    if let Some(measured) = self.measure(ticket) {
                        actions.extend(self.machine.outcome(ticket, Outcome::Measured(measured)));
                    }
                }
                Action::Close(ticket) => self.let_go(ticket),
                Action::Look { stream, what } => {
                    let found = find(self.shared, &stream, what).await;
                    self.send(Machine::found(&stream, found).text()).await?;
                }
                Action::ListIceServers => {
                    let servers = self.shared.ice_servers.for_client(clock::now_us());
                    self.send(Machine::ice_servers(&servers).text()).await?;
                }
            }
        }
        Ok(())
    }

    async fn send(&mut self, text: String) -> Result<(), Gone> {
        match timeout(SEND_MAX, self.web.send(Message::Text(text.into()))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Gone),
        }
    }

    async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
        // Whether the client still hears it is its own affair.
        let _ = timeout(SEND_MAX, self.web.send(Message::Close(Some(frame)))).await;
    }

    /// The broadcast is claimed when the client is connected: one that never is, or whose offer can't be taken, must not
    /// end somebody else's stream.
    async fn publish(&mut self, ticket: Ticket, stream: BroadcastId, token: String, offer: &str) -> Outcome {
        let Shared { engine, entrance, door, .. } = self.shared;
        let remote = self.publisher.remote.clone();
        let refused = |refusal: Refusal| Outcome::Refused(turned_away(refusal, &stream, &remote, door));
        let Some(Entrance { check, claim }) = entrance else {
            return refused(Refusal::Elsewhere("publishers are taken by origins, and this is an edge"));
        };
        let incoming = match engine.receive(offer) {
            Ok(incoming) => incoming,
            Err(error) => return refused(error.into()),
        };
        if let Err(refusal) = check(stream.clone(), token.clone(), self.publisher.clone()).await {
            return refused(refusal);
        }
        let refusal = Arc::new(OnceLock::new());
        let claimed = claim(stream.clone(), token, self.publisher.clone());
        let entry = {
            let (stream, remote, door, refusal) = (stream.clone(), remote.clone(), door.clone(), refusal.clone());
            async move {
                match claimed.await {
                    Ok(writer) => Some(Intake::new(writer, door)),
                    Err(why) => {
                        refusal.get_or_init(|| turned_away(why, &stream, &remote, &door));
                        None
                    }
                }
            }
        };
        match engine.publish(incoming, &stream, entry) {
            Ok(answer) => {
                tracing::info!(broadcast = %stream, remote, session = %answer.session, "Ant Media publisher");
                self.hold(ticket, Held { refusal, ..Held::of(answer.session) });
                Outcome::Answer(answer.sdp)
            }
            Err(error) => refused(error.into()),
        }
    }

    /// Finds what is to be played, or waits for it.
    fn look_for(&mut self, ticket: Ticket, stream: BroadcastId) -> Vec<Action> {
        if !self.shared.plays {
            let refusal = Refusal::Elsewhere("viewers are served by edges, and this is an origin");
            return self.machine.outcome(ticket, Outcome::Refused(refusal));
        }
        if let Err(busy) = self.shared.node.takes_work() {
            return self.machine.outcome(ticket, Outcome::Refused(busy.into()));
        }
        let finder = self.shared.finder.clone();
        self.watch(ticket, async move {
            match finder.find(&stream).await {
                Some(broadcast) => {
                    waiting::until_complete(&broadcast).await;
                    News::Complete(broadcast)
                }
                None => News::Absent(stream),
            }
        });
        Vec::new()
    }

    fn wait_for(&mut self, ticket: Ticket, stream: BroadcastId) -> Vec<Action> {
        let finder = self.shared.finder.clone();
        self.watch(ticket, async move {
            finder.until_live(&stream).await;
            News::Live
        });
        self.machine.outcome(ticket, Outcome::Absent)
    }

    fn invite(&mut self, ticket: Ticket, broadcast: Arc<Broadcast>) -> Outcome {
        match self.shared.engine.invite(&broadcast) {
            Ok(invitation) => {
                let (broadcast_id, session) = (broadcast.id(), &invitation.session);
                tracing::info!(broadcast = %broadcast_id, %session, agent = self.publisher.agent, "Ant Media viewer");
                self.hold(ticket, Held { broadcast: Some(broadcast), ..Held::of(invitation.session) });
                Outcome::Offer(invitation.sdp)
            }
            Err(error) => Outcome::Refused(error.into()),
        }
    }

    async fn accept(&mut self, ticket: Ticket, answer: &str) -> Option<Outcome> {
        let session = self.session(ticket)?;
        match self.shared.engine.accept(&session, answer).await {
            // That it begins is told by its state.
            Ok(()) => None,
            Err(RestartError::Sdp(error)) => Some(Outcome::Refused(Refusal::Sdp(error.to_string()))),
            Err(RestartError::Gone) => Some(Outcome::Ended(Ending::Over)),
        }
    }

    fn news(&mut self, ticket: Ticket, news: News) -> Vec<Action> {
        let outcome = match news {
            News::Live => Outcome::Live,
            News::Absent(stream) => return self.wait_for(ticket, stream),
            News::Complete(broadcast) if broadcast.status() == Status::Ended || broadcast.tracks().is_empty() => {
                return self.wait_for(ticket, broadcast.id().clone());
            }
            News::Complete(broadcast) => self.invite(ticket, broadcast),
            News::State(State::Ended(End::Replaced)) => Outcome::Ended(Ending::Replaced),
            News::State(State::Ended(End::Stopped)) => Outcome::Ended(Ending::Stopped),
            News::State(State::Ended(End::Refused)) => match self.held.get(&ticket).and_then(|held| held.refusal.get())
            {
                Some(refusal) => Outcome::Refused(refusal.clone()),
                None => Outcome::Ended(Ending::Over),
            },
            News::State(State::Ended(_)) | News::Over => Outcome::Ended(Ending::Over),
            News::State(state @ (State::Connecting | State::Connected)) => {
                self.follow(ticket, state);
                Outcome::Running
            }
        };
        self.machine.outcome(ticket, outcome)
    }

    fn hold(&mut self, ticket: Ticket, held: Held) {
        let old = self.held.insert(ticket, held);
        if let Some(watcher) = old.and_then(|old| old.watcher) {
            watcher.abort();
        }
        self.follow(ticket, State::Connecting);
    }

    /// Watches a session that was in this state.
    fn follow(&mut self, ticket: Ticket, was: State) {
        let Some(held) = self.held.get(&ticket) else { return };
        let state = held.session.as_ref().and_then(|session| self.shared.engine.state(session));
        let broadcast = held.broadcast.clone();
        self.watch(ticket, async move {
            match (state, broadcast) {
                (None, _) => News::Over,
                (Some(mut state), None) => change(&mut state, was).await,
                (Some(mut state), Some(broadcast)) => tokio::select! {
                    news = change(&mut state, was) => news,
                    () = until_over(&broadcast) => News::Over,
                },
            }
        });
    }

    fn watch(&mut self, ticket: Ticket, watcher: impl Future<Output = News> + Send + 'static) {
        let handle = self.watchers.spawn(async move { (ticket, watcher.await) });
        let held = self.held.entry(ticket).or_default();
        if let Some(old) = held.watcher.replace(handle) {
            old.abort();
        }
    }

    fn session(&self, ticket: Ticket) -> Option<SessionId> {
        self.held.get(&ticket)?.session.clone()
    }

    fn measure(&self, ticket: Ticket) -> Option<Measured> {
        let held = self.held.get(&ticket)?;
        let stats = self.shared.engine.stats(held.session.as_ref()?)?;
        let best = renditions(held.broadcast.as_ref()?).into_iter().max_by_key(|rendition| rendition.video_bitrate)?;
        let video_bitrate = stats.layer_bps.unwrap_or(best.video_bitrate);
        let audio_bitrate = best.audio_bitrate;
        // An estimate that holds nothing back may be low because little was sent.
        let carried = stats.estimate_bps.unwrap_or(0).max(video_bitrate + audio_bitrate);
        let target_bitrate = stats.limit_bps.unwrap_or(carried);
        Some(Measured { target_bitrate, video_bitrate, audio_bitrate })
    }

    fn let_go(&mut self, ticket: Ticket) {
        let Some(held) = self.held.remove(&ticket) else { return };
        if let Some(watcher) = held.watcher {
            watcher.abort();
        }
        if let Some(session) = held.session {
            // It may have ended by itself.
            self.shared.engine.close(&session);
        }
    }
}

fn turned_away(refusal: Refusal, broadcast: &BroadcastId, remote: &str, door: &Door) -> Refusal {
    door.errors.inc();
    tracing::warn!(%broadcast, remote, ?refusal, "publisher turned away");
    refusal
}

/// What a client asks about a broadcast. Borrows no socket, which another thread may not look at meanwhile.
async fn find(shared: &Shared, stream: &BroadcastId, what: Look) -> Option<Found> {
    if what == Look::Description {
        return (shared.describe)(stream.clone()).await.map(Found::Description);
    }
    let broadcast = shared.finder.find(stream).await.filter(|broadcast| broadcast.status() != Status::Ended)?;
    let renditions = (what == Look::Renditions).then(|| renditions(&broadcast));
    Some(renditions.map_or(Found::Tracks, Found::Renditions))
}

/// The next state of a session.
async fn change(state: &mut watch::Receiver<State>, was: State) -> News {
    match state.wait_for(|state| *state != was).await {
        Ok(state) => News::State(*state),
        Err(_) => News::Over,
    }
}

/// Waits until a broadcast is over, and nobody came back to it.
async fn until_over(broadcast: &Broadcast) {
    let mut news = broadcast.watch();
    // Neither wait fails: the sender lives as long as the broadcast that is borrowed here.
    loop {
        let _ = news.wait_for(|_| broadcast.status() == Status::Ended).await;
        let back = news.wait_for(|_| broadcast.status() != Status::Ended);
        if timeout(RETURN_WITHIN, back).await.is_err() {
            return;
        }
    }
}

/// The picture's qualities that a viewer can be sent; none where there is only sound.
fn renditions(broadcast: &Broadcast) -> Vec<Rendition> {
    let everywhere = Delivery::WebRtc(Accepts::EVERYWHERE);
    let sound = broadcast.choose(Kind::Audio, everywhere);
    let audio_bitrate = sound.map_or(0, |choice| choice.track.stats().bits_per_second);
    let source =
        broadcast.source(Kind::Video).and_then(|source| Some((source.info()?, source.stats().bits_per_second)));
    let rendition = |track: &Arc<Track>, at_rest: u64| {
        // A copy of the source that nobody has asked for yet has the source's size.
        let info = track.info().or_else(|| Some(source.as_ref()?.0.clone()))?;
        let Shape::Video { width, height, .. } = info.shape else { return None };
        let stats = track.stats();
        let video_bitrate = if stats.ring_frames > 0 { stats.bits_per_second } else { at_rest };
        let video_codec = info.codec.name();
        Some(Rendition { stream_width: width, stream_height: height, video_bitrate, audio_bitrate, video_codec })
    };
    let layers = broadcast.layers();
    if layers.len() > 1 {
        return layers.iter().filter_map(|track| rendition(track, 0)).collect();
    }
    let in_full = broadcast.choose(Kind::Video, everywhere);
    let source_bitrate = source.as_ref().map_or(0, |(_, bitrate)| *bitrate);
    let in_full = in_full.and_then(|choice| rendition(&choice.track, source_bitrate));
    let made = broadcast.renditions();
    let made = made.iter().filter_map(|(made, track)| rendition(track, u64::from(made.video_kbps) * 1_000));
    in_full.into_iter().chain(made).collect()
}

impl From<Busy> for Refusal {
    fn from(busy: Busy) -> Self {
        match busy {
            Busy::Full => Self::Full(busy.to_string()),
            Busy::Draining | Busy::Stopping => Self::Stopping,
        }
    }
}

impl From<JoinError> for Refusal {
    fn from(error: JoinError) -> Self {
        let text = error.to_string();
        match error {
            JoinError::Sdp(_) => Self::Sdp(text),
            JoinError::Busy => Self::Busy(text),
            JoinError::Full { .. } => Self::Full(text),
        }
    }
}
