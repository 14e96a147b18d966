//! The RTP clocks of one publisher, laid side by side.
//!
//! In: RTP times of its streams, when they arrived, and what its sender reports say. Out: microseconds on one clock for
//! all streams, so that lips stay with the voice. Deliberately absent: jitter (the WebRTC stack hands out frames in
//! order) and the hall's own clock.
//!
//! Each stream starts at its first arrival. Sender reports (RFC 3550 section 6.4.1) name the sender's wall-clock of an
//! RTP time; once two streams have told theirs, the sound stays where it is, because a step in it is heard, and
//! pictures move to it: as fast as they may the first time, then by so little that nobody sees it. Whatever moves, what
//! its publisher shows later is later here as well: a stream that has to go back goes slower for a while.

use std::time::{SystemTime, UNIX_EPOCH};

/// How far a picture may be moved from one to the next: clocks drift apart by less than this.
const SLEW_US: i64 = 500;
/// An error beyond this is no drift: the publisher's clock was set.
const STEP_US: i64 = 200_000;

/// What is shown longer before the newest frame than this is no B-frame: the publisher began anew.
const REORDERED_US: i64 = 1_000_000;
/// The slowest that a stream goes while it has to go back: a tenth of its speed.
const SLOWEST: i64 = 10;

/// A publisher may send at once what it encoded while it connected (GStreamer does): its first frame is late then, and
/// those that follow come before their time. Later than this nothing comes in a burst.
const BURST_US: i64 = 5_000_000;

/// What a sender report says of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) wall_us: i64,
    /// As in the RTP header.
    pub(super) rtp_time: u32,
}

impl Report {
    pub(super) fn new(wall: SystemTime, rtp_time: u64) -> Self {
        let since = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall_us: since.as_micros() as i64, rtp_time: rtp_time as u32 }
    }
}

/// One stream's place on the common clock.
#[derive(Debug)]
pub(super) struct Clock {
    ticks_per_s: i64,
    /// Of the first frame: RTP time and arrival.
    start: Option<(i64, i64)>,
    /// What this stream was moved by to fit the leading one.
    shift_us: i64,
    aligned_to: Option<u32>,
    /// Of the frames that came, the one that is shown last, and the one that was before it came.
    newest: Option<Mark>,
    before: Option<Mark>,
}

/// A frame on the clock of its stream, and on the common one.
#[derive(Clone, Copy, Debug)]
struct Mark {
    own_us: i64,
    placed_us: i64,
}

/// What the streams of one publisher have in common.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    leader: Option<Leader>,
}

#[derive(Clone, Copy, Debug)]
struct Leader {
    ssrc: u32,
    is_sound: bool,
    /// From the sender's wall-clock to the common clock.
    offset_us: i64,
}

/// A frame as it arrived.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) ssrc: u32,
    pub(super) is_sound: bool,
    /// Goes on growing where the header's wraps.
    pub(super) rtp_time: u64,
    pub(super) at_us: i64,
    /// The newest one of its stream.
    pub(super) report: Option<Report>,
}

impl Clock {
    pub(super) fn new(ticks_per_s: u32) -> Self {
        Self {
            ticks_per_s: i64::from(ticks_per_s.max(1)),
            start: None,
            shift_us: 0,
            aligned_to: None,
            newest: None,
            before: None,
        }
    }

    pub(super) fn ticks_per_s(&self) -> i64 {
        self.ticks_per_s
    }

    fn us(&self, ticks: i64) -> i64 {
        (i128::from(ticks) * 1_000_000 / i128::from(self.ticks_per_s)) as i64
    }

    /// Where a frame belongs that came after one that is shown later: a B-frame, whatever was moved meanwhile.
    fn between(&self, own_us: i64) -> Option<i64> {
        let newest = self.newest?;
        let earlier_us = newest.own_us.saturating_sub(own_us);
        if !(0..REORDERED_US).contains(&earlier_us) {
            return None;
        }
        let along = |before: Mark| {
            let [own, placed] = [newest.own_us - before.own_us, newest.placed_us - before.placed_us].map(i128::from);
            (i128::from(earlier_us) * placed / own) as i64
        };
        let slower = self.before.filter(|before| before.own_us < own_us);
        Some(newest.placed_us.saturating_sub(slower.map_or(earlier_us, along)))
    }

    /// Places a frame as near to where it is wanted as its forerunner allows.
    fn settle(&mut self, own_us: i64, wanted_us: i64) -> i64 {
        self.before = self.newest.filter(|newest| newest.own_us < own_us);
        let earliest = |before: Mark| before.placed_us.saturating_add((own_us - before.own_us) / SLOWEST);
        let placed_us = self.before.map_or(wanted_us, |before| wanted_us.max(earliest(before)));
        self.newest = Some(Mark { own_us, placed_us });
        self.shift_us = placed_us.saturating_sub(own_us);
        placed_us
    }
}

impl Clocks {
    pub(super) fn place(&mut self, clock: &mut Clock, arrival: &Arrival) -> i64 {
        let rtp_time = arrival.rtp_time as i64;
        let (first, began_us) = *clock.start.get_or_insert((rtp_time, arrival.at_us));
        let own_us = began_us.saturating_add(clock.us(rtp_time.saturating_sub(first)));
        if let Some(placed_us) = clock.between(own_us) {
            return placed_us;
        }
        let mut wanted_us = own_us.saturating_add(clock.shift_us);
        let since_us = arrival.at_us.saturating_sub(began_us);
        if wanted_us.saturating_sub(arrival.at_us) > STEP_US && (0..BURST_US).contains(&since_us) {
            wanted_us = arrival.at_us;
        }
        let Some(report) = arrival.report else { return clock.settle(own_us, wanted_us) };
        let since_report = (arrival.rtp_time as u32).wrapping_sub(report.rtp_time) as i32;
        let wall_us = report.wall_us.saturating_add(clock.us(since_report.into()));
        let leads = |leader: &Leader| leader.ssrc == arrival.ssrc || (arrival.is_sound && !leader.is_sound);
        match self.leader {
            Some(leader) if !leads(&leader) => {
                let error_us = wall_us.saturating_add(leader.offset_us).saturating_sub(wanted_us);
                let steps = clock.aligned_to != Some(leader.ssrc) || error_us.unsigned_abs() > STEP_US.unsigned_abs();
                let moved_us = if steps { error_us } else { error_us.clamp(-SLEW_US, SLEW_US) };
                let aligned_us = wanted_us.saturating_add(moved_us);
                let placed_us = clock.settle(own_us, aligned_us);
                clock.aligned_to = (placed_us == aligned_us).then_some(leader.ssrc);
                placed_us
            }
            _ => {
                let Arrival { ssrc, is_sound, .. } = *arrival;
                let placed_us = clock.settle(own_us, wanted_us);
                self.leader = Some(Leader { ssrc, is_sound, offset_us: placed_us.saturating_sub(wall_us) });
                placed_us
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sound and picture of one camera whose clock is an hour off, arriving late by different times.
    struct Camera {
        clocks: Clocks,
        sound: Clock,
        picture: Clock,
        reports: bool,
    }

    const HOUR_US: i64 = 3_600_000_000;

    impl Camera {
        fn new() -> Self {
            let (sound, picture) = (Clock::new(48_000), Clock::new(90_000));
            Self { clocks: Clocks::default(), sound, picture, reports: false }
        }

        fn report(&self, us: i64, rtp_time: u64) -> Option<Report> {
            self.reports.then_some(Report { wall_us: us + HOUR_US, rtp_time: rtp_time as u32 })
        }

        fn sound(&mut self, us: i64, late_us: i64) -> i64 {
            let rtp_time = 7_000 + us as u64 * 48_000 / 1_000_000;
            let report = self.report(us, rtp_time);
            let arrival = Arrival { ssrc: 1, is_sound: true, rtp_time, at_us: us + late_us, report };
            self.clocks.place(&mut self.sound, &arrival)
        }

        /// Its RTP time wraps after ten seconds.
        fn picture(&mut self, us: i64, late_us: i64) -> i64 {
            let rtp_time = (1 << 32) - 900_000 + us as u64 * 90_000 / 1_000_000;
            let report = self.report(us, rtp_time);
            let arrival = Arrival { ssrc: 2, is_sound: false, rtp_time, at_us: us + late_us, report };
            self.clocks.place(&mut self.picture, &arrival)
        }
    }

    #[test]
    fn arrival_counts_until_reports_tell_more() {
        let mut camera = Camera::new();
        assert_eq!(camera.sound(0, 5_000), 5_000);
        assert_eq!(camera.picture(0, 65_000), 65_000);
        assert_eq!(camera.sound(20_000, 90_000), 25_000, "jitter does not count");
        camera.reports = true;
        assert_eq!(camera.picture(40_000, 0), 105_000, "alone it stays where it is");
        assert_eq!(camera.sound(40_000, 0), 45_000, "sound is never moved");
        assert_eq!(camera.picture(80_000, 0), 109_000, "the picture goes to it, and on");
        assert_eq!(camera.picture(120_000, 0), 125_000, "the picture is there");
    }

    #[test]
    fn they_stay_together_over_a_wrap_and_drift() {
        let mut camera = Camera::new();
        camera.reports = true;
        for step in 0..600 {
            let us = step * 40_000;
            let (sound, picture) = (camera.sound(us, 3_000), camera.picture(us, 70_000));
            assert!((sound - picture).abs() <= 30, "{us}: {sound} {picture}");
        }
        // The picture's clock is half a percent of a second off from here on: nobody sees it catch up.
        let before = camera.picture(24_000_000, 0);
        let rtp_time = (1 << 32) - 900_000 + 24_040_000 * 90_000 / 1_000_000;
        let report = Some(Report { wall_us: 24_045_000 + HOUR_US, rtp_time: rtp_time as u32 });
        let arrival = Arrival { ssrc: 2, is_sound: false, rtp_time, at_us: 0, report };
        let after = camera.clocks.place(&mut camera.picture, &arrival);
        assert!((after - before - 40_000 - SLEW_US).abs() <= 30, "{before} {after}");
    }

    #[test]
    fn without_sound_the_first_picture_leads() {
        let mut camera = Camera::new();
        camera.reports = true;
        assert_eq!(camera.picture(0, 10_000), 10_000);
        assert_eq!(camera.picture(40_000, 0), 50_000);
    }

    #[test]
    fn a_report_from_nowhere_breaks_nothing() {
        let mut clocks = Clocks::default();
        let mut clock = Clock::new(0);
        for wall_us in [i64::MAX, i64::MIN, 0] {
            for ssrc in [1, 2] {
                let report = Some(Report { wall_us, rtp_time: 5 });
                let arrival = Arrival { ssrc, is_sound: false, rtp_time: u64::from(u32::MAX), at_us: 0, report };
                clocks.place(&mut clock, &arrival);
            }
        }
    }

    #[test]
    fn what_was_encoded_before_the_connection_comes_in_a_burst_and_is_not_put_into_the_future() {
        let mut camera = Camera::new();
        // Three seconds of pictures arrive with the last of them, the others in their time.
        let placed: Vec<_> =
            (0..150).map(|n| n * 33_333).map(|us| camera.picture(us, (3_000_000 - us).max(0))).collect();
        let late_us = |n: usize| placed[n] - n as i64 * 33_333;
        assert_eq!(late_us(0), 3_000_000);
        assert!((-30..=STEP_US).contains(&late_us(149)), "{}", late_us(149));
        assert!(placed.is_sorted_by(|earlier, later| earlier < later), "{placed:?}");
    }

    #[test]
    fn what_is_shown_later_stays_later_while_the_picture_goes_to_the_sound() {
        let mut camera = Camera::new();
        camera.sound(0, 0);
        // As they are encoded with a pyramid of B-frames, the first ones 150 ms late.
        let gop = |n: i64| [0, 4, 2, 1, 3].map(|place| (5 * n + place) * 33_333);
        let mut placed = Vec::new();
        for us in (0..12).flat_map(gop) {
            camera.reports = us > 300_000;
            camera.sound(us, 0);
            placed.push((us, camera.picture(us, 150_000)));
        }
        placed.sort_unstable();
        assert!(placed.windows(2).all(|pair| pair[0].1 < pair[1].1), "{placed:?}");
        let late_us = |(us, placed_us): (i64, i64)| placed_us - us;
        assert_eq!(late_us(placed[0]), 150_000);
        assert!(placed[30..].iter().all(|frame| late_us(*frame).abs() < 1_000), "{:?}", &placed[30..]);
    }
}
