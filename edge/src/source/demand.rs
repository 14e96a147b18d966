//! What of one track is wanted here. In: its readers, as they come and go, and their wishes for keyframes. Out: what the
//! other node has to know of that, no more often than it matters. Deliberately absent: the wire.

use std::{pin::pin, sync::Arc, time::Duration};

use headwater_common::live::Track;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

/// From the last reader until no more frames are sent: viewers switch from one page to another, and a player's
/// session begins before its predecessor's has ended.
const LINGER: Duration = Duration::from_secs(5);
/// A keyframe is asked for at most this often. Whoever publishes has bounds of its own.
const KEYFRAME_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// `present`: by those only who want what is, not what was.
    Wanted {
        track: u32,
        present: bool,
    },
    Unwanted(u32),
    Keyframe(u32),
}

/// Lasts as long as somebody listens.
pub(super) async fn watch(track: Arc<Track>, number: u32, demands: mpsc::Sender<Demand>) {
    loop {
        track.wanted().await;
        // What comes begins with a keyframe, if there is one: nobody has to ask for that.
        track.take_keyframe_request();
        let wanted = Demand::Wanted { track: number, present: !track.take_past_request() };
        if demands.send(wanted).await.is_err() {
            return;
        }
        let mut deserted = pin!(deserted(&track));
        loop {
            tokio::select! {
                () = &mut deserted => break,
                () = track.keyframe_asked() => {
                    if track.take_keyframe_request() && demands.send(Demand::Keyframe(number)).await.is_err() {
                        return;
                    }
                    sleep(KEYFRAME_EVERY).await;
                }
            }
        }
        if demands.send(Demand::Unwanted(number)).await.is_err() {
            return;
        }
    }
}

/// Resolves when nobody has read for a while.
async fn deserted(track: &Track) {
    loop {
        track.unwanted().await;
        if timeout(LINGER, track.wanted()).await.is_err() {
            return;
        }
    }
}
