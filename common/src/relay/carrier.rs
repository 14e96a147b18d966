//! All that one other node pulls from this one, told on one stream.
//!
//! In: its wishes, each for one of its pulls. Out: pieces of all of them, in turn. What wishes nonsense loses that one pull.
//! A hundred broadcasts have a picture every few hundred microseconds, and what it costs to let something leave (HTTP/2,
//! TLS, the kernel, a wake-up over there) is the same for one and for ten: so what comes within two milliseconds leaves
//! together. What comes after a longer pause leaves at once: a single broadcast is no later for it. Deliberately absent: a
//! task of its own (the connection polls it), and what is told of a broadcast (`serving`).

use std::{
    collections::VecDeque,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use headwater_proto::{Open, Piece, Wish, piece, wish};
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::{
    Serve,
    rota::Rota,
    serving::{End, Serving},
    wire,
};
use crate::live::{Broadcast, BroadcastId};

/// From one departure to the next, at least. Timers tick in milliseconds, so it is three at times.
const REST: Duration = Duration::from_millis(2);
/// Taken at a time: what comes first must not keep frames from leaving.
const WISHES_AT_ONCE: usize = 32;
/// Told one after the other before wishes have a turn.
const PIECES_AT_ONCE: usize = 64;
/// As many broadcasts as one node may pull from another one.
const PULLS_MAX: usize = 100_000;
/// Wished before the broadcast was found.
const EARLY_MAX: usize = 32;

pub struct Carrier {
    serve: Serve,
    wishes: Streaming<Wish>,
    pulls: Rota<Pull>,
    /// Ends that wishes have brought about. Never more than what is taken at a time.
    ends: VecDeque<Piece>,
    /// Pieces since wishes were looked at.
    in_a_row: usize,
    /// Something was told since the last rest.
    tired: bool,
    rest: Pin<Box<Sleep>>,
    resting: bool,
}

enum Pull {
    Finding(Finding),
    Found(Box<Serving>),
}

struct Finding {
    id: BroadcastId,
    broadcast: Pin<Box<dyn Future<Output = Option<Arc<Broadcast>>> + Send>>,
    early: Vec<wish::Wish>,
}

impl Carrier {
    pub(super) fn new(serve: Serve, wishes: Streaming<Wish>) -> Self {
        Self {
            serve,
            wishes,
            pulls: Rota::new(),
            ends: VecDeque::new(),
            in_a_row: 0,
            tired: false,
            rest: Box::pin(sleep(REST)),
            resting: false,
        }
    }

    /// Ready when the other node is gone, or about to be.
    fn poll_wishes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..WISHES_AT_ONCE {
            match ready!(Pin::new(&mut self.wishes).poll_next(cx)) {
                Some(Ok(Wish { pull, wish: Some(wish) })) => {
                    if let Err(end) = self.obey(pull, wish) {
                        let end = self.end(pull, end);
                        self.ends.push_back(end);
                    }
                }
                // Of a newer node.
                Some(Ok(Wish { wish: None, .. })) => {}
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn obey(&mut self, number: u32, wish: wish::Wish) -> Result<(), End> {
        match (self.pulls.get_mut(number), wish) {
            (None, wish::Wish::Open(open)) => {
                if self.pulls.len() >= PULLS_MAX {
                    return Err(End::Refused(Status::resource_exhausted("so many broadcasts at once are not served")));
                }
                let finding = self.find(open)?;
                self.pulls.insert(number, Pull::Finding(finding));
                Ok(())
            }
            // It has ended, and this was on its way.
            (None, wish::Wish::Leave(_)) => Ok(()),
            (None, _) => Err(End::refused(&format!("no pull has the number {number}"))),
            (Some(pull), wish) => pull.obey(wish),
        }
    }

    fn find(&self, Open { name, node }: Open) -> Result<Finding, End> {
        let id = wire::to_id(name).map_err(|error| End::refused(&error.to_string()))?;
        tracing::debug!(broadcast = %id, node, "asked for by another node");
        let (finder, named) = (self.serve.finder.clone(), id.clone());
        let broadcast = Box::pin(async move { finder.find(&named).await });
        Ok(Finding { id, broadcast, early: Vec::new() })
    }

    /// Returns what the other node is told.
    fn end(&mut self, number: u32, end: End) -> Piece {
        self.pulls.remove(number);
        let (code, message) = match end {
            End::Over => (tonic::Code::Ok, String::new()),
            End::Refused(status) => {
                self.serve.door.errors.inc();
                tracing::debug!(%status, "pull ended");
                (status.code(), status.message().to_owned())
            }
        };
        let over = headwater_proto::Over { code: code as u32, message };
        Piece { pull: number, piece: Some(piece::Piece::Over(over)) }
    }

    fn next(&mut self) -> Option<Piece> {
        if let Some(end) = self.ends.pop_front() {
            return Some(end);
        }
        let (serve, pulls) = (&self.serve, &mut self.pulls);
        let (number, told) = pulls.next(|pull, cx| pull.poll_piece(serve, cx))?;
        Some(match told {
            Ok(piece) => Piece { pull: number, piece: Some(piece) },
            Err(end) => self.end(number, end),
        })
    }

    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.resting {
            ready!(self.rest.as_mut().poll(cx));
            self.resting = false;
        }
        Poll::Ready(())
    }
}

impl Stream for Carrier {
    type Item = Result<Piece, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            ready!(this.poll_rest(cx));
            if this.in_a_row == 0 && this.poll_wishes(cx).is_ready() {
                return Poll::Ready(None);
            }
            if let Some(piece) = this.next() {
                this.in_a_row = (this.in_a_row + 1) % PIECES_AT_ONCE;
                this.tired = true;
                return Poll::Ready(Some(Ok(piece)));
            }
            if this.in_a_row > 0 {
                // Wishes are to wake this, too.
                this.in_a_row = 0;
                continue;
            }
            if mem::take(&mut this.tired) {
                this.rest.as_mut().reset(Instant::now() + REST);
                this.resting = true;
                continue;
            }
            ready!(this.pulls.poll_rung(cx));
        }
    }
}

impl Pull {
    fn obey(&mut self, wish: wish::Wish) -> Result<(), End> {
        match self {
            Self::Found(serving) => serving.obey(wish),
            Self::Finding(finding) if finding.early.len() < EARLY_MAX => {
                finding.early.push(wish);
                Ok(())
            }
            Self::Finding(_) => Err(End::refused("so many wishes come after the broadcast was found")),
        }
    }

    fn poll_piece(&mut self, serve: &Serve, cx: &mut Context<'_>) -> Poll<Result<piece::Piece, End>> {
        if let Self::Finding(finding) = self {
            let found = ready!(finding.broadcast.as_mut().poll(cx));
            let absent = || End::Refused(Status::not_found(format!("{} is not here", finding.id)));
            let mut serving = Box::new(serve.serving(found.ok_or_else(absent)?));
            mem::take(&mut finding.early).into_iter().try_for_each(|wish| serving.obey(wish))?;
            *self = Self::Found(serving);
        }
        match self {
            Self::Found(serving) => serving.poll_piece(cx),
            Self::Finding(_) => Poll::Pending,
        }
    }
}
