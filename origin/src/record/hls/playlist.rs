//! The text of a kept playlist, written and read. In: segments. Out: lines that only ever grow at their end while the event goes
//! on (RFC 8216 4.3.3.5), and the pieces that a text names. Pure.

use std::fmt::{self, Write};

use headwater_common::store::Piece;

/// How a segment stands in a playlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::record) struct Segment {
    pub(in crate::record) stretch: u32,
    pub(in crate::record) number: u64,
    /// When its first picture was taken.
    pub(in crate::record) at_ms: i64,
    pub(in crate::record) duration_us: i64,
}

impl Segment {
    pub(in crate::record) fn piece(&self) -> Piece {
        Piece::Segment { stretch: self.stretch, number: self.number }
    }
}

/// Whether more may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::record) enum Event {
    GoesOn,
    IsOver,
}

pub(in crate::record) fn head(target_s: u32, event: Event) -> String {
    let kind = match event {
        Event::GoesOn => "EVENT",
        Event::IsOver => "VOD",
    };
    // 6 for EXT-X-MAP (RFC 8216 section 7).
    format!(
        "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:{target_s}\n#EXT-X-MEDIA-SEQUENCE:0\n\
         #EXT-X-PLAYLIST-TYPE:{kind}\n"
    )
}

/// `folder`: of the pieces. `before`: the segment that is named before this one.
pub(in crate::record) fn entry(folder: &str, before: Option<&Segment>, segment: &Segment) -> String {
    let mut text = String::with_capacity(256);
    // Writing into a string can't fail.
    let _ = write_entry(&mut text, folder, before, segment);
    text
}

fn write_entry(text: &mut String, folder: &str, before: Option<&Segment>, segment: &Segment) -> fmt::Result {
    let follows = |before: &Segment| (before.stretch, before.number + 1) == (segment.stretch, segment.number);
    if !before.is_some_and(follows) {
        if before.is_some() {
            text.push_str("#EXT-X-DISCONTINUITY\n");
        }
        writeln!(text, "#EXT-X-MAP:URI=\"{folder}/{}\"", Piece::Init { stretch: segment.stretch })?;
    }
    if let Ok(at) = jiff::Timestamp::from_millisecond(segment.at_ms) {
        writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{at:.3}")?;
    }
    let (seconds, rest_us) = (segment.duration_us / 1_000_000, segment.duration_us % 1_000_000);
    writeln!(text, "#EXTINF:{seconds}.{rest_us:06},\n{folder}/{}", segment.piece())
}

/// The playlist of an event that is over.
pub(in crate::record) fn whole(folder: &str, target_s: u32, segments: &[Segment]) -> String {
    // Durations are compared rounded (RFC 8216 4.3.3.1).
    let longest_s = segments.iter().map(|segment| (segment.duration_us + 500_000) / 1_000_000).max().unwrap_or(1);
    let target_s = target_s.max(u32::try_from(longest_s).unwrap_or(u32::MAX));
    let mut text = head(target_s, Event::IsOver);
    let mut before = None;
    for segment in segments {
        text += &entry(folder, before, segment);
        before = Some(segment);
    }
    text + "#EXT-X-ENDLIST\n"
}

/// A segment that a text names, with what is needed before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::record) struct Named {
    pub(in crate::record) init: Option<Piece>,
    pub(in crate::record) segment: Piece,
    pub(in crate::record) number: u64,
    /// Where the text goes on behind it.
    pub(in crate::record) end: usize,
}

/// What a text of ours names, in order. A line that is not all there ends it; other lines that nobody would have written are
/// passed over.
pub(in crate::record) fn named(text: &str) -> Vec<Named> {
    let mut found = Vec::new();
    let (mut init, mut end) = (None, 0);
    for line in text.split_inclusive('\n') {
        end += line.len();
        let Some(line) = line.strip_suffix('\n') else { break };
        let piece = |uri: &str| Piece::parse(uri.rsplit_once('/')?.1);
        if let Some(uri) = line.strip_prefix("#EXT-X-MAP:URI=\"").and_then(|rest| rest.strip_suffix('"')) {
            init = piece(uri).filter(|piece| matches!(piece, Piece::Init { .. }));
        } else if !line.starts_with('#')
            && let Some(segment @ Piece::Segment { number, .. }) = piece(line)
        {
            found.push(Named { init: init.take(), segment, number, end });
        }
    }
    found
}

/// Where the pieces of a text of ours lie.
pub(in crate::record) fn folder(text: &str) -> Option<&str> {
    let uri = text.lines().find(|line| !line.is_empty() && !line.starts_with('#'))?;
    Some(uri.rsplit_once('/')?.0)
}

/// What a text of ours announces as its target.
pub(in crate::record) fn target_s(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.strip_prefix("#EXT-X-TARGETDURATION:")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(stretch: u32, number: u64) -> Segment {
        Segment { stretch, number, at_ms: 1_700_000_000_000 + number as i64 * 2000, duration_us: 2_000_040 }
    }

    #[test]
    fn a_stretch_begins_with_its_own_init_section() {
        let text = whole("cam_x", 3, &[segment(0, 0), segment(0, 1), segment(1, 2)]);
        let expected = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:3\n#EXT-X-MEDIA-SEQUENCE:0\n\
            #EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-MAP:URI=\"cam_x/0.mp4\"\n\
            #EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:20.000Z\n#EXTINF:2.000040,\ncam_x/0-0.m4s\n\
            #EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:22.000Z\n#EXTINF:2.000040,\ncam_x/0-1.m4s\n\
            #EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"cam_x/1.mp4\"\n\
            #EXT-X-PROGRAM-DATE-TIME:2023-11-14T22:13:24.000Z\n#EXTINF:2.000040,\ncam_x/1-2.m4s\n#EXT-X-ENDLIST\n";
        assert_eq!(text, expected);
        assert_eq!(folder(&text), Some("cam_x"));
    }

    #[test]
    fn no_segment_is_longer_than_what_is_announced() {
        let long = Segment { duration_us: 4_500_000, ..segment(0, 0) };
        assert_eq!(target_s(&whole("f", 3, &[long])), Some(5));
        assert_eq!(target_s(&whole("f", 3, &[])), Some(3));
    }

    #[test]
    fn what_was_written_is_read_and_what_is_cut_is_not() {
        let segments = [segment(0, 0), segment(0, 1), segment(1, 2)];
        let text = whole("cam_x", 3, &segments);
        let all = named(&text);
        let inits: Vec<_> = all.iter().map(|named| named.init).collect();
        assert_eq!(inits, [Some(Piece::Init { stretch: 0 }), None, Some(Piece::Init { stretch: 1 })]);
        assert_eq!(all.iter().map(|named| named.segment).collect::<Vec<_>>(), segments.map(|segment| segment.piece()));
        for end in 0..text.len() {
            let whole = all.iter().take_while(|named| named.end <= end).count();
            assert_eq!(named(&text[..end]), all[..whole], "cut at {end}");
        }
    }
}
