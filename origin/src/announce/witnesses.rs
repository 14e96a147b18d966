//! Who has seen how far a broadcast had come when its last owner died.
//!
//! In: the claim that goes on with it. Out: the numbers it goes on from, so that playlists go on without a hole. Other nodes
//! are asked; a node whose registry is a file of its own has written its numbers down in its former life ([`Diary`]).
//! Where nobody has seen anything there is nobody who would notice a jump, and the registry's numbers are good.

use std::{path::Path, sync::Arc};

use headwater_common::{
    cluster::Cluster,
    live::{BroadcastId, Hub, Reach},
};

use super::diary::Diary;

/// Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Witnesses {
    cluster: Option<Cluster>,
    diary: Option<Arc<Diary>>,
}

impl Witnesses {
    /// Where nodes share a registry, what one of them knew in its former life says little.
    pub(crate) fn new(cluster: Option<Cluster>, data: &Path, is_shared: bool) -> Self {
        let diary = (!is_shared).then(|| Arc::new(Diary::open(&data.join("numbers.json"))));
        Self { cluster, diary }
    }

    pub(super) async fn reach(&self, id: &BroadcastId, epoch: u64) -> Option<Reach> {
        let written = self.diary.as_ref().and_then(|diary| diary.take(id, epoch));
        match &self.cluster {
            Some(cluster) => cluster.reach(id, epoch).await.or(written),
            None => written,
        }
    }

    pub(super) async fn note(&self, hub: &Hub) {
        if let Some(diary) = &self.diary {
            diary.note(hub).await;
        }
    }
}
