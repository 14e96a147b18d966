//! From publisher to hall, and what only an origin does.
//!
//! In: settings, and what the process shares (hub, registry, store). Out: an [`Origin`] whose loops run, its REST
//! routes, and a proper end.

pub mod announce;
mod api;
mod hooks;
pub mod ingest;
pub mod inquiry;
pub mod ladders;
pub mod membership;
mod pause;
#[cfg(feature = "transcode")]
mod previews;
pub mod record;
#[cfg(feature = "transcode")]
pub mod transcode;

#[doc(hidden)]
pub mod fuzz;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::Method,
    middleware::{self, Next},
    response::Response,
};
use headwater_common::{
    antmedia,
    audience::{Count, CountViewers},
    cluster::Cluster,
    config::Config,
    http::Tls,
    ice_servers::IceServers,
    live::{Hub, Status},
    net,
    node::Node,
    registry::{Life, Registry},
    rtc::Engine,
    store::{Store, asked, s3::Bucket},
    telemetry::Telemetry,
    wish::Home,
};
use tokio::{sync::oneshot, task::JoinHandle};

use announce::{Desk, Witnesses};
use hooks::Hooks;
use ingest::rtmp::Rtmp;
use inquiry::Inquiry;
use ladders::Ladders;
use membership::Membership;
use record::Recorder;

/// What an origin shares with the rest of the process.
#[derive(Clone)]
pub struct Shared {
    pub config: Arc<Config>,
    pub hub: Arc<Hub>,
    pub engine: Engine,
    pub ice_servers: Arc<IceServers>,
    pub registry: Arc<dyn Registry>,
    /// Where nodes share the registry.
    pub membership: Option<Membership>,
    pub life: Life,
    pub store: Store,
    pub bucket: Option<Bucket>,
    pub telemetry: Telemetry,
    pub node: Node,
    pub tls: Option<Tls>,
    pub viewers: CountViewers,
    /// The other nodes, where there are any.
    pub cluster: Option<Cluster>,
}

pub struct Origin {
    shared: Shared,
    desk: Desk,
    recorder: Recorder,
    ladders: Ladders,
    /// End when the node stops: doors first, then what they fed.
    doors: Vec<JoinHandle<anyhow::Result<()>>>,
    recording: JoinHandle<()>,
    /// Ends when the other half is dropped and the last news are told.
    telling: (oneshot::Sender<()>, JoinHandle<()>),
}

impl Origin {
    /// Opens the doors and starts what works behind them.
    pub async fn start(shared: Shared) -> anyhow::Result<Self> {
        let Shared { config, hub, registry, membership, life, store, bucket, telemetry, node, tls, cluster, .. } =
            &shared;
        let desk =
            Desk::new(config.clone(), hub.clone(), registry.clone(), membership.clone(), life.clone(), node.clone())
                .with(Witnesses::new(cluster.clone(), &config.data, membership.is_some()));
        let rtmp = Rtmp::new(desk.clone(), telemetry.door("rtmp"), node.clone(), config.rtmp.connections_max);
        let mut doors = vec![tokio::spawn(rtmp.clone().serve(net::listen_tcp(config.rtmp.listen, "RTMP")?, None))];
        if let Some(tls) = tls {
            let listener = net::listen_tcp(config.rtmp.tls_listen, "RTMPS")?;
            doors.push(tokio::spawn(rtmp.serve(listener, Some(tls.clone()))));
        }

        let settings = record::Settings {
            apps: config.apps.iter().map(|(name, app)| (name.clone(), app.record)).collect(),
            record: false,
            rules: config.apps.iter().map(|(name, app)| (name.clone(), (&app.recording).into())).collect(),
            webhooks: config
                .apps
                .iter()
                .filter(|(_, app)| app.webhooks.is_set())
                .map(|(name, _)| name.clone())
                .collect(),
            node: life.node.clone(),
            free_disk_mb_min: config.record.free_disk_mb_min,
            free_disk_mb_warn: config.record.free_disk_mb_warn,
        };
        let recorder =
            Recorder::open(hub.clone(), registry.clone(), store.clone(), bucket.clone(), settings, telemetry).await?;
        if let (Some(_), Some(app)) = (bucket, config.apps.keys().next()) {
            tokio::spawn(record::try_storage(recorder.clone(), app.clone()));
        }
        let recording = tokio::spawn({
            let (recorder, node) = (recorder.clone(), node.clone());
            async move { recorder.run(node.stopping()).await }
        });
        let ladders = ladders(config, registry);
        #[cfg(feature = "transcode")]
        tokio::spawn(transcode::run(hub.clone(), telemetry.clone(), transcode::Settings::default(), ladders.clone()));
        #[cfg(not(feature = "transcode"))]
        if config.apps.values().any(|app| !app.ladder.is_empty()) {
            tracing::warn!("this build has no encoders: ladders are not made");
        }
        tokio::spawn(announce::run(desk.clone()));
        let hooks = Hooks::new(config, registry.clone(), membership.clone(), telemetry.door("webhook"));
        let (close, closing) = oneshot::channel();
        let telling = (close, tokio::spawn(hooks.run(closing)));
        Ok(Self { shared, desk, recorder, ladders, doors, recording, telling })
    }

    /// WHIP and REST.
    pub fn router(&self, home: Option<Home>) -> Router {
        let Shared { engine, ice_servers, telemetry, .. } = self.shared.clone();
        let whip = ingest::webrtc::router(engine, self.desk.clone(), telemetry.door("whip"), ice_servers, home);
        let router = whip.merge(api::router(self.api()));
        #[cfg(feature = "transcode")]
        let router = router.merge(previews::router(self.shared.hub.clone()));
        router
    }

    fn api(&self) -> api::Api {
        let Shared { config, hub, engine, registry, viewers, cluster, .. } = self.shared.clone();
        let (recorder, ladders, inquiry) = (self.recorder.clone(), self.ladders.clone(), self.inquiry());
        let desk = self.desk.clone();
        api::Api { config, hub, engine, desk, registry, inquiry, recorder, ladders, viewers, cluster }
    }

    /// Whose broadcasts and recordings are whose.
    pub fn inquiry(&self) -> Inquiry {
        Inquiry::new(self.shared.registry.clone(), self.shared.membership.clone())
    }

    /// Where nodes share the registry.
    pub fn membership(&self) -> Option<Membership> {
        self.shared.membership.clone()
    }

    /// For publishers that come by Ant Media's signalling.
    pub fn entrance(&self) -> antmedia::Entrance {
        ingest::webrtc::entrance(self.desk.clone())
    }

    /// How many publish here now, whatever their protocol.
    pub fn publishers(&self) -> Count {
        let hub = self.shared.hub.clone();
        Arc::new(move || hub.list().iter().filter(|broadcast| broadcast.status() == Status::Live).count())
    }

    /// Broadcasts as REST shows them.
    pub fn describe(&self) -> antmedia::Describe {
        let api = self.api();
        Arc::new(move |id| {
            let api = api.clone();
            Box::pin(async move { api.describe(&id).await })
        })
    }

    /// Puts recordings in front of a router that answers for `/{app}/streams/` otherwise: live streams and recordings
    /// share that path, as players expect, and only how they are called tells them apart.
    pub fn serve_recordings(&self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self.recorder.clone(), recording_or_live))
    }

    /// To be called when the node stops: waits for publishers to be told, recordings to be finalised, ends to be known.
    pub async fn finish(self) {
        for door in self.doors {
            match door.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "a door closed with an error"),
                Err(error) => tracing::error!(%error, "a door ended by a bug"),
            }
        }
        announce::settle(&self.desk).await;
        if let Some(membership) = &self.shared.membership {
            membership.leave().await;
        }
        if let Err(error) = self.recording.await {
            tracing::error!(%error, "recording ended by a bug; the next start finalises what is left");
        }
        let (close, told) = self.telling;
        drop(close);
        if let Err(error) = told.await {
            tracing::error!(%error, "telling what became of broadcasts ended by a bug; the next start goes on with it");
        }
    }
}

fn ladders(config: &Config, registry: &Arc<dyn Registry>) -> Ladders {
    let apps = config.apps.iter().map(|(name, app)| (name.clone(), app.ladder.clone())).collect();
    let registry = registry.clone();
    let lookup: ladders::Lookup = Arc::new(move |id| {
        let registry = registry.clone();
        Box::pin(async move {
            match registry.get(&id).await {
                Ok(row) => row?.details.ladder,
                Err(error) => {
                    tracing::error!(broadcast = %id, %error, "the registry was not read: the application's ladder is taken");
                    None
                }
            }
        })
    });
    Ladders::new(apps, lookup)
}

async fn recording_or_live(State(recorder): State<Recorder>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    match asked(&path) {
        Some((app, asked)) if *request.method() != Method::OPTIONS && !recorder.is_live(app, asked) => {
            recorder.serve(app, asked, request).await
        }
        _ => next.run(request).await,
    }
}
