use std::sync::Arc;

use headwater_common::media::{Codec, Frame, Shape};

use super::media::{Clip, clip, door, frames, listen};
use crate::transcode::audio::Audio;

const AAC: &str = "-c:a aac -b:a 160k";
const OPUS: &str = "-c:a libopus -b:a 128k";

fn tone(codec: Codec, rate: u32, channels: u32, coder: &str) -> Clip {
    clip(codec, &format!("-f lavfi -i sine=f=440:r={rate}:d=4,volume=4 -ac {channels} {coder}"))
}

/// Silence, and a beep from second 2 on.
fn beep(codec: Codec, rate: u32, coder: &str) -> Clip {
    clip(
        codec,
        &format!(
            "-f lavfi -i sine=f=1000:r={rate}:d=4,volume=4:enable='gte(t,2)',volume=0:enable='lt(t,2)' -ac 2 {coder}"
        ),
    )
}

fn convert(to: Codec, frames: &[Arc<Frame>]) -> Vec<Frame> {
    let mut audio = Audio::new(to, None, door());
    let mut out = Vec::new();
    for frame in frames {
        audio.take(frame, &mut out).unwrap();
    }
    out
}

fn on_the_grid(frames: &[Frame], samples: i64) {
    for (index, frame) in frames.iter().enumerate() {
        let exact_us = index as f64 * samples as f64 * 1e6 / 48_000.0;
        let off_us = (frame.pts_us - frames[0].pts_us) as f64 - exact_us;
        assert!(off_us.abs() <= 1.0, "frame {index} is {off_us} µs off");
        assert!(frame.keyframe && frame.dts_us == frame.pts_us);
    }
}

#[test]
fn aac_becomes_opus_with_the_same_tone() {
    for (rate, channels) in [(44_100, 2), (48_000, 1), (22_050, 2)] {
        let source = frames(&[tone(Codec::Aac, rate, channels, AAC)]);
        let made = convert(Codec::Opus, &source);
        assert_eq!(made[0].info.codec, Codec::Opus);
        assert_eq!(made[0].info.shape, Shape::Audio { sample_rate: 48_000, channels: channels as u8 });
        assert_eq!(made[0].info.config[..4], [0, channels as u8, 0, 120], "dOps with 2.5 ms of pre-skip");
        on_the_grid(&made, 960);
        assert!((195..=206).contains(&made.len()), "{} packets", made.len());
        let (before, after) = (listen(source.iter().map(|frame| &**frame)), listen(&made));
        assert!((after.hertz() - 440.0).abs() < 0.5, "{} Hz", after.hertz());
        assert!((after.loudness() / before.loudness() - 1.0).abs() < 0.05);
    }
}

#[test]
fn opus_becomes_aac_with_the_same_tone() {
    for channels in [1, 2] {
        let source = frames(&[tone(Codec::Opus, 48_000, channels, OPUS)]);
        let made = convert(Codec::Aac, &source);
        assert_eq!(made[0].info.shape, Shape::Audio { sample_rate: 48_000, channels: channels as u8 });
        assert_eq!(made[0].info.rfc6381(), "mp4a.40.2");
        on_the_grid(&made, 1024);
        let (before, after) = (listen(source.iter().map(|frame| &**frame)), listen(&made));
        assert!((after.hertz() - 440.0).abs() < 0.5, "{} Hz", after.hertz());
        assert!((after.loudness() / before.loudness() - 1.0).abs() < 0.05);
    }
}

#[test]
fn a_beep_is_heard_when_it_was_made() {
    for (from, rate, coder, to) in [
        (Codec::Aac, 44_100, AAC, Codec::Opus),
        (Codec::Aac, 48_000, AAC, Codec::Opus),
        (Codec::Opus, 48_000, OPUS, Codec::Aac),
    ] {
        let source = frames(&[beep(from, rate, coder)]);
        let made = convert(to, &source);
        let before_us = listen(source.iter().map(|frame| &**frame)).onset_us();
        let after_us = listen(&made).onset_us();
        let skew_us = after_us - before_us;
        println!("{} {rate} → {}: beep {skew_us} µs from its place", from.name(), to.name());
        assert!(skew_us.abs() < 1_000, "{} {rate} → {}: {skew_us} µs", from.name(), to.name());
    }
}

#[test]
fn lost_and_missing_frames_leave_their_time() {
    let mut clip = beep(Codec::Aac, 44_100, AAC);
    for index in 20..40 {
        clip.samples[index].payload = vec![0xff; 30].into();
    }
    clip.samples.drain(50..60);
    let source = frames(&[clip]);
    let made = convert(Codec::Opus, &source);
    on_the_grid(&made, 960);
    let intact = frames(&[beep(Codec::Aac, 44_100, AAC)]);
    let skew_us = listen(&made).onset_us() - listen(intact.iter().map(|frame| &**frame)).onset_us();
    assert!(skew_us.abs() < 10_000, "{skew_us} µs");
}

#[test]
fn a_clock_that_jumps_starts_a_new_grid() {
    let mut clip = tone(Codec::Aac, 48_000, 2, AAC);
    for sample in &mut clip.samples[100..] {
        sample.dts_us += 3_000_000;
        sample.pts_us += 3_000_000;
    }
    let source = frames(&[clip]);
    let made = convert(Codec::Opus, &source);
    let breaks: Vec<_> = (1..made.len()).filter(|&at| made[at].pts_us - made[at - 1].pts_us > 100_000).collect();
    assert_eq!(breaks.len(), 1);
    on_the_grid(&made[..breaks[0]], 960);
    on_the_grid(&made[breaks[0]..], 960);
    assert_eq!(made[breaks[0]].pts_us, source[100].pts_us - 2_500, "the pre-skip lies in front");
}

#[test]
fn another_publisher_in_mono_goes_on_in_the_same_track() {
    let source = frames(&[tone(Codec::Aac, 44_100, 2, AAC), tone(Codec::Aac, 48_000, 1, AAC)]);
    let made = convert(Codec::Opus, &source);
    let change = made.iter().position(|frame| frame.gop.epoch == 2).unwrap();
    let channels = |frame: &Frame| match frame.info.shape {
        Shape::Audio { channels, .. } => channels,
        Shape::Video { .. } => 0,
    };
    assert_eq!((channels(&made[0]), channels(made.last().unwrap())), (2, 1));
    assert!(made[change..].len() > 190 && (listen(&made[change + 2..]).hertz() - 440.0).abs() < 0.5);
}
