//! Connections to other nodes. In: an address. Out: a gRPC channel over mutual TLS, whose windows are wide enough for
//! media. Deliberately absent: whom to call.

use std::net::SocketAddr;

use axum::http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::{
    seal::{self, Dialled},
    tls::Credentials,
};
use crate::relay::transport;

/// The name in the requests; where they go is the connector's business.
const AUTHORITY: &str = "http://headwater-node";

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
    transport::endpoint(Endpoint::from_static(AUTHORITY))
}

fn connector(
    place: String,
    credentials: &Credentials,
) -> impl tower::Service<Uri, Response = TokioIo<Dialled<TcpStream>>, Error = std::io::Error, Future: Send>
+ Send
+ 'static
+ use<> {
    let credentials = credentials.clone();
    service_fn(move |_: Uri| {
        let (place, credentials) = (place.clone(), credentials.clone());
        async move {
            let socket = transport::socket(open(&place).await?)?;
            Ok(TokioIo::new(seal::dial(credentials.client(), socket).await?))
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
