//! From hall to viewer.
//!
//! In: how broadcasts are found, the WebRTC engine. Out: an [`Edge`], its HTTP routes, and how many watch.

pub mod hls;
pub mod source;
pub mod webrtc;

#[doc(hidden)]
pub mod fuzz {
    pub use crate::webrtc::sdp_offer;
}

use std::sync::Arc;

use axum::Router;
use headwater_common::{
    audience::{Count, CountViewers, Viewers},
    finder::Finder,
    ice_servers::IceServers,
    node::Node,
    rtc::Engine,
    telemetry::Telemetry,
};

use hls::Hls;
pub use webrtc::Peers;

pub struct Edge {
    finder: Finder,
    engine: Engine,
    hls: Arc<Hls>,
    ice_servers: Arc<IceServers>,
    node: Node,
}

impl Edge {
    pub fn start(
        finder: Finder,
        engine: Engine,
        ice_servers: Arc<IceServers>,
        node: Node,
        telemetry: &Telemetry,
    ) -> Self {
        let hls = Hls::new(finder.clone(), node.clone(), telemetry);
        Self { finder, engine, hls, ice_servers, node }
    }

    /// WHEP and HLS.
    pub fn router(&self, peers: Option<Peers>) -> Router {
        webrtc::router(self.engine.clone(), self.finder.clone(), self.ice_servers.clone(), self.node.clone(), peers)
            .merge(hls::router(self.hls.clone()))
    }

    /// About how many follow a playlist, of any broadcast.
    pub fn hls_viewers(&self) -> Count {
        let hls = self.hls.clone();
        Arc::new(move || hls.all_viewers())
    }

    pub fn count_viewers(&self) -> CountViewers {
        let (engine, hls) = (self.engine.clone(), self.hls.clone());
        Arc::new(move |id| Viewers { webrtc: engine.viewers(id), hls: hls.viewers(id) })
    }
}
