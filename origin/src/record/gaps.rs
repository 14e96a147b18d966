//! What a rendition lacks that its source had: this machine had no room to make it for a while. In: the rendition's pictures as
//! they are recorded. Out: how many stretches are missing, and how long they last in all. Deliberately absent: the
//! publisher's own silences, which are in every recording of the broadcast.

use headwater_common::{
    live::{Broadcast, Start},
    media::{Frame, Kind},
};

/// A hurried encoder leaves out a picture here and there. Whoever is further behind has left something out.
const GAP_US_MIN: i64 = 1_000_000;
/// A picture stands for so long at most: what is longer is the publisher's silence.
const PICTURE_US_MAX: i64 = 500_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) gaps: u32,
    pub(super) duration_us: i64,
}

#[derive(Debug, Default)]
pub(super) struct Gaps {
    newest: Option<Moment>,
    missing: Missing,
}

/// Of a picture: when it is due, and its gop.
#[derive(Clone, Copy, Debug)]
struct Moment {
    dts_us: i64,
    gop: u64,
}

impl Gaps {
    /// From this picture of the source on the rendition is wanted.
    pub(super) fn since(wanted: &Frame) -> Self {
        let newest = Some(Moment { dts_us: wanted.dts_us - 1, gop: wanted.gop.id });
        Self { newest, missing: Missing::default() }
    }

    /// The next picture of the rendition.
    pub(super) fn take(&mut self, broadcast: &Broadcast, picture: &Frame) {
        let before = self.newest.replace(Moment { dts_us: picture.dts_us, gop: picture.gop.id });
        if let Some(before) = before.filter(|before| picture.dts_us - before.dts_us >= GAP_US_MIN) {
            self.count(left_out(broadcast, before, picture.dts_us));
        }
    }

    /// None follows.
    pub(super) fn end(&mut self, broadcast: &Broadcast) {
        if let Some(newest) = self.newest.take() {
            self.count(left_out(broadcast, newest, i64::MAX));
        }
    }

    /// What is new since the last call.
    pub(super) fn poll(&mut self) -> Option<Missing> {
        Some(std::mem::take(&mut self.missing)).filter(|missing| missing.gaps > 0)
    }

    fn count(&mut self, missing_us: i64) {
        if missing_us >= GAP_US_MIN {
            self.missing.gaps += 1;
            self.missing.duration_us += missing_us;
        }
    }
}

/// How long the source's pictures last that lie between two of the rendition.
fn left_out(broadcast: &Broadcast, Moment { dts_us, gop }: Moment, until_us: i64) -> i64 {
    let Some(source) = broadcast.source(Kind::Video) else { return 0 };
    let mut source = source.read(Start::At { dts_us: dts_us + 1 });
    let mut shown = source.try_next().filter(|first| first.dts_us < until_us);
    // The hall does not hold what was long ago, and the publisher's silences of then.
    let mut missing_us = match &shown {
        Some(first) if first.gop.id > gop + 1 => first.dts_us - dts_us,
        _ => 0,
    };
    while let Some(before) = shown {
        let Some(next) = source.try_next() else { break };
        if next.gop.epoch == before.gop.epoch {
            missing_us += (next.dts_us - before.dts_us).min(PICTURE_US_MAX);
        }
        shown = Some(next).filter(|next| next.dts_us < until_us);
    }
    missing_us
}
