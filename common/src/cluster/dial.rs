//! Connections to other nodes. In: an address. Out: a gRPC channel over mutual TLS, whose windows are wide enough for
//! media. Deliberately absent: whom to call.

use std::{net::SocketAddr, time::Duration};

use axum::http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::tls::{self, Credentials};

/// The name in the requests; where they go is the connector's business.
const AUTHORITY: &str = "http://headwater-node";
/// TCP and TLS together.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Of one broadcast on its way, and of all that share a connection.
pub(super) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// A connection through which nothing comes is closed, so that those who wait on it look elsewhere.
pub(super) const PING_EVERY: Duration = Duration::from_secs(1);
pub(super) const PONG_WITHIN: Duration = Duration::from_secs(2);

/// Connects now.
pub(super) async fn connect(
    address: SocketAddr,
    credentials: &Credentials,
) -> Result<Channel, tonic::transport::Error> {
    endpoint().connect_with_connector(connector(address.to_string(), credentials)).await
}

/// Connects with the first request, and again after a loss; the name is looked up each time.
pub(super) fn channel(place: String, credentials: &Credentials) -> Channel {
    endpoint().connect_with_connector_lazy(connector(place, credentials))
}

fn endpoint() -> Endpoint {
    Endpoint::from_static(AUTHORITY)
        .connect_timeout(CONNECT_WITHIN)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true)
}

fn connector(
    place: String,
    credentials: &Credentials,
) -> impl tower::Service<
    Uri,
    Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>,
    Error = std::io::Error,
    Future: Send,
>
+ Send
+ 'static
+ use<> {
    let credentials = credentials.clone();
    service_fn(move |_: Uri| {
        let (place, credentials) = (place.clone(), credentials.clone());
        async move {
            let stream = open(&place).await?;
            stream.set_nodelay(true)?;
            let tls = TlsConnector::from(credentials.client()).connect(tls::name(), stream).await?;
            Ok(TokioIo::new(tls))
        }
    })
}

/// The first of a name's addresses that answers.
async fn open(place: &str) -> std::io::Result<TcpStream> {
    let mut last = None;
    for address in lookup_host(place).await? {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::other(format!("{place} stands for no address"))))
}
