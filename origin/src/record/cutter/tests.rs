use std::sync::Arc;

use bytes::Bytes;
use headwater_common::media::{Codec, Gop, Info, RtpCache, Shape};

use super::*;

const FRAME_US: i64 = 40_000;
const SOUND_US: i64 = 20_000;
const SECOND: i64 = 1_000_000;

fn picture_of(width: u32) -> Arc<Info> {
    let shape = Shape::Video { width, height: 720, reorders: false };
    let config = Bytes::copy_from_slice(&[0, 31, 0x82, 1, 1, 1, 0, (width % 251) as u8]);
    Arc::new(Info { codec: Codec::Vp8, config, shape })
}

fn sound() -> Arc<Info> {
    Arc::new(Info::from_config(Codec::Aac, Bytes::from_static(&[0x11, 0x90])).unwrap())
}

/// One publisher: gops of so many microseconds, from this time on.
#[derive(Clone, Copy)]
struct Play {
    epoch: u64,
    discontinuity: u64,
    begins_us: i64,
    ends_us: i64,
    gop_us: i64,
    width: u32,
    has_sound: bool,
    /// No pictures between these.
    dark_us: (i64, i64),
}

impl Play {
    fn new(begins_us: i64, ends_us: i64) -> Self {
        let (epoch, discontinuity, gop_us, width) = (1, 0, 2 * SECOND, 1280);
        Self { epoch, discontinuity, begins_us, ends_us, gop_us, width, has_sound: true, dark_us: (0, 0) }
    }

    fn frame(self, at_us: i64, info: &Arc<Info>) -> Arc<Frame> {
        let number = (at_us - self.begins_us) / self.gop_us;
        let start_us = self.begins_us + number * self.gop_us;
        let gop = Gop {
            id: (self.begins_us / SECOND + number) as u64,
            epoch: self.epoch,
            discontinuity: self.discontinuity,
            start_us,
            independent: true,
            has_video: true,
            has_audio: self.has_sound,
            detached: false,
        };
        let keyframe = info.kind() == Kind::Audio || at_us == start_us;
        let payload = Bytes::from_static(b"frame");
        let (gop, info, rtp) = (Arc::new(gop), info.clone(), RtpCache::default());
        Arc::new(Frame { gop, dts_us: at_us, pts_us: at_us, keyframe, payload, info, rtp })
    }

    /// Sound comes a little later than its pictures.
    fn frames(self) -> Vec<Arc<Frame>> {
        let every = |step: i64| (0..).map(move |n| self.begins_us + n * step).take_while(move |at| *at < self.ends_us);
        let (video, audio) = (picture_of(self.width), sound());
        let lit = |at: &i64| !(self.dark_us.0..self.dark_us.1).contains(at);
        let mut frames: Vec<_> = every(FRAME_US).filter(lit).map(|at| (at, self.frame(at, &video))).collect();
        if self.has_sound {
            frames.extend(every(SOUND_US).map(|at| (at + 150_000, self.frame(at, &audio))));
        }
        frames.sort_by_key(|(comes_us, _)| *comes_us);
        frames.into_iter().map(|(_, frame)| frame).collect()
    }
}

/// What is done in the end, in words: `turn`, `end`, and segments as milliseconds.
fn cut(limits: Limits, plays: &[Play]) -> (Vec<String>, u64) {
    let mut cutter = Cutter::new(limits, Form::Hls);
    cutter.expect(true, true);
    cutter.target(Some(2));
    let (mut steps, mut frames) = (Vec::new(), 0);
    let mut say = |cutter: &mut Cutter| {
        while let Some(step) = cutter.poll_step() {
            steps.push(match step {
                Step::Begin { .. } => "begin".to_owned(),
                Step::Turn { .. } => "turn".to_owned(),
                Step::Append { from_us, until_us, frames: more, sync, .. } => {
                    assert!(sync && until_us > from_us);
                    frames += more;
                    format!("{}-{}", from_us / 1000, until_us / 1000)
                }
                Step::End => "end".to_owned(),
            });
        }
    };
    for play in plays {
        for frame in play.frames() {
            cutter.handle_frame(frame).unwrap();
            say(&mut cutter);
        }
        cutter.flush();
    }
    cutter.finish().unwrap();
    say(&mut cutter);
    assert_eq!(cutter.discarded(), 0);
    (steps, frames)
}

const TOLERANT: Limits = Limits { split_us: 0, split_bytes: 0, gap_us: 10 * SECOND };

fn count(plays: &[Play]) -> u64 {
    plays.iter().map(|play| play.frames().len() as u64).sum()
}

#[test]
fn segments_are_gops_and_carry_every_frame() {
    for has_sound in [true, false] {
        let plays = [Play { has_sound, ..Play::new(0, 7 * SECOND) }];
        let (steps, frames) = cut(TOLERANT, &plays);
        assert_eq!(steps, ["begin", "0-2000", "2000-4000", "4000-6000", "6000-7000", "end"], "sound: {has_sound}");
        assert_eq!(frames, count(&plays));
    }
}

#[test]
fn who_returns_in_time_goes_on_and_who_does_not_begins_another() {
    let first = Play::new(0, 3 * SECOND);
    let back = |at| Play { epoch: 2, discontinuity: 1, ..Play::new(at * SECOND, (at + 3) * SECOND) };
    let (steps, frames) = cut(TOLERANT, &[first, back(8)]);
    assert_eq!(steps, ["begin", "0-2000", "2000-3000", "turn", "8000-10000", "10000-11000", "end"]);
    assert_eq!(frames, count(&[first, back(8)]));
    let (steps, _) = cut(TOLERANT, &[first, back(30)]);
    assert_eq!(steps, ["begin", "0-2000", "2000-3000", "end", "begin", "0-2000", "2000-3000", "end"]);
    let (steps, _) = cut(Limits::default(), &[first, back(4)]);
    assert_eq!(steps.iter().filter(|step| *step == "begin").count(), 2, "{steps:?}");
}

#[test]
fn another_format_and_a_hole_turn_to_another_stretch() {
    let first = Play::new(0, 4 * SECOND);
    let wide = Play { width: 1920, discontinuity: 1, ..Play::new(4 * SECOND, 6 * SECOND) };
    let (steps, frames) = cut(TOLERANT, &[first, wide]);
    assert_eq!(steps, ["begin", "0-2000", "2000-4000", "turn", "4000-6000", "end"]);
    assert_eq!(frames, count(&[first, wide]));
    let later = Play::new(9 * SECOND, 11 * SECOND);
    let (steps, _) = cut(TOLERANT, &[first, later]);
    assert_eq!(
        steps,
        ["begin", "0-2000", "2000-4000", "turn", "9000-11000", "end"],
        "nobody sits through five seconds"
    );
    let split = Limits { split_us: 4 * SECOND, ..TOLERANT };
    let (steps, _) = cut(split, &[Play::new(0, 6 * SECOND)]);
    assert_eq!(steps, ["begin", "0-2000", "2000-4000", "end", "begin", "0-2000", "end"]);
}

#[test]
fn sound_goes_on_in_segments_while_pictures_are_away() {
    let dark = Play { dark_us: (3 * SECOND, 12 * SECOND), ..Play::new(0, 16 * SECOND) };
    let (steps, frames) = cut(TOLERANT, &[dark]);
    assert_eq!(frames, count(&[dark]));
    let bounds: Vec<(i64, i64)> = steps
        .iter()
        .filter_map(|step| step.split_once('-'))
        .map(|(from, until)| (from.parse().unwrap(), until.parse().unwrap()))
        .collect();
    assert!(bounds.windows(2).all(|pair| pair[0].1 == pair[1].0), "{steps:?}");
    assert!(bounds.iter().all(|(from, until)| until - from <= 3_000), "no longer than is announced: {steps:?}");
    assert_eq!(bounds.last(), Some(&(14_000, 16_000)));
}
