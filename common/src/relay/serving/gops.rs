//! Which gops the other node is known to remember. In: those that frames point to. Out: whether it has to be told of one.

use std::collections::VecDeque;

use crate::media::Gop;

/// All tracks of a broadcast are within one or two of each other, but for a moment at the start.
const KNOWN: usize = 64;

#[derive(Default)]
pub(super) struct Gops(VecDeque<(u64, u64)>);

impl Gops {
    pub(super) fn knows(&self, gop: &Gop) -> bool {
        self.0.iter().rev().any(|known| *known == (gop.id, gop.epoch))
    }

    pub(super) fn tell(&mut self, gop: &Gop) {
        if self.0.len() == KNOWN {
            self.0.pop_front();
        }
        self.0.push_back((gop.id, gop.epoch));
    }
}
