//! RTMP publishing: OBS, FFmpeg, GStreamer, hardware encoders.
//!
//! In: the bytes of publishers' connections. Out: frames in the hall. Each step is a machine of its own:
//! [`handshake`], [`chunk`] (bytes to messages), [`amf`] (values inside messages), [`session`] (the conversation),
//! [`flv`] (media bodies), `publication` (into the hall); `connection` is the loop around them, and this file the one
//! around connections. Deliberately absent: playback, encryption by RTMPE (RTMPS is TLS around the same bytes), and
//! anything inside a codec's configuration record.

pub mod amf;
pub mod chunk;
mod connection;
pub mod flv;
pub mod handshake;
mod publication;
pub mod session;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use headwater_common::{http::Tls, node::Node, telemetry};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};

use crate::announce::Desk;
use connection::Connection;

/// A certificate chain and its key exchange, over the slowest link a video fits through.
const TLS_MAX: Duration = Duration::from_secs(10);
/// After an error of `accept` itself (no file descriptors left): trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the plain and the TLS listener share.
#[derive(Clone)]
pub struct Rtmp {
    desk: Desk,
    door: telemetry::Door,
    node: Node,
    places: Arc<Semaphore>,
}

impl Rtmp {
    /// `door` counts for both listeners, and `connections_max` holds for both together.
    pub fn new(desk: Desk, door: telemetry::Door, node: Node, connections_max: usize) -> Self {
        let places = Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS)));
        Self { desk, door, node, places }
    }

    /// Takes connections until the node stops, and returns when the last one has been told so. With `tls` it is RTMPS.
    pub async fn serve(self, listener: std::net::TcpListener, tls: Option<Tls>) -> anyhow::Result<()> {
        let listener = TcpListener::from_std(listener).context("listen for RTMP")?;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, remote)) => self.begin(stream, remote, tls.as_ref(), &mut connections),
                    Err(error) => {
                        self.door.errors.inc();
                        tracing::warn!(%error, "RTMP connection can't be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(over) = connections.join_next() => self.count_panic(over),
                () = self.node.stopping() => break,
            }
        }
        while let Some(over) = connections.join_next().await {
            self.count_panic(over);
        }
        Ok(())
    }

    fn begin(&self, stream: TcpStream, remote: SocketAddr, tls: Option<&Tls>, connections: &mut JoinSet<()>) {
        // ::ffff:192.0.2.1 is 192.0.2.1 that came in by the socket for both.
        let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.door.errors.inc();
            tracing::warn!(%remote, "RTMP connection closed: rtmp.connections_max are open");
            return;
        };
        connections.spawn(self.clone().run(stream, remote, tls.cloned(), place));
    }

    async fn run(self, stream: TcpStream, remote: SocketAddr, tls: Option<Tls>, _place: OwnedSemaphorePermit) {
        // Replies are small and waited for.
        let _ = stream.set_nodelay(true);
        let Self { desk, door, node, .. } = self;
        let errors = door.errors.clone();
        let ended = match tls {
            None => Connection { stream, remote, protocol: "rtmp", desk, door, node }.run().await,
            Some(tls) => match timeout(TLS_MAX, tls.acceptor().accept(stream)).await {
                Ok(Ok(stream)) => Connection { stream, remote, protocol: "rtmps", desk, door, node }.run().await,
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(connection::Error::Slow),
            },
        };
        match ended {
            Ok(reason) => tracing::debug!(%remote, ?reason, "RTMP connection closed"),
            Err(error) => {
                errors.inc();
                tracing::warn!(%remote, %error, "RTMP connection lost");
            }
        }
    }

    /// The publisher's writer was dropped on the way, so its broadcast is interrupted and can be taken up again.
    fn count_panic(&self, over: Result<(), tokio::task::JoinError>) {
        if let Err(error) = over {
            self.door.errors.inc();
            tracing::error!(%error, "RTMP connection ended by a bug");
        }
    }
}

#[cfg(test)]
mod tests;
