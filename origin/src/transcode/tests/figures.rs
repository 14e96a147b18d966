//! Figures to judge by. Run with `cargo test --release -p headwater-origin figures -- --ignored --nocapture`.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use headwater_common::{
    ladder::{Rendition, Rung},
    live::{Hub, Start},
    media::{Codec, Frame, Kind, nal},
    telemetry::Telemetry,
};

use super::{
    demand::{Studio, until},
    media::{BORN_US, BROWSER, Clip, One, TempFile, broadcast, claim, clip, door, frames, ladder},
};
use crate::transcode::{Settings, audio::Audio, pace::Pace, run, video::Video};

const SECONDS: u32 = 10;

/// This thread's time on a core, whatever else the machine does.
fn on_core() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn source() -> Clip {
    clip(
        Codec::H264,
        &format!(
            "-f lavfi -i testsrc2=s=1280x720:r=30:d={SECONDS},noise=alls=6:allf=t -c:v libx264 -preset veryfast \
             -profile:v high -bf 2 -b:v 2500k -maxrate 2500k -bufsize 2500k -x264-params keyint=250:scenecut=0"
        ),
    )
}

const LADDER: [Rendition; 3] = [
    Rendition { height: 720, video_kbps: 2_000, audio_kbps: 0 },
    Rendition { height: 480, video_kbps: 900, audio_kbps: 0 },
    Rendition { height: 240, video_kbps: 300, audio_kbps: 0 },
];

fn full_hd() -> Clip {
    clip(
        Codec::H264,
        &format!(
            "-f lavfi -i testsrc2=s=1920x1080:r=30:d={SECONDS},noise=alls=6:allf=t -c:v libx264 -preset veryfast \
             -profile:v high -bf 2 -b:v 4500k -maxrate 4500k -bufsize 4500k -x264-params keyint=60:scenecut=0"
        ),
    )
}

/// Seconds of a core, as the ffmpeg program says at its end.
fn program_seconds(text: &str) -> f64 {
    let seconds = |name: &str| -> f64 {
        let at = text.rfind(name).unwrap() + name.len();
        text[at..].split('s').next().unwrap().parse().unwrap()
    };
    seconds("utime=") + seconds("stime=")
}

fn annex_b<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> TempFile {
    let file = TempFile::new("h264");
    let stream: Vec<u8> = frames
        .into_iter()
        .flat_map(|frame| nal::to_annex_b(&frame.payload, frame.keyframe.then_some(&*frame.info)).unwrap())
        .collect();
    std::fs::write(&file.0, stream).unwrap();
    file
}

#[test]
#[ignore = "figures for release builds"]
fn figures_cpu() {
    let source = frames(&[source()]);
    let mut video = One::new(door(), i64::MIN);
    let mut made = Vec::new();
    let began = on_core();
    for frame in &source {
        video.take(frame, Pace::Every, &mut made).unwrap();
    }
    let ours_ms = (on_core() - began).as_secs_f64() * 1e3 / f64::from(SECONDS);

    let mut catching_up = One::new(door(), i64::MIN);
    let began = on_core();
    for frame in &source[..source.len() - 1] {
        catching_up.take(frame, Pace::Newest, &mut Vec::new()).unwrap();
    }
    let decode_ms = (on_core() - began).as_secs_f64() * 1e3 / f64::from(SECONDS);

    let (input, output) = (annex_b(source.iter().map(|frame| &**frame)), annex_b(&made));
    let program = Command::new("ffmpeg")
        .args(["-v", "info", "-nostdin", "-benchmark", "-threads", "1", "-i"])
        .arg(&input.0)
        .args(
            "-c:v libx264 -preset veryfast -tune zerolatency -threads 1 -crf 21 -maxrate 3125k -bufsize 3125k"
                .split(' '),
        )
        .args("-x264-params keyint=infinite:scenecut=0 -f null -".split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&program.stderr).into_owned();
    let program_ms = program_seconds(&text) * 1e3 / f64::from(SECONDS);
    let psnr = Command::new("ffmpeg")
        .args(["-v", "info", "-nostdin", "-i"])
        .arg(&output.0)
        .arg("-i")
        .arg(&input.0)
        .args(["-lavfi", "[0]setpts=N[a];[1]setpts=N[b];[a][b]psnr=shortest=1", "-f", "null", "-"])
        .output()
        .unwrap();
    let psnr = String::from_utf8_lossy(&psnr.stderr).into_owned();
    let psnr = psnr.lines().find_map(|line| line.split("average:").nth(1)?.split(' ').next()).unwrap_or("?").to_owned();
    let rate = |bytes: u64| bytes as f64 * 8.0 / 1e6 / f64::from(SECONDS);
    let megabits = |file: &TempFile| rate(std::fs::metadata(&file.0).unwrap().len());
    println!("720p30 B-frame removal: {ours_ms:.1} ms of a core per second of media");
    println!("  the ffmpeg program: {program_ms:.1} ms, ratio {:.2}", ours_ms / program_ms);
    println!("  catching up (decoding only): {decode_ms:.1} ms per second of media");
    println!("  {:.2} Mbit/s in, {:.2} out, PSNR against the source {psnr} dB", megabits(&input), megabits(&output));

    for (name, from, to, arguments) in [
        ("AAC→Opus", Codec::Aac, Codec::Opus, "anoisesrc=r=44100:d=10:c=pink -ac 2 -c:a aac -b:a 160k"),
        ("Opus→AAC", Codec::Opus, Codec::Aac, "anoisesrc=r=48000:d=10:c=pink -ac 2 -c:a libopus -b:a 128k"),
    ] {
        let source = frames(&[clip(from, &format!("-f lavfi -i {arguments}"))]);
        let mut audio = Audio::new(to, None, door());
        let mut made = Vec::new();
        let began = on_core();
        for frame in &source {
            audio.take(frame, &mut made).unwrap();
        }
        println!("{name}: {:.2} ms of a core per second of media", (on_core() - began).as_secs_f64() * 1e3 / 10.0);
        assert!(!made.is_empty());
    }
    assert!(ours_ms < 1000.0, "faster than real time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures for release builds"]
async fn figures_delay() {
    let hub = Hub::new();
    let room = tokio::spawn(run(hub.clone(), Telemetry::new(), Settings::default(), ladder(&[])));
    let studio = Studio::publish(claim(&hub, 1, BORN_US), vec![source()]);
    let broadcast = broadcast(&hub);
    let source = broadcast.source(Kind::Video).unwrap();
    until("most of a gop", Duration::from_secs(9), || source.stats().frames > 200).await;
    let asked = Instant::now();
    let mut reader = broadcast.choose(Kind::Video, BROWSER).unwrap().track.read(Start::Newest);
    let mut delays = Vec::new();
    let mut first = None;
    while delays.len() < 60 {
        let frame = tokio::time::timeout(Duration::from_secs(3), reader.next()).await.unwrap().unwrap();
        first.get_or_insert(asked.elapsed());
        let written = studio.written.lock().unwrap();
        delays.extend(written.iter().find(|(pts_us, _)| *pts_us == frame.pts_us).map(|(_, at)| at.elapsed()));
    }
    delays.drain(..5);
    delays.sort_unstable();
    println!("first picture after {:?}, 6.7 s into the gop", first.unwrap());
    println!("delay from frame written to frame out: median {:?}, most {:?}", delays[27], delays[delays.len() - 1]);
    assert!(delays[delays.len() / 2] < Duration::from_millis(250));
    drop(studio);
    room.abort();
}

/// Three renditions of 1080p30, against the ffmpeg program that does the same.
#[test]
#[ignore = "figures for release builds"]
fn figures_ladder_cpu() {
    let source = frames(&[full_hd()]);
    let input = annex_b(source.iter().map(|frame| &**frame));
    for run in 1..=3 {
        let mut video = Video::new(door());
        for (id, rendition) in LADDER.iter().enumerate() {
            video.add(id, Some(*rendition), i64::MIN, None);
        }
        let mut made = Vec::new();
        let began = on_core();
        for frame in &source {
            video.take(frame, Pace::Every, &mut made).unwrap();
        }
        let ours_s = (on_core() - began).as_secs_f64();
        assert!(made.len() >= 3 * (source.len() - 4));
        let mut program = Command::new("ffmpeg");
        program.args(["-v", "info", "-nostdin", "-benchmark", "-threads", "1", "-i"]).arg(&input.0);
        program.args(["-filter_complex_threads", "1", "-filter_complex"]);
        program.arg(
            "[0:v]split=3[a][b][c];[a]scale=1280:720:flags=bilinear[x];[b]scale=854:480:flags=bilinear[y];\
             [c]scale=426:240:flags=bilinear[z]",
        );
        for (label, Rendition { video_kbps, .. }) in ["[x]", "[y]", "[z]"].iter().zip(LADDER) {
            let (cap, buffer) = (format!("{video_kbps}k"), format!("{}k", video_kbps / 2));
            program.args(["-map", label, "-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency"]);
            program.args(["-threads", "1", "-crf", "21", "-maxrate", &cap, "-bufsize", &buffer]);
            program.args(["-x264-params", "keyint=60:scenecut=0", "-f", "null", "-"]);
        }
        let output = program.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        let program_s = program_seconds(&text);
        println!(
            "run {run}: {:.1} ms of a core per second of 1080p30, the ffmpeg program {:.1} ms, ratio {:.3}",
            ours_s * 1e3 / f64::from(SECONDS),
            program_s * 1e3 / f64::from(SECONDS),
            ours_s / program_s
        );
        for (id, rendition) in LADDER.iter().enumerate() {
            let bytes: usize =
                made.iter().filter(|made| made.0 == id).map(|made| made.1.as_ref().unwrap().payload.len()).sum();
            println!("  {rendition}: {:.2} Mbit/s", bytes as f64 * 8.0 / 1e6 / f64::from(SECONDS));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures for release builds"]
async fn figures_ladder_delay() {
    let hub = Hub::new();
    let rungs = LADDER.map(|Rendition { height, video_kbps, audio_kbps }| Rung {
        height,
        video_kbps,
        audio_kbps,
        force: false,
    });
    let room = tokio::spawn(run(hub.clone(), Telemetry::new(), Settings::default(), ladder(&rungs)));
    // Without reordering, whose delay is the source's.
    let clip = clip(
        Codec::H264,
        "-f lavfi -i testsrc2=s=1920x1080:r=30:d=20,noise=alls=6:allf=t -c:v libx264 -preset veryfast -bf 0 -b:v 4500k \
         -maxrate 4500k -bufsize 4500k -x264-params keyint=60:scenecut=0",
    );
    let studio = Studio::publish(claim(&hub, 1, BORN_US), vec![clip]);
    let broadcast = broadcast(&hub);
    until("an offer", Duration::from_secs(5), || broadcast.renditions().len() == 3).await;
    let mut readers: Vec<_> =
        broadcast.renditions().into_iter().map(|(rendition, track)| (rendition, track.read(Start::Newest))).collect();
    let mut delays = vec![Vec::new(); 3];
    let mut due = 0;
    while due < 300 {
        for ((_, reader), delays) in readers.iter_mut().zip(&mut delays) {
            let frame = tokio::time::timeout(Duration::from_secs(3), reader.next()).await.unwrap().unwrap();
            let written = studio.written.lock().unwrap();
            delays.extend(written.iter().find(|(pts_us, _)| *pts_us == frame.pts_us).map(|(_, at)| at.elapsed()));
        }
        due += 1;
    }
    for ((rendition, _), delays) in readers.iter().zip(&mut delays) {
        delays.drain(..30);
        delays.sort_unstable();
        let at = |part: usize| delays[(delays.len() - 1) * part / 100];
        println!("{rendition}: delay median {:?}, 95 % {:?}, most {:?}", at(50), at(95), at(100));
    }
    drop(studio);
    room.abort();
}
