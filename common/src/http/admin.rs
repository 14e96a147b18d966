//! Who may change things: requests from the networks that the settings name, and from no web page of somebody else's.
//!
//! A reverse proxy on this machine makes everybody look local, so every hop that it forwards must be allowed as well.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use ipnet::IpNet;

/// An extension of requests that another node handed on. Nothing that a client sends becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByNode {
    /// What [`Admin`] said where the request arrived.
    pub may_change: bool,
    /// How many nodes have handed it on.
    pub hops: u32,
}

impl ByNode {
    /// From an edge to an origin, and from there to the owner.
    pub const HOPS_MAX: u32 = 2;
}

#[derive(Clone, Debug)]
pub struct Admin(Arc<[IpNet]>);

impl Admin {
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.into())
    }

    /// Whether a request from this peer with these headers may change things.
    pub fn permits(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        self.refusal(peer, headers).is_none()
    }

    /// Why a request from this peer with these headers is refused.
    fn refusal(&self, peer: IpAddr, headers: &HeaderMap) -> Option<String> {
        if !self.allows(peer) {
            return Some(format!("{} is not in http.admin_networks", peer.to_canonical()));
        }
        for hop in headers.get_all("x-forwarded-for").iter().flat_map(|value| value.as_bytes().split(|b| *b == b',')) {
            let hop = String::from_utf8_lossy(hop);
            match hop.trim().parse() {
                Ok(address) if self.allows(address) => {}
                _ => return Some(format!("forwarded for {:?}, which is not in http.admin_networks", hop.trim())),
            }
        }
        // A browser says on whose page a request began. Anything but our own is somebody using the operator's browser.
        let origin = headers.get(header::ORIGIN)?.to_str().unwrap_or_default();
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let own = origin.split_once("://").is_some_and(|(_, authority)| authority == host);
        (!own).then(|| format!("sent by a page of {origin:?}"))
    }

    fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Middleware: reading is free, changing is not.
pub async fn admin_to_change(
    admin: State<Admin>,
    peer: ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    admin_only(admin, peer, request, next).await
}

/// Middleware, where reading is not free either.
pub async fn admin_only(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let refusal = match request.extensions().get::<ByNode>() {
        None => admin.refusal(peer.ip(), request.headers()),
        Some(by) => (!by.may_change).then(|| "refused by the node that it came to".to_owned()),
    };
    match refusal {
        None => next.run(request).await,
        Some(reason) => {
            tracing::warn!(%peer, method = %request.method(), path = request.uri().path(), reason, "refused");
            (StatusCode::FORBIDDEN, format!("not allowed: {reason}\n")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, middleware, routing::post};
    use tower::ServiceExt;

    use super::*;

    fn refusal(peer: &str, headers: &[(&'static str, &'static str)]) -> Option<String> {
        let admin = Admin::new(&["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        admin.refusal(peer.parse().unwrap(), &headers)
    }

    #[test]
    fn only_the_named_networks_change_things() {
        assert_eq!(refusal("127.0.0.1", &[]), None);
        assert_eq!(refusal("::1", &[]), None);
        assert_eq!(refusal("::ffff:127.0.0.1", &[]), None);
        assert!(refusal("192.0.2.7", &[]).unwrap().contains("192.0.2.7"));
    }

    #[test]
    fn a_proxy_does_not_lend_its_address() {
        assert_eq!(refusal("127.0.0.1", &[("x-forwarded-for", "127.0.0.1")]), None);
        assert!(refusal("127.0.0.1", &[("x-forwarded-for", "127.0.0.1, 198.51.100.9")]).is_some());
        assert!(refusal("127.0.0.1", &[("x-forwarded-for", "unknown")]).is_some());
    }

    /// What was decided where a request arrived counts, whoever hands it on, and no header says so.
    #[tokio::test]
    async fn a_node_that_hands_on_has_decided() {
        let admin = Admin::new(&["127.0.0.0/8".parse().unwrap()]);
        let app =
            Router::new().route("/", post(|| async {})).layer(middleware::from_fn_with_state(admin, admin_to_change));
        let ask = async |peer: &str, by: Option<ByNode>| {
            let mut request = Request::post("/").header("by-node", "true").body(Body::empty()).unwrap();
            request.extensions_mut().insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
            by.map(|by| request.extensions_mut().insert(by));
            app.clone().oneshot(request).await.unwrap().status()
        };
        let by = |may_change| Some(ByNode { may_change, hops: 1 });
        assert_eq!(ask("127.0.0.1", None).await, StatusCode::OK);
        assert_eq!(ask("192.0.2.7", None).await, StatusCode::FORBIDDEN);
        assert_eq!(ask("127.0.0.1", by(false)).await, StatusCode::FORBIDDEN);
        assert_eq!(ask("192.0.2.7", by(true)).await, StatusCode::OK);
    }

    #[test]
    fn a_page_of_somebody_else_does_not_use_the_operators_browser() {
        assert_eq!(refusal("::1", &[("origin", "http://localhost:5080"), ("host", "localhost:5080")]), None);
        assert!(refusal("::1", &[("origin", "https://evil.example"), ("host", "localhost:5080")]).is_some());
        assert!(refusal("::1", &[("origin", "null"), ("host", "localhost:5080")]).is_some());
    }
}
