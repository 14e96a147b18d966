//! A registry that takes nothing while a broadcast is recorded: nothing is lost, and all is told once it is back.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};
use headwater_common::{
    config::{self, Layers},
    live::BroadcastId,
    registry::{
        Bid, BroadcastRow, Claimed, Details, Embedded, Ending, Event, Happening, Mailbox, Mailboxes, Progress,
        RecordingFilter, RecordingRow, RecordingState, Registry, RegistryError, Take, Turn, VodId,
    },
    store::s3::Bucket,
};

use crate::{
    AAC, H264,
    ffmpeg::{Scratch, encode, judge},
    stage::{BORN_US, Stage, began, settings, until},
};

/// It answers, and takes no rows of recordings while it is away.
struct Fickle {
    kept: Embedded,
    away: AtomicBool,
}

macro_rules! hand_on {
    ($trait:ident; $($name:ident($($given:ident: $of:ty),*) -> $answer:ty;)* { $($own:item)* }) => {
        #[async_trait]
        impl $trait for Fickle {
            $(async fn $name(&self, $($given: $of),*) -> Result<$answer, RegistryError> {
                self.kept.$name($($given),*).await
            })*

            $($own)*
        }
    };
}

hand_on! {
    Registry;
    claim(id: &BroadcastId, bid: &Bid) -> Claimed;
    progress(batch: &[Progress], now_us: i64) -> ();
    finish(last: &Progress, ending: Ending, now_us: i64) -> bool;
    create(id: &BroadcastId, details: Details, now_us: i64) -> BroadcastRow;
    set_details(id: &BroadcastId, details: Details) -> bool;
    set_record(id: &BroadcastId, record_override: Option<bool>) -> bool;
    set_take(id: &BroadcastId, take: &Take, on: Option<bool>, now_us: i64) -> bool;
    get(id: &BroadcastId) -> Option<BroadcastRow>;
    list(app: &str, offset: usize, size: usize) -> Vec<BroadcastRow>;
    count(app: &str) -> usize;
    remove(id: &BroadcastId) -> bool;
    recording(app: &str, vod_id: &VodId) -> Option<RecordingRow>;
    recording_of_file(app: &str, file: &str) -> Option<RecordingRow>;
    list_recordings(app: &str, filter: RecordingFilter<'_>, offset: usize, size: usize) -> Vec<RecordingRow>;
    count_recordings(app: &str, filter: RecordingFilter<'_>) -> usize;
    unfinished_recordings(node: &str) -> Vec<RecordingRow>;
    remove_recording(app: &str, vod_id: &VodId) -> Option<RecordingRow>;
    {
    async fn put_recording(&self, row: &RecordingRow) -> Result<(), RegistryError> {
        if self.away.load(Relaxed) {
            return Err(RegistryError::Away);
        }
        self.kept.put_recording(row).await
    }

    fn operation_time(&self) -> Duration {
        self.kept.operation_time()
    }
    }
}

hand_on! {
    Mailboxes;
    collect_events() -> ();
    due_mailboxes(then_ms: i64, size: usize) -> Vec<Mailbox>;
    turn_mailbox(id: &BroadcastId, turn: &Turn) -> Option<Mailbox>;
    defer_mailboxes(ids: &[BroadcastId], until_ms: i64) -> ();
    {
    fn noted(&self) -> &tokio::sync::Notify {
        self.kept.noted()
    }
    }
}

/// Objects of one bucket, as far as a recorder asks for them: whole, and with the recording's id.
#[derive(Clone, Default)]
struct Objects {
    /// Key, what it carries, whose it is.
    kept: Arc<Mutex<BTreeMap<String, (Bytes, String)>>>,
    broken: Arc<AtomicBool>,
}

const VOD_ID: &str = "x-amz-meta-vod-id";

impl Objects {
    /// Over HTTP; ends with the test.
    async fn serve(&self) -> Bucket {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let mut layers = Layers::defaults().unwrap().with(&["store", "s3", "path_style"], true);
        for (key, value) in
            [("bucket", "b"), ("endpoint", endpoint.as_str()), ("access_key", "AK"), ("secret_key", "SK")]
        {
            layers = layers.with(&["store", "s3", key], value);
        }
        Bucket::open(&layers.build().unwrap().store.s3).await.unwrap()
    }

    fn sizes(&self) -> BTreeMap<String, u64> {
        let kept = self.kept.lock().unwrap();
        kept.iter().map(|(key, (bytes, _))| (key.clone(), bytes.len() as u64)).collect()
    }
}

async fn answer(State(objects): State<Objects>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    if objects.broken.load(Relaxed) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let key = uri.path().strip_prefix("/b/").unwrap_or_default().to_owned();
    let mut kept = objects.kept.lock().unwrap();
    let etag = |bytes: &Bytes| format!("\"{}\"", bytes.len());
    match method {
        Method::PUT => {
            let owner = headers[VOD_ID].to_str().unwrap().to_owned();
            let tag = etag(&body);
            kept.insert(key, (body, owner));
            [("etag", tag)].into_response()
        }
        Method::HEAD => match kept.get(&key) {
            Some((bytes, owner)) => {
                [("etag", etag(bytes)), (VOD_ID, owner.clone()), ("content-length", bytes.len().to_string())]
                    .into_response()
            }
            None => StatusCode::NOT_FOUND.into_response(),
        },
        Method::DELETE => {
            kept.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => StatusCode::NOT_IMPLEMENTED.into_response(),
    }
}

async fn stage(data: &Path, registry: &Arc<Fickle>, bucket: Option<Bucket>) -> Stage {
    let mut settings = settings(true);
    let rules = config::Recording { hls: true, ..config::Recording::default() };
    settings.rules.insert("live".to_owned(), (&rules).into());
    Stage::with(data, registry.clone(), bucket, settings).await
}

fn fickle(scratch: &Scratch) -> Arc<Fickle> {
    fs::create_dir_all(scratch.path("data")).unwrap();
    let (kept, _) = Embedded::open(&scratch.path("data/registry.redb")).unwrap();
    Arc::new(Fickle { kept, away: AtomicBool::new(true) })
}

/// Both forms of it are on the disk and the registry does not know.
async fn record(stage: &Stage, scratch: &Scratch) {
    let sources = encode(scratch, Some(("160x120", H264)), Some(AAC), 4);
    let mut show = stage.publish("x_1", BORN_US, &sources).await;
    show.all();
    show.finish();
    for file in ["x_1.mp4", "x_1.vod.m3u8"] {
        until(file, async || stage.path(file).exists().then_some(())).await;
    }
    stage.recorder.finalised().await;
    assert_eq!(stage.rows().await, []);
}

fn tells_the_truth(row: &RecordingRow) {
    assert!(row.stream == "x_1" && row.epoch > 0, "{row:?}");
    assert!((3_900..=4_200).contains(&row.duration_ms) && began(row.started_ms, BORN_US), "{row:?}");
    assert!(row.created_ms.is_some(), "{row:?}");
}

fn metric(stage: &Stage, name: &str) -> u64 {
    let text = stage.telemetry.render();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_never_heard_of_is_sent_and_told_when_it_is_back_and_what_was_deleted_is_not() {
    let scratch = Scratch::new("rec-away-bucket");
    let (registry, objects) = (fickle(&scratch), Objects::default());
    // A process that lives on, and one that ends meanwhile.
    for (round, restart) in [false, true].into_iter().enumerate() {
        let data = scratch.path(&format!("node{round}"));
        objects.kept.lock().unwrap().clear();
        registry.away.store(true, Relaxed);
        let mut stage = stage(&data, &registry, Some(objects.serve().await)).await;
        record(&stage, &scratch).await;
        until("tries", async || (metric(&stage, "headwater_upload_failures_total") >= 2).then_some(())).await;
        for file in ["x_1.mp4", "x_1.vod.m3u8"] {
            assert!(stage.path(file).exists(), "{file} is lost");
        }
        assert!(objects.sizes().keys().all(|key| key != "live/streams/x_1.mp4"), "{:?}", objects.sizes());
        if restart {
            stage.close().await;
            stage = self::stage(&data, &registry, Some(objects.serve().await)).await;
        }
        registry.away.store(false, Relaxed);
        let (file, kept) = (stage.ready("x_1.mp4").await, stage.ready("x_1.vod.m3u8").await);
        for row in [&file, &kept] {
            tells_the_truth(row);
            assert!(row.arrived().is_some(), "{row:?}");
            until("the local copy to go", async || (!stage.path(&row.file).exists()).then_some(())).await;
        }
        let sizes = objects.sizes();
        assert_eq!(sizes["live/streams/x_1.mp4"], file.bytes, "{sizes:?}");
        let pieces = sizes.iter().filter(|(key, _)| !key.ends_with(".mp4") || key.contains(kept.vod_id.as_str()));
        assert_eq!(pieces.map(|(_, bytes)| bytes).sum::<u64>(), kept.bytes, "{sizes:?}");
        for row in [file, kept] {
            registry.remove_recording("live", &row.vod_id).await.unwrap();
        }
        stage.close().await;
    }

    // The registry knows it, and another node deletes it while the bucket takes nothing.
    let stage = stage(&scratch.path("deleted"), &registry, Some(objects.serve().await)).await;
    objects.kept.lock().unwrap().clear();
    objects.broken.store(true, Relaxed);
    let sources = encode(&scratch, Some(("160x120", H264)), Some(AAC), 2);
    let mut show = stage.publish("y", BORN_US, &sources).await;
    show.all();
    show.finish();
    let waits = async || {
        let row = stage.row("y.mp4").await.filter(|row| matches!(row.state, RecordingState::Uploading { .. }));
        row.filter(|row| row.object.is_some())
    };
    let row = until("a failure to be told", waits).await;
    registry.remove_recording("live", &row.vod_id).await.unwrap();
    objects.broken.store(false, Relaxed);
    until("the file to go", async || (!stage.path("y.mp4").exists()).then_some(())).await;
    stage.ready("y.vod.m3u8").await;
    assert!(!objects.sizes().contains_key("live/streams/y.mp4"), "{:?}", objects.sizes());
    assert!(stage.row("y.mp4").await.is_none());
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_on_the_disk_is_told_when_the_registry_is_back() {
    let scratch = Scratch::new("rec-away-disk");
    let registry = fickle(&scratch);
    for (round, restart) in [false, true].into_iter().enumerate() {
        let data = scratch.path(&format!("node{round}"));
        registry.away.store(true, Relaxed);
        let mut stage = stage(&data, &registry, None).await;
        record(&stage, &scratch).await;
        let left = stage.path("x_1.mp4.recording");
        assert_eq!(fs::metadata(&left).unwrap().len(), 0, "a sign for the next process that takes no room");
        if restart {
            stage.close().await;
            registry.away.store(false, Relaxed);
            stage = self::stage(&data, &registry, None).await;
        }
        registry.away.store(false, Relaxed);
        for file in ["x_1.mp4", "x_1.vod.m3u8"] {
            let row = stage.ready(file).await;
            let (complaints, _) = judge(&stage.path(file));
            assert_eq!(complaints, "", "{file}");
            assert_eq!(row.stream, "x_1");
            let mailboxes = registry.due_mailboxes(i64::MAX, 1).await.unwrap();
            let is_news_of_it = |event: &Event| matches!(&event.what, Happening::VodReady { vod_id, .. } if *vod_id == *row.vod_id.as_str());
            assert!(mailboxes.iter().any(|mailbox| mailbox.events.iter().any(is_news_of_it)), "{mailboxes:?}");
            if !restart {
                tells_the_truth(&row);
            }
            let draft = stage.path(&format!("{file}.recording"));
            until("the sign to go", async || (!draft.exists()).then_some(())).await;
            registry.remove_recording("live", &row.vod_id).await.unwrap();
        }
        stage.close().await;
    }
}
