//! Headwater: a clustered origin/edge live streaming engine with recording, in one binary.
//!
//! Read this as the table of contents: settings, then the hall (hub), then the edge that empties it, the other nodes, and
//! the origin that fills it with what is known (registry, store), then waiting for the end.

mod drain;
mod elsewhere;
mod flags;
mod health;
mod nodes;
mod pages;
mod placement;
mod process;
mod reconcile;
mod registry;
mod routes;
mod sessions;
mod turn;
mod welcome;

use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use clap::Parser;
use headwater_common::{
    antmedia::{self, Signalling},
    audience,
    cluster::{
        Cluster, HttpPlace, Listening, Routes, Surroundings,
        identity::Identity,
        tls::{self, Credentials},
    },
    config::{self, Config},
    finder::Finder,
    http::{self, Admin},
    ice_servers::IceServers,
    live::Hub,
    load,
    node::{Node, Role},
    relay::{Serve, transport},
    rtc,
    store::{Store, s3::Bucket},
    telemetry::Telemetry,
};
use headwater_edge::{Edge, source::Source};
use headwater_origin::{self as origin, Origin};
use mimalloc::MiMalloc;

use drain::Drain;
use elsewhere::Elsewhere;
use flags::Task;
use placement::Placement;
use sessions::Sessions;

/// Media are many pieces of memory of many sizes that come and go all the time, between threads: the system's allocator was a
/// sixth of what an edge spends, and keeps what a crowd of viewers has left behind.
#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = flags::Flags::parse();
    match flags.task() {
        Task::Run(role) => run(role, Arc::new(flags.config(role)?)).await?,
        Task::Reconcile { repair } => reconcile::run(flags.settings()?, repair).await?,
        Task::PrintConfig => print!("{}", config::DEFAULTS),
        Task::PrintSecret => println!("{}", tls::new_secret()?),
        Task::WriteCertificates(folder) => {
            let files = tls::write_certificates(&folder)?;
            files.iter().for_each(|file| println!("{}", file.display()));
        }
    }
    Ok(())
}

async fn run(role: Role, config: Arc<Config>) -> anyhow::Result<()> {
    let telemetry = Telemetry::new();
    telemetry.start_log(&config.log)?;
    process::install_crypto()?;

    std::fs::create_dir_all(&config.data).with_context(|| format!("create {}", config.data.display()))?;
    let identity = Identity::load(&config.data)?;
    let tls = http::Tls::load(&config.tls).await?;
    let credentials = role.has_peers().then(|| Credentials::load(&config.cluster)).transpose()?;
    let hub = Hub::new();
    let node = Node::starting();
    telemetry.watch_hub(hub.clone());
    telemetry.watch_node(node.clone());

    let engine = rtc::Engine::start(rtc_settings(&config), &telemetry)?;
    let ice_servers = Arc::new(IceServers::new(&config));
    let (audience, counter) = audience::later();

    let listening = match &credentials {
        Some(credentials) => {
            let surroundings = Surroundings {
                identity: identity.clone(),
                role,
                credentials: credentials.clone(),
                node: node.clone(),
                hub: hub.clone(),
                viewers: audience.clone(),
            };
            Some(Cluster::bind(&config.cluster, HttpPlace(config.http.listen), surroundings, &telemetry)?)
        }
        None => None,
    };
    let cluster = listening.as_ref().map(Listening::cluster);

    let finder = match cluster.clone().filter(|_| role == Role::Edge) {
        Some(cluster) => {
            let (name, find) = (cluster.me().identity.id, Arc::new(move |id: &_| cluster.locate(id)));
            Source::start(hub.clone(), engine.clone(), name, find, &telemetry).finder()
        }
        None => Finder::hub(hub.clone()),
    };
    let edge = role
        .serves_viewers()
        .then(|| Edge::start(finder.clone(), engine.clone(), ice_servers.clone(), node.clone(), &telemetry));
    if let Some(edge) = &edge {
        counter.set(edge.count_viewers());
    }
    let serve = |cluster: &Cluster| {
        let serve = Serve::new(finder.clone(), engine.clone(), node.clone(), cluster.me().id().as_str(), &telemetry);
        Routes::new(transport::service(serve))
    };
    let to_nodes = cluster.as_ref().map(serve).unwrap_or_default();

    let start_origin = async || {
        let registry::Kept { registry, membership, life } =
            registry::open(&config, &identity, role, &node, cluster.as_ref()).await?;
        Origin::start(origin::Shared {
            config: config.clone(),
            hub: hub.clone(),
            engine: engine.clone(),
            ice_servers: ice_servers.clone(),
            registry,
            membership,
            life,
            store: Store::open(&config.data)?,
            bucket: Bucket::open(&config.store.s3).await,
            telemetry: telemetry.clone(),
            node: node.clone(),
            tls: tls.clone(),
            viewers: cluster.as_ref().map_or(audience, Cluster::count_viewers),
            cluster: cluster.clone(),
        })
        .await
    };
    let origin = if role.takes_publishers() { Some(start_origin().await?) } else { None };

    let sessions = {
        let engine = engine.clone();
        move || engine.counts().0
    };
    tokio::spawn(load::watch(node.clone(), config.limits, telemetry.egress(), sessions));

    let admin = Admin::new(&config.http.admin_networks);
    let elsewhere = cluster.clone().map(|cluster| Elsewhere::new(cluster, admin.clone()));
    let origin_describes = origin.as_ref().map(Origin::describe);
    let others_describe = elsewhere.as_ref().map(Elsewhere::describe);
    let signalling = Signalling::new(antmedia::Shared {
        apps: config.apps.keys().cloned().collect(),
        engine: engine.clone(),
        finder,
        node: node.clone(),
        ice_servers: ice_servers.clone(),
        entrance: origin.as_ref().map(Origin::entrance),
        plays: edge.is_some(),
        describe: origin_describes.or(others_describe).unwrap_or_else(nothing_known),
        door: telemetry.door("antmedia"),
    });

    let membership = origin.as_ref().and_then(Origin::membership);
    let sessions = Sessions { config: config.clone(), engine: engine.clone(), cluster: cluster.clone() };
    let drain = Drain::new(drain::Party {
        is_alone: cluster.is_none() && membership.is_none(),
        node: node.clone(),
        engine,
        signalling: signalling.clone(),
        hls_viewers: edge.as_ref().map_or_else(audience::none, Edge::hls_viewers),
        publishers: origin.as_ref().map_or_else(audience::none, Origin::publishers),
        settings: config.drain,
    });

    let placement = Placement::new(config.clone(), node.clone(), role, cluster.clone());
    let router = Router::new()
        .merge(signalling.router())
        .merge(routes::of_roles(origin.as_ref(), edge.as_ref(), elsewhere.as_ref(), &placement))
        .merge(placement.router())
        .merge(sessions::router(sessions, admin.clone()))
        .merge(nodes::router(
            nodes::Desk { cluster: cluster.clone(), membership: membership.clone() },
            role,
            admin.clone(),
        ))
        .merge(drain.router(admin))
        .merge(pages::router())
        .merge(turn::router(config.clone(), ice_servers))
        .merge(health::router(node.clone(), registry::is_provisional(membership.clone()), telemetry.clone()));
    let clients = routes::for_clients(router.clone(), &node, &telemetry);
    let server = tokio::spawn(http::serve(&config.http, tls.clone(), clients, &node)?);
    let serving = listening.map(|listening| listening.serve(to_nodes, router)).transpose()?;
    let me = cluster.clone();
    tokio::spawn(ready_when_joined(node.clone(), cluster.filter(|_| role == Role::Edge)));
    welcome::print(&config, role);

    let mishap = process::stop_signal(tls, credentials, &drain, registry::displaced(membership, me)).await?;
    node.stop();
    signalling.finish().await;
    if let Some(origin) = origin {
        origin.finish().await;
    }
    if let Some(serving) = serving {
        serving.finish().await;
    }
    server.await??;
    mishap.map_or(Ok(()), |mishap| Err(anyhow::Error::from_boxed(mishap)))
}

/// An edge has nothing to offer before an origin has told it what there is.
async fn ready_when_joined(node: Node, cluster: Option<Cluster>) {
    if let Some(cluster) = cluster {
        cluster.joined().await;
    }
    node.ready();
}

fn rtc_settings(config: &Config) -> rtc::Settings {
    let config::Rtc { listen, public_ips, shards, .. } = config.rtc.clone();
    let sessions_max = match config.limits.sessions {
        0 => usize::MAX,
        sessions => sessions,
    };
    let distribution = config.apps.iter().map(|(name, app)| (name.clone(), app.data_from_viewers)).collect();
    rtc::Settings { listen, public_ips, shards, sessions_max, distribution }
}

fn nothing_known() -> antmedia::Describe {
    Arc::new(|_| Box::pin(async { None }))
}
