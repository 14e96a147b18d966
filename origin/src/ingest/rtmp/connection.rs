//! One publisher's connection: the loop around handshake, session and publication.
//!
//! In: a byte stream (TCP, or TLS on it). Out: frames in the hall. Nothing queues here: what is not read yet waits in
//! the socket, and TCP pushes back.

use std::{io, net::SocketAddr, pin::pin, time::Duration};

use bytes::{Bytes, BytesMut};
use headwater_common::{
    clock::now_us,
    live::{Fenced, Publisher},
    media::Kind,
    node::{Busy, Node},
    telemetry,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until, timeout, timeout_at},
};

use super::{
    handshake::{self, Handshake},
    publication::Publication,
    session::{self, Event, PublishRequest, Refusal, Session},
};
use crate::announce::{self, Desk};

/// From the first byte to the accepted publish request: encoders need well below a second.
const BEGIN_MAX: Duration = Duration::from_secs(10);
/// A publisher that says nothing is asked whether it is still there, this often.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Silent through so many pings, it is gone.
const PINGS_MAX: u32 = 4;
/// A peer that does not take a few hundred bytes in this time is gone.
const SEND_MAX: Duration = Duration::from_secs(10);

/// How much is read at once, and how little room is left before room is made. Messages are copied out, so a connection
/// goes on with one buffer, which grows only where a chunk does not fit.
const READ_BYTES: usize = 16 << 10;
const READ_BYTES_MIN: usize = 4 << 10;
/// What a large chunk made it grow to is given back above this.
const BUFFER_BYTES_MAX: usize = 256 << 10;

/// How a connection came to its end without anything being wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    ByPeer,
    /// Turned away or replaced; it was told why.
    Refused,
    Stopping,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Handshake(#[from] handshake::Error),
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error("connection: {0}")]
    Io(#[from] io::Error),
    #[error("no publish request within {} s", BEGIN_MAX.as_secs())]
    Slow,
    #[error("silent for {} s", PING_EVERY.as_secs() * u64::from(PINGS_MAX + 1))]
    Silent,
}

pub(super) struct Connection<S> {
    pub(super) stream: S,
    pub(super) remote: SocketAddr,
    /// "rtmp" or "rtmps".
    pub(super) protocol: &'static str,
    pub(super) desk: Desk,
    pub(super) door: telemetry::Door,
    pub(super) node: Node,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(super) async fn run(mut self) -> Result<Ended, Error> {
        let begin_by = Instant::now() + BEGIN_MAX;
        let mut input = BytesMut::new();
        match timeout_at(begin_by, self.shake_hands(&mut input)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Ok(Ended::ByPeer),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(Error::Slow),
        }

        let mut session = Session::new();
        let mut publication = None;
        let ended = self.converse(&mut session, &mut publication, input, begin_by).await;
        if let (Some(running), Ok(Ended::ByPeer) | Err(_)) = (&publication, &ended) {
            tracing::warn!(broadcast = running.name(), remote = %self.remote, "publisher left without a word");
        }
        // Also after an error: the last words tell the peer why. That it no longer listens is no second error.
        let _ = self.send(session.take_output()).await;
        let _ = timeout(SEND_MAX, self.stream.shutdown()).await;
        ended
    }

    /// False when the peer left.
    async fn shake_hands(&mut self, input: &mut BytesMut) -> Result<bool, Error> {
        let mut handshake = Handshake::new();
        loop {
            if !receive(&mut self.stream, input).await? {
                return Ok(false);
            }
            let step = handshake.step(input)?;
            self.send(step.reply).await?;
            if step.done {
                return Ok(true);
            }
        }
    }

    async fn converse(
        &mut self,
        session: &mut Session,
        publication: &mut Option<Publication>,
        mut input: BytesMut,
        begin_by: Instant,
    ) -> Result<Ended, Error> {
        let node = self.node.clone();
        // These outlast the turns of the loop: else each read would enter and leave the timer wheel and the lists of
        // those who wait for the node.
        let mut ended = pin!(node.publishers_ended());
        let mut asked = pin!(node.publishers_asked(0));
        let mut alarm = pin!(sleep_until(begin_by));
        let mut pings = 0;
        let mut heard = Instant::now();
        let mut publish_by = begin_by;
        let mut has_published = false;
        loop {
            while let Some(event) = session.next_event(&mut input)? {
                if event == Event::Unpublished {
                    publish_by = Instant::now() + BEGIN_MAX;
                    has_published = true;
                }
                if let Some(ended) = self.apply(event, session, publication).await {
                    return Ok(ended);
                }
                // FFmpeg says goodbye and is gone before the answer.
                match self.send(session.take_output()).await {
                    Err(_) if has_published && publication.is_none() => return Ok(Ended::ByPeer),
                    sent => sent?,
                }
            }
            self.send(session.take_output()).await?;

            let patience = match publication {
                Some(_) => heard + PING_EVERY * (pings + 1),
                None => publish_by,
            };
            // It may go off too early, when something was heard since it was set.
            if alarm.is_elapsed() || alarm.deadline() > patience {
                alarm.as_mut().reset(patience);
            }
            let received = tokio::select! {
                received = receive(&mut self.stream, &mut input) => Some(received),
                () = &mut alarm => None,
                () = &mut ended => {
                    session.reject(Refusal::Rejected, "The server is going down.");
                    return Ok(Ended::Stopping);
                }
                round = &mut asked => {
                    asked.set(node.publishers_asked(round));
                    self.ask_to_leave(session, publication.as_mut());
                    continue;
                }
            };
            match received {
                Some(Ok(true)) => (pings, heard) = (0, Instant::now()),
                None if Instant::now() < patience => {}
                Some(Ok(false)) => return Ok(Ended::ByPeer),
                Some(Err(_)) | None if has_published && publication.is_none() => return Ok(Ended::ByPeer),
                Some(Err(error)) => return Err(error.into()),
                None if publication.is_none() => return Err(Error::Slow),
                None if pings == PINGS_MAX => return Err(Error::Silent),
                None => {
                    // One that sends nothing does not learn it from the hall.
                    if let Some(Err(fenced)) = publication.as_ref().map(Publication::check) {
                        return Ok(self.turn_away(fenced, session, publication.as_ref()));
                    }
                    pings += 1;
                    session.ping(0);
                }
            }
        }
    }

    /// In the words of enhanced RTMP. Who does not know them is waited for.
    fn ask_to_leave(&self, session: &mut Session, publication: Option<&mut Publication>) {
        let Some(publication) = publication else { return };
        if session.request_reconnect("This server is being drained.") {
            publication.expect_return();
            tracing::info!(broadcast = publication.name(), remote = %self.remote, "publisher asked to connect anew");
        }
    }

    /// `Some` when the connection is over.
    async fn apply(
        &mut self,
        event: Event,
        session: &mut Session,
        publication: &mut Option<Publication>,
    ) -> Option<Ended> {
        let written = match (event, publication.as_mut()) {
            (Event::PublishRequested(request), _) => {
                return match self.admit(&request).await {
                    Ok(admitted) => {
                        *publication = Some(admitted);
                        session.accept_publish();
                        None
                    }
                    Err((refusal, reason)) => {
                        session.reject(refusal, &reason);
                        Some(Ended::Refused)
                    }
                };
            }
            (Event::Video { timestamp_ms, body }, Some(running)) => {
                running.write(Kind::Video, timestamp_ms, &body, now_us())
            }
            (Event::Audio { timestamp_ms, body }, Some(running)) => {
                running.write(Kind::Audio, timestamp_ms, &body, now_us())
            }
            (Event::Unpublished, Some(running)) => {
                tracing::info!(broadcast = running.name(), remote = %self.remote, "publisher finished");
                if let Some(over) = publication.take() {
                    over.finish(now_us());
                }
                Ok(())
            }
            (Event::Skipped(error), _) => {
                self.door.dropped.inc();
                tracing::debug!(remote = %self.remote, %error, "skipped");
                Ok(())
            }
            // What metadata says, the bitstream says more reliably.
            _ => Ok(()),
        };
        written.err().map(|fenced| self.turn_away(fenced, session, publication.as_ref()))
    }

    fn turn_away(&self, fenced: Fenced, session: &mut Session, publication: Option<&Publication>) -> Ended {
        let broadcast = publication.map(Publication::name);
        tracing::info!(broadcast, remote = %self.remote, reason = %fenced, "publisher turned away");
        match fenced {
            Fenced::Replaced => session.reject(Refusal::BadName, &fenced.to_string()),
            Fenced::Stopped => session.stop(&fenced.to_string()),
        }
        Ended::Refused
    }

    async fn admit(&mut self, request: &PublishRequest) -> Result<Publication, (Refusal, String)> {
        let PublishRequest { app, stream, query, encoder, .. } = request;
        let publisher =
            Publisher { protocol: self.protocol, remote: self.remote.to_string(), agent: encoder.to_owned() };
        let token = query.iter().find(|(name, _)| name == "token").map(|(_, token)| token.as_str());
        match self.desk.claim(app, stream, token, publisher).await {
            Ok(writer) => {
                tracing::info!(broadcast = %writer.broadcast().id(), remote = %self.remote, encoder, "publishing");
                Ok(Publication::new(writer, self.door.clone()))
            }
            Err(reason) => {
                self.door.errors.inc();
                tracing::warn!(app, stream, remote = %self.remote, %reason, "publisher turned away");
                let refusal = match reason {
                    announce::Refusal::Id(_) | announce::Refusal::Claim(_) => Refusal::BadName,
                    announce::Refusal::Busy(Busy::Full | Busy::Draining) => Refusal::Denied,
                    _ => Refusal::Rejected,
                };
                Err((refusal, reason.to_string()))
            }
        }
    }

    async fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = timeout(SEND_MAX, async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        });
        sent.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// False at the end of the stream. Cancelling it loses nothing.
async fn receive(stream: &mut (impl AsyncRead + Unpin), input: &mut BytesMut) -> io::Result<bool> {
    if input.is_empty() && input.capacity() > BUFFER_BYTES_MAX {
        *input = BytesMut::new();
    }
    if input.capacity() - input.len() < READ_BYTES_MIN {
        input.reserve(READ_BYTES);
    }
    match stream.read_buf(input).await {
        // Encoders close TLS connections like plain ones.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        received => Ok(received? > 0),
    }
}
