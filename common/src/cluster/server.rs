//! What this node answers to others, all on one port: links, and beside them health for whoever checks it, and whatever
//! else the process gives.
//!
//! In: links of other nodes. Out: news to each, and their reports in the view. Nothing queues: when the transport has room
//! for a message, it gets what changed since its last one, however much or little that is. A caller that says nothing
//! for three seconds is let go of.

use std::{
    net::TcpListener,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::Router;
use futures_util::{Stream, stream::unfold};
use headwater_proto as proto;
use proto::cluster_server::{Cluster, ClusterServer};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tonic::{Request, Response, Status, Streaming, service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    BEAT, Known, SILENT_MAX, Shared, forward, identity::Identity, incoming::incoming, link::MESSAGE_BYTES_MAX, reach,
    wire,
};
use crate::{
    clock,
    node::{Node, Phase},
    relay::transport,
};

/// How often the phase is looked at for `grpc.health.v1`.
const HEALTH_EVERY: Duration = Duration::from_millis(250);

/// Serves until the node has said goodbye.
pub(super) fn serve(
    listener: TcpListener,
    routes: Routes,
    router: Router,
    shared: Arc<Shared>,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let incoming = incoming(listener, shared.surroundings.credentials.clone(), shared.door.clone())?;
    let (health, health_service) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(health, shared.surroundings.node.clone()));
    let desk = ClusterServer::new(Desk { shared: shared.clone(), router }).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut closing = shared.closing.subscribe();
    let server = transport::server(Server::builder()).add_routes(routes.add_service(desk).add_service(health_service));
    Ok(async move {
        let closed = async move {
            // The sender lives as long as the room.
            let _ = closing.wait_for(|closing| *closing).await;
        };
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, closed).await {
            tracing::error!(%error, "other nodes are not answered any more");
        }
    })
}

/// As `/readyz`: a node that takes no work says so.
async fn report_health(reporter: HealthReporter, node: Node) {
    let mut ticks = interval(HEALTH_EVERY);
    let mut told = None;
    loop {
        ticks.tick().await;
        let status = match node.phase() {
            Phase::Ready => ServingStatus::Serving,
            Phase::Starting | Phase::Full | Phase::Draining | Phase::Stopping => ServingStatus::NotServing,
        };
        if told.replace(status) != Some(status) {
            reporter.set_service_status("", status).await;
            reporter.set_service_status("headwater.v1.Cluster", status).await;
        }
    }
}

struct Desk {
    shared: Arc<Shared>,
    /// What clients reach at this node's HTTP.
    router: Router,
}

#[tonic::async_trait]
impl Cluster for Desk {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<proto::News, Status>> + Send>>;
    type ForwardStream = forward::Answer;

    async fn link(&self, request: Request<Streaming<proto::Report>>) -> Result<Response<Self::LinkStream>, Status> {
        let mut reports = request.into_inner();
        let first = timeout(SILENT_MAX, reports.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no report came"))??;
        let identity = match first {
            Some(report) => hear(report, &self.shared).map_err(|status| *status)?,
            None => return Err(nameless()),
        };
        let caller = Caller { identity, shared: self.shared.clone() };
        let listening = Listening(tokio::spawn(listen(reports, caller)));
        Ok(Response::new(Box::pin(news(self.shared.clone(), listening))))
    }

    async fn forward(
        &self,
        request: Request<Streaming<proto::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        Ok(Response::new(forward::answer(self.router.clone(), request.into_inner()).await?))
    }

    async fn give_way(&self, request: Request<proto::NewClaim>) -> Result<Response<proto::Reach>, Status> {
        let answer = reach::answer(&self.shared.surroundings.hub, request.into_inner());
        answer.map(Response::new).ok_or_else(|| Status::invalid_argument("no broadcast has such a name"))
    }
}

fn nameless() -> Status {
    Status::invalid_argument("a report does not say who you are")
}

/// Takes a report into the view; who it is from.
fn hear(report: proto::Report, shared: &Shared) -> Result<Identity, Box<Status>> {
    let known = report.node.and_then(wire::to_known).ok_or_else(|| Box::new(nameless()))?;
    shared.refuse_foreign(&known.facts)?;
    let identity = known.facts.identity.clone();
    let audiences = report.audiences.into_iter().filter_map(wire::to_audience).collect();
    let change = {
        let mut view = shared.view();
        let change = view.hear_itself(known.facts, Instant::now());
        view.hear_audiences(&identity.id, audiences, report.all);
        change
    };
    shared.changed(change);
    Ok(identity)
}

/// Its end is told to the view, however it comes.
struct Caller {
    identity: Identity,
    shared: Arc<Shared>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.shared.lost(&self.identity);
    }
}

async fn listen(mut reports: Streaming<proto::Report>, caller: Caller) {
    while let Ok(Ok(Some(report))) = timeout(SILENT_MAX, reports.message()).await {
        if hear(report, &caller.shared).ok() != Some(caller.identity.clone()) {
            return;
        }
    }
}

/// Ends with the news of its link.
struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Teller {
    shared: Arc<Shared>,
    listening: Listening,
    version: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    ticks: Interval,
    /// What the caller knows.
    told: u64,
    ended: bool,
}

fn news(shared: Arc<Shared>, listening: Listening) -> impl Stream<Item = Result<proto::News, Status>> {
    let mut ticks = interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (version, closing) = (shared.version.subscribe(), shared.closing.subscribe());
    let teller = Teller { shared, listening, version, closing, ticks, told: 0, ended: false };
    unfold(teller, |mut teller| async move { teller.next().await.map(|news| (Ok(news), teller)) })
}

impl Teller {
    async fn next(&mut self) -> Option<proto::News> {
        if self.ended {
            return None;
        }
        tokio::select! {
            // The first tick comes at once.
            _ = self.ticks.tick() => {}
            _ = self.version.changed() => {}
            _ = self.closing.wait_for(|closing| *closing) => self.ended = true,
            _ = &mut self.listening.0 => return None,
        }
        let first = self.told == 0;
        let view = self.shared.view();
        let (update, version) = view.update(self.told, Instant::now());
        self.told = version;
        Some(proto::News {
            from: first.then(|| wire::from_known(&Known::direct(view.me().clone()))),
            now_us: clock::to_tell_us().unwrap_or_default(),
            nodes: update.nodes.iter().map(wire::from_known).collect(),
            broadcasts: update.statements.iter().map(wire::from_statement).collect(),
            nodes_removed: update.removed.iter().map(ToString::to_string).collect(),
        })
    }
}
