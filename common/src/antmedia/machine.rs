//! The protocol: one client's socket, on which it publishes and plays any number of streams, each under its id.
//!
//! | publishing | playing |
//! |---|---|
//! | client: `publish` | client: `play` |
//! | server: `start` | server: `takeConfiguration`, an offer |
//! | client: `takeConfiguration`, an offer | client: `takeConfiguration`, its answer |
//! | server: `takeConfiguration`, the answer | |
//! | server: `publish_started` once media flows | server: `play_started` once media flows |
//! | client: `stop` | client: `stop` |
//! | server: `publish_finished` | server: `play_finished` |
//!
//! In: messages, and the [`Outcome`] of each [`Action`]. Out: actions. Deliberately absent: sockets, time, and what an
//! action takes. One stream id is never published and played, nor either of them twice, on one socket: the SDK keeps its
//! connections by stream id. Whoever runs this holds things under a [`Ticket`] until [`Action::Close`] and no longer;
//! an outcome that comes later is answered with another `Close`.

use std::collections::BTreeMap;

use super::{
    action::{Action, Ending, Found, Look, Outcome, Refusal, Ticket},
    message::Message,
    reply::{Definition, Notification, Reply},
};
use crate::{
    ice_servers::IceServer,
    live::{BroadcastId, IdError},
    media::Kind,
};

/// A multi-view page plays a few dozen streams over one socket.
const STREAMS_MAX: usize = 64;

/// How far a stream has come on this socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Published: the client may send its offer.
    Started,
    /// Published: its offer is being answered, or media has not begun.
    Offered,
    Publishing,
    /// Played: an offer is being made.
    Asked,
    /// Played: nobody publishes it yet.
    Awaited,
    /// Played: the client has the offer.
    Invited,
    /// Played: its answer is being taken, or media has not begun.
    Answered,
    Playing,
}

#[derive(Debug)]
struct Stream {
    ticket: Ticket,
    step: Step,
    /// What a publisher shows for being let in.
    token: String,
}

#[derive(Debug)]
pub struct Machine {
    app: String,
    streams: BTreeMap<BroadcastId, Stream>,
    tickets: u64,
    leaves: bool,
}

impl Machine {
    /// For a socket of this application.
    pub fn new(app: impl Into<String>) -> Self {
        Self { app: app.into(), streams: BTreeMap::new(), tickets: 0, leaves: false }
    }

    /// What a client's message comes to.
    pub fn receive(&mut self, text: &str) -> Vec<Action> {
        let message = match Message::parse(text) {
            Ok(message) => message,
            Err(error) => {
                let information = format!("this is not a message: {error}");
                return reply(Reply::error(Definition::MessageNotReadable, None, information));
            }
        };
        match (&*message.text("command"), self.stream_named_in(&message)) {
            ("ping", _) => reply(Reply::Pong),
            // Sent as soon as the socket opens.
            ("getIceServerConfig", _) => vec![Action::ListIceServers],
            ("", _) => reply(Reply::error(Definition::MissingParameter, None, "there is no command")),

            ("joinRoom" | "leaveFromRoom" | "getRoomInfo", _) => {
                reply(Reply::error(Definition::NoActiveStreamsInRoom, None, "there are no rooms here"))
            }
            ("join" | "leave" | "peerMessageCommand", _) => {
                let information = "peers are not connected to each other here";
                reply(Reply::error(Definition::NoPeerAssociatedBefore, None, information))
            }
            ("registerPushNotificationToken" | "sendPushNotification", _) => {
                let information = "push messages are not sent from here";
                notify(Notification::PushNotificationsNotSupported { success: false, information })
            }

            (_, Err(error)) => reply(error),
            ("publish", Ok(id)) => self.publish(id, &message),
            ("play", Ok(id)) => self.play(id),
            ("takeConfiguration", Ok(id)) => self.take_description(&id, &message),
            // An ICE-lite server learns where the client is from its checks.
            ("takeCandidate", Ok(_)) => Vec::new(),
            ("stop", Ok(id)) => self.stop(&id),
            ("forceStreamQuality", Ok(id)) => {
                let height = message.height("streamHeight");
                self.on_played(&id, |ticket| vec![Action::Quality { ticket, height }])
            }
            ("toggleVideo", Ok(id)) => self.enable(&id, &message, &[Kind::Video]),
            ("toggleAudio", Ok(id)) => self.enable(&id, &message, &[Kind::Audio]),
            ("enableTrack", Ok(id)) => self.enable(&id, &message, &[Kind::Video, Kind::Audio]),
            ("getStreamInfo", Ok(stream)) => vec![Action::Look { stream, what: Look::Renditions }],
            ("getBroadcastObject", Ok(stream)) => vec![Action::Look { stream, what: Look::Description }],
            ("getTrackList", Ok(stream)) => vec![Action::Look { stream, what: Look::Tracks }],
            (_, Ok(id)) => {
                reply(Reply::error(Definition::CommandNotSupported, Some(&id), "this command is not known here"))
            }
        }
    }

    /// What became of an action.
    pub fn outcome(&mut self, ticket: Ticket, outcome: Outcome) -> Vec<Action> {
        let Some((id, stream)) = self.streams.iter_mut().find(|(_, stream)| stream.ticket == ticket) else {
            return vec![Action::Close(ticket)];
        };
        let (id, stream_id) = (id.clone(), id.stream().to_owned());
        match (stream.step, outcome) {
            (Step::Offered, Outcome::Answer(sdp)) => {
                reply(Reply::TakeConfiguration { stream_id, r#type: "answer", sdp, id_mapping: None })
            }
            (Step::Asked, Outcome::Offer(sdp)) => {
                stream.step = Step::Invited;
                let id_mapping = Some(sections(&sdp).map(|mid| (mid.to_owned(), stream_id.clone())).collect());
                reply(Reply::TakeConfiguration { stream_id, r#type: "offer", sdp, id_mapping })
            }
            (Step::Asked, Outcome::Absent) => {
                stream.step = Step::Awaited;
                reply(Reply::no_stream(&id, Some("stream_not_exist_or_not_streaming")))
            }
            // The client plays anew when it hears this.
            (Step::Awaited, Outcome::Live) => {
                self.close(&id, vec![Reply::Notification(Notification::StreamingStarted { stream_id })])
            }
            (Step::Offered, Outcome::Running) => {
                stream.step = Step::Publishing;
                notify(Notification::PublishStarted { stream_id })
            }
            (Step::Answered, Outcome::Running) => {
                stream.step = Step::Playing;
                notify(Notification::PlayStarted { stream_id })
            }
            (Step::Playing, Outcome::Measured(measured)) => {
                notify(Notification::BitrateMeasurement { stream_id, measured })
            }
            (_, Outcome::Refused(refusal)) => self.refuse(&id, refusal),
            (step, Outcome::Ended(ending)) => self.close(&id, farewell(&id, step, ending)),
            // News that this step has no use for.
            _ => Vec::new(),
        }
    }

    /// It is time to tell the client how what it plays arrives.
    pub fn measure(&self) -> Vec<Action> {
        let played = self.streams.values().filter(|stream| stream.step == Step::Playing);
        played.map(|stream| Action::Measure(stream.ticket)).collect()
    }

    /// The client is to connect elsewhere. Media goes on until it does.
    pub fn send_away(&mut self) -> Vec<Action> {
        self.leaves = true;
        notify(Notification::ServerWillStop)
    }

    /// A client that did not heed that may stay.
    pub fn keep(&mut self) {
        self.leaves = false;
    }

    pub fn publishes(&self) -> bool {
        let publishes = |stream: &Stream| matches!(stream.step, Step::Started | Step::Offered | Step::Publishing);
        self.streams.values().any(publishes)
    }

    /// Answers [`Action::Look`]; `None`: there is no such broadcast.
    pub fn found(stream: &BroadcastId, found: Option<Found>) -> Reply {
        let stream_id = stream.stream().to_owned();
        match found {
            None => Reply::no_stream(stream, None),
            Some(Found::Renditions(stream_info)) => Reply::StreamInformation { stream_id, stream_info },
            Some(Found::Tracks) => Reply::TrackList { track_list: vec![stream_id.clone()], stream_id },
            Some(Found::Description(broadcast)) => {
                Reply::Notification(Notification::BroadcastObject { stream_id, broadcast })
            }
        }
    }

    /// Answers [`Action::ListIceServers`].
    pub fn ice_servers(servers: &[IceServer]) -> Reply {
        Reply::ice_server(servers)
    }

    fn publish(&mut self, id: BroadcastId, message: &Message) -> Vec<Action> {
        if !message.text("mainTrack").is_empty() {
            let information = "a stream can't be published into another one";
            return reply(Reply::error(Definition::CommandNotSupported, Some(&id), information));
        }
        match self.admit(&id, Step::Started, message.text("token").into_owned()) {
            Ok(_) => reply(Reply::Start { stream_id: id.stream().to_owned() }),
            Err(error) => reply(error),
        }
    }

    fn play(&mut self, id: BroadcastId) -> Vec<Action> {
        // Who plays again while it waits only asks once more.
        let waited = self.streams.get(&id).filter(|stream| stream.step == Step::Awaited).map(|stream| stream.ticket);
        let mut actions = Vec::new();
        if let Some(ticket) = waited {
            self.streams.remove(&id);
            actions.push(Action::Close(ticket));
        }
        actions.push(match self.admit(&id, Step::Asked, String::new()) {
            Ok(ticket) => Action::Invite { ticket, stream: id },
            Err(error) => Action::Send(error),
        });
        actions
    }

    /// Gives the stream a place on this socket.
    fn admit(&mut self, id: &BroadcastId, step: Step, token: String) -> Result<Ticket, Reply> {
        if self.leaves {
            return Err(Reply::Notification(Notification::ServerWillStop));
        }
        match self.streams.get(id).map(|stream| stream.step) {
            Some(Step::Started | Step::Offered | Step::Publishing) => {
                let information = "this connection publishes it, stop that first";
                return Err(Reply::error(Definition::AlreadyPublishing, Some(id), information));
            }
            Some(_) => {
                let information = "this connection plays it, stop that first";
                return Err(Reply::error(Definition::AlreadyPlaying, Some(id), information));
            }
            None if self.streams.len() >= STREAMS_MAX => {
                let information = format!("this connection has the {STREAMS_MAX} streams it may have");
                return Err(Reply::error(Definition::HighResourceUsage, Some(id), information));
            }
            None => {}
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.streams.insert(id.clone(), Stream { ticket, step, token });
        Ok(ticket)
    }

    /// By itself the SDK would ask a full node again, over this very connection. Told that the node stops, it connects anew,
    /// and so to another one. It is not told where that would end something else that it has here.
    fn refuse(&mut self, id: &BroadcastId, refusal: Refusal) -> Vec<Action> {
        let is_full = matches!(refusal, Refusal::Full(_));
        let mut actions = self.close(id, vec![refused(id, refusal)]);
        if is_full && self.streams.is_empty() {
            actions.extend(notify(Notification::ServerWillStop));
        }
        actions
    }

    fn take_description(&mut self, id: &BroadcastId, message: &Message) -> Vec<Action> {
        let Some(stream) = self.streams.get_mut(id) else { return not_streaming(id) };
        let (ticket, sdp) = (stream.ticket, message.text("sdp").into_owned());
        match (stream.step, &*message.text("type")) {
            (Step::Started, "offer") => {
                stream.step = Step::Offered;
                let token = std::mem::take(&mut stream.token);
                vec![Action::Publish { ticket, stream: id.clone(), token, offer: sdp }]
            }
            (Step::Invited, "answer") => {
                stream.step = Step::Answered;
                vec![Action::Accept { ticket, answer: sdp }]
            }
            (_, kind) => {
                let kind: String = kind.chars().take(16).collect();
                let information = format!("no description of type {kind:?} was waited for");
                reply(Reply::error(Definition::NotSetRemoteDescription, Some(id), information))
            }
        }
    }

    /// What is not there is stopped already: the SDK says so before it tries again.
    fn stop(&mut self, id: &BroadcastId) -> Vec<Action> {
        let stream_id = id.stream().to_owned();
        let farewell = match self.streams.get(id).map(|stream| stream.step) {
            None => return Vec::new(),
            Some(Step::Awaited) => Vec::new(),
            Some(Step::Started | Step::Offered | Step::Publishing) => {
                vec![Reply::Notification(Notification::PublishFinished { stream_id })]
            }
            Some(Step::Asked | Step::Invited | Step::Answered | Step::Playing) => {
                vec![Reply::Notification(Notification::PlayFinished { stream_id })]
            }
        };
        self.close(id, farewell)
    }

    fn enable(&mut self, id: &BroadcastId, message: &Message, kinds: &[Kind]) -> Vec<Action> {
        let (track, enabled) = (message.text("trackId"), message.is_on("enabled"));
        if !track.is_empty() && track != id.stream() {
            return reply(Reply::error(Definition::NotStreaming, Some(id), "it has no such track, only itself"));
        }
        self.on_played(id, |ticket| kinds.iter().map(|&kind| Action::Enable { ticket, kind, enabled }).collect())
    }

    /// Something about a stream that the client plays, or is about to have played.
    fn on_played(&self, id: &BroadcastId, act: impl FnOnce(Ticket) -> Vec<Action>) -> Vec<Action> {
        match self.streams.get(id) {
            Some(Stream { ticket, step: Step::Answered | Step::Playing, .. }) => act(*ticket),
            _ => not_streaming(id),
        }
    }

    fn close(&mut self, id: &BroadcastId, farewell: Vec<Reply>) -> Vec<Action> {
        let Some(stream) = self.streams.remove(id) else { return Vec::new() };
        let replies = farewell.into_iter().map(Action::Send);
        std::iter::once(Action::Close(stream.ticket)).chain(replies).collect()
    }

    fn stream_named_in(&self, message: &Message) -> Result<BroadcastId, Reply> {
        BroadcastId::new(&self.app, &message.text("streamId")).map_err(|error| {
            let definition = match error {
                IdError::Empty { .. } => Definition::NoStreamNameSpecified,
                _ => Definition::InvalidStreamName,
            };
            Reply::error(definition, None, error.to_string())
        })
    }
}

fn reply(reply: Reply) -> Vec<Action> {
    vec![Action::Send(reply)]
}

fn notify(notification: Notification) -> Vec<Action> {
    reply(Reply::Notification(notification))
}

fn not_streaming(id: &BroadcastId) -> Vec<Action> {
    reply(Reply::error(Definition::NotStreaming, Some(id), "this connection has no such stream"))
}

fn refused(id: &BroadcastId, refusal: Refusal) -> Reply {
    let (definition, text) = match refusal {
        Refusal::InUse(text) => (Definition::StreamIdInUse, text),
        Refusal::Unauthorized(text) => (Definition::Unauthorized, text),
        // The web player goes on with HLS.
        Refusal::Sdp(text) => (Definition::NotSetRemoteDescription, text),
        Refusal::Full(text) | Refusal::Busy(text) => (Definition::HighResourceUsage, text),
        Refusal::Registry(text) => (Definition::DataStoreNotAvailable, text),
        Refusal::Elsewhere(text) => (Definition::CommandNotSupported, text.to_owned()),
        Refusal::Stopping => return Reply::Notification(Notification::ServerWillStop),
    };
    Reply::error(definition, Some(id), text)
}

/// What a client hears of a stream that it did not stop itself.
fn farewell(id: &BroadcastId, step: Step, ending: Ending) -> Vec<Reply> {
    let stream_id = id.stream().to_owned();
    match (step, ending) {
        // Without `stop` the SDK would take the broadcast back, and its new publisher, if that is one, likewise.
        (Step::Started | Step::Offered | Step::Publishing, Ending::Replaced) => vec![
            Reply::error(Definition::StreamIdInUse, Some(id), "another publisher took it over"),
            Reply::Stop { stream_id: stream_id.clone() },
            Reply::Notification(Notification::PublishFinished { stream_id }),
        ],
        (Step::Started | Step::Offered | Step::Publishing, Ending::Stopped) => vec![
            Reply::Stop { stream_id: stream_id.clone() },
            Reply::Notification(Notification::PublishFinished { stream_id }),
        ],
        (Step::Publishing, Ending::Over) => vec![Reply::Notification(Notification::PublishFinished { stream_id })],
        (Step::Started | Step::Offered, Ending::Over) => {
            vec![Reply::error(Definition::PublishTimeout, Some(id), "no media arrived")]
        }
        (Step::Awaited, _) => Vec::new(),
        (Step::Asked | Step::Invited | Step::Answered | Step::Playing, _) => {
            vec![Reply::Notification(Notification::PlayFinished { stream_id })]
        }
    }
}

/// The `mid` of every section of a description.
fn sections(sdp: &str) -> impl Iterator<Item = &str> {
    sdp.lines().filter_map(|line| line.strip_prefix("a=mid:")).map(str::trim)
}
