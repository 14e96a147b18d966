//! A broadcast with renditions, made here by hand: all playlists of it, and going from one to another.

use std::{sync::Arc, time::Duration};

use axum::http::StatusCode;
use headwater_common::{
    ladder::Rendition,
    live::{Reader, Start, TrackWriter, Writer},
    media::{Conversion, Frame, Info, Kind, Shape},
};

use super::{
    lint::{Lint, Playlist, Report},
    tests::{CAMERA, Edge, video_info},
};

const RENDITION: Rendition = Rendition { height: 240, video_kbps: 300, audio_kbps: 0 };

/// Half the source's size, with a record of its own.
fn rendition_info() -> Info {
    Info { shape: Shape::Video { width: 426, height: 240, reorders: false }, ..video_info() }
}

/// What a transcoder does.
struct Encoder {
    reader: Reader,
    writer: TrackWriter,
    info: Arc<Info>,
}

impl Encoder {
    fn declare(writer: &Writer) -> Self {
        let broadcast = writer.broadcast();
        let track = broadcast.derive(Conversion::Rendition(RENDITION));
        track.foretell(rendition_info());
        broadcast.offer(vec![RENDITION]);
        let source = broadcast.source(Kind::Video).unwrap();
        Self { reader: source.read(Start::Live), writer: track, info: Arc::new(rendition_info()) }
    }

    /// From the newest whole gop of the source on, as the real one when a playlist asks.
    fn start(&mut self) {
        self.reader = self.reader.track().read(Start::Whole);
    }

    fn work(&mut self) {
        while let Some(frame) = self.reader.try_next() {
            let (gop, payload, info) = (frame.gop.clone(), frame.payload.slice(0..8), self.info.clone());
            let Frame { dts_us, pts_us, keyframe, .. } = *frame;
            self.writer.write(Frame { gop, dts_us, pts_us, keyframe, payload, info, rtp: Default::default() });
        }
    }
}

async fn media(edge: &Edge, path: &str) -> Playlist {
    for _ in 0..1_000 {
        let (status, text) = edge.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        assert_eq!(Lint::default().check(&text), Vec::<String>::new(), "{path}: {text}");
        let list = Playlist::parse(&text).unwrap();
        if list.segments.len() >= 2 {
            return list;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{path} never gets two segments");
}

#[tokio::test(start_paused = true)]
async fn every_quality_is_listed_and_cut_alike() {
    let mut edge = Edge::new();
    let mut writer = edge.stage.claim(CAMERA);
    let mut encoder = Encoder::declare(&writer);
    edge.stage.play(&mut writer, CAMERA, 0, 9_000_000);

    let (status, list) = edge.get("cam.1_720p.m3u8").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(edge.get("cam.1_720p_adaptive.m3u8").await.1, list, "where Ant Media's players look");
    let lines: Vec<_> = list.lines().filter(|line| !line.starts_with("#EXT-X-VERSION")).collect();
    let [_, _, source, source_uri, rendition, rendition_uri, sound, sound_uri] = lines[..] else { panic!("{list}") };
    assert_eq!(
        [source_uri, rendition_uri, sound_uri],
        ["cam.1_720p/playlist.m3u8", "cam.1_720p_240p300kbps.m3u8", "cam.1_720p_audio.m3u8"]
    );
    assert!(source.contains("CODECS=\"avc1.42c01e,mp4a.40.2\",RESOLUTION=640x360,FRAME-RATE=30.0"), "{source}");
    assert!(rendition.contains("CODECS=\"avc1.42c01e,mp4a.40.2\",RESOLUTION=426x240,FRAME-RATE=30.0"), "{rendition}");
    assert!(sound.contains("CODECS=\"mp4a.40.2\"") && !sound.contains("RESOLUTION"), "{sound}");
    let bandwidth =
        |line: &str| -> u64 { line.split("BANDWIDTH=").nth(1).unwrap().split(',').next().unwrap().parse().unwrap() };
    assert!((300_000..340_000).contains(&bandwidth(rendition)), "{rendition}");
    assert!(bandwidth(sound) < bandwidth(source));
    let mut reader = quick_m3u8::Reader::from_str(&list, quick_m3u8::config::ParsingOptions::default());
    while let Some(line) = reader.read_line().unwrap() {
        assert!(!matches!(line, quick_m3u8::HlsLine::UnknownTag(_)), "{list}");
    }
    let track = encoder.writer.track().clone();
    assert_eq!(track.readers(), 0, "a list starts no encoder");

    // The rendition is asked for, and its encoder begins with a gop that is over.
    let asked = edge.get(rendition_uri);
    let encode = async {
        track.wanted().await;
        assert!(track.take_past_request());
        encoder.start();
        encoder.work();
    };
    let ((status, text), ()) = tokio::join!(asked, encode);
    assert_eq!(status, StatusCode::OK, "{text}");
    edge.stage.play(&mut writer, CAMERA, 9_000_000, 13_500_000);
    encoder.work();
    let (source, rendition) = (media(&edge, source_uri).await, media(&edge, rendition_uri).await);
    let sound = media(&edge, sound_uri).await;
    let segments = |list: &Playlist| -> Vec<(u64, Option<i64>, String)> {
        let numbered = (list.media_sequence..).zip(&list.segments);
        numbered.map(|(number, s)| (number, s.at_us, format!("{:.3}", s.duration_s))).collect()
    };
    assert!(segments(&source).ends_with(&segments(&rendition)), "{source:?}\n{rendition:?}");
    assert!(segments(&source).ends_with(&segments(&sound)[1..]), "{source:?}\n{sound:?}");
    assert_eq!(rendition.open.parts.len(), source.open.parts.len());
    assert!(rendition.segments[0].uri.starts_with("cam.1_720p_240p300kbps/"));
    for uri in rendition.segments.iter().chain(&sound.segments).flat_map(|s| [&s.uri, &s.map]) {
        assert_eq!(edge.ask("GET", uri, &[]).await.status(), StatusCode::OK, "{uri}");
    }

    // Each tells where the others are, from its own place.
    let last = (source.media_sequence + source.segments.len() as u64, source.open.parts.len() as u32 - 1);
    let report = |uri: &str| Report { uri: uri.into(), gop: last.0, part: last.1 };
    assert_eq!(
        media(&edge, rendition_uri).await.reports,
        [report("cam.1_720p/playlist.m3u8"), report("cam.1_720p_audio.m3u8")]
    );
    assert_eq!(
        media(&edge, source_uri).await.reports,
        [report("../cam.1_720p_240p300kbps.m3u8"), report("../cam.1_720p_audio.m3u8")]
    );
    assert_eq!(edge.hls.viewers(&edge.stage.id), 1, "who changes the quality is one viewer");

    // Nobody asks for the rendition any more: its encoder may rest, while the source goes on.
    for _ in 0..17 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        edge.get(source_uri).await;
    }
    assert_eq!(track.readers(), 0);

    // It is not offered any more.
    writer.broadcast().offer(Vec::new());
    assert_eq!(edge.get(rendition_uri).await.0, StatusCode::NOT_FOUND);
    assert_eq!(edge.get("cam.1_720p_adaptive.m3u8").await.0, StatusCode::NOT_FOUND);
    assert!(edge.get("cam.1_720p.m3u8").await.1.contains("#EXTINF"), "one quality, one playlist");
}

#[tokio::test(start_paused = true)]
async fn a_quality_that_rested_lists_what_the_others_list() {
    let mut edge = Edge::new();
    let mut writer = edge.stage.claim(CAMERA);
    let _encoder = Encoder::declare(&writer);
    edge.stage.play(&mut writer, CAMERA, 0, 9_000_000);
    let sound_uri = "cam.1_720p_audio.m3u8";
    for second in 9..45 {
        media(&edge, sound_uri).await;
        edge.stage.play(&mut writer, CAMERA, second * 1_000_000, (second + 1) * 1_000_000);
        // What goes on meanwhile takes no time on this clock.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let numbers = |list: Playlist| (list.media_sequence, list.segments.len());
    // The other one waits until everything is cut.
    let source = numbers(media(&edge, "cam.1_720p/playlist.m3u8").await);
    assert_eq!(source, numbers(media(&edge, sound_uri).await));
    assert_eq!(source.1, 10);
}

#[tokio::test(start_paused = true)]
async fn a_rendition_that_is_withdrawn_is_not_waited_for() {
    let mut edge = Edge::new();
    let mut writer = edge.stage.claim(CAMERA);
    let encoder = Encoder::declare(&writer);
    edge.stage.play(&mut writer, CAMERA, 0, 5_000_000);
    let began = tokio::time::Instant::now();
    let withdraw = async {
        encoder.writer.track().wanted().await;
        encoder.writer.track().set_waiting(true);
    };
    let ((status, _), ()) = tokio::join!(edge.get("cam.1_720p_240p300kbps.m3u8"), withdraw);
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(edge.get("cam.1_720p_240p300kbps.m3u8").await.0, StatusCode::NOT_FOUND);
    assert_eq!(edge.get("cam.1_720p/playlist.m3u8").await.0, StatusCode::OK);
}
