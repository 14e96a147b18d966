//! A frame as it lives in the hall, and the gop it belongs to.

use std::sync::Arc;

use bytes::Bytes;

use super::{Info, RtpCache};

/// What a door hands in: one access unit on the publisher's own clock. The hall makes a [`Frame`] of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub dts_us: i64,
    pub pts_us: i64,
    pub keyframe: bool,
    pub payload: Bytes,
}

/// One access unit on the broadcast's clock. Everything in here was minted where the broadcast entered the cluster,
/// so every node that holds the frame cuts, names and times it alike.
#[derive(Debug)]
pub struct Frame {
    pub gop: Arc<Gop>,
    /// Microseconds since the broadcast was born (its wall-clock birth is known to the broadcast).
    pub dts_us: i64,
    pub pts_us: i64,
    pub keyframe: bool,
    pub payload: Bytes,
    pub info: Arc<Info>,
    /// `RtpCache::default()` where a frame is made; filled when the first WebRTC viewer gets it.
    pub rtp: RtpCache,
}

impl Frame {
    /// Whether it comes before another frame of its broadcast. Times of one publisher tell that, but the clock of the node
    /// where the next one came may have been behind: numbers of gops never go back.
    pub fn precedes(&self, other: &Self) -> bool {
        self.place().precedes(other.place())
    }

    pub fn place(&self) -> Place {
        Place { epoch: self.gop.epoch, gop: self.gop.id, dts_us: self.dts_us }
    }
}

/// Where a frame stands among those of its broadcast, for those who need not hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub epoch: u64,
    pub gop: u64,
    pub dts_us: i64,
}

impl Place {
    pub fn precedes(self, other: Self) -> bool {
        if self.epoch == other.epoch { self.dts_us < other.dts_us } else { self.gop < other.gop }
    }
}

/// On the broadcast's clock, without a copy of the payload.
impl From<&Frame> for Sample {
    fn from(frame: &Frame) -> Self {
        let &Frame { dts_us, pts_us, keyframe, ref payload, .. } = frame;
        Self { dts_us, pts_us, keyframe, payload: payload.clone() }
    }
}

/// A stretch of the broadcast that starts at a keyframe of its leading track (video where there is any) and is one
/// HLS segment long. Keyframes that follow within a second stay in the same gop; a gop that outlasts the segment
/// target is closed without one (`independent` is then false for its successor).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gop {
    /// Grows by one per gop over the whole life of a broadcast, publisher restarts included.
    pub id: u64,
    /// Of the claim that wrote it.
    pub epoch: u64,
    /// Counts the breaks before this gop: another publisher, another format, a clock that jumped.
    pub discontinuity: u64,
    pub start_us: i64,
    /// Starts at a keyframe.
    pub independent: bool,
    /// Which kinds of source track the broadcast had when the gop began.
    pub has_video: bool,
    pub has_audio: bool,
    /// Whoever minted it did not know the gop before it, another node or another life of this one did: how far that went
    /// is not known to everybody.
    pub detached: bool,
}
