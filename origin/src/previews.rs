//! What a broadcast looks like now, as a picture: `/{app}/previews/{id}.png`, `.jpg` and `.webp`. In: requests. Out: the
//! newest keyframe of the source, drawn when somebody asks and then for all who ask within [`FRESH`]. Deliberately absent:
//! pictures of what is not live, and pictures that nobody asks for.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderName, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use headwater_common::{
    live::{Broadcast, BroadcastId, Hub, Start},
    media::Kind,
};
use tokio::sync::Semaphore;

use crate::transcode::still::{Picture, draw};

/// Ant Media draws one every five seconds.
const FRESH: Duration = Duration::from_secs(5);
const CACHE: [(HeaderName, &str); 1] = [(header::CACHE_CONTROL, "public, max-age=5")];

struct Previews {
    hub: Arc<Hub>,
    drawn: Mutex<HashMap<(BroadcastId, Picture), Arc<Slot>>>,
    /// One at a time: who asks for a hundred of them must not take the machine from those who watch.
    drawing: Semaphore,
}

/// Those who ask for the same picture while it is drawn wait here for one drawing.
type Slot = tokio::sync::Mutex<Option<Drawn>>;

#[derive(Clone)]
struct Drawn {
    at: Instant,
    /// Of another broadcast of the same name it would be the wrong one.
    born_us: i64,
    data: Option<Bytes>,
}

pub(crate) fn router(hub: Arc<Hub>) -> Router {
    let previews = Previews { hub, drawn: Mutex::default(), drawing: Semaphore::new(1) };
    Router::new().route("/{app}/previews/{file}", get(preview)).with_state(Arc::new(previews))
}

async fn preview(State(previews): State<Arc<Previews>>, Path((app, file)): Path<(String, String)>) -> Response {
    let asked = file.rsplit_once('.').and_then(|(stream, ending)| {
        let (picture, kind) = match ending {
            "png" => (Picture::Png, "image/png"),
            "jpg" => (Picture::Jpeg, "image/jpeg"),
            "webp" => (Picture::Webp, "image/webp"),
            _ => return None,
        };
        Some((previews.hub.get(&BroadcastId::new(&app, stream).ok()?)?, picture, kind))
    });
    let Some((broadcast, picture, kind)) = asked else { return StatusCode::NOT_FOUND.into_response() };
    match previews.of(&broadcast, picture).await {
        Some(data) => ([(header::CONTENT_TYPE, kind)], CACHE, data).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

impl Previews {
    /// `None` where there is no picture.
    async fn of(&self, broadcast: &Broadcast, picture: Picture) -> Option<Bytes> {
        let slot = self.slot(broadcast.id(), picture);
        let mut drawn = slot.lock().await;
        let fresh = |drawn: &&Drawn| drawn.at.elapsed() < FRESH && drawn.born_us == broadcast.born_us();
        if let Some(drawn) = drawn.as_ref().filter(fresh) {
            return drawn.data.clone();
        }
        let data = self.draw(broadcast, picture).await;
        *drawn = Some(Drawn { at: Instant::now(), born_us: broadcast.born_us(), data: data.clone() });
        data
    }

    async fn draw(&self, broadcast: &Broadcast, picture: Picture) -> Option<Bytes> {
        let keyframe = broadcast.source(Kind::Video)?.read(Start::Newest).try_next()?;
        let _alone = self.drawing.acquire().await.ok()?;
        let drawn = tokio::task::spawn_blocking(move || draw(&keyframe, picture)).await;
        match drawn {
            Ok(Ok(data)) => data,
            Ok(Err(error)) => {
                tracing::warn!(broadcast = %broadcast.id(), %error, "no preview");
                None
            }
            Err(error) => {
                tracing::error!(broadcast = %broadcast.id(), %error, "drawing a preview ended by a bug");
                None
            }
        }
    }

    /// Those of broadcasts that are gone are forgotten on the way.
    fn slot(&self, id: &BroadcastId, picture: Picture) -> Arc<Slot> {
        let mut drawn = self.drawn.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        drawn.retain(|(id, _), _| self.hub.get(id).is_some());
        drawn.entry((id.clone(), picture)).or_default().clone()
    }
}
