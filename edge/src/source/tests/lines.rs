//! What several pulls from one node have in common, and what they have not.

use headwater_common::{
    live::BroadcastId,
    relay::{Line, Pulled, wire},
};
use headwater_proto::{
    Frame, Open, Piece, Want, Wish, piece,
    relay_server::{Relay, RelayServer},
    wish,
};
use tokio::time::timeout;
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

async fn pull(line: &Line, stream: &str) -> Pulled {
    line.pull(Open { name: Some(wire::from_id(&name(stream))), node: "edge".into() }).await
}

/// With its pictures wanted.
async fn watch(line: &Line, stream: &str) -> Pulled {
    let mut pulled = pull(line, stream).await;
    let begin = timeout(PATIENCE, pulled.pieces.recv()).await.expect("a piece").expect("goes on").unwrap();
    assert!(matches!(begin, piece::Piece::Begin(_)), "{begin:?}");
    let want = wish::Wish::Want(Want { track: 0, wanted: true, present: false });
    pulled.wishes.send(Wish { pull: pulled.number, wish: Some(want) }).await.unwrap();
    pulled
}

async fn frame(pulled: &mut Pulled) -> Frame {
    loop {
        let piece = timeout(PATIENCE, pulled.pieces.recv()).await.expect("a piece").expect("goes on").unwrap();
        if let piece::Piece::Frame(frame) = piece {
            return frame;
        }
    }
}

async fn until_at(pulled: &mut Pulled, dts_us: i64) {
    while frame(pulled).await.dts_us < dts_us {}
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
    let refused = timeout(PATIENCE, of_none.pieces.recv()).await.expect("an answer").expect("a reason");
    assert_eq!(refused.expect_err("there is no such broadcast").code(), tonic::Code::NotFound);
    assert!(of_none.pieces.recv().await.is_none());

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
async fn who_does_not_take_its_pieces_loses_them_and_the_others_go_on() {
    let origin = Origin::new("origin").await;
    let (mut busy, mut good) = (camera(&origin, "busy", 1), camera(&origin, "good", 1));
    let line = origin.served.route.connection().line;
    let (mut stuck, mut takes) = (watch(&line, "busy").await, watch(&line, "good").await);
    for second in 1..=12 {
        busy.play(1_000_000);
        good.play(1_000_000);
        until_at(&mut takes, second * 1_000_000 + 960_000).await;
    }
    until("it is read for somebody who does not take it", || readers(&busy) == 0).await;
    let mut taken = 0;
    while stuck.pieces.recv().await.is_some() {
        taken += 1;
    }
    assert!((200..400).contains(&taken), "{taken}");
    good.play(1_000_000);
    until_at(&mut takes, 13_960_000).await;
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
            let loss = timeout(PATIENCE, pulled.pieces.recv()).await.expect("a loss").expect("a reason");
            assert_eq!(loss.expect_err("it has broken").message(), "broken");
        }
        before.extend(pulls.into_iter().chain([other]));
    }
}
