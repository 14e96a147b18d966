use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use headwater_common::{
    live::{Broadcast, BroadcastId, Hub, Reader, Start, Writer},
    media::{Codec, Conversion, Delivery, Frame, Kind},
    telemetry::Telemetry,
};

use super::media::{BORN_US, BROWSER, Clip, broadcast, claim, claim_as, clip, id, ladder, program_decodes};
use crate::transcode::{Settings, run};

/// Publishes clips in real time, over and over, until dropped.
pub(super) struct Studio {
    stop: Arc<AtomicBool>,
    /// When each video frame was written, by its time in the broadcast.
    pub(super) written: Arc<Mutex<Vec<(i64, Instant)>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Studio {
    pub(super) fn publish(mut writer: Writer, clips: Vec<Clip>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(Mutex::new(Vec::new()));
        let (stopped, log) = (stop.clone(), written.clone());
        for clip in &clips {
            writer.announce(clip.info.clone()).unwrap();
        }
        let thread = thread::spawn(move || {
            let began = Instant::now();
            let mut samples: Vec<_> =
                clips.iter().flat_map(|clip| clip.samples.iter().map(|sample| (clip.info.kind(), sample))).collect();
            samples.sort_by_key(|(_, sample)| sample.dts_us);
            let first_us = samples[0].1.dts_us;
            let mut probe = writer.broadcast().source(Kind::Video).map(|track| track.read(Start::Live));
            for (kind, sample) in samples {
                let due = began + Duration::from_micros((sample.dts_us - first_us) as u64);
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if stopped.load(Relaxed) {
                    break;
                }
                let now_us = BORN_US + began.elapsed().as_micros() as i64;
                writer.write(kind, sample.clone(), now_us).unwrap();
                if let Some(frame) = probe.as_mut().and_then(Reader::try_next) {
                    log.lock().unwrap().push((frame.pts_us, Instant::now()));
                }
            }
            writer.finish(BORN_US + began.elapsed().as_micros() as i64);
        });
        Self { stop, written, thread: Some(thread) }
    }
}

impl Drop for Studio {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub(super) async fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(super) async fn next(reader: &mut Reader) -> Arc<Frame> {
    tokio::time::timeout(Duration::from_secs(3), reader.next()).await.expect("a frame in time").expect("no end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversion_runs_while_somebody_reads() {
    let video = clip(
        Codec::H264,
        "-f lavfi -i testsrc2=s=320x180:r=30:d=25 -c:v libx264 -preset veryfast -bf 2 -x264-params keyint=250:scenecut=0",
    );
    let audio = clip(Codec::Aac, "-f lavfi -i sine=f=440:r=44100:d=25 -c:a aac");
    let hub = Hub::new();
    let telemetry = Telemetry::new();
    let room = tokio::spawn(run(hub.clone(), telemetry.clone(), Settings::default(), ladder(&[])));
    let writer = claim(&hub, 1, BORN_US);
    let studio = Studio::publish(writer, vec![video, audio]);
    let broadcast = broadcast(&hub);
    let limit = Duration::from_secs(5);

    let made = |kind| broadcast.choose(kind, BROWSER).filter(|choice| choice.made_for.is_some());
    until("derived tracks", limit, || made(Kind::Video).is_some() && made(Kind::Audio).is_some()).await;
    let (video, audio) = (made(Kind::Video).unwrap(), made(Kind::Audio).unwrap());
    assert_eq!((video.to_string(), audio.to_string()), ("transcode: b-frames".into(), "transcode: aac→opus".into()));
    assert!(broadcast.choose(Kind::Video, Delivery::Mp4).unwrap().made_for.is_none());

    let source = broadcast.source(Kind::Video).unwrap();
    until("half a gop", limit, || source.stats().frames > 90).await;
    assert_eq!((video.track.stats().frames, audio.track.stats().frames), (0, 0), "nobody reads");

    // Twice: who comes after a rest is not shown the old pictures.
    for _ in 0..2 {
        let asked = Instant::now();
        let mut pictures = video.track.read(Start::Newest);
        let mut sounds = audio.track.read(Start::Newest);
        let (picture, sound) = (next(&mut pictures).await, next(&mut sounds).await);
        let newest_us = studio.written.lock().unwrap().last().unwrap().0;
        println!("first picture after {:?}, {} µs old", asked.elapsed(), newest_us - picture.pts_us);
        assert!(picture.keyframe && newest_us - picture.pts_us < 500_000, "{} µs old", newest_us - picture.pts_us);
        assert!((picture.pts_us - sound.pts_us).abs() < 500_000);
        assert_eq!((picture.info.codec, sound.info.codec), (Codec::H264, Codec::Opus));
        assert!(telemetry.render().contains("headwater_transcodes{kind=\"video\"} 1"));

        video.track.request_keyframe();
        let mut more = 0;
        while !next(&mut pictures).await.keyframe {
            more += 1;
            assert!(more < 30, "the requested keyframe");
        }

        drop((pictures, sounds));
        until("rest", Duration::from_secs(8), || {
            let text = telemetry.render();
            text.contains("headwater_transcodes{kind=\"video\"} 0")
                && text.contains("headwater_transcodes{kind=\"audio\"} 0")
        })
        .await;
        let empty = || [&video, &audio].iter().all(|choice| choice.track.stats().ring_frames == 0);
        until("forgotten frames", limit, empty).await;
    }
    drop(studio);
    room.abort();
    assert!(room.await.unwrap_err().is_cancelled());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sound_for_playlists_begins_with_all_that_is_kept() {
    let clip = clip(Codec::Opus, "-f lavfi -i sine=f=440:r=48000:d=6 -c:a libopus");
    let hub = Hub::new();
    let room = tokio::spawn(run(hub.clone(), Telemetry::new(), Settings::default(), ladder(&[])));
    let mut writer = claim(&hub, 1, BORN_US);
    writer.announce(clip.info.clone()).unwrap();
    for sample in &clip.samples {
        writer.write(Kind::Audio, sample.clone(), BORN_US + sample.dts_us.max(0)).unwrap();
    }
    let broadcast = broadcast(&hub);
    let choice = || broadcast.choose(Kind::Audio, Delivery::Mp4);
    until("a derived track", Duration::from_secs(5), || choice().is_some()).await;
    let choice = choice().unwrap();
    let conversion = Conversion::Codec { from: Codec::Opus, to: Codec::Aac };
    assert_eq!(choice.made_for, Some(conversion));
    let mut reader = choice.track.read(Start::Oldest);
    let source = broadcast.source(Kind::Audio).unwrap();
    let oldest = source.read(Start::Oldest).try_next().unwrap();
    let first = next(&mut reader).await;
    assert!((first.pts_us - oldest.pts_us).abs() < 25_000);
    let mut last = first.clone();
    while last.pts_us - first.pts_us < 5_900_000 {
        last = next(&mut reader).await;
    }
    assert_eq!((first.info.codec, last.gop.id > first.gop.id), (Codec::Aac, true));

    // The broadcast leaves the hub: whoever reads is told.
    writer.finish(BORN_US + 6_000_000);
    hub.sweep(BORN_US + 200_000_000);
    let end = tokio::time::timeout(Duration::from_secs(3), async { while reader.next().await.is_some() {} }).await;
    assert!(end.is_ok());
    room.abort();
}

/// Pictures that a browser published, for viewers that do not take them and for playlists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_encoder_serves_every_output() {
    let source =
        clip(Codec::Vp8, "-f lavfi -i testsrc2=s=320x180:r=30:d=25 -c:v libvpx -deadline realtime -cpu-used 8 -g 30");
    let hub = Hub::new();
    let telemetry = Telemetry::new();
    let room = tokio::spawn(run(hub.clone(), telemetry.clone(), Settings::default(), ladder(&[])));
    let studio = Studio::publish(claim(&hub, 1, BORN_US), vec![source]);
    let broadcast = broadcast(&hub);
    let choose = |delivery| broadcast.choose(Kind::Video, delivery);
    until("a derived track", Duration::from_secs(5), || choose(BROWSER).is_some()).await;
    let (live, files) = (choose(BROWSER).unwrap(), choose(Delivery::Mp4).unwrap());
    assert!(Arc::ptr_eq(&live.track, &files.track));
    let knowing = Delivery::WebRtc([Codec::Vp8].into_iter().collect());
    assert!(choose(knowing).unwrap().made_for.is_none(), "who takes VP8 needs no encoder");

    let mut readers = [live.track.read(Start::Newest), files.track.read(Start::Newest)];
    let first = next(&mut readers[0]).await;
    let newest_us = studio.written.lock().unwrap().last().unwrap().0;
    assert!(first.keyframe && newest_us - first.pts_us < 500_000, "{} µs old", newest_us - first.pts_us);
    let mut pictures = vec![first];
    while pictures.len() < 60 {
        pictures.push(next(&mut readers[0]).await);
    }
    assert!(Arc::ptr_eq(&pictures[0], &next(&mut readers[1]).await));
    assert!(telemetry.render().contains("headwater_transcodes{kind=\"video\"} 1"));
    assert_eq!(program_decodes(pictures.iter().map(|frame| &**frame)), (60, String::new()));
    drop(studio);
    room.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_no_room_waits_and_is_told() {
    let source =
        clip(Codec::H264, "-f lavfi -i testsrc2=s=1280x720:r=10:d=30 -c:v libx264 -preset veryfast -bf 2 -g 10");
    let hub = Hub::new();
    let telemetry = Telemetry::new();
    let settings = Settings { video_jobs_max: 1, ..Settings::default() };
    let room = tokio::spawn(run(hub.clone(), telemetry.clone(), settings, ladder(&[])));
    let other = BroadcastId::new("live", "other").unwrap();
    let studios = [&id(), &other].map(|id| Studio::publish(claim_as(id, &hub, 1, BORN_US), vec![source.clone()]));
    let [first, second] = [broadcast(&hub), hub.get(&other).unwrap()];
    let path = |broadcast: &Broadcast| broadcast.choose(Kind::Video, BROWSER).map(|choice| choice.to_string());
    let made = Some("transcode: b-frames".to_owned());
    let limit = Duration::from_secs(10);
    until("derived tracks", limit, || path(&first) == made && path(&second) == made).await;

    let read = |broadcast: &Broadcast| broadcast.choose(Kind::Video, BROWSER).unwrap().track.read(Start::Newest);
    let mut running = read(&first);
    next(&mut running).await;
    let mut waiting = read(&second);
    let told = "transcode: b-frames, waits until another one rests";
    until("being told", limit, || path(&second).as_deref() == Some(told)).await;
    assert!(telemetry.render().contains("headwater_transcodes_waiting 1"));
    assert!(waiting.try_next().is_none());
    next(&mut running).await;

    drop(running);
    let picture = tokio::time::timeout(limit, waiting.next()).await.expect("a place was left").unwrap();
    assert!(picture.keyframe);
    assert_eq!(path(&second), made);
    assert!(telemetry.render().contains("headwater_transcodes_waiting 0"));
    drop(studios);
    room.abort();
}

#[tokio::test]
async fn what_the_operator_does_not_want_is_not_offered() {
    let hub = Hub::new();
    let room =
        tokio::spawn(run(hub.clone(), Telemetry::new(), Settings { video: false, ..Settings::default() }, ladder(&[])));
    let mut writer = claim(&hub, 1, BORN_US);
    let picture = "-f lavfi -i testsrc2=s=64x64:r=30:d=1 -c:v libx264 -bf 2";
    writer.announce(clip(Codec::H264, picture).info).unwrap();
    writer.announce(clip(Codec::Aac, "-f lavfi -i sine=d=1 -c:a aac").info).unwrap();
    let broadcast = broadcast(&hub);
    let made = |kind| broadcast.choose(kind, BROWSER).is_some_and(|choice| choice.made_for.is_some());
    until("sound", Duration::from_secs(5), || made(Kind::Audio)).await;
    assert!(!made(Kind::Video));
    room.abort();
}
