//! What a viewer waits for before it can be served: that somebody publishes, and that it is known what.
//!
//! In: the hall. Out: the moment. Deliberately absent: viewers; each door tells its own what it waits for.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::{
    clock,
    live::{Broadcast, BroadcastId, Hub, Status},
    media::{Accepts, Delivery, Kind},
};

/// A publisher says what it sends within this after it was let in.
const START_PATIENCE: Duration = Duration::from_secs(3);
/// The headers of picture and sound, and the conversion of the sound, come one after the other.
const SECOND_PATIENCE: Duration = Duration::from_millis(300);

/// Waits, for a moment, until a broadcast that has just begun has the tracks it is going to have: a player that came in
/// between would be answered without sound, or be told that WebRTC is not for it.
pub async fn until_complete(broadcast: &Broadcast) {
    let mut news = broadcast.watch();
    let limit = Instant::now() + START_PATIENCE;
    let mut second = None;
    loop {
        let chosen = [Kind::Video, Kind::Audio]
            .map(|kind| broadcast.choose(kind, Delivery::WebRtc(Accepts::EVERYWHERE)).is_some());
        // What an older broadcast has not got, it will not get.
        let older = !broadcast.tracks().is_empty()
            && clock::now_us() - broadcast.epoch_began_us() > START_PATIENCE.as_micros() as i64;
        if older || chosen == [true; 2] || broadcast.status() == Status::Ended {
            return;
        }
        if chosen != [false; 2] {
            second.get_or_insert_with(|| Instant::now() + SECOND_PATIENCE);
        }
        let until = second.map_or(limit, |second| limit.min(second));
        if !matches!(timeout_at(until, news.changed()).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Waits until somebody publishes it.
pub async fn until_live(hub: &Hub, id: &BroadcastId) {
    loop {
        let mut arrivals = hub.watch();
        let Some(broadcast) = hub.get(id) else {
            // The hub lives as long as we borrow it.
            let _ = arrivals.changed().await;
            continue;
        };
        let mut news = broadcast.watch();
        if broadcast.status() != Status::Ended {
            return;
        }
        drop(broadcast);
        // One that the hub forgets says so to both.
        tokio::select! {
            _ = arrivals.changed() => {}
            _ = news.changed() => {}
        }
    }
}
