//! WebRTC publishers: signalling over HTTP, and who is let in by Ant Media's signalling. The media side is `common/rtc`,
//! the way into the hall `common/intake`.
//!
//! In: HTTP requests of publishers. Out: answers, or a status that says what is wrong. Deliberately absent: media, and
//! any state of its own: a session lives and ends in the engine.

mod antmedia;
#[cfg(test)]
mod tests;
mod whip;

pub(crate) use antmedia::entrance;
pub(crate) use whip::router;
