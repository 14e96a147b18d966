//! What is told of one broadcast by the node it is pulled from.
//!
//! In: pieces, in their order. Out: a mirror in this node's hub, kept true for as long as pieces come, what that node is
//! asked for where tracks are wanted here, and which piece made no sense. Deliberately absent: the line, silence, and
//! waiting of any kind (`talk`).

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use headwater_common::{
    clock,
    live::{Copied, Lane, Mirror},
    media::Gop,
    relay::wire::{self, WireError},
    rtc::{Corridor, Side, Utterance},
};
use headwater_proto::{Begin, Frame, Keyframe, Live, Run, Want, piece, wish};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Inner,
    demand::{self, Demand},
    loss::Loss,
    pull::Pull,
    rack::Rack,
};

/// The other side repeats a gop that it has not named for so many others, a quarter of this.
const GOPS_KNOWN: usize = 256;
/// A source, its layers, what is made of them. Beyond it something is wrong over there.
const TRACKS_MAX: usize = 64;

pub(super) struct Stream {
    inner: Arc<Inner>,
    pub(super) corridor: Corridor,
    pub(super) mirror: Mirror,
    demands: mpsc::Sender<Demand>,
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
    rack: Rack,
}

impl Stream {
    pub(super) fn begin(
        inner: &Arc<Inner>,
        pull: &Pull,
        Begin { born_us, state, tracks }: Begin,
        demands: mpsc::Sender<Demand>,
    ) -> Result<Self, Loss> {
        let told = wire::to_told(state.ok_or(WireError::Missing("the state"))?)?;
        if is_in(&told.path, inner) {
            return Err(Loss::Loop(told.path));
        }
        let mirror = inner.hub.mirror(pull.id(), wire::to_born_us(born_us)?, told, clock::now_us())?;
        let mut stream = Self {
            inner: inner.clone(),
            corridor: inner.engine.corridor(pull.id(), Side::Above),
            mirror,
            demands,
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

    pub(super) fn apply(&mut self, piece: piece::Piece, now_us: i64) -> Result<(), Loss> {
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
                if is_in(&told.path, &self.inner) {
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
            piece::Piece::Over(_) => Err(Loss::Over),
        }
    }

    fn frame(&mut self, frame: Frame, now_us: i64) -> Result<(), Loss> {
        let Some(told) = self.lanes.get_mut(frame.track as usize) else { return Err(untold(frame.track)) };
        if !told.runs {
            return Ok(());
        }
        let Some(gop) = self.gops.get(frame.gop) else {
            return Err(Loss::Order(format!("a frame is of gop {}, which was never told of", frame.gop)));
        };
        let mut sample = wire::to_sample(frame)?;
        sample.payload = told.rack.keep(&sample.payload);
        if let Copied::Kept = self.mirror.append(told.lane, gop, sample, now_us)? {
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
                self.lanes.push(Told { lane, runs: false, rack: Rack::default() });
                let track = self.mirror.track(lane).clone();
                self.watchers.spawn(demand::watch(track, number, self.demands.clone()));
            }
        }
        Ok(())
    }

    pub(super) fn wish(&mut self, demand: Demand) -> Option<wish::Wish> {
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

fn is_in(path: &[String], inner: &Inner) -> bool {
    path.iter().any(|node| node == inner.name.as_str())
}

fn untold(track: u32) -> Loss {
    Loss::Order(format!("track {track} was never told of"))
}

/// Those that frames may still point to.
#[derive(Default)]
struct Gops {
    /// Which nearly all frames are of.
    newest: Option<Arc<Gop>>,
    by_id: HashMap<u64, Arc<Gop>>,
    order: VecDeque<u64>,
}

impl Gops {
    fn insert(&mut self, gop: Arc<Gop>) {
        let id = gop.id;
        self.newest = Some(gop.clone());
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
        self.newest.as_ref().filter(|gop| gop.id == id).or_else(|| self.by_id.get(&id)).cloned()
    }
}
