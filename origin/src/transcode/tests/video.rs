use std::{collections::BTreeSet, sync::Arc};

use headwater_common::media::{
    Codec, Frame, Info, Shape,
    h264::{SliceKind, slice_kind},
    nal,
};

use super::media::{Clip, One, clip, door, frames, frames_of_one, program_decodes};
use crate::transcode::pace::Pace;

/// High profile with B-frames and a B-pyramid, as OBS sends it.
fn b_frames(size: &str, seconds: u32, keyint: u32) -> Clip {
    clip(
        Codec::H264,
        &format!(
            "-f lavfi -i testsrc2=s={size}:r=30:d={seconds} -c:v libx264 -preset veryfast -profile:v high -bf 3 \
             -b:v 1500k -x264-params keyint={keyint}:min-keyint={keyint}:scenecut=0"
        ),
    )
}

fn convert(video: &mut One, frames: &[Arc<Frame>]) -> Vec<Frame> {
    let mut out = Vec::new();
    for frame in frames {
        video.take(frame, Pace::Every, &mut out).unwrap();
    }
    out
}

fn size(info: &Info) -> (u32, u32, bool) {
    match info.shape {
        Shape::Video { width, height, reorders } => (width, height, reorders),
        Shape::Audio { .. } => panic!("sound"),
    }
}

fn slices(frame: &Frame) -> Vec<(u8, Option<SliceKind>)> {
    nal::units(&frame.payload, 4)
        .map(|unit| &frame.payload[unit.unwrap()])
        .map(|unit| (unit[0] & 0x1f, matches!(unit[0] & 0x1f, 1 | 5).then(|| slice_kind(unit)).flatten()))
        .collect()
}

#[test]
fn every_picture_survives_in_display_order_without_b_slices() {
    let clip = b_frames("640x360", 4, 48);
    assert!(clip.info.reorders());
    let source = frames(&[clip]);
    assert!(source.iter().any(|frame| slices(frame).iter().any(|slice| slice.1 == Some(SliceKind::B))));
    let door = door();
    let made = convert(&mut One::new(door.clone(), i64::MIN), &source);

    let mut shown: Vec<i64> = source.iter().map(|frame| frame.pts_us).collect();
    shown.sort_unstable();
    let made_pts: Vec<i64> = made.iter().map(|frame| frame.pts_us).collect();
    assert!(made.len() >= source.len() - 4, "the decoder holds back {}", source.len() - made.len());
    assert_eq!(made_pts, shown[..made.len()]);
    assert!(made.iter().all(|frame| frame.dts_us == frame.pts_us));
    assert_eq!(door.dropped.get(), 0);

    let keyframes = |frames: &mut dyn Iterator<Item = &Frame>| -> BTreeSet<i64> {
        frames.filter(|frame| frame.keyframe).map(|frame| frame.pts_us).collect()
    };
    let expected = keyframes(&mut source.iter().map(|frame| &**frame));
    assert_eq!(expected.len(), 3);
    assert_eq!(keyframes(&mut made.iter()), expected);
    for frame in &made {
        let origin = source.iter().find(|source| source.pts_us == frame.pts_us).unwrap();
        assert!(Arc::ptr_eq(&origin.gop, &frame.gop));
        assert_eq!(size(&frame.info), (640, 360, false));
        assert_eq!(frame.info.config[1], 100, "High stays High");
        for (kind, slice) in slices(frame) {
            assert!(matches!(kind, 1 | 5), "NAL unit type {kind}");
            assert_eq!(kind == 5, frame.keyframe);
            assert_ne!(slice, Some(SliceKind::B));
        }
    }
    assert_eq!(program_decodes(&made), (made.len(), String::new()));
}

#[test]
fn who_joins_late_in_a_long_gop_gets_the_newest_picture_first() {
    let source = frames(&[b_frames("320x180", 8, 250)]);
    assert_eq!(source.iter().filter(|frame| frame.keyframe).count(), 1);
    let door = door();
    let mut video = One::new(door.clone(), i64::MIN);
    let mut out = Vec::new();
    let edge = 200;
    for frame in &source[..edge - 1] {
        video.take(frame, Pace::Newest, &mut out).unwrap();
    }
    assert!(out.is_empty(), "nothing is encoded on the way");
    video.take(&source[edge - 1], Pace::Every, &mut out).unwrap();
    let behind_us = source[edge - 1].dts_us - out[0].pts_us;
    assert!(out[0].keyframe && behind_us < 150_000, "{behind_us} µs behind");
    for frame in &source[edge..] {
        video.take(frame, Pace::Every, &mut out).unwrap();
    }
    assert!(out.len() > 35 && out.iter().filter(|frame| frame.keyframe).count() == 1);
    // Nothing is missing behind the first picture: leaving out B-frames on the way did no harm.
    assert!(out.windows(2).skip(4).all(|two| (two[1].pts_us - two[0].pts_us - 33_333).abs() < 1_000));
    assert_eq!(program_decodes(&out), (out.len(), String::new()));
    assert_eq!(door.dropped.get(), 0);
}

#[test]
fn a_successor_begins_with_a_keyframe_behind_what_its_predecessor_wrote() {
    let source = frames(&[b_frames("320x180", 2, 250)]);
    let shown_us = source[30].pts_us;
    let mut video = One::new(door(), shown_us);
    let made = convert(&mut video, &source);
    assert!(made[0].keyframe && made[0].pts_us > shown_us && made[0].pts_us < shown_us + 100_000);
    assert_eq!(program_decodes(&made), (made.len(), String::new()));
}

#[test]
fn too_slow_means_fewer_pictures_and_not_a_delay() {
    let source = frames(&[b_frames("320x180", 4, 60)]);
    let door = door();
    let mut video = One::new(door.clone(), i64::MIN);
    let mut out = Vec::new();
    for frame in &source {
        video.take(frame, Pace::EverySecond, &mut out).unwrap();
    }
    let keyframes = source.iter().filter(|frame| frame.keyframe).count();
    assert_eq!(out.iter().filter(|frame| frame.keyframe).count(), keyframes, "keyframes are never left out");
    assert!((58..=64).contains(&out.len()), "{}", out.len());
    assert!(door.dropped.get() as usize >= source.len() - out.len() - 4);
    assert_eq!(program_decodes(&out), (out.len(), String::new()));

    // Half a gop is only decoded; the next gop begins with a keyframe all the same.
    let mut out = Vec::new();
    let mut video = One::new(door, i64::MIN);
    for (index, frame) in source.iter().enumerate() {
        let pace = if (40..70).contains(&index) { Pace::Newest } else { Pace::Every };
        video.take(frame, pace, &mut out).unwrap();
    }
    assert_eq!(out.iter().filter(|frame| frame.keyframe).count(), 2);
    assert!(out.windows(2).all(|two| two[0].gop.id == two[1].gop.id || two[1].keyframe));
    assert_eq!(program_decodes(&out), (out.len(), String::new()));
}

#[test]
fn keyframe_requests_are_answered_but_not_one_by_one() {
    let source = frames(&[b_frames("320x180", 4, 250)]);
    let mut video = One::new(door(), i64::MIN);
    let mut out = Vec::new();
    for frame in &source {
        video.want_keyframe();
        video.take(frame, Pace::Every, &mut out).unwrap();
    }
    let keyframes: Vec<i64> = out.iter().filter(|frame| frame.keyframe).map(|frame| frame.pts_us).collect();
    assert!((6..=8).contains(&keyframes.len()), "{keyframes:?}");
    assert!(keyframes.windows(2).all(|two| two[1] - two[0] >= 500_000));
    assert_eq!(program_decodes(&out), (out.len(), String::new()));
}

#[test]
fn another_publisher_with_another_size_goes_on_in_the_same_track() {
    let first = b_frames("640x360", 2, 30);
    let second = b_frames("320x240", 2, 30);
    let source = frames(&[first.clone(), second, first]);
    let door = door();
    let made = convert(&mut One::new(door.clone(), i64::MIN), &source);
    let sizes: Vec<_> = made.iter().map(|frame| size(&frame.info)).collect();
    let changes: Vec<usize> = (1..made.len()).filter(|&at| sizes[at] != sizes[at - 1]).collect();
    assert_eq!(changes.len(), 2);
    for (epoch, &at) in changes.iter().enumerate() {
        assert!(made[at].keyframe);
        assert_eq!((made[at - 1].gop.epoch, made[at].gop.epoch), (epoch as u64 + 1, epoch as u64 + 2));
    }
    assert_eq!(sizes[changes[0]], (320, 240, false));
    assert!(made.windows(2).all(|two| two[0].pts_us < two[1].pts_us));
    // A few pictures of the old publisher may be due when the new one's are already shown.
    assert!(made.len() >= source.len() - 3 * 4, "{} of {}", made.len(), source.len());
    assert_eq!(program_decodes(&made[..changes[0]]), (changes[0], String::new()));
    assert_eq!(program_decodes(&made[changes[1]..]), (made.len() - changes[1], String::new()));
}

#[test]
fn a_size_that_changes_while_live_changes_the_output_with_it() {
    let source = frames_of_one(&[b_frames("640x360", 2, 60), b_frames("480x270", 2, 60)]);
    let door = door();
    let made = convert(&mut One::new(door.clone(), i64::MIN), &source);
    let change = made.iter().position(|frame| size(&frame.info) == (480, 270, false)).unwrap();
    assert!(made[change].keyframe && made[change].gop.epoch == 1);
    assert!(made[change].gop.discontinuity > made[0].gop.discontinuity);
    assert!(made.len() >= source.len() - 2 * 4, "{} of {}", made.len(), source.len());
    assert!(made.windows(2).all(|two| two[0].pts_us < two[1].pts_us));
    assert_eq!(program_decodes(&made[..change]), (change, String::new()));
    assert_eq!(program_decodes(&made[change..]), (made.len() - change, String::new()));
}

#[test]
fn damaged_pictures_cost_themselves_only() {
    let mut damaged = b_frames("320x180", 6, 30);
    for index in [40, 41, 42, 75] {
        let payload = &damaged.samples[index].payload;
        let mut bytes = payload.to_vec();
        match index {
            // No NAL units at all; a slice of noise; nothing.
            40 => bytes.fill(0xff),
            41 => bytes[5..].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 37 % 251) as u8),
            42 => bytes.clear(),
            _ => bytes.truncate(bytes.len() / 2),
        }
        damaged.samples[index].payload = bytes.into();
    }
    let source = frames(&[damaged]);
    let door = door();
    let mut video = One::new(door.clone(), i64::MIN);
    let made = convert(&mut video, &source);
    assert!(video.take_damage() && !video.take_damage());
    assert!(door.dropped.get() >= 2 && made.len() >= source.len() - 40, "{} made", made.len());
    // The gop behind the damage is whole again.
    let whole = made.iter().filter(|frame| frame.pts_us > source[90].pts_us).count();
    assert!(whole >= 180 - 90 - 5, "{whole}");
    assert_eq!(program_decodes(&made), (made.len(), String::new()));

    // Nothing but noise: no picture, no end.
    let mut noise = b_frames("320x180", 1, 30);
    noise.samples.iter_mut().for_each(|sample| sample.payload = vec![0xa5; 500].into());
    assert!(convert(&mut One::new(door, i64::MIN), &frames(&[noise])).is_empty());
}

#[test]
fn other_codecs_become_h264() {
    let source = "-f lavfi -i testsrc2=s=322x180:r=30:d=2";
    for (codec, arguments) in [
        (Codec::H265, "-c:v libx265 -preset ultrafast -pix_fmt yuv420p10le -x265-params log-level=error:keyint=30"),
        (Codec::Vp8, "-c:v libvpx -deadline realtime -cpu-used 8 -g 30 -vf scale=321:179"),
        (Codec::Vp9, "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 30"),
        (Codec::Av1, "-c:v libsvtav1 -preset 12 -g 30"),
        (Codec::H264, "-c:v libx264 -preset veryfast -profile:v baseline -g 30"),
    ] {
        let clip = clip(codec, &format!("{source} {arguments}"));
        let source = frames(&[clip]);
        let made = convert(&mut One::new(door(), i64::MIN), &source);
        assert!(made.len() >= source.len() - 6, "{}: {} of {}", codec.name(), made.len(), source.len());
        let even = if codec == Codec::Vp8 { (320, 178, false) } else { (322, 180, false) };
        assert_eq!(size(&made[0].info), even, "{}", codec.name());
        assert_eq!(made[0].info.config[1], if codec == Codec::H264 { 66 } else { 77 });
        let expected: Vec<i64> = source.iter().filter(|frame| frame.keyframe).map(|frame| frame.pts_us).collect();
        let keyframes: Vec<i64> = made.iter().filter(|frame| frame.keyframe).map(|frame| frame.pts_us).collect();
        assert_eq!(keyframes, expected, "{}", codec.name());
        assert_eq!(program_decodes(&made), (made.len(), String::new()), "{}", codec.name());
    }
}
