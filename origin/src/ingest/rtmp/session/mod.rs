//! One publisher's conversation, from the end of the handshake on.
//!
//! In: bytes, and the decision of the machine's owner about a publish request. Out: [`Event`]s, and bytes to send.
//! Deliberately absent: who may publish what, what media bodies contain (that is `flv`), playback, and time: whoever
//! owns the machine decides how long a silent peer is waited for.
//!
//! While a request waits for its decision nothing more is read; TCP holds back the rest. Media of a rejected publisher
//! is therefore never looked at.

mod address;
mod aggregate;
mod capabilities;
mod command;
mod reply;

use bytes::{Bytes, BytesMut};

use super::amf::{self, Value};
use super::chunk::{self, Message, Reader, kind};
use aggregate::Aggregate;
use reply::Replies;

pub use address::{NAME_BYTES_MAX, Query};

/// Of our own, in both directions: how often acknowledgements are due.
const WINDOW_BYTES: u32 = 2_500_000;
/// A peer that wants one more often would be answered with more than it sends.
const WINDOW_BYTES_MIN: u32 = 16 << 10;

#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// To be answered by [`Session::accept_publish`] or [`Session::reject`].
    PublishRequested(PublishRequest),
    Metadata {
        timestamp_ms: i64,
        properties: amf::Properties,
    },
    /// Any other data message: cue points, captions, timecodes.
    Data {
        timestamp_ms: i64,
        name: String,
        values: Vec<Value>,
    },
    /// The body of an FLV video tag.
    Video {
        timestamp_ms: i64,
        body: Bytes,
    },
    /// The body of an FLV audio tag.
    Audio {
        timestamp_ms: i64,
        body: Bytes,
    },
    /// The publisher said that it is done. It may publish again on the same connection.
    Unpublished,
    /// Something unreadable that nothing depends on; the stream goes on.
    Skipped(Error),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    pub app: String,
    pub stream: String,
    pub query: Query,
    pub tc_url: String,
    /// What the publisher calls itself (`flashVer`).
    pub encoder: String,
}

/// How a publisher is turned away. The names are the ones encoders know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The stream name is taken or not one.
    BadName,
    /// Nobody new may publish here now.
    Denied,
    /// Not welcome at all: no such application, or the server is going down.
    Rejected,
}

impl Refusal {
    pub fn code(self) -> &'static str {
        match self {
            Self::BadName => "NetStream.Publish.BadName",
            Self::Denied => "NetStream.Publish.Denied",
            Self::Rejected => "NetConnection.Connect.Rejected",
        }
    }
}

/// `at` counts bytes from the end of the handshake, and is where the message in question ended.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Chunk(#[from] chunk::Error),
    #[error("message of type {kind} ending at byte {at}: {source}")]
    Amf { at: u64, kind: u8, source: amf::Error },
    #[error("message of type {kind} ending at byte {at} does not begin with a name")]
    Nameless { at: u64, kind: u8 },
    #[error("aggregate message ending at byte {at} is cut off inside a tag")]
    Aggregate { at: u64 },
    #[error("control message of type {kind} ending at byte {at} has only {length} bytes")]
    ShortControl { at: u64, kind: u8, length: usize },
    #[error("command {command:?} ending at byte {at} before connect")]
    NotConnected { at: u64, command: String },
    #[error("a second connect ending at byte {at}")]
    ConnectedTwice { at: u64 },
    #[error("no application in the address {tc_url:?}: it has to be rtmp://host/application")]
    NoApplication { tc_url: String },
    #[error("application or stream name of {length} bytes, {NAME_BYTES_MAX} are allowed")]
    NameTooLong { length: usize },
}

#[derive(Default)]
pub struct Session {
    reader: Reader,
    replies: Replies,
    connection: Option<Connection>,
    publication: Publication,
    streams_created: u32,
    aggregate: Option<Aggregate>,
    window_bytes: Option<u32>,
    acknowledged: u64,
}

/// What `connect` told us.
struct Connection {
    app: String,
    query: Query,
    tc_url: String,
    encoder: String,
    reconnects: bool,
}

/// One at a time on a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Publication {
    #[default]
    None,
    /// Waits for the owner.
    Asked {
        stream_id: u32,
        name: String,
    },
    Running {
        stream_id: u32,
    },
}

impl Session {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes from `input` up to the next event; `None` when more has to be received, or a decision made, first. After
    /// an error the connection is to be closed once [`Session::take_output`] is sent: it tells the peer why.
    pub fn next_event(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Error> {
        let event = self.advance(input);
        if let Err(error) = &event {
            self.tell(error);
        }
        event
    }

    /// What is to be sent now. It stays small if it is sent after every event.
    pub fn take_output(&mut self) -> Bytes {
        self.replies.take()
    }

    /// Lets the publisher begin.
    pub fn accept_publish(&mut self) {
        if let Publication::Asked { stream_id, name } = std::mem::take(&mut self.publication) {
            self.replies.stream_begin(stream_id);
            self.replies.status(stream_id, "status", "NetStream.Publish.Start", &format!("{name} is now published."));
            self.publication = Publication::Running { stream_id };
        }
    }

    /// Turns down the pending request, or ends what is being published. The connection is then best closed.
    pub fn reject(&mut self, refusal: Refusal, description: &str) {
        if let Publication::Asked { stream_id, .. } | Publication::Running { stream_id } = self.publication {
            self.replies.status(stream_id, "error", refusal.code(), description);
            self.publication = Publication::None;
        }
    }

    /// Ends what is being published, though nothing is wrong with it. The connection is to be closed then.
    pub fn stop(&mut self, description: &str) {
        if let Publication::Running { stream_id } = self.publication {
            self.replies.status(stream_id, "status", "NetStream.Unpublish.Success", description);
            self.replies.status(0, "status", "NetConnection.Connect.Closed", description);
            self.publication = Publication::None;
        }
    }

    /// Asks the peer to connect anew; `false` if it does not know how to. It goes on here until it has.
    pub fn request_reconnect(&mut self, description: &str) -> bool {
        let knows = self.connection.as_ref().is_some_and(|connection| connection.reconnects);
        if knows {
            self.replies.reconnect_request(description);
        }
        knows
    }

    /// Asks for a sign of life: a peer that is there answers, which counts as received bytes.
    pub fn ping(&mut self, timestamp_ms: u32) {
        self.replies.ping_request(timestamp_ms);
    }

    /// Bytes taken from the input so far.
    pub fn consumed(&self) -> u64 {
        self.reader.consumed()
    }

    /// Bytes held of messages that have not ended.
    pub fn partial_bytes(&self) -> usize {
        self.reader.partial_bytes()
    }

    fn advance(&mut self, input: &mut BytesMut) -> Result<Option<Event>, Error> {
        self.acknowledge(self.reader.consumed() + input.len() as u64);
        while !matches!(self.publication, Publication::Asked { .. }) {
            let event = match self.aggregate.as_mut().map(Aggregate::next) {
                Some(Some(Ok(message))) => self.media(message),
                Some(Some(Err(error))) => Some(Event::Skipped(error)),
                Some(None) => {
                    self.aggregate = None;
                    None
                }
                None => match self.reader.read(input)? {
                    Some(message) => self.message(message)?,
                    None => return Ok(None),
                },
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// The total so far, once per window (§5.4.3).
    fn acknowledge(&mut self, received: u64) {
        if received - self.acknowledged >= u64::from(self.window_bytes.unwrap_or(WINDOW_BYTES)) {
            self.acknowledged = received;
            // The field wraps at 4 GiB.
            self.replies.acknowledgement(received as u32);
        }
    }

    fn message(&mut self, message: Message) -> Result<Option<Event>, Error> {
        Ok(match message.kind {
            kind::USER_CONTROL => {
                self.user_control(&message)?;
                None
            }
            kind::WINDOW_ACK_SIZE => {
                self.window_bytes = Some(self.control_number(&message)?.max(WINDOW_BYTES_MIN));
                None
            }
            kind::COMMAND_AMF0 | kind::COMMAND_AMF3 => match self.command(&message) {
                Err(error @ (Error::Amf { .. } | Error::Nameless { .. })) if self.is_publishing() => {
                    Some(Event::Skipped(error))
                }
                event => event?,
            },
            kind::AGGREGATE => {
                self.aggregate = Some(Aggregate::new(message, self.reader.consumed()));
                None
            }
            // Acknowledgements and bandwidth are about what we send, which is next to nothing.
            _ => self.media(message),
        })
    }

    /// What may also stand in an aggregate.
    fn media(&mut self, message: Message) -> Option<Event> {
        if !self.is_publishing() {
            return None;
        }
        let Message { timestamp_ms, kind, payload: body, .. } = message;
        match kind {
            kind::AUDIO => Some(Event::Audio { timestamp_ms, body }),
            kind::VIDEO => Some(Event::Video { timestamp_ms, body }),
            kind::DATA_AMF0 | kind::DATA_AMF3 => {
                Some(self.data(timestamp_ms, kind, &body).unwrap_or_else(Event::Skipped))
            }
            _ => None,
        }
    }

    fn data(&self, timestamp_ms: i64, kind: u8, body: &[u8]) -> Result<Event, Error> {
        let mut values = self.values(kind, body)?.into_iter();
        let mut name = values.next();
        if name.as_ref().and_then(Value::as_str) == Some("@setDataFrame") {
            name = values.next();
        }
        let name = name.as_ref().and_then(Value::as_str);
        let name = name.ok_or(Error::Nameless { at: self.reader.consumed(), kind })?;
        if name != "onMetaData" {
            return Ok(Event::Data { timestamp_ms, name: name.to_owned(), values: values.collect() });
        }
        let properties = values.find_map(|value| match value {
            Value::Object(properties) => Some(properties),
            _ => None,
        });
        Ok(Event::Metadata { timestamp_ms, properties: properties.unwrap_or_default() })
    }

    fn values(&self, kind: u8, body: &[u8]) -> Result<Vec<Value>, Error> {
        let values = match (kind, body.split_first()) {
            // "AMF3" messages are a format byte and then, nearly always, AMF0 with AMF3 inside by its own marker.
            (kind::COMMAND_AMF3 | kind::DATA_AMF3, Some((0, rest))) => amf::decode_amf0(rest),
            (kind::COMMAND_AMF3 | kind::DATA_AMF3, Some((3, rest))) => amf::decode_amf3(rest),
            _ => amf::decode_amf0(body),
        };
        values.map_err(|source| Error::Amf { at: self.reader.consumed(), kind, source })
    }

    fn user_control(&mut self, message: &Message) -> Result<(), Error> {
        const PING_REQUEST: u16 = 6;
        let event = message.payload.first_chunk().copied().map(u16::from_be_bytes);
        if event == Some(PING_REQUEST)
            && let Some(timestamp) = message.payload[2..].first_chunk().copied().map(u32::from_be_bytes)
        {
            self.replies.ping_response(timestamp);
        }
        event.map(drop).ok_or_else(|| self.short_control(message))
    }

    fn control_number(&self, message: &Message) -> Result<u32, Error> {
        let number = message.payload.first_chunk().copied().map(u32::from_be_bytes);
        number.ok_or_else(|| self.short_control(message))
    }

    fn short_control(&self, message: &Message) -> Error {
        Error::ShortControl { at: self.reader.consumed(), kind: message.kind, length: message.payload.len() }
    }

    fn is_publishing(&self) -> bool {
        matches!(self.publication, Publication::Running { .. })
    }

    /// The peer shows its user the reason, where the protocol has a place for it.
    fn tell(&mut self, error: &Error) {
        match (&self.publication, &self.connection) {
            (&Publication::Running { stream_id } | &Publication::Asked { stream_id, .. }, _) => {
                self.replies.status(stream_id, "error", "NetStream.Failed", &error.to_string());
            }
            (Publication::None, Some(_)) => {
                self.replies.status(0, "error", "NetConnection.Call.Failed", &error.to_string());
            }
            (Publication::None, None) => self.replies.connect_rejected(&error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
