//! Records that the socket has not taken yet. In: records. Out: all of them in one call into the kernel. Deliberately absent: how
//! many there may be.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf as _, Bytes};

#[derive(Default)]
pub(super) struct Outgoing {
    records: VecDeque<Bytes>,
    bytes: usize,
}

impl Outgoing {
    pub(super) fn push(&mut self, record: Vec<u8>) {
        self.bytes += record.len();
        self.records.push_back(record.into());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Fills in what is to leave, and returns how many slices that takes.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.records.iter().zip(slices).map(|(record, slice)| *slice = IoSlice::new(record)).count()
    }

    /// So many bytes have left.
    pub(super) fn sent(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        while let Some(record) = self.records.front_mut() {
            let now = bytes.min(record.len());
            record.advance(now);
            bytes -= now;
            if record.has_remaining() {
                return;
            }
            self.records.pop_front();
        }
    }
}
