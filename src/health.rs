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
    let phase = node.phase();
    let status = if phase == Phase::Ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [NO_STORE], format!("{}\n", phase.name()))
}

async fn metrics(State(telemetry): State<Telemetry>) -> impl IntoResponse {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, OPEN_METRICS)], telemetry.render())
}
