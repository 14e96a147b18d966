//! What a video job does when it is behind. In: how far. Out: what to encode. Deliberately absent: the frames.
//!
//! The output has no B-frames, so any picture may be left out of it without harm to the next one. A little behind:
//! every second picture is left out. Far behind, and at the start, when up to a whole gop is waiting: pictures are
//! only decoded, which is several times faster, and the newest one is encoded when the live edge is reached. So delay
//! stays below [`BEHIND_US_MAX`], and who joins in the middle of a gop of 8 seconds sees the picture of now.

/// Beyond this, every second picture is left out.
const HURRY_US: i64 = 250_000;
/// Beyond this, a conversation is over anyway: on to the live edge.
const BEHIND_US_MAX: i64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Every,
    EverySecond,
    /// Decode only; the newest picture counts.
    Newest,
}

#[derive(Debug)]
pub(super) struct Pacer {
    catching_up: bool,
}

impl Default for Pacer {
    fn default() -> Self {
        Self { catching_up: true }
    }
}

impl Pacer {
    /// `behind_us` is 0 at the live edge only.
    pub(super) fn pace(&mut self, behind_us: i64) -> Pace {
        self.catching_up = behind_us > BEHIND_US_MAX || (self.catching_up && behind_us > 0);
        match behind_us {
            _ if self.catching_up => Pace::Newest,
            HURRY_US.. => Pace::EverySecond,
            _ => Pace::Every,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_is_given_up_before_it_grows() {
        let mut pacer = Pacer::default();
        let seen: Vec<_> =
            [8_000_000, 33_000, 0, 33_000, 300_000, 100_000, 1_200_000, 900_000, 1, 0].map(|us| pacer.pace(us)).into();
        use Pace::*;
        assert_eq!(
            seen,
            [Newest, Newest, Every, Every, EverySecond, Every, Newest, Newest, Newest, Every],
            "catching up goes on until the live edge"
        );
    }
}
