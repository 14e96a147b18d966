//! How much leaves by HTTP, and that clients of a node that drains ask elsewhere next time.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::{Body, HttpBody},
    extract::{Request, State},
    http::{HeaderValue, Version, header},
    middleware::Next,
    response::Response,
};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;

use crate::node::{Busy, Node};

/// Middleware.
pub async fn count_egress(State(egress): State<Counter>, request: Request, next: Next) -> Response {
    next.run(request).await.map(|body| Body::new(Counted { body, egress }))
}

/// Middleware: an answer of a node that drains is the last one on its connection, so that a load balancer's, and a player's,
/// next request finds another node.
pub async fn close_when_leaving(State(node): State<Node>, request: Request, next: Next) -> Response {
    // HTTP/2 has no such header.
    let closes = request.version() <= Version::HTTP_11;
    let mut response = next.run(request).await;
    let leaves = matches!(node.takes_work(), Err(Busy::Draining | Busy::Stopping));
    if closes && leaves && !response.status().is_informational() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

struct Counted {
    body: Body,
    egress: Counter,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.egress.inc_by(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware::from_fn_with_state, routing::get};
    use tower::ServiceExt;

    use super::*;

    async fn ask(router: &Router, version: Version) -> Response {
        let request = Request::builder().uri("/").version(version).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn what_is_taken_is_counted_and_told_in_advance() {
        let egress = Counter::default();
        let router = Router::new()
            .route("/", get(|| async { "x".repeat(1_000) }))
            .layer(from_fn_with_state(egress.clone(), count_egress));
        let response = ask(&router, Version::HTTP_11).await;
        assert_eq!((response.body().size_hint().exact(), egress.get()), (Some(1_000), 0));
        axum::body::to_bytes(response.into_body(), 2_000).await.unwrap();
        assert_eq!(egress.get(), 1_000);
    }

    #[tokio::test]
    async fn connections_close_while_the_node_drains() {
        let node = Node::starting();
        let router =
            Router::new().route("/", get(|| async { "x" })).layer(from_fn_with_state(node.clone(), close_when_leaving));
        let closes = async |version| ask(&router, version).await.headers().get("connection").is_some();
        assert!(!closes(Version::HTTP_11).await);
        node.drain();
        assert!(closes(Version::HTTP_11).await && !closes(Version::HTTP_2).await);
        node.undrain();
        node.stop();
        assert!(closes(Version::HTTP_11).await);
    }
}
