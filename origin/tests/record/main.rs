//! Real media goes through the hall and the recorder onto a real disk, and a real player must have nothing to complain
//! about: after an orderly end, after `kill -9`, after a tear anywhere, and on a disk that is full.

mod away;
#[allow(dead_code, reason = "shared with the tests of the MP4 writer, and not all of it is for these")]
#[path = "../../../common/tests/mp4/ffmpeg.rs"]
mod ffmpeg;
mod hls;
mod serve;
mod stage;
mod takes;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use ffmpeg::{Scratch, Source, encode, judge};
use headwater_common::{
    live::{LINGER_US, RESUME_US, Status},
    media::{Info, Kind},
    registry::{RecordingState, Take},
};
use headwater_origin::record::SetError;
use stage::{BORN_US, Show, Stage, began, id, settings, until};

const H264: &str = "-c:v libx264 -preset ultrafast -g 30 -bf 2 -b_strategy 0 -pix_fmt yuv420p";
const H264_LONG: &str = "-c:v libx264 -preset ultrafast -g 60 -bf 0 -pix_fmt yuv420p";
const H264_FAT: &str = "-c:v libx264 -preset ultrafast -g 60 -bf 0 -b:v 5M -minrate 5M -maxrate 5M -bufsize 2M -x264-params nal-hrd=cbr:force-cfr=1 -pix_fmt yuv420p";
const HEVC: &str = "-c:v libx265 -preset ultrafast -x265-params keyint=30:log-level=none -tag:v hvc1 -pix_fmt yuv420p";
const VP9: &str = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -g 30 -b:v 300k";
const AAC: &str = "-c:a aac -b:a 64k -ac 2";
const SECOND: i64 = 1_000_000;

/// Nothing to complain about, and exactly these frames.
fn plays(path: &Path, frames: &[u64]) {
    let (complaints, counts) = judge(path);
    assert_eq!(complaints, "", "{}", path.display());
    assert_eq!(counts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), frames, "{}", path.display());
}

async fn whole(name: &str, video: Option<(&str, &str)>, audio: Option<&str>) {
    let scratch = Scratch::new(name);
    let sources = encode(&scratch, video, audio, 5);
    let stage = Stage::new(&scratch.path("data"), true).await;
    let mut show = stage.publish("x", BORN_US, &sources).await;
    let frames = show.all();
    show.finish();
    let row = stage.ready("x.mp4").await;
    let expected: Vec<u64> = [frames.0, frames.1].into_iter().filter(|count| *count > 0).collect();
    plays(&stage.path("x.mp4"), &expected);
    assert_eq!(row.bytes, fs::metadata(stage.path("x.mp4")).unwrap().len());
    assert!((4_900..=5_200).contains(&row.duration_ms), "{row:?}");
    assert_eq!((row.stream.as_str(), row.frames_lost), ("x", 0));
    assert!(began(row.started_ms, BORN_US), "{row:?}");
    assert!(row.created_ms.is_some());
    // Ready is said before the last of the fragmented file is gone.
    stage.recorder.finalised().await;
    assert!(!stage.path("x.mp4.recording").exists() && !stage.path("x.mp4.finalising").exists());
    let boxes = fs::read(stage.path("x.mp4")).unwrap();
    let at = |name: &[u8]| boxes.windows(4).position(|window| window == name).unwrap();
    assert!(at(b"moov") < at(b"mdat"), "starts to play before it is all there");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h264_with_b_frames_and_aac() {
    whole("rec-h264", Some(("320x240", H264)), Some(AAC)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hevc_and_aac() {
    whole("rec-hevc", Some(("320x240", HEVC)), Some(AAC)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vp9_alone() {
    whole("rec-vp9", Some(("320x240", VP9)), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_alone() {
    whole("rec-sound", None, Some(AAC)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_shorter_than_a_fragment_is_kept_too() {
    let scratch = Scratch::new("rec-short");
    let sources = encode(&scratch, Some(("320x240", H264)), Some(AAC), 1);
    let stage = Stage::new(&scratch.path("data"), true).await;
    let mut show = stage.publish("x", BORN_US, &sources).await;
    let frames = show.until(200_000);
    show.finish();
    stage.ready("x.mp4").await;
    // The newest pictures are cut off within their reordering, so only what a decoder can show is counted.
    assert_eq!(frames.0, 6);
    let (_, counts) = judge(&stage.path("x.mp4"));
    assert_eq!(counts.len(), 2);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_publisher_begins_the_next_file() {
    let scratch = Scratch::new("rec-epoch");
    let sources = encode(&scratch, Some(("320x240", H264_LONG)), Some(AAC), 4);
    let stage = Stage::new(&scratch.path("data"), true).await;
    let mut first = stage.publish("x", BORN_US, &sources).await;
    let frames = first.until(3 * SECOND);
    drop(first);
    let mut second = stage.publish("x", BORN_US + 5 * SECOND, &sources).await;
    let more = second.all();
    second.finish();
    stage.ready("x.mp4").await;
    let row = stage.ready("x_1.mp4").await;
    plays(&stage.path("x.mp4"), &[frames.0, frames.1]);
    plays(&stage.path("x_1.mp4"), &[more.0, more.1]);
    assert_eq!(row.epoch, 2 << 32);
    assert!(began(row.started_ms, BORN_US + 5 * SECOND), "{row:?}");
    // Ended, forgotten by the hall, and back: the third file.
    stage.hub.sweep(BORN_US + 9 * SECOND + RESUME_US + LINGER_US);
    assert!(stage.hub.get(&id("x")).is_none());
    let mut third = stage.publish("x", BORN_US + 200 * SECOND, &sources).await;
    third.all();
    third.finish();
    stage.ready("x_2.mp4").await;
    plays(&stage.path("x_2.mp4"), &[more.0, more.1]);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_format_and_a_late_track_begin_the_next_file() {
    let scratch = Scratch::new("rec-format");
    let small = encode(&scratch, Some(("320x240", H264_LONG)), Some(AAC), 4);
    let large = encode(&scratch, Some(("640x360", H264_LONG)), Some(AAC), 4);
    let stage = Stage::new(&scratch.path("data"), true).await;
    let announce = |show: &mut Show, source: &Source| {
        show.writer.announce(Info::from_config(source.codec, source.record.clone()).unwrap()).unwrap();
    };
    // Pictures alone, then pictures of another size, then sound joins.
    let mut show = stage.publish("x", BORN_US, &small[..1]).await;
    let first = show.all();
    // A live source leaves the recorder more time than the hall keeps frames for.
    stage.taken(first.0).await;
    announce(&mut show, &large[0]);
    let shifted = |source: &Source, by_us: i64| -> Source {
        let mut source = source.clone();
        for (n, sample) in (0..).zip(&mut source.samples) {
            // The muxer stretches the first picture, and these come without B-frames.
            sample.dts_us = by_us + if source.codec.kind() == Kind::Video { n * 33_333 } else { sample.dts_us };
            sample.pts_us = sample.dts_us;
        }
        source
    };
    let mut second = 0;
    for sample in shifted(&large[0], 4 * SECOND).samples {
        let now_us = BORN_US + sample.dts_us;
        show.writer.write(Kind::Video, sample, now_us).unwrap();
        second += 1;
    }
    stage.taken(first.0 + second).await;
    announce(&mut show, &large[1]);
    let (pictures, sound) = (shifted(&large[0], 8 * SECOND), shifted(&large[1], 8 * SECOND));
    let mut samples: Vec<_> = pictures.samples.into_iter().map(|s| (Kind::Video, s)).collect();
    samples.extend(sound.samples.into_iter().map(|s| (Kind::Audio, s)));
    samples.sort_by_key(|(kind, sample)| (sample.dts_us, *kind));
    for (kind, sample) in samples {
        let now_us = BORN_US + sample.dts_us;
        show.writer.write(kind, sample, now_us).unwrap();
    }
    show.finish();
    for file in ["x.mp4", "x_1.mp4", "x_2.mp4"] {
        stage.ready(file).await;
    }
    plays(&stage.path("x.mp4"), &[first.0]);
    // Its first sound comes just after a keyframe, so the next file begins at the one after that.
    plays(&stage.path("x_1.mp4"), &[second + 60]);
    let (complaints, counts) = judge(&stage.path("x_2.mp4"));
    assert_eq!((complaints.as_str(), counts.len(), counts[0].1), ("", 2, 60));
    let size = |file| ffmpeg::probe(&stage.path(file), &["-select_streams", "v", "-show_entries", "stream=width"]);
    assert_eq!((size("x.mp4").trim(), size("x_1.mp4").trim()), ("320", "640"));
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_late_recorder_misses_is_counted_and_the_rest_plays() {
    let scratch = Scratch::new("rec-late");
    let sources = encode(&scratch, Some(("160x120", H264_LONG)), Some(AAC), 40);
    let stage = Stage::new(&scratch.path("data"), true).await;
    let mut show = stage.publish("x", BORN_US, &sources).await;
    let first = show.until(SECOND);
    stage.taken(first.0 + first.1).await;
    // All at once: the hall holds the newest 12 seconds or so, whatever the recorder has read until then.
    let rest = show.all();
    show.finish();
    let row = stage.ready("x.mp4").await;
    let (complaints, counts) = judge(&stage.path("x.mp4"));
    assert_eq!(complaints, "");
    let kept: u64 = counts.iter().map(|(_, count)| count).sum();
    assert_eq!(kept + row.frames_lost, first.0 + first.1 + rest.0 + rest.1);
    assert!(row.frames_lost > 0, "{row:?}");
    assert!(
        stage.telemetry.render().contains(&format!("headwater_dropped_total{{door=\"record\"}} {}", row.frames_lost))
    );
    stage.close().await;
}

/// Not a test by itself: publishes in real time and records until it is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by kill_9_costs_at_most_a_gop"]
async fn victim() {
    let Ok(path) = std::env::var("HEADWATER_RECORD_VICTIM") else { return };
    let scratch = Scratch::new("rec-victim");
    let sources = encode(&scratch, Some(("320x240", H264_LONG)), Some(AAC), 20);
    drop(scratch);
    let stage = Stage::new(Path::new(&path), true).await;
    let mut show = stage.publish("x", BORN_US, &sources).await;
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(20));
    let mut frames = 0;
    for at_ms in (0..20_000).step_by(20) {
        tick.tick().await;
        frames += show.until(at_ms * 1_000).0;
        println!("published {frames}");
    }
    unreachable!("should have been killed");
}

/// Starts the victim, kills it after this many pictures, and says how many it had published.
fn kill_after(data: &Path, frames: u64) -> u64 {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--ignored", "--nocapture"])
        .env("HEADWATER_RECORD_VICTIM", data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut published =
        lines.filter_map(|line| line.split_once("published ").and_then(|(_, count)| count.trim().parse::<u64>().ok()));
    let newest = published.by_ref().find(|count| *count >= frames).unwrap();
    victim.kill().unwrap();
    let newest = published.last().unwrap_or(newest);
    victim.wait().unwrap();
    newest
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_costs_at_most_a_gop() {
    let scratch = Scratch::new("rec-kill");
    let data = scratch.path("data");
    fs::create_dir_all(&data).unwrap();
    // In the middle of a gop, and just before the next one.
    for (file, frames) in [("x.mp4", 150), ("x_1.mp4", 118)] {
        let published = kill_after(&data, frames);
        assert!(data.join(format!("live/streams/{file}.recording")).exists());
        let stage = Stage::new(&data, true).await;
        let row = stage.ready(file).await;
        let (complaints, counts) = judge(&stage.path(file));
        assert_eq!(complaints, "");
        let kept = counts[0].1;
        assert!(kept <= published && published - kept <= 60, "{kept} of {published}, a gop has 60");
        println!("kill -9: {kept} of {published} pictures kept, a gop has 60");
        assert_eq!(row.stream, "x");
        assert!(began(row.started_ms, BORN_US), "{row:?}");
        stage.recorder.finalised().await;
        assert!(!stage.path(&format!("{file}.recording")).exists());
        stage.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_torn_anywhere_is_saved_or_kept_as_it_is() {
    let scratch = Scratch::new("rec-torn");
    let sources = encode(&scratch, Some(("160x120", H264)), Some(AAC), 4);
    let data = scratch.path("data");
    let bytes = {
        let stage = Stage::new(&data, true).await;
        let mut show = stage.publish("x", BORN_US, &sources).await;
        let (video, audio) = show.all();
        stage.taken(video + audio).await;
        let path = stage.path("x.mp4.recording");
        // Without an end, everything but the last fragment is written soon.
        let bytes = until("fragments", async || fs::read(&path).ok().filter(|bytes| bytes.len() > 30_000)).await;
        show.finish();
        stage.close().await;
        bytes
    };
    let streams = data.join("live/streams");
    let offsets: Vec<usize> = (0..60).map(|n| bytes.len() * n / 60 + n).filter(|at| *at <= bytes.len()).collect();
    for at in &offsets {
        fs::write(streams.join(format!("torn-{at}.mp4.recording")), &bytes[..*at]).unwrap();
    }
    let mut zeros = bytes[..bytes.len() * 2 / 3].to_vec();
    zeros.extend([0; 5_000]);
    fs::write(streams.join("zeros.mp4.recording"), zeros).unwrap();
    fs::write(streams.join("nonsense.mp4.recording"), vec![b'x'; 50_000]).unwrap();

    let stage = Stage::new(&data, true).await;
    stage.recorder.finalised().await;
    let (mut saved, mut kept) = (0, 0);
    for name in offsets.iter().map(|at| format!("torn-{at}")).chain(["zeros".into(), "nonsense".into()]) {
        let row = stage.row(&format!("{name}.mp4")).await.unwrap();
        match &row.state {
            RecordingState::Ready => {
                saved += 1;
                assert!(row.bytes > 0 && row.duration_ms > 0, "{row:?}");
                if saved % 7 == 1 || name == "zeros" {
                    let (complaints, _) = judge(&stage.path(&row.file));
                    assert_eq!(complaints, "", "{name}");
                }
            }
            RecordingState::Failed { reason } => {
                kept += 1;
                assert!(reason.contains("no complete fragment"), "{reason}");
                assert!(stage.path(&format!("{name}.mp4.unreadable")).exists(), "never deleted");
            }
            state => panic!("{name} is {state:?}"),
        }
    }
    println!("torn: {saved} saved, {kept} kept as they are");
    assert!(saved >= 45 && kept >= 2, "{saved} saved, {kept} kept");
    stage.close().await;
}

/// A file system of its own that can be full.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    /// Needs a privilege; without it there is nothing to test on.
    fn mount(path: std::path::PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "headwater-test"])
            .arg(&path)
            .status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_the_recording_and_not_the_stream() {
    let scratch = Scratch::new("rec-full");
    let sources = encode(&scratch, Some(("640x360", H264_FAT)), Some(AAC), 8);
    for (name, size, floor_mb, complaint) in
        [("enospc", "2m", 0, "No space left on device"), ("floor", "8m", 6, "at least 6 MB are kept free")]
    {
        let Some(disk) = Tmpfs::mount(scratch.path(name), size) else {
            eprintln!("no file system can be mounted here, the test is left out");
            return;
        };
        let mut settings = settings(true);
        settings.free_disk_mb_min = floor_mb;
        let stage = Stage::open(&disk.0, &scratch.path(&format!("{name}.redb")), settings).await;
        let mut show = stage.publish("x", BORN_US, &sources).await;
        show.until(7 * SECOND);
        let (row, reason) = stage.failed("x.mp4").await;
        assert!(reason.contains(complaint), "{reason}");
        let (complaints, counts) = judge(&stage.path("x.mp4"));
        assert_eq!(complaints, "", "what was written still plays");
        assert!(row.bytes > 500_000 && counts[0].1 > 30, "{row:?} {counts:?}");
        assert_eq!(stage.hub.get(&id("x")).unwrap().status(), Status::Live);
        show.all();
        assert!(stage.telemetry.render().contains("headwater_errors_total{door=\"record\"} 1"), "told once");
        let rows = stage.rows().await.len();
        assert_eq!(rows, 1, "not tried again and again");
        if floor_mb > 0 {
            let refused = stage.recorder.set(&id("x"), Take::default(), true).await.unwrap_err();
            assert!(matches!(refused, SetError::NoRoom { .. }), "{refused}");
        }
        show.finish();
        stage.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures, proves nothing"]
async fn figures() {
    let scratch = Scratch::new("rec-figures");
    let sources = encode(&scratch, Some(("1280x720", H264_FAT)), Some(AAC), 60);
    let media_bytes: usize = sources.iter().flat_map(|source| &source.samples).map(|s| s.payload.len()).sum();
    let stage = Stage::new(&scratch.path("data"), true).await;
    let mut show = stage.publish("x", BORN_US, &sources).await;
    let cpu_ms = || {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()) * 10
    };
    let rss_kb = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let (cpu_before, rss_before) = (cpu_ms(), rss_kb());
    let mut frames = 0;
    let mut rss_max = 0;
    for second in 1..=60 {
        let (video, audio) = show.until(second * SECOND);
        frames += video + audio;
        stage.taken(frames).await;
        rss_max = rss_max.max(rss_kb());
    }
    let recorded = cpu_ms();
    show.finish();
    stage.ready("x.mp4").await;
    println!(
        "60 s of {:.1} Mbit/s: {} ms of CPU recording, {} ms finalising, {} kB more memory at most (the ring's 12 s are {} kB of it)",
        media_bytes as f64 * 8.0 / 60e6,
        recorded - cpu_before,
        cpu_ms() - recorded,
        rss_max - rss_before,
        media_bytes / 5 / 1024,
    );
    stage.close().await;
}
