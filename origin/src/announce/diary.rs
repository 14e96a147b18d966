//! The numbers of this node's broadcasts, for its next life. In: the hall, once a second. Out: how far a broadcast had come
//! when the process was killed.
//!
//! It is written where the operating system keeps it when a process dies, and not synced: after a power cut it may be
//! old or missing. The registry, which is synced, has numbers then that are further away and as safe.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use headwater_common::{
    live::{BroadcastId, Hub, LINGER_US, Reach, Status},
    registry::is_next_grant,
};
use serde::{Deserialize, Serialize};

/// Gops that may have begun since the last entry: a second old, and gops are hardly shorter.
const UNWRITTEN_GOPS: u64 = 2;
/// Who comes back later begins another broadcast.
const GOOD_FOR: Duration = Duration::from_micros(LINGER_US as u64);

pub(super) struct Diary {
    path: PathBuf,
    opened: Instant,
    /// Of the former life; each is good for one claim.
    former: Mutex<Entries>,
    written: Mutex<Entries>,
}

/// By `app/stream`.
type Entries = BTreeMap<String, Entry>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    epoch: u64,
    next_gop: u64,
    discontinuity: u64,
}

impl Diary {
    pub(super) fn open(path: &Path) -> Self {
        let former = match std::fs::read(path).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(entries)) => entries,
            Ok(Err(error)) => {
                tracing::warn!(path = %path.display(), %error, "unreadable: numbers of segments will jump");
                Entries::default()
            }
            Err(_) => Entries::default(),
        };
        let written = Mutex::new(former.clone());
        Self { path: path.to_owned(), opened: Instant::now(), former: Mutex::new(former), written }
    }

    /// What was written under the claim before this one.
    pub(super) fn take(&self, id: &BroadcastId, epoch: u64) -> Option<Reach> {
        let Entry { epoch: former, next_gop, discontinuity } = lock(&self.former).remove(&id.to_string())?;
        is_next_grant(former, epoch).then_some(Reach { next_gop: next_gop + UNWRITTEN_GOPS, discontinuity })
    }

    pub(super) async fn note(&self, hub: &Hub) {
        // Nobody has come back to these yet.
        let mut now = {
            let mut former = lock(&self.former);
            if self.opened.elapsed() > GOOD_FOR {
                former.clear();
            }
            former.clone()
        };
        let published = hub.list().into_iter().filter(|broadcast| !broadcast.is_mirror());
        now.extend(published.filter(|broadcast| broadcast.status() != Status::Ended).filter_map(|broadcast| {
            let Reach { next_gop, discontinuity } = broadcast.reach()?;
            let entry = Entry { epoch: broadcast.claimed_epoch(), next_gop, discontinuity };
            Some((broadcast.id().to_string(), entry))
        }));
        if *lock(&self.written) == now {
            return;
        }
        match write(&self.path, &now).await {
            Ok(()) => *lock(&self.written) = now,
            Err(error) => tracing::error!(path = %self.path.display(), %error, "numbers can't be written down"),
        }
    }
}

fn lock(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever reads it finds the old one or the new one.
async fn write(path: &Path, entries: &Entries) -> std::io::Result<()> {
    let new = path.with_extension("new");
    tokio::fs::write(&new, serde_json::to_vec(entries)?).await?;
    tokio::fs::rename(&new, path).await
}

#[cfg(test)]
mod tests {
    use headwater_common::{
        live::{Claim, Publisher, Takeover},
        media::{Codec, Info, Kind, Sample, Shape},
    };

    use super::*;

    /// Of the n-th claim that a registry grants.
    fn epoch(n: u64) -> u64 {
        n << 32
    }

    #[tokio::test]
    async fn the_next_life_goes_on_from_what_was_written_and_only_once() {
        let folder = std::env::temp_dir().join(format!("headwater-diary-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, hub) = (folder.join("numbers.json"), Hub::new());
        let ids = ["a", "b"].map(|stream| BroadcastId::new("live", stream).unwrap());
        let publisher = Publisher { protocol: "test", remote: String::new(), agent: String::new() };
        let writers = ids.each_ref().map(|id| {
            let publisher = publisher.clone();
            let claim = Claim {
                epoch: epoch(3),
                next_gop: 40,
                discontinuity: 2,
                born_us: 1,
                segment_target_s: None,
                publisher,
            };
            let mut writer = hub.claim(id, claim, Takeover::Replace, 1).unwrap();
            let shape = Shape::Audio { sample_rate: 48_000, channels: 2 };
            writer.announce(Info { codec: Codec::Aac, config: Default::default(), shape }).unwrap();
            let sample = Sample { dts_us: 0, pts_us: 0, keyframe: true, payload: Default::default() };
            writer.write(Kind::Audio, sample, 1).unwrap();
            writer
        });
        Diary::open(&path).note(&hub).await;
        drop(writers);

        let diary = Diary::open(&path);
        assert_eq!(diary.take(&ids[0], epoch(5)), None, "somebody else had it in between");
        // Nobody has come back to the other one when this life ends, too.
        diary.note(&Hub::new()).await;
        let diary = Diary::open(&path);
        assert_eq!(diary.take(&ids[0], epoch(4)), None);
        assert_eq!(diary.take(&ids[1], epoch(4)), Some(Reach { next_gop: 43, discontinuity: 2 }));
        assert_eq!(diary.take(&ids[1], epoch(4)), None);
        diary.note(&Hub::new()).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}");

        std::fs::write(&path, "{\"live/b\":").unwrap();
        assert_eq!(Diary::open(&path).take(&ids[1], epoch(4)), None, "cut off in the middle");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
