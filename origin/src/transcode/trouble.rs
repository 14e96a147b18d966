//! When damaged frames are worth a line in the log. In: which frames decoded. Out: true, once per spell, when nothing
//! else came for a while. Deliberately absent: the clock (frames' own time counts).

const PATIENCE_US: i64 = 10_000_000;

#[derive(Debug, Default)]
pub(super) struct Trouble {
    since_us: Option<i64>,
    told: bool,
}

impl Trouble {
    pub(super) fn good(&mut self) {
        *self = Self::default();
    }

    /// Whether it is time to say so.
    pub(super) fn bad(&mut self, dts_us: i64) -> bool {
        let since_us = *self.since_us.get_or_insert(dts_us);
        let due = !self.told && dts_us - since_us >= PATIENCE_US;
        self.told |= due;
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_seconds_of_nothing_but_errors_are_told_once() {
        let mut trouble = Trouble::default();
        let told =
            |trouble: &mut Trouble, range: std::ops::Range<i64>| range.filter(|s| trouble.bad(s * 1_000_000)).count();
        assert_eq!(told(&mut trouble, 0..10), 0);
        trouble.good();
        assert_eq!(told(&mut trouble, 10..100), 1);
        trouble.good();
        assert_eq!(told(&mut trouble, 100..111), 1);
    }
}
