//! A shard's letter box: everything that other threads have to tell it.
//!
//! In: marks (a track has frames, a broadcast changed), commands, packets that arrived elsewhere, messages for data
//! channels. Out: all of them, once per turn; messages as many as the turn has time for. Deliberately absent: media; a
//! shard reads that from the hall itself.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::*},
    },
    task::{Wake, Waker},
};

use str0m::net::Protocol;
use tokio::sync::{Notify, oneshot};

use super::{End, Quality, Restarted, SdpError, SessionId, exchange::Message, sdp::Fragment, tcp::TcpOut};
use crate::{intake::Intake, media::Kind};

/// Packets of TCP peers and of sessions that live on another shard. Full means that the shard is overloaded: what
/// comes then is dropped and counted, and peers repeat themselves.
const PACKETS_MAX: usize = 4_096;
/// Messages that wait to be told, and their bytes. Full means that more is said on this node than the shard can tell
/// beside its media: what comes then is dropped and counted.
const MESSAGES_MAX: usize = 4_096;
const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Messages about one broadcast that are taken at a time: each listener's stack is driven once for all of them.
const MESSAGES_AT_ONCE: usize = 32;

#[derive(Debug)]
pub(super) struct Packet {
    pub(super) proto: Protocol,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) data: Vec<u8>,
    pub(super) reply: Option<TcpOut>,
}

#[derive(Debug)]
pub(super) enum Command {
    Close(SessionId, End),
    /// Tell this player something.
    Instruct {
        id: SessionId,
        text: Arc<str>,
    },
    Accept {
        id: SessionId,
        answer: String,
        reply: oneshot::Sender<Result<(), SdpError>>,
    },
    /// The publisher that knocked has the broadcast now; nothing: it doesn't get it.
    LetIn {
        id: SessionId,
        intake: Option<Box<Intake>>,
    },
    Enable {
        id: SessionId,
        kind: Kind,
        enabled: bool,
    },
    Restart {
        id: SessionId,
        fragment: Fragment,
        reply: oneshot::Sender<Result<Restarted, SdpError>>,
    },
    Pin {
        id: SessionId,
        quality: Quality,
    },
    Stop,
}

/// What to look at again. Keys may be stale by then: looking once too often does no harm.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mark {
    Feed(usize),
    Audience(usize),
}

#[derive(Debug, Default)]
pub(super) struct Letters {
    pub(super) marks: Vec<Mark>,
    pub(super) commands: Vec<Command>,
    pub(super) packets: VecDeque<Packet>,
}

#[derive(Debug, Default)]
struct Messages {
    queue: VecDeque<Arc<Message>>,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Inbox {
    letters: Mutex<Letters>,
    messages: Mutex<Messages>,
    arrived: Notify,
    pub(super) overflowed: AtomicU64,
}

impl Inbox {
    pub(super) fn command(&self, command: Command) {
        self.lock().commands.push(command);
        self.arrived.notify_one();
    }

    pub(super) fn packet(&self, packet: Packet) {
        let mut letters = self.lock();
        if letters.packets.len() >= PACKETS_MAX {
            self.overflowed.fetch_add(1, Relaxed);
            return;
        }
        letters.packets.push_back(packet);
        drop(letters);
        self.arrived.notify_one();
    }

    /// `false` when full.
    pub(super) fn message(&self, message: Arc<Message>) -> bool {
        let mut messages = self.lock_messages();
        let bytes = messages.bytes + message.data.len();
        if messages.queue.len() >= MESSAGES_MAX || bytes > WAITING_BYTES_MAX {
            return false;
        }
        messages.bytes = bytes;
        messages.queue.push_back(message);
        drop(messages);
        self.arrived.notify_one();
        true
    }

    /// The oldest message, and what was said after it about the same broadcast.
    pub(super) fn messages(&self) -> Vec<Arc<Message>> {
        let mut messages = self.lock_messages();
        let Some(broadcast) = messages.queue.front().map(|message| message.broadcast.clone()) else {
            return Vec::new();
        };
        let same = messages.queue.iter().take(MESSAGES_AT_ONCE).take_while(|message| message.broadcast == broadcast);
        let count = same.count();
        let taken: Vec<_> = messages.queue.drain(..count).collect();
        messages.bytes -= taken.iter().map(|message| message.data.len()).sum::<usize>();
        taken
    }

    /// Makes the shard take another turn.
    pub(super) fn nudge(&self) {
        self.arrived.notify_one();
    }

    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Swaps with the emptied letters of the last turn, so that no turn allocates.
    pub(super) fn take(&self, letters: &mut Letters) {
        std::mem::swap(&mut *self.lock(), letters);
    }

    fn lock_messages(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Wakes a shard and tells it what for; many wakings before its turn are one.
#[derive(Debug)]
pub(super) struct Flag {
    inbox: Arc<Inbox>,
    mark: Mark,
    raised: AtomicBool,
}

impl Flag {
    pub(super) fn new(inbox: &Arc<Inbox>, mark: Mark) -> (Arc<Self>, Waker) {
        let flag = Arc::new(Self { inbox: inbox.clone(), mark, raised: AtomicBool::new(false) });
        let waker = Waker::from(flag.clone());
        (flag, waker)
    }

    /// Before looking: what happens from now on raises it again.
    pub(super) fn lower(&self) {
        self.raised.store(false, Release);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.raised.swap(true, AcqRel) {
            self.inbox.lock().marks.push(self.mark);
            self.inbox.arrived.notify_one();
        }
    }
}
