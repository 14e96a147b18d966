//! One conversation with the node a broadcast is pulled from.
//!
//! In: its pieces. Out: a mirror in this node's hub, kept true for as long as pieces come, and why they stopped. Silence is
//! measured in pieces: a node that has nothing to tell says so, and a connection that only looks alive is given up.
//! Nothing queues here: pieces go into the hall's rings at once, and where wishes have no room on the way, they wait one at a
//! time, and what they are made from is a value. Deliberately absent: what to do next (`pull`).

use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use headwater_common::{
    clock,
    cluster::{Connection, Upstream},
    live::{Copied, Lane, Mirror, MirrorError},
    media::Gop,
    relay::{
        Pulled,
        wire::{self, WireError},
    },
    rtc::{Corridor, SayError, Side, Utterance},
};
use headwater_proto::{Begin, Frame, Hold, Keyframe, Live, Open, Run, Said, Want, Wish, piece, wish};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::{
    Inner,
    demand::{self, Demand},
    pull::{Outcome, Pull},
};

/// Asked, a node answers within this or is passed over.
const BEGIN_WITHIN: Duration = Duration::from_secs(3);
/// The other side says something more than four times in this, so it has stalled.
const SILENT_MAX: Duration = Duration::from_millis(1_700);
/// Taken at a time: other pulls, and the viewers, have a turn as well.
const PIECES_AT_ONCE: usize = 64;
/// The other side repeats a gop that it has not named for so many others, a quarter of this.
const GOPS_KNOWN: usize = 256;
/// A source, its layers, what is made of them. Beyond it something is wrong over there.
const TRACKS_MAX: usize = 64;

/// Why there are no more pieces.
#[derive(Debug, thiserror::Error)]
pub(super) enum Loss {
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("no answer within {} s", BEGIN_WITHIN.as_secs())]
    Unanswered,
    #[error("nothing came for {} ms", SILENT_MAX.as_millis())]
    Stalled,
    #[error("the broadcast is over there")]
    Over,
    #[error("it would come in a circle: {}", .0.join(" → "))]
    Loop(Vec<String>),
    #[error("what was told makes no sense: {0}")]
    Wire(#[from] WireError),
    #[error("what was told makes no sense: {0}")]
    Order(String),
    #[error("{0}")]
    Mirror(#[from] MirrorError),
    #[error("what was said on a data channel can't be passed on: {0}")]
    Said(#[from] SayError),
}

impl Loss {
    /// The other node knows nothing of the broadcast.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == tonic::Code::NotFound)
    }

    /// Nothing came, not even an end: the connection may be to blame, and who waits for it to break waits for seconds.
    fn is_silence(&self) -> bool {
        matches!(self, Self::Unanswered | Self::Stalled)
    }
}

/// Pulls until there is a reason to stop.
pub(super) async fn follow(
    inner: &Inner,
    pull: &Pull,
    target: Upstream,
    upstream: &mut watch::Receiver<Option<Upstream>>,
) -> Outcome {
    let connection = target.route.connection();
    let begin = timeout(BEGIN_WITHIN, begin(inner, pull, &connection));
    let begun = tokio::select! {
        begun = begin => begun.unwrap_or(Err(Loss::Unanswered)),
        () = moved(upstream, &target) => return Outcome::Moved,
    };
    let outcome = match begun {
        Ok(mut stream) => {
            let broadcast = pull.id();
            tracing::info!(%broadcast, node = %target.node, epoch = stream.mirror.broadcast().epoch(), "pulled");
            tokio::select! {
                loss = stream.run() => Outcome::Lost(loss),
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

async fn begin<'a>(inner: &'a Inner, pull: &Pull, connection: &Connection) -> Result<Stream<'a>, Loss> {
    let open = Open { name: Some(wire::from_id(pull.id())), node: inner.name.to_string() };
    let mut pulled = connection.line.pull(open).await;
    let piece::Piece::Begin(begin) = pulled.pieces.recv().await.ok_or(Loss::Over)?? else {
        return Err(Loss::Order("it does not begin with the beginning".to_owned()));
    };
    let Begin { born_us, state, tracks } = begin;
    let told = wire::to_told(state.ok_or(WireError::Missing("the state"))?)?;
    if is_in(&told.path, inner) {
        return Err(Loss::Loop(told.path));
    }
    let mirror = inner.hub.mirror(pull.id(), wire::to_born_us(born_us)?, told, clock::now_us())?;
    let (demands, demanded) = mpsc::channel(1);
    let mut stream = Stream {
        inner,
        corridor: inner.engine.corridor(pull.id(), Side::Above),
        mirror,
        pulled,
        demands,
        demanded,
        lanes: Vec::new(),
        watchers: JoinSet::new(),
        gops: Gops::default(),
    };
    tracks.into_iter().try_for_each(|track| stream.declare(track))?;
    let lanes: Vec<Lane> = stream.lanes.iter().map(|told| told.lane).collect();
    stream.mirror.keep_only(&lanes)?;
    pull.here(stream.mirror.broadcast());
    Ok(stream)
}

struct Stream<'a> {
    inner: &'a Inner,
    corridor: Corridor,
    mirror: Mirror,
    pulled: Pulled,
    demands: mpsc::Sender<Demand>,
    demanded: mpsc::Receiver<Demand>,
    /// In the order of their numbers.
    lanes: Vec<Told>,
    watchers: JoinSet<()>,
    gops: Gops,
}

/// A track that the other node has told of.
struct Told {
    lane: Lane,
    /// What comes was asked for since it was not wanted last.
    runs: bool,
}

impl Stream<'_> {
    async fn run(&mut self) -> Loss {
        match self.pass_on().await {
            Ok(never) => match never {},
            Err(loss) => loss,
        }
    }

    async fn pass_on(&mut self) -> Result<std::convert::Infallible, Loss> {
        let mut pieces = Vec::with_capacity(PIECES_AT_ONCE);
        let mut heard = Instant::now();
        let mut patience = pin!(sleep(SILENT_MAX));
        let (number, wishes, mut unsent) = (self.pulled.number, self.pulled.wishes.clone(), None);
        let (mut holds, mut held) = (self.mirror.broadcast().holds(), false);
        loop {
            let idle = unsent.is_none();
            tokio::select! {
                // Patience comes last: a busy machine must not take what is there already for silence.
                biased;
                () = differs(&mut holds, held), if idle => {
                    held = !held;
                    unsent = Some(wish::Wish::Hold(Hold { held }));
                }
                Some(demand) = self.demanded.recv(), if idle => unsent = self.wish(demand),
                utterance = self.corridor.hear(), if idle => unsent = Some(said(utterance)),
                room = wishes.reserve(), if !idle => {
                    // Whether the other side still listens is told by its pieces.
                    if let (Ok(room), Some(wish)) = (room, unsent.take()) {
                        room.send(Wish { pull: number, wish: Some(wish) });
                    }
                }
                taken = self.pulled.pieces.recv_many(&mut pieces, PIECES_AT_ONCE) => {
                    if taken == 0 {
                        return Err(Loss::Over);
                    }
                    heard = Instant::now();
                    let now_us = clock::now_us();
                    pieces.drain(..).try_for_each(|piece| self.apply(piece?, now_us))?;
                }
                () = &mut patience => {
                    // Setting a timer anew with each piece would cost more than this.
                    let end = heard + SILENT_MAX;
                    if end <= Instant::now() {
                        return Err(Loss::Stalled);
                    }
                    patience.as_mut().reset(end);
                }
            }
        }
    }

    fn apply(&mut self, piece: piece::Piece, now_us: i64) -> Result<(), Loss> {
        match piece {
            piece::Piece::Frame(frame) => self.frame(frame, now_us),
            piece::Piece::Gop(gop) => {
                self.gops.insert(Arc::new(wire::to_gop(gop)?));
                Ok(())
            }
            piece::Piece::Track(track) => self.declare(track),
            piece::Piece::Run(Run { track, whole }) => {
                let Some(told) = self.lanes.get_mut(track as usize) else { return Err(untold(track)) };
                told.runs = true;
                self.mirror.begin_run(told.lane, whole);
                Ok(())
            }
            piece::Piece::Live(Live { track }) => {
                let Some(told) = self.lanes.get(track as usize) else { return Err(untold(track)) };
                if told.runs {
                    self.mirror.is_live(told.lane);
                }
                Ok(())
            }
            piece::Piece::State(state) => {
                let told = wire::to_told(state)?;
                if is_in(&told.path, self.inner) {
                    return Err(Loss::Loop(told.path));
                }
                Ok(self.mirror.tell(told, now_us)?)
            }
            piece::Piece::Said(said) => {
                let to = wire::to_hearers(&said)?;
                let utterance = Utterance { to, binary: said.binary, data: said.data };
                Ok(self.corridor.say(utterance, std::time::Instant::now())?)
            }
            piece::Piece::Begin(_) => Err(Loss::Order("it begins twice".to_owned())),
            // The line has taken it out.
            piece::Piece::Over(_) => Err(Loss::Over),
        }
    }

    fn frame(&mut self, frame: Frame, now_us: i64) -> Result<(), Loss> {
        let Some(told) = self.lanes.get(frame.track as usize) else { return Err(untold(frame.track)) };
        if !told.runs {
            return Ok(());
        }
        let Some(gop) = self.gops.get(frame.gop) else {
            return Err(Loss::Order(format!("a frame is of gop {}, which was never told of", frame.gop)));
        };
        if let Copied::Kept = self.mirror.append(told.lane, gop, wire::to_sample(frame)?, now_us)? {
            self.inner.door.received.inc();
        }
        Ok(())
    }

    fn declare(&mut self, track: headwater_proto::Track) -> Result<(), Loss> {
        let (number, known) = (track.id, self.lanes.len());
        if number as usize > known || known >= TRACKS_MAX {
            return Err(Loss::Order(format!("track {number} follows on {known} others")));
        }
        let lane = self.mirror.declare(wire::to_declared(track)?)?;
        match self.lanes.get(number as usize) {
            Some(told) if told.lane == lane => {}
            Some(_) => return Err(Loss::Order(format!("track {number} has become another one"))),
            None if self.lanes.iter().any(|told| told.lane == lane) => {
                return Err(Loss::Order(format!("track {number} is told of under two numbers")));
            }
            None => {
                self.lanes.push(Told { lane, runs: false });
                let track = self.mirror.track(lane).clone();
                self.watchers.spawn(demand::watch(track, number, self.demands.clone()));
            }
        }
        Ok(())
    }

    fn wish(&mut self, demand: Demand) -> Option<wish::Wish> {
        match demand {
            Demand::Wanted { track, present } => Some(wish::Wish::Want(Want { track, wanted: true, present })),
            Demand::Unwanted(track) => {
                let told = self.lanes.get_mut(track as usize)?;
                // Somebody has come meanwhile and must not be given twice what is here.
                if self.mirror.track(told.lane).readers() > 0 {
                    return None;
                }
                told.runs = false;
                self.mirror.clear(told.lane);
                Some(wish::Wish::Want(Want { track, wanted: false, present: false }))
            }
            Demand::Keyframe(track) => Some(wish::Wish::Keyframe(Keyframe { track })),
        }
    }
}

/// Resolves when playlists are made of it here and the other node does not know, or the other way round.
async fn differs(holds: &mut watch::Receiver<usize>, held: bool) {
    if holds.wait_for(|holds| (*holds > 0) != held).await.is_err() {
        std::future::pending().await
    }
}

fn is_in(path: &[String], inner: &Inner) -> bool {
    path.iter().any(|node| node == inner.name.as_str())
}

fn untold(track: u32) -> Loss {
    Loss::Order(format!("track {track} was never told of"))
}

fn said(Utterance { to, binary, data }: Utterance) -> wish::Wish {
    wish::Wish::Said(Said { binary, data, hearers: wire::from_hearers(to).into() })
}

/// Those that frames may still point to.
#[derive(Default)]
struct Gops {
    by_id: HashMap<u64, Arc<Gop>>,
    order: VecDeque<u64>,
}

impl Gops {
    fn insert(&mut self, gop: Arc<Gop>) {
        let id = gop.id;
        if self.by_id.insert(id, gop).is_some() {
            self.order.retain(|known| *known != id);
        }
        self.order.push_back(id);
        if self.order.len() > GOPS_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }

    fn get(&self, id: u64) -> Option<Arc<Gop>> {
        self.by_id.get(&id).cloned()
    }
}
