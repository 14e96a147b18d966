//! All that this node pulls from another one, on one stream through one connection.
//!
//! In: names of broadcasts. Out: a [`Pulled`] for each, with the pieces that are its own and a way for its wishes. The stream
//! begins with the first pull and ends with the last. Whoever takes pieces is expected to be quick: it does nothing but
//! put them into rings. For one that is not the others wait a little, and then it loses its pull. Deliberately absent:
//! what pieces mean, and what to do about a loss.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use headwater_proto::{Leave, Open, Over, Piece, Wish, piece, wish};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    task::AbortHandle,
    time::timeout,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Code, Status, transport::Channel};

use super::transport;

/// On their way to the other node, of all pulls. When full, whoever has another one waits.
const WISHES_WAITING: usize = 64;
/// Of one pull. It is woken with the first of them.
const PIECES_WAITING: usize = 256;
/// So long all others wait for one that does not take its pieces.
const STUCK_AFTER: Duration = Duration::from_secs(1);

type Told = Result<piece::Piece, Status>;

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
    pulls: HashMap<u32, mpsc::Sender<Told>>,
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
    /// After the last one: the broadcast is over there.
    pub pieces: mpsc::Receiver<Told>,
    line: Line,
}

impl Line {
    pub fn new(channel: Channel) -> Self {
        Self(Arc::new(Inner { channel, newest: AtomicU32::new(0), talk: Mutex::default() }))
    }

    /// Whether there is such a broadcast is told by its pieces.
    pub async fn pull(&self, open: Open) -> Pulled {
        let pulled = self.enter();
        // If nobody takes it any more, the pieces are at an end.
        let _ = pulled.wishes.send(Wish { pull: pulled.number, wish: Some(wish::Wish::Open(open)) }).await;
        pulled
    }

    fn enter(&self) -> Pulled {
        let mut talk = self.lock();
        let talk = talk.get_or_insert_with(|| self.begin());
        let number = self.0.newest.fetch_add(1, Ordering::Relaxed);
        let wishes = talk.wishes.clone();
        let (sender, pieces) = mpsc::channel(PIECES_WAITING);
        talk.pulls.insert(number, sender);
        Pulled { number, wishes, pieces, line: self.clone() }
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
    ) -> Result<std::convert::Infallible, Status> {
        let mut client = transport::client(self.0.channel.clone());
        let mut pieces = client.pull(waiting).await?.into_inner();
        loop {
            let piece = pieces.message().await?;
            let Some(Piece { pull, piece }) = piece else { return Err(Status::unavailable("it tells no more")) };
            match piece {
                Some(piece::Piece::Over(Over { code, message })) => {
                    let pull = self.lock().as_mut().and_then(|talk| talk.pulls.remove(&pull));
                    if let Some(pull) = pull
                        && code != Code::Ok as u32
                    {
                        let _ = timeout(STUCK_AFTER, pull.send(Err(Status::new((code as i32).into(), message)))).await;
                    }
                }
                Some(piece) => self.pass_on(own, pull, piece).await,
                // Of a newer node.
                None => {}
            }
        }
    }

    async fn pass_on(&self, own: &mpsc::Sender<Wish>, number: u32, piece: piece::Piece) {
        let Some((pull, piece)) = self.pass_at_once(own, number, piece) else { return };
        if timeout(STUCK_AFTER, pull.send(piece)).await.is_err() {
            tracing::error!(number, "pull ended: it does not take what comes");
            self.leave(number);
        }
    }

    /// Returns what there is no room for.
    fn pass_at_once(
        &self,
        own: &mpsc::Sender<Wish>,
        number: u32,
        piece: piece::Piece,
    ) -> Option<(mpsc::Sender<Told>, Told)> {
        let talk = self.lock();
        let Some(pull) = talk.as_ref()?.pulls.get(&number) else {
            // When it left there was no room to say so. If there is none now either, there will be a next piece.
            let _ = own.try_send(leave(number));
            return None;
        };
        match pull.try_send(Ok(piece)) {
            Err(TrySendError::Full(piece)) => Some((pull.clone(), piece)),
            Ok(()) | Err(TrySendError::Closed(_)) => None,
        }
    }

    /// Nothing more comes on the stream that takes these wishes.
    fn lose(&self, own: &mpsc::Sender<Wish>, loss: &Status) {
        let lost = self.lock().take_if(|talk| talk.wishes.same_channel(own));
        for pull in lost.iter().flat_map(|talk| talk.pulls.values()) {
            // Where there is no room it ends without a reason.
            let _ = pull.try_send(Err(loss.clone()));
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
