//! One conversation with the node a broadcast is pulled from.
//!
//! In: what the line's task takes for it, wishes of those who watch here. Out: what that node is to know, and why there is no
//! more. Pieces go into the hall's rings at once, by the task that reads them ([`Desk`]): this one is woken for wishes only.
//! Where those have no room on the way, they wait one at a time, and what they are made from is a value. Silence is
//! measured in pieces: a node that has nothing to tell says so, and a connection that only looks alive is given up.
//! Deliberately absent: what pieces mean (`stream`), and what to do next (`pull`).

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use headwater_common::{
    clock,
    cluster::Upstream,
    live::Broadcast,
    relay::{Pulled, Take, wire},
    rtc::Utterance,
};
use headwater_proto::{Hold, Open, Said, Wish, piece, wish};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tonic::Status;

use super::{
    Inner,
    demand::Demand,
    loss::Loss,
    pull::{Outcome, Pull},
    stream::Stream,
};

/// Asked, a node answers within this or is passed over.
pub(super) const BEGIN_WITHIN: Duration = Duration::from_secs(3);
/// The other side says something more than four times in this, so it has stalled.
pub(super) const SILENT_MAX: Duration = Duration::from_millis(1_700);

/// Pulls until there is a reason to stop.
pub(super) async fn follow(
    inner: &Arc<Inner>,
    pull: &Arc<Pull>,
    target: Upstream,
    upstream: &mut watch::Receiver<Option<Upstream>>,
) -> Outcome {
    let connection = target.route.connection();
    let (demands, demanded) = mpsc::channel(1);
    let (tell, mut news) = mpsc::channel(NEWS_MAX);
    let desk = Desk::new(Opening { inner: inner.clone(), pull: pull.clone(), demands });
    let take = desk.taker(tell);
    let open = Open { name: Some(wire::from_id(pull.id())), node: inner.name.to_string() };
    let begun = timeout(BEGIN_WITHIN, async {
        let pulled = connection.line.pull(open, take).await;
        match news.recv().await {
            Some(News::Begun(broadcast)) => Ok((pulled, broadcast)),
            Some(News::Lost(loss)) => Err(loss),
            None => Err(Loss::Bug),
        }
    });
    let begun = tokio::select! {
        begun = begun => begun.unwrap_or(Err(Loss::Unanswered)),
        () = moved(upstream, &target) => return Outcome::Moved,
    };
    let outcome = match begun {
        Ok((pulled, broadcast)) => {
            tracing::info!(broadcast = %pull.id(), node = %target.node, epoch = broadcast.epoch(), "pulled");
            tokio::select! {
                loss = desk.attend(&pulled, &broadcast, demanded, news) => Outcome::Lost(loss),
                () = moved(upstream, &target) => Outcome::Moved,
                () = pull.unwanted() => Outcome::Unwanted,
            }
        }
        Err(loss) => Outcome::Failed(loss),
    };
    if let Outcome::Lost(loss) | Outcome::Failed(loss) = &outcome
        && loss.is_silence()
    {
        target.route.give_up(&connection);
    }
    outcome
}

/// Resolves when the broadcast has a newer claim on another node. That it is told to live nowhere means little while
/// pieces come.
async fn moved(upstream: &mut watch::Receiver<Option<Upstream>>, from: &Upstream) {
    loop {
        super::changed(upstream).await;
        let elsewhere = |now: &Upstream| now.node != from.node && now.epoch >= from.epoch;
        if upstream.borrow_and_update().as_ref().is_some_and(elsewhere) {
            return;
        }
    }
}

/// What the pull's task has to know of what the line's task took. There are two at most.
enum News {
    Begun(Arc<Broadcast>),
    Lost(Loss),
}

const NEWS_MAX: usize = 2;

/// Where the line's task and the pull's own meet. Dropped by the pull, what is still on its way is for nobody.
struct Desk(Arc<Mutex<Stage>>);

enum Stage {
    Opening(Opening),
    Going { stream: Box<Stream>, heard: Instant },
    Over,
}

/// What it takes to begin.
struct Opening {
    inner: Arc<Inner>,
    pull: Arc<Pull>,
    demands: mpsc::Sender<Demand>,
}

impl Desk {
    fn new(opening: Opening) -> Self {
        Self(Arc::new(Mutex::new(Stage::Opening(opening))))
    }

    /// Nobody has `tell` but whoever takes: should that panic, there is no more news.
    fn taker(&self, tell: mpsc::Sender<News>) -> Take {
        let stage = self.0.clone();
        Arc::new(move |told| {
            // There is room for all there is ever to tell, and whoever does not listen any more needs nothing.
            if let Some(news) = lock(&stage).take(told) {
                let _ = tell.try_send(news);
            }
        })
    }

    /// Passes wishes on until nothing comes any more.
    async fn attend(
        &self,
        pulled: &Pulled,
        broadcast: &Broadcast,
        mut demanded: mpsc::Receiver<Demand>,
        mut news: mpsc::Receiver<News>,
    ) -> Loss {
        let mut patience = pin!(sleep(SILENT_MAX));
        let (mut holds, mut held, mut unsent) = (broadcast.holds(), false, None);
        loop {
            let idle = unsent.is_none();
            tokio::select! {
                // Patience comes last: a busy machine must not take what is there already for silence.
                biased;
                news = news.recv() => return match news {
                    Some(News::Lost(loss)) => loss,
                    Some(News::Begun(_)) | None => Loss::Bug,
                },
                () = differs(&mut holds, held), if idle => {
                    held = !held;
                    unsent = Some(wish::Wish::Hold(Hold { held }));
                }
                Some(demand) = demanded.recv(), if idle => unsent = self.with(|stream| stream.wish(demand)).flatten(),
                utterance = self.hear(), if idle => unsent = Some(said(utterance)),
                room = pulled.wishes.reserve(), if !idle => {
                    // Whether the other side still listens is told by its pieces.
                    if let (Ok(room), Some(wish)) = (room, unsent.take()) {
                        room.send(Wish { pull: pulled.number, wish: Some(wish) });
                    }
                }
                () = &mut patience => {
                    // Setting a timer anew with each piece would cost more than this.
                    let end = self.heard() + SILENT_MAX;
                    if end <= Instant::now() {
                        return Loss::Stalled;
                    }
                    patience.as_mut().reset(end);
                }
            }
        }
    }

    /// What is said here for the other node.
    async fn hear(&self) -> Utterance {
        poll_fn(|cx| self.with(|stream| stream.corridor.poll_hear(cx)).unwrap_or(Poll::Pending)).await
    }

    /// When the other node said something last.
    fn heard(&self) -> Instant {
        match &*lock(&self.0) {
            Stage::Going { heard, .. } => *heard,
            // There is news, which is looked at first.
            Stage::Opening(_) | Stage::Over => Instant::now(),
        }
    }

    /// `None` once it is over: there is news then.
    fn with<T>(&self, ask: impl FnOnce(&mut Stream) -> T) -> Option<T> {
        match &mut *lock(&self.0) {
            Stage::Going { stream, .. } => Some(ask(stream)),
            Stage::Opening(_) | Stage::Over => None,
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        *lock(&self.0) = Stage::Over;
    }
}

impl Stage {
    fn take(&mut self, told: Result<piece::Piece, Status>) -> Option<News> {
        match self.apply(told) {
            Ok(begun) => begun.map(News::Begun),
            Err(loss) => {
                *self = Self::Over;
                Some(News::Lost(loss))
            }
        }
    }

    /// Returns what has begun with it.
    fn apply(&mut self, told: Result<piece::Piece, Status>) -> Result<Option<Arc<Broadcast>>, Loss> {
        match self {
            Self::Opening(Opening { inner, pull, demands }) => {
                let begin = match told? {
                    piece::Piece::Begin(begin) => begin,
                    piece::Piece::Over(_) => return Err(Loss::Over),
                    _ => return Err(Loss::Order("it does not begin with the beginning".to_owned())),
                };
                let stream = Box::new(Stream::begin(inner, pull, begin, demands.clone())?);
                let broadcast = stream.mirror.broadcast().clone();
                *self = Self::Going { stream, heard: Instant::now() };
                Ok(Some(broadcast))
            }
            Self::Going { stream, heard } => {
                *heard = Instant::now();
                stream.apply(told?, clock::now_us()).map(|()| None)
            }
            Self::Over => Ok(None),
        }
    }
}

/// Nothing that is put there is ever left half-changed for somebody else: after a panic it is dropped.
fn lock(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Resolves when playlists are made of it here and the other node does not know, or the other way round.
async fn differs(holds: &mut watch::Receiver<usize>, held: bool) {
    if holds.wait_for(|holds| (*holds > 0) != held).await.is_err() {
        std::future::pending().await
    }
}

fn said(Utterance { to, binary, data }: Utterance) -> wish::Wish {
    wish::Wish::Said(Said { binary, data, hearers: wire::from_hearers(to).into() })
}
