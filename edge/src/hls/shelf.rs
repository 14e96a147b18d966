//! Where the packager of one quality of a broadcast puts what it made, and requests find it. In: parts from one side, questions
//! from the other. Out: bytes, shared and never copied, or the reason why there are none. Those who wait
//! are woken by a version that grows; a rendering of the playlist is made once per version and form.

use std::{
    collections::HashSet,
    io::Write as _,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use headwater_common::{live::Broadcast, media::Kind};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    cutter::{PART_TARGET_US, Part},
    mux::Init,
    name::Piece,
    playlist::{self, Form, Report},
    variant::Variant,
    viewers::Viewers,
    window::Window,
};

/// How long the first request waits for something to play: a gop of OBS's default length has to end first.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(10);
/// And then for the rest of what is there already, so that the first playlist is a full one, and names what others list:
/// half a minute of media, that may come from another node.
const CATCH_UP: Duration = Duration::from_secs(4);
/// In target durations: a request that waits for news is given up (rfc8216bis 6.2.5.2).
const BLOCK_TARGETS: u32 = 3;
/// In segments behind the last whole one: a player that asks for more is confused (rfc8216bis 6.2.5.2).
const ADVANCE_SEGMENTS: u64 = 2;
/// The same for parts: three seconds of them.
const ADVANCE_PARTS: u32 = 3_000_000_u32.div_ceil(PART_TARGET_US as u32);

#[derive(Debug)]
pub(super) struct Shelf {
    broadcast: Arc<Broadcast>,
    variant: Variant,
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    /// None before the segment target is known.
    window: Option<Window>,
    rendered: [Option<Rendered>; 4],
    viewers: Viewers,
    last_asked: Instant,
    /// What the hall held at the beginning has been cut.
    caught_up: bool,
    closed: bool,
}

/// A playlist, ready to be sent to any number of players.
#[derive(Clone, Debug)]
pub(super) struct Rendered {
    pub(super) plain: Bytes,
    pub(super) gzip: Bytes,
    pub(super) target_s: u32,
    pub(super) ended: bool,
}

/// A piece of media: one or several stretches of bytes that belong together.
#[derive(Clone, Debug)]
pub(super) struct Media {
    pub(super) chunks: Vec<Bytes>,
    pub(super) has_video: bool,
}

/// What a player waits for: a segment, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) gop: u64,
    pub(super) part: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the stream has nothing to play yet")]
    Unready,
    #[error("the playlist is not going to get there soon")]
    TooFarAhead,
    #[error("nothing new came in time")]
    TimedOut,
    #[error("there is no such piece")]
    Missing,
}

impl State {
    fn target_s(&self) -> u32 {
        self.window.as_ref().map_or(2, |window| window.target_s)
    }
}

impl Shelf {
    pub(super) fn new(broadcast: Arc<Broadcast>, variant: Variant) -> Arc<Self> {
        let state = State {
            window: None,
            rendered: Default::default(),
            viewers: Viewers::default(),
            last_asked: Instant::now(),
            caught_up: false,
            closed: false,
        };
        Arc::new(Self { broadcast, variant, state: Mutex::new(state), version: watch::Sender::new(0) })
    }

    pub(super) fn broadcast(&self) -> &Arc<Broadcast> {
        &self.broadcast
    }

    pub(super) fn variant(&self) -> Variant {
        self.variant
    }

    /// The newest part, once there is one.
    pub(super) fn last_part(&self) -> Option<(u64, u32)> {
        self.ask(Window::last_part).flatten()
    }

    pub(super) fn open(&self, target_s: u32) {
        self.lock().window = Some(Window::new(self.broadcast.born_us(), target_s));
    }

    pub(super) fn push(&self, parts: impl Iterator<Item = (Part, Arc<Init>, Bytes)>) {
        self.change(|window| parts.for_each(|(part, init, data)| window.push(&part, &init, data)));
    }

    pub(super) fn end(&self) {
        self.change(Window::end);
    }

    pub(super) fn break_off(&self) {
        self.change(Window::break_off);
    }

    /// The packager is gone; nobody waits for it any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.version.send_modify(|version| *version += 1);
    }

    pub(super) fn closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn touch(&self) {
        self.lock().last_asked = Instant::now();
    }

    pub(super) fn idle(&self) -> Duration {
        self.lock().last_asked.elapsed()
    }

    pub(super) fn saw(&self, viewer: u64) {
        self.lock().viewers.saw(viewer, Instant::now());
    }

    pub(super) fn knows(&self, viewer: u64) -> bool {
        let mut state = self.lock();
        let target_s = state.target_s();
        state.viewers.knows(viewer, Instant::now(), target_s)
    }

    /// Those who were seen lately, for a count over all qualities: who changes between them is one.
    pub(super) fn viewers(&self, seen: &mut HashSet<u64>) {
        let mut state = self.lock();
        let target_s = state.target_s();
        seen.extend(state.viewers.lately(Instant::now(), target_s));
    }

    /// `reports` tells about the other qualities.
    pub(super) async fn playlist(
        &self,
        form: Form,
        wanted: Option<Wanted>,
        reports: impl Fn() -> Vec<Report>,
    ) -> Result<Rendered, Refusal> {
        let target_s = self.ready().await?;
        let wait = Duration::from_secs(u64::from(target_s)) * BLOCK_TARGETS;
        let Some(wanted) = wanted else { return self.render(form, reports).ok_or(Refusal::Unready) };
        if self.ask(|window| too_far_ahead(window, wanted)) == Some(true) {
            return Err(Refusal::TooFarAhead);
        }
        let reached = |window: &Window| window.ended() || window.reached(wanted.gop, wanted.part);
        self.until(wait, reached).await.ok_or(Refusal::TimedOut)?;
        self.render(form, reports).ok_or(Refusal::Unready)
    }

    pub(super) async fn piece(&self, piece: Piece) -> Result<Media, Refusal> {
        let target_s = self.ready().await?;
        if let Some(wanted) = wanted(piece) {
            // The part that is being made was announced (rfc8216bis 6.2.6), and so was what another edge lists, which has got
            // here a moment earlier or later.
            let wait = Duration::from_secs(u64::from(target_s)) * BLOCK_TARGETS;
            let begun = wanted.gop <= self.broadcast.next_gop();
            if begun && self.ask(|window| part_too_far_ahead(window, wanted)) == Some(false) {
                let made = |window: &Window| window.ended() || window.reached(wanted.gop, wanted.part);
                self.until(wait, made).await;
            }
        }
        self.ask(|window| find(window, piece)).flatten().ok_or(Refusal::Missing)
    }

    /// Waits for something to play, and tells the target duration.
    async fn ready(&self) -> Result<u32, Refusal> {
        self.until(FIRST_WAIT, Window::playable).await.ok_or(Refusal::Unready)?;
        if !self.lock().caught_up {
            self.until(CATCH_UP, |window| window.ended() || self.has_cut_all(window)).await;
            self.lock().caught_up = true;
        }
        self.ask(|window| window.target_s).ok_or(Refusal::Unready)
    }

    /// Of what was there when it was begun. Another node says which gop comes next a moment after that has come: that
    /// nothing of its past is on its way any more has to be true, too.
    fn has_cut_all(&self, window: &Window) -> bool {
        let newest = self.broadcast.next_gop().saturating_sub(1);
        let track = |kind| self.variant.track(&self.broadcast, kind);
        let is_here = |kind| !track(kind).is_some_and(|track| track.has_backlog());
        window.next_part().is_some_and(|(gop, _)| gop >= newest) && is_here(Kind::Video) && is_here(Kind::Audio)
    }

    async fn until(&self, wait: Duration, condition: impl Fn(&Window) -> bool) -> Option<()> {
        let mut version = self.version.subscribe();
        let met = version.wait_for(|_| {
            let state = self.lock();
            state.closed || state.window.as_ref().is_some_and(&condition)
        });
        timeout(wait, met).await.ok()?.ok()?;
        self.ask(condition).filter(|met| *met).map(|_| ())
    }

    fn ask<T>(&self, question: impl FnOnce(&Window) -> T) -> Option<T> {
        self.lock().window.as_ref().map(question)
    }

    fn change(&self, change: impl FnOnce(&mut Window)) {
        let mut state = self.lock();
        let Some(window) = &mut state.window else { return };
        change(window);
        state.rendered = Default::default();
        drop(state);
        self.version.send_modify(|version| *version += 1);
    }

    fn render(&self, form: Form, reports: impl Fn() -> Vec<Report>) -> Option<Rendered> {
        let at = usize::from(form.delta) << 1 | usize::from(form.nested);
        if let Some(rendered) = &self.lock().rendered[at] {
            return Some(rendered.clone());
        }
        // Asked for without the lock: the others tell about this one at the same time.
        let reports = reports();
        let mut state = self.lock();
        let State { window, rendered, .. } = &mut *state;
        let window = window.as_ref()?;
        let rendered = rendered[at].get_or_insert_with(|| {
            let stream = self.broadcast.id().stream();
            let plain = Bytes::from(playlist::render(window, stream, self.variant, form, &reports));
            let gzip = gzip(&plain);
            Rendered { plain, gzip, target_s: window.target_s, ended: window.ended() }
        });
        Some(rendered.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Should anything panic while holding it, the window is at worst a part short.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn too_far_ahead(window: &Window, wanted: Wanted) -> bool {
    if window.ended() {
        return false;
    }
    if window.last_complete().is_some_and(|last| wanted.gop > last + ADVANCE_SEGMENTS) {
        return true;
    }
    part_too_far_ahead(window, wanted)
}

fn part_too_far_ahead(window: &Window, wanted: Wanted) -> bool {
    let (gop, next) = window.next_part().unwrap_or_default();
    wanted.gop == gop && wanted.part.is_some_and(|part| part >= next.saturating_add(ADVANCE_PARTS))
}

/// What of the playlist lists a piece. An init section is there with the first piece that needs it.
fn wanted(piece: Piece) -> Option<Wanted> {
    match piece {
        Piece::Segment { gop, .. } => Some(Wanted { gop, part: None }),
        Piece::Stump { gop, parts, .. } => Some(Wanted { gop, part: Some(parts.get() - 1) }),
        Piece::Part { gop, index, .. } => Some(Wanted { gop, part: Some(index) }),
        Piece::Init { .. } => None,
    }
}

fn find(window: &Window, piece: Piece) -> Option<Media> {
    let parts = |epoch, gop, parts| {
        let (init, chunks) = window.parts(epoch, gop, parts)?;
        let chunks = chunks.iter().map(|chunk| chunk.data.clone()).collect();
        Some(Media { chunks, has_video: init.has_video() })
    };
    match piece {
        Piece::Segment { epoch, gop } => window
            .segment(epoch, gop)
            .map(|segment| Media { chunks: segment.chunks().cloned().collect(), has_video: segment.init.has_video() }),
        Piece::Stump { epoch, gop, parts: count } => parts(epoch, gop, 0..count.get()),
        Piece::Part { epoch, gop, index } => parts(epoch, gop, index..index.checked_add(1)?),
        Piece::Init { discontinuity, digest } => window
            .init(discontinuity, digest)
            .map(|init| Media { chunks: vec![init.data.clone()], has_video: init.has_video() }),
    }
}

fn gzip(plain: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    // Writing into a vector can't fail.
    let _ = encoder.write_all(plain);
    encoder.finish().unwrap_or_default().into()
}
