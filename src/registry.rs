//! Which registry this process keeps: the file in its data directory, or the database that the settings name.

use std::{sync::Arc, time::Duration};

use headwater_common::{
    clock,
    cluster::{
        Cluster, Health, Judged, NodeFacts, RegistryFacts,
        identity::{Identity, NodeId},
    },
    config::Config,
    load::Load,
    node::{Node, Phase, Role},
    registry::{Embedded, Life, Mongo, NodeRow, Registry, Seen, SeenNode, Verdict},
};
use headwater_origin::membership::{Membership, Surroundings};
use tokio::sync::watch;

use crate::{health::IsProvisional, process::Mishap};

/// How long a start waits for the database. Without it, publishers are let in provisionally.
const JOIN_WITHIN: Duration = Duration::from_secs(5);

pub(crate) struct Kept {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) membership: Option<Membership>,
    pub(crate) life: Life,
}

pub(crate) async fn open(
    config: &Config,
    identity: &Identity,
    role: Role,
    node: &Node,
    cluster: Option<&Cluster>,
) -> anyhow::Result<Kept> {
    let life = life_of(identity);
    if config.registry.mongodb.is_empty() {
        let (registry, orphans) = Embedded::open(&config.data.join("registry.redb"))?;
        for row in orphans {
            tracing::warn!(broadcast = format!("{}/{}", row.app, row.stream), "ended when the last process died");
        }
        let registry = Arc::new(registry);
        if let Some(cluster) = cluster {
            // Of this node alone, and so is its name.
            let id = identity.id.to_string();
            tokio::spawn(describe(registry.clone(), Arc::new(move || id.clone()), cluster.clone()));
        }
        return Ok(Kept { registry, membership: None, life });
    }
    let mongo = Mongo::new(config.registry.mongodb.reveal(), config.apps.keys().cloned()).await?;
    let surroundings = surroundings(config, role, node.clone(), cluster.cloned());
    let membership = Membership::start(mongo.clone(), life.clone(), surroundings);
    if let Some(cluster) = cluster {
        tokio::spawn(introduce(membership.seen(), cluster.clone()));
        let named = mongo.clone();
        let id = Arc::new(move || named.id().unwrap_or_default().to_owned());
        tokio::spawn(describe(Arc::new(mongo.clone()), id, cluster.clone()));
    }
    match tokio::time::timeout(JOIN_WITHIN, membership.joined()).await {
        Ok(Ok(())) => {}
        // Nobody but the operator can mend that.
        Ok(Err(refused)) => return Err(refused.into()),
        Err(_) => {
            tracing::warn!("started without the registry, which does not answer: publishers are let in provisionally")
        }
    }
    Ok(Kept { registry: Arc::new(mongo), membership: Some(membership), life })
}

/// Other nodes hear which registry this one keeps, and how that does.
async fn describe(registry: Arc<dyn Registry>, id: Arc<dyn Fn() -> String + Send + Sync>, cluster: Cluster) {
    let mut turn = tokio::time::interval(Duration::from_secs(1));
    loop {
        turn.tick().await;
        cluster.keeps(RegistryFacts { id: id(), operation: registry.operation_time() });
    }
}

/// Origins that share a registry find each other there, and who is dead or gone.
async fn introduce(mut seen: watch::Receiver<Seen>, cluster: Cluster) {
    while seen.changed().await.is_ok() {
        let origins = |seen: &Seen| {
            let alive = seen.nodes.iter().filter(|node| node.verdict == Verdict::Alive && !node.row.grpc.is_empty());
            alive.map(|node| node.row.grpc.clone()).collect()
        };
        let (places, rows) = {
            let seen = seen.borrow_and_update();
            if !seen.answers {
                continue;
            }
            (origins(&seen), seen.nodes.iter().filter_map(judged).collect())
        };
        cluster.learn(places);
        cluster.judge(rows);
    }
}

/// `None`: no node of a cluster, or one of a version that knows more.
fn judged(SeenNode { row, verdict }: &SeenNode) -> Option<Judged> {
    let role = Role::of_name(&row.role).filter(|role| role.has_peers())?;
    let silent_ms = (clock::now_us() / 1_000).saturating_sub(row.updated_ms);
    Some(Judged {
        facts: NodeFacts {
            identity: Identity { id: NodeId::from(&*row.life.node), incarnation: row.life.incarnation },
            role,
            phase: Phase::of_name(&row.phase)?,
            version: row.version.clone(),
            grpc: row.grpc.clone(),
            http: row.http.clone(),
            load: Load::default(),
            registry: RegistryFacts::default(),
            age: Duration::ZERO,
        },
        verdict: *verdict,
        beat: row.beat,
        silent: Duration::from_millis(silent_ms.try_into().unwrap_or_default()),
    })
}

fn surroundings(config: &Config, role: Role, node: Node, cluster: Option<Cluster>) -> Surroundings {
    let (alone, heard, known) = (config.http.listen.to_string(), cluster.clone(), cluster.clone());
    Surroundings {
        about: Arc::new(move || {
            let facts = cluster.as_ref().map(Cluster::me);
            let (grpc, http) =
                facts.map_or_else(|| (String::new(), format!("http://{alone}")), |me| (me.grpc, me.http));
            NodeRow {
                ip: grpc.rsplit_once(':').map_or(&*grpc, |(ip, _)| ip).to_owned(),
                role: role.name().to_owned(),
                phase: node.phase().name().to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                grpc,
                http,
                ..NodeRow::default()
            }
        }),
        heard: Arc::new(move || {
            let nodes = heard.iter().flat_map(Cluster::nodes).filter(|known| known.health == Health::Alive);
            nodes.map(|known| (life_of(&known.facts.identity), known.silent)).collect()
        }),
        newest_epoch: Arc::new(move |id| Some(known.as_ref()?.whereabouts(id)?.epoch)),
    }
}

pub(crate) fn is_provisional(membership: Option<Membership>) -> IsProvisional {
    Arc::new(move || membership.as_ref().is_some_and(Membership::is_away))
}

/// Resolves when another process is this node: so says the registry, or where none is shared, who has heard of both.
pub(crate) async fn displaced(membership: Option<Membership>, cluster: Option<Cluster>) -> Mishap {
    match (membership, cluster) {
        (Some(membership), _) => membership.displaced().await.into(),
        (None, Some(cluster)) => cluster.displaced().await.into(),
        (None, None) => std::future::pending().await,
    }
}

fn life_of(identity: &Identity) -> Life {
    Life { node: identity.id.to_string(), incarnation: identity.incarnation }
}
