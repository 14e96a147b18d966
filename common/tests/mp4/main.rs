//! Clips of real encoders go through inspection and the MP4 writer, and a real player must have nothing to complain
//! about: in the fragmented recording, in the ordinary file made of it, and in what a crash leaves of it.

mod ffmpeg;

use std::fs;
use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use ffmpeg::{Scratch, Source, complaints, encode, has_encoder, judge, probe};
use headwater_common::fmp4::progressive::{RewriteError, Summary, rewrite};
use headwater_common::fmp4::read::complete_len;
use headwater_common::fmp4::{Fragment, TrackSpec, init};
use headwater_common::media::{AudioClock, Codec, Framing, Info, Inspector, Kind, Sample, Shape};

const H264: &str = "-c:v libx264 -preset ultrafast -g 30 -bf 2 -b_strategy 0 -pix_fmt yuv420p";
const H264_PLAIN: &str = "-c:v libx264 -preset ultrafast -profile:v baseline -g 30 -pix_fmt yuv420p";
const HEVC: &str = "-c:v libx265 -preset ultrafast -x265-params keyint=30:log-level=none -tag:v hvc1 -pix_fmt yuv420p";
const AAC: &str = "-c:a aac -b:a 64k -ac 2";
const OPUS: &str = "-c:a libopus -b:a 64k -ac 2";

/// A track as it goes into a file: every sample with what the track was at that moment.
struct Inspected {
    samples: Vec<(Arc<Info>, Sample)>,
}

fn inspect(source: &Source) -> Inspected {
    let mut inspector = Inspector::with_config(source.codec, source.record.clone()).unwrap();
    let mut info = inspector.info().cloned().map(Arc::new);
    let mut samples = Vec::new();
    for sample in &source.samples {
        let marked = sample.keyframe;
        let inspected = inspector.push(sample.clone()).unwrap();
        if let Some(new) = inspected.new_info {
            info = Some(Arc::new(new));
        }
        let sample = inspected.sample.unwrap();
        assert_eq!(sample.keyframe, marked, "the bitstream says what the encoder's muxer said");
        samples.push((info.clone().unwrap(), sample));
    }
    Inspected { samples }
}

/// Writes a recording as a recorder does: cut at the keyframes of the first track, or every second of sound. Gives the
/// places where complete fragments end, too.
fn record(tracks: &[Inspected]) -> (Vec<u8>, Vec<usize>) {
    let leading = &tracks[0].samples;
    let video = leading[0].0.kind() == Kind::Video;
    let mut cuts: Vec<i64> = Vec::new();
    for (_, sample) in leading {
        if cuts.is_empty()
            || (video && sample.keyframe)
            || (!video && sample.dts_us >= cuts[cuts.len() - 1] + 1_000_000)
        {
            cuts.push(sample.dts_us);
        }
    }
    cuts[0] = i64::MIN;
    cuts.push(i64::MAX);
    let (mut file, mut ends) = (Vec::new(), Vec::new());
    let mut written: Vec<TrackSpec> = Vec::new();
    for (index, cut) in cuts.windows(2).enumerate() {
        let mut fragment = Fragment::new(index as u32 + 1);
        let mut specs = Vec::new();
        for (id, track) in tracks.iter().enumerate() {
            let inside = |sample: &Sample| sample.dts_us >= cut[0] && sample.dts_us < cut[1];
            let Some((info, _)) = track.samples.iter().find(|(_, sample)| inside(sample)) else { continue };
            let spec = TrackSpec { id: id as u32 + 1, info: info.clone() };
            for (_, sample) in track.samples.iter().filter(|(_, sample)| inside(sample)) {
                fragment.push(&spec, sample.clone());
            }
            if let Some((_, next)) = track.samples.iter().find(|(_, sample)| sample.dts_us >= cut[1]) {
                fragment.end(spec.id, next.dts_us);
            }
            specs.push(spec);
        }
        if specs != written {
            file.extend_from_slice(&init(&specs).unwrap());
            written = specs;
        }
        file.extend_from_slice(&fragment.finish());
        ends.push(file.len());
    }
    (file, ends)
}

fn ordinary(file: &[u8]) -> (Vec<u8>, Summary) {
    let mut output = Vec::new();
    let summary = rewrite(Cursor::new(file), &mut output).unwrap();
    assert_eq!(summary.bytes, output.len() as u64);
    (output, summary)
}

/// Both files play without a word, with every frame.
fn plays(scratch: &Scratch, tracks: &[Inspected]) -> Summary {
    let (file, ends) = record(tracks);
    let (output, summary) = ordinary(&file);
    assert_eq!((summary.fragments, summary.torn_bytes), (ends.len() as u64, 0));
    let expected: Vec<_> = tracks.iter().map(|track| track.samples.len() as u64).collect();
    for (name, bytes) in [("fragmented.mp4", &file), ("ordinary.mp4", &output)] {
        let (said, counts) = judge(&scratch.write(name, bytes));
        assert_eq!(said, "", "{name}");
        let counts: Vec<_> = counts.into_iter().map(|(_, count)| count).collect();
        assert_eq!(counts, expected, "{name}");
    }
    summary
}

fn clip(name: &str, video: Option<(&str, &str)>, audio: Option<&str>) -> (Scratch, Vec<Source>) {
    let scratch = Scratch::new(name);
    let sources = encode(&scratch, video, audio, 3);
    (scratch, sources)
}

#[test]
fn h264_with_b_frames_and_aac() {
    let (scratch, sources) = clip("b-frames", Some(("320x240", H264)), Some(AAC));
    let tracks: Vec<_> = sources.iter().map(inspect).collect();
    assert_eq!(tracks[0].samples[0].0.shape, Shape::Video { width: 320, height: 240, reorders: true });
    plays(&scratch, &tracks);
    let start = probe(&scratch.path("ordinary.mp4"), &["-show_entries", "stream=start_time,duration,nb_frames"]);
    // The first picture is decoded with the first sound, and due two pictures later.
    assert!(start.starts_with("0.066667,3.000000,90\n0.000000,3.0"), "{start}");
}

#[test]
fn open_gops_have_keyframes_too() {
    let open = format!("{H264} -x264-params open-gop=1:keyint=30:min-keyint=30");
    let (scratch, mut sources) = clip("open-gop", Some(("320x240", &open)), Some(AAC));
    let mut inspector = Inspector::with_config(Codec::H264, sources[0].record.clone()).unwrap();
    for sample in &mut sources[0].samples {
        sample.keyframe = inspector.push(sample.clone()).unwrap().sample.unwrap().keyframe;
    }
    assert_eq!(sources[0].samples.iter().filter(|sample| sample.keyframe).count(), 3, "one a second");
    plays(&scratch, &sources.iter().map(inspect).collect::<Vec<_>>());
}

#[test]
fn h264_without_b_frames_and_opus() {
    let (scratch, sources) = clip("plain", Some(("322x242", H264_PLAIN)), Some(OPUS));
    let tracks: Vec<_> = sources.iter().map(inspect).collect();
    let info = &tracks[0].samples[0].0;
    assert_eq!(info.shape, Shape::Video { width: 322, height: 242, reorders: false }, "cropping counts");
    assert!(info.rfc6381().starts_with("avc1.42"));
    plays(&scratch, &tracks);
}

#[test]
fn h265_with_sound() {
    if !has_encoder("libx265") {
        return;
    }
    let (scratch, sources) = clip("h265", Some(("322x242", HEVC)), Some(AAC));
    let tracks: Vec<_> = sources.iter().map(inspect).collect();
    let info = &tracks[0].samples[0].0;
    assert_eq!(info.shape, Shape::Video { width: 322, height: 242, reorders: true });
    assert_eq!(info.rfc6381(), "hvc1.1.6.L60.90");
    plays(&scratch, &tracks);
    assert!(probe(&scratch.path("ordinary.mp4"), &["-show_entries", "stream=codec_tag_string"]).starts_with("hvc1"));
}

#[test]
fn av1() {
    let encoder = match () {
        () if has_encoder("libsvtav1") => "-c:v libsvtav1 -preset 12 -g 30 -pix_fmt yuv420p",
        () if has_encoder("libaom-av1") => "-c:v libaom-av1 -cpu-used 8 -usage realtime -g 30 -pix_fmt yuv420p",
        () => return,
    };
    let (scratch, sources) = clip("av1", Some(("320x240", encoder)), None);
    let tracks: Vec<_> = sources.iter().map(inspect).collect();
    let info = &tracks[0].samples[0].0;
    assert_eq!(info.shape, Shape::Video { width: 320, height: 240, reorders: false });
    assert!(info.rfc6381().starts_with("av01.0.0") && info.rfc6381().ends_with("M.08"), "{}", info.rfc6381());
    plays(&scratch, &tracks);
}

#[test]
fn vp9_with_opus() {
    if !has_encoder("libvpx-vp9") {
        return;
    }
    let vp9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 30 -pix_fmt yuv420p";
    let (scratch, sources) = clip("vp9", Some(("320x240", vp9)), Some(OPUS));
    let tracks: Vec<_> = sources.iter().map(inspect).collect();
    let info = &tracks[0].samples[0].0;
    assert_eq!(info.shape, Shape::Video { width: 320, height: 240, reorders: false });
    assert_eq!(info.rfc6381(), "vp09.00.20.08");
    plays(&scratch, &tracks);
}

#[test]
fn sound_alone_with_times_rounded_to_milliseconds() {
    let (scratch, mut sources) = clip("sound", None, Some("-c:a aac -b:a 64k -ac 1 -ar 44100"));
    let mut clock = AudioClock::new(1024, 44_100);
    for sample in &mut sources[0].samples {
        let rounded = sample.dts_us / 1000 * 1000;
        let exact = clock.snap(rounded);
        (sample.dts_us, sample.pts_us) = (exact, exact);
    }
    let tracks: Vec<_> = sources.iter().map(inspect).collect();
    let summary = plays(&scratch, &tracks);
    let exact = sources[0].samples.len() as u64 * 1024;
    let listed = probe(&scratch.path("ordinary.mp4"), &["-show_entries", "stream=duration_ts"]);
    assert_eq!(listed.trim(), exact.to_string());
    assert_eq!(summary.duration_us / 100, exact * 10_000 / 44_100);
    let durations = probe(&scratch.path("fragmented.mp4"), &["-show_entries", "packet=duration"]);
    // The demuxer does not tell the first one's in any fragmented file.
    assert!(
        durations.lines().skip(1).filter(|line| !line.is_empty()).all(|line| line.trim_end_matches(',') == "1024"),
        "{durations}"
    );
}

#[test]
fn start_codes_and_lengths_make_the_same_samples() {
    for (name, encoder, format, filter, codec) in [
        ("h264", H264, "h264", "h264_mp4toannexb,h264_metadata=aud=insert", Codec::H264),
        ("h265", HEVC, "hevc", "hevc_mp4toannexb,hevc_metadata=aud=insert", Codec::H265),
    ] {
        let (scratch, sources) = clip(&format!("annex-b-{name}"), Some(("320x240", encoder)), None);
        let expected = inspect(&sources[0]);
        let units = ffmpeg::annex_b(&scratch.path("source.mp4"), format, filter);
        assert_eq!(units.len(), expected.samples.len());
        let mut inspector = Inspector::new(codec, Framing::AnnexB);
        for (index, (unit, (info, sample))) in units.into_iter().zip(&expected.samples).enumerate() {
            let pushed = Sample { payload: unit, keyframe: false, ..sample.clone() };
            let inspected = inspector.push(pushed).unwrap();
            assert_eq!(inspected.new_info.is_some(), index == 0, "{name} {index}");
            let found = inspected.sample.unwrap();
            assert_eq!(found.keyframe, sample.keyframe, "{name} {index}");
            // The filter puts what messages the record holds in front of keyframes.
            let same = if found.keyframe { found.payload.ends_with(&sample.payload) } else { found == *sample };
            assert!(same, "{name} {index}");
            assert_eq!(inspector.info(), Some(&**info));
        }
    }
}

#[test]
fn a_resolution_change_makes_a_second_description() {
    let (scratch, small) = clip("small", Some(("320x240", H264)), Some(AAC));
    let (_other, mut large) = clip("large", Some(("640x360", H264)), Some(AAC));
    for sample in large.iter_mut().flat_map(|source| &mut source.samples) {
        sample.dts_us += 3_100_000;
        sample.pts_us += 3_100_000;
    }
    let tracks: Vec<_> = (small.iter().zip(&large))
        .map(|(one, two)| Inspected { samples: [inspect(one).samples, inspect(two).samples].concat() })
        .collect();
    let (file, _) = record(&tracks);
    let (output, summary) = ordinary(&file);
    let path = scratch.write("both.mp4", &output);
    let (said, counts) = judge(&path);
    assert_eq!(said, "");
    assert_eq!(counts.iter().map(|(_, count)| *count).sum::<u64>(), summary.samples);
    let sizes = probe(&path, &["-select_streams", "v", "-show_entries", "frame=width"]);
    let sizes: Vec<_> = sizes.lines().map(|line| line.trim_end_matches(',')).filter(|line| !line.is_empty()).collect();
    assert_eq!(sizes.iter().filter(|width| **width == "320").count(), 90);
    assert_eq!(sizes.iter().filter(|width| **width == "640").count(), 90);
}

#[test]
fn sound_that_starts_late_stays_late() {
    let (scratch, mut sources) = clip("late", Some(("320x240", H264)), Some(AAC));
    for source in &mut sources {
        let late = if source.codec == Codec::Aac { 700_000 } else { 0 };
        for sample in &mut source.samples {
            sample.dts_us += 3_600_000_000 + late;
            sample.pts_us += 3_600_000_000 + late;
        }
    }
    let tracks: Vec<_> = sources.iter().map(inspect).collect();
    plays(&scratch, &tracks);
    let starts = probe(&scratch.path("ordinary.mp4"), &["-show_entries", "stream=start_time"]);
    let starts: Vec<f64> = starts.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect();
    // The picture's first presentation time is two pictures behind its first decoding time.
    assert!(starts[0].abs() < 0.001 && (starts[1] - (0.7 - 2.0 / 30.0)).abs() < 0.002, "{starts:?}");
}

#[test]
fn pictures_before_their_decoding_time_are_compensated() {
    let (scratch, mut sources) = clip("negative", Some(("320x240", H264)), Some(AAC));
    for sample in &mut sources[0].samples {
        sample.pts_us -= 66_667;
    }
    let tracks: Vec<_> = sources.iter().map(inspect).collect();
    plays(&scratch, &tracks);
    let start =
        probe(&scratch.path("ordinary.mp4"), &["-select_streams", "v", "-show_entries", "stream=start_time,duration"]);
    assert_eq!(start.trim(), "0.000000,3.000000");
}

#[test]
fn a_file_cut_anywhere_keeps_every_complete_fragment() {
    let (scratch, sources) = clip("torn", Some(("320x240", H264)), Some(AAC));
    let tracks: Vec<_> = sources.iter().map(inspect).collect();
    let (file, ends) = record(&tracks);
    let mut state = 1u64;
    let mut places: Vec<usize> = (0..300)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % file.len()
        })
        .collect();
    places.extend(ends.iter().flat_map(|&end| [end - 1, end, end + 1]).filter(|&place| place <= file.len()));
    for (index, place) in places.into_iter().enumerate() {
        let complete = ends.iter().filter(|&&end| end <= place).count();
        let torn = &file[..place];
        let end = complete_len(Cursor::new(torn)).unwrap();
        let mut output = Vec::new();
        match rewrite(Cursor::new(torn), &mut output) {
            Ok(summary) => {
                assert_eq!(summary.fragments, complete as u64);
                assert_eq!((end, summary.torn_bytes), (ends[complete - 1] as u64, (place - ends[complete - 1]) as u64));
            }
            Err(RewriteError::Empty) => assert_eq!(complete, 0),
            Err(error) => panic!("{error}"),
        }
        if complete > 0 && index % 60 == 0 {
            assert_eq!(complaints(&scratch.write("torn.mp4", &output)), "", "cut at {place}");
        }
    }
    // What some file systems leave behind a crash.
    let zeros = [&file[..ends[1]], &[0; 4096]].concat();
    assert_eq!(ordinary(&zeros).1.fragments, 2);
}

#[test]
fn the_judge_notices_damage() {
    let (scratch, sources) = clip("damage", Some(("320x240", H264)), None);
    let (mut output, _) = ordinary(&record(&sources.iter().map(inspect).collect::<Vec<_>>()).0);
    let middle = output.len() / 2;
    output[middle..middle + 400].fill(0x55);
    assert_ne!(complaints(&scratch.write("damaged.mp4", &output)), "");
}

#[test]
fn nothing_is_no_recording() {
    assert!(matches!(rewrite(Cursor::new(Bytes::new()), Vec::new()), Err(RewriteError::Empty)));
    let scratch = Scratch::new("nothing");
    let path = scratch.write("empty.mp4", &Fragment::new(1).finish());
    assert_eq!(fs::metadata(path).unwrap().len(), 0);
}
