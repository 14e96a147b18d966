//! Answers pulls. In: a stream of wishes that begins with the name of a broadcast. Out: a [`Serving`] for it, or why there
//! is none. Deliberately absent: media, and any state: pulls know nothing of each other.

use std::{sync::Arc, time::Duration};

use headwater_proto::{Open, Wish, relay_server::Relay, wish};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::{Serving, wire};
use crate::{
    finder::Finder,
    node::Node,
    rtc::{Engine, Side},
    telemetry::{Door, Telemetry},
};

/// A node that pulls says so at once.
const OPEN_WITHIN: Duration = Duration::from_secs(3);

/// What is found here, for other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Serve {
    finder: Finder,
    engine: Engine,
    node: Node,
    name: Arc<str>,
    door: Door,
}

impl Serve {
    /// `name` is what other nodes call this one.
    pub fn new(finder: Finder, engine: Engine, node: Node, name: &str, telemetry: &Telemetry) -> Self {
        Self { finder, engine, node, name: name.into(), door: telemetry.door("relay") }
    }
}

#[tonic::async_trait]
impl Relay for Serve {
    type PullStream = Serving;

    async fn pull(&self, request: Request<Streaming<Wish>>) -> Result<Response<Serving>, Status> {
        let mut wishes = request.into_inner();
        let first = timeout(OPEN_WITHIN, wishes.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no broadcast was named"))??;
        let Some(Wish { wish: Some(wish::Wish::Open(Open { name, node })) }) = first else {
            self.door.errors.inc();
            return Err(Status::invalid_argument("the first wish has to name a broadcast"));
        };
        let id = wire::to_id(name).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let Some(broadcast) = self.finder.find(&id).await else {
            return Err(Status::not_found(format!("{id} is not here")));
        };
        tracing::debug!(broadcast = %id, node, "pulled by another node");
        let corridor = self.engine.corridor(&id, Side::Below);
        let (node, name, door) = (self.node.clone(), self.name.clone(), self.door.clone());
        Ok(Response::new(Serving::new(broadcast, wishes, corridor, node, name, door)))
    }
}
