//! Facts as they cross the wire. In: messages. Out: facts, or `None` for what a newer version may have meant: one thing
//! that is not understood must not hide the others.

use std::time::Duration;

use headwater_proto as proto;

use super::{
    facts::{Health, Known, NodeFacts, RegistryFacts, Statement, Status},
    identity::{Identity, NodeId},
};
use crate::{
    audience::Viewers,
    live::BroadcastId,
    load::Load,
    node::{Phase, Role},
};

pub(super) fn from_known(Known { facts, health, silent }: &Known) -> proto::Node {
    let phase = match (*health, facts.phase) {
        (Health::Dead, _) => proto::Phase::Dead,
        (_, Phase::Starting) => proto::Phase::Starting,
        (_, Phase::Ready) => proto::Phase::Ready,
        (_, Phase::Full) => proto::Phase::Full,
        (_, Phase::Draining) => proto::Phase::Draining,
        (_, Phase::Stopping) => proto::Phase::Stopping,
    };
    let role = match facts.role {
        Role::Origin => proto::Role::Origin,
        Role::Edge => proto::Role::Edge,
        Role::Whole => proto::Role::Unspecified,
    };
    let Load { cpu_percent, egress_bits_per_s, sessions, used_percent, memory_percent } = facts.load;
    let operation_us = facts.registry.operation.as_micros().try_into().unwrap_or(u32::MAX);
    proto::Node {
        id: facts.id().to_string(),
        incarnation: facts.identity.incarnation,
        role: role.into(),
        phase: phase.into(),
        version: facts.version.clone(),
        grpc: facts.grpc.clone(),
        http: facts.http.clone(),
        load: Some(proto::Load { cpu_percent, egress_bits_per_s, sessions, used_percent, memory_percent }),
        registry: Some(proto::Registry { id: facts.registry.id.clone(), operation_us }),
        age_ms: millis(facts.age),
        silent_ms: millis(*silent),
        suspect: *health == Health::Suspect,
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

/// The node as who tells of it sees it, as far as it matters here: what left says so itself.
pub(super) fn to_known(node: proto::Node) -> Option<Known> {
    let role = match node.role() {
        proto::Role::Origin => Role::Origin,
        proto::Role::Edge => Role::Edge,
        proto::Role::Unspecified => return None,
    };
    let (phase, health) = match node.phase() {
        proto::Phase::Starting => (Phase::Starting, Health::Alive),
        proto::Phase::Ready => (Phase::Ready, Health::Alive),
        proto::Phase::Full => (Phase::Full, Health::Alive),
        proto::Phase::Draining => (Phase::Draining, Health::Alive),
        proto::Phase::Stopping => (Phase::Stopping, Health::Alive),
        proto::Phase::Dead => (Phase::Stopping, Health::Dead),
        proto::Phase::Unspecified => return None,
    };
    let health = if health == Health::Alive && node.suspect { Health::Suspect } else { health };
    let proto::Load { cpu_percent, egress_bits_per_s, sessions, used_percent, memory_percent } =
        node.load.unwrap_or_default();
    let proto::Registry { id, operation_us } = node.registry.unwrap_or_default();
    let facts = NodeFacts {
        identity: Identity { id: NodeId::from(&*node.id), incarnation: node.incarnation },
        role,
        phase,
        version: node.version,
        grpc: node.grpc,
        http: node.http,
        load: Load { cpu_percent, egress_bits_per_s, sessions, used_percent, memory_percent },
        registry: RegistryFacts { id, operation: Duration::from_micros(operation_us.into()) },
        age: Duration::from_millis(node.age_ms),
    };
    let silent = Duration::from_millis(node.silent_ms);
    (!facts.id().as_str().is_empty()).then_some(Known { facts, health, silent })
}

pub(super) fn from_statement(statement: &Statement) -> proto::Broadcast {
    let status = match statement.status {
        Status::Live => proto::Status::Live,
        Status::Interrupted => proto::Status::Interrupted,
        Status::Finished => proto::Status::Finished,
        Status::Terminated => proto::Status::Terminated,
    };
    proto::Broadcast {
        name: Some(from_id(&statement.broadcast)),
        owner: statement.owner.id.to_string(),
        epoch: statement.epoch,
        status: status.into(),
        incarnation: statement.owner.incarnation,
    }
}

pub(super) fn to_statement(broadcast: proto::Broadcast) -> Option<Statement> {
    let status = match broadcast.status() {
        proto::Status::Live => Status::Live,
        proto::Status::Interrupted => Status::Interrupted,
        proto::Status::Finished => Status::Finished,
        proto::Status::Terminated => Status::Terminated,
        proto::Status::Unspecified => return None,
    };
    let owner = Identity { id: NodeId::from(&*broadcast.owner), incarnation: broadcast.incarnation };
    Some(Statement { broadcast: to_id(broadcast.name?)?, owner, epoch: broadcast.epoch, status })
}

pub(super) fn from_audience(id: &BroadcastId, viewers: Viewers) -> proto::Audience {
    let count = |viewers: usize| viewers.try_into().unwrap_or(u32::MAX);
    proto::Audience { name: Some(from_id(id)), webrtc: count(viewers.webrtc), hls: count(viewers.hls) }
}

pub(super) fn to_audience(audience: proto::Audience) -> Option<(BroadcastId, Viewers)> {
    let viewers = Viewers { webrtc: audience.webrtc as usize, hls: audience.hls as usize };
    Some((to_id(audience.name?)?, viewers))
}

pub(super) fn from_id(id: &BroadcastId) -> proto::Name {
    proto::Name { app: id.app().to_owned(), stream: id.stream().to_owned() }
}

pub(super) fn to_id(name: proto::Name) -> Option<BroadcastId> {
    BroadcastId::new(&name.app, &name.stream).ok()
}
