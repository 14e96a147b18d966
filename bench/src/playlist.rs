//! As much of an HLS playlist (RFC 8216bis) as a player needs that decodes nothing.
//!
//! Tolerant on purpose: tags that a load generator has no use for are passed over, whoever wrote them.

use std::time::Duration;

use jiff::Timestamp;

#[derive(Debug, PartialEq)]
pub(crate) enum Playlist {
    /// A multivariant playlist: the first variant, and the audio that goes with it where it is apart.
    Variants {
        video: String,
        audio: Option<String>,
    },
    Media(Media),
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Media {
    pub(crate) target: Duration,
    /// Blocking reload is offered (6.2.5.2).
    pub(crate) can_block: bool,
    /// Sequence number of the first segment.
    pub(crate) first: u64,
    pub(crate) segments: Vec<Segment>,
    pub(crate) map: Option<String>,
    pub(crate) ended: bool,
}

/// A segment; the newest one may have parts only and no address yet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Segment {
    pub(crate) uri: Option<String>,
    pub(crate) duration: Duration,
    pub(crate) begins: Option<Timestamp>,
    pub(crate) parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) uri: String,
    pub(crate) duration: Duration,
}

impl Playlist {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()?.trim_end() != "#EXTM3U" {
            return None;
        }
        let mut media = Media::default();
        let mut segment = Segment::default();
        // Where no date is written the time goes on from the last one.
        let mut clock: Option<Timestamp> = None;
        let mut audio = None;
        let mut variant = false;
        for line in lines.map(str::trim_end).filter(|line| !line.is_empty()) {
            let (tag, value) = line.split_once(':').unwrap_or((line, ""));
            match tag {
                "#EXT-X-STREAM-INF" => variant = true,
                "#EXT-X-MEDIA" if value.contains("TYPE=AUDIO") => audio = audio.or(attribute(value, "URI")),
                "#EXT-X-TARGETDURATION" => media.target = seconds(value),
                "#EXT-X-MEDIA-SEQUENCE" => media.first = value.parse().unwrap_or(0),
                "#EXT-X-SERVER-CONTROL" => {
                    media.can_block = attribute(value, "CAN-BLOCK-RELOAD").is_some_and(|can| can == "YES");
                }
                "#EXT-X-MAP" => media.map = attribute(value, "URI"),
                "#EXT-X-PROGRAM-DATE-TIME" => clock = value.parse().ok(),
                "#EXT-X-ENDLIST" => media.ended = true,
                "#EXTINF" => segment.duration = seconds(value.split(',').next().unwrap_or_default()),
                "#EXT-X-PART" => {
                    let duration = seconds(&attribute(value, "DURATION").unwrap_or_default());
                    segment.parts.extend(attribute(value, "URI").map(|uri| Part { uri, duration }));
                }
                _ if line.starts_with('#') => {}
                _ if variant => return Some(Self::Variants { video: line.to_owned(), audio }),
                _ => {
                    segment.uri = Some(line.to_owned());
                    segment.begins = clock;
                    clock = clock.and_then(|clock| clock.checked_add(segment.duration).ok());
                    media.segments.push(std::mem::take(&mut segment));
                }
            }
        }
        if !segment.parts.is_empty() {
            segment.begins = clock;
            media.segments.push(segment);
        }
        Some(Self::Media(media))
    }
}

impl Segment {
    /// When the part with this index begins.
    pub(crate) fn part_begins(&self, index: usize) -> Option<Timestamp> {
        let before: Duration = self.parts.iter().take(index).map(|part| part.duration).sum();
        self.begins?.checked_add(before).ok()
    }
}

fn seconds(text: &str) -> Duration {
    text.trim().parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default()
}

/// One value of an attribute list (4.2), without its quotes.
fn attribute(list: &str, name: &str) -> Option<String> {
    let mut rest = list;
    while let Some((key, behind)) = rest.split_once('=') {
        let (value, behind) = match behind.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => behind.split_at(behind.find(',').unwrap_or(behind.len())),
        };
        if key == name {
            return Some(value.to_owned());
        }
        rest = behind.strip_prefix(',').unwrap_or(behind);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_latency_playlist_with_an_unfinished_segment() {
        let text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.6\n\
            #EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-MAP:URI=\"init,1.mp4\"\n\
            #EXT-X-PROGRAM-DATE-TIME:2026-11-21T03:00:00.000Z\n#EXTINF:2.000,\ns7.m4s\n\
            #EXT-X-PART:DURATION=0.5,URI=\"p8.0.m4s\",INDEPENDENT=YES\n#EXT-X-PART:DURATION=0.5,URI=\"p8.1.m4s\"\n\
            #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"p8.2.m4s\"\n";
        let Some(Playlist::Media(media)) = Playlist::parse(text) else { panic!("no media playlist") };
        assert!(media.can_block && !media.ended && media.first == 7);
        assert_eq!((media.map.as_deref(), media.segments.len()), (Some("init,1.mp4"), 2));
        assert_eq!(media.segments[1].parts.len(), 2);
        let begins = media.segments[1].part_begins(1).unwrap();
        assert_eq!(begins.to_string(), "2026-11-21T03:00:02.5Z");
    }

    #[test]
    fn a_multivariant_playlist_names_the_first_variant() {
        let text = "#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a\",URI=\"a.m3u8\"\n#EXT-X-STREAM-INF:BANDWIDTH=1\n\
            http://h:80/v.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=2\nw.m3u8\n";
        let variants = Playlist::Variants { video: "http://h:80/v.m3u8".into(), audio: Some("a.m3u8".into()) };
        assert_eq!(Playlist::parse(text), Some(variants));
        assert_eq!(Playlist::parse("<html>"), None);
    }
}
