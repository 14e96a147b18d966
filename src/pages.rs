//! The pages, embedded in the binary. In: paths. Out: HTML, scripts, styles, with an ETag so that a reload costs a 304.
//!
//! Deliberately absent: files on disk, templates, and anything loaded from another host (the policy below forbids it).

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tower_http::compression::CompressionLayer;

macro_rules! asset {
    ($name:literal, $mime:expr) => {
        Asset { name: $name, mime: $mime, bytes: include_bytes!(concat!("../web/", $name)) }
    };
}

struct Asset {
    name: &'static str,
    mime: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const INDEX: Asset = asset!("index.html", HTML);
const PLAY: Asset = asset!("play.html", HTML);
const PUBLISH: Asset = asset!("publish.html", HTML);
const ASSETS: [Asset; 17] = [
    asset!("favicon.svg", "image/svg+xml"),
    asset!("style.css", "text/css; charset=utf-8"),
    asset!("index.js", SCRIPT),
    asset!("play.js", SCRIPT),
    asset!("ongoing.js", SCRIPT),
    asset!("player.js", SCRIPT),
    asset!("delivery.js", SCRIPT),
    asset!("session.js", SCRIPT),
    asset!("whep.js", SCRIPT),
    asset!("hls.js", SCRIPT),
    asset!("vod.js", SCRIPT),
    asset!("publish.js", SCRIPT),
    asset!("publisher.js", SCRIPT),
    asset!("devices.js", SCRIPT),
    asset!("whip.js", SCRIPT),
    asset!("copying.js", SCRIPT),
    Asset {
        name: "hls.light.min.mjs",
        mime: SCRIPT,
        bytes: include_bytes!("../web/node_modules/hls.js/dist/hls.light.min.mjs"),
    },
];

/// Media Source Extensions play from blobs; nothing else comes from elsewhere than here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self' blob:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'";

pub(crate) fn router() -> Router {
    Router::new()
        .route("/", get(|headers: HeaderMap| async move { INDEX.answer(&headers) }))
        .route("/{app}/play.html", get(|headers: HeaderMap| async move { PLAY.answer(&headers) }))
        .route("/{app}/publish.html", get(|headers: HeaderMap| async move { PUBLISH.answer(&headers) }))
        // Where Ant Media has its publish page.
        .route("/{app}/index.html", get(|headers: HeaderMap| async move { PUBLISH.answer(&headers) }))
        .route("/assets/{name}", get(asset))
        .layer(CompressionLayer::new())
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match ASSETS.iter().find(|asset| asset.name == name) {
        Some(asset) => asset.answer(&headers),
        None => (StatusCode::NOT_FOUND, format!("there is no asset {name:?}\n")).into_response(),
    }
}

impl Asset {
    fn answer(&self, headers: &HeaderMap) -> Response {
        let tag = self.tag();
        let cached = headers.get(header::IF_NONE_MATCH).is_some_and(|theirs| theirs.as_bytes() == tag.as_bytes());
        // Asked for again each time: an upgraded server must not meet scripts of the old one.
        let common = [
            (header::ETAG, HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""))),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::CONTENT_TYPE, HeaderValue::from_static(self.mime)),
            (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        ];
        match cached {
            true => (StatusCode::NOT_MODIFIED, common).into_response(),
            false => (common, self.bytes).into_response(),
        }
    }

    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.bytes.hash(&mut hasher);
        format!("W/\"{:016x}\"", hasher.finish())
    }
}
