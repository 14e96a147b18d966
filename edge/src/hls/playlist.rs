//! The media playlist as text. In: a [`Window`]. Out: what a player reads. Deliberately absent: who asks and when.
//! Sections are those of draft-pantos-hls-rfc8216bis.
//!
//! Where there are several qualities, each tells how far the others are (EXT-X-RENDITION-REPORT).

use std::fmt::{self, Write};

use super::{
    cutter::PART_TARGET_US,
    name::{Name, Piece},
    variant::Variant,
    window::{Segment, Window},
};

/// How far from the end low-latency players stay. Three part targets are the least that is advised (4.4.3.8); four
/// and a bit leave room for a round trip on a mobile link.
const PART_HOLD_BACK_US: i64 = 1_000_000;
/// In target durations: classic players stay this far from the end (4.4.3.8).
const HOLD_BACK_TARGETS: i64 = 3;
/// In target durations: older segments may be left out of an update (4.4.3.8: at least six).
const SKIP_TARGETS: i64 = 6;
/// In target durations: parts of older segments are not listed (4.4.4.9).
const PARTS_TARGETS: i64 = 3;

/// Which playlist is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// Without what the player has seen long ago (`_HLS_skip`).
    pub(super) delta: bool,
    /// Its own URL is `…/<id>/playlist.m3u8` and not `…/<id>.m3u8`.
    pub(super) nested: bool,
}

/// Another quality, and the last part it has; `None` while it rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) variant: Variant,
    pub(super) last: Option<(u64, u32)>,
}

pub(super) fn render(window: &Window, stream: &str, variant: Variant, form: Form, reports: &[Report]) -> String {
    let mut text = String::with_capacity(8 << 10);
    // Writing into a string can't fail.
    let _ = write(&mut text, window, &format!("{stream}{variant}"), form);
    if !window.ended() {
        for report in reports {
            let _ = write_report(&mut text, window, stream, form, report);
        }
    }
    text
}

/// All are cut alike, so one that rests will be where this one is as soon as somebody asks for it (4.4.5.4).
fn write_report(text: &mut String, window: &Window, stream: &str, form: Form, report: &Report) -> fmt::Result {
    let Some((gop, part)) = report.last.or(window.last_part()) else { return Ok(()) };
    let up = if form.nested { "../" } else { "" };
    let uri = report.variant.playlist(stream);
    writeln!(text, "#EXT-X-RENDITION-REPORT:URI=\"{up}{uri}\",LAST-MSN={gop},LAST-PART={part}")
}

/// `name`: of the directory with the pieces.
fn write(text: &mut String, window: &Window, name: &str, form: Form) -> fmt::Result {
    let target_us = i64::from(window.target_s) * 1_000_000;
    let uri = |piece| {
        let piece = Name { born_us: window.born_us, piece };
        if form.nested { piece.to_string() } else { format!("{name}/{piece}") }
    };
    // How much is listed behind each segment. By durations: between two publishers there is time without media.
    let mut behind_us: Vec<i64> = Vec::new();
    let total_us = window.listed().rev().fold(0, |sum_us, segment| {
        behind_us.push(sum_us);
        sum_us + segment.duration_us
    });
    behind_us.reverse();
    let rest_us = |count: usize| behind_us.get(count.wrapping_sub(1)).copied().unwrap_or(total_us);
    let skippable = |at: &usize| rest_us(*at) >= SKIP_TARGETS * target_us;
    let complete = window.listed().filter(|segment| segment.complete).count();
    let skipped = if form.delta { (0..=complete).take_while(skippable).last().unwrap_or(0) } else { 0 };

    text.push_str("#EXTM3U\n");
    // 6 for EXT-X-MAP, 9 for EXT-X-SKIP (8): players that know neither parts nor updates stop at higher ones.
    writeln!(text, "#EXT-X-VERSION:{}", if skipped > 0 { 9 } else { 6 })?;
    writeln!(text, "#EXT-X-TARGETDURATION:{}", window.target_s)?;
    writeln!(
        text,
        "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,CAN-SKIP-UNTIL={},HOLD-BACK={},PART-HOLD-BACK={}",
        Seconds(SKIP_TARGETS * target_us),
        Seconds(HOLD_BACK_TARGETS * target_us),
        Seconds(PART_HOLD_BACK_US)
    )?;
    writeln!(text, "#EXT-X-PART-INF:PART-TARGET={}", Seconds(PART_TARGET_US))?;
    if let Some(first) = window.listed().next() {
        writeln!(text, "#EXT-X-MEDIA-SEQUENCE:{}", first.gop.id)?;
        writeln!(text, "#EXT-X-DISCONTINUITY-SEQUENCE:{}", first.gop.discontinuity)?;
    }
    if window.listed().all(Segment::independent) {
        text.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
    }
    if skipped > 0 {
        writeln!(text, "#EXT-X-SKIP:SKIPPED-SEGMENTS={skipped}")?;
    }

    let mut before: Option<&Segment> = None;
    for ((at, segment), behind_us) in window.listed().enumerate().zip(&behind_us) {
        let last = before.replace(segment);
        if at < skipped {
            continue;
        }
        let gop = &segment.gop;
        // The sequence number counts the tags, so one per step.
        for _ in last.map_or(0, |last| last.gop.discontinuity)..last.map_or(0, |_| gop.discontinuity) {
            text.push_str("#EXT-X-DISCONTINUITY\n");
        }
        if at == skipped || last.is_none_or(|last| last.init.digest != segment.init.digest) {
            let init = Piece::Init { discontinuity: segment.init.discontinuity, digest: segment.init.digest };
            writeln!(text, "#EXT-X-MAP:URI=\"{}\"", uri(init))?;
        }
        if let Ok(at) = jiff::Timestamp::from_microsecond(window.born_us + gop.start_us) {
            writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{at:.3}")?;
        }
        if *behind_us < PARTS_TARGETS * target_us {
            for (index, part) in (0..).zip(&segment.parts) {
                let uri = uri(Piece::Part { epoch: gop.epoch, gop: gop.id, index });
                write!(text, "#EXT-X-PART:DURATION={},URI=\"{uri}\"", Seconds(part.duration_us))?;
                text.push_str(if part.independent { ",INDEPENDENT=YES\n" } else { "\n" });
            }
        }
        if segment.is_gap() {
            text.push_str("#EXT-X-GAP\n");
        }
        if segment.complete {
            let uri = uri(segment.piece());
            writeln!(text, "#EXTINF:{},\n{uri}", Seconds(segment.duration_us))?;
        }
    }
    if window.ended() {
        text.push_str("#EXT-X-ENDLIST\n");
    } else if let Some(hint) = window.hint() {
        writeln!(text, "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"{}\"", uri(hint))?;
    }
    Ok(())
}

/// Microseconds as decimal seconds.
struct Seconds(i64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        // "2.0" is as good as "2.000000", and a playlist is fetched five times a second.
        let trimmed = digits.trim_end_matches('0');
        f.write_str(trimmed)?;
        if trimmed.ends_with('.') { f.write_str("0") } else { Ok(()) }
    }
}
