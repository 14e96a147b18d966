//! What this node answers over HTTP, by its role.
//!
//! In: the rooms that there are. Out: one router, for clients and for nodes that hand on a client's request.

use std::sync::Arc;

use axum::{Router, http::StatusCode, middleware, routing::any};
use headwater_common::{http, node::Node, telemetry::Telemetry};
use headwater_edge::{Edge, Peers};
use headwater_origin::Origin;

use crate::{elsewhere::Elsewhere, placement::Placement};

/// `elsewhere`: the other nodes, where there are any.
pub(crate) fn of_roles(
    origin: Option<&Origin>,
    edge: Option<&Edge>,
    elsewhere: Option<&Elsewhere>,
    placement: &Placement,
) -> Router {
    let home = elsewhere.map(Elsewhere::home);
    let peers = home.clone().map(|home| {
        let placement = placement.clone();
        Peers { home, roomy: Arc::new(move || placement.roomy()) }
    });
    let streams = edge.map_or_else(no_streams, |edge| edge.router(peers));
    match (origin, elsewhere) {
        (Some(origin), None) => origin.serve_recordings(streams).merge(origin.router(home)),
        (Some(origin), Some(elsewhere)) => {
            let recordings = elsewhere.behind_recordings(origin.serve_recordings(streams), origin.inquiry());
            recordings.merge(elsewhere.before_origin(origin.router(home), origin.inquiry()))
        }
        (None, Some(elsewhere)) => elsewhere.before_edge(streams).merge(elsewhere.router()),
        (None, None) => streams,
    }
}

/// What is done to requests that come from clients directly.
pub(crate) fn for_clients(router: Router, node: &Node, telemetry: &Telemetry) -> Router {
    router
        .layer(middleware::from_fn(http::cross_origin))
        .layer(middleware::from_fn_with_state(telemetry.egress(), http::count_egress))
        .layer(middleware::from_fn_with_state(node.clone(), http::close_when_leaving))
}

/// Where there are recordings and no live streams beside them.
fn no_streams() -> Router {
    let nothing = || any(|| async { StatusCode::NOT_FOUND });
    Router::new().route("/{app}/streams/{file}", nothing()).route("/{app}/streams/{folder}/{piece}", nothing())
}
