//! Keeps the registry true: every claim of a publisher goes through here, and so does every end.
//!
//! In: publishers that ask for a broadcast. Out: a [`Writer`] with a new epoch, or a refusal that the door tells its
//! peer. Beside that, a loop that reports how far live broadcasts have come and what has ended. Deliberately absent:
//! media. A registry in a file that fails stops new claims, never a broadcast that goes on. One that nodes share may be
//! away: then a publisher is let in provisionally, by what was known last, and the claim is made good when the registry
//! is back, unless another node was given the broadcast meanwhile.

mod diary;
mod removal;
mod reports;
mod witnesses;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use headwater_common::{
    clock,
    config::Config,
    live::{BroadcastId, ClaimError, Hub, IdError, Publisher, Reach, Status, Takeover, Writer},
    node::{Busy, Node},
    registry::{Ask, Bid, Claimed, Ending, Hall, Life, Progress, Registry, RegistryError, Seen, Verdict},
};

use crate::{inquiry::Inquiry, membership::Membership};

pub(crate) use reports::{run, settle};
pub(crate) use witnesses::Witnesses;

/// Where publishers of every protocol ask to be let in.
#[derive(Clone)]
pub struct Desk {
    config: Arc<Config>,
    hub: Arc<Hub>,
    registry: Arc<dyn Registry>,
    /// Where nodes share the registry.
    membership: Option<Membership>,
    life: Life,
    node: Node,
    claiming: Claiming,
    witnesses: Witnesses,
}

/// Broadcasts that somebody asks the registry for now.
#[derive(Clone, Default)]
struct Claiming(Arc<Mutex<BTreeSet<BroadcastId>>>);

struct Asked {
    claiming: Claiming,
    id: BroadcastId,
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

impl Claiming {
    /// Nobody else asks for it, and nobody does as long as the result lives who wants to be alone.
    fn alone(&self, id: &BroadcastId) -> Option<Asked> {
        let is_first = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
        is_first.then(|| Asked { claiming: self.clone(), id: id.clone() })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.claiming.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Desk {
    pub fn new(
        config: Arc<Config>,
        hub: Arc<Hub>,
        registry: Arc<dyn Registry>,
        membership: Option<Membership>,
        life: Life,
        node: Node,
    ) -> Self {
        let (claiming, witnesses) = Default::default();
        Self { config, hub, registry, membership, life, node, claiming, witnesses }
    }

    /// Who knows more than the registry of how far broadcasts had come.
    pub(crate) fn with(self, witnesses: Witnesses) -> Self {
        Self { witnesses, ..self }
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

    /// Whether this publisher would be given the broadcast now, as far as that is known without giving it.
    pub async fn admits(
        &self,
        app: &str,
        stream: &str,
        token: Option<&str>,
        publisher: Publisher,
    ) -> Result<(), Refusal> {
        self.check(app, stream, token)?;
        let Some(membership) = &self.membership else { return Ok(()) };
        let id = BroadcastId::new(app, stream)?;
        let bid = self.bid(&id, publisher);
        let inquiry = Inquiry::new(self.registry.clone(), Some(membership.clone()));
        let row = match inquiry.ask(|registry| registry.get(&id)).await {
            Ok(row) => row,
            Err(error) if error.is_absence() => Some(membership.last_known(&id, bid.now_us)),
            Err(error) => return Err(error.into()),
        };
        let denied = row.and_then(|row| row.yields_to(&bid).err());
        denied.map_or(Ok(()), |denied| Err(RegistryError::denied(&id, denied).into()))
    }

    fn bid(&self, id: &BroadcastId, publisher: Publisher) -> Bid {
        Bid {
            life: self.life.clone(),
            publisher,
            ask: Ask::Enter(self.config.apps[id.app()].takeover),
            hall: self.hub.get(id).map(|broadcast| Hall::of(&broadcast)),
            webhook: self.has_webhook(id),
            now_us: clock::now_us(),
        }
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
        let bid = self.bid(&id, publisher.clone());
        // Reports leave it alone until the hall holds it. Who asks beside another publisher is ordered by the registry.
        let _claiming = self.claiming.alone(&id);
        let claimed = self.ask(&id, &bid).await?;
        let claimed = self.number(&id, claimed, bid.hall).await;
        match self.hub.claim(&id, claimed.for_hall(publisher), takeover, clock::now_us()) {
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
                if let Err(error) = self.registry.finish(&last, Ending::Finished, clock::now_us()).await {
                    tracing::error!(broadcast = %last.id, %error, "registry was not told of an end");
                }
                Err(refused.into())
            }
        }
    }

    async fn ask(&self, id: &BroadcastId, bid: &Bid) -> Result<Claimed, Refusal> {
        let absence = match self.is_away() {
            true => RegistryError::Away,
            false => match self.registry.claim(id, bid).await {
                Ok(claimed) => {
                    self.changed();
                    return Ok(claimed);
                }
                Err(error) if error.is_absence() => error,
                Err(error) => return Err(error.into()),
            },
        };
        let Some(membership) = &self.membership else { return Err(absence.into()) };
        let claimed = membership.last_known(id, bid.now_us).claim_provisionally(bid);
        let claimed = claimed.map_err(|denied| RegistryError::denied(id, denied))?;
        tracing::warn!(broadcast = %id, epoch = format_args!("{:#x}", claimed.epoch), %absence, "publisher let in provisionally");
        Ok(claimed)
    }

    /// The registry gives numbers that nobody can have used. Those who saw the broadcast know which ones were.
    async fn number(&self, id: &BroadcastId, claimed: Claimed, hall: Option<Hall>) -> Claimed {
        // Those of a hall that held it to the last are exact, and of a new broadcast there is nothing to know.
        if claimed.next_gop == hall.map_or(0, |hall| hall.next_gop) {
            return claimed;
        }
        let Some(seen) = self.witnesses.reach(id, claimed.epoch).await else { return claimed };
        let known = hall.map(|Hall { next_gop, discontinuity, .. }| Reach { next_gop, discontinuity });
        let Reach { next_gop, discontinuity } = known.into_iter().fold(seen, Reach::or_further);
        Claimed { next_gop, discontinuity: discontinuity + 1, ..claimed }
    }

    fn has_webhook(&self, id: &BroadcastId) -> bool {
        self.config.apps.get(id.app()).is_some_and(|app| app.webhooks.is_set())
    }

    fn is_shared(&self) -> bool {
        self.membership.is_some()
    }

    fn is_away(&self) -> bool {
        self.membership.as_ref().is_some_and(Membership::is_away)
    }

    fn changed(&self) {
        self.membership.iter().for_each(Membership::changed);
    }

    fn look_again(&self) {
        self.membership.iter().for_each(Membership::look_again);
    }

    fn monotonic_us(&self) -> i64 {
        self.membership.as_ref().map_or(0, Membership::now_us)
    }

    /// The newest look into a shared registry that answers, and who is known to live by it.
    fn look(&self) -> Option<(Seen, impl Fn(&Life) -> bool)> {
        let seen = self.membership.as_ref()?.seen().borrow().clone();
        let alive = seen.nodes.iter().filter(|node| node.verdict == Verdict::Alive);
        let alive: BTreeSet<_> = alive.map(|node| node.row.life.clone()).collect();
        seen.answers.then_some((seen, move |life: &Life| alive.contains(life)))
    }
}
