//! Which qualities are made of a source. In: what an operator or an application asks for, and the source's size. Out: the
//! renditions that make sense, or a sentence about those that never will. Deliberately absent: making them.

use serde::{Deserialize, Serialize};

/// More than any player can tell apart; each is an encoder.
const RENDITIONS_MAX: usize = 8;
/// Below it nothing can be recognised, above it there is no H.264 level.
const HEIGHT: std::ops::RangeInclusive<u32> = 64..=4320;
const VIDEO_KBPS: std::ops::RangeInclusive<u32> = 50..=100_000;
const AUDIO_KBPS: std::ops::RangeInclusive<u32> = 16..=512;

/// One step of a ladder, as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rung {
    pub height: u32,
    pub video_kbps: u32,
    /// 0: the source's sound as it is.
    #[serde(default)]
    pub audio_kbps: u32,
    /// Made for a source of this very height too, which is passed through otherwise.
    #[serde(default)]
    pub force: bool,
}

/// A quality that is made of the source: so high, for so many bits. The width follows from the source's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rendition {
    pub height: u32,
    pub video_kbps: u32,
    /// Of the sound that goes with it into segments; 0: the source's.
    pub audio_kbps: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LadderError {
    #[error("{0} renditions are too many: {RENDITIONS_MAX} at most")]
    TooMany(usize),
    #[error("height {height}: an even number from {} to {} is needed", HEIGHT.start(), HEIGHT.end())]
    Height { height: u32 },
    #[error("height {0} is there twice")]
    Twice(u32),
    #[error("{height}p: {kbps} kbit/s of video, which goes from {} to {}", VIDEO_KBPS.start(), VIDEO_KBPS.end())]
    Video { height: u32, kbps: u32 },
    #[error(
        "{height}p: {kbps} kbit/s of sound, which goes from {} to {}, or is 0 for the source's",
        AUDIO_KBPS.start(), AUDIO_KBPS.end()
    )]
    Audio { height: u32, kbps: u32 },
}

/// Whether a ladder makes sense for any source at all.
pub fn check(rungs: &[Rung]) -> Result<(), LadderError> {
    if rungs.len() > RENDITIONS_MAX {
        return Err(LadderError::TooMany(rungs.len()));
    }
    for (at, &Rung { height, video_kbps, audio_kbps, .. }) in rungs.iter().enumerate() {
        if !HEIGHT.contains(&height) || !height.is_multiple_of(2) {
            return Err(LadderError::Height { height });
        }
        if rungs[..at].iter().any(|other| other.height == height) {
            return Err(LadderError::Twice(height));
        }
        if !VIDEO_KBPS.contains(&video_kbps) {
            return Err(LadderError::Video { height, kbps: video_kbps });
        }
        if audio_kbps != 0 && !AUDIO_KBPS.contains(&audio_kbps) {
            return Err(LadderError::Audio { height, kbps: audio_kbps });
        }
    }
    Ok(())
}

/// What is made of a source of this height, the largest first. Nothing is ever enlarged.
pub fn plan(rungs: &[Rung], source_height: u32) -> Vec<Rendition> {
    let fits = |rung: &&Rung| rung.height < source_height || (rung.height == source_height && rung.force);
    let rendition = |&Rung { height, video_kbps, audio_kbps, .. }: &Rung| Rendition { height, video_kbps, audio_kbps };
    let mut renditions: Vec<_> = rungs.iter().filter(fits).map(rendition).collect();
    renditions.sort_by_key(|rendition| std::cmp::Reverse(rendition.height));
    renditions
}

impl Rendition {
    /// Of a picture made of one of this size: even, never larger, and of the same shape.
    pub fn size(self, (width, height): (u32, u32)) -> (u32, u32) {
        let made = self.height.min(height & !1).max(2);
        let scaled = (u64::from(width) * u64::from(made) + u64::from(height)) / u64::from(height.max(1) * 2);
        ((scaled as u32 * 2).min(width & !1).max(2), made)
    }

    /// From the end of a name, as [`Display`](std::fmt::Display) writes it without the sound.
    pub fn parse_name(text: &str) -> Option<(u32, u32)> {
        let (height, kbps) = text.strip_suffix("kbps")?.split_once('p')?;
        let number = |digits: &str| digits.parse().ok().filter(|number: &u32| number.to_string() == digits);
        Some((number(height)?, number(kbps)?))
    }
}

/// As Ant Media names the files of a rendition.
impl std::fmt::Display for Rendition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}p{}kbps", self.height, self.video_kbps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(height: u32, video_kbps: u32) -> Rung {
        Rung { height, video_kbps, audio_kbps: 0, force: false }
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        let refused = |rungs: &[Rung]| check(rungs).unwrap_err().to_string();
        assert_eq!(refused(&[rung(0, 500)]), "height 0: an even number from 64 to 4320 is needed");
        assert_eq!(refused(&[rung(481, 500)]), "height 481: an even number from 64 to 4320 is needed");
        assert_eq!(
            refused(&[rung(480, 1_000_000_000)]),
            "480p: 1000000000 kbit/s of video, which goes from 50 to 100000"
        );
        assert_eq!(refused(&[rung(480, 500), rung(480, 900)]), "height 480 is there twice");
        let forty: Vec<_> = (0..40).map(|n| rung(100 + 2 * n, 500)).collect();
        assert_eq!(refused(&forty), "40 renditions are too many: 8 at most");
        let loud = Rung { audio_kbps: 5_000, ..rung(480, 500) };
        assert!(refused(&[loud]).starts_with("480p: 5000 kbit/s of sound"));
        assert_eq!(check(&[rung(720, 2_000), Rung { audio_kbps: 64, ..rung(480, 800) }]), Ok(()));
        assert_eq!(check(&[]), Ok(()));
    }

    #[test]
    fn nothing_is_enlarged() {
        let heights = |rungs: &[Rung], source| plan(rungs, source).iter().map(|r| r.height).collect::<Vec<_>>();
        let rungs = [rung(240, 300), rung(720, 2_000), rung(480, 800)];
        assert_eq!(heights(&rungs, 1080), [720, 480, 240]);
        assert_eq!(heights(&rungs, 720), [480, 240]);
        assert_eq!(heights(&rungs, 200), [] as [u32; 0]);
        assert_eq!(heights(&[Rung { force: true, ..rung(720, 2_000) }], 720), [720]);
    }

    #[test]
    fn sizes_are_even_and_keep_the_shape() {
        let size = |height, source| Rendition { height, video_kbps: 1, audio_kbps: 0 }.size(source);
        assert_eq!(size(480, (1920, 1080)), (854, 480));
        assert_eq!(size(240, (1920, 1080)), (426, 240));
        assert_eq!(size(480, (1080, 1920)), (270, 480));
        assert_eq!(size(480, (321, 179)), (320, 178), "a source that became smaller is not enlarged");
        assert_eq!(size(64, (16_384, 70)), (14_980, 64));
        assert_eq!(size(64, (1, 1)), (2, 2));
    }

    #[test]
    fn names_are_read_as_they_were_written() {
        let rendition = Rendition { height: 480, video_kbps: 500, audio_kbps: 64 };
        assert_eq!(Rendition::parse_name(&rendition.to_string()), Some((480, 500)));
        for text in ["480p", "480p0500kbps", "p500kbps", "480p500", "+480p500kbps", "480p500kbpskbps"] {
            assert_eq!(Rendition::parse_name(text), None, "{text}");
        }
    }
}
