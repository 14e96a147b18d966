//! From hall to viewer.
//!
//! In: settings, and the hub that this process fills. Out: an [`Edge`] whose sockets are open, its HTTP routes, and how
//! many watch.

pub mod hls;
pub mod webrtc;

#[doc(hidden)]
pub mod fuzz {
    pub use crate::webrtc::sdp_offer;
}

use std::sync::Arc;

use axum::Router;
use headwater_common::{
    audience::{CountViewers, Viewers},
    config::{self, Config},
    ice_servers::IceServers,
    live::Hub,
    rtc,
    telemetry::Telemetry,
};

use hls::Hls;

pub struct Edge {
    hub: Arc<Hub>,
    engine: rtc::Engine,
    hls: Arc<Hls>,
    ice_servers: Arc<IceServers>,
}

impl Edge {
    pub fn start(config: &Config, hub: Arc<Hub>, telemetry: &Telemetry) -> anyhow::Result<Self> {
        let config::Rtc { listen, public_ips, shards, sessions_max, .. } = config.rtc.clone();
        let engine = rtc::Engine::start(rtc::Settings { listen, public_ips, shards, sessions_max }, telemetry)?;
        let hls = Hls::new(hub.clone(), telemetry);
        Ok(Self { hub, engine, hls, ice_servers: Arc::new(IceServers::new(config)) })
    }

    /// WHEP and HLS.
    pub fn router(&self) -> Router {
        webrtc::router(self.engine.clone(), self.hub.clone(), self.ice_servers.clone())
            .merge(hls::router(self.hls.clone()))
    }

    pub fn count_viewers(&self) -> CountViewers {
        let (engine, hls) = (self.engine.clone(), self.hls.clone());
        Arc::new(move |id| Viewers { webrtc: engine.viewers(id), hls: hls.viewers(id) })
    }
}
