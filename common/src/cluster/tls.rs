//! What nodes show each other: always mutual TLS 1.3, whichever way they were told whom to trust.
//!
//! In: the settings `[cluster]`, either the operator's certificate, key and authority, or a secret. From a secret the
//! authority's key is derived, the same on every node, and each process makes itself a certificate under it. Out: the
//! configurations of both sides of a connection. Both check that the other one's certificate comes from the authority
//! and is for [`NAME`]: an authority that has signed other things as well lets none of them in.
//!
//! Deliberately absent: a way in without a certificate.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime},
};

use aws_lc_rs::{hkdf, rand, signature::Ed25519KeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::{Resumption, danger::HandshakeSignatureValid, verify_server_name},
    crypto::aws_lc_rs::default_provider,
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    version::TLS13,
};

use crate::config;

/// The name in every node's certificate.
pub const NAME: &str = "headwater-node";
const ALPN: &[u8] = b"h2";
/// Changed with the way of deriving, so that old and new nodes don't take each other for forgers.
const SALT: &[u8] = b"headwater cluster authority 1";
/// Clocks of nodes may be apart by as much.
const SKEW: Duration = Duration::from_secs(24 * 3600);
/// A process that runs for longer than this has earned a restart.
const VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cluster.{key} {}: {source}", path.display())]
    File { key: &'static str, path: PathBuf, source: pem::Error },
    #[error("cluster.{key} {}: there is no certificate in it", path.display())]
    Empty { key: &'static str, path: PathBuf },
    #[error("a certificate can't be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("no key can be derived from cluster.secret")]
    Derive,
    #[error("the cluster's certificates don't work: {0}")]
    Use(#[from] rustls::Error),
    #[error("cluster.ca: {0}")]
    Authority(#[from] rustls::server::VerifierBuilderError),
    #[error("write {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

/// What this node shows and whom it trusts. Cheap to clone; all clones see what [`reload`](Self::reload) read.
#[derive(Clone)]
pub struct Credentials(Arc<Inner>);

struct Inner {
    settings: config::Cluster,
    configs: RwLock<Configs>,
}

#[derive(Clone)]
struct Configs {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Credentials {
    pub fn load(settings: &config::Cluster) -> Result<Self, TlsError> {
        let configs = RwLock::new(Papers::of(settings)?.configs()?);
        Ok(Self(Arc::new(Inner { settings: settings.clone(), configs })))
    }

    /// Reads the operator's files again. When one of them is wrong the old ones stay. Connections that are open go on.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = Papers::of(&self.0.settings)?.configs()?;
        *self.0.configs.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        self.configs().server
    }

    pub fn client(&self) -> Arc<ClientConfig> {
        self.configs().client
    }

    fn configs(&self) -> Configs {
        self.0.configs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A secret that nobody guesses.
pub fn new_secret() -> Result<String, TlsError> {
    let mut bytes = [0_u8; 32];
    rand::fill(&mut bytes).map_err(|_| TlsError::Derive)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Writes `ca.pem`, `certificate.pem` and `key.pem` for all nodes of a cluster to share, and returns their paths. The
/// authority's own key is kept nowhere: nothing else will ever be signed with it. Files that exist are left alone.
pub fn write_certificates(folder: &Path) -> Result<[PathBuf; 3], TlsError> {
    let authority = authority(KeyPair::generate()?)?;
    let (leaf, key) = leaf(&authority)?;
    let files = [
        (folder.join("ca.pem"), authority.pem(), 0o644),
        (folder.join("certificate.pem"), leaf.pem(), 0o644),
        (folder.join("key.pem"), key.serialize_pem(), 0o600),
    ];
    std::fs::create_dir_all(folder).map_err(|source| TlsError::Write { path: folder.to_owned(), source })?;
    for (path, text, mode) in &files {
        write_new(path, text, *mode).map_err(|source| TlsError::Write { path: path.clone(), source })?;
    }
    Ok(files.map(|(path, ..)| path))
}

fn write_new(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// What is shown, and who must have signed what the other side shows.
struct Papers {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Papers {
    fn of(settings: &config::Cluster) -> Result<Self, TlsError> {
        if settings.certificate.as_os_str().is_empty() {
            return Self::derived(settings.secret.reveal());
        }
        let config::Cluster { certificate, key, ca, .. } = settings;
        let read_key = PrivateKeyDer::from_pem_file(key);
        Ok(Self {
            chain: certificates("certificate", certificate)?,
            key: read_key.map_err(|source| TlsError::File { key: "key", path: key.clone(), source })?,
            authorities: certificates("ca", ca)?,
        })
    }

    fn derived(secret: &str) -> Result<Self, TlsError> {
        let authority = authority(derived_key(secret)?)?;
        let (leaf, key) = leaf(&authority)?;
        Ok(Self {
            chain: vec![leaf.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            authorities: vec![authority.der().clone()],
        })
    }

    fn configs(self) -> Result<Configs, TlsError> {
        let provider = Arc::new(default_provider());
        let mut roots = RootCertStore::empty();
        for authority in self.authorities {
            roots.add(authority)?;
        }
        let roots = Arc::new(roots);
        let webpki = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(NodesOnly { webpki }))
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(self.chain, self.key)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        client.alpn_protocols = vec![ALPN.to_vec()];
        // Records are opened and sealed by `seal`.
        server.enable_secret_extraction = true;
        client.enable_secret_extraction = true;
        // Nodes meet rarely, and each shows its certificate each time.
        server.send_tls13_tickets = 0;
        client.resumption = Resumption::disabled();
        Ok(Configs { server: Arc::new(server), client: Arc::new(client) })
    }
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File { key, path: path.to_owned(), source };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)?;
    if read.is_empty() { Err(TlsError::Empty { key, path: path.to_owned() }) } else { Ok(read) }
}

/// The same key from the same secret, everywhere.
fn derived_key(secret: &str) -> Result<KeyPair, TlsError> {
    let mut seed = [0_u8; 32];
    let material = hkdf::Salt::new(hkdf::HKDF_SHA256, SALT).extract(secret.as_bytes());
    let derived = material.expand(&[b"ed25519 seed"], hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut seed));
    derived.map_err(|_| TlsError::Derive)?;
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| TlsError::Derive)?;
    let pkcs8 = key.to_pkcs8().map_err(|_| TlsError::Derive)?;
    Ok(KeyPair::try_from(pkcs8.as_ref())?)
}

/// Whoever has the same key makes the same authority, apart from its certificate's serial number, which nobody checks.
fn authority(key: KeyPair) -> Result<CertifiedIssuer<'static, KeyPair>, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Headwater cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(CertifiedIssuer::self_signed(params, key)?)
}

fn leaf(authority: &CertifiedIssuer<'_, KeyPair>) -> Result<(rcgen::Certificate, KeyPair), TlsError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([NAME.to_owned()])?;
    params.distinguished_name.push(DnType::CommonName, NAME);
    params.not_before = (SystemTime::now() - SKEW).into();
    params.not_after = (SystemTime::now() + VALID).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok((params.signed_by(&key, authority)?, key))
}

/// What clients do with a server's name, done with a client's: rustls asks for the authority alone.
#[derive(Debug)]
struct NodesOnly {
    webpki: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for NodesOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.webpki.verify_client_cert(end_entity, intermediates, now)?;
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, &name())?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// What a client expects of whomever it reached, at whatever address.
pub fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).expect("a name of letters and a hyphen")
}

#[cfg(test)]
#[path = "tls_tests.rs"]
pub(crate) mod tests;
