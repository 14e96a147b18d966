//! Who may publish under which name: the question every door asks before the first frame.
//!
//! In: a name and who wants it. Out: a writer into the hall with an epoch of its own, or the reason why not.
//! Deliberately absent: what happens to the registry afterwards (progress and ends are kept by whoever watches the
//! hub).

use std::{collections::BTreeMap, sync::Arc};

use headwater_common::{
    clock::now_us,
    config::App,
    live::{BroadcastId, Claim, ClaimError, Hub, IdError, Publisher, Writer},
    registry::{Registry, RegistryError},
};

#[derive(Clone)]
pub struct Gate {
    hub: Arc<Hub>,
    registry: Registry,
    apps: Arc<BTreeMap<String, App>>,
}

#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Name(#[from] IdError),
    #[error("there is no application {0:?}")]
    App(String),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("the claim was broken off")]
    BrokenOff,
}

impl Gate {
    pub fn new(hub: Arc<Hub>, registry: Registry, apps: BTreeMap<String, App>) -> Self {
        Self { hub, registry, apps: Arc::new(apps) }
    }

    pub async fn admit(&self, app: &str, stream: &str, publisher: Publisher) -> Result<Writer, Refused> {
        let id = BroadcastId::new(app, stream)?;
        let takeover = self.apps.get(app).ok_or_else(|| Refused::App(app.to_owned()))?.takeover;
        // Asked first, so that the registry counts no epoch for somebody who gets nothing.
        self.hub.check(&id, takeover, now_us())?;
        let registry = self.registry.clone();
        let (row, who) = (id.clone(), publisher.clone());
        let claimed = tokio::task::spawn_blocking(move || registry.claim(&row, &who, now_us() / 1000)).await;
        let claimed = claimed.map_err(|_| Refused::BrokenOff)??;
        let claim =
            Claim { epoch: claimed.epoch, next_gop: claimed.next_gop, discontinuity: claimed.discontinuity, publisher };
        Ok(self.hub.claim(&id, claim, takeover, now_us())?)
    }
}
