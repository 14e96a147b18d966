//! Who calls. In: connections. Out: those whose TLS handshake succeeded. Deliberately absent: an answer to anybody else;
//! a stranger learns that something speaks TLS here.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};

use super::{
    seal::{self, Accepted},
    tls::Credentials,
};
use crate::{relay::transport, telemetry::Door};

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);
/// Handshakes at a time. Further callers wait in the listener's queue: a whole cluster that comes back is through in
/// moments, and a flood of strangers costs no more than this.
const HANDSHAKES_MAX: usize = 256;
/// Connections that the server has not taken yet; it takes them at once.
const TAKEN_MAX: usize = 16;

type Caller = transport::Caller<Accepted<TcpStream>>;

pub(super) fn incoming(
    listener: TcpListener,
    credentials: Credentials,
    door: Door,
) -> io::Result<impl Stream<Item = io::Result<Caller>>> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (taken, server) = mpsc::channel(TAKEN_MAX);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = taken.closed() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (credentials, taken, door) = (credentials.clone(), taken.clone(), door.clone());
                    tokio::spawn(async move {
                        match welcome(stream, peer, &credentials).await {
                            // A server that stops takes nobody.
                            Some(caller) => drop(taken.send(Ok(caller)).await),
                            None => drop(door.errors.inc()),
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Of one connection, or of too many open files: both pass.
                    tracing::warn!(%error, "a node's call was not taken");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(ReceiverStream::new(server))
}

async fn welcome(stream: TcpStream, peer: SocketAddr, credentials: &Credentials) -> Option<Caller> {
    let handshake = async { seal::accept(credentials.server(), transport::socket(stream)?).await };
    // Counted, and said to who wants to know: strangers must not fill the log. A node that is turned away complains itself.
    match timeout(HANDSHAKE_WITHIN, handshake).await {
        Ok(Ok(stream)) => Some(transport::Caller(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "turned away: no node of this cluster");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "turned away: no handshake for {HANDSHAKE_WITHIN:?}");
            None
        }
    }
}
