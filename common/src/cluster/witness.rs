//! Tells the view of the broadcasts that are published on this node, the moment something happens to one.
//!
//! In: the hub. Out: statements. A task of its own follows each broadcast, which costs as much as a closure.

use std::{collections::HashMap, sync::Arc};

use tokio::task::JoinHandle;

use super::{Shared, facts::Status};
use crate::live::{self, Broadcast, BroadcastId, Hub};

/// Runs as long as the node does.
pub(super) async fn run(hub: Arc<Hub>, shared: Arc<Shared>) {
    let mut arrivals = hub.watch();
    let mut followers: HashMap<BroadcastId, (Arc<Broadcast>, JoinHandle<()>)> = HashMap::new();
    loop {
        arrivals.mark_unchanged();
        let broadcasts = hub.list();
        followers.retain(|id, (followed, task)| {
            let stays = broadcasts.iter().any(|broadcast| broadcast.id() == id && Arc::ptr_eq(broadcast, followed));
            if !stays {
                task.abort();
            }
            stays
        });
        for broadcast in broadcasts {
            followers.entry(broadcast.id().clone()).or_insert_with(|| {
                let task = tokio::spawn(follow(broadcast.clone(), shared.clone()));
                (broadcast, task)
            });
        }
        if arrivals.changed().await.is_err() {
            return;
        }
    }
}

async fn follow(broadcast: Arc<Broadcast>, shared: Arc<Shared>) {
    let mut news = broadcast.watch();
    let mut before = None;
    loop {
        news.mark_unchanged();
        let (epoch, status) = (broadcast.claimed_epoch(), broadcast.status());
        let status = match (status, before) {
            (live::Status::Live, _) => Status::Live,
            (live::Status::Interrupted, _) => Status::Interrupted,
            // Its publisher never came back.
            (live::Status::Ended, Some(Status::Interrupted | Status::Terminated)) => Status::Terminated,
            (live::Status::Ended, _) => Status::Finished,
        };
        // One that was never claimed has nothing to tell.
        if epoch > 0 {
            shared.state(broadcast.id(), epoch, status);
            before = Some(status);
        }
        if news.changed().await.is_err() {
            return;
        }
    }
}
