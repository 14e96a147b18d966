//! What every HTTP room shares: the listener with its limits and TLS, CORS, who may change things, and how often one may
//! ask.
//!
//! In: a router. Out: a server on a plain port and, where a certificate is set, on a TLS port with HTTP/2.

mod admin;
mod cors;
mod egress;
mod rate;
mod tls;

use std::{net::SocketAddr, time::Duration};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
};
use axum_server::{Handle, accept::NoDelayAcceptor};
use hyper_util::rt::TokioTimer;

pub use admin::{Admin, ByNode, admin_only, admin_to_change};
pub use cors::cross_origin;
pub use egress::{close_when_leaving, count_egress};
pub use rate::RateLimit;
pub use tls::Tls;

use crate::{config, net, node::Node};

/// A peer that opens a connection and says nothing is dropped after this.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// How long requests in flight may go on when the process stops.
const FINISH_WITHIN: Duration = Duration::from_secs(3);

/// Binds both ports now, so that a taken one is an error at start, and serves until the node stops.
pub fn serve(
    config: &config::Http,
    tls: Option<Tls>,
    router: Router,
    node: &Node,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let plain = axum_server::from_tcp(net::listen_tcp(config.listen, "HTTP")?)?.acceptor(NoDelayAcceptor);
    let secure = match tls {
        Some(tls) => Some(axum_server::from_tcp_rustls(net::listen_tcp(config.tls_listen, "HTTPS")?, tls.config())?),
        None => None,
    };
    let handle = Handle::new();
    tokio::spawn({
        let (node, handle) = (node.clone(), handle.clone());
        async move {
            node.stopping().await;
            handle.graceful_shutdown(Some(FINISH_WITHIN));
        }
    });
    Ok(async move {
        let secure = secure.map(|mut server| {
            server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
            server.http_builder().http2().timer(TokioTimer::new()).keep_alive_interval(Some(HEADERS_WITHIN));
            tokio::spawn(server.handle(handle.clone()).serve(service.clone()))
        });
        let mut plain = plain.handle(handle);
        plain.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
        plain.serve(service).await?;
        if let Some(secure) = secure {
            secure.await??;
        }
        Ok(())
    })
}

/// An answer that no cache may keep.
pub const NO_STORE: (HeaderName, HeaderValue) = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
