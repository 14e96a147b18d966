//! HTTP requests that reached one node and are another one's to answer.
//!
//! In: a request, and what was decided about its client where it arrived. Out: the other node's response. Bodies stream both
//! ways in bounded pieces, at the pace of whoever takes them. Deliberately absent: which requests go where, and upgrades:
//! a WebSocket stays where it was opened.

use std::{net::SocketAddr, pin::Pin, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Request},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use headwater_proto as proto;
use proto::{cluster_client::ClusterClient, forward_request::Part as Asked, forward_response::Part as Answered};
use tokio::time::timeout;
use tonic::{Status, Streaming};
use tower::ServiceExt;

use super::{Cluster, identity::NodeId};
use crate::http::ByNode;

/// Of a body, in one message.
const PIECE_BYTES_MAX: usize = 64 << 10;
/// A playlist may make its reader wait, and nothing else takes long.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Of a connection and of nobody else's business (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
];

#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("node {0} is not known here")]
    Unknown(NodeId),
    #[error("node {node} does not answer: {reason}")]
    Unreachable { node: NodeId, reason: String },
    #[error("node {0} takes too long")]
    Late(NodeId),
}

impl Cluster {
    /// Has another node answer a request of this client.
    pub async fn forward(
        &self,
        node: &NodeId,
        request: Request,
        client: SocketAddr,
        by: ByNode,
    ) -> Result<Response, ForwardError> {
        let channel = self.channel(node).ok_or_else(|| ForwardError::Unknown(node.clone()))?;
        let (head, body) = request.into_parts();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let head = Asked::Head(proto::ForwardHead {
            method: head.method.to_string(),
            target: target.to_owned(),
            headers: from_headers(&head.headers),
            remote: client.to_string(),
            admin: by.may_change,
            hops: by.hops,
        });
        // A body that breaks off has no end.
        let body = pieces(body).map_ok(Asked::Body).chain(once(Ok(Asked::End(proto::End {}))));
        let body = body.take_while(|part| std::future::ready(part.is_ok())).filter_map(async |part| part.ok());
        let parts = once(head).chain(body);
        let asked = parts.map(|part| proto::ForwardRequest { part: Some(part) });
        let answer = async {
            let mut answer = ClusterClient::new(channel).forward(asked).await?.into_inner();
            let head = answer.message().await?.and_then(|first| first.part);
            Ok((head, answer))
        };
        let unreachable =
            |status: Status| ForwardError::Unreachable { node: node.clone(), reason: status.message().to_owned() };
        let answered = timeout(ANSWER_WITHIN, answer).await.map_err(|_| ForwardError::Late(node.clone()))?;
        let (head, rest) = answered.map_err(unreachable)?;
        let Some(Answered::Head(head)) = head else {
            return Err(unreachable(Status::internal("it began with something else than an answer")));
        };
        let body = rest.map_ok(|response| match response.part {
            Some(Answered::Body(piece)) => piece,
            _ => Bytes::new(),
        });
        let mut response = Response::new(Body::from_stream(body));
        let status = head.status.try_into().ok().and_then(|status: u16| StatusCode::from_u16(status).ok());
        *response.status_mut() = status.unwrap_or(StatusCode::BAD_GATEWAY);
        *response.headers_mut() = to_headers(head.headers);
        Ok(response)
    }
}

pub(super) type Answer = Pin<Box<dyn Stream<Item = Result<proto::ForwardResponse, Status>> + Send>>;

/// Answers another node's request with this node's own routes.
pub(super) async fn answer(router: Router, mut asked: Streaming<proto::ForwardRequest>) -> Result<Answer, Status> {
    let Some(Asked::Head(head)) = asked.message().await?.and_then(|first| first.part) else {
        return Err(Status::invalid_argument("a request begins with its head"));
    };
    let body = Body::from_stream(asked_body(asked));
    let invalid = |error: axum::http::Error| Status::invalid_argument(error.to_string());
    let mut request = Request::builder().method(&*head.method).uri(&*head.target).body(body).map_err(invalid)?;
    *request.headers_mut() = to_headers(head.headers);
    let client: SocketAddr = head.remote.parse().map_err(|_| Status::invalid_argument("the client has no address"))?;
    request.extensions_mut().insert(ConnectInfo(client));
    request.extensions_mut().insert(ByNode { may_change: head.admin, hops: head.hops });
    let Ok(response) = router.oneshot(request).await;
    let (head, body) = response.into_parts();
    let head = Answered::Head(proto::ForwardedHead {
        status: head.status.as_u16().into(),
        headers: from_headers(&head.headers),
    });
    let body = pieces(body).map_ok(Answered::Body).map_err(|error| Status::aborted(error.to_string()));
    let parts = once(Ok(head)).chain(body);
    Ok(Box::pin(parts.map_ok(|part| proto::ForwardResponse { part: Some(part) })))
}

/// A body in pieces that are not too large. Slices, not copies.
fn pieces(body: Body) -> impl Stream<Item = Result<Bytes, axum::Error>> + Send {
    body.into_data_stream().map_ok(|data| stream::iter(cut(data).map(Ok))).try_flatten()
}

fn cut(mut data: Bytes) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(move || {
        let piece = data.split_to(data.len().min(PIECE_BYTES_MAX));
        (!piece.is_empty()).then_some(piece)
    })
}

/// What follows the head, and an error where the end is missing.
fn asked_body(asked: Streaming<proto::ForwardRequest>) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    stream::unfold(Some(asked), async |asked| {
        let mut asked = asked?;
        let (piece, more) = match asked.message().await {
            Ok(Some(proto::ForwardRequest { part: Some(Asked::End(_)) })) => return None,
            Ok(Some(proto::ForwardRequest { part: Some(Asked::Body(piece)) })) => (Ok(piece), Some(asked)),
            Ok(_) => (Err(Status::aborted("the body broke off")), None),
            Err(status) => (Err(status), None),
        };
        Some((piece, more))
    })
}

fn once<T>(item: T) -> impl Stream<Item = T> {
    stream::once(std::future::ready(item))
}

fn from_headers(headers: &HeaderMap) -> Vec<proto::Header> {
    let kept = headers.iter().filter(|(name, _)| !HOP_BY_HOP.contains(name));
    let header = |(name, value): (&HeaderName, &HeaderValue)| proto::Header {
        name: name.to_string(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    };
    kept.map(header).collect()
}

fn to_headers(headers: Vec<proto::Header>) -> HeaderMap {
    let header = |header: proto::Header| {
        let name: HeaderName = header.name.parse().ok()?;
        Some((name, HeaderValue::from_maybe_shared(header.value).ok()?))
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers.into_iter().filter_map(header) {
        map.append(name, value);
    }
    map
}
