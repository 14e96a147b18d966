//! Finished recordings over HTTP. In: a request for a file of the store. Out: the file or a range of it, read from the disk or
//! from the bucket in bounded pieces as the viewer takes them, or the bucket's own address for it, or 304, 404, 416.
//! Deliberately absent: routes (the path is shared with live HLS), CORS and permission (the server's layers), and files that
//! are still being written.

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
        s3::{Bucket, BucketError, Fault, content_type},
    },
};
use tower_http::services::ServeFile;

/// Read ahead per viewer.
const PIECE_BYTES: usize = 128 << 10;
/// How long a viewer may take over a recording, pauses included. Addresses that are signed with an instance's role end
/// earlier, with its credentials.
const ADDRESS_VALID: Duration = Duration::from_secs(6 * 3600);

/// Names of pieces never stand for other bytes later.
const FOREVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

pub async fn serve_file(store: &Store, place: &Place, mut request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")]).into_response();
    }
    let mut files = ServeFile::new(store.path(place)).with_buf_chunk_size(PIECE_BYTES);
    // A server may answer several ranges with the whole file (RFC 9110 14.2), and nobody asks a recording for several.
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
        let content_type = HeaderValue::from_static(content_type(place.file()));
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        if place.is_piece() {
            response.headers_mut().insert(header::CACHE_CONTROL, FOREVER);
        }
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
    /// As far as they are known.
    pub(super) etag: Option<&'a str>,
    pub(super) bytes: Option<u64>,
    /// What it names stands beside it, at this node.
    pub(super) is_playlist: bool,
}

impl InBucket<'_> {
    pub(super) async fn serve(&self, method: &Method, headers: &HeaderMap) -> Response {
        let answer = if self.bucket.plays_by_redirect() && !self.is_playlist {
            self.redirect(method == Method::HEAD).await
        } else {
            self.carry(method == Method::HEAD, headers).await
        };
        answer.unwrap_or_else(|error| {
            let status = match error.fault {
                Fault::NoObject => StatusCode::NOT_FOUND,
                Fault::Range => {
                    let range = self.bytes.map_or("bytes */*".to_owned(), |bytes| format!("bytes */{bytes}"));
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
        let described = |etag: &str| {
            Response::builder()
                .header(header::ETAG, header_value(etag))
                .header(header::ACCEPT_RANGES, "bytes")
                .header(header::CONTENT_TYPE, content_type(self.key))
        };
        let is_here = |etag: &str| {
            given(header::IF_NONE_MATCH).is_some_and(|etags| etags.split(',').any(|known| known.trim() == etag))
        };
        if let Some(etag) = self.etag.filter(|etag| is_here(etag)) {
            return Ok(respond(described(etag).status(StatusCode::NOT_MODIFIED), Body::empty()));
        }
        if head {
            return Ok(match self.bucket.head(self.key).await? {
                Some(seen) => {
                    let answer = described(self.etag.unwrap_or(&seen.etag));
                    respond(answer.header(header::CONTENT_LENGTH, seen.bytes), Body::empty())
                }
                None => StatusCode::NOT_FOUND.into_response(),
            });
        }
        let holds = given(header::IF_RANGE).is_none_or(|etag| self.etag == Some(etag));
        let range = given(header::RANGE).filter(|range| holds && !range.contains(','));
        let fetched = self.bucket.get(self.key, range).await?;
        let answer = described(self.etag.unwrap_or(&fetched.etag)).header(header::CONTENT_LENGTH, fetched.bytes);
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
