//! One recording on its way to the bucket, or out of it. Pure.
//!
//! In: what is known of earlier tries (the [`Journal`]), and what the bucket answered. Out: what to ask it next, until the
//! recording has arrived, or nothing is left of it. It has arrived when a HEAD shows an object of this recording with the
//! right size, and with the ETag that the bucket gave for it. Deliberately absent: files, requests, clocks, patience.
//!
//! What is uploaded is the finished file: its index stands in front and is known last, so nothing of it could be sent
//! while the recording still grows. Kept HLS is many files, and each goes this way by itself.

use std::ops::Range;

use headwater_common::{
    registry::{RecordingRow, VodId},
    store::{
        Form,
        s3::{Fault, Part, Seen},
    },
};
use serde::{Deserialize, Serialize};

/// Amazon takes 5 MiB to 5 GiB a part and 10,000 parts ("multipart upload limits").
const PART_BYTES: u64 = 8 << 20;
const PARTS_MAX: u64 = 10_000;
const MIB: u64 = 1 << 20;

/// What must be known after a crash. Beside the recording on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::record) struct Journal {
    pub(super) vod_id: VodId,
    pub(super) key: String,
    /// It was deleted: nothing shall be left of it in the bucket.
    pub(super) unwanted: bool,
    /// An upload in parts may have been begun of which we did not learn the id. A request that was sent by a dead process
    /// may be done later than those of the next one, so what it left is looked for at the end.
    pub(super) unsure: bool,
    pub(in crate::record) upload: Option<Upload>,
    /// Of what is kept as HLS: segments with lower numbers, and what goes before them, have arrived, and what they take.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) sent: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) sent_bytes: u64,
    /// Those that the playlist in the bucket names, likewise.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) listed: u64,
    /// As long as the registry has not taken it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) row: Option<RecordingRow>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::record) struct Upload {
    pub(in crate::record) id: String,
    pub(super) part_bytes: u64,
    /// Which have arrived, from the first one on.
    pub(super) parts: Vec<Part>,
}

#[derive(Debug)]
pub(super) struct Transfer {
    journal: Journal,
    bytes: u64,
    /// What the bucket showed under the key since something was last sent. `None`: it must be looked at.
    seen: Option<Option<Seen>>,
    /// Of what was sent, until it was looked at.
    sent: Option<String>,
    /// Before the upload that is being begun.
    was_unsure: bool,
    /// It is never sent in parts.
    in_one: bool,
    /// What is there may be an older one, until this one was sent.
    outdated: bool,
}

/// What to ask the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Look,
    /// Abort all uploads in parts of this key.
    Sweep,
    Put,
    Begin,
    Part {
        upload_id: String,
        number: u32,
        range: Range<u64>,
    },
    Complete {
        upload_id: String,
        parts: Vec<Part>,
    },
    Abort {
        upload_id: String,
    },
    Delete,
    /// Nothing more: the object is in the bucket.
    Arrived {
        etag: String,
    },
    /// Nothing more: the bucket has no object and no upload of this recording.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Seen(Option<Seen>),
    Swept,
    Put { etag: String },
    Begun { upload_id: String },
    Part(Part),
    Completed { etag: String },
    Aborted,
    Deleted,
}

/// What was sent is not what the bucket has.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bucket confirmed {key}, and then {found}")]
pub(in crate::record) struct Mismatch {
    key: String,
    found: String,
}

impl Transfer {
    pub(super) fn new(journal: Journal, bytes: u64) -> Self {
        Self { journal, bytes, seen: None, sent: None, was_unsure: false, in_one: false, outdated: false }
    }

    /// A piece of what is kept as HLS: nobody else has its name, and it is sent before anybody looks.
    pub(super) fn of_piece(journal: Journal, bytes: u64) -> Self {
        Self { seen: Some(None), in_one: true, ..Self::new(journal, bytes) }
    }

    /// A playlist, in the place of an older one if it is ours.
    pub(super) fn of_playlist(journal: Journal, bytes: u64) -> Self {
        Self { in_one: true, outdated: true, ..Self::new(journal, bytes) }
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of it is in the bucket's hands.
    pub(super) fn sent_bytes(&self) -> u64 {
        match (&self.sent, &self.journal.upload) {
            (Some(_), _) => self.bytes,
            (None, Some(upload)) => self.bytes.min(upload.parts.len() as u64 * upload.part_bytes),
            (None, None) => 0,
        }
    }

    /// All is sent, and it remains to be seen whether it is there.
    pub(super) fn verifies(&self) -> bool {
        self.sent.is_some()
    }

    /// From now on it is to vanish.
    pub(super) fn forget(&mut self) {
        self.journal.unwanted = true;
    }

    /// What to do next. The journal must be on the disk before it is done.
    pub(super) fn action(&mut self) -> Action {
        let Journal { unwanted, unsure, upload, .. } = &self.journal;
        let abort = |upload: &Upload| Action::Abort { upload_id: upload.id.clone() };
        let Some(seen) = &self.seen else {
            return if *unwanted && let Some(upload) = upload { abort(upload) } else { Action::Look };
        };
        let ours = seen.as_ref().filter(|seen| self.is_ours(seen));
        let whole = ours.filter(|seen| seen.bytes == self.bytes && !unwanted && !self.outdated);
        let foreign = seen.is_some() && ours.is_none();
        let over = *unwanted || whole.is_some() || foreign;
        match upload {
            // Of no use any more, whatever has arrived of it.
            Some(upload) if over => abort(upload),
            None if *unsure && over => Action::Sweep,
            None if *unwanted => {
                if ours.is_some() {
                    Action::Delete
                } else {
                    Action::Gone
                }
            }
            None if foreign => {
                self.take_other_key();
                Action::Look
            }
            Some(upload) => {
                let begin = upload.parts.len() as u64 * upload.part_bytes;
                let (upload_id, number) = (upload.id.clone(), upload.parts.len() as u32 + 1);
                if begin < self.bytes {
                    let range = begin..self.bytes.min(begin + upload.part_bytes);
                    Action::Part { upload_id, number, range }
                } else {
                    Action::Complete { upload_id, parts: upload.parts.clone() }
                }
            }
            None => match whole {
                Some(seen) => Action::Arrived { etag: seen.etag.clone() },
                None if self.bytes <= PART_BYTES || self.in_one => Action::Put,
                None => {
                    self.was_unsure = std::mem::replace(&mut self.journal.unsure, true);
                    Action::Begin
                }
            },
        }
    }

    pub(super) fn answered(&mut self, answer: Answer) -> Result<(), Mismatch> {
        match answer {
            Answer::Seen(seen) => return self.look(seen),
            Answer::Swept => self.journal.unsure = false,
            Answer::Put { etag } => self.confirm(etag),
            Answer::Completed { etag } => {
                self.journal.upload = None;
                self.confirm(etag);
            }
            Answer::Begun { upload_id } => {
                self.journal.unsure = self.was_unsure;
                let part_bytes = part_bytes(self.bytes);
                self.journal.upload = Some(Upload { id: upload_id, part_bytes, parts: Vec::new() });
            }
            Answer::Part(part) => {
                if let Some(upload) = &mut self.journal.upload {
                    upload.parts.push(part);
                }
            }
            Answer::Aborted => self.journal.upload = None,
            Answer::Deleted => self.seen = None,
        }
        Ok(())
    }

    /// The action came to nothing. What the bucket has is looked at again in any case: a request whose answer was lost
    /// may have been done.
    pub(super) fn failed(&mut self, action: &Action, fault: Fault) {
        match (action, fault) {
            (Action::Part { .. } | Action::Complete { .. }, Fault::NoUpload | Fault::NoObject) => {
                self.journal.upload = None;
            }
            // Many may neither list uploads nor need to: what is left over then is the bucket's lifecycle rules'.
            (Action::Sweep, Fault::Denied | Fault::Unsupported) => self.journal.unsure = false,
            _ => {}
        }
        self.seen = None;
        self.sent = None;
    }

    fn confirm(&mut self, etag: String) {
        self.sent = Some(etag);
        self.seen = None;
    }

    fn look(&mut self, seen: Option<Seen>) -> Result<(), Mismatch> {
        let found = match (&self.sent, &seen) {
            (None, _) => None,
            (Some(_), None) => Some("had no object of that name".to_owned()),
            (Some(_), Some(seen)) if !self.is_ours(seen) => Some("had the object of somebody else".to_owned()),
            (Some(_), Some(seen)) if seen.bytes != self.bytes => {
                Some(format!("had {} bytes instead of {}", seen.bytes, self.bytes))
            }
            (Some(etag), Some(seen)) if !etag.is_empty() && unquoted(etag) != unquoted(&seen.etag) => {
                Some(format!("had another object, {} instead of {etag}", seen.etag))
            }
            (Some(_), Some(_)) => None,
        };
        match found {
            None => {
                self.outdated &= self.sent.take().is_none();
                self.seen = Some(seen);
                Ok(())
            }
            Some(found) => {
                self.sent = None;
                Err(Mismatch { key: self.journal.key.clone(), found })
            }
        }
    }

    /// It says so, or nobody else can have that name.
    fn is_ours(&self, seen: &Seen) -> bool {
        let Journal { vod_id, key, .. } = &self.journal;
        seen.vod_id.as_deref() == Some(vod_id.as_str()) || key.contains(vod_id.as_str())
    }

    /// What is there is not ours to replace. The recording's id makes the name its own.
    fn take_other_key(&mut self) {
        let Journal { key, vod_id, .. } = &mut self.journal;
        let ending = Form::of(key).unwrap_or_default().ending();
        *key = format!("{}_{vod_id}{ending}", Form::stem(key));
        self.seen = None;
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn part_bytes(bytes: u64) -> u64 {
    PART_BYTES.max(bytes.div_ceil(PARTS_MAX).next_multiple_of(MIB))
}

/// Servers quote ETags in some answers and not in others.
fn unquoted(etag: &str) -> &str {
    etag.trim_matches('"')
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
