//! Keeps the registry true: every claim of a publisher goes through here, and so does every end.
//!
//! In: publishers that ask for a broadcast. Out: a [`Writer`] with a new epoch, or a refusal that the door tells its
//! peer. Beside that, a loop that reports how far live broadcasts have come and what has ended. Deliberately absent:
//! media. A registry that fails stops new claims, never a broadcast that goes on.

use std::{collections::HashMap, sync::Arc, time::Duration};

use headwater_common::{
    clock,
    config::Config,
    live::{Broadcast, BroadcastId, Claim, ClaimError, Hub, IdError, Publisher, Status, Takeover, Writer},
    node::{Busy, Node},
    registry::{Ending, Progress, Registry, RegistryError},
};

/// How often ends are looked for; an interrupted broadcast waits ten times this.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often numbers in use are reported, in sweeps. The registry sets aside more than can be used in between.
const SWEEPS_PER_REPORT: u32 = 10;

/// Where publishers of every protocol ask to be let in.
#[derive(Clone)]
pub struct Desk {
    config: Arc<Config>,
    hub: Arc<Hub>,
    registry: Registry,
    node: Node,
}

/// Why a publisher is turned away.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("there is no application {app:?} here, only {known}")]
    UnknownApp { app: String, known: String },
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("publishing to {app} needs its token, and {given}")]
    Unauthorized { app: String, given: &'static str },
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Busy(Busy),
    #[error("the registry does not answer: {0}")]
    Registry(#[from] RegistryError),
}

impl Desk {
    pub fn new(config: Arc<Config>, hub: Arc<Hub>, registry: Registry, node: Node) -> Self {
        Self { config, hub, registry, node }
    }

    /// For protocols that name the application before the stream.
    pub fn check_app(&self, app: &str) -> Result<(), Refusal> {
        if self.config.apps.contains_key(app) {
            return Ok(());
        }
        let known = self.config.apps.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Err(Refusal::UnknownApp { app: app.to_owned(), known })
    }

    /// Whether a publisher with this token could have the broadcast now.
    pub fn check(&self, app: &str, stream: &str, token: Option<&str>) -> Result<(), Refusal> {
        self.check_app(app)?;
        let id = BroadcastId::new(app, stream)?;
        match self.node.takes_work() {
            // Who comes back to what lies here is nothing new.
            Err(Busy::Full) if self.holds(&id) => {}
            taken => taken.map_err(Refusal::Busy)?,
        }
        let settings = &self.config.apps[app];
        let given = match token {
            _ if settings.publish_token.is_empty() => None,
            None | Some("") => Some("none was given"),
            Some(token) => (!settings.publish_token.is(token)).then_some("another one was given"),
        };
        if let Some(given) = given {
            return Err(Refusal::Unauthorized { app: app.to_owned(), given });
        }
        Ok(self.hub.check(&id, settings.takeover, clock::now_us())?)
    }

    fn holds(&self, id: &BroadcastId) -> bool {
        self.hub.get(id).is_some_and(|broadcast| broadcast.status() != Status::Ended)
    }

    /// For publishers that would rather be told than replace somebody, whatever the settings say.
    pub fn check_free(&self, app: &str, stream: &str) -> Result<(), Refusal> {
        Ok(self.hub.check(&BroadcastId::new(app, stream)?, Takeover::Refuse, clock::now_us())?)
    }

    /// Gives the broadcast to this publisher.
    pub async fn claim(
        &self,
        app: &str,
        stream: &str,
        token: Option<&str>,
        publisher: Publisher,
    ) -> Result<Writer, Refusal> {
        // Asked first, so that a refused publisher does not use up an epoch.
        self.check(app, stream, token)?;
        let id = BroadcastId::new(app, stream)?;
        let takeover = self.config.apps[app].takeover;
        let claimed = {
            let (registry, id, publisher) = (self.registry.clone(), id.clone(), publisher.clone());
            blocking(move || registry.claim(&id, &publisher, clock::now_us() / 1000)).await?
        };
        let claim =
            Claim { epoch: claimed.epoch, next_gop: claimed.next_gop, discontinuity: claimed.discontinuity, publisher };
        Ok(self.hub.claim(&id, claim, takeover, clock::now_us())?)
    }
}

/// Runs as long as the node does; [`settle`] tells the last ends.
pub(crate) async fn run(hub: Arc<Hub>, registry: Registry) {
    let mut told = Told::default();
    let mut interval = tokio::time::interval(SWEEP_EVERY);
    let mut sweeps = 0_u32;
    loop {
        interval.tick().await;
        sweeps = sweeps.wrapping_add(1);
        let lost = hub.sweep(clock::now_us());
        told.tell(&hub, &lost, &registry, sweeps.is_multiple_of(SWEEPS_PER_REPORT)).await;
    }
}

/// When the process stops, what is live ends here and now.
pub(crate) async fn settle(hub: &Hub, registry: &Registry) {
    for broadcast in hub.list() {
        if broadcast.status() != Status::Ended {
            tell_end(&broadcast, Ending::Finished, registry).await;
        }
    }
}

/// The newest epoch of each broadcast whose end the registry knows.
#[derive(Default)]
struct Told(HashMap<BroadcastId, u64>);

impl Told {
    async fn tell(&mut self, hub: &Hub, lost: &[Arc<Broadcast>], registry: &Registry, report: bool) {
        let broadcasts = hub.list();
        self.0.retain(|id, _| broadcasts.iter().any(|broadcast| broadcast.id() == id));
        for broadcast in broadcasts.iter().filter(|broadcast| broadcast.status() == Status::Ended) {
            let epoch = broadcast.epoch();
            if self.0.insert(broadcast.id().clone(), epoch) != Some(epoch) {
                let was_lost = lost.iter().any(|lost| Arc::ptr_eq(lost, broadcast));
                let ending = if was_lost { Ending::TerminatedUnexpectedly } else { Ending::Finished };
                tell_end(broadcast, ending, registry).await;
            }
        }
        if report {
            let batch: Vec<_> =
                broadcasts.iter().filter(|b| b.status() != Status::Ended).map(|b| progress(b)).collect();
            let registry = registry.clone();
            if let Err(error) = blocking(move || registry.progress(&batch, clock::now_us() / 1000)).await {
                tracing::error!(%error, "registry was not told how far broadcasts have come");
            }
        }
    }
}

async fn tell_end(broadcast: &Broadcast, ending: Ending, registry: &Registry) {
    let (last, registry) = (progress(broadcast), registry.clone());
    tracing::info!(broadcast = %last.id, epoch = last.epoch, ?ending, "broadcast ended");
    let id = last.id.clone();
    if let Err(error) = blocking(move || registry.finish(&last, ending, clock::now_us() / 1000)).await {
        tracing::error!(broadcast = %id, %error, "registry was not told of an end");
    }
}

fn progress(broadcast: &Broadcast) -> Progress {
    Progress {
        id: broadcast.id().clone(),
        epoch: broadcast.epoch(),
        next_gop: broadcast.next_gop(),
        discontinuity: broadcast.discontinuity(),
    }
}

/// Registry writes end with an fsync, which has no place on an async thread.
async fn blocking<T: Send + 'static>(
    write: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    match tokio::task::spawn_blocking(write).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
