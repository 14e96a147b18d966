//! Figures to judge by. Run with `cargo test --release -p headwater-origin figures -- --ignored --nocapture`.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use headwater_common::{
    live::{Hub, Start},
    media::{Codec, Frame, Kind, nal},
    telemetry::Telemetry,
};

use super::{
    demand::{Studio, until},
    media::{BORN_US, BROWSER, Clip, One, TempFile, broadcast, claim, clip, door, frames, ladder},
};
use crate::transcode::{Settings, audio::Audio, pace::Pace, run};

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
    let seconds = |name: &str| -> f64 {
        let at = text.rfind(name).unwrap() + name.len();
        text[at..].split('s').next().unwrap().parse().unwrap()
    };
    let program_ms = (seconds("utime=") + seconds("stime=")) * 1e3 / f64::from(SECONDS);
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
