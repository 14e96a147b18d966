//! All that this node pulls from another one, on one stream through one connection.
//!
//! In: names of broadcasts, and for each who takes its pieces. Out: every piece at once to whom it belongs, by the task that
//! reads the stream: so nothing queues here, and a piece costs no wake-up. A [`Pulled`] is the way for wishes. The stream
//! begins with the first pull and ends with the last. Deliberately absent: what pieces mean, and what to do about a loss.

use std::{
    collections::HashMap,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use futures_util::StreamExt as _;
use headwater_proto::{Leave, Open, Over, Piece, Wish, piece, wish};
use tokio::{
    sync::{mpsc, oneshot},
    task::{AbortHandle, coop},
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Status, transport::Channel};

use super::Pieces;

/// On their way to the other node, of all pulls. When full, whoever has another one waits.
const WISHES_WAITING: usize = 64;

/// Takes what is told of one broadcast, its end or the loss of the line at last. It is called by the task that reads for all,
/// so it must not wait.
pub type Take = Arc<dyn Fn(Result<piece::Piece, Status>) + Send + Sync>;

/// Cheap to clone: all clones share the stream.
#[derive(Clone)]
pub struct Line(Arc<Inner>);

struct Inner {
    channel: Channel,
    /// Of all talks: a pull that outlives its own leaves no other one's.
    newest: AtomicU32,
    talk: Mutex<Option<Talk>>,
}

/// Lasts as long as there are pulls.
struct Talk {
    wishes: mpsc::Sender<Wish>,
    pulls: HashMap<u32, Take>,
    carried: AbortHandle,
    /// Dropped, no more wishes are sent, whoever still has a way for his own.
    _goes_on: oneshot::Sender<()>,
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.carried.abort();
    }
}

/// One broadcast's part of it. Dropped, it is over, and the other node hears of it.
pub struct Pulled {
    pub number: u32,
    pub wishes: mpsc::Sender<Wish>,
    line: Line,
}

impl Line {
    pub fn new(channel: Channel) -> Self {
        Self(Arc::new(Inner { channel, newest: AtomicU32::new(0), talk: Mutex::default() }))
    }

    /// Whether there is such a broadcast is told by its pieces.
    pub async fn pull(&self, open: Open, take: Take) -> Pulled {
        let pulled = self.enter(take);
        // If nobody reads it any more, that is told as a loss.
        let _ = pulled.wishes.send(Wish { pull: pulled.number, wish: Some(wish::Wish::Open(open)) }).await;
        pulled
    }

    fn enter(&self, take: Take) -> Pulled {
        let mut talk = self.lock();
        let talk = talk.get_or_insert_with(|| self.begin());
        let number = self.0.newest.fetch_add(1, Ordering::Relaxed);
        talk.pulls.insert(number, take);
        Pulled { number, wishes: talk.wishes.clone(), line: self.clone() }
    }

    fn begin(&self) -> Talk {
        let (wishes, waiting) = mpsc::channel(WISHES_WAITING);
        let (goes_on, over) = oneshot::channel();
        let waiting = ReceiverStream::new(waiting).take_until(over);
        let (line, own) = (self.clone(), wishes.clone());
        let carried = tokio::spawn(async move {
            let Err(loss) = line.carry(&own, waiting).await;
            line.lose(&own, &loss);
        });
        Talk { wishes, pulls: HashMap::new(), carried: carried.abort_handle(), _goes_on: goes_on }
    }

    async fn carry(
        &self,
        own: &mpsc::Sender<Wish>,
        waiting: impl Stream<Item = Wish> + Send + 'static,
    ) -> Result<Infallible, Status> {
        let mut pieces = Pieces::pull(self.0.channel.clone(), waiting).await?;
        loop {
            let Some(Piece { pull, piece }) = pieces.next().await? else {
                return Err(Status::unavailable("it tells no more"));
            };
            match piece {
                Some(piece::Piece::Over(Over { code, message })) if code != Code::Ok as u32 => {
                    self.pass_on(own, pull, Err(Status::new((code as i32).into(), message)));
                }
                Some(piece) => self.pass_on(own, pull, Ok(piece)),
                // Of a newer node.
                None => {}
            }
            // A cold edge is sent whole rings, and others have a turn, too.
            coop::consume_budget().await;
        }
    }

    fn pass_on(&self, own: &mpsc::Sender<Wish>, number: u32, told: Result<piece::Piece, Status>) {
        let last = matches!(told, Err(_) | Ok(piece::Piece::Over(_)));
        let take = self.lock().as_mut().and_then(|talk| match last {
            true => talk.pulls.remove(&number),
            false => talk.pulls.get(&number).cloned(),
        });
        match take {
            Some(take) => {
                // A bug costs one broadcast's pull, not all that come on this line.
                if catch_unwind(AssertUnwindSafe(|| take(told))).is_err() {
                    self.leave(number);
                }
            }
            None if last => {}
            // When it left there was no room to say so. If there is none now either, there will be a next piece.
            None => drop(own.try_send(leave(number))),
        }
    }

    /// Nothing more comes on the stream that takes these wishes.
    fn lose(&self, own: &mpsc::Sender<Wish>, loss: &Status) {
        let lost = self.lock().take_if(|talk| talk.wishes.same_channel(own));
        for take in lost.iter().flat_map(|talk| talk.pulls.values()) {
            // Whoever has a bug is dropped with the others.
            let _ = catch_unwind(AssertUnwindSafe(|| take(Err(loss.clone()))));
        }
    }

    fn leave(&self, number: u32) {
        let mut held = self.lock();
        let Some(talk) = &mut *held else { return };
        if talk.pulls.remove(&number).is_none() {
            return;
        }
        if talk.pulls.is_empty() {
            *held = None;
        } else {
            let _ = talk.wishes.try_send(leave(number));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Talk>> {
        self.0.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pulled {
    fn drop(&mut self) {
        self.line.leave(self.number);
    }
}

fn leave(number: u32) -> Wish {
    Wish { pull: number, wish: Some(wish::Wish::Leave(Leave {})) }
}
