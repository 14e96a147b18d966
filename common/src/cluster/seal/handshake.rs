//! Until two nodes know each other. In: a socket, one side of rustls's handshake. Out: a connection, or why there is none; the
//! other side is told, too, as TLS has it. Deliberately absent: how long that may take.

use std::{future::poll_fn, io, ops::DerefMut};

use bytes::BytesMut;
use rustls::{
    Error, ExtractedSecrets,
    client::{ClientConnectionData, UnbufferedClientConnection},
    kernel::KernelConnection,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{Sealed, incoming::Incoming, invalid, keys::Keys};

/// What rustls has for each side by itself.
pub(super) trait Hand {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn finish(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error>;
}

impl Hand for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.deref_mut().process_tls_records(incoming)
    }

    fn finish(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error> {
        self.dangerous_into_kernel_connection()
    }
}

impl Hand for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.deref_mut().process_tls_records(incoming)
    }

    fn finish(self) -> Result<(ExtractedSecrets, KernelConnection<Self::Data>), Error> {
        self.dangerous_into_kernel_connection()
    }
}

pub(super) async fn shake<S, H>(mut hand: H, mut socket: S) -> io::Result<Sealed<S, H::Data>>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Hand,
{
    let (mut incoming, mut outgoing, mut early) = (Incoming::new(), Vec::new(), BytesMut::new());
    let mut done = false;
    while !done {
        let UnbufferedStatus { mut discard, state } = hand.process(incoming.here_mut());
        let mut blocked = false;
        match state {
            Ok(ConnectionState::EncodeTlsData(said)) => encode(said, &mut outgoing)?,
            Ok(ConnectionState::TransmitTlsData(said)) => {
                socket.write_all(&outgoing).await?;
                outgoing.clear();
                said.done();
            }
            Ok(ConnectionState::BlockedHandshake) => blocked = true,
            // What came right behind the handshake.
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(invalid)?;
                    early.extend_from_slice(record.payload);
                    discard += record.discard;
                }
            }
            Ok(ConnectionState::WriteTraffic(_)) => done = true,
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => {
                incoming.discard(discard);
                refuse(hand, &mut incoming, outgoing, &mut socket).await;
                return Err(invalid(error));
            }
        }
        incoming.discard(discard);
        if blocked && poll_fn(|cx| incoming.poll_fill(&mut socket, cx)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let (secrets, source) = hand.finish().map_err(invalid)?;
    let keys = Keys::new(secrets, source).map_err(invalid)?;
    Ok(Sealed::new(socket, keys, incoming, early.freeze()))
}

/// Tells the other side what was wrong, if it listens.
async fn refuse<H: Hand>(
    mut hand: H,
    incoming: &mut Incoming,
    mut outgoing: Vec<u8>,
    socket: &mut (impl AsyncWrite + Unpin),
) {
    // Asked once more than it has to say, it would look at the same nonsense again.
    if let Ok(ConnectionState::EncodeTlsData(said)) = hand.process(incoming.here_mut()).state {
        let _ = encode(said, &mut outgoing);
    }
    let _ = socket.write_all(&outgoing).await;
    let _ = socket.shutdown().await;
}

fn encode<D>(mut said: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> io::Result<()> {
    let there = outgoing.len();
    let needed = match said.encode(&mut []) {
        Err(EncodeError::InsufficientSize(error)) => error.required_size,
        Ok(_) | Err(EncodeError::AlreadyEncoded) => return Ok(()),
    };
    outgoing.resize(there + needed, 0);
    said.encode(&mut outgoing[there..]).map_err(io::Error::other)?;
    Ok(())
}
