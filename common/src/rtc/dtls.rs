//! DTLS with OpenSSL.
//!
//! In: a peer's datagrams. Out: datagrams, the peer's certificate, keys for SRTP, what was said inside. The DTLS that the
//! WebRTC stack brings takes certificates on P-256 and P-384 only; encoders also come with RSA (GStreamer) and P-224
//! (FFmpeg with GnuTLS). Whom a certificate belongs to is not judged here: the stack compares its fingerprint with the one
//! in the SDP (RFC 8827 section 5.1). SRTP is not done here either. Deliberately absent: cookies, because nobody gets as
//! far as DTLS without having answered at its address (RFC 8827 section 6.5), renegotiation and resumption.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, ErrorKind, Read, Write},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use openssl::{
    error::ErrorStack,
    pkey::PKey,
    srtp::SrtpProfileId,
    ssl::{
        ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslStream,
        SslVerifyMode, SslVersion,
    },
    x509::X509,
};
use str0m::{
    config::{DtlsCert, DtlsVersion, KeyingMaterial},
    crypto::{
        CryptoError, CryptoProvider,
        dtls::{DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile},
        from_feature_flags,
    },
};

/// With an ephemeral key and an AEAD, the peer's certificate of whatever kind (RFC 8827 section 6.5 asks for one of
/// them).
const CIPHERS: &str = "ECDHE+AESGCM:ECDHE+CHACHA20";
/// For the ephemeral keys, best first, and for the peer's certificate. Nobody has to use the last one, but who offers a
/// certificate on it must find it here (RFC 8422 section 5.1.1).
const GROUPS: &str = "X25519:P-256:P-384:P-521:P-224";
/// Best first.
const SRTP_PROFILES: &str = "SRTP_AEAD_AES_128_GCM:SRTP_AEAD_AES_256_GCM:SRTP_AES128_CM_SHA1_80";
/// RFC 5764 section 4.2.
const EXPORTER: &str = "EXTRACTOR-dtls_srtp";
/// OpenSSL has its own clock for repeating a flight (after one second, then two, four…) and looks at it whenever it is
/// called.
const CALL_EVERY: Duration = Duration::from_millis(100);
/// When nothing is waited for.
const LATER: Duration = Duration::from_secs(3_600);
/// Datagrams on their way out. They are collected after every call; what is too much is lost as in the network.
const OUTGOING_MAX: usize = 64;
/// The most that one record holds (RFC 6347 section 4.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
/// What the stack asks for if it is not told (RFC 8261 section 5).
const MTU: usize = 1_200;

/// What the stack needs of cryptography, with this DTLS in it.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static DTLS: OpenSsl = OpenSsl(Mutex::new(None));
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(CryptoProvider { dtls_provider: &DTLS, ..from_feature_flags() })).clone()
}

/// Remembers what it made of the last certificate: the engine has one for all its sessions.
struct OpenSsl(Mutex<Option<(Vec<u8>, SslContext)>>);

impl OpenSsl {
    fn context(&self, cert: &DtlsCert) -> Result<SslContext, ErrorStack> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, context)) = last.as_ref().filter(|(certificate, _)| *certificate == cert.certificate) {
            return Ok(context.clone());
        }
        let context = context(cert)?;
        *last = Some((cert.certificate.clone(), context.clone()));
        Ok(context)
    }
}

impl fmt::Debug for OpenSsl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenSsl")
    }
}

impl DtlsProvider for OpenSsl {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        from_feature_flags().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        cert: &DtlsCert,
        now: Instant,
        version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        if version != DtlsVersion::Dtls12 {
            return Err(CryptoError::Other(format!("OpenSSL knows DTLS 1.2, not {version}")));
        }
        let failed = |err: ErrorStack| CryptoError::Other(err.to_string());
        let connection = self.context(cert).and_then(|context| Connection::new(&context, mtu.unwrap_or(MTU), now));
        Ok(Box::new(connection.map_err(failed)?))
    }
}

fn context(cert: &DtlsCert) -> Result<SslContext, ErrorStack> {
    let mut context = SslContextBuilder::new(SslMethod::dtls())?;
    context.set_min_proto_version(Some(SslVersion::DTLS1_2))?;
    context.set_options(SslOptions::NO_QUERY_MTU | SslOptions::NO_TICKET | SslOptions::NO_RENEGOTIATION);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_cipher_list(CIPHERS)?;
    context.set_groups_list(GROUPS)?;
    context.set_tlsext_use_srtp(SRTP_PROFILES)?;
    // Self-signed all of them. That the peer holds the key is checked nevertheless.
    context.set_verify_callback(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT, |_, _| true);
    let certificate = X509::from_der(&cert.certificate)?;
    let key = PKey::private_key_from_der(&cert.private_key)?;
    context.set_certificate(&certificate)?;
    context.set_private_key(&key)?;
    Ok(context.build())
}

/// What OpenSSL takes for a socket.
#[derive(Default)]
struct Wire {
    incoming: Option<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let datagram = self.incoming.take().ok_or(ErrorKind::WouldBlock)?;
        // What does not fit is gone: so it is with datagrams. OpenSSL has room for the longest record.
        let length = datagram.len().min(buf.len());
        buf[..length].copy_from_slice(&datagram[..length]);
        Ok(length)
    }
}

impl Write for Wire {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        if self.outgoing.len() < OUTGOING_MAX {
            self.outgoing.push_back(datagram.to_vec());
        }
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// For which side begins.
    Waiting,
    Handshake,
    Open,
    /// Closed by either side.
    Closing,
    Failed,
}

/// What the handshake came to, until it is told.
struct Agreed {
    certificate: Option<Vec<u8>>,
    keys: Option<(Vec<u8>, SrtpProfile)>,
}

struct Connection {
    /// After a panic nothing of it is used: its session ends.
    stream: AssertUnwindSafe<SslStream<Wire>>,
    phase: Phase,
    active: bool,
    now: Instant,
    /// `Some` until it is told that the connection stands.
    agreed: Option<Agreed>,
    /// What one datagram held.
    received: VecDeque<Vec<u8>>,
    peer_closed: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("phase", &self.phase).field("active", &self.active).finish_non_exhaustive()
    }
}

impl Connection {
    fn new(context: &SslContext, mtu: usize, now: Instant) -> Result<Self, ErrorStack> {
        let mut ssl = Ssl::new(context)?;
        ssl.set_mtu(u32::try_from(mtu).unwrap_or(u32::MAX))?;
        Ok(Self {
            stream: AssertUnwindSafe(SslStream::new(ssl, Wire::default())?),
            phase: Phase::Waiting,
            active: false,
            now,
            agreed: None,
            received: VecDeque::new(),
            peer_closed: false,
        })
    }

    /// Goes on with what has arrived, and with what is late.
    fn step(&mut self) {
        if self.phase == Phase::Handshake {
            let done = if self.active { self.stream.connect() } else { self.stream.accept() };
            match done {
                Ok(()) => self.open(),
                Err(err) if err.code() == ErrorCode::WANT_READ => {}
                Err(err) => self.fail(&err),
            }
        }
        if self.phase == Phase::Open {
            self.read();
        }
    }

    fn open(&mut self) {
        let ssl = self.stream.ssl();
        let profile = ssl.selected_srtp_profile().and_then(|profile| match profile.id() {
            SrtpProfileId::SRTP_AEAD_AES_128_GCM => Some(SrtpProfile::AEAD_AES_128_GCM),
            SrtpProfileId::SRTP_AEAD_AES_256_GCM => Some(SrtpProfile::AEAD_AES_256_GCM),
            SrtpProfileId::SRTP_AES128_CM_SHA1_80 => Some(SrtpProfile::AES128_CM_SHA1_80),
            _ => None,
        });
        let Some(profile) = profile else { return self.fail(&"no SRTP profile in common") };
        let Some(certificate) = ssl.peer_certificate() else { return self.fail(&"the peer shows no certificate") };
        let mut keys = vec![0; profile.keying_material_len()];
        let exported = ssl.export_keying_material(&mut keys, EXPORTER, None);
        match exported.and_then(|()| certificate.to_der()) {
            Ok(certificate) => {
                self.agreed = Some(Agreed { certificate: Some(certificate), keys: Some((keys, profile)) });
                self.phase = Phase::Open;
            }
            Err(err) => self.fail(&err),
        }
    }

    fn read(&mut self) {
        let mut record = [0; RECORD_BYTES_MAX];
        loop {
            match self.stream.ssl_read(&mut record) {
                Ok(length) => self.received.push_back(record[..length].to_vec()),
                Err(err) if err.code() == ErrorCode::WANT_READ => return,
                Err(err) if err.code() == ErrorCode::ZERO_RETURN => {
                    self.peer_closed = true;
                    return;
                }
                Err(err) => return self.fail(&err),
            }
        }
    }

    /// What OpenSSL has to say about it goes out first, then the session is told.
    fn fail(&mut self, reason: &dyn fmt::Display) {
        tracing::debug!("DTLS failed: {reason}");
        self.phase = Phase::Failed;
    }
}

impl DtlsInstance for Connection {
    fn set_active(&mut self, active: bool) {
        self.active = active;
        self.phase = Phase::Handshake;
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        if !packet.is_empty() {
            self.stream.get_mut().incoming = Some(packet.to_vec());
        }
        self.step();
        Ok(())
    }

    fn poll_output<'a>(&mut self, buf: &'a mut [u8]) -> DtlsOutput<'a> {
        if let Some(datagram) = self.stream.get_mut().outgoing.pop_front() {
            return filled(buf, &datagram).map_or_else(too_small(datagram.len()), DtlsOutput::Packet);
        }
        if self.phase == Phase::Failed {
            return DtlsOutput::Timeout(self.now);
        }
        if let Some(agreed) = &mut self.agreed {
            // Its owner first: if it is somebody else, nothing more is heard.
            if let Some(certificate) = agreed.certificate.take() {
                return filled(buf, &certificate).map_or_else(too_small(certificate.len()), DtlsOutput::PeerCert);
            }
            if let Some((keys, profile)) = agreed.keys.take() {
                return DtlsOutput::KeyingMaterial(KeyingMaterial::new(&keys), profile);
            }
            self.agreed = None;
            return DtlsOutput::Connected;
        }
        if let Some(data) = self.received.pop_front() {
            return filled(buf, &data).map_or_else(too_small(data.len()), DtlsOutput::ApplicationData);
        }
        if std::mem::take(&mut self.peer_closed) {
            return DtlsOutput::CloseNotify;
        }
        let waits = self.phase == Phase::Handshake;
        DtlsOutput::Timeout(self.now + if waits { CALL_EVERY } else { LATER })
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.now = self.now.max(now);
        if self.phase == Phase::Failed {
            return Err(DtlsImplError::ConnectionClosed);
        }
        self.step();
        Ok(())
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        match self.phase {
            Phase::Waiting | Phase::Handshake => Ok(0),
            Phase::Open => self.stream.ssl_write(data).map_err(|err| {
                self.fail(&err);
                DtlsImplError::ConnectionClosed
            }),
            Phase::Closing | Phase::Failed => Err(DtlsImplError::ConnectionClosed),
        }
    }

    fn is_active(&self) -> bool {
        self.active
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        matches!(self.phase, Phase::Open | Phase::Closing).then_some(ProtocolVersion::DTLS1_2)
    }

    fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    fn is_closed(&self) -> bool {
        self.phase == Phase::Closing && self.stream.get_ref().outgoing.is_empty()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        if self.phase == Phase::Open {
            // It says goodbye and does not wait for an answer. Where that can't be said any more, nobody listens.
            let _ = self.stream.shutdown();
        }
        self.phase = Phase::Closing;
        Ok(())
    }
}

fn filled<'a>(buf: &'a mut [u8], with: &[u8]) -> Option<&'a [u8]> {
    let part = buf.get_mut(..with.len())?;
    part.copy_from_slice(with);
    Some(part)
}

/// The stack ends a session whose certificate or message is longer than anything it can use.
fn too_small<'a>(needed: usize) -> impl FnOnce() -> DtlsOutput<'a> {
    move || DtlsOutput::BufferTooSmall { needed }
}
