//! What runs of the room until the node goes. In: its loops. Out: their end, after the others were told.

use std::{collections::HashMap, time::Duration};

use tokio::task::JoinHandle;

use super::Cluster;

/// How long the others have to hear that this node goes.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// What runs until the node has gone.
pub struct Serving {
    cluster: Cluster,
    server: JoinHandle<()>,
    loops: Vec<JoinHandle<()>>,
}

impl Serving {
    pub(super) fn of(cluster: Cluster, server: JoinHandle<()>, loops: Vec<JoinHandle<()>>) -> Self {
        Self { cluster, server, loops }
    }

    /// To be called last when the node stops: tells the others.
    pub async fn finish(self) {
        self.cluster.shared.describe();
        self.cluster.shared.closing.send_replace(true);
        let mut links = self.cluster.shared.links.subscribe();
        let server = self.server.abort_handle();
        let told = async {
            // Whoever was called says goodbye as well; whoever called has its last news when the server ends.
            let _ = links.wait_for(HashMap::is_empty).await;
            let _ = self.server.await;
        };
        // Who does not listen finds out by itself.
        let _ = tokio::time::timeout(FAREWELL, told).await;
        server.abort();
        self.loops.iter().for_each(JoinHandle::abort);
    }
}
