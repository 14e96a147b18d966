//! The certificate that HTTPS and RTMPS share, and its renewal.

use std::{path::PathBuf, sync::Arc};

use anyhow::Context;
use axum_server::tls_rustls::RustlsConfig;
use tokio_rustls::TlsAcceptor;

use crate::config;

#[derive(Clone)]
pub struct Tls {
    config: RustlsConfig,
    certificate: Arc<PathBuf>,
    key: Arc<PathBuf>,
}

impl Tls {
    /// `None` when no certificate is set.
    pub async fn load(settings: &config::Tls) -> anyhow::Result<Option<Self>> {
        if !settings.is_set() {
            return Ok(None);
        }
        let config = RustlsConfig::from_pem_file(&settings.certificate, &settings.key).await.with_context(|| {
            format!("read certificate {} and key {}", settings.certificate.display(), settings.key.display())
        })?;
        let (certificate, key) = (Arc::new(settings.certificate.clone()), Arc::new(settings.key.clone()));
        Ok(Some(Self { config, certificate, key }))
    }

    /// Connections that are open keep the old certificate; on an error everybody does.
    pub async fn reload(&self) -> anyhow::Result<()> {
        self.config
            .reload_from_pem_file(&*self.certificate, &*self.key)
            .await
            .with_context(|| format!("read certificate {} again", self.certificate.display()))
    }

    /// For a protocol that is not HTTP; to be asked for anew with each connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.get_inner())
    }

    pub(super) fn config(&self) -> RustlsConfig {
        self.config.clone()
    }
}
