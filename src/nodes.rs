//! The cluster over REST, with Ant Media's paths and names.
//!
//! | request | answer |
//! |---|---|
//! | `GET /rest/v2/cluster/nodes/{offset}/{size}` | nodes, this one first |
//! | `GET /rest/v2/cluster/node-count` | `{"number":…}` |
//! | `DELETE /rest/v2/cluster/node/{id}` | 200; 404 where it is not known, 409 while it is there, 503 while the registry is away |
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
use headwater_origin::membership::{Membership, Removal};
use serde::Serialize;

/// What a page of a list may hold, as in the other lists.
const PAGE_MAX: usize = 50;

/// Ant Media's names as far as `dbQueryAveargeTimeMs`. The others are ours.
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
    /// Of the machine, percent as text.
    memory: String,
    /// How long the registry takes for one operation; Ant Media's spelling. 0 where a node keeps none.
    #[serde(rename = "dbQueryAveargeTimeMs")]
    db_query_average_time_ms: u64,
    role: &'static str,
    /// The id of the one that an origin keeps; those with different ones are no cluster. Empty where a node keeps none.
    registry: String,
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

/// Who is asked.
#[derive(Clone)]
pub(crate) struct Desk {
    /// Absent where a node is alone.
    pub(crate) cluster: Option<Cluster>,
    /// Where nodes share the registry: their rows are there.
    pub(crate) membership: Option<Membership>,
}

/// What changes the list is an origin's to do: the others listen to origins.
pub(crate) fn router(desk: Desk, role: Role, admin: Admin) -> Router {
    let cluster = desk.cluster.clone();
    let changes = Router::new()
        .route("/rest/v2/cluster/node/{id}", delete(remove))
        .with_state(desk)
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

async fn remove(State(Desk { cluster, membership }): State<Desk>, Path(id): Path<String>) -> Response {
    let node = NodeId::from(&*id);
    let lives = || outcome(StatusCode::CONFLICT, format!("node {id:?} is there, it can't be removed"));
    let nodes = cluster.as_ref().map(Cluster::nodes).unwrap_or_default();
    let known = nodes.iter().find(|known| *known.facts.id() == node);
    if known.is_some_and(|known| known.health.is_there()) {
        return lives();
    }
    // First, so that no look into the registry brings it back.
    let row = match &membership {
        Some(membership) => membership.remove_node(&id, known.is_some()).await,
        None => Ok(Removal::Unknown),
    };
    let had_row = match row {
        Ok(Removal::Lives) => return lives(),
        Ok(removal) => removal == Removal::Removed,
        Err(error) => return outcome(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    };
    let was_listed = cluster.is_some_and(|cluster| cluster.remove(&node));
    if !had_row && !was_listed {
        return outcome(StatusCode::NOT_FOUND, format!("node {id:?} is not known"));
    }
    tracing::info!(%node, "removed by REST");
    outcome(StatusCode::OK, String::new())
}

pub(crate) fn outcome(status: StatusCode, message: String) -> Response {
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
        memory: facts.load.memory_percent.to_string(),
        // To whole ones, and what takes time takes one at least.
        db_query_average_time_ms: facts.registry.operation.as_micros().div_ceil(1_000) as u64,
        role: match facts.role {
            Role::Origin => "origin",
            Role::Edge => "edge",
            Role::Whole => "whole",
        },
        registry: facts.registry.id,
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
