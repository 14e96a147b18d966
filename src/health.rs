//! What load balancers and Prometheus ask: alive, ready, and the numbers.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use headwater_common::{
    http::NO_STORE,
    node::{Node, Phase},
    telemetry::Telemetry,
};

/// Whether publishers are let in without the registry now.
pub(crate) type IsProvisional = Arc<dyn Fn() -> bool + Send + Sync>;

pub(crate) fn router(node: Node, is_provisional: IsProvisional, telemetry: Telemetry) -> Router {
    Router::new()
        // The process answers, whatever else may be wrong: restarting it would help nobody.
        .route("/livez", get(|| async { ([NO_STORE], "ok\n") }))
        .route("/readyz", get(ready).with_state((node, is_provisional)))
        .route("/metrics", get(metrics).with_state(telemetry))
}

/// The registry's absence is no reason to send nobody here: what can be done without it is done.
async fn ready(State((node, is_provisional)): State<(Node, IsProvisional)>) -> impl IntoResponse {
    let phase = node.phase();
    let status = if phase == Phase::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let but = if is_provisional() { ", without the registry: publishers are let in provisionally" } else { "" };
    (status, [NO_STORE], format!("{}{but}\n", phase.name()))
}

async fn metrics(State(telemetry): State<Telemetry>) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], telemetry.render())
}
