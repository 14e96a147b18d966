//! Which ladder a broadcast has. In: the applications' settings, what was asked for a single broadcast. Out: rungs, and
//! news that they changed. Deliberately absent: what is made of which source, and the encoders.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use headwater_common::{ladder::Rung, live::BroadcastId};
use tokio::sync::watch;

/// What was asked for one broadcast, whatever its application says.
pub type Lookup = Arc<dyn Fn(BroadcastId) -> Answer + Send + Sync>;
type Answer = Pin<Box<dyn Future<Output = Option<Vec<Rung>>> + Send>>;

#[derive(Clone)]
pub struct Ladders {
    apps: Arc<BTreeMap<String, Vec<Rung>>>,
    lookup: Lookup,
    version: watch::Sender<u64>,
}

impl Ladders {
    pub fn new(apps: BTreeMap<String, Vec<Rung>>, lookup: Lookup) -> Self {
        Self { apps: Arc::new(apps), lookup, version: watch::Sender::new(0) }
    }

    pub async fn of(&self, id: &BroadcastId) -> Vec<Rung> {
        (self.lookup)(id.clone()).await.or_else(|| self.apps.get(id.app()).cloned()).unwrap_or_default()
    }

    /// What was asked for some broadcast is another now.
    pub fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Resolves when something changed since the receiver last looked.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
