//! Nodes that share the registry, and what they tell each other by it: who lives, and what is live.

use mongodb::{
    Collection, IndexModel,
    bson::{Document, doc},
    options::{IndexOptions, ReturnDocument},
};

use super::{
    Durability, Mongo, all,
    documents::{BroadcastDocument, NodeDocument, signed},
    fault::Fault,
};
use crate::{
    live::BroadcastId,
    registry::{BroadcastRow, Life, NodeRow, RegistryError},
};

/// After this a node that does not beat is not listed any more. Whether it lives is decided long before.
const FORGET_AFTER: std::time::Duration = std::time::Duration::from_secs(3600);

/// What a beat brings back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beaten {
    /// The server's clock as it wrote, milliseconds of the Unix epoch.
    pub server_ms: i64,
}

impl Mongo {
    pub(super) async fn prepare_nodes(&self) -> Result<(), RegistryError> {
        let expiry = IndexOptions::builder().expire_after(FORGET_AFTER).build();
        let index = IndexModel::builder().keys(doc! { "lastUpdateTime": 1 }).options(expiry).build();
        let made = self.run(self.nodes_collection(Durability::Sure).create_index(index)).await;
        made.map(drop).map_err(|fault| self.explain(fault))
    }

    /// Begins a life: whatever row there is of an earlier one is replaced.
    pub async fn join(&self, about: &NodeRow) -> Result<Beaten, RegistryError> {
        let nodes = self.nodes_collection(Durability::Sure);
        self.raise(&nodes, doc! { "_id": &about.life.node }, about).await
    }

    /// Says that this life goes on, once a second. Fails when a later life of this node has begun.
    pub async fn beat(&self, about: &NodeRow) -> Result<Beaten, RegistryError> {
        let nodes = self.nodes_collection(Durability::Quick);
        let mine = doc! { "_id": &about.life.node, "incarnation": signed(about.life.incarnation) };
        self.raise(&nodes, mine, about).await
    }

    async fn raise(
        &self,
        nodes: &Collection<NodeDocument>,
        filter: Document,
        about: &NodeRow,
    ) -> Result<Beaten, RegistryError> {
        let change = doc! {
            "$set": NodeDocument::said(about),
            // Raised twice is as good as once: others see whether it stands still.
            "$inc": { "beat": 1_i64 },
            "$currentDate": { "lastUpdateTime": true },
        };
        // An operator or the server may have removed the row: then it is made anew.
        let beat = nodes.find_one_and_update(filter, change).upsert(true).return_document(ReturnDocument::After);
        match self.run(beat).await {
            Ok(Some(now)) => Ok(Beaten { server_ms: now.last_update_time.timestamp_millis() }),
            Ok(None) => Err(self.explain(Fault::Other("the row of this node was not returned".to_owned()))),
            Err(Fault::Duplicate) => Err(RegistryError::Displaced { node: about.life.node.clone() }),
            Err(fault) => Err(self.explain(fault)),
        }
    }

    /// Says for another node that it lives.
    pub async fn vouch(&self, life: &Life) -> Result<(), RegistryError> {
        let row = doc! { "_id": &life.node, "incarnation": signed(life.incarnation) };
        let raise = doc! { "$inc": { "vouched": 1_i64 }, "$currentDate": { "lastUpdateTime": true } };
        let raised = self.run(self.nodes_collection(Durability::Quick).update_one(row, raise)).await;
        raised.map(drop).map_err(|fault| self.explain(fault))
    }

    pub async fn nodes(&self) -> Result<Vec<NodeRow>, RegistryError> {
        let nodes = self.nodes_collection(Durability::Quick);
        let find = nodes.find(doc! {}).batch_size(10_000);
        let found = self.run(all(find)).await;
        Ok(found.map_err(|fault| self.explain(fault))?.into_iter().map(NodeDocument::row).collect())
    }

    /// For nodes that are gone; one that lives is back with its next beat. False when there is none of this name.
    pub async fn remove_node(&self, node: &str) -> Result<bool, RegistryError> {
        let removed = self.run(self.nodes_collection(Durability::Sure).delete_one(doc! { "_id": node })).await;
        Ok(removed.map_err(|fault| self.explain(fault))?.deleted_count > 0)
    }

    /// What is live, and what has ended since then, in all applications.
    pub async fn recent(&self, ended_since_ms: i64) -> Result<Vec<BroadcastRow>, RegistryError> {
        let mut rows = Vec::new();
        for name in self.databases() {
            let database = self.client.database(&name);
            let broadcasts = self.collection::<BroadcastDocument>(&database, "broadcast", Durability::Quick);
            let recent = doc! { "$or": [{ "status": "broadcasting" }, { "endTime": { "$gte": ended_since_ms } }] };
            let find = broadcasts.find(recent).batch_size(10_000);
            let found = self.run(all(find)).await;
            rows.extend(found.map_err(|fault| self.explain(fault))?.into_iter().map(BroadcastDocument::row));
        }
        Ok(rows)
    }

    /// Ends the broadcast of a life that is over. Of all who try it, one hears `true`.
    pub async fn bury(&self, id: &BroadcastId, life: &Life, now_us: i64) -> Result<bool, RegistryError> {
        Ok(self.edit(id, |row| Ok(row.bury(life, now_us).then_some(()))).await?.is_some())
    }

    fn nodes_collection(&self, durability: Durability) -> Collection<NodeDocument> {
        self.collection(&self.cluster(), "clusternode", durability)
    }
}
