//! The hall: where frames meet. Everything that writes is a writer, everything that reads is a reader, and nobody
//! talks to anybody else about media.
//!
//! In: samples from doors (RTMP, a transcoder, a relay). Out: frames to doors (WebRTC, HLS, recordings, a relay).
//! A [`Hub`] is this node's set of broadcasts; a [`Broadcast`] has [`Track`]s; a track is one ring of frames that a
//! writer appends to and any number of [`Reader`]s follow, each with a cursor of its own. One thing climbs back
//! against the flow: demand (is somebody reading, is a keyframe wanted), a value on the track and never a queue.
//!
//! Deliberately absent: sockets, tasks and clocks (`now` is an argument, in microseconds of the Unix epoch), queues
//! per reader, and copies of a payload.

mod broadcast;
mod depth;
mod hub;
mod id;
mod minter;
mod mirror;
mod reach;
mod timeline;
mod track;

pub use broadcast::{Broadcast, Choice, Fenced, Publisher, Status, Writer, Written};
pub use depth::{Hold, fill_a_playlist};
pub use hub::{Claim, ClaimError, Hub, LINGER_US, RESUME_US, SILENT_US, Takeover};
pub use id::{BroadcastId, IdError};
pub use mirror::{Copied, Declared, Lane, Mirror, MirrorError, Told};
pub use reach::Reach;
pub use track::{Impatient, Origin, Rates, Reader, Start, Track, TrackStats, TrackWriter};

#[cfg(test)]
mod mirror_tests;
#[cfg(test)]
mod tests;
