//! Keeps the registry true: every claim of a publisher goes through here, and so does every end.
//!
//! In: publishers that ask for a broadcast. Out: a [`Writer`] with a new epoch, or a refusal that the door tells its
//! peer. Beside that, a loop that reports how far live broadcasts have come and what has ended. Deliberately absent:
//! media. A registry that fails stops new claims, never a broadcast that goes on.

use std::{collections::HashMap, sync::Arc, time::Duration};

use headwater_common::{
    clock,
    config::Config,
    live::{Broadcast, BroadcastId, Claim, ClaimError, Hub, IdError, Publisher, SILENT_US, Status, Takeover, Writer},
    node::{Busy, Node},
    registry::{Ask, Bid, Ending, Hall, Life, Progress, Registry, RegistryError},
};

/// How often ends are looked for; an interrupted broadcast waits ten times this.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often numbers in use are reported though nothing else has changed. The registry sets aside more than can be used
/// in between.
const REPORT_EVERY_US: i64 = 10_000_000;

/// Where publishers of every protocol ask to be let in.
#[derive(Clone)]
pub struct Desk {
    config: Arc<Config>,
    hub: Arc<Hub>,
    registry: Arc<dyn Registry>,
    life: Life,
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
    Registry(RegistryError),
}

impl From<RegistryError> for Refusal {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::InUse { id, protocol, remote, .. } => {
                Self::Claim(ClaimError::InUse { id, protocol, remote })
            }
            error => Self::Registry(error),
        }
    }
}

impl Desk {
    pub fn new(config: Arc<Config>, hub: Arc<Hub>, registry: Arc<dyn Registry>, life: Life, node: Node) -> Self {
        Self { config, hub, registry, life, node }
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
        let now_us = clock::now_us();
        let bid = Bid {
            life: self.life.clone(),
            publisher: publisher.clone(),
            ask: Ask::Enter(takeover),
            hall: self.hub.get(&id).map(|broadcast| Hall::of(&broadcast)),
            now_us,
        };
        let claimed = self.registry.claim(&id, &bid).await?;
        let claim = Claim {
            epoch: claimed.epoch,
            next_gop: claimed.next_gop,
            discontinuity: claimed.discontinuity,
            born_us: claimed.born_us,
            segment_target_s: claimed.segment_target_s,
            publisher,
        };
        match self.hub.claim(&id, claim, takeover, clock::now_us()) {
            Ok(writer) => Ok(writer),
            // Another publisher came while the registry was asked. The newest claim is without one now.
            Err(refused) => {
                let last = Progress {
                    id,
                    epoch: claimed.epoch,
                    next_gop: claimed.next_gop,
                    discontinuity: claimed.discontinuity,
                    segment_target_s: claimed.segment_target_s,
                    silent: false,
                };
                tell_end(&last, Ending::Finished, &*self.registry).await;
                Err(refused.into())
            }
        }
    }
}

/// Runs as long as the node does; [`settle`] tells the last ends.
pub(crate) async fn run(hub: Arc<Hub>, registry: Arc<dyn Registry>) {
    let mut reports = Reports::default();
    let mut interval = tokio::time::interval(SWEEP_EVERY);
    loop {
        interval.tick().await;
        let now_us = clock::now_us();
        let lost = hub.sweep(now_us);
        reports.tell(&hub, &lost, &*registry, now_us).await;
    }
}

/// When the process stops, what is live ends here and now.
pub(crate) async fn settle(hub: &Hub, registry: &dyn Registry) {
    for broadcast in hub.list() {
        if broadcast.status() != Status::Ended {
            tell_end(&progress(&broadcast, clock::now_us()), Ending::Finished, registry).await;
        }
    }
}

/// What the registry knows, by broadcast of the hub.
#[derive(Default)]
struct Reports(HashMap<BroadcastId, Told>);

struct Told {
    progress: Progress,
    at_us: i64,
    ended: bool,
}

impl Reports {
    async fn tell(&mut self, hub: &Hub, lost: &[Arc<Broadcast>], registry: &dyn Registry, now_us: i64) {
        let broadcasts = hub.list();
        self.0.retain(|id, _| broadcasts.iter().any(|broadcast| broadcast.id() == id));
        let mut batch = Vec::new();
        for broadcast in &broadcasts {
            let ended = broadcast.status() == Status::Ended;
            let progress = progress(broadcast, now_us);
            let told = self.0.get(broadcast.id());
            if ended && !told.is_some_and(|told| told.ended && told.progress.epoch == progress.epoch) {
                let was_lost = lost.iter().any(|lost| Arc::ptr_eq(lost, broadcast));
                let ending = if was_lost { Ending::TerminatedUnexpectedly } else { Ending::Finished };
                tell_end(&progress, ending, registry).await;
            } else if ended
                || told.is_some_and(|told| {
                    now_us - told.at_us < REPORT_EVERY_US && !progress.is_news_after(&told.progress)
                })
            {
                continue;
            } else {
                batch.push(progress.clone());
            }
            self.0.insert(broadcast.id().clone(), Told { progress, at_us: now_us, ended });
        }
        if !batch.is_empty()
            && let Err(error) = registry.progress(&batch, now_us).await
        {
            tracing::error!(%error, "registry was not told how far broadcasts have come");
        }
    }
}

async fn tell_end(last: &Progress, ending: Ending, registry: &dyn Registry) {
    tracing::info!(broadcast = %last.id, epoch = last.epoch, ?ending, "broadcast ended");
    if let Err(error) = registry.finish(last, ending, clock::now_us()).await {
        tracing::error!(broadcast = %last.id, %error, "registry was not told of an end");
    }
}

fn progress(broadcast: &Broadcast, now_us: i64) -> Progress {
    Progress {
        id: broadcast.id().clone(),
        epoch: broadcast.claimed_epoch(),
        next_gop: broadcast.next_gop(),
        discontinuity: broadcast.discontinuity(),
        segment_target_s: broadcast.segment_target_s(),
        silent: broadcast.silent_for_us(now_us).is_none_or(|silent_us| silent_us >= SILENT_US),
    }
}
