//! Headwater: a clustered origin/edge live streaming engine with recording, in one binary.
//!
//! Read this as the table of contents: settings, then what is known (registry, store) and the hall (hub), then the
//! origin that fills it and the edge that empties it, then waiting for the end.

mod drain;
mod flags;
mod health;
mod pages;
mod turn;

use std::sync::Arc;

use anyhow::Context;
use axum::{Router, middleware};
use clap::Parser;
use headwater_common::{
    antmedia::{self, Signalling},
    config, http,
    ice_servers::IceServers,
    live::Hub,
    load,
    node::Node,
    registry::{Opened, Registry},
    rtc,
    store::Store,
    telemetry::Telemetry,
};
use headwater_edge::Edge;
use headwater_origin::{self as origin, Origin};

use drain::Drain;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = flags::Flags::parse();
    if flags.print_config {
        print!("{}", headwater_common::config::DEFAULTS);
        return Ok(());
    }
    let config = Arc::new(flags.config()?);
    let telemetry = Telemetry::new();
    telemetry.start_log(&config.log)?;
    install_crypto()?;

    std::fs::create_dir_all(&config.data).with_context(|| format!("create {}", config.data.display()))?;
    let Opened { registry, orphans } = Registry::open(&config.data.join("registry.redb"))?;
    for row in orphans {
        tracing::warn!(broadcast = format!("{}/{}", row.app, row.stream), "ended when the last process died");
    }
    let store = Store::open(&config.data)?;
    let tls = http::Tls::load(&config.tls).await?;
    let hub = Hub::new();
    let node = Node::starting();

    telemetry.watch_hub(hub.clone());
    telemetry.watch_node(node.clone());

    let engine = rtc::Engine::start(rtc_settings(&config), &telemetry)?;
    let ice_servers = Arc::new(IceServers::new(&config));
    let edge = Edge::start(hub.clone(), engine.clone(), ice_servers.clone(), node.clone(), &telemetry);
    let origin = Origin::start(origin::Shared {
        config: config.clone(),
        hub: hub.clone(),
        engine: engine.clone(),
        ice_servers: ice_servers.clone(),
        registry,
        store,
        telemetry: telemetry.clone(),
        node: node.clone(),
        tls: tls.clone(),
        viewers: edge.count_viewers(),
    })?;

    let sessions = {
        let engine = engine.clone();
        move || engine.counts().0
    };
    tokio::spawn(load::watch(node.clone(), config.limits, telemetry.egress(), sessions));

    let signalling = Signalling::new(antmedia::Shared {
        apps: config.apps.keys().cloned().collect(),
        engine: engine.clone(),
        hub,
        node: node.clone(),
        ice_servers: ice_servers.clone(),
        claim: origin.claim(),
        describe: origin.describe(),
        door: telemetry.door("antmedia"),
    });

    let drain = Drain::new(drain::Party {
        node: node.clone(),
        engine,
        signalling: signalling.clone(),
        hls_viewers: Arc::new(edge.hls_viewers()),
        publishers: Arc::new(origin.publishers()),
        settings: config.drain,
    });

    let router = Router::new()
        .merge(signalling.router())
        .merge(drain.router(http::Admin::new(&config.http.admin_networks)))
        .merge(origin.serve_recordings(edge.router()))
        .merge(origin.router())
        .merge(pages::router())
        .merge(turn::router(config.clone(), ice_servers))
        .merge(health::router(node.clone(), telemetry.clone()))
        .layer(middleware::from_fn(http::cross_origin))
        .layer(middleware::from_fn_with_state(telemetry.egress(), http::count_egress))
        .layer(middleware::from_fn_with_state(node.clone(), http::close_when_leaving));
    let server = tokio::spawn(http::serve(&config.http, tls.clone(), router, &node)?);
    node.ready();
    flags::print_addresses(&config);

    stop_signal(tls, &drain).await?;
    node.stop();
    signalling.finish().await;
    origin.finish().await;
    server.await??;
    Ok(())
}

fn rtc_settings(config: &config::Config) -> rtc::Settings {
    let config::Rtc { listen, public_ips, shards, .. } = config.rtc.clone();
    let sessions_max = match config.limits.sessions {
        0 => usize::MAX,
        sessions => sessions,
    };
    let distribution = config.apps.iter().map(|(name, app)| (name.clone(), app.data_from_viewers)).collect();
    rtc::Settings { listen, public_ips, shards, sessions_max, distribution }
}

/// The process-wide crypto provider: everything here uses one and the same.
fn install_crypto() -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS crypto provider is installed already"))?;
    str0m::crypto::from_feature_flags().install_process_default();
    Ok(())
}

/// Returns on Ctrl-C, and on SIGTERM when the node is drained or the signal comes again; SIGHUP reads the certificate again
/// meanwhile.
async fn stop_signal(tls: Option<http::Tls>, drain: &Drain) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let mut leaves = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => match leaves {
                true => break,
                false => leaves = true,
            },
            () = drain.leave(), if leaves => break,
            interrupt = tokio::signal::ctrl_c() => { interrupt?; break }
            _ = hangup.recv() => if let Some(tls) = &tls {
                match tls.reload().await {
                    Ok(()) => tracing::info!("certificate read again"),
                    Err(error) => tracing::error!("{error:#}; the old certificate stays"),
                }
            },
        }
    }
    tracing::info!("stopping");
    Ok(())
}
