//! What happens once: the address is read, the registry is told from others, its indexes are made.

use std::time::Duration;

use mongodb::{
    Client, IndexModel,
    bson::{Document, doc, oid::ObjectId},
    options::{ClientOptions, IndexOptions},
};

use super::{Mongo, PATIENCE, fault::Fault};
use crate::registry::RegistryError;

/// How long the driver looks for a server that takes writes.
const SELECTION: Duration = Duration::from_secs(2);
/// The document that says which registry this is.
const REGISTRY: &str = "registry";

impl Mongo {
    /// Reads the address; servers are looked for when the first operation comes. Fails when the address makes no sense.
    pub async fn new(uri: &str, apps: impl IntoIterator<Item = String>) -> Result<Self, RegistryError> {
        let parsed = tokio::time::timeout(2 * PATIENCE, ClientOptions::parse(uri)).await;
        let mut options = match parsed {
            Ok(Ok(options)) => options,
            // What the driver quotes may be a part of the password.
            Ok(Err(_)) if uri.contains('@') => {
                return Err(RegistryError::Address {
                    problem: "it can't be read; special characters in user name and password are to be percent-encoded"
                        .to_owned(),
                });
            }
            Ok(Err(error)) => return Err(RegistryError::Address { problem: error.kind.to_string() }),
            Err(_) => return Err(RegistryError::Address { problem: "its name is not resolved in time".to_owned() }),
        };
        let hosts = options.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let prefix = options.default_database.as_ref().map_or_else(String::new, |name| format!("{name}_"));
        options.server_selection_timeout.get_or_insert(SELECTION);
        options.connect_timeout.get_or_insert(SELECTION);
        options.app_name.get_or_insert_with(|| "headwater".to_owned());
        let client = Client::with_options(options)
            .map_err(|error| RegistryError::Address { problem: error.kind.to_string() })?;
        let (pace, noted, id) = Default::default();
        Ok(Self { client, hosts, prefix, apps: apps.into_iter().collect(), pace, noted, id })
    }

    /// Reads which registry this is, and makes the indexes that are missing. Nothing else works the worse before, except
    /// that two recordings could get one name.
    pub async fn prepare(&self) -> Result<(), RegistryError> {
        self.identify().await?;
        let index = |keys: Document| IndexModel::builder().keys(keys).build();
        let unique = IndexOptions::builder().unique(true).build();
        for app in self.databases() {
            let database = self.client.database(&app);
            let broadcasts = database.collection::<Document>("broadcast");
            let wanted =
                [doc! { "streamId": 1 }, doc! { "status": 1 }, doc! { "endTime": 1 }, doc! { "untold": 1 }].map(index);
            self.run(broadcasts.create_indexes(wanted)).await.map_err(|fault| self.explain(fault))?;
            let vods = database.collection::<Document>("vod");
            let file = IndexModel::builder().keys(doc! { "app": 1, "vodName": 1 }).options(unique.clone()).build();
            let wanted = [
                index(doc! { "node": 1, "processStatus": 1 }),
                index(doc! { "streamId": 1 }),
                index(doc! { "untold": 1 }),
                file,
            ];
            self.run(vods.create_indexes(wanted)).await.map_err(|fault| self.explain(fault))?;
        }
        self.prepare_mailboxes().await?;
        self.prepare_nodes().await
    }

    /// Which registry this is, as soon as that is known.
    pub fn id(&self) -> Option<&str> {
        self.id.get().map(String::as_str)
    }

    /// Whoever comes first gives it a name.
    async fn identify(&self) -> Result<(), RegistryError> {
        let (mine, meta) = (doc! { "_id": REGISTRY }, self.meta());
        let name = doc! { "$setOnInsert": { "name": ObjectId::new().to_hex() } };
        let named = self.run(meta.update_one(mine.clone(), name).upsert(true)).await;
        match named {
            // Two who name it at once: it has a name now.
            Ok(_) | Err(Fault::Duplicate) => {}
            Err(fault) => return Err(self.explain(fault)),
        }
        let found = self.run(meta.find_one(mine)).await.map_err(|fault| self.explain(fault))?;
        if let Some(name) = found.as_ref().and_then(|found| found.get_str("name").ok()) {
            // It never changes.
            let _ = self.id.set(name.to_owned());
        }
        Ok(())
    }
}
