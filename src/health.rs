//! What load balancers and Prometheus ask: alive, ready, and the numbers.

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

pub(crate) fn router(node: Node, telemetry: Telemetry) -> Router {
    Router::new()
        // The process answers, whatever else may be wrong: restarting it would help nobody.
        .route("/livez", get(|| async { ([NO_STORE], "ok\n") }))
        .route("/readyz", get(ready).with_state(node))
        .route("/metrics", get(metrics).with_state(telemetry))
}

async fn ready(State(node): State<Node>) -> impl IntoResponse {
    match node.phase() {
        Phase::Ready => (StatusCode::OK, [NO_STORE], "ready\n"),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, [NO_STORE], "starting\n"),
        Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, [NO_STORE], "stopping\n"),
    }
}

async fn metrics(State(telemetry): State<Telemetry>) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], telemetry.render())
}
