//! The qualities of a broadcast, and what their playlists are called. In: names out of URLs, what the hall offers. Out:
//! which playlist is meant, and which tracks it is cut from. Deliberately absent: cutting, and text.
//!
//! A broadcast without a ladder has one playlist, `<id>.m3u8`. With one that name (and `<id>_adaptive.m3u8`, where Ant
//! Media's players look first) stands for the list of qualities: `<id>/playlist.m3u8` is the source, `<id>_480p900kbps`
//! a rendition, `<id>_audio` sound alone. An id that looks like one of these is an id first.

use std::{fmt, sync::Arc};

use headwater_common::{
    ladder::Rendition,
    live::{Broadcast, BroadcastId, Hub, Track},
    media::{Conversion, Delivery, Kind},
};

const ADAPTIVE: &str = "_adaptive";
const SOUND: &str = "_audio";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    Source,
    Rendition(Rendition),
    /// For those whose network carries no picture.
    Sound,
}

/// What a name stands for.
#[derive(Debug)]
pub(super) enum Asked {
    Qualities(Arc<Broadcast>),
    Media(Arc<Broadcast>, Variant),
}

/// Ends the names of everything that belongs to the variant.
impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => Ok(()),
            Self::Rendition(rendition) => write!(f, "_{rendition}"),
            Self::Sound => f.write_str(SOUND),
        }
    }
}

impl Variant {
    /// All that there are to choose from, the best first: the source alone where there is no ladder.
    pub(super) fn all(broadcast: &Broadcast) -> Vec<Self> {
        let mut all = vec![Self::Source];
        all.extend(broadcast.renditions().into_iter().map(|(rendition, _)| Self::Rendition(rendition)));
        if all.len() > 1 && broadcast.source(Kind::Audio).is_some() {
            all.push(Self::Sound);
        }
        all
    }

    /// What its playlist is called, beside the list of qualities.
    pub(super) fn playlist(self, stream: &str) -> String {
        match self {
            Self::Source => format!("{stream}/playlist.m3u8"),
            variant => format!("{stream}{variant}.m3u8"),
        }
    }

    /// What it is cut from.
    pub(super) fn track(self, broadcast: &Broadcast, kind: Kind) -> Option<Arc<Track>> {
        let passed = || broadcast.choose(kind, Delivery::Mp4).map(|choice| choice.track);
        match (self, kind) {
            (Self::Rendition(rendition), Kind::Video) => {
                broadcast.renditions().into_iter().find(|(offered, _)| *offered == rendition).map(|(_, track)| track)
            }
            (Self::Rendition(Rendition { audio_kbps: kbps @ 1.., .. }), Kind::Audio) => {
                broadcast.source(Kind::Audio)?;
                broadcast.derived(Conversion::Sound { kbps }).or_else(passed)
            }
            (Self::Sound, Kind::Video) => None,
            _ => passed(),
        }
    }
}

/// What `…/streams/<name>.m3u8` is.
pub(super) fn asked(hub: &Hub, app: &str, name: &str) -> Option<Asked> {
    let held = |stream: &str| hub.get(&BroadcastId::new(app, stream).ok()?);
    let with_ladder = |broadcast: &Arc<Broadcast>| Variant::all(broadcast).len() > 1;
    if let Some(broadcast) = held(name) {
        return Some(match with_ladder(&broadcast) {
            true => Asked::Qualities(broadcast),
            false => Asked::Media(broadcast, Variant::Source),
        });
    }
    if let Some(broadcast) = name.strip_suffix(ADAPTIVE).and_then(held) {
        return with_ladder(&broadcast).then_some(Asked::Qualities(broadcast));
    }
    let (broadcast, variant) = variant(hub, app, name)?;
    Some(Asked::Media(broadcast, variant))
}

/// The broadcast and the variant whose pieces lie in `…/streams/<name>/`.
pub(super) fn variant(hub: &Hub, app: &str, name: &str) -> Option<(Arc<Broadcast>, Variant)> {
    let held = |stream: &str| hub.get(&BroadcastId::new(app, stream).ok()?);
    if let Some(broadcast) = held(name) {
        return Some((broadcast, Variant::Source));
    }
    let broadcast = held(name.rsplit_once('_')?.0)?;
    let suffix = &name[broadcast.id().stream().len()..];
    let variant = Variant::all(&broadcast).into_iter().find(|variant| variant.to_string() == suffix)?;
    Some((broadcast, variant))
}
