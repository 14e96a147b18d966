//! What is kept as HLS: a player must have nothing to complain about, and the disk tells all after a death.

use std::{fs, path::Path};

use axum::http::{StatusCode, header};
use headwater_common::{config, registry::RecordingRow, store::asked};

use crate::{
    AAC, H264, H264_LONG, SECOND,
    ffmpeg::{Scratch, encode, judge},
    plays,
    serve::get,
    stage::{BORN_US, Stage, began, settings, until},
};

async fn stage(data: &Path) -> Stage {
    let mut settings = settings(true);
    let rules = config::Recording { hls: true, ..config::Recording::default() };
    settings.rules.insert("live".to_owned(), (&rules).into());
    fs::create_dir_all(data).unwrap();
    Stage::open(data, &data.join("registry.redb"), settings).await
}

fn text(stage: &Stage, file: &str) -> String {
    fs::read_to_string(stage.path(file)).unwrap()
}

fn uris(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

fn lasts_ms(text: &str) -> f64 {
    let durations =
        text.lines().filter_map(|line| line.strip_prefix("#EXTINF:")?.strip_suffix(',')?.parse::<f64>().ok());
    durations.sum::<f64>() * 1000.0
}

/// The row says of it what is so.
fn tells_the_truth(stage: &Stage, row: &RecordingRow) {
    let text = text(stage, &row.file);
    assert!(text.contains("#EXT-X-PLAYLIST-TYPE:VOD\n") && text.ends_with("#EXT-X-ENDLIST\n"), "{text}");
    assert!((lasts_ms(&text) - row.duration_ms as f64).abs() < 2.0, "{row:?}\n{text}");
    let folder = stage.path(&row.file).with_file_name(uris(&text)[0].split('/').next().unwrap());
    let sizes = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len());
    assert_eq!(row.bytes, sizes.sum::<u64>() + text.len() as u64, "{row:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_is_kept_as_segments_that_play_beside_its_mp4() {
    let scratch = Scratch::new("hls-whole");
    let sources = encode(&scratch, Some(("320x240", H264)), Some(AAC), 7);
    let stage = stage(&scratch.path("data")).await;
    let mut show = stage.publish("x", BORN_US, &sources).await;
    let frames = show.all();
    show.finish();
    let row = stage.ready("x.vod.m3u8").await;
    stage.ready("x.mp4").await;
    let (complaints, counts) = judge(&stage.path("x.vod.m3u8"));
    // They are counted for the programme as well.
    let counts: Vec<_> = counts[..2].iter().map(|(_, count)| *count).collect();
    assert_eq!((complaints.as_str(), counts), ("", vec![frames.0, frames.1]));
    plays(&stage.path("x.mp4"), &[frames.0, frames.1]);
    tells_the_truth(&stage, &row);
    assert!((6_900..=7_200).contains(&row.duration_ms) && began(row.started_ms, BORN_US), "{row:?}");
    let text = text(&stage, "x.vod.m3u8");
    assert_eq!(uris(&text).len(), 7, "one for each keyframe: {text}");
    assert_eq!(text.matches("#EXT-X-MAP").count(), 1);
    assert!(text.contains("#EXT-X-PROGRAM-DATE-TIME:2025-06-15T15:06:40.0"), "{text}");
    assert!(!stage.path("x.vod.m3u8.recording").exists());

    let (status, headers, body) = get(&stage, "GET", "x.vod.m3u8", &[]).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, text.as_bytes()));
    assert_eq!(headers[header::CONTENT_TYPE], "application/vnd.apple.mpegurl");
    let (status, headers, body) = get(&stage, "GET", uris(&text)[3], &[("range", "bytes=4-7")]).await;
    assert_eq!((status, &body[..]), (StatusCode::PARTIAL_CONTENT, &b"moof"[..]));
    assert_eq!(headers[header::CONTENT_TYPE], "video/mp4");
    assert!(headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));

    // A stream may be called as a recording is, and comes first.
    let asked_for = asked("/live/streams/x.vod.m3u8").unwrap().1;
    assert!(!stage.recorder.is_live("live", asked_for));
    stage.publish("x.vod", BORN_US, &sources[..1]).await.finish();
    assert!(stage.recorder.is_live("live", asked_for));

    // The next one has names of its own, and one goes without the other.
    let mut show = stage.publish("x", BORN_US + 60 * SECOND, &sources).await;
    show.until(3 * SECOND);
    show.finish();
    let next = stage.ready("x_1.vod.m3u8").await;
    assert_eq!(stage.recorder.delete("live", &row.vod_id).await.unwrap().map(|row| row.file), Some(row.file.clone()));
    let left = fs::read_dir(stage.path("x").parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_str().unwrap().contains(row.vod_id.as_str())).collect();
    assert_eq!(left, [""; 0]);
    assert_eq!(get(&stage, "GET", uris(&text)[3], &[]).await.0, StatusCode::NOT_FOUND);
    tells_the_truth(&stage, &next);
    stage.ready("x_1.mp4").await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_returns_and_another_format_begin_a_stretch_and_no_other_recording() {
    let scratch = Scratch::new("hls-stretch");
    let small = encode(&scratch, Some(("320x240", H264_LONG)), Some(AAC), 4);
    let large = encode(&scratch, Some(("640x360", H264_LONG)), Some(AAC), 4);
    let stage = stage(&scratch.path("data")).await;
    let mut first = stage.publish("x", BORN_US, &small).await;
    let mut frames = first.until(3 * SECOND);
    stage.taken(2 * (frames.0 + frames.1)).await;
    drop(first);
    for (at, sources) in [(5, &small), (11, &large)] {
        let mut show = stage.publish("x", BORN_US + at * SECOND, sources).await;
        let more = show.all();
        frames = (frames.0 + more.0, frames.1 + more.1);
        stage.taken(2 * (frames.0 + frames.1)).await;
        if at == 11 {
            show.finish();
        }
    }
    let row = stage.ready("x.vod.m3u8").await;
    tells_the_truth(&stage, &row);
    assert!((10_700..=11_300).contains(&row.duration_ms), "without the gaps: {row:?}");
    let text = text(&stage, "x.vod.m3u8");
    assert_eq!((text.matches("#EXT-X-DISCONTINUITY\n").count(), text.matches("#EXT-X-MAP").count()), (2, 3), "{text}");
    assert!(text.contains("PROGRAM-DATE-TIME:2025-06-15T15:06:45.0"), "{text}");
    assert!(text.contains("PROGRAM-DATE-TIME:2025-06-15T15:06:51.0"), "{text}");
    // FFmpeg goes on with the first description, so each stretch is judged for itself.
    let mut judged = (0, 0);
    for (stretch, wanted) in [3, 4, 4].into_iter().enumerate() {
        let pieces = uris(&text).into_iter().filter(|uri| uri.contains(&format!("/{stretch}-")));
        let folder = uris(&text)[0].split('/').next().unwrap().to_owned();
        let mut file = fs::read(stage.path("x").with_file_name(format!("{folder}/{stretch}.mp4"))).unwrap();
        pieces.for_each(|uri| file.extend(fs::read(stage.path("x").with_file_name(uri)).unwrap()));
        let path = scratch.path(&format!("{stretch}.mp4"));
        fs::write(&path, file).unwrap();
        let (complaints, counts) = judge(&path);
        assert_eq!(complaints, "", "stretch {stretch}");
        assert!(counts[0].1 >= wanted * 30 - 2, "stretch {stretch}: {counts:?}");
        judged = (judged.0 + counts[0].1, judged.1 + counts[1].1);
    }
    assert_eq!(judged, frames, "every frame is somewhere");
    stage.close().await;
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_process_left_plays_whatever_is_in_its_playlist() {
    let scratch = Scratch::new("hls-dead");
    let sources = encode(&scratch, Some(("160x120", H264)), Some(AAC), 6);
    let living = stage(&scratch.path("data")).await;
    let mut show = living.publish("x", BORN_US, &sources).await;
    show.all();
    let growing = living.path("x.vod.m3u8.recording");
    let index =
        until("five segments", async || fs::read_to_string(&growing).ok().filter(|text| uris(text).len() >= 5)).await;
    assert!(index.contains("#EXT-X-PLAYLIST-TYPE:EVENT\n") && !index.contains("ENDLIST"), "{index}");
    copy(&scratch.path("data/live"), &scratch.path("as-it-died"));
    let known = living.row("x.vod.m3u8").await.unwrap();
    show.finish();
    living.close().await;

    let torn = index[..index.len() / 2].to_owned();
    for (name, index) in [("whole", index.as_str()), ("torn", torn.as_str()), ("empty", ""), ("nonsense", "\0\0\0\n#")]
    {
        let data = scratch.path(name);
        copy(&scratch.path("as-it-died"), &data.join("live"));
        fs::write(data.join("live/streams/x.vod.m3u8.recording"), index).unwrap();
        // With a registry that knows nothing of it: all is told by the disk.
        let stage = stage(&data).await;
        let row = stage.ready("x.vod.m3u8").await;
        tells_the_truth(&stage, &row);
        assert_eq!((&row.vod_id, &*row.stream), (&known.vod_id, "x"), "{name}");
        assert!((4_900..=5_300).contains(&row.duration_ms), "{name}: {row:?}");
        let (complaints, _) = judge(&stage.path("x.vod.m3u8"));
        assert_eq!(complaints, "", "{name}");
        assert!(text(&stage, "x.vod.m3u8").contains("PROGRAM-DATE-TIME:2025-06-15T15:06:40.0"), "{name}");
        stage.recorder.finalised().await;
        assert!(!stage.path("x.vod.m3u8.recording").exists());
        stage.close().await;
    }
}
