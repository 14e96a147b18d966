//! A response body made of several stretches of bytes: a segment is its parts, and nobody glues them together.

use std::{
    collections::VecDeque,
    convert::Infallible,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

pub(super) struct Chunks {
    chunks: VecDeque<Bytes>,
}

impl Chunks {
    /// The bytes of `range` out of all of them.
    pub(super) fn new(chunks: Vec<Bytes>, range: Range<usize>) -> Self {
        let mut at = 0;
        let wanted = chunks.into_iter().filter_map(|chunk| {
            let begin = at;
            at += chunk.len();
            let from = range.start.clamp(begin, at) - begin;
            let to = range.end.clamp(begin, at) - begin;
            (from < to).then(|| chunk.slice(from..to))
        });
        Self { chunks: wanted.collect() }
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.chunks.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.chunks.iter().map(|chunk| chunk.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_goes_across_chunks() {
        let all: Vec<Bytes> = ["abc", "", "defg", "h"].into_iter().map(Bytes::from).collect();
        for from in 0..8 {
            for to in from + 1..=8 {
                let chunks = Chunks::new(all.clone(), from..to);
                assert_eq!(chunks.size_hint().exact(), Some((to - from) as u64));
                assert_eq!(Vec::from(chunks.chunks).concat(), b"abcdefgh"[from..to]);
            }
        }
    }
}
