//! Whether a playlist keeps what HLS promises. In: successive texts of one live media playlist. Out: complaints, each
//! naming the rule. Meant for tests; deliberately absent: fetching, and everything that this project never writes.
//! Sections are those of draft-pantos-hls-rfc8216bis.

use std::collections::BTreeMap;

/// Remembers what was said before.
#[derive(Debug, Default)]
pub struct Lint {
    last: Option<Playlist>,
    /// By media sequence number.
    segments: BTreeMap<u64, Segment>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Playlist {
    pub version: u32,
    pub target_s: u32,
    pub media_sequence: u64,
    pub discontinuity_sequence: u64,
    pub part_target_s: f64,
    pub can_block: bool,
    pub can_skip_until_s: f64,
    pub hold_back_s: f64,
    pub part_hold_back_s: f64,
    pub independent: bool,
    pub skipped: u64,
    pub segments: Vec<Segment>,
    /// Parts and properties of the segment that is being made.
    pub open: Segment,
    pub hint: Option<String>,
    /// Where each other quality is, and its last part.
    pub reports: Vec<Report>,
    pub ended: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub uri: String,
    pub gop: u64,
    pub part: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Segment {
    pub uri: String,
    pub duration_s: f64,
    pub map: String,
    /// Absolute: the playlist's sequence number and all tags up to here.
    pub discontinuity: u64,
    pub at_us: Option<i64>,
    /// Counted, and not there.
    pub gap: bool,
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    pub uri: String,
    pub duration_s: f64,
    pub independent: bool,
}

/// Decimal numbers of microseconds, added up.
const EXACT_S: f64 = 0.001;
/// A segment that reached its longest duration is told a picture short.
const CLOCK_US: i64 = 60_000;

impl Playlist {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        if lines.next() != Some("#EXTM3U") {
            return Err("4.3.1.1: the first line is not #EXTM3U".into());
        }
        let mut list = Self::default();
        let mut tags = 0;
        let mut open = Segment::default();
        for line in lines {
            let (tag, value) = line.split_once(':').unwrap_or((line, ""));
            let bad = || format!("unreadable: {line}");
            match tag {
                "#EXT-X-VERSION" => list.version = value.parse().map_err(|_| bad())?,
                "#EXT-X-TARGETDURATION" => list.target_s = value.parse().map_err(|_| bad())?,
                "#EXT-X-MEDIA-SEQUENCE" => list.media_sequence = value.parse().map_err(|_| bad())?,
                "#EXT-X-DISCONTINUITY-SEQUENCE" => list.discontinuity_sequence = value.parse().map_err(|_| bad())?,
                "#EXT-X-INDEPENDENT-SEGMENTS" => list.independent = true,
                "#EXT-X-SERVER-CONTROL" => {
                    list.can_block = attribute(value, "CAN-BLOCK-RELOAD") == Some("YES");
                    list.can_skip_until_s = seconds(value, "CAN-SKIP-UNTIL").unwrap_or(0.0);
                    list.hold_back_s = seconds(value, "HOLD-BACK").unwrap_or(0.0);
                    list.part_hold_back_s = seconds(value, "PART-HOLD-BACK").unwrap_or(0.0);
                }
                "#EXT-X-PART-INF" => list.part_target_s = seconds(value, "PART-TARGET").ok_or_else(bad)?,
                "#EXT-X-SKIP" => {
                    list.skipped = attribute(value, "SKIPPED-SEGMENTS").and_then(|n| n.parse().ok()).ok_or_else(bad)?;
                }
                "#EXT-X-DISCONTINUITY" => tags += 1,
                "#EXT-X-GAP" => open.gap = true,
                "#EXT-X-MAP" => open.map = attribute(value, "URI").ok_or_else(bad)?.to_owned(),
                "#EXT-X-PROGRAM-DATE-TIME" => {
                    let at: jiff::Timestamp = value.parse().map_err(|_| bad())?;
                    open.at_us = Some(at.as_microsecond());
                }
                "#EXT-X-PART" => open.parts.push(Part {
                    uri: attribute(value, "URI").ok_or_else(bad)?.to_owned(),
                    duration_s: seconds(value, "DURATION").ok_or_else(bad)?,
                    independent: attribute(value, "INDEPENDENT") == Some("YES"),
                }),
                "#EXTINF" => open.duration_s = value.trim_end_matches(',').parse().map_err(|_| bad())?,
                "#EXT-X-PRELOAD-HINT" => list.hint = Some(attribute(value, "URI").ok_or_else(bad)?.to_owned()),
                "#EXT-X-RENDITION-REPORT" => list.reports.push(Report {
                    uri: attribute(value, "URI").ok_or_else(bad)?.to_owned(),
                    gop: attribute(value, "LAST-MSN").and_then(|n| n.parse().ok()).ok_or_else(bad)?,
                    part: attribute(value, "LAST-PART").and_then(|n| n.parse().ok()).ok_or_else(bad)?,
                }),
                "#EXT-X-ENDLIST" => list.ended = true,
                _ if line.starts_with('#') => return Err(format!("unknown tag: {line}")),
                uri => {
                    open.uri = uri.to_owned();
                    open.discontinuity = list.discontinuity_sequence + tags;
                    let map = open.map.clone();
                    list.segments.push(std::mem::replace(&mut open, Segment { map, ..Segment::default() }));
                }
            }
        }
        open.discontinuity = list.discontinuity_sequence + tags;
        list.open = open;
        Ok(list)
    }

    /// Segments with their numbers.
    fn numbered(&self) -> impl Iterator<Item = (u64, &Segment)> {
        (self.media_sequence + self.skipped..).zip(&self.segments)
    }

    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        let mut claim = |holds: bool, rule: String| {
            if !holds {
                complaints.push(rule);
            }
        };
        let target_s = f64::from(self.target_s);
        claim(self.target_s > 0, "4.4.3.1: no target duration".into());
        claim(self.version >= 6, "8: EXT-X-MAP needs version 6".into());
        claim(self.skipped == 0 || self.version >= 9, "8: EXT-X-SKIP needs version 9".into());
        claim(self.can_skip_until_s >= 6.0 * target_s, "4.4.3.8: CAN-SKIP-UNTIL below six target durations".into());
        claim(self.hold_back_s >= 3.0 * target_s, "4.4.3.8: HOLD-BACK below three target durations".into());
        claim(self.part_hold_back_s >= 3.0 * self.part_target_s, "4.4.3.8: PART-HOLD-BACK below three parts".into());
        claim(self.can_block, "4.4.3.8: parts without CAN-BLOCK-RELOAD".into());
        claim(self.ended == self.hint.is_none(), "4.4.5.3: a hint while it goes on, and none at the end".into());
        let listed: Vec<&Part> = self.segments.iter().chain([&self.open]).flat_map(|segment| &segment.parts).collect();
        let known = |hint: &String| listed.iter().any(|part| part.uri == *hint);
        claim(!self.hint.as_ref().is_some_and(known), "4.4.5.3: the hint is listed already".into());
        for (number, segment) in self.numbered() {
            claim(segment.duration_s.round() <= target_s, format!("4.4.3.1: segment {number} outlasts the target"));
            claim(
                !segment.gap || segment.parts.is_empty(),
                format!("4.4.4.7: segment {number} has parts and is a gap"),
            );
            claim(segment.duration_s > 0.0, format!("4.4.4.1: segment {number} has no duration"));
            claim(!segment.map.is_empty(), format!("4.4.4.5: segment {number} has no EXT-X-MAP"));
            claim(segment.at_us.is_some(), format!("segment {number} has no date"));
            let sum: f64 = segment.parts.iter().map(|part| part.duration_s).sum();
            let equal = segment.parts.is_empty() || (sum - segment.duration_s).abs() < EXACT_S;
            claim(equal, format!("4.4.4.9: the parts of segment {number} last {sum} of {}", segment.duration_s));
        }
        for segment in self.segments.iter().chain([&self.open]) {
            for (index, part) in segment.parts.iter().enumerate() {
                let last = index + 1 == segment.parts.len() && !segment.uri.is_empty();
                claim(part.duration_s <= self.part_target_s + 1e-9, format!("4.4.3.7: {} is too long", part.uri));
                let long = last || part.duration_s >= 0.85 * self.part_target_s;
                claim(long, format!("4.4.4.9: {} is shorter than 85 %", part.uri));
            }
            let dependent = segment.parts.first().is_some_and(|part| !part.independent);
            claim(!(self.independent && dependent), format!("4.4.2.1: {} is not independent", segment.uri));
        }
        let mut from_end_s: f64 = self.open.parts.iter().map(|part| part.duration_s).sum();
        for (number, segment) in self.numbered().collect::<Vec<_>>().into_iter().rev() {
            let bare = segment.parts.is_empty() && !segment.gap && from_end_s < 3.0 * target_s - EXACT_S;
            claim(!bare, format!("4.4.4.9: parts of segment {number} are missing, {from_end_s} s from the end"));
            from_end_s += segment.duration_s;
        }
        for (before, after) in self.segments.iter().zip(self.segments.iter().skip(1).chain([&self.open])) {
            let (Some(before_us), Some(after_us)) = (before.at_us, after.at_us) else { continue };
            let end_us = before_us + (before.duration_s * 1e6) as i64;
            let joined = (after_us - end_us).abs() < CLOCK_US;
            claim(after_us > before_us, format!("4.4.4.6: the date runs backwards at {}", after.uri));
            claim(
                joined || after.discontinuity > before.discontinuity,
                format!("4.4.4.6: a hole before {}", after.uri),
            );
        }
        complaints
    }
}

impl Lint {
    /// Complaints about a playlist and how it differs from its predecessors.
    pub fn check(&mut self, text: &str) -> Vec<String> {
        let list = match Playlist::parse(text) {
            Ok(list) => list,
            Err(error) => return vec![error],
        };
        let mut complaints = list.complaints();
        let mut claim = |holds: bool, rule: String| {
            if !holds {
                complaints.push(rule);
            }
        };
        if let Some(last) = &self.last {
            claim(last.target_s == list.target_s, "6.2.1: the target duration changed".into());
            claim(last.part_target_s == list.part_target_s, "4.4.3.7: the part target changed".into());
            claim(last.media_sequence <= list.media_sequence, "4.4.3.2: the media sequence went back".into());
            let back = last.discontinuity_sequence > list.discontinuity_sequence;
            claim(!back, "4.4.3.3: the discontinuity sequence went back".into());
            let same = last.segments == list.segments && last.open == list.open && list.ended;
            claim(!last.ended || same, "4.4.3.4: something changed behind EXT-X-ENDLIST".into());
            let end = |list: &Playlist| list.media_sequence + list.skipped + list.segments.len() as u64;
            claim(end(last) <= end(&list), "6.2.1: the end went back".into());
            // The part that was promised is the one that came.
            let at = end(last);
            let now = list.numbered().find(|(number, _)| *number == at).map(|(_, segment)| segment);
            let now = now.or((end(&list) == at).then_some(&list.open));
            if let Some(now) = now.filter(|now| !now.parts.is_empty() && list.media_sequence <= at) {
                let kept = now.parts.len() >= last.open.parts.len() && now.parts.starts_with(&last.open.parts);
                claim(kept, format!("6.2.1: parts of segment {at} changed"));
                let next = now.parts.get(last.open.parts.len()).map(|part| &part.uri);
                // What a publisher that is gone was about to send does not come.
                let other = now.discontinuity > last.open.discontinuity;
                let promised = next.is_none() || last.hint.is_none() || next == last.hint.as_ref() || other;
                claim(promised, format!("4.4.5.3: {:?} was promised, {next:?} came", last.hint));
            }
        }
        for (number, segment) in list.numbered() {
            let bare = |segment: &Segment| Segment { parts: Vec::new(), ..segment.clone() };
            let known = self.segments.entry(number).or_insert_with(|| bare(segment));
            claim(*known == bare(segment), format!("6.2.1: segment {number} changed: {known:?}, now {segment:?}"));
        }
        self.last = Some(list);
        complaints
    }

    /// Complaints about an update that was made from this full playlist.
    pub fn check_delta(full: &str, delta: &str) -> Vec<String> {
        let (full, delta) = match (Playlist::parse(full), Playlist::parse(delta)) {
            (Ok(full), Ok(delta)) => (full, delta),
            (Err(error), _) | (_, Err(error)) => return vec![error],
        };
        let mut complaints = delta.complaints();
        let skipped = full.segments.get(..delta.skipped as usize).unwrap_or_default();
        let kept = &full.segments[skipped.len()..];
        let rest_s = kept.iter().map(|segment| segment.duration_s).sum::<f64>()
            + full.open.parts.iter().map(|part| part.duration_s).sum::<f64>();
        if !skipped.is_empty() && rest_s < full.can_skip_until_s - EXACT_S {
            complaints.push(format!("6.2.5.1: only {rest_s} s are left behind the skip boundary"));
        }
        let same = |(a, b): (&Segment, &Segment)| {
            (&a.uri, a.duration_s, a.at_us, &a.parts, &a.map) == (&b.uri, b.duration_s, b.at_us, &b.parts, &b.map)
        };
        if kept.len() != delta.segments.len() || !kept.iter().zip(&delta.segments).all(same) {
            complaints.push("6.2.5.1: the update differs from the playlist".into());
        }
        if (full.media_sequence, full.discontinuity_sequence, &full.hint)
            != (delta.media_sequence, delta.discontinuity_sequence, &delta.hint)
        {
            complaints.push("6.2.5.1: the update's head differs from the playlist's".into());
        }
        complaints
    }
}

/// One attribute of a list; none of those that are read contains a comma.
fn attribute<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = list.split(',').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"'))
}

fn seconds(list: &str, name: &str) -> Option<f64> {
    attribute(list, name)?.parse().ok()
}
