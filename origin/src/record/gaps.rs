//! What a rendition lacks that its source had: this machine had no room to make it for a while. In: the rendition's pictures as
//! they are recorded. Out: how many stretches are missing, and how long they last in all. Deliberately absent: the
//! publisher's own silences, which are in every recording of the broadcast.

use std::sync::Arc;

use headwater_common::{
    live::{Broadcast, Start},
    media::{Frame, Kind},
};

/// A hurried encoder leaves out a picture here and there. Whoever is further behind has left something out.
const GAP_US_MIN: i64 = 1_000_000;
/// Of a stretch that no picture has ended yet: an encoder may be late, and all of it still come.
const OPEN_US_MIN: i64 = 3_000_000;
/// A picture stands for so long at most: what is longer is the publisher's silence.
const PICTURE_US_MAX: i64 = 500_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) gaps: u32,
    pub(super) duration_us: i64,
    /// Where the first of them begins.
    pub(super) from_us: i64,
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

    pub(super) fn has_begun(&self) -> bool {
        self.newest.is_some()
    }

    /// The next picture of the rendition.
    pub(super) fn take(&mut self, broadcast: &Broadcast, picture: &Frame) {
        let before = self.newest.replace(Moment { dts_us: picture.dts_us, gop: picture.gop.id });
        if let Some(before) = before.filter(|before| picture.dts_us - before.dts_us >= GAP_US_MIN) {
            self.count(before, left_out(broadcast, before, picture.dts_us));
        }
    }

    /// None follows.
    pub(super) fn end(&mut self, broadcast: &Broadcast) {
        if let Some(newest) = self.newest.take() {
            self.count(newest, left_out(broadcast, newest, i64::MAX));
        }
    }

    /// The stretch that goes on now. It is counted when it is over, as long as it was then.
    pub(super) fn open(&self, broadcast: &Broadcast) -> Option<Missing> {
        let newest = self.newest?;
        let duration_us = left_out(broadcast, newest, i64::MAX);
        (duration_us >= OPEN_US_MIN).then(|| Missing { gaps: 1, duration_us, from_us: newest.dts_us + 1 })
    }

    /// What is new since the last call.
    pub(super) fn poll(&mut self) -> Option<Missing> {
        Some(std::mem::take(&mut self.missing)).filter(|missing| missing.gaps > 0)
    }

    fn count(&mut self, before: Moment, missing_us: i64) {
        if missing_us >= GAP_US_MIN {
            if self.missing.gaps == 0 {
                self.missing.from_us = before.dts_us + 1;
            }
            self.missing.gaps += 1;
            self.missing.duration_us += missing_us;
        }
    }
}

/// How long the source's pictures last that lie between two of the rendition.
fn left_out(broadcast: &Broadcast, Moment { dts_us, gop }: Moment, until_us: i64) -> i64 {
    let Some(track) = broadcast.source(Kind::Video) else { return 0 };
    let mut source = track.read(Start::At { dts_us: dts_us + 1 });
    let mut shown = source.try_next().filter(|first| first.dts_us < until_us);
    let oldest = track.read(Start::At { dts_us: i64::MIN }).try_next();
    // The hall does not hold what was long ago, and the publisher's silences of then.
    let mut missing_us = match (&shown, oldest) {
        (Some(first), Some(oldest)) if Arc::ptr_eq(first, &oldest) && first.gop.id > gop => first.dts_us - dts_us,
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
