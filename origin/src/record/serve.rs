//! Finished recordings over HTTP. In: a request for `/{app}/streams/{file}.mp4`. Out: the file or a range of it, read
//! from the disk or from the bucket in bounded pieces as the viewer takes them, or the bucket's own address for it, or
//! 304, 404, 416. Deliberately absent: routes (the path is shared with HLS), CORS and permission (the server's layers),
//! and files that are still being written.

use std::{io::ErrorKind, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response::Builder},
    response::{IntoResponse, Response},
};
use headwater_common::{
    http::NO_STORE,
    store::{
        Place, Store,
        s3::{Bucket, BucketError, Fault},
    },
};
use tower_http::services::ServeFile;

/// Read ahead per viewer.
const PIECE_BYTES: usize = 128 << 10;
/// How long a viewer may take over a recording, pauses included. Addresses that are signed with an instance's role end
/// earlier, with its credentials.
const ADDRESS_VALID: Duration = Duration::from_secs(6 * 3600);

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

/// A recording that is only in the bucket.
pub(super) struct InBucket<'a> {
    pub(super) bucket: &'a Bucket,
    pub(super) key: &'a str,
    pub(super) etag: &'a str,
    pub(super) bytes: u64,
}

impl InBucket<'_> {
    pub(super) async fn serve(&self, method: &Method, headers: &HeaderMap) -> Response {
        let answer = if self.bucket.plays_by_redirect() {
            self.redirect(method == Method::HEAD).await
        } else {
            self.carry(method == Method::HEAD, headers).await
        };
        answer.unwrap_or_else(|error| {
            let status = match error.fault {
                Fault::NoObject => StatusCode::NOT_FOUND,
                Fault::Range => {
                    let range = format!("bytes */{}", self.bytes);
                    return (StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, range)]).into_response();
                }
                _ => StatusCode::BAD_GATEWAY,
            };
            tracing::error!(%error, "recording can't be played from the bucket");
            status.into_response()
        })
    }

    async fn redirect(&self, head: bool) -> Result<Response, BucketError> {
        let address = self.bucket.address(self.key, head, ADDRESS_VALID).await?;
        Ok((StatusCode::FOUND, [NO_STORE, (header::LOCATION, header_value(&address))]).into_response())
    }

    async fn carry(&self, head: bool, headers: &HeaderMap) -> Result<Response, BucketError> {
        let given = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let answer = Response::builder()
            .header(header::ETAG, header_value(self.etag))
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::CONTENT_TYPE, "video/mp4");
        if given(header::IF_NONE_MATCH).is_some_and(|etags| etags.split(',').any(|etag| etag.trim() == self.etag)) {
            return Ok(respond(answer.status(StatusCode::NOT_MODIFIED), Body::empty()));
        }
        if head {
            let bytes = self.bucket.head(self.key).await?.map(|seen| seen.bytes);
            return Ok(match bytes {
                Some(bytes) => respond(answer.header(header::CONTENT_LENGTH, bytes), Body::empty()),
                None => StatusCode::NOT_FOUND.into_response(),
            });
        }
        let holds = given(header::IF_RANGE).is_none_or(|etag| etag == self.etag);
        let range = given(header::RANGE).filter(|range| holds && !range.contains(','));
        let fetched = self.bucket.get(self.key, range).await?;
        let answer = answer.header(header::CONTENT_LENGTH, fetched.bytes);
        let answer = match &fetched.range {
            Some(range) => {
                answer.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, header_value(range))
            }
            None => answer,
        };
        Ok(respond(answer, Body::new(fetched.body)))
    }
}

/// What a bucket says goes into headers only if it may.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn respond(answer: Builder, body: Body) -> Response {
    answer.body(body).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}
