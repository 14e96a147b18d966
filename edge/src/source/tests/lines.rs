//! What several pulls from one node have in common, and what they have not.

use std::sync::Arc;

use headwater_common::{
    live::BroadcastId,
    relay::{Line, Pulled, wire},
};
use headwater_proto::{
    Frame, Open, Piece, Want, Wish, piece,
    relay_server::{Relay, RelayServer},
    wish,
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{Empty, empty};
use tonic::{Request, Response, Status, Streaming};

use super::stage::{Camera, Origin, PATIENCE, Served, until};

fn name(stream: &str) -> BroadcastId {
    BroadcastId::new("live", stream).unwrap()
}

fn camera(origin: &Origin, stream: &str, seconds: i64) -> Camera {
    let mut camera = origin.camera_of(&name(stream), 1, 0, 0);
    camera.play(seconds * 1_000_000);
    camera
}

/// A pull, and what came of it.
struct Pull {
    pulled: Pulled,
    pieces: mpsc::UnboundedReceiver<Result<piece::Piece, Status>>,
}

async fn pull(line: &Line, stream: &str) -> Pull {
    let (tell, pieces) = mpsc::unbounded_channel();
    let open = Open { name: Some(wire::from_id(&name(stream))), node: "edge".into() };
    let pulled = line.pull(open, Arc::new(move |told| drop(tell.send(told)))).await;
    Pull { pulled, pieces }
}

impl Pull {
    /// `None`: nothing comes any more.
    async fn told(&mut self) -> Option<Result<piece::Piece, Status>> {
        timeout(PATIENCE, self.pieces.recv()).await.expect("a piece")
    }

    async fn want(&self) {
        let want = wish::Wish::Want(Want { track: 0, wanted: true, present: false });
        self.pulled.wishes.send(Wish { pull: self.pulled.number, wish: Some(want) }).await.unwrap();
    }
}

/// With its pictures wanted.
async fn watch(line: &Line, stream: &str) -> Pull {
    let mut pull = pull(line, stream).await;
    let begin = pull.told().await.expect("goes on").unwrap();
    assert!(matches!(begin, piece::Piece::Begin(_)), "{begin:?}");
    pull.want().await;
    pull
}

async fn frame(pull: &mut Pull) -> Frame {
    loop {
        if let piece::Piece::Frame(frame) = pull.told().await.expect("goes on").unwrap() {
            return frame;
        }
    }
}

async fn until_at(pull: &mut Pull, dts_us: i64) {
    while frame(pull).await.dts_us < dts_us {}
}

fn readers(camera: &Camera) -> usize {
    camera.broadcast().tracks().iter().map(|track| track.readers()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pull_is_told_its_own_and_may_leave_without_the_others() {
    let origin = Origin::new("origin").await;
    let (mut one, mut other) = (camera(&origin, "one", 1), camera(&origin, "other", 2));
    let line = origin.served.route.connection().line;
    let (mut of_one, mut of_other, mut of_none) =
        (watch(&line, "one").await, watch(&line, "other").await, pull(&line, "none").await);
    until_at(&mut of_one, 960_000).await;
    until_at(&mut of_other, 1_960_000).await;
    let refused = of_none.told().await.expect("a reason");
    assert_eq!(refused.expect_err("there is no such broadcast").code(), tonic::Code::NotFound);
    assert!(of_none.told().await.is_none());

    assert_eq!((readers(&one), readers(&other)), (1, 1));
    drop(of_one);
    until("one is read for nobody", || readers(&one) == 0).await;
    one.play(1_000_000);
    other.play(1_000_000);
    until_at(&mut of_other, 2_960_000).await;
    // Who comes back does so on the same stream, as somebody else.
    let mut again = watch(&line, "one").await;
    until_at(&mut again, 1_960_000).await;
    drop((again, of_other));
    until("other is read for nobody", || readers(&one) + readers(&other) == 0).await;
    // After the last one the stream has ended, and the next one begins another.
    until_at(&mut watch(&line, "other").await, 2_960_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bug_in_one_pull_ends_that_one_and_the_others_go_on() {
    let origin = Origin::new("origin").await;
    let (mut bad, mut good) = (camera(&origin, "bad", 1), camera(&origin, "good", 1));
    let line = origin.served.route.connection().line;
    let mut goes_on = watch(&line, "good").await;
    let (tell, pieces) = mpsc::unbounded_channel();
    let open = Open { name: Some(wire::from_id(&name("bad"))), node: "edge".into() };
    let take = move |told| match told {
        Ok(piece::Piece::Frame(_)) => panic!("a bug"),
        told => drop(tell.send(told)),
    };
    let breaks = Pull { pulled: line.pull(open, Arc::new(take)).await, pieces };
    breaks.want().await;
    until("it is read for nobody", || readers(&bad) == 0 && breaks.pieces.is_closed()).await;
    bad.play(1_000_000);
    good.play(1_000_000);
    until_at(&mut goes_on, 1_960_000).await;
    assert_eq!(readers(&bad), 0);
}

/// Breaks as soon as two broadcasts were asked for.
struct Breaks;

#[tonic::async_trait]
impl Relay for Breaks {
    type PullStream = Empty<Result<Piece, Status>>;

    async fn pull(&self, request: Request<Streaming<Wish>>) -> Result<Response<Self::PullStream>, Status> {
        let (mut wishes, mut opened) = (request.into_inner(), 0);
        while let Some(Wish { wish: Some(wish), .. }) = wishes.message().await? {
            opened += usize::from(matches!(wish, wish::Wish::Open(_)));
            if opened == 2 {
                return Err(Status::data_loss("broken"));
            }
        }
        Ok(Response::new(empty()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_breaks_is_told_to_all_and_begins_anew_with_the_next() {
    let served = Served::new(|mut server| server.add_service(RelayServer::new(Breaks))).await;
    let line = served.route.connection().line;
    let mut before = Vec::new();
    for _ in 0..3 {
        let mut pulls = [pull(&line, "one").await];
        // They leave when the next ones are there already.
        before.clear();
        let mut other = pull(&line, "other").await;
        for pulled in pulls.iter_mut().chain([&mut other]) {
            let loss = pulled.told().await.expect("a reason");
            assert_eq!(loss.expect_err("it has broken").message(), "broken");
        }
        before.extend(pulls.into_iter().chain([other]));
    }
}
