//! The row of one recorded file: being written, being finalised, on its way to a bucket, ready, or failed with the reason.
//! Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Event;

/// Names one recording for good. Begins with the time it was started, so that ids sort by age.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VodId(String);

impl VodId {
    /// `entropy` tells apart what starts in the same millisecond.
    pub fn new(started_ms: i64, entropy: u32) -> Self {
        Self(format!("{:012x}{entropy:08x}", started_ms.max(0)))
    }

    /// An id as a client spells it; one that was never given is simply not found.
    pub fn parse(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// When it was started; zero for an id that was not given by [`VodId::new`].
    pub fn started_ms(&self) -> i64 {
        self.0.get(..12).and_then(|time| i64::from_str_radix(time, 16).ok()).unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum RecordingState {
    #[default]
    Recording,
    /// Complete, and being rewritten into a file that starts playing at once.
    Finalising,
    /// Complete, and not yet confirmed by the bucket.
    Uploading {
        /// What is missing from it, if anything: the reason that it will be failed with.
        defect: Option<String>,
    },
    Ready,
    /// Something is missing or could not be done. What was saved is still there when the row's `bytes` is not zero.
    Failed {
        reason: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecordingRow {
    pub vod_id: VodId,
    pub app: String,
    pub stream: String,
    /// Within the application's `streams` directory; no other recording of the application has it.
    pub file: String,
    pub state: RecordingState,
    /// Where it is written.
    pub node: String,
    /// Of the claim that was recorded.
    pub epoch: u64,
    /// Wall-clock of the first picture.
    pub started_ms: i64,
    /// When the file was complete.
    pub created_ms: Option<i64>,
    pub duration_ms: i64,
    pub bytes: u64,
    /// Frames that could not be saved because the disk was too slow.
    pub frames_lost: u64,
    /// Stretches of a rendition that the machine had no room to make, and what they last in all.
    pub gaps: u32,
    pub missing_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRow>,
    /// To be told, and not in the broadcast's mailbox yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

/// The recording in a bucket, or on its way there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectRow {
    pub key: String,
    /// As the bucket confirmed it; empty until then.
    pub etag: String,
    /// Why it is not there yet, as far as that is known.
    pub error: String,
}

impl RecordingState {
    /// There is still something to do for the node that made it.
    pub fn is_unfinished(&self) -> bool {
        matches!(self, Self::Recording | Self::Finalising | Self::Uploading { .. })
    }
}

impl RecordingRow {
    /// The key under which the bucket has confirmed it.
    pub fn arrived(&self) -> Option<&str> {
        self.object.as_ref().filter(|object| !object.etag.is_empty()).map(|object| object.key.as_str())
    }
}

/// Which recordings of an application are meant.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecordingFilter<'a> {
    pub stream: Option<&'a str>,
    /// Part of the file name.
    pub search: Option<&'a str>,
}

impl RecordingFilter<'_> {
    pub(super) fn takes(&self, row: &RecordingRow) -> bool {
        self.stream.is_none_or(|stream| row.stream == stream) && self.search.is_none_or(|part| row.file.contains(part))
    }
}
