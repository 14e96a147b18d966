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

/// More than this part of a window's pictures left out is more than the machine can do.
const STRAIN_WINDOW_US: i64 = 4_000_000;
const LEFT_OUT_PERCENT_MAX: u32 = 25;

/// Whether being behind is a moment's matter.
#[derive(Debug, Default)]
pub(super) struct Strain {
    /// Nothing before the live edge was reached for the first time counts.
    began_us: Option<i64>,
    pictures: u32,
    behind: u32,
}

impl Strain {
    /// True when something has to give way. What follows is a matter of its own.
    pub(super) fn is_too_much(&mut self, dts_us: i64, pace: Pace) -> bool {
        let Some(began_us) = self.began_us else {
            self.began_us = (pace == Pace::Every).then_some(dts_us);
            return false;
        };
        self.pictures += 1;
        self.behind += u32::from(pace != Pace::Every);
        if (0..STRAIN_WINDOW_US).contains(&(dts_us - began_us)) {
            return false;
        }
        let too_much = self.behind * 100 > self.pictures * LEFT_OUT_PERCENT_MAX;
        *self = Self { began_us: (!too_much).then_some(dts_us), pictures: 0, behind: 0 };
        too_much
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

    #[test]
    fn too_much_is_what_lasts() {
        let mut strain = Strain::default();
        let mut at_us = 0;
        let mut go = |strain: &mut Strain, pictures: usize, pace: Pace| {
            let gave_way = (0..pictures).filter(|_| {
                at_us += 33_333;
                strain.is_too_much(at_us, pace)
            });
            gave_way.count()
        };
        assert_eq!(go(&mut strain, 250, Pace::Newest), 0, "the way to the live edge");
        assert_eq!(go(&mut strain, 300, Pace::Every), 0);
        assert_eq!(go(&mut strain, 20, Pace::EverySecond), 0, "a hiccup");
        assert_eq!(go(&mut strain, 300, Pace::Every), 0);
        assert_eq!(go(&mut strain, 300, Pace::EverySecond), 1, "and then it looks anew");
    }
}
