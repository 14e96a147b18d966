//! How a publisher comes into the hall: once it is connected, and not before. Who never connects has asked for nothing.
//!
//! In: that its session is connected, what it sends until it is let in. Out: a knock, upon which somebody asks for the
//! broadcast on its behalf, and all that was held for it. Deliberately absent: who is let in; the doors know that.

use str0m::Event;
use tokio::sync::oneshot;

use crate::intake::Intake;

/// What is held of a publisher that is not let in yet: three seconds, which is what a registry may take to answer, of a
/// camera with three layers. When full what comes is lost: sound has a gap, pictures go on at a keyframe.
const HELD_EVENTS_MAX: usize = 512;
const HELD_BYTES_MAX: usize = 4 << 20;

pub(super) enum Entry {
    /// `knock` is there until it is connected, and tells the shard that has it.
    Outside {
        knock: Option<oneshot::Sender<usize>>,
        held: Held,
    },
    Inside(Box<Intake>),
    Over,
}

/// Media, and what was said on data channels.
#[derive(Default)]
pub(super) struct Held {
    pub(super) events: Vec<Event>,
    bytes: usize,
    pub(super) has_gap: bool,
}

impl Entry {
    pub(super) fn new() -> (Self, oneshot::Receiver<usize>) {
        let (knock, knocked) = oneshot::channel();
        (Self::Outside { knock: Some(knock), held: Held::default() }, knocked)
    }

    pub(super) fn knock(&mut self, shard: usize) {
        if let Self::Outside { knock, .. } = self
            && let Some(knock) = knock.take()
        {
            // Nobody may be there any more when the process stops.
            let _ = knock.send(shard);
        }
    }

    /// Returns what need not wait.
    pub(super) fn hold(&mut self, event: Event) -> Option<Event> {
        let Self::Outside { held, .. } = self else { return Some(event) };
        let bytes = match &event {
            Event::MediaData(media) => media.data.len(),
            Event::ChannelData(said) => said.data.len(),
            _ => return Some(event),
        };
        held.has_gap |= held.events.len() >= HELD_EVENTS_MAX || held.bytes + bytes > HELD_BYTES_MAX;
        if !held.has_gap {
            held.bytes += bytes;
            held.events.push(event);
        }
        None
    }

    /// What was held.
    pub(super) fn enter(&mut self, intake: Box<Intake>) -> Held {
        match std::mem::replace(self, Self::Inside(intake)) {
            Self::Outside { held, .. } => held,
            Self::Inside(_) | Self::Over => Held::default(),
        }
    }

    pub(super) fn is_outside(&self) -> bool {
        matches!(self, Self::Outside { .. })
    }
}
