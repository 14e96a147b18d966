//! The cluster over REST, with Ant Media's paths and names.
//!
//! | request | answer |
//! |---|---|
//! | `GET /rest/v2/cluster/nodes/{offset}/{size}` | nodes, this one first |
//! | `GET /rest/v2/cluster/node-count` | `{"number":…}` |
//! | `DELETE /rest/v2/cluster/node/{id}` | 200; 404 where it is not known, 409 while it is there |
//! | `GET /rest/v2/cluster-mode-status` | `{"success":true}` in a cluster |
//!
//! In: requests. Out: what this node knows of the others, which is the same everywhere within a second or two.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use headwater_common::{
    clock,
    cluster::{Cluster, Health, Known, identity::NodeId},
    http::{Admin, NO_STORE, admin_to_change},
    node::Role,
};
use serde::Serialize;

/// What a page of a list may hold, as in the other lists.
const PAGE_MAX: usize = 50;

/// Ant Media's names as far as `cpu`. The others are ours.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeJson {
    id: String,
    ip: String,
    last_update_time: i64,
    /// Alive, dead or left.
    status: &'static str,
    /// Of all cores, as text, as Ant Media's clients know it.
    cpu: String,
    role: &'static str,
    phase: &'static str,
    /// False while there is no link with it.
    reachable: bool,
    version: String,
    grpc: String,
    http: String,
    uptime_ms: u64,
    egress_bits_per_second: u64,
    sessions: u32,
    used_percent: u32,
}

#[derive(Serialize)]
struct Outcome {
    success: bool,
    message: String,
}

/// `cluster` is absent where a node is alone. What changes the list is an origin's to do: the others listen to origins.
pub(crate) fn router(cluster: Option<Cluster>, role: Role, admin: Admin) -> Router {
    let changes = Router::new()
        .route("/rest/v2/cluster/node/{id}", delete(remove))
        .layer(middleware::from_fn_with_state(admin, admin_to_change));
    Router::new()
        .route("/rest/v2/cluster/nodes/{offset}/{size}", get(list))
        .route("/rest/v2/cluster/node-count", get(count))
        .route("/rest/v2/cluster-mode-status", get(mode))
        .merge(if role.takes_publishers() { changes } else { Router::new() })
        .with_state(cluster)
}

async fn mode(State(cluster): State<Option<Cluster>>) -> impl IntoResponse {
    ([NO_STORE], Json(Outcome { success: cluster.is_some(), message: String::new() }))
}

async fn count(State(cluster): State<Option<Cluster>>) -> impl IntoResponse {
    #[derive(Serialize)]
    struct Count {
        number: usize,
    }
    ([NO_STORE], Json(Count { number: cluster.map_or(0, |cluster| cluster.nodes().len()) }))
}

async fn list(State(cluster): State<Option<Cluster>>, Path((offset, size)): Path<(usize, usize)>) -> impl IntoResponse {
    let nodes = cluster.map(|cluster| cluster.nodes()).unwrap_or_default();
    let now_ms = clock::now_us() / 1000;
    let page = nodes.into_iter().skip(offset).take(size.min(PAGE_MAX));
    ([NO_STORE], Json(page.map(|node| describe(node, now_ms)).collect::<Vec<_>>()))
}

async fn remove(State(cluster): State<Option<Cluster>>, Path(id): Path<String>) -> Response {
    let node = NodeId::from(&*id);
    let Some(cluster) = cluster.filter(|cluster| cluster.nodes().iter().any(|known| *known.facts.id() == node)) else {
        return outcome(StatusCode::NOT_FOUND, format!("node {id:?} is not known"));
    };
    if cluster.remove(&node) {
        tracing::info!(%node, "removed by REST");
        return outcome(StatusCode::OK, String::new());
    }
    outcome(StatusCode::CONFLICT, format!("node {id:?} is there, it can't be removed"))
}

fn outcome(status: StatusCode, message: String) -> Response {
    (status, [NO_STORE], Json(Outcome { success: status.is_success(), message })).into_response()
}

fn describe(Known { facts, health, silent }: Known, now_ms: i64) -> NodeJson {
    NodeJson {
        id: facts.id().to_string(),
        ip: host(&facts.grpc).to_owned(),
        last_update_time: now_ms - silent.as_millis() as i64,
        status: match health {
            Health::Alive | Health::Suspect => "alive",
            Health::Dead => "dead",
            Health::Left => "left",
        },
        cpu: facts.load.cpu_percent.to_string(),
        role: match facts.role {
            Role::Origin => "origin",
            Role::Edge => "edge",
            Role::Whole => "whole",
        },
        phase: facts.phase.name(),
        reachable: health == Health::Alive,
        uptime_ms: facts.age.as_millis() as u64,
        egress_bits_per_second: facts.load.egress_bits_per_s,
        sessions: facts.load.sessions,
        used_percent: facts.load.used_percent,
        version: facts.version,
        grpc: facts.grpc,
        http: facts.http,
    }
}

fn host(place: &str) -> &str {
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}
