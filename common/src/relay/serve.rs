//! Answers nodes that pull. In: their calls. Out: a [`Carrier`] for each. Deliberately absent: media, and any state: those
//! who pull know nothing of each other.

use std::sync::Arc;

use headwater_proto::{Wish, relay_server::Relay};
use tonic::{Request, Response, Status, Streaming};

use super::{Carrier, serving::Serving};
use crate::{
    finder::Finder,
    live::Broadcast,
    node::Node,
    rtc::{Engine, Side},
    telemetry::{Door, Telemetry},
};

/// What is found here, for other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Serve {
    pub(super) finder: Finder,
    engine: Engine,
    node: Node,
    name: Arc<str>,
    pub(super) door: Door,
}

impl Serve {
    /// `name` is what other nodes call this one.
    pub fn new(finder: Finder, engine: Engine, node: Node, name: &str, telemetry: &Telemetry) -> Self {
        Self { finder, engine, node, name: name.into(), door: telemetry.door("relay") }
    }

    pub(super) fn serving(&self, broadcast: Arc<Broadcast>) -> Serving {
        let corridor = self.engine.corridor(broadcast.id(), Side::Below);
        Serving::new(broadcast, corridor, self.node.clone(), self.name.clone(), self.door.clone())
    }
}

#[tonic::async_trait]
impl Relay for Serve {
    type PullStream = Carrier;

    async fn pull(&self, request: Request<Streaming<Wish>>) -> Result<Response<Carrier>, Status> {
        Ok(Response::new(Carrier::new(self.clone(), request.into_inner())))
    }
}
