//! `headwater reconcile`: what the registry says of recordings, compared with the disk and the bucket. In: settings. Out:
//! lines for people, and an error when something is not as it should be.

use std::sync::Arc;

use headwater_common::{
    cluster::identity::Identity,
    config::Config,
    registry::{Embedded, Mongo, Registry},
    store::{Store, s3::Bucket},
};
use headwater_origin::record::Reconciler;

pub(crate) async fn run(config: Config, repair: bool) -> anyhow::Result<()> {
    crate::process::install_crypto()?;
    let registry: Arc<dyn Registry> = match config.registry.mongodb.reveal() {
        "" => Arc::new(Embedded::open(&config.data.join("registry.redb"))?.0),
        uri => Arc::new(Mongo::new(uri, config.apps.keys().cloned()).await?),
    };
    let reconciler = Reconciler {
        registry,
        store: Store::open(&config.data)?,
        bucket: Bucket::open(&config.store.s3).await,
        apps: config.apps.keys().cloned().collect(),
        node: Identity::load(&config.data)?.id.to_string(),
    };
    let findings = reconciler.run(repair).await?;
    for finding in &findings {
        println!("{finding}");
    }
    let left = findings.iter().filter(|finding| !finding.is_repaired()).count();
    match (findings.len(), left) {
        (0, _) => println!("All recordings are where the registry says."),
        (all, 0) => println!("{all} differences, all repaired."),
        (all, left) if repair => anyhow::bail!("{all} differences, {left} of them not repaired"),
        (all, _) => anyhow::bail!("{all} differences; --repair repairs them"),
    }
    Ok(())
}
