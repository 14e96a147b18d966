//! Finished files over HTTP, and their end.

use std::fs;

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, Request, StatusCode, header},
    response::{IntoResponse, Response},
};
use headwater_common::store::asked;
use headwater_origin::record::DeleteError;

use crate::{
    H264, SECOND,
    ffmpeg::{Scratch, encode},
    stage::{BORN_US, Stage, place, until},
};

/// As the node answers for an address.
async fn serve(stage: &Stage, request: Request<Body>) -> Response {
    let path = request.uri().path().to_owned();
    match asked(&path) {
        Some((app, asked)) => stage.recorder.serve(app, asked, request).await,
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

pub(crate) async fn get(
    stage: &Stage,
    method: &str,
    file: &str,
    headers: &[(&str, &str)],
) -> (StatusCode, HeaderMap, Bytes) {
    let mut request = Request::builder().method(method).uri(format!("/live/streams/{file}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = serve(stage, request.body(Body::empty()).unwrap()).await;
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, to_bytes(body, usize::MAX).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_served_in_ranges_and_deleted_and_a_restart_forgets_nothing() {
    let scratch = Scratch::new("rec-serve");
    let data = scratch.path("data");
    let stage = Stage::new(&data, false).await;
    let content: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    drop(stage.store.create(&place("x.mp4")).unwrap());
    fs::write(stage.path("x.mp4"), &content).unwrap();
    fs::write(stage.path("x.mp4.recording"), &content).unwrap();
    fs::write(data.join("live/secret.mp4"), b"secret").unwrap();

    let (status, headers, body) = get(&stage, "GET", "x.mp4", &[]).await;
    assert_eq!((status, body.len()), (StatusCode::OK, content.len()));
    assert_eq!(headers[header::CONTENT_TYPE], "video/mp4");
    assert_eq!(headers[header::ACCEPT_RANGES], "bytes");
    let etag = headers[header::ETAG].to_str().unwrap().to_owned();
    let modified = headers[header::LAST_MODIFIED].to_str().unwrap().to_owned();
    let (status, headers, body) = get(&stage, "HEAD", "x.mp4", &[]).await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
    assert_eq!(headers[header::CONTENT_LENGTH], "300000");

    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-1999", 1_000, 2_000),
        ("bytes=299990-", 299_990, 300_000),
        ("bytes=-10", 299_990, 300_000),
        ("bytes=200000-999999", 200_000, 300_000),
    ] {
        let (status, headers, body) = get(&stage, "GET", "x.mp4", &[("range", range)]).await;
        assert_eq!(status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(headers[header::CONTENT_RANGE], format!("bytes {from}-{}/300000", to - 1));
        assert_eq!(&body[..], &content[from..to], "{range}");
    }
    let (status, headers, _) = get(&stage, "GET", "x.mp4", &[("range", "bytes=300000-")]).await;
    assert_eq!(
        (status, headers[header::CONTENT_RANGE].to_str().unwrap()),
        (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */300000")
    );
    let (status, _, body) = get(&stage, "GET", "x.mp4", &[("range", "bytes=0-1,5-6")]).await;
    assert_eq!((status, body.len()), (StatusCode::OK, content.len()));
    for validator in [&etag, &modified] {
        let (status, ..) = get(&stage, "GET", "x.mp4", &[("range", "bytes=5-6"), ("if-range", validator)]).await;
        assert_eq!(status, StatusCode::PARTIAL_CONTENT);
    }
    let (status, _, body) = get(&stage, "GET", "x.mp4", &[("range", "bytes=5-6"), ("if-range", "\"other\"")]).await;
    assert_eq!((status, body.len()), (StatusCode::OK, content.len()), "the rest of another file is of no use");
    assert_eq!(get(&stage, "GET", "x.mp4", &[("if-none-match", &etag)]).await.0, StatusCode::NOT_MODIFIED);
    assert_eq!(get(&stage, "GET", "x.mp4", &[("if-modified-since", &modified)]).await.0, StatusCode::NOT_MODIFIED);
    for file in ["y.mp4", "x.mp4.recording", "x.m3u8", "../secret.mp4", "..%2fsecret.mp4", ".mp4", ""] {
        assert_eq!(get(&stage, "GET", file, &[]).await.0, StatusCode::NOT_FOUND, "{file}");
    }
    let request = Request::get("/../streams/x.mp4").body(Body::empty()).unwrap();
    assert_eq!(serve(&stage, request).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(get(&stage, "POST", "x.mp4", &[]).await.0, StatusCode::METHOD_NOT_ALLOWED);
    stage.close().await;

    fs::remove_dir_all(data.join("live")).unwrap();
    let sources = encode(&scratch, Some(("160x120", H264)), None, 2);
    let stage = Stage::new(&data, true).await;
    let mut show = stage.publish("x", BORN_US, &sources).await;
    show.until(SECOND * 3 / 2);
    let row = until("a recording", async || stage.row("x.mp4").await).await;
    assert!(matches!(stage.recorder.delete("live", &row.vod_id).await, Err(DeleteError::InProgress { .. })));
    show.finish();
    stage.close().await;
    let stage = Stage::new(&data, true).await;
    let row = stage.ready("x.mp4").await;
    assert_eq!(stage.recorder.delete("live", &row.vod_id).await.unwrap(), Some(row.clone()));
    assert!(!stage.path("x.mp4").exists() && stage.rows().await.is_empty());
    assert_eq!(stage.recorder.delete("live", &row.vod_id).await.unwrap(), None);
    stage.close().await;
}
