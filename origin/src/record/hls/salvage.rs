//! What is left of kept HLS whose process died. In: the pieces on the disk, and the playlist as it was found. Out: every segment
//! that can be played, in order, timed by what is in it. The playlist is believed in nothing, so it may be torn or damaged
//! anywhere. Deliberately absent: repair of pieces. They are whole, because they have their names only when they are.

use std::{collections::BTreeMap, fs::File, io::BufReader, path::Path};

use headwater_common::{
    fmp4::read::{Part, Parts, Run},
    store::{Piece, Place, Store},
};

use super::{
    playlist::{Segment, named, target_s},
    reel::{ReelError, TARGET_S_MAX, Written},
};

/// Of pictures, as the cutter numbers tracks; sound is 2.
const VIDEO: u32 = 1;

/// What was found, and what was not.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::record) struct Salvaged {
    pub(in crate::record) written: Written,
    /// What is missing that was there once.
    pub(in crate::record) defect: Option<String>,
    /// Why the playlist did not tell the truth, if it did not.
    pub(in crate::record) remark: Option<String>,
}

/// When a segment begins in its recording, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Measure {
    from_us: i64,
    duration_us: i64,
}

/// A track's number, and its ticks per second.
type Scales = Vec<(u32, u32)>;

/// Looks at the pieces that are there. `index` is what stands in the growing playlist.
pub(in crate::record) fn salvage(
    store: &Store,
    place: &Place,
    vod_id: &str,
    started_ms: i64,
    index: &[u8],
) -> Result<Salvaged, ReelError> {
    let mut scales: BTreeMap<u32, Scales> = BTreeMap::new();
    let mut found = Vec::new();
    // Init sections are listed first.
    for (piece, _) in store.pieces(place, vod_id)? {
        let path = store.path(&place.piece(vod_id, piece)?);
        match piece {
            Piece::Init { stretch } => drop(scales.insert(stretch, read_scales(&path)?)),
            Piece::Segment { stretch, number } => {
                let measure = scales.get(&stretch).map(|scales| measure(&path, scales)).transpose()?.flatten();
                found.push((stretch, number, measure));
            }
        }
    }
    found.sort_by_key(|(_, number, _)| *number);
    Ok(assemble(started_ms, index, &found))
}

fn read_scales(path: &Path) -> Result<Scales, ReelError> {
    let mut parts = Parts::new(BufReader::new(File::open(path)?))?;
    let Some(Part::Init(moov)) = parts.next()? else { return Ok(Vec::new()) };
    Ok(moov.trak.iter().map(|trak| (trak.tkhd.track_id, trak.mdia.mdhd.timescale)).collect())
}

/// `None` when there is nothing in it to play.
fn measure(path: &Path, scales: &[(u32, u32)]) -> Result<Option<Measure>, ReelError> {
    let mut parts = Parts::new(BufReader::new(File::open(path)?))?;
    let Some(Part::Fragment(fragment)) = parts.next()? else { return Ok(None) };
    let leading = fragment.runs.iter().find(|run| run.track == VIDEO).or(fragment.runs.first());
    Ok(leading.and_then(|run| {
        let (_, scale) = scales.iter().find(|(track, scale)| *track == run.track && *scale > 0)?;
        measured(run, *scale)
    }))
}

fn measured(run: &Run, scale: u32) -> Option<Measure> {
    let us = |ticks: i64| i64::try_from(i128::from(ticks) * 1_000_000 / i128::from(scale)).ok();
    let ticks = run.samples.iter().map(|sample| i64::from(sample.duration)).sum();
    Some(Measure { from_us: us(run.samples.first()?.dts)?, duration_us: us(ticks)?.max(1) })
}

/// `found`: by number.
fn assemble(started_ms: i64, index: &[u8], found: &[(u32, u64, Option<Measure>)]) -> Salvaged {
    let text = String::from_utf8_lossy(index);
    let segments: Vec<_> = found
        .iter()
        .filter_map(|(stretch, number, measure)| {
            let Measure { from_us, duration_us } = (*measure)?;
            Some(Segment { stretch: *stretch, number: *number, at_ms: started_ms + from_us / 1_000, duration_us })
        })
        .collect();
    // Numbers count from zero, without a gap.
    let numbers = segments.last().map_or(0, |last| last.number + 1);
    let missing = numbers - segments.len() as u64;
    let unreadable = found.len() - segments.len();
    let defect = match (missing, unreadable) {
        (0, 0) => None,
        (missing, unreadable) => {
            Some(format!("{} of its segments are gone or can't be read", missing.max(unreadable as u64)))
        }
    };
    let listed = named(&text);
    let tells = listed.iter().map(|named| named.segment).eq(segments.iter().map(Segment::piece));
    let whole = text.ends_with('\n') || text.is_empty();
    let remark = (!tells || !whole).then(|| {
        let known =
            listed.iter().filter(|named| segments.iter().any(|segment| segment.piece() == named.segment)).count();
        format!("its playlist names {known} of {} segments, it is made anew", segments.len())
    });
    let target_s = target_s(&text).filter(|target_s| *target_s <= TARGET_S_MAX + 1).unwrap_or(1);
    Salvaged { written: Written { target_s, segments }, defect, remark }
}

#[cfg(test)]
mod tests {
    use super::{super::playlist::whole, *};

    const SEGMENTS: u64 = 5;

    fn found() -> Vec<(u32, u64, Option<Measure>)> {
        let measure = |number| Measure { from_us: number as i64 * 2_000_000, duration_us: 2_000_000 };
        (0..SEGMENTS).map(|number| (u32::from(number > 2), number, Some(measure(number)))).collect()
    }

    fn index() -> String {
        let whole = whole("cam_x", 3, &assemble(0, b"", &found()).written.segments);
        whole.strip_suffix("#EXT-X-ENDLIST\n").unwrap().replace(":VOD", ":EVENT")
    }

    #[test]
    fn a_playlist_that_tells_the_truth_is_not_remarked_on() {
        let salvaged = assemble(0, index().as_bytes(), &found());
        assert_eq!((salvaged.remark, salvaged.defect), (None, None));
        assert_eq!(salvaged.written.target_s, 3);
    }

    #[test]
    fn wherever_the_playlist_is_torn_or_damaged_every_segment_is_there() {
        let (index, good) = (index().into_bytes(), assemble(0, index().as_bytes(), &found()));
        let check = |damaged: &[u8], what: &str| {
            let salvaged = assemble(0, damaged, &found());
            assert_eq!(salvaged.written.segments, good.written.segments, "{what}");
            assert_eq!(salvaged.defect, None, "{what}");
            let text = whole("cam_x", salvaged.written.target_s, &salvaged.written.segments);
            assert!((2..=11).contains(&target_s(&text).unwrap()), "{what}");
            assert_eq!(named(&text).len() as u64, SEGMENTS, "{what}");
            salvaged.remark
        };
        for end in 0..index.len() {
            let remark = check(&index[..end], &format!("cut at {end}")).expect("a word in the log");
            assert!(remark.ends_with("of 5 segments, it is made anew"), "cut at {end}: {remark}");
        }
        for at in 0..index.len() {
            for bits in [1, 4, 0x40, 0x80, 0xff] {
                let mut damaged = index.clone();
                damaged[at] ^= bits;
                check(&damaged, &format!("byte {at} ^ {bits:#x}"));
                damaged.truncate(at + 1);
                check(&damaged, &format!("byte {at} ^ {bits:#x}, the last one"));
            }
        }
        check(&vec![0; index.len()], "zeros");
    }

    #[test]
    fn a_segment_that_is_gone_is_a_defect_and_a_break() {
        let mut found = found();
        found.remove(1);
        let salvaged = assemble(0, index().as_bytes(), &found);
        assert_eq!(salvaged.defect.as_deref(), Some("1 of its segments are gone or can't be read"));
        assert_eq!(whole("cam_x", 3, &salvaged.written.segments).matches("DISCONTINUITY").count(), 2);
        found[0].2 = None;
        let salvaged = assemble(0, index().as_bytes(), &found);
        assert_eq!(salvaged.defect.as_deref(), Some("2 of its segments are gone or can't be read"));
        assert_eq!(salvaged.written.segments.len(), 3);
    }
}
