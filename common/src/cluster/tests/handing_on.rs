//! Requests that one node hands on to another.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{ConnectInfo, Request},
    http::{HeaderMap, Method, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use super::*;
use crate::http::ByNode;

const CLIENT: &str = "198.51.100.7:4000";

struct Two {
    here: Peer,
    there: Peer,
    answers: Arc<Answers>,
}

#[derive(Default)]
struct Answers {
    taken_bytes: AtomicUsize,
    broken: AtomicUsize,
}

/// An edge, and an origin that answers what it is asked.
fn two() -> Two {
    let answers = Arc::<Answers>::default();
    let (endless, upload) = (answers.clone(), answers.clone());
    let router = Router::new()
        .route("/echo", post(|request: Request| async { request.into_body() }))
        .route(
            "/who",
            get(|ConnectInfo(client): ConnectInfo<SocketAddr>, headers: HeaderMap, request: Request| async move {
                let by = *request.extensions().get::<ByNode>().unwrap();
                let asked = headers["x-asked"].to_str().unwrap().to_owned();
                let told = format!("{client} {} {} {asked} {}", by.may_change, by.hops, request.uri());
                (StatusCode::IM_A_TEAPOT, [("x-told", told)])
            }),
        )
        .route(
            "/endless",
            get(|| async move {
                Body::from_stream(stream::repeat_with(move || {
                    endless.taken_bytes.fetch_add(1 << 16, Ordering::SeqCst);
                    Ok::<_, std::convert::Infallible>(Bytes::from_static(&[7; 1 << 16]))
                }))
            }),
        )
        .route(
            "/upload",
            post(|body: Body| async move {
                match to_bytes(body, 1 << 20).await {
                    Ok(_) => StatusCode::OK.into_response(),
                    Err(_) => {
                        upload.broken.fetch_add(1, Ordering::SeqCst);
                        StatusCode::BAD_REQUEST.into_response()
                    }
                }
            }),
        );
    let there = Peer::answering("origin-1", 1, Role::Origin, &[], SECRET, router);
    let here = Peer::edge("edge-1", &[&there]);
    here.sees("origin-1", Health::Alive);
    Two { here, there, answers }
}

impl Two {
    async fn ask(&self, method: Method, target: &str, body: Body) -> Result<axum::response::Response, ForwardError> {
        let request = Request::builder().method(method).uri(target).header("x-asked", "yes").body(body).unwrap();
        let by = ByNode { may_change: true, hops: 1 };
        self.here.cluster.forward(&NodeId::from("origin-1"), request, CLIENT.parse().unwrap(), by).await
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.here.runtime.as_ref().unwrap().block_on(future)
    }
}

#[test]
fn the_other_node_sees_the_request_as_it_was() {
    let two = two();
    let response = two.block_on(two.ask(Method::GET, "/who?x=1", Body::empty())).unwrap();
    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(response.headers()["x-told"], format!("{CLIENT} true 1 yes /who?x=1"));
    let missing = two.block_on(two.ask(Method::GET, "/nothing", Body::empty())).unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
}

#[test]
fn bodies_of_any_size_go_both_ways() {
    let two = two();
    let sent: Bytes = (0..10_000_000_u32).map(|at| (at / 7) as u8).collect();
    let answered = two.block_on(async {
        let response = two.ask(Method::POST, "/echo", Body::from(sent.clone())).await.unwrap();
        to_bytes(response.into_body(), 1 << 30).await.unwrap()
    });
    assert!(answered == sent, "{} bytes came back of {}", answered.len(), sent.len());
}

#[test]
fn what_the_client_does_not_take_is_not_made() {
    let two = two();
    let response = two.block_on(two.ask(Method::GET, "/endless", Body::empty())).unwrap();
    let taken = || two.answers.taken_bytes.load(Ordering::SeqCst);
    // Others are not held up by it. And where twenty answers came, one after the other and over the same connection, more
    // of the endless one would have come.
    let others = || {
        for _ in 0..20 {
            let other = two.block_on(two.ask(Method::GET, "/who", Body::empty())).unwrap();
            assert_eq!(other.status(), StatusCode::IM_A_TEAPOT);
        }
    };
    until("the way to be full", || {
        let before = taken();
        others();
        before > 0 && taken() == before
    });
    assert!(taken() < 16 << 20, "{} bytes on their way to nobody", taken());
    drop(response);
    others();
}

#[test]
fn a_body_that_breaks_off_is_not_taken_for_a_whole_one() {
    let two = two();
    let some = stream::iter([Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("gone"))]);
    let broken = two.block_on(two.ask(Method::POST, "/upload", Body::from_stream(some))).unwrap();
    assert_eq!(broken.status(), StatusCode::BAD_REQUEST);
    assert_eq!(two.answers.broken.load(Ordering::SeqCst), 1);
    // One whose client goes away in the middle of it.
    let never = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"half"))]).chain(stream::pending());
    let (gone, rest) = tokio::sync::oneshot::channel::<()>();
    let cut = never.take_until(rest).chain(stream::iter([Err(std::io::Error::other("gone"))]));
    two.block_on(async {
        let call = two.ask(Method::POST, "/upload", Body::from_stream(cut));
        assert!(timeout(Duration::from_millis(300), call).await.is_err(), "it waits for the rest");
    });
    drop(gone);
    until("the other node to notice", || two.answers.broken.load(Ordering::SeqCst) == 2);
}

#[test]
fn a_node_that_does_not_answer_is_named() {
    let mut two = two();
    two.there.kill();
    let error = two.block_on(two.ask(Method::GET, "/who", Body::empty())).unwrap_err().to_string();
    assert!(error.contains("origin-1"), "{error}");
    let unknown = NodeId::from("nobody");
    let nobody = two.here.cluster.forward(
        &unknown,
        Request::get("/").header(header::HOST, "x").body(Body::empty()).unwrap(),
        CLIENT.parse().unwrap(),
        ByNode { may_change: false, hops: 1 },
    );
    assert!(matches!(two.block_on(nobody), Err(ForwardError::Unknown(_))));
}
