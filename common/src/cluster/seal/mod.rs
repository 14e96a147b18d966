//! What two nodes say to each other, sealed by TLS 1.3.
//!
//! In: a socket, what this node shows and whom it trusts. Out: what the other one says, and a way to answer. rustls shakes
//! hands, makes the keys, seals and opens: ours is only where records lie in memory. They are read many at a time and opened
//! where they lie. A connection of rustls's own copies each twice more and asks the allocator for each, which was a sixth of
//! all that an edge spends on media. Deliberately absent: any version but 1.3, resumption (nodes meet rarely, and each
//! shows its certificate), early data.

mod handshake;
mod incoming;
mod keys;
mod outgoing;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IoSlice},
    mem,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use rustls::{
    AlertDescription, ClientConfig, ContentType, Error, InvalidMessage, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    crypto::cipher::OutboundChunks,
    server::{ServerConnectionData, UnbufferedServerConnection},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::{incoming::Incoming, keys::Keys, outgoing::Outgoing};
use super::tls;

/// To the node that was called.
pub type Dialled<S> = Sealed<S, ClientConnectionData>;
/// To the node that calls.
pub type Accepted<S> = Sealed<S, ServerConnectionData>;

/// RFC 8446 section 5.1.
const PLAIN_BYTES_MAX: usize = 1 << 14;
/// Sealed and not yet taken by the socket. What is written at a time (one frame of HTTP/2 with all that leaves together) goes
/// to the kernel at once.
const OUTGOING_BYTES_MAX: usize = 256 << 10;
/// Given to the kernel at a time: as many records as there may be.
const SLICES_MAX: usize = OUTGOING_BYTES_MAX / PLAIN_BYTES_MAX + 1;
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

/// A connection whose other end has shown who it is.
pub struct Sealed<S, D> {
    socket: S,
    keys: Keys<D>,
    incoming: Incoming,
    /// Opened during the handshake.
    early: Bytes,
    /// Opened, and where it lies in `incoming`.
    plain: Range<usize>,
    /// The other side has said that nothing more comes.
    ended: bool,
    /// To be told once what came before it is taken.
    broken: Option<io::Error>,
    outgoing: Outgoing,
    /// This side has said so, or why it takes no more.
    closed: bool,
}

/// With the node that is called.
pub async fn dial<S: AsyncRead + AsyncWrite + Unpin>(config: Arc<ClientConfig>, socket: S) -> io::Result<Dialled<S>> {
    let connection = UnbufferedClientConnection::new(config, tls::name()).map_err(invalid)?;
    handshake::shake(connection, socket).await
}

/// With the node that calls.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ServerConfig>,
    socket: S,
) -> io::Result<Accepted<S>> {
    let connection = UnbufferedServerConnection::new(config).map_err(invalid)?;
    handshake::shake(connection, socket).await
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: AsyncRead + AsyncWrite + Unpin, D> Sealed<S, D> {
    fn new(socket: S, keys: Keys<D>, incoming: Incoming, early: Bytes) -> Self {
        Self {
            socket,
            keys,
            incoming,
            early,
            plain: 0..0,
            ended: false,
            broken: None,
            outgoing: Outgoing::default(),
            closed: false,
        }
    }

    /// Gives what is opened.
    fn hand_out(&mut self, buffer: &mut ReadBuf<'_>) {
        let early = self.early.len().min(buffer.remaining());
        buffer.put_slice(&self.early.split_to(early));
        let now = self.plain.len().min(buffer.remaining());
        buffer.put_slice(&self.incoming.bytes()[self.plain.start..self.plain.start + now]);
        self.plain.start += now;
    }

    /// Opens the next record, if it has come whole. Whatever was opened before has been handed out.
    fn open(&mut self) -> Result<bool, Error> {
        let Some(record) = self.incoming.record()? else { return Ok(false) };
        let (what, plain) = self.keys.open(self.incoming.bytes_mut(), record)?;
        match what {
            ContentType::ApplicationData => self.plain = plain,
            ContentType::Alert => self.ended = is_the_end(&self.incoming.bytes()[plain])?,
            ContentType::Handshake => self.keys.hear(&self.incoming.bytes()[plain])?,
            _ => return Err(InvalidMessage::InvalidContentType.into()),
        }
        Ok(true)
    }

    /// Says what was wrong, if the socket takes it now: nobody waits for that.
    fn complain(&mut self, error: &Error, cx: &mut Context<'_>) {
        let what = match error {
            Error::AlertReceived(_) => return,
            Error::DecryptError => AlertDescription::BadRecordMac,
            Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
            Error::InvalidMessage(_) => AlertDescription::DecodeError,
            _ => AlertDescription::UnexpectedMessage,
        };
        if !mem::replace(&mut self.closed, true) && self.seal(ContentType::Alert, [2, what.into()][..].into()).is_ok() {
            let _ = self.poll_send(cx);
        }
    }

    pub(crate) fn seal(&mut self, what: ContentType, plain: OutboundChunks<'_>) -> io::Result<()> {
        self.keys.seal(what, plain, &mut self.outgoing).map_err(invalid)
    }

    /// Before that is necessary; and `ask`s the other side for the same.
    pub(crate) fn update_keys(&mut self, ask: bool) -> io::Result<()> {
        self.keys.update(ask, &mut self.outgoing).map_err(invalid)
    }

    /// Ready when nothing waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = self.outgoing.slices(&mut slices);
            let sent = ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &slices[..filled]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.sent(sent);
        }
        Poll::Ready(Ok(()))
    }
}

/// Alerts are the end or an error, but for one that means nothing (RFC 8446 section 6.1).
fn is_the_end(alert: &[u8]) -> Result<bool, Error> {
    match alert {
        &[_, description] => match description.into() {
            AlertDescription::CloseNotify => Ok(true),
            AlertDescription::UserCanceled => Ok(false),
            description => Err(Error::AlertReceived(description)),
        },
        _ => Err(InvalidMessage::MessageTooShort.into()),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, D: Unpin> AsyncRead for Sealed<S, D> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        loop {
            this.hand_out(buffer);
            let some = buffer.filled().len() > before;
            if buffer.remaining() == 0 || this.ended {
                return Poll::Ready(Ok(()));
            }
            if this.broken.is_none() {
                match this.open() {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => {
                        this.complain(&error, cx);
                        this.broken = Some(invalid(error));
                    }
                }
            }
            if some {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = this.broken.take() {
                this.ended = true;
                return Poll::Ready(Err(error));
            }
            if ready!(this.incoming.poll_fill(&mut this.socket, cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, D: Unpin> AsyncWrite for Sealed<S, D> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.outgoing.bytes() >= OUTGOING_BYTES_MAX {
            ready!(this.poll_send(cx))?;
        }
        let slices: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
        let (taken, _) = OutboundChunks::new(&slices).split_at(OUTGOING_BYTES_MAX - this.outgoing.bytes());
        this.seal(ContentType::ApplicationData, taken.clone())?;
        // What the socket does not take now leaves with a flush, or with what is written next.
        match this.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken.len())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !mem::replace(&mut this.closed, true) {
            this.seal(ContentType::Alert, CLOSE_NOTIFY[..].into())?;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}
