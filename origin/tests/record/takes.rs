//! What operators ask for while a broadcast goes on.

use std::sync::Arc;

use headwater_common::{
    ladder::Rendition,
    live::{Broadcast, Reader, Start, Status, TrackWriter},
    media::{Conversion, Frame, Info, Kind, RtpCache, Sample},
    registry::{Embedded, RecordingState, Registry, Take},
};
use headwater_origin::record::SetError;

use crate::{
    AAC, H264_LONG, SECOND,
    ffmpeg::{self, Scratch, Source, encode, judge},
    hls::copy,
    stage::{BORN_US, Stage, began, id, settings, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_starts_and_stops_at_any_moment() {
    let scratch = Scratch::new("rec-rest");
    let sources = encode(&scratch, Some(("320x240", H264_LONG)), Some(AAC), 10);
    let stage = Stage::new(&scratch.path("data"), false).await;
    assert!(matches!(stage.recorder.set(&id("x"), Take::default(), true).await, Err(SetError::Unknown { .. })));
    let mut show = stage.publish("x", BORN_US, &sources).await;
    show.until(5 * SECOND);
    assert!(stage.rows().await.is_empty(), "nobody asked for it");
    stage.recorder.set(&id("x"), Take::default(), true).await.unwrap();
    // From the keyframe at 4 s.
    until("the first file", async || stage.row("x.mp4").await).await;
    show.until(7 * SECOND);
    stage.taken(90 + 140).await;
    stage.recorder.set(&id("x"), Take::default(), false).await.unwrap();
    let first = stage.ready("x.mp4").await;
    assert!(began(first.started_ms, BORN_US + 4 * SECOND), "{first:?}");
    assert!((2_950..3_100).contains(&first.duration_ms), "{first:?}");
    let (complaints, counts) = judge(&stage.path("x.mp4"));
    assert_eq!((complaints.as_str(), counts[0].1), ("", 90));

    stage.recorder.set(&id("x"), Take::default(), true).await.unwrap();
    until("the second file", async || stage.row("x_1.mp4").await).await;
    show.all();
    let broadcast = stage.hub.get(&id("x")).unwrap();
    show.finish();
    stage.ready("x_1.mp4").await;
    assert_eq!(broadcast.status(), Status::Ended);
    let (complaints, counts) = judge(&stage.path("x_1.mp4"));
    assert_eq!((complaints.as_str(), counts[0].1), ("", 120), "from the keyframe at 6 s");
    assert_eq!(stage.rows().await.len(), 2);
    let start = ffmpeg::probe(&stage.path("x_1.mp4"), &["-show_entries", "stream=start_time"]);
    let starts: Vec<f64> = start.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect();
    assert!(starts.len() == 2 && (starts[0] - starts[1]).abs() < 0.03, "picture and sound begin together: {start}");
    stage.close().await;
}

/// What a transcoder would make of the pictures that are written meanwhile: these, from the given one on.
fn render(source: &mut Reader, made: &mut TrackWriter, from: &Source, first: usize) -> usize {
    let info = Arc::new(Info::from_config(from.codec, from.record.clone()).unwrap());
    let mut count = 0;
    while let Some(frame) = source.try_next() {
        let Sample { keyframe, payload, .. } = from.samples[first + count].clone();
        let (gop, info, rtp) = (frame.gop.clone(), info.clone(), RtpCache::default());
        made.write(Frame { gop, dts_us: frame.dts_us, pts_us: frame.pts_us, keyframe, payload, info, rtp });
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rendition_is_recorded_from_its_first_picture_until_it_is_withdrawn() {
    let scratch = Scratch::new("rec-rendition");
    let large = encode(&scratch, Some(("320x240", H264_LONG)), Some(AAC), 8);
    let small = encode(&scratch, Some(("160x120", H264_LONG)), None, 8);
    let stage = Stage::new(&scratch.path("data"), false).await;
    let mut show = stage.publish("x", BORN_US, &large).await;
    let broadcast = stage.hub.get(&id("x")).unwrap();
    let rendition = Rendition { height: 120, video_kbps: 200, audio_kbps: 0 };
    let take = Take { height: Some(120), name: Some("small".to_owned()) };
    let mut pictures = broadcast.source(Kind::Video).unwrap().read(Start::Live);
    // What is asked for before the recorder has seen a broadcast at all is recorded from its beginning.
    stage.recorder.set(&id("x"), Take::default(), true).await.unwrap();
    show.until(SECOND);
    until("the source's file", async || stage.row("x.mp4").await).await;
    let refused = stage.recorder.set(&id("x"), take.clone(), true).await.unwrap_err();
    assert!(matches!(refused, SetError::NoRendition { height: 120, .. }), "{refused}");
    let mut made = broadcast.derive(Conversion::Rendition(rendition));
    broadcast.offer(vec![rendition]);
    // Somebody watched it before, and does not any more.
    show.until(2 * SECOND);
    let first = render(&mut pictures, &mut made, &small[0], 0);
    show.until(4 * SECOND);
    let left_out = std::iter::from_fn(|| pictures.try_next()).count();
    stage.recorder.set(&id("x"), take, true).await.unwrap();
    until("somebody to read it", async || (made.track().readers() > 0).then_some(())).await;
    assert!(stage.row("small_120p200kbps.mp4").await.is_none(), "there is no picture yet");
    show.until(6 * SECOND);
    let rendered = render(&mut pictures, &mut made, &small[0], first + left_out);
    until("the rendition's file", async || stage.row("small_120p200kbps.mp4").await).await;
    broadcast.offer(Vec::new());
    let row = stage.ready("small_120p200kbps.mp4").await;
    assert_eq!(row.stream, "x");
    assert!(began(row.started_ms, BORN_US + 4 * SECOND), "nothing of the past: {row:?}");
    let (complaints, counts) = judge(&stage.path("small_120p200kbps.mp4"));
    assert_eq!((complaints.as_str(), counts[0].1), ("", rendered as u64));
    assert!((90..=96).contains(&counts[1].1), "two seconds of sound: {counts:?}");
    until("nobody to read it", async || (made.track().readers() == 0).then_some(())).await;
    show.all();
    show.finish();
    stage.ready("x.mp4").await;
    let (complaints, counts) = judge(&stage.path("x.mp4"));
    assert_eq!((complaints.as_str(), counts[0].1), ("", 240), "untouched by the other");
    stage.close().await;
}

/// Renditions of 120 and 90 lines.
fn offer_two(broadcast: &Broadcast) -> [TrackWriter; 2] {
    let renditions = [120, 90].map(|height| Rendition { height, video_kbps: 200, audio_kbps: 0 });
    let writers = renditions.map(|rendition| broadcast.derive(Conversion::Rendition(rendition)));
    broadcast.offer(renditions.to_vec());
    writers
}

/// Until the recorder waits for both.
async fn record_two(stage: &Stage, writers: [&TrackWriter; 2]) {
    for height in [120, 90] {
        stage.recorder.set(&id("x"), Take { height: Some(height), name: None }, true).await.unwrap();
    }
    for writer in writers {
        until("somebody to read it", async || (writer.track().readers() > 0).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_row_says_what_the_machine_left_out_of_a_rendition() {
    let scratch = Scratch::new("rec-gaps");
    let large = encode(&scratch, Some(("320x240", H264_LONG)), Some(AAC), 12);
    let small = encode(&scratch, Some(("160x120", H264_LONG)), None, 12);
    let stage = Stage::new(&scratch.path("data"), false).await;
    let mut show = stage.publish("x", BORN_US, &large).await;
    let broadcast = stage.hub.get(&id("x")).unwrap();
    let [mut made, never] = offer_two(&broadcast);
    let mut pictures = broadcast.source(Kind::Video).unwrap().read(Start::Live);
    show.until(SECOND);
    stage.recorder.set(&id("x"), Take::default(), true).await.unwrap();
    record_two(&stage, [&made, &never]).await;
    let mut at = 0;
    // There is no room at first, then for two seconds, then for none, then again, and none at the end.
    for (end_s, room) in [(2, false), (4, true), (8, false), (10, true), (12, false)] {
        show.until(end_s * SECOND);
        at += match room {
            true => render(&mut pictures, &mut made, &small[0], at),
            false => std::iter::from_fn(|| pictures.try_next()).count(),
        };
        if room {
            let file = "x_120p200kbps.mp4";
            let told = async || stage.row(file).await.filter(|row| row.gaps == if end_s == 4 { 1 } else { 2 });
            let row = until("the gap to be told while it is recorded", told).await;
            assert_eq!(row.state, RecordingState::Recording);
        }
    }
    show.all();
    show.finish();
    let (source, row) = (stage.ready("x.mp4").await, stage.ready("x_120p200kbps.mp4").await);
    assert_eq!((source.gaps, source.missing_ms), (0, 0), "the source is whole");
    assert_eq!(row.gaps, 3, "{row:?}");
    assert!((7_900..8_100).contains(&row.missing_ms), "{row:?}");
    let (complaints, counts) = judge(&stage.path("x_120p200kbps.mp4"));
    assert_eq!((complaints.as_str(), counts[0].1), ("", 120));
    until("the other one to be given up", async || (never.track().readers() == 0).then_some(())).await;
    let (row, reason) = stage.failed("x_90p200kbps.mp4").await;
    assert!(reason.contains("had no room to make the rendition"), "{reason}");
    assert!(row.gaps == 1 && (11_900..12_100).contains(&row.missing_ms), "all of it: {row:?}");
    assert!((row.bytes, row.duration_ms) == (0, 0) && began(row.started_ms, BORN_US), "{row:?}");
    assert_eq!(stage.rows().await.len(), 3);
    assert!(stage.telemetry.render().contains("headwater_errors_total{door=\"record\"} 1"), "and it is told");
    stage.close().await;
}

/// The files and the rows as they are now, as another process finds them.
async fn as_it_died(stage: &Stage, scratch: &Scratch) -> Stage {
    let data = scratch.path("after");
    copy(stage.path("x").parent().unwrap(), &data.join("live/streams"));
    let registry = Embedded::open(&data.join("registry.redb")).unwrap().0;
    for row in stage.rows().await {
        registry.put_recording(&row).await.unwrap();
    }
    Stage::with(&data, Arc::new(registry), None, settings(false)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_left_out_of_a_rendition_is_told_before_a_process_can_die_of_anything() {
    let scratch = Scratch::new("rec-open-gap");
    let large = encode(&scratch, Some(("320x240", H264_LONG)), Some(AAC), 10);
    let small = encode(&scratch, Some(("160x120", H264_LONG)), None, 10);
    let stage = Stage::new(&scratch.path("data"), false).await;
    let mut show = stage.publish("x", BORN_US, &large).await;
    let broadcast = stage.hub.get(&id("x")).unwrap();
    let [mut made, never] = offer_two(&broadcast);
    let mut pictures = broadcast.source(Kind::Video).unwrap().read(Start::Live);
    record_two(&stage, [&made, &never]).await;
    // Asked for before there was a picture.
    let mut sound = show.until(4 * SECOND).1;
    let at = render(&mut pictures, &mut made, &small[0], 0);
    let begun = async || stage.row("x_120p200kbps.mp4").await;
    until("the rendition's file", begun).await;
    // No room from here on.
    for end_s in [6, 8] {
        sound += show.until(end_s * SECOND).1;
        // A live source leaves the recorder more time than the hall keeps frames for.
        stage.taken(at as u64 + sound).await;
    }
    for (file, missing_ms) in [("x_120p200kbps.mp4", 3_900..4_100), ("x_90p200kbps.mp4", 7_900..8_100)] {
        let told = async || stage.row(file).await.filter(|row| row.gaps == 1 && missing_ms.contains(&row.missing_ms));
        let row = until("the gap to be told while it goes on", told).await;
        assert_eq!((row.state, row.frames_lost), (RecordingState::Recording, 0));
    }

    let after = as_it_died(&stage, &scratch).await;
    let row = after.ready("x_120p200kbps.mp4").await;
    assert!(row.gaps == 1 && (3_900..4_100).contains(&row.missing_ms), "{row:?}");
    let (row, reason) = after.failed("x_90p200kbps.mp4").await;
    assert!(reason.contains("had no room to make the rendition"), "{reason}");
    assert!(row.gaps == 1 && (7_900..8_100).contains(&row.missing_ms) && row.bytes == 0, "{row:?}");
    assert!(began(row.started_ms, BORN_US), "{row:?}");
    assert_eq!(after.recorder.delete("live", &row.vod_id).await.unwrap().map(|row| row.vod_id), Some(row.vod_id));
    assert_eq!(after.rows().await.len(), 1);
    after.close().await;

    // It was only late.
    let late = render(&mut pictures, &mut made, &small[0], at);
    let whole = async || stage.row("x_120p200kbps.mp4").await.filter(|row| (row.gaps, row.missing_ms) == (0, 0));
    until("the gap to be taken back", whole).await;
    show.all();
    render(&mut pictures, &mut made, &small[0], at + late);
    show.finish();
    let row = stage.ready("x_120p200kbps.mp4").await;
    assert_eq!((row.gaps, row.missing_ms), (0, 0), "{row:?}");
    let (row, _) = stage.failed("x_90p200kbps.mp4").await;
    assert!((9_900..10_100).contains(&row.missing_ms), "{row:?}");
    stage.close().await;
}
