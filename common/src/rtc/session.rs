//! One peer: its WebRTC stack, and what it is here for.
//!
//! In: what was agreed on with the peer, the peer's packets, the time. Out: datagrams, and what its shard has to do for
//! it ([`Outcome`]). What it sends or is sent lies in [`Viewing`] and [`Publishing`]. Deliberately absent: sockets,
//! other sessions.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use str0m::{
    Event, IceConnectionState, Input, Output, PacerReason, Reason, Rtc, RtcError,
    change::{SdpAnswer, SdpOffer, SdpPendingOffer},
    media::Mid,
    net::{Protocol, Transmit},
    stats::PeerStats,
};

use super::{
    Quality, Restarted,
    answer::{FIRST_ESTIMATE, Mids, sections},
    channel::Channels,
    exchange::Message,
    formats::Formats,
    net::Outbox,
    publishing::Publishing,
    roster::{Card, Ice, PENDING_PATIENCE, State},
    sdp::{self, Fragment, SdpError},
    tcp::TcpOut,
    viewing::{Clock, Viewing, index},
};
use crate::{intake::Intake, live::Fenced, media::Kind};

/// Addresses that one session may be reached from at a time (interfaces, NAT rebindings, TCP connections).
const ADDRESSES_MAX: usize = 32;

/// A publisher that nobody has let in or refused so long after the latest time to connect is refused. Registries answer
/// sooner, or fail.
const ENTRY_PATIENCE: Duration = Duration::from_secs(10);

/// Why a stack that estimates wants to be called when it has packets left. It calls each a microsecond later.
const NEXT_PACKET: Reason = Reason::Pacer(PacerReason::Immediate);
const FLUSH_MAX: Duration = Duration::from_millis(5);
/// Reports on every packet come ten times a second at least. Who is silent for so long could not be reached.
const SILENCE: Duration = Duration::from_secs(1);

/// What the shard has to do after a session was driven.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outcome {
    pub(super) connected: bool,
    pub(super) picture_wanted: bool,
    /// Nothing newer can be sent before the next keyframe.
    pub(super) keyframe_wanted: bool,
    pub(super) over: Option<End>,
}

impl Outcome {
    /// What came first is the reason; what is heard after that follows from it.
    pub(super) fn end(&mut self, end: End) {
        self.over.get_or_insert(end);
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By its own signalling, or because the node stops.
    Asked,
    /// This node drains, and waited for it to go.
    SentAway,
    /// The peer closed the connection.
    Left,
    /// Nothing was heard of the peer any more (RFC 7675).
    Vanished,
    BroadcastGone,
    /// Another publisher took the broadcast.
    Replaced,
    /// The operator stopped the broadcast.
    Stopped,
    /// It is connected and was not let in.
    Refused,
    Failed,
    Panicked,
}

impl From<Fenced> for End {
    fn from(fenced: Fenced) -> Self {
        match fenced {
            Fenced::Replaced => Self::Replaced,
            Fenced::Stopped => Self::Stopped,
        }
    }
}

/// Section, payload types and whether the playout-delay extension is taken; video, audio.
pub(super) type Sections = [Option<(Mid, Formats, bool)>; 2];

/// A WebRTC stack that has said what it will do.
pub(super) struct Agreed {
    pub(super) rtc: Rtc,
    /// For the peer: an answer, or an offer.
    pub(super) sdp: String,
    pub(super) peer: Peer,
    pub(super) ice: Ice,
}

impl Agreed {
    /// By answering what the peer offers.
    pub(super) fn by_answering(mut rtc: Rtc, offer: String) -> Result<Self, SdpError> {
        let accepted = sdp::guarded(|| SdpOffer::from_sdp_string(&offer))?;
        let sdp = sdp::guarded(|| rtc.sdp_api().accept_offer(accepted))?.to_sdp_string();
        let remote_ufrag = sdp::ufrag_of(&offer).unwrap_or_default().to_owned();
        let ice = Ice { local_ufrag: rtc.direct_api().local_ice_credentials().ufrag, remote_ufrag };
        Ok(Self { rtc, sdp, peer: Peer::Offered(offer.into()), ice })
    }
}

/// How the peer's side of the agreement is known.
pub(super) enum Peer {
    /// By its offer, as the stack took it: an ICE restart is told as the same offer with other credentials.
    Offered(Box<str>),
    /// Not yet: it was made an offer.
    Invited { pending: SdpPendingOffer, mids: Mids },
    /// By its answer.
    Answered,
}

pub(super) struct Session {
    rtc: Rtc,
    pub(super) card: Arc<Card>,
    pub(super) part: Part,
    pub(super) channels: Channels,
    peer: Peer,
    pub(super) connected: bool,
    timeout: Instant,
    /// When its bytes were counted last.
    counted: Instant,
    pub(super) addresses: Vec<SocketAddr>,
    tcp: Vec<(SocketAddr, TcpOut)>,
    /// Where the peer's media and reports last came from: the way that it has chosen, and that it is answered on. Its
    /// checks alone don't tell: an ICE-lite stack would stay with an address that the peer has lost until no check
    /// has come from there for 15 seconds.
    heard: Option<Heard>,
    dropped: u64,
}

/// From one address of this machine to one of the peer's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Route {
    pub(super) proto: Protocol,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
}

/// When the peer was heard last, apart from checks.
#[derive(Debug)]
struct Heard {
    route: Route,
    at: Instant,
    /// So many had been sent to it by then.
    packets: u64,
}

impl Heard {
    /// A viewer that reports on every packet has said nothing of any of those that were sent since.
    fn is_overdue(&self, viewing: &Viewing, now: Instant) -> bool {
        let silent = now.saturating_duration_since(self.at) >= SILENCE;
        silent && viewing.packets > self.packets && viewing.path.probes()
    }
}

/// Whether a datagram is one of ICE's (RFC 7983 section 7).
pub(super) fn is_check(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|byte| *byte < 4)
}

/// What a peer is here for.
#[expect(clippy::large_enum_variant, reason = "a session lies in a box already, and nearly all are viewers'")]
pub(super) enum Part {
    Viewer(Viewing),
    Publisher(Box<Publishing>),
}

impl Session {
    pub(super) fn new(agreed: Agreed, card: Arc<Card>, part: Part, channels: Channels, now: Instant) -> Self {
        let Agreed { rtc, peer, .. } = agreed;
        Self {
            rtc,
            card,
            part,
            channels,
            peer,
            connected: false,
            timeout: now,
            counted: now,
            addresses: Vec::new(),
            tcp: Vec::new(),
            heard: None,
            dropped: 0,
        }
    }

    pub(super) fn viewing(&self) -> Option<&Viewing> {
        match &self.part {
            Part::Viewer(viewing) => Some(viewing),
            Part::Publisher(_) => None,
        }
    }

    /// With its stack, which is what a viewer's packets go to.
    pub(super) fn viewing_mut(&mut self) -> Option<(&mut Viewing, &mut Rtc)> {
        match &mut self.part {
            Part::Viewer(viewing) => Some((viewing, &mut self.rtc)),
            Part::Publisher(_) => None,
        }
    }

    /// When it wants to be driven next, whatever arrives until then.
    pub(super) fn deadline(&self) -> Instant {
        let pace_at = self.viewing().and_then(|viewing| viewing.pace_at);
        [pace_at, self.patience().map(|(until, _)| until)].into_iter().flatten().fold(self.timeout, Instant::min)
    }

    /// Lets leave what pacing allows, then drives the stack once for all of it.
    pub(super) fn flush(&mut self, clock: &Clock, outbox: &mut Outbox) -> Result<Outcome, RtcError> {
        let keyframe_wanted = match &mut self.part {
            Part::Viewer(viewing) => viewing.send(&mut self.rtc, clock),
            Part::Publisher(_) => false,
        };
        let outcome = self.drive(Input::Timeout(clock.now), outbox)?;
        Ok(Outcome { keyframe_wanted, ..outcome })
    }

    /// Others said something.
    pub(super) fn tell(
        &mut self,
        messages: &[Arc<Message>],
        now: Instant,
        outbox: &mut Outbox,
    ) -> Result<Outcome, RtcError> {
        if let Some(end) = self.lost() {
            return Ok(Outcome { over: Some(end), ..Outcome::default() });
        }
        if !self.channels.tell(messages, &self.card, &mut self.rtc) {
            return Ok(Outcome::default());
        }
        self.drive(Input::Timeout(now), outbox)
    }

    /// This node says something to the player.
    pub(super) fn instruct(&mut self, text: &str, now: Instant, outbox: &mut Outbox) -> Result<Outcome, RtcError> {
        if !self.channels.instruct(text, &mut self.rtc) {
            return Ok(Outcome::default());
        }
        self.drive(Input::Timeout(now), outbox)
    }

    /// To be called by its shard when a publisher is connected.
    pub(super) fn knock(&mut self, shard: usize) {
        if let Part::Publisher(publishing) = &mut self.part {
            publishing.connected(shard);
        }
    }

    /// A publisher that is connected is given its broadcast, or isn't.
    pub(super) fn let_in(
        &mut self,
        intake: Option<Box<Intake>>,
        now: Instant,
        outbox: &mut Outbox,
    ) -> Result<Outcome, RtcError> {
        let mut outcome = Outcome::default();
        let (Part::Publisher(publishing), Some(intake)) = (&mut self.part, intake) else {
            outcome.end(End::Refused);
            return Ok(outcome);
        };
        let said = publishing.let_in(intake, &mut self.rtc, &self.card, &mut outcome);
        self.card.set_state(State::Connected);
        for data in said {
            self.channels.heard(data, &self.card, &mut self.rtc, now);
        }
        // It may have been asked for a keyframe.
        let driven = self.drive(Input::Timeout(now), outbox)?;
        Ok(Outcome { over: outcome.over.or(driven.over), ..driven })
    }

    /// Whether it can be told what others say.
    pub(super) fn listens(&self) -> bool {
        let is_let_in = match &self.part {
            Part::Viewer(_) => true,
            Part::Publisher(publishing) => publishing.is_let_in(),
        };
        is_let_in && self.channels.listens()
    }

    /// A publisher may have lost its broadcast. One that sends no media would not learn it from the hall.
    fn lost(&self) -> Option<End> {
        match &self.part {
            Part::Publisher(publishing) => publishing.fenced().map(End::from),
            Part::Viewer(_) => None,
        }
    }

    /// Whether a check was made with this session's credentials.
    pub(super) fn accepts(&self, input: &Input<'_>) -> bool {
        self.rtc.accepts(input)
    }

    /// Feeds the stack one thing and empties it.
    pub(super) fn drive(&mut self, input: Input<'_>, outbox: &mut Outbox) -> Result<Outcome, RtcError> {
        let (Input::Timeout(now) | Input::Receive(now, _)) = input;
        self.rtc.handle_input(input)?;
        let mut outcome = Outcome::default();
        loop {
            match self.rtc.poll_output()? {
                // A stack that estimates lets go of one packet per call of its timer, a microsecond apart. All of them
                // at once is what offload needs; that they are not too many is our own pacer's business.
                Output::Timeout(at) if self.rtc.last_timeout_reason() == NEXT_PACKET && at < now + FLUSH_MAX => {
                    self.rtc.handle_input(Input::Timeout(at))?;
                }
                Output::Timeout(at) => {
                    self.timeout = at;
                    break;
                }
                Output::Transmit(transmit) => self.transmit(transmit, outbox),
                Output::Event(event) => self.event(event, now, &mut outcome),
            }
        }
        if !self.rtc.is_alive() {
            outcome.end(End::Failed);
        }
        Ok(outcome)
    }

    /// Until when it may go on without having come further, and what it is after that.
    fn patience(&self) -> Option<(Instant, End)> {
        match &self.part {
            _ if !self.connected => Some((self.card.began + PENDING_PATIENCE, End::Vanished)),
            Part::Publisher(publishing) if !publishing.is_let_in() => {
                Some((self.card.began + PENDING_PATIENCE + ENTRY_PATIENCE, End::Refused))
            }
            _ => None,
        }
    }

    /// What it is if it has taken too long, or has lost what it was here for.
    pub(super) fn expired(&self, now: Instant) -> Option<End> {
        let late = self.patience().filter(|(until, _)| *until <= now).map(|(_, end)| end);
        late.or_else(|| self.lost())
    }

    fn transmit(&mut self, transmit: Transmit, outbox: &mut Outbox) {
        let asked = Route { proto: transmit.proto, local: transmit.source, peer: transmit.destination };
        let route =
            if is_check(&transmit.contents) { asked } else { self.heard.as_ref().map_or(asked, |heard| heard.route) };
        match route.proto {
            Protocol::Udp => {
                let from = outbox.source(route.local.ip());
                outbox.push(route.peer, from, &transmit.contents);
            }
            _ => {
                outbox.sent_bytes += transmit.contents.len() as u64;
                let out = self.tcp.iter().find(|(address, _)| *address == route.peer);
                if !out.is_some_and(|(_, out)| out.send(transmit.contents)) {
                    self.dropped += 1;
                }
            }
        }
    }

    fn event(&mut self, event: Event, now: Instant, outcome: &mut Outcome) {
        let event = match &mut self.part {
            Part::Viewer(_) => event,
            Part::Publisher(publishing) => match publishing.hold(event) {
                Some(event) => event,
                None => return,
            },
        };
        match event {
            Event::Connected => {
                self.connected = true;
                outcome.connected = true;
                if matches!(self.part, Part::Viewer(_)) {
                    self.card.set_state(State::Connected);
                }
            }
            // Consent has expired: an ICE-lite agent sees that by checks that no longer come.
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => outcome.end(End::Vanished),
            Event::Closed => outcome.end(End::Left),
            Event::PeerStats(peer) => {
                if let Part::Viewer(viewing) = &mut self.part {
                    if viewing.path.begins(now) {
                        self.rtc.bwe().reset(FIRST_ESTIMATE);
                    }
                    if let Some(lost) = peer.egress_loss_fraction {
                        viewing.path.loses(lost);
                    }
                }
                self.peer_stats(&peer);
            }
            Event::ChannelOpen(id, label) => self.channels.opened(id, &label, &self.card, &mut self.rtc),
            Event::ChannelData(data) => match self.lost() {
                Some(end) => outcome.end(end),
                None => self.channels.heard(data, &self.card, &mut self.rtc, now),
            },
            Event::ChannelClose(id) => self.channels.closed(id, &self.card),
            event => match &mut self.part {
                Part::Viewer(viewing) => viewing.event(&event, &self.card, now, outcome),
                Part::Publisher(publishing) => publishing.event(event, &mut self.rtc, &self.card, outcome),
            },
        }
    }

    fn peer_stats(&mut self, peer: &PeerStats) {
        let elapsed_ms = peer.timestamp.saturating_duration_since(self.counted).as_millis().max(1) as u64;
        self.counted = peer.timestamp;
        self.card.update(|stats| {
            stats.send_bps = peer.peer_bytes_tx.saturating_sub(stats.bytes_sent) * 8_000 / elapsed_ms;
            stats.receive_bps = peer.peer_bytes_rx.saturating_sub(stats.bytes_received) * 8_000 / elapsed_ms;
            (stats.bytes_sent, stats.bytes_received) = (peer.peer_bytes_tx, peer.peer_bytes_rx);
            if let Some(viewing) = self.viewing() {
                (stats.packets_sent, stats.skipped) = (viewing.packets, viewing.dropped);
                stats.limit_bps = viewing.limit_bps(peer.timestamp);
            }
            let messages = self.channels.counts;
            (stats.messages_sent, stats.messages_received) = (messages.sent, messages.received);
            stats.messages_dropped = messages.dropped;
            stats.rtt_ms = peer.rtt.map(|rtt| rtt.as_secs_f32() * 1_000.0).or(stats.rtt_ms);
            stats.lost_percent = peer.egress_loss_fraction.map(|loss| loss * 100.0).or(stats.lost_percent);
            if let Some(pair) = &peer.selected_candidate_pair {
                stats.protocol = if pair.protocol == Protocol::Udp { "udp" } else { "tcp" };
                stats.local = pair.local.addr.to_string();
                stats.remote = pair.remote.addr.to_string();
            }
        });
    }

    /// The peer was heard from here. `false` when it has too many addresses already.
    pub(super) fn learn(&mut self, address: SocketAddr, tcp: Option<TcpOut>) -> bool {
        if let Some(tcp) = tcp
            && self.tcp.len() < ADDRESSES_MAX
            && !self.tcp.iter().any(|(known, _)| *known == address)
        {
            tcp.claim();
            self.tcp.push((address, tcp));
        }
        if self.addresses.contains(&address) {
            return true;
        }
        let room = self.addresses.len() < ADDRESSES_MAX;
        if room {
            self.addresses.push(address);
        }
        room
    }

    /// Something that is no check came this way, on which the peer has made one.
    pub(super) fn heard(&mut self, route: Route, now: Instant) {
        let before =
            self.heard.replace(Heard { route, at: now, packets: self.viewing().map_or(0, |viewing| viewing.packets) });
        if let (Part::Viewer(viewing), Some(before)) = (&mut self.part, before)
            && (before.route != route || before.is_overdue(viewing, now))
        {
            viewing.path.renew(now);
        }
    }

    /// New ICE credentials on both sides (RFC 9725 section 4.3.3); media goes on over the old path meanwhile.
    pub(super) fn restart(&mut self, fragment: &Fragment) -> Result<(Ice, Restarted), SdpError> {
        let Peer::Offered(offer) = &self.peer else { return Err(SdpError::Invited) };
        let text = sdp::restarted(offer, fragment);
        let offer = sdp::guarded(|| SdpOffer::from_sdp_string(&text))?;
        let answer = sdp::guarded(|| self.rtc.sdp_api().accept_offer(offer))?;
        self.peer = Peer::Offered(text.into());
        let local_ufrag = self.rtc.direct_api().local_ice_credentials().ufrag;
        let fragment_text = sdp::fragment_of(&answer.to_sdp_string());
        let ice = Ice { local_ufrag: local_ufrag.clone(), remote_ufrag: fragment.ufrag.clone() };
        Ok((ice, Restarted { etag: local_ufrag, fragment: fragment_text }))
    }

    /// The answer to an invitation.
    pub(super) fn accept(&mut self, text: &str) -> Result<(), SdpError> {
        let answer = sdp::guarded(|| SdpAnswer::from_sdp_string(text))?;
        let Peer::Invited { pending, mids } = std::mem::replace(&mut self.peer, Peer::Answered) else {
            return Err(SdpError::NotInvited);
        };
        sdp::guarded(|| self.rtc.sdp_api().accept_answer(pending, answer))?;
        let ice = Ice { remote_ufrag: sdp::ufrag_of(text).unwrap_or_default().to_owned(), ..self.card.ice() };
        self.card.set_ice(ice);
        if let Part::Viewer(viewing) = &mut self.part {
            let sections = sections(&self.rtc, mids);
            viewing.open(&mut self.rtc, sections);
            let suits = |kind| viewing.broadcast.choose(kind, viewing.delivery(kind)).is_some();
            if ![Kind::Video, Kind::Audio].into_iter().any(suits) {
                return Err(SdpError::NothingAccepted);
            }
        }
        Ok(())
    }

    /// A viewer asks for one quality.
    pub(super) fn pin(&mut self, quality: Quality) {
        if let Part::Viewer(viewing) = &mut self.part {
            viewing.switch.quality = quality;
        }
    }

    /// Whether this changes what is sent.
    pub(super) fn enable(&mut self, kind: Kind, enabled: bool) -> bool {
        self.viewing_mut().is_some_and(|(viewing, _)| viewing.enable(index(kind), enabled))
    }

    /// Over: tells everybody but the peer.
    pub(super) fn settle(&mut self, end: End) {
        if let Part::Publisher(publishing) = &mut self.part {
            publishing.end(end, crate::clock::now_us());
        }
        self.card.set_state(State::Ended(end));
    }

    /// Over: says goodbye to the peer unless it can't be spoken to.
    pub(super) fn end(&mut self, end: End, now: Instant, outbox: &mut Outbox) {
        self.settle(end);
        if !matches!(end, End::Failed | End::Panicked) && self.rtc.close().is_ok() {
            // What can't be said any more need not be.
            let _ = self.drive(Input::Timeout(now), outbox);
        }
        self.tcp.iter().for_each(|(_, tcp)| tcp.close());
    }

    /// Packets and frames that did not leave.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped + self.viewing().map_or(0, |viewing| viewing.dropped)
    }
}
