//! WebRTC for viewers: signalling over HTTP. The media side is `common/rtc`.
//!
//! In: HTTP requests of players. Out: answers, or a status that players know how to take. Deliberately absent: media,
//! and any state of its own: a session lives and ends in the engine.

#[cfg(test)]
mod tests;
mod whep;

pub use whep::{Peers, router};

/// For fuzzing: takes an offer as far as it can be taken without a broadcast.
#[doc(hidden)]
pub fn sdp_offer(bytes: &[u8]) {
    use headwater_common::rtc::{Fragment, check_offer};
    let text = String::from_utf8_lossy(bytes);
    let _ = check_offer(&text);
    let _ = Fragment::parse(&text);
}
