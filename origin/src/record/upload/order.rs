//! What of kept HLS is to be sent next. In: the playlist as it is on the disk, and how far earlier tries have come. Out: pieces,
//! each segment behind its init section, and between them the playlist, never ahead of what it names. Pure.
//!
//! While the event goes on the playlist is sent when all that it names has arrived, so at most once a segment; a line that
//! never catches up tells of a few segments at a time, and a playlist that has grown long is sent more seldom.

use headwater_common::store::Piece;

use crate::record::hls::playlist::{Named, named};

/// So many new ones may be in the bucket before its playlist names them.
const UNLISTED_MAX: u64 = 8;
/// What the playlist may take for each segment that is new in it. That is an hour's text, or more.
const LIST_BYTES: u64 = 256 << 10;

#[derive(Debug)]
pub(super) struct Order {
    named: Vec<Named>,
    /// Numbers below have arrived.
    sent: u64,
    /// Numbers below are in the playlist that the bucket has.
    listed: u64,
    /// The init section of the segment that is next has arrived.
    introduced: bool,
    over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Piece(Piece),
    /// The text up to here.
    Playlist {
        end: usize,
    },
    /// All of the text, which is the last one.
    Last,
    /// Nothing, until there is more.
    Rest,
}

impl Order {
    /// `over`: the text is all that there will be.
    pub(super) fn new(text: &str, (sent, listed): (u64, u64), over: bool) -> Self {
        Self { named: named(text), sent, listed, introduced: false, over }
    }

    /// Up to which number segments have arrived, and are listed.
    pub(super) fn reached(&self) -> (u64, u64) {
        (self.sent, self.listed)
    }

    pub(super) fn next(&self) -> Next {
        let arrived = self.named.partition_point(|named| named.number < self.sent);
        let unlisted = self.sent.saturating_sub(self.listed);
        let worth = |last: &&Named| unlisted > last.end as u64 / LIST_BYTES && !self.over;
        let listable = self.named[..arrived].last().filter(worth);
        match (self.named.get(arrived), listable) {
            (None, None) if self.over => Next::Last,
            (None, None) => Next::Rest,
            (None, Some(last)) => Next::Playlist { end: last.end },
            (Some(_), Some(last)) if unlisted >= UNLISTED_MAX && !self.introduced => Next::Playlist { end: last.end },
            (Some(next), _) => Next::Piece(next.init.filter(|_| !self.introduced).unwrap_or(next.segment)),
        }
    }

    /// What was asked for last has arrived.
    pub(super) fn arrived(&mut self) {
        match self.next() {
            Next::Piece(Piece::Init { .. }) => self.introduced = true,
            Next::Piece(Piece::Segment { number, .. }) => {
                self.sent = number + 1;
                self.introduced = false;
            }
            Next::Playlist { .. } => self.listed = self.sent,
            Next::Last | Next::Rest => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::hls::playlist::{Segment, whole};

    fn text(segments: u64) -> String {
        let segment = |number| Segment { stretch: u32::from(number >= 4), number, at_ms: 0, duration_us: 2_000_000 };
        whole("cam_x", 3, &(0..segments).map(segment).collect::<Vec<_>>())
    }

    fn sent(mut order: Order) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let next = order.next();
            said.push(match next {
                Next::Piece(piece) => piece.to_string(),
                Next::Playlist { end } => format!("up to {end}"),
                Next::Last => "all".to_owned(),
                Next::Rest => "rest".to_owned(),
            });
            if matches!(next, Next::Last | Next::Rest) {
                return said;
            }
            order.arrived();
        }
    }

    #[test]
    fn the_playlist_comes_behind_what_it_names() {
        let text = text(6);
        let ends: Vec<_> = named(&text).iter().map(|named| format!("up to {}", named.end)).collect();
        let (two, all) = (&text[..named(&text)[1].end], ends[5].as_str());
        assert_eq!(sent(Order::new(two, (0, 0), false)), ["0.mp4", "0-0.m4s", "0-1.m4s", &ends[1], "rest"]);
        assert_eq!(sent(Order::new(two, (2, 2), false)), ["rest"]);
        assert_eq!(sent(Order::new(&text, (3, 3), false)), ["0-3.m4s", "1.mp4", "1-4.m4s", "1-5.m4s", all, "rest"]);
        assert_eq!(sent(Order::new(two, (2, 1), false)), [&ends[1], "rest"], "what was not listed last time");
        assert_eq!(sent(Order::new(&text, (3, 3), true)), ["0-3.m4s", "1.mp4", "1-4.m4s", "1-5.m4s", "all"]);
        assert_eq!(sent(Order::new(&text, (6, 6), true)), ["all"], "whatever the bucket has, it was not the last");
        assert_eq!(sent(Order::new("", (0, 0), false)), ["rest"]);
    }

    #[test]
    fn who_never_catches_up_tells_of_a_few_segments_at_a_time() {
        let said = sent(Order::new(&text(20), (0, 0), false));
        let told = said.iter().filter(|words| words.starts_with("up to")).count();
        assert_eq!(told, 3, "{said:?}");
        assert_eq!(said.iter().position(|words| words.starts_with("up to")), Some(10), "{said:?}");
    }

    #[test]
    fn a_long_playlist_is_sent_more_seldom() {
        let segments = 10_000;
        let text = text(segments);
        let wait = text.len() as u64 / LIST_BYTES;
        assert!(wait > 2, "{wait}");
        assert_eq!(sent(Order::new(&text, (segments, segments - wait), false)), ["rest"]);
        assert_eq!(sent(Order::new(&text, (segments, segments - wait - 1), false)).len(), 2);
    }
}
