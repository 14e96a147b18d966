//! Which registry this process keeps: the file in its data directory, or the database that the settings name.

use std::{sync::Arc, time::Duration};

use headwater_common::{
    cluster::{Cluster, Health, identity::Identity},
    config::Config,
    node::{Node, Role},
    registry::{Embedded, Life, Mongo, NodeRow, Registry, Seen, Verdict},
};
use headwater_origin::membership::{Membership, Surroundings};
use tokio::sync::watch;

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
        return Ok(Kept { registry: Arc::new(registry), membership: None, life });
    }
    let mongo = Mongo::new(config.registry.mongodb.reveal(), config.apps.keys().cloned()).await?;
    let surroundings = surroundings(config, role, node.clone(), cluster.cloned());
    let membership = Membership::start(mongo.clone(), life.clone(), surroundings);
    if let Some(cluster) = cluster {
        tokio::spawn(introduce(membership.seen(), cluster.clone()));
    }
    if tokio::time::timeout(JOIN_WITHIN, membership.joined()).await.is_err() {
        tracing::warn!("started without the registry, which does not answer");
    }
    Ok(Kept { registry: Arc::new(mongo), membership: Some(membership), life })
}

/// Origins that share a registry find each other there.
async fn introduce(mut seen: watch::Receiver<Seen>, cluster: Cluster) {
    while seen.changed().await.is_ok() {
        let origins = |seen: &Seen| {
            let alive = seen.nodes.iter().filter(|node| node.verdict == Verdict::Alive && !node.row.grpc.is_empty());
            alive.map(|node| node.row.grpc.clone()).collect()
        };
        let places = origins(&seen.borrow_and_update());
        cluster.learn(places);
    }
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
            nodes.map(|known| life_of(&known.facts.identity)).collect()
        }),
        newest_epoch: Arc::new(move |id| Some(known.as_ref()?.whereabouts(id)?.epoch)),
    }
}

fn life_of(identity: &Identity) -> Life {
    Life { node: identity.id.to_string(), incarnation: identity.incarnation }
}
