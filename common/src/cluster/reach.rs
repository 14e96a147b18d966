//! How far a broadcast has come by what others hold of it, asked by the node that was given it.
//!
//! In: the new claim. Out: the furthest that any node has seen, each of which takes nothing under an older claim from then
//! on: so the numbers that follow were used by nobody, and leave none out. Deliberately absent: nodes that don't
//! answer in time. They have seen more, perhaps, and are led across that by the frames' epochs.

use std::time::Duration;

use headwater_proto as proto;
use proto::cluster_client::ClusterClient;
use tokio::{task::JoinSet, time::timeout};

use super::{Cluster, identity::NodeId, wire};
use crate::live::{BroadcastId, Hub, Reach};

/// A publisher waits for this, and a node that has died without a word does not answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

impl Cluster {
    /// `None` where nobody else holds anything of the broadcast.
    pub async fn reach(&self, id: &BroadcastId, epoch: u64) -> Option<Reach> {
        let there = |known: &super::Known| known.health.is_there();
        let me = self.me();
        let nodes: Vec<NodeId> = self.nodes().into_iter().filter(there).map(|known| known.facts.id().clone()).collect();
        let mut asked = JoinSet::new();
        for node in nodes.into_iter().filter(|node| node != me.id()) {
            let Some(channel) = self.channel(&node) else { continue };
            let claim = proto::NewClaim { name: Some(wire::from_id(id)), epoch };
            asked.spawn(async move {
                match timeout(ANSWER_WITHIN, ClusterClient::new(channel).give_way(claim)).await {
                    Ok(Ok(reach)) => to_reach(reach.into_inner()),
                    Ok(Err(status)) => {
                        tracing::debug!(%node, status = status.message(), "not told how far a broadcast has come");
                        None
                    }
                    Err(_) => {
                        tracing::debug!(%node, "not told in time how far a broadcast has come");
                        None
                    }
                }
            });
        }
        asked.join_all().await.into_iter().flatten().reduce(Reach::or_further)
    }
}

/// `None` if what is asked is not a broadcast.
pub(super) fn answer(hub: &Hub, claim: proto::NewClaim) -> Option<proto::Reach> {
    let id = wire::to_id(claim.name?)?;
    let reach = hub.give_way_to(&id, claim.epoch);
    Some(reach.map_or_else(proto::Reach::default, |Reach { next_gop, discontinuity }| proto::Reach {
        known: true,
        next_gop,
        discontinuity,
    }))
}

fn to_reach(reach: proto::Reach) -> Option<Reach> {
    let proto::Reach { known, next_gop, discontinuity } = reach;
    known.then_some(Reach { next_gop, discontinuity })
}
