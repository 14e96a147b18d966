//! Which of a broadcast's tracks an output is given. In: what the output takes. Out: a track, and why it is that one, in the
//! words that REST uses. Deliberately absent: making it.

use std::sync::Arc;

use super::Broadcast;
use crate::{
    live::Track,
    media::{Conversion, Delivery, Kind},
};

/// A track that suits an output, and what was done or would have to be done for that.
#[derive(Clone, Debug)]
pub struct Choice {
    pub track: Arc<Track>,
    /// It was re-encoded for this reason.
    pub made_for: Option<Conversion>,
    /// It is passed through although this stands in the way, because nobody converts here.
    pub despite: Option<Conversion>,
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.made_for, self.despite) {
            (Some(conversion), _) if self.track.waiting() => {
                write!(f, "transcode: {conversion}, waits until another one rests")
            }
            (Some(conversion), _) => write!(f, "transcode: {conversion}"),
            (None, Some(conversion)) => write!(f, "passthrough despite {conversion}"),
            (None, None) => f.write_str("passthrough"),
        }
    }
}

impl Broadcast {
    /// The track of this kind that suits an output: the source's where it passes through, else one made from it.
    pub fn choose(&self, kind: Kind, delivery: Delivery) -> Option<Choice> {
        let state = self.lock();
        let source = state.source(kind)?;
        let info = source.info()?;
        let Some(conversion) = info.obstacle(delivery) else {
            return delivery.takes(info.codec).then_some(Choice { track: source, made_for: None, despite: None });
        };
        if let Some(track) = state.derived(conversion).filter(|_| delivery.takes(conversion.target())) {
            return Some(Choice { track, made_for: Some(conversion), despite: None });
        }
        // A stuttering picture is better than none; a codec that the output does not know is not.
        let stutters = info.reorders() && delivery.takes(info.codec);
        stutters.then_some(Choice { track: source, made_for: None, despite: Some(Conversion::BFrames) })
    }
}
