//! Synthetic broadcasts through the cutter, the window, the playlist, and the doors.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    http::{Request, StatusCode, header},
    response::Response,
};
use headwater_common::{
    finder::Finder,
    http::cross_origin,
    live::{BroadcastId, Claim, Hub, Publisher, Takeover, Writer},
    load::Load,
    media::{Codec, Frame, Gop, Info, Kind, Sample, Shape},
    node::Node,
    telemetry::Telemetry,
};
use tower::ServiceExt;

use super::{
    Hls,
    cutter::{Cutter, Part},
    lint::{Lint, Playlist},
    mux::Init,
    playlist::{Form, render},
    router,
    variant::Variant,
    window::Window,
};

pub(super) fn text_of(window: &Window, delta: bool) -> String {
    render(window, "x", Variant::Source, Form { delta, nested: true }, &[])
}

pub(super) fn video_info() -> Info {
    let config = Bytes::from_static(
        b"\x01\x42\xc0\x1e\xff\xe1\x00\x17\x67\x42\xc0\x1e\xd9\x00\xa0\x47\xfe\xc8\x00\x00\x00\x01\x00\x00\x03\x00\x3c\x8f\x16\x2e\x48\x01\x00\x04\x68\xcb\x83\xcb",
    );
    Info { codec: Codec::H264, config, shape: Shape::Video { width: 640, height: 360, reorders: false } }
}

fn audio_info() -> Info {
    let config = Bytes::from_static(&[0x11, 0x90]);
    Info { codec: Codec::Aac, config, shape: Shape::Audio { sample_rate: 48_000, channels: 2 } }
}

/// What a publisher sends, in the order of time.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) fps: i64,
    pub(super) gop_frames: i64,
    pub(super) video: bool,
    pub(super) audio: bool,
}

pub(super) const CAMERA: Source = Source { fps: 30, gop_frames: 60, video: true, audio: true };

impl Source {
    fn samples(self, from_us: i64, until_us: i64) -> Vec<(Kind, Sample)> {
        let mut samples = Vec::new();
        let sample = |dts_us: i64, keyframe, byte: i64| {
            let payload = Bytes::from(vec![0, 0, 0, 4, 0x65, byte as u8, (byte >> 8) as u8, (byte >> 16) as u8]);
            Sample { dts_us, pts_us: dts_us, keyframe, payload }
        };
        if self.video {
            let frames = (0..).map(|n| (n, from_us + n * 1_000_000 / self.fps)).take_while(|(_, us)| *us < until_us);
            // Milliseconds, as RTMP has them.
            samples
                .extend(frames.map(|(n, us)| (Kind::Video, sample(us / 1_000 * 1_000, n % self.gop_frames == 0, n))));
        }
        if self.audio {
            let frames = (0..).map(|n| (n, from_us + n * 1_024_000 / 48)).take_while(|(_, us)| *us < until_us);
            samples.extend(frames.map(|(n, us)| (Kind::Audio, sample(us / 1_000 * 1_000, true, n))));
        }
        samples.sort_by_key(|(kind, sample)| (sample.dts_us, *kind));
        samples
    }
}

pub(super) const BORN_US: i64 = 1_763_690_000_000_000;

/// A hub with one broadcast, on a clock of its own.
pub(super) struct Stage {
    hub: Arc<Hub>,
    node: Node,
    pub(super) id: BroadcastId,
    pub(super) epoch: u64,
    /// Of the next claim, should its hall not know better.
    pub(super) numbers: (u64, u64),
    pub(super) now_us: i64,
}

impl Stage {
    pub(super) fn new() -> Self {
        let id = BroadcastId::new("live", "cam.1_720p").unwrap();
        Self { hub: Hub::new(), node: Node::starting(), id, epoch: 0, numbers: (40, 3), now_us: BORN_US }
    }

    pub(super) fn claim(&mut self, source: Source) -> Writer {
        self.epoch += 1;
        let publisher = Publisher { protocol: "test", remote: String::new(), agent: String::new() };
        let claim = Claim {
            epoch: self.epoch,
            next_gop: self.numbers.0,
            discontinuity: self.numbers.1,
            born_us: self.hub.get(&self.id).map_or(BORN_US, |known| known.born_us()),
            segment_target_s: None,
            publisher,
        };
        let mut writer = self.hub.claim(&self.id, claim, Takeover::Replace, self.now_us).unwrap();
        if source.video {
            writer.announce(video_info()).unwrap();
        }
        if source.audio {
            writer.announce(audio_info()).unwrap();
        }
        writer
    }

    /// Sends this stretch of the source's own time.
    pub(super) fn play(&mut self, writer: &mut Writer, source: Source, from_us: i64, until_us: i64) {
        let began_us = self.now_us - from_us;
        for (kind, sample) in source.samples(0, until_us).into_iter().filter(|(_, s)| s.dts_us >= from_us) {
            self.now_us = began_us + sample.dts_us;
            writer.write(kind, sample, self.now_us).unwrap();
        }
        self.now_us = began_us + until_us;
    }
}

/// The frames that a publisher's samples become, minted by a real broadcast, written a second at a time so that
/// none leaves the ring unread.
fn frames(source: Source, seconds: i64) -> (Vec<Arc<Frame>>, Vec<Arc<Frame>>, u32) {
    frames_at(&mut Stage::new(), source, seconds)
}

pub(super) fn frames_at(stage: &mut Stage, source: Source, seconds: i64) -> (Vec<Arc<Frame>>, Vec<Arc<Frame>>, u32) {
    let mut writer = stage.claim(source);
    let broadcast = writer.broadcast().clone();
    let read = |kind| broadcast.source(kind).map(|track| track.read(headwater_common::live::Start::Oldest));
    let (mut video, mut audio) = (read(Kind::Video), read(Kind::Audio));
    let (mut videos, mut audios) = (Vec::new(), Vec::new());
    for second in 0..seconds {
        stage.play(&mut writer, source, second * 1_000_000, (second + 1) * 1_000_000);
        videos.extend(std::iter::from_fn(|| video.as_mut()?.try_next()));
        audios.extend(std::iter::from_fn(|| audio.as_mut()?.try_next()));
    }
    (videos, audios, broadcast.segment_target_s().unwrap())
}

/// Feeds both tracks, audio late by so much media time.
pub(super) fn cut(videos: &[Arc<Frame>], audios: &[Arc<Frame>], target_s: u32, audio_late_us: i64) -> Vec<Part> {
    let mut all: Vec<_> = videos.iter().map(|f| (f.dts_us, Kind::Video, f)).collect();
    all.extend(audios.iter().map(|f| (f.dts_us + audio_late_us, Kind::Audio, f)));
    all.sort_by_key(|(us, kind, _)| (*us, *kind));
    let mut cutter = Cutter::new(target_s, i64::MIN);
    cutter.expect(Kind::Video, !videos.is_empty());
    cutter.expect(Kind::Audio, !audios.is_empty());
    let mut parts = Vec::new();
    all.into_iter().for_each(|(_, kind, frame)| cutter.push(kind, frame.clone(), &mut parts));
    parts
}

fn bytes(parts: &[Part]) -> Vec<(u64, u32, bool, i64, bool, u64, Bytes)> {
    let bytes = |part: &Part| {
        let init = Init::new(part.gop.discontinuity, &part.formats).unwrap();
        let data = init.fragment(part);
        (part.gop.id, part.index, part.last, part.duration_us, part.independent, init.digest, data)
    };
    parts.iter().map(bytes).collect()
}

/// Every text of the playlist as the parts come, judged; returns the last one.
pub(super) fn playlists(parts: Vec<Part>, born_us: i64, target_s: u32, lint: &mut Lint) -> (Window, String) {
    let mut window = Window::new(born_us, target_s);
    let mut text = String::new();
    for part in parts {
        let init = Init::new(part.gop.discontinuity, &part.formats).unwrap();
        let data = init.fragment(&part);
        window.push(&part, &init, data);
        if !window.playable() {
            continue;
        }
        text = text_of(&window, false);
        assert!(text.contains("#EXTINF"), "empty: {text}");
        assert_eq!(lint.check(&text), Vec::<String>::new(), "{text}");
        let delta = text_of(&window, true);
        assert_eq!(Lint::check_delta(&text, &delta), Vec::<String>::new(), "{text}\n{delta}");
    }
    (window, text)
}

#[test]
fn two_edges_cut_the_same_bytes_however_tracks_were_interleaved() {
    let (videos, audios, target_s) = frames(CAMERA, 12);
    let expected = bytes(&cut(&videos, &audios, target_s, 0));
    assert!(expected.len() > 45, "{}", expected.len());
    for late_us in [-900_000, -200_000, -7_000, 40_000, 333_000, 900_000] {
        let cut = bytes(&cut(&videos, &audios, target_s, late_us));
        let both = cut.len().min(expected.len());
        assert!(both > 45);
        assert!(cut[..both] == expected[..both], "audio late by {late_us}");
    }
}

#[test]
fn every_shape_of_source_makes_a_lawful_playlist() {
    for fps in [5, 12, 15, 24, 25, 30, 60] {
        for (gop_frames, video, audio) in
            [(fps * 2, true, true), (fps * 2 + 1, true, false), (fps, true, true), (1, false, true)]
        {
            let source = Source { fps, gop_frames, video, audio };
            let (videos, audios, target_s) = frames(source, 40);
            let parts = cut(&videos, &audios, target_s, 0);
            let frames_in = videos.len() + audios.len();
            let frames_out: usize = parts.iter().map(|part| part.video.frames.len() + part.audio.frames.len()).sum();
            assert!(frames_in - frames_out < 200, "{frames_in} in, {frames_out} out");
            let (_, text) = playlists(parts, 1_763_690_000_000_000, target_s, &mut Lint::default());
            let list = Playlist::parse(&text).unwrap();
            let total_s: f64 = list.segments.iter().map(|segment| segment.duration_s).sum();
            assert!(list.segments.len() >= 6 && (20.0..26.0).contains(&total_s), "{total_s}: {text}");
            assert!(list.media_sequence > 40, "{text}");
            let parsed = quick_m3u8::Reader::from_str(&text, quick_m3u8::config::ParsingOptions::default());
            let mut reader = parsed;
            let mut lines = 0;
            while let Ok(Some(_)) = reader.read_line() {
                lines += 1;
            }
            assert_eq!(lines, text.lines().count());
        }
    }
}

#[test]
fn delta_updates_leave_out_the_old() {
    let (videos, audios, target_s) = frames(Source { gop_frames: 60, ..CAMERA }, 40);
    let (window, _) = playlists(cut(&videos, &audios, target_s, 0), 0, target_s, &mut Lint::default());
    let delta = Playlist::parse(&text_of(&window, true)).unwrap();
    assert!(delta.skipped >= 3, "{delta:?}");
    assert_eq!(delta.version, 9);
}

#[test]
fn a_silent_track_is_waited_for_and_then_not() {
    let (videos, audios, target_s) = frames(CAMERA, 8);
    let until_4_s: Vec<_> = audios.iter().filter(|f| f.dts_us < 4_000_000).cloned().collect();
    let parts = cut(&videos, &until_4_s, target_s, 0);
    let newest_us = videos.last().unwrap().dts_us;
    let end_us =
        parts.last().map(|part| part.gop.start_us + i64::from(part.index + 1) * super::cutter::PART_US).unwrap();
    let behind_us = newest_us - end_us;
    assert!((900_000..1_300_000).contains(&behind_us), "{behind_us}");
    assert!(parts.last().unwrap().audio.frames.is_empty());
    // The tracks of an init section stay the same meanwhile.
    assert!(parts.iter().all(|part| part.formats.audio.is_some() && part.formats.video.is_some()));
    playlists(parts, 0, target_s, &mut Lint::default());
}

#[test]
fn sound_that_starts_within_the_first_gop_is_in_its_init_section() {
    let (videos, audios, target_s) = frames(CAMERA, 8);
    let from_500_ms: Vec<_> = audios.iter().filter(|f| f.dts_us > videos[0].dts_us + 500_000).cloned().collect();
    let parts = cut(&videos, &from_500_ms, target_s, 0);
    assert!(parts[0].audio.frames.is_empty());
    assert!(parts.iter().all(|part| part.formats.audio.is_some() && part.formats.video.is_some()));
    let heard: usize = parts.iter().map(|part| part.audio.frames.len()).sum();
    assert!(heard + 60 > from_500_ms.len(), "{heard} of {}", from_500_ms.len());
}

#[test]
fn what_comes_late_is_played_late_and_not_lost() {
    let (videos, audios, target_s) = frames(CAMERA, 10);
    let parts = cut(&videos, &audios, target_s, 1_500_000);
    let heard: usize = parts.iter().map(|part| part.audio.frames.len()).sum();
    // The first segment began without sound.
    assert!(heard > audios.len() / 2, "{heard} of {}", audios.len());
}

#[test]
fn slow_pictures_leave_parts_empty_but_lawful() {
    let source = Source { fps: 2, gop_frames: 4, video: true, audio: false };
    let (videos, _, target_s) = frames(source, 30);
    let parts = cut(&videos, &[], target_s, 0);
    assert!(parts.iter().any(|part| part.video.frames.is_empty()));
    playlists(parts, 0, target_s, &mut Lint::default());
}

#[test]
fn gops_that_went_missing_empty_the_playlist() {
    let (videos, _, target_s) = frames(Source { audio: false, ..CAMERA }, 30);
    let lost = |frame: &&Arc<Frame>| !(48..50).contains(&frame.gop.id);
    let kept: Vec<_> = videos.iter().filter(lost).cloned().collect();
    let parts = cut(&kept, &[], target_s, 0);
    let (window, text) = playlists(parts, 0, target_s, &mut Lint::default());
    assert_eq!(window.listed().next().unwrap().gop.id, 50, "{text}");
    assert!(window.segment(1, 46).is_some(), "players that read about it may still fetch it");
    assert!(window.segment(1, 47).is_none(), "its end is not known");
}

#[test]
fn a_reader_that_joins_inside_a_gop_waits_for_the_next() {
    let (videos, audios, target_s) = frames(CAMERA, 8);
    let parts = cut(&videos[17..], &audios, target_s, 0);
    let first: &Gop = &parts[0].gop;
    assert_eq!((first.id, parts[0].index), (41, 0));
    assert!(parts[0].audio.frames.iter().all(|f| f.dts_us >= first.start_us));
}

// From here on through the doors.

pub(super) struct Edge {
    pub(super) stage: Stage,
    pub(super) hls: Arc<Hls>,
    router: Router,
}

impl Edge {
    pub(super) fn new() -> Self {
        let stage = Stage::new();
        let hls = Hls::new(Finder::hub(stage.hub.clone()), stage.node.clone(), &Telemetry::new());
        Self { router: router(hls.clone()).layer(axum::middleware::from_fn(cross_origin)), stage, hls }
    }

    pub(super) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::builder().method(method).uri(format!("/live/streams/{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.ask("GET", path, &[]).await;
        let status = response.status();
        (status, String::from_utf8(body(response).await.to_vec()).unwrap_or_default())
    }

    async fn playlist(&self) -> Playlist {
        let (status, text) = self.get("cam.1_720p.m3u8").await;
        assert_eq!(status, StatusCode::OK, "{text}");
        assert_eq!(Lint::default().check(&text), Vec::<String>::new(), "{text}");
        Playlist::parse(&text).unwrap()
    }

    /// Asks until the answer is right.
    async fn playlist_where(&self, right: impl Fn(&Playlist) -> bool) -> Playlist {
        for _ in 0..2_000 {
            let list = self.playlist().await;
            if right(&list) {
                return list;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never right: {:?}", self.playlist().await);
    }
}

async fn body(response: Response) -> Bytes {
    to_bytes(response.into_body(), usize::MAX).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_player_finds_a_full_playlist_and_every_piece_from_both_addresses() {
    let mut edge = Edge::new();
    let mut writer = edge.stage.claim(CAMERA);
    edge.stage.play(&mut writer, CAMERA, 0, 30_000_000);
    let list = edge.playlist_where(|list| list.segments.len() >= 3).await;
    for uri in list.segments.iter().flat_map(|s| s.parts.iter().map(|p| &p.uri).chain([&s.uri, &s.map])) {
        let response = edge.ask("GET", uri, &[]).await;
        assert_eq!(response.status(), StatusCode::OK, "{uri}");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "video/mp4");
        assert!(response.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    }
    let last = list.segments.last().unwrap();
    let whole = body(edge.ask("GET", &last.uri, &[]).await).await;
    let mut glued = Vec::new();
    for part in &last.parts {
        glued.extend(body(edge.ask("GET", &part.uri, &[]).await).await);
    }
    assert_eq!(whole, glued);
    let range = edge.ask("GET", &last.uri, &[("range", "bytes=100-299")]).await;
    assert_eq!(range.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(range.headers()[header::CONTENT_RANGE], format!("bytes 100-299/{}", whole.len()));
    assert_eq!(body(range).await, whole[100..300]);
    let (_, nested) = edge.get("cam.1_720p/playlist.m3u8").await;
    let nested = Playlist::parse(&nested).unwrap();
    assert_eq!(format!("cam.1_720p/{}", nested.segments[0].uri), list.segments[0].uri);
    assert_eq!(edge.hls.viewers(&edge.stage.id), 1);
}

#[tokio::test(start_paused = true)]
async fn blocking_requests_are_answered_when_there_is_news() {
    let mut edge = Edge::new();
    let mut writer = edge.stage.claim(CAMERA);
    edge.stage.play(&mut writer, CAMERA, 0, 10_100_000);
    let list = edge.playlist_where(|list| list.segments.len() == 3).await;
    let next = list.media_sequence + list.segments.len() as u64;
    let hint = list.hint.clone().unwrap();
    let path = |query: String| format!("cam.1_720p.m3u8?{query}");

    let (early, _) = edge.get(&path(format!("_HLS_msn={}", next + 3))).await;
    assert_eq!(early, StatusCode::BAD_REQUEST);
    let (early, _) = edge.get(&path(format!("_HLS_msn={next}&_HLS_part=40"))).await;
    assert_eq!(early, StatusCode::BAD_REQUEST);
    assert_eq!(edge.get(&path("_HLS_part=1".into())).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(edge.get(&path("_HLS_msn=0".into())).await.0, StatusCode::OK);

    // Nobody publishes: time passes (here by itself), and the wait ends.
    let began = tokio::time::Instant::now();
    let (late, _) = edge.get(&path(format!("_HLS_msn={next}&_HLS_part=3"))).await;
    assert_eq!((late, began.elapsed().as_secs()), (StatusCode::SERVICE_UNAVAILABLE, 6));
    assert_eq!(edge.get(&hint).await.0, StatusCode::NOT_FOUND);

    let blocked = edge.ask("GET", &hint, &[]);
    let reload_path = path(format!("_HLS_msn={next}&_HLS_part=1&_HLS_skip=YES"));
    let reload = edge.ask("GET", &reload_path, &[("accept-encoding", "gzip")]);
    let head_path = path(format!("_HLS_msn={next}&_HLS_part=1"));
    let head = edge.ask("HEAD", &head_path, &[]);
    let stage = &edge.stage;
    let mut now_us = stage.now_us;
    let publish = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        for (kind, sample) in CAMERA.samples(0, 10_600_000).into_iter().filter(|(_, s)| s.dts_us >= 10_100_000) {
            now_us += 5_000;
            writer.write(kind, sample, now_us).unwrap();
        }
    };
    let (part, reload, head, ()) = tokio::join!(blocked, reload, head, publish);
    assert_eq!(part.status(), StatusCode::OK);
    assert!(!body(part).await.is_empty());
    assert_eq!(reload.status(), StatusCode::OK);
    assert_eq!(reload.headers()[header::CONTENT_ENCODING], "gzip");
    assert_eq!(reload.headers()[header::CACHE_CONTROL], "public, max-age=12");
    assert_eq!(body(reload).await[..2], [0x1f, 0x8b]);
    assert_eq!(head.status(), StatusCode::OK);
    assert!(body(head).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_and_a_return_is_a_discontinuity() {
    let mut edge = Edge::new();
    let mut writer = edge.stage.claim(CAMERA);
    edge.stage.play(&mut writer, CAMERA, 0, 7_300_000);
    edge.playlist_where(|list| list.segments.len() == 3).await;
    writer.finish(edge.stage.now_us);
    let ended = edge.playlist_where(|list| list.ended).await;
    assert_eq!(ended.segments.len(), 4);
    assert!((ended.segments[3].duration_s - 1.3).abs() < 0.05, "{ended:?}");

    edge.stage.now_us += 3_000_000;
    let mut writer = edge.stage.claim(CAMERA);
    edge.stage.play(&mut writer, CAMERA, 0, 4_500_000);
    let back = edge.playlist_where(|list| !list.ended && list.segments.len() == 6).await;
    for (before, after) in ended.segments.iter().zip(&back.segments) {
        assert_eq!((&before.uri, before.duration_s, before.at_us), (&after.uri, after.duration_s, after.at_us));
    }
    assert_eq!(back.segments[3].discontinuity + 1, back.segments[4].discontinuity);

    writer.finish(edge.stage.now_us);
    edge.stage.hub.sweep(edge.stage.now_us + 61_000_000);
    assert_eq!(edge.get("cam.1_720p.m3u8").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn a_full_node_goes_on_with_its_players_and_takes_no_others() {
    let mut edge = Edge::new();
    let mut writer = edge.stage.claim(CAMERA);
    edge.stage.play(&mut writer, CAMERA, 0, 10_100_000);
    let list = edge.playlist_where(|list| list.segments.len() == 3).await;
    edge.stage.node.ready();
    edge.stage.node.bear(Load { used_percent: 100, ..Load::default() }, true);
    assert_eq!(edge.get("cam.1_720p.m3u8").await.0, StatusCode::OK, "it plays already");
    let other = [("user-agent", "another player")];
    let refused = edge.ask("GET", "cam.1_720p.m3u8", &other).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    assert!(body(refused).await.starts_with(b"this node is full"));
    // One that comes from another node in the middle of the stream.
    let newest = list.media_sequence + 2;
    let moved = edge.ask("GET", &format!("cam.1_720p.m3u8?_HLS_msn={newest}"), &other).await;
    assert_eq!(moved.status(), StatusCode::OK);
    assert_eq!(edge.ask("GET", &list.segments[2].uri, &other).await.status(), StatusCode::OK);
    assert_eq!(edge.ask("GET", "cam.1_720p.m3u8", &other).await.status(), StatusCode::OK, "it plays here now");
    assert_eq!(edge.hls.all_viewers(), 2);
}

#[tokio::test(start_paused = true)]
async fn nobody_asking_ends_the_packager() {
    let mut edge = Edge::new();
    let mut writer = edge.stage.claim(CAMERA);
    edge.stage.play(&mut writer, CAMERA, 0, 5_000_000);
    edge.playlist_where(|list| list.segments.len() == 2).await;
    let track = writer.broadcast().source(Kind::Video).unwrap();
    assert_eq!(track.readers(), 1);
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(track.readers(), 1);
    tokio::time::timeout(Duration::from_secs(3), track.unwanted()).await.expect("still reading");
    assert_eq!(edge.playlist_where(|list| list.segments.len() == 2).await.media_sequence, 40);
}

#[tokio::test(start_paused = true)]
async fn strangers_are_told_at_once_and_across_origins() {
    let mut edge = Edge::new();
    let began = tokio::time::Instant::now();
    for path in
        ["nobody.m3u8", "nobody/playlist.m3u8", "nobody/1-2-3.m4s", "x.mp4", "%2e%2e.m3u8", "nobody_adaptive.m3u8"]
    {
        for method in ["GET", "HEAD"] {
            let response = edge.ask(method, path, &[("origin", "https://page.example")]).await;
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
            assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://page.example");
            assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "public, max-age=1");
        }
    }
    let preflight = edge.ask("OPTIONS", "nobody.m3u8", &[("origin", "https://page.example")]).await;
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    // Announced, and nothing to play: a probe is answered, a player waits for a while.
    let _writer = edge.stage.claim(CAMERA);
    assert_eq!(edge.ask("HEAD", "cam.1_720p.m3u8", &[]).await.status(), StatusCode::OK);
    assert!(began.elapsed() < Duration::from_millis(100));
    let response = edge.ask("GET", "cam.1_720p.m3u8", &[]).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    assert!(response.headers().contains_key(header::RETRY_AFTER));
}
