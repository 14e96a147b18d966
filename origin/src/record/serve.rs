//! Finished recordings over HTTP. In: a request for `/{app}/streams/{file}.mp4`. Out: the file or a range of it, read
//! from the disk in bounded pieces as the viewer takes them, or 304, 404, 416. Deliberately absent: routes (the path is
//! shared with HLS), CORS and permission (the server's layers), and files that are still being written.

use std::io::ErrorKind;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use headwater_common::store::{Place, Store};
use tower_http::services::ServeFile;

/// Read ahead per viewer.
const PIECE_BYTES: usize = 128 << 10;

pub async fn serve_mp4(store: &Store, app: &str, file: &str, mut request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")]).into_response();
    }
    let Some(place) = Place::new(app, file).ok().filter(|place| place.file().ends_with(".mp4")) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let mut files = ServeFile::new(store.path(&place)).with_buf_chunk_size(PIECE_BYTES);
    // A server may answer several ranges with the whole file (RFC 9110 14.2), and nobody asks an MP4 for several.
    let several = request.headers().get(header::RANGE).is_some_and(|range| range.as_bytes().contains(&b','));
    let condition = request.headers().get(header::IF_RANGE).cloned();
    if several || !range_still_holds(&mut files, condition).await {
        request.headers_mut().remove(header::RANGE);
    }
    let mut response = match files.try_call(request).await {
        Ok(response) => response.map(Body::new),
        Err(error) if error.kind() == ErrorKind::NotFound => return StatusCode::NOT_FOUND.into_response(),
        Err(error) => {
            tracing::error!(file = %place, %error, "recording can't be read");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    if response.status().is_success() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("video/mp4"));
    }
    response
}

/// RFC 9110 13.1.5: a range is only for who still has the rest of the same file.
async fn range_still_holds(files: &mut ServeFile, condition: Option<HeaderValue>) -> bool {
    let Some(condition) = condition else { return true };
    let mut head = Request::new(Body::empty());
    *head.method_mut() = Method::HEAD;
    let Ok(response) = files.try_call(head).await else { return true };
    let is = |name: HeaderName| response.headers().get(name).is_some_and(|value| value == condition);
    is(header::ETAG) || is(header::LAST_MODIFIED)
}
