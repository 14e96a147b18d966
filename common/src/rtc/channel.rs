//! One peer's data channels: what it says to others, and what it is told.
//!
//! In: what the WebRTC stack reports of its channels, messages of others. Out: the same messages, text or binary as they
//! came. A peer may open several channels and is heard on all; it is told things on the first. Deliberately absent: other
//! sessions (see `exchange`), what messages mean, and channels agreed on out of band, which tell nobody their names.
//!
//! A player may open one more, named [`CONTROL`]: on that one this node talks to it, and nobody else.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use str0m::{
    Rtc, RtcConfig,
    channel::{ChannelData, ChannelId},
};

use super::{
    budget::{Budget, Rate, Verdict},
    exchange::{Exchange, Message, Speaker, To},
    roster::{Card, Role},
};
use crate::live::BroadcastId;

/// The longest message. Peers are told in SDP; the WebRTC stack ends the session of one that does not care.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// What one peer has been told and has not acknowledged. When full it misses messages, nobody else does.
const UNREAD_BYTES_MAX: usize = 256 * 1024;
/// Further ones are closed at once.
const CHANNELS_MAX: usize = 4;
/// No stream's id, which is what publishers' and players' own channels are named by elsewhere.
const CONTROL: &str = "headwater/control";
/// Gamepads and telemetry say something with every picture; a file in pieces comes as fast as a second video.
const PUBLISHER: Rate = Rate { messages_per_s: 200, bytes_per_s: 256 * 1024 };
const VIEWER: Rate = Rate { messages_per_s: 100, bytes_per_s: 128 * 1024 };

/// Why something can't be said.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SayError {
    #[error("an empty message can't be told")]
    Empty,
    #[error("the message has {length} bytes, at most {MESSAGE_BYTES_MAX} are passed on")]
    TooLong { length: usize },
    #[error("the message is said to be text and is no UTF-8")]
    NotText,
}

/// The WebRTC stack counts an empty message and sends nothing, after which an ordered channel stands still. Receivers
/// take text for UTF-8 (RFC 8831 section 6.6), and some fail where it is not.
pub(super) fn check(binary: bool, data: &[u8]) -> Result<(), SayError> {
    match data.len() {
        0 => Err(SayError::Empty),
        length if length > MESSAGE_BYTES_MAX => Err(SayError::TooLong { length }),
        _ if !binary && std::str::from_utf8(data).is_err() => Err(SayError::NotText),
        _ => Ok(()),
    }
}

/// The bounds above, for the WebRTC stack.
pub(super) fn bounded(config: RtcConfig) -> RtcConfig {
    config.set_sctp_max_message_size(MESSAGE_BYTES_MAX as u32).set_sctp_max_buffered_amount(UNREAD_BYTES_MAX)
}

/// Messages of one session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Either way.
    pub(super) dropped: u64,
}

pub(super) struct Channels {
    exchange: Arc<Exchange>,
    /// Who hears this peer.
    audience: Option<To>,
    open: Vec<ChannelId>,
    control: Option<ChannelId>,
    budget: Budget,
    given_up: bool,
    pub(super) counts: Counts,
}

impl Channels {
    pub(super) fn new(exchange: Arc<Exchange>, broadcast: &BroadcastId, role: Role) -> Self {
        let rate = match role {
            Role::Publisher => PUBLISHER,
            Role::Viewer => VIEWER,
        };
        Self {
            audience: exchange.audience(broadcast, role),
            exchange,
            open: Vec::new(),
            control: None,
            budget: Budget::new(rate),
            given_up: false,
            counts: Counts::default(),
        }
    }

    /// Whether the peer can be told anything.
    pub(super) fn listens(&self) -> bool {
        !self.open.is_empty()
    }

    pub(super) fn opened(&mut self, id: ChannelId, label: &str, card: &Card, rtc: &mut Rtc) {
        if label == CONTROL && card.role == Role::Viewer && self.control.is_none() && !self.given_up {
            self.control = Some(id);
            card.set_hears(true);
        } else if self.given_up || self.open.len() >= CHANNELS_MAX {
            rtc.direct_api().close_data_channel(id);
            self.exchange.door.errors.inc();
        } else {
            self.open.push(id);
        }
    }

    pub(super) fn closed(&mut self, id: ChannelId, card: &Card) {
        self.open.retain(|open| *open != id);
        if self.control == Some(id) {
            self.control = None;
            card.set_hears(false);
        }
    }

    /// This node says something to this player; `false` if it can't.
    pub(super) fn instruct(&mut self, text: &str, rtc: &mut Rtc) -> bool {
        let channel = self.control.and_then(|id| rtc.channel(id));
        channel.is_some_and(|mut channel| matches!(channel.write(false, text.as_bytes()), Ok(true)))
    }

    /// The peer says something.
    pub(super) fn heard(&mut self, data: ChannelData, card: &Card, rtc: &mut Rtc, now: Instant) {
        let ChannelData { id, binary, data } = data;
        if self.control == Some(id) {
            // Nothing is expected there.
            if self.budget.refuse(data.len(), now) == Verdict::GivenUp {
                self.give_up(card, rtc);
            }
            return;
        }
        if !self.open.contains(&id) {
            // On a channel that is being closed.
            return;
        }
        self.counts.received += 1;
        self.exchange.door.received.inc();
        let verdict = match check(binary, &data) {
            Ok(()) => self.budget.spend(data.len(), now),
            Err(_) => self.budget.refuse(data.len(), now),
        };
        match verdict {
            Verdict::Granted => self.pass(binary, data, card, now),
            Verdict::Refused => self.lose(1),
            Verdict::GivenUp => {
                self.lose(1);
                self.give_up(card, rtc);
            }
        }
    }

    fn pass(&mut self, binary: bool, data: Vec<u8>, card: &Card, now: Instant) {
        let Some(to) = self.audience else { return };
        let broadcast = card.broadcast.clone();
        if card.role == Role::Viewer && !self.exchange.grants(&broadcast, data.len(), now) {
            self.lose(1);
            return;
        }
        let from = Speaker::Session(card.id.clone());
        self.exchange.pass(Message { broadcast, from, to, binary, data: Bytes::from(data) });
    }

    fn give_up(&mut self, card: &Card, rtc: &mut Rtc) {
        tracing::warn!(session = %card.id, broadcast = %card.broadcast, role = ?card.role,
            "data channels closed: far too many messages for too long");
        self.exchange.door.errors.inc();
        self.given_up = true;
        for id in self.open.drain(..).chain(self.control.take()) {
            rtc.direct_api().close_data_channel(id);
        }
        card.set_hears(false);
    }

    /// Tells the peer what of this is meant for it, as far as there is room; `false` if that is nothing.
    pub(super) fn tell(&mut self, messages: &[Arc<Message>], card: &Card, rtc: &mut Rtc) -> bool {
        let meant = messages.iter().filter(|message| message.is_for(card));
        let (mut sent, mut lost) = (0, 0);
        for message in meant {
            let channel = self.open.first().and_then(|id| rtc.channel(*id));
            // An error is about this message: longer than the peer takes, or its channel is just being closed.
            let written = channel.map(|mut channel| channel.write(message.binary, &message.data));
            *(if matches!(written, Some(Ok(true))) { &mut sent } else { &mut lost }) += 1;
        }
        self.counts.sent += sent;
        self.exchange.door.sent.inc_by(sent);
        if lost > 0 {
            self.lose(lost);
        }
        sent > 0
    }

    fn lose(&mut self, messages: u64) {
        self.counts.dropped += messages;
        self.exchange.door.dropped.inc_by(messages);
    }
}
