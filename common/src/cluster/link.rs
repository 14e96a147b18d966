//! One link to one address: the calling side.
//!
//! In: an address where an origin may be. Out: reports to it, each second and when this node's phase changes; its news, into
//! the view. Nothing queues: the transport asks for a report when it has room for one. A link over which nothing came for
//! three seconds is over.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, stream::unfold};
use headwater_proto as proto;
use proto::cluster_client::ClusterClient;
use tokio::{
    sync::watch,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tonic::Code;

use super::{
    BEAT, Double, Known, SILENT_MAX, Shared, dial,
    identity::{Identity, NodeId},
    view::Change,
    wire,
};
use crate::{audience::Viewers, clock, live::BroadcastId};

/// A cluster of ten thousand broadcasts is told in one message.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// A link that lasted so long was a good one: its loss is news, and the next call comes at once.
const LASTED: Duration = Duration::from_secs(5);
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Where this node itself answered, or one that there is a link with already.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("{}", root_cause(.0))]
    Connect(#[from] tonic::transport::Error),
    #[error("{0}")]
    Call(Box<tonic::Status>),
    #[error("nothing was heard for {SILENT_MAX:?}")]
    Silent,
    #[error("it said goodbye")]
    Closed,
    #[error("it does not say who it is")]
    Nameless,
}

impl From<tonic::Status> for LinkError {
    fn from(status: tonic::Status) -> Self {
        Self::Call(Box::new(status))
    }
}

/// "transport error" alone helps nobody.
fn root_cause(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// How a call went that was answered.
pub(super) enum Answer {
    /// There was a link.
    Lost,
    /// This node itself is there, or one that there is another link with.
    Known,
}

/// Calls for as long as somebody wants it to.
pub(super) async fn keep(address: SocketAddr, shared: Arc<Shared>) {
    let mut wait = WAIT_MIN;
    let mut complained = false;
    loop {
        let begun = Instant::now();
        let outcome = link(address, &shared).await;
        if *shared.closing.borrow() {
            return;
        }
        if begun.elapsed() >= LASTED {
            (wait, complained) = (WAIT_MIN, false);
        }
        match outcome {
            Ok(Answer::Known) => {
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
                continue;
            }
            // The others hear of this node by other ways meanwhile; one line tells of a loss, not one for each attempt.
            Ok(Answer::Lost) | Err(LinkError::Closed) => {}
            Err(LinkError::Call(status)) if !complained && status.code() == Code::FailedPrecondition => {
                complained = true;
                tracing::error!(%address, "no link: {}", status.message());
            }
            Err(error) if !complained => {
                complained = true;
                tracing::warn!(%address, %error, "no link with this node");
            }
            Err(error) => tracing::debug!(%address, %error, "still no link with this node"),
        }
        tokio::time::sleep(jittered(wait)).await;
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// Between half of it and all: nodes that lost the same origin don't come back in the same instant.
fn jittered(wait: Duration) -> Duration {
    let mut byte = [0_u8];
    // Without chance it is a longer wait for everybody.
    let share = aws_lc_rs::rand::fill(&mut byte).map_or(1.0, |()| 0.5 + f64::from(byte[0]) / 512.0);
    wait.mul_f64(share)
}

pub(super) async fn link(address: SocketAddr, shared: &Arc<Shared>) -> Result<Answer, LinkError> {
    let channel = dial::connect(address, &shared.surroundings.credentials).await?;
    let mut client = ClusterClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let call = timeout(SILENT_MAX, client.link(reports(shared.clone())));
    let mut news = call.await.map_err(|_| LinkError::Silent)??.into_inner();
    let first = timeout(SILENT_MAX, news.message()).await.map_err(|_| LinkError::Silent)??;
    let mut first = first.ok_or(LinkError::Closed)?;
    let from = first.from.take().and_then(wire::to_known).ok_or(LinkError::Nameless)?.facts;
    if shared.view().is_foreign(&from) {
        // Who was called has known this node's registry later than this node: it refuses with the next call.
        return Ok(Answer::Known);
    }
    hear(first, from.id(), shared);
    let Some(_held) = Held::take(address, &from.identity, shared) else { return Ok(Answer::Known) };
    tracing::info!(node = %from.id(), %address, "linked");
    loop {
        match timeout(SILENT_MAX, news.message()).await {
            Ok(Ok(Some(news))) => hear(news, from.id(), shared),
            Ok(Ok(None)) => {
                tracing::info!(node = %from.id(), "link ended: it said goodbye");
                return Err(LinkError::Closed);
            }
            Ok(Err(status)) => {
                tracing::warn!(node = %from.id(), error = status.message(), "link lost");
                return Ok(Answer::Lost);
            }
            Err(_) => {
                tracing::warn!(node = %from.id(), "link lost: nothing was heard for {SILENT_MAX:?}");
                return Ok(Answer::Lost);
            }
        }
    }
}

/// Takes one node's news into the view.
fn hear(news: proto::News, from: &NodeId, shared: &Shared) {
    // Whoever has a registry asks that for the time. Who tells none does not know it yet.
    if !shared.surroundings.role.takes_publishers() && news.now_us != 0 {
        clock::hear(news.now_us);
    }
    let now = Instant::now();
    let mut change = Change::default();
    let mut view = shared.view();
    for known in news.nodes.into_iter().filter_map(wire::to_known) {
        let (facts, lives) = (&known.facts, known.health.is_there());
        // An earlier life of this node is remembered for a while.
        if facts.id() == view.me().id() && lives && facts.identity.incarnation > view.me().identity.incarnation {
            let double = |double: &mut Option<Double>| {
                *double = Some(Double::hear(*double, facts.identity.incarnation, facts.age));
            };
            shared.double.send_modify(double);
        }
        if known.health.is_there() {
            shared.complain_of_strangers(&view, &known.facts);
        }
        change = change.max(match known.facts.id() == from {
            true => view.hear_itself(known.facts, now),
            false => view.hear_of(known, now),
        });
    }
    for statement in news.broadcasts.into_iter().filter_map(wire::to_statement) {
        change = change.max(view.hear_statement(statement, now));
    }
    for id in news.nodes_removed {
        if view.remove(&NodeId::from(&*id)) {
            change = Change::Great;
        }
    }
    drop(view);
    shared.changed(change);
}

/// A link's place in the list; giving it up tells the view.
struct Held<'a> {
    address: SocketAddr,
    identity: Identity,
    shared: &'a Shared,
}

impl<'a> Held<'a> {
    /// `None` where a second link would say what the first one says.
    fn take(address: SocketAddr, identity: &Identity, shared: &'a Shared) -> Option<Self> {
        if identity.id == shared.surroundings.identity.id {
            return None;
        }
        let taken = shared.links.send_if_modified(|links| {
            let is_first = !links.values().any(|linked| *linked == identity.id);
            if is_first {
                links.insert(address, identity.id.clone());
            }
            is_first
        });
        taken.then(|| Self { address, identity: identity.clone(), shared })
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.shared.links.send_modify(|links| {
            links.remove(&self.address);
        });
        self.shared.lost(&self.identity);
    }
}

/// What this node reports, for as long as the link lasts.
fn reports(shared: Arc<Shared>) -> impl Stream<Item = proto::Report> {
    let mut ticks = interval(BEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reporter = Reporter {
        version: shared.version.subscribe(),
        closing: shared.closing.subscribe(),
        told: HashMap::new(),
        begun: false,
        ended: false,
        ticks,
        shared,
    };
    unfold(reporter, |mut reporter| async move { reporter.next().await.map(|report| (report, reporter)) })
}

struct Reporter {
    shared: Arc<Shared>,
    version: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    ticks: Interval,
    told: HashMap<BroadcastId, Viewers>,
    begun: bool,
    ended: bool,
}

impl Reporter {
    async fn next(&mut self) -> Option<proto::Report> {
        if self.ended {
            return None;
        }
        let phase = self.shared.view().me().phase;
        loop {
            tokio::select! {
                // The first tick comes at once.
                _ = self.ticks.tick() => break,
                _ = self.closing.wait_for(|closing| *closing) => {
                    self.ended = true;
                    break;
                }
                _ = self.version.changed() => if self.shared.view().me().phase != phase { break },
            }
        }
        let audiences = self.audiences();
        let me = self.shared.view().me().clone();
        let (all, node) = (!std::mem::replace(&mut self.begun, true), Some(wire::from_known(&Known::direct(me))));
        Some(proto::Report { node, audiences, all })
    }

    /// Those that changed since the last report. Only an edge has an audience.
    fn audiences(&mut self) -> Vec<proto::Audience> {
        let super::Surroundings { role, hub, viewers, .. } = &self.shared.surroundings;
        let mut now = HashMap::new();
        if role.serves_viewers() {
            let broadcasts = hub.list();
            let counted = broadcasts.iter().map(|broadcast| (broadcast.id().clone(), viewers(broadcast.id())));
            now.extend(counted.filter(|(_, viewers)| *viewers != Viewers::default()));
        }
        let gone = self.told.keys().filter(|id| !now.contains_key(*id)).map(|id| (id, Viewers::default()));
        let changed = now.iter().filter(|(id, viewers)| self.told.get(*id) != Some(*viewers));
        let told = changed.map(|(id, viewers)| (id, *viewers)).chain(gone);
        let audiences = told.map(|(id, viewers)| wire::from_audience(id, viewers)).collect();
        self.told = now;
        audiences
    }
}
