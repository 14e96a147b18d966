//! WebRTC publishers: signalling over HTTP. The media side is `common/rtc`, the way into the hall `common/intake`.
//!
//! In: HTTP requests of publishers. Out: answers, or a status that says what is wrong. Deliberately absent: media, and
//! any state of its own: a session lives and ends in the engine.

#[cfg(test)]
mod tests;
mod whip;

pub(crate) use whip::router;
