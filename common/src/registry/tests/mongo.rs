//! What is the database's own: its documents, its failures, and the nodes in it. Real servers, started by the first
//! test that needs them and shared by all that do them no harm.

use std::sync::OnceLock;

use mongod::Mongod;

use super::*;

#[path = "../../../../tests/real/harness/mongod.rs"]
mod mongod;

const APPS: [&str; 9] = ["live", "liv", "live2", "live-", "live.", "live0", "live_", "LIVE", "other"];

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("headwater-mongod-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

async fn open(server: &Mongod, test: &str) -> Mongo {
    use std::hash::{DefaultHasher, Hash, Hasher};
    // Long names would be cut.
    let mut name = DefaultHasher::new();
    test.hash(&mut name);
    let registry = Mongo::new(&server.uri(&format!("t{:x}", name.finish())), APPS.map(str::to_owned)).await.unwrap();
    registry.prepare().await.unwrap();
    registry
}

pub(super) async fn on_a_standalone(test: &str) -> Mongo {
    static SERVER: OnceLock<Mongod> = OnceLock::new();
    open(SERVER.get_or_init(|| Mongod::standalone(scratch("standalone"))), test).await
}

pub(super) async fn on_a_replica_set(test: &str) -> Mongo {
    static SERVER: OnceLock<Mongod> = OnceLock::new();
    open(SERVER.get_or_init(|| Mongod::replica_set(scratch("set"), 1)), test).await
}
