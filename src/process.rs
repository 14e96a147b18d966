//! What a process does before and after its work: the crypto provider, the signals that end it or renew its certificates.

use std::error::Error;

use headwater_common::{cluster::tls::Credentials, http};

use crate::drain::Drain;

/// The process-wide crypto provider: everything here uses one and the same.
pub(crate) fn install_crypto() -> anyhow::Result<()> {
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS crypto provider is installed already"))?;
    str0m::crypto::from_feature_flags().install_process_default();
    Ok(())
}

/// Why a process ends that nobody told to.
pub(crate) type Mishap = Box<dyn Error + Send + Sync>;

/// Returns on Ctrl-C, and on SIGTERM when the node is drained or the signal comes again; SIGHUP reads the certificates again
/// meanwhile. `displaced`: another process is this node now, and this one goes as after SIGTERM, but for its publishers,
/// who go at once. That is what is returned then.
pub(crate) async fn stop_signal(
    tls: Option<http::Tls>,
    credentials: Option<Credentials>,
    drain: &Drain,
    displaced: impl Future<Output = Mishap>,
) -> anyhow::Result<Option<Mishap>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
    let (mut leaves, mut mishap) = (false, None);
    tokio::pin!(displaced);
    loop {
        tokio::select! {
            error = &mut displaced, if mishap.is_none() => {
                tracing::error!(%error, "this process has to go");
                drain.end_publishers();
                (leaves, mishap) = (true, Some(error));
            }
            _ = terminate.recv() => match leaves {
                true => break,
                false => leaves = true,
            },
            () = drain.leave(), if leaves => break,
            interrupt = tokio::signal::ctrl_c() => { interrupt?; break }
            _ = hangup.recv() => renew(tls.as_ref(), credentials.as_ref()).await,
        }
    }
    tracing::info!("stopping");
    Ok(mishap)
}

async fn renew(tls: Option<&http::Tls>, credentials: Option<&Credentials>) {
    if let Some(tls) = tls {
        match tls.reload().await {
            Ok(()) => tracing::info!("certificate read again"),
            Err(error) => tracing::error!("{error:#}; the old certificate stays"),
        }
    }
    if let Some(credentials) = credentials {
        match credentials.reload() {
            Ok(()) => tracing::info!("the cluster's certificates read again"),
            Err(error) => tracing::error!("{error}; the cluster's old certificates stay"),
        }
    }
}
