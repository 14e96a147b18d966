use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{cluster::seal, config::Layers};

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

pub(crate) fn with_secret(secret: &str) -> Credentials {
    let config = Layers::defaults().unwrap().with(&["cluster", "secret"], secret).build().unwrap();
    Credentials::load(&config.cluster).unwrap()
}

fn with_files(folder: &Path) -> Result<Credentials, TlsError> {
    let file = |name: &str| folder.join(name).display().to_string();
    let layers = Layers::defaults().unwrap();
    let layers = layers.with(&["cluster", "certificate"], file("certificate.pem"));
    let layers = layers.with(&["cluster", "key"], file("key.pem")).with(&["cluster", "ca"], file("ca.pem"));
    Credentials::load(&layers.build().unwrap().cluster)
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("headwater-tls-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    folder
}

/// What a server tells that lets the client in, and nothing else.
const INSIDE: &[u8] = b"inside";

/// What the client hears from the server, or why it hears nothing.
async fn hears(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Result<Vec<u8>, String> {
    let (here, there) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(async move {
        let mut stream = seal::accept(server, here).await?;
        stream.write_all(INSIDE).await?;
        stream.shutdown().await
    });
    let mut stream = seal::dial(client, there).await.map_err(|error| error.to_string())?;
    let mut heard = Vec::new();
    // A client learns after its handshake that the server does not want it (RFC 8446 section 4.4.2.4).
    let read = stream.read_to_end(&mut heard).await.map_err(|error| error.to_string());
    let served = serving.await.unwrap();
    assert_eq!(served.is_ok(), read.is_ok(), "{served:?} {read:?}");
    read.map(|_| heard)
}

async fn meet(server: &Credentials, client: &Credentials) -> Result<Vec<u8>, String> {
    hears(server.server(), client.client()).await
}

#[tokio::test]
async fn who_knows_the_secret_is_let_in() {
    // Each derives for itself, as two processes do.
    let (one, other) = (with_secret(SECRET), with_secret(SECRET));
    assert_eq!(meet(&one, &other).await.unwrap(), INSIDE);
    assert_eq!(meet(&other, &one).await.unwrap(), INSIDE);
}

#[tokio::test]
async fn who_knows_another_secret_gets_nothing_and_gives_nothing() {
    let (node, stranger) = (with_secret(SECRET), with_secret(&SECRET.replace('0', "f")));
    assert!(meet(&node, &stranger).await.unwrap_err().contains("certificate"));
    assert!(meet(&stranger, &node).await.unwrap_err().contains("certificate"));
}

/// A client that is content with any server.
fn curious(roots: RootCertStore) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    versions.with_root_certificates(roots)
}

fn roots(secret: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(authority(derived_key(secret).unwrap()).unwrap().der().clone()).unwrap();
    roots
}

#[tokio::test]
async fn without_a_certificate_nobody_is_let_in() {
    let mut client = curious(roots(SECRET)).with_no_client_auth();
    client.enable_secret_extraction = true;
    let error = hears(with_secret(SECRET).server(), Arc::new(client)).await.unwrap_err();
    assert!(error.contains("CertificateRequired"), "{error}");
}

#[tokio::test]
async fn in_plain_text_there_is_no_answer() {
    let (here, mut there) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(seal::accept(with_secret(SECRET).server(), here));
    there.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut heard = Vec::new();
    there.read_to_end(&mut heard).await.unwrap();
    assert!(serving.await.unwrap().is_err());
    // An alert at most (RFC 8446 section 6: type 21).
    assert!(heard.is_empty() || heard[0] == 21 && heard.len() == 7, "{heard:?}");
}

/// An operator's authority signs other things too.
#[tokio::test]
async fn a_certificate_of_the_same_authority_for_another_name_is_refused_by_both_sides() {
    let issuer = authority(derived_key(SECRET).unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["printer.example.org".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let printer = Papers {
        chain: vec![params.signed_by(&key, &issuer).unwrap().der().clone()],
        key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        authorities: vec![issuer.der().clone()],
    };
    let printer = printer.configs().unwrap();
    let node = with_secret(SECRET);
    let error = hears(node.server(), printer.client.clone()).await.unwrap_err();
    assert!(error.contains("certificate") || error.contains("Certificate"), "{error}");
    let error = hears(printer.server, node.client()).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn written_certificates_work_and_are_not_overwritten() {
    let folder = folder("written");
    let files = write_certificates(&folder).unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&files[2]).unwrap().permissions().mode() & 0o777, 0o600);
    let (one, other) = (with_files(&folder).unwrap(), with_files(&folder).unwrap());
    assert_eq!(meet(&one, &other).await.unwrap(), INSIDE);
    let stranger = with_secret(SECRET);
    assert!(meet(&one, &stranger).await.is_err());
    assert!(meet(&stranger, &one).await.is_err());
    let key = std::fs::read(&files[2]).unwrap();
    assert!(write_certificates(&folder).is_err());
    assert_eq!(std::fs::read(&files[2]).unwrap(), key);
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn renewed_files_are_taken_and_broken_ones_are_not() {
    let (folder, renewed) = (folder("renewed"), folder("renewal"));
    write_certificates(&folder).unwrap();
    write_certificates(&renewed).unwrap();
    let (node, peer) = (with_files(&folder).unwrap(), with_files(&renewed).unwrap());
    assert!(meet(&node, &peer).await.is_err());
    std::fs::write(folder.join("ca.pem"), "nothing").unwrap();
    assert!(node.reload().unwrap_err().to_string().contains("ca.pem"));
    assert_eq!(meet(&node, &node).await.unwrap(), INSIDE);
    for file in ["ca.pem", "certificate.pem", "key.pem"] {
        std::fs::copy(renewed.join(file), folder.join(file)).unwrap();
    }
    node.reload().unwrap();
    assert_eq!(meet(&node, &peer).await.unwrap(), INSIDE);
    [folder, renewed].into_iter().for_each(|folder| std::fs::remove_dir_all(folder).unwrap());
}

#[test]
fn files_that_are_missing_are_named() {
    let Err(error) = with_files(Path::new("/nowhere")) else { panic!("there are no such files") };
    assert!(error.to_string().contains("/nowhere/certificate.pem"), "{error}");
}

#[test]
fn secrets_are_long_and_no_two_are_equal() {
    let (one, other) = (new_secret().unwrap(), new_secret().unwrap());
    assert_ne!(one, other);
    assert!(one.len() >= config::SECRET_LENGTH_MIN, "{one}");
}
