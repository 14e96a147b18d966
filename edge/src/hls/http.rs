//! HLS over HTTP. In: requests for playlists and pieces of media. Out: shared bytes with the headers that let caches
//! in front of many edges do most of the work. Deliberately absent: TLS, access control, and any lookup outside
//! this process. Sections are those of draft-pantos-hls-rfc8216bis.
//!
//! ```text
//! /{app}/streams/{id}.m3u8               the playlist, GET and HEAD; of the qualities, where there are several
//! /{app}/streams/{id}_adaptive.m3u8      of the qualities, where there are several
//! /{app}/streams/{id}/playlist.m3u8      of the source
//! /{app}/streams/{id}_480p900kbps.m3u8   of a rendition
//! /{app}/streams/{id}/{piece}            segments, parts, init sections; and those of renditions likewise
//! ```

use std::{
    hash::{BuildHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use headwater_common::live::Broadcast;
use tokio::time::timeout;

use super::{
    Hls,
    chunks::Chunks,
    name::Name,
    playlist::Form,
    range::{Range, Unsatisfiable},
    shelf::{FIRST_WAIT, Media, Refusal, Rendered, Wanted},
    variant::{Asked, Variant, asked, variant},
};

const PLAYLIST_TYPE: &str = "application/vnd.apple.mpegurl";
/// Names never stand for other bytes later.
const FOREVER: &str = "public, max-age=31536000, immutable";
/// A stream may begin at any moment.
const SHORTLY: &str = "public, max-age=1";
/// In target durations: what a blocking request got stays true for its URL (appendix B.1).
const BLOCKING_TARGETS: u32 = 6;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// To be merged into the server's router. Wants `ConnectInfo<SocketAddr>` to tell viewers apart.
pub fn router(hls: Arc<Hls>) -> Router {
    Router::new()
        .route("/{app}/streams/{file}", get(flat))
        .route("/{app}/streams/{stream}/{file}", get(nested))
        .with_state(hls)
}

/// The suffix is cut off once and what is left is looked up as it is: ids may contain dots.
async fn flat(State(hls): State<Arc<Hls>>, Path((app, file)): Path<(String, String)>, request: Parts) -> Response {
    let Some(name) = file.strip_suffix(".m3u8") else { return refuse(StatusCode::NOT_FOUND, "no such file") };
    match asked(&hls.hub, &app, name) {
        Some(Asked::Qualities(broadcast)) => qualities(&hls, &broadcast, &request.method).await,
        Some(Asked::Media(broadcast, variant)) => playlist(&hls, broadcast, variant, false, &request).await,
        None => refuse(StatusCode::NOT_FOUND, "no such stream"),
    }
}

async fn nested(
    State(hls): State<Arc<Hls>>,
    Path((app, directory, file)): Path<(String, String, String)>,
    request: Parts,
) -> Response {
    let Some((broadcast, variant)) = variant(&hls.hub, &app, &directory) else {
        return refuse(StatusCode::NOT_FOUND, "no such stream");
    };
    match Name::parse(&file) {
        Some(name) => piece(&hls, broadcast, variant, name, &request).await,
        None if file == "playlist.m3u8" => playlist(&hls, broadcast, variant, true, &request).await,
        None => refuse(StatusCode::NOT_FOUND, "no such file"),
    }
}

async fn qualities(hls: &Hls, broadcast: &Broadcast, method: &Method) -> Response {
    // What the source takes is known when its first gop is over. Players that probe are not kept waiting.
    let mut news = broadcast.watch();
    let known = news.wait_for(|_| broadcast.segment_target_s().is_some());
    if method == Method::GET && timeout(FIRST_WAIT, known).await.is_err() {
        return refused(hls, Refusal::Unready);
    }
    hls.door.sent.inc();
    let text = super::qualities::render(broadcast);
    ([(header::CONTENT_TYPE, PLAYLIST_TYPE), (header::CACHE_CONTROL, SHORTLY)], text).into_response()
}

async fn playlist(
    hls: &Arc<Hls>,
    broadcast: Arc<Broadcast>,
    variant: Variant,
    nested: bool,
    request: &Parts,
) -> Response {
    let directives = match Directives::parse(request.uri.query().unwrap_or_default()) {
        Ok(directives) => directives,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    let blocking = directives.wanted.is_some();
    if let Err(busy) = hls.node.takes_work() {
        // Who asks for what comes next watches already, here or on the node that it comes from.
        let watches = blocking || hls.knows(broadcast.id(), hls.viewer(request));
        if !watches {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, &busy.to_string());
        }
    }
    let shelf = hls.shelf(broadcast, variant);
    if request.method == Method::HEAD && !blocking {
        // Players probe before they play: that the stream is there is all they want to know, and at once.
        return ([(header::CONTENT_TYPE, PLAYLIST_TYPE), (header::CACHE_CONTROL, SHORTLY)], ()).into_response();
    }
    if request.method == Method::GET {
        shelf.saw(hls.viewer(request));
    }
    let form = Form { delta: directives.delta, nested };
    match shelf.playlist(form, directives.wanted, || hls.reports(&shelf)).await {
        Ok(rendered) => {
            hls.door.sent.inc();
            playlist_response(rendered, blocking, &request.headers)
        }
        Err(refusal) => refused(hls, refusal),
    }
}

fn playlist_response(rendered: Rendered, blocking: bool, asked: &HeaderMap) -> Response {
    let age_s = match blocking && !rendered.ended {
        true => rendered.target_s * BLOCKING_TARGETS,
        // Half a target duration (appendix B.1), and little enough for a player that joins.
        false => 1,
    };
    let zipped = accepts_gzip(asked);
    let mut response = Response::new(Body::from(if zipped { rendered.gzip } else { rendered.plain }));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PLAYLIST_TYPE));
    headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    if zipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    if let Ok(value) = HeaderValue::from_str(&format!("public, max-age={age_s}")) {
        headers.insert(header::CACHE_CONTROL, value);
    }
    response
}

async fn piece(hls: &Arc<Hls>, broadcast: Arc<Broadcast>, variant: Variant, name: Name, request: &Parts) -> Response {
    if broadcast.born_us() != name.born_us {
        return refuse(StatusCode::NOT_FOUND, "no such stream");
    }
    let shelf = hls.shelf(broadcast, variant);
    match shelf.piece(name.piece).await {
        Ok(media) => {
            hls.door.sent.inc();
            media_response(media, &request.headers)
        }
        Err(refusal) => refused(hls, refusal),
    }
}

fn media_response(media: Media, asked: &HeaderMap) -> Response {
    let length = media.chunks.iter().map(Bytes::len).sum::<usize>();
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(if media.has_video { "video/mp4" } else { "audio/mp4" }),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(FOREVER));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let range = asked.get(header::RANGE).and_then(|range| Range::parse(range.to_str().ok()?));
    match range.map(|range| range.within(length)) {
        None => (headers, Body::new(Chunks::new(media.chunks, 0..length))).into_response(),
        Some(Ok(bytes)) => {
            let content_range = format!("bytes {}-{}/{length}", bytes.start, bytes.end - 1);
            let body = Body::new(Chunks::new(media.chunks, bytes));
            (StatusCode::PARTIAL_CONTENT, headers, [(header::CONTENT_RANGE, content_range)], body).into_response()
        }
        Some(Err(Unsatisfiable)) => {
            (StatusCode::RANGE_NOT_SATISFIABLE, [(header::CONTENT_RANGE, format!("bytes */{length}"))]).into_response()
        }
    }
}

fn refused(hls: &Hls, refusal: Refusal) -> Response {
    hls.door.errors.inc();
    let status = match refusal {
        Refusal::TooFarAhead => StatusCode::BAD_REQUEST,
        Refusal::Missing => StatusCode::NOT_FOUND,
        Refusal::Unready | Refusal::TimedOut => StatusCode::SERVICE_UNAVAILABLE,
    };
    refuse(status, &refusal.to_string())
}

fn refuse(status: StatusCode, why: &str) -> Response {
    let cache = if status == StatusCode::NOT_FOUND { SHORTLY } else { "no-store" };
    let mut response = (status, [(header::CACHE_CONTROL, cache)], format!("{why}\n")).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// What a player asks for in the query (6.2.5).
#[derive(Debug, Default, PartialEq, Eq)]
struct Directives {
    wanted: Option<Wanted>,
    delta: bool,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum DirectiveError {
    #[error("{0} is not a whole number")]
    Number(&'static str),
    #[error("_HLS_part without _HLS_msn")]
    PartAlone,
}

impl Directives {
    fn parse(query: &str) -> Result<Self, DirectiveError> {
        let (mut gop, mut part, mut delta) = (None, None, false);
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "_HLS_msn" => gop = Some(value.parse().map_err(|_| DirectiveError::Number("_HLS_msn"))?),
                "_HLS_part" => part = Some(value.parse().map_err(|_| DirectiveError::Number("_HLS_part"))?),
                // v2 would leave out date ranges too, and there are none.
                "_HLS_skip" => delta = matches!(value, "YES" | "v2"),
                _ => {}
            }
        }
        match (gop, part) {
            (None, Some(_)) => Err(DirectiveError::PartAlone),
            (gop, part) => Ok(Self { wanted: gop.map(|gop| Wanted { gop, part }), delta }),
        }
    }
}

fn accepts_gzip(asked: &HeaderMap) -> bool {
    let codings = asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    codings.flat_map(|codings| codings.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q == 0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

impl Hls {
    /// Address and player, as one number. Behind a load balancer every address is the same, so what it says of the
    /// client counts as well; a lie there changes a statistic.
    fn viewer(&self, request: &Parts) -> u64 {
        let address: Option<IpAddr> =
            request.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
        let mut hasher = self.hasher.build_hasher();
        address.hash(&mut hasher);
        for name in [X_FORWARDED_FOR, header::USER_AGENT] {
            request.headers.get(name).map(HeaderValue::as_bytes).hash(&mut hasher);
        }
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_and_checked() {
        let wanted = |gop, part| Some(Wanted { gop, part });
        assert_eq!(Directives::parse("token=x"), Ok(Directives::default()));
        assert_eq!(
            Directives::parse("a=b&_HLS_msn=7&_HLS_part=2&_HLS_skip=YES"),
            Ok(Directives { wanted: wanted(7, Some(2)), delta: true })
        );
        assert_eq!(Directives::parse("_HLS_msn=7"), Ok(Directives { wanted: wanted(7, None), delta: false }));
        assert_eq!(Directives::parse("_HLS_part=7"), Err(DirectiveError::PartAlone));
        assert_eq!(Directives::parse("_HLS_msn=-1"), Err(DirectiveError::Number("_HLS_msn")));
    }

    #[test]
    fn gzip_only_for_those_who_take_it() {
        let asks = |value: &'static str| {
            accepts_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert!(asks("gzip, deflate, br"));
        assert!(asks("br;q=1.0, GZIP;q=0.5"));
        assert!(!asks("gzip;q=0"));
        assert!(!asks("identity"));
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
