//! OpenSSL's DTLS with itself and with the stack's own, over a wire that loses and spoils datagrams.

use std::{
    thread,
    time::{Duration, Instant},
};

use openssl::{
    asn1::Asn1Time,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    rsa::Rsa,
    x509::{X509Builder, X509NameBuilder},
};
use str0m::{
    config::{DtlsCert, DtlsVersion},
    crypto::{
        dtls::{DtlsInstance, DtlsOutput, SrtpProfile},
        from_feature_flags,
    },
};

use crate::rtc::dtls;

const MTU: usize = 1_200;

#[derive(Clone, Copy, Debug)]
enum Key {
    Rsa(u32),
    Curve(Nid),
}

fn certificate(key: Key) -> DtlsCert {
    let key: PKey<Private> = match key {
        Key::Rsa(bits) => PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap(),
        Key::Curve(curve) => {
            PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap()).unwrap()
        }
    };
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "encoder").unwrap();
    let name = name.build();
    let mut builder = X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(&name).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    DtlsCert { certificate: builder.build().to_der().unwrap(), private_key: key.private_key_to_pkcs8().unwrap() }
}

/// The engine's own.
fn own() -> DtlsCert {
    from_feature_flags().dtls_provider.generate_certificate().unwrap()
}

struct Side {
    dtls: Box<dyn DtlsInstance>,
    connected: bool,
    certificate: Vec<u8>,
    keys: Option<(Vec<u8>, SrtpProfile)>,
    received: Vec<Vec<u8>>,
    closed: bool,
    failed: bool,
}

impl Side {
    fn openssl(cert: &DtlsCert, active: bool) -> Self {
        Self::new(dtls::provider().dtls_provider.new_dtls(cert, Instant::now(), DtlsVersion::Dtls12, Some(MTU)), active)
    }

    fn stacks_own(cert: &DtlsCert, active: bool) -> Self {
        let provider = from_feature_flags().dtls_provider;
        Self::new(provider.new_dtls(cert, Instant::now(), DtlsVersion::Dtls12, Some(MTU)), active)
    }

    fn new<E: std::fmt::Debug>(dtls: Result<Box<dyn DtlsInstance>, E>, active: bool) -> Self {
        let mut dtls = dtls.unwrap();
        dtls.set_active(active);
        dtls.handle_timeout(Instant::now()).unwrap();
        if active {
            let _ = dtls.handle_packet(&[]);
        }
        Self { dtls, connected: false, certificate: vec![], keys: None, received: vec![], closed: false, failed: false }
    }

    /// Everything it has to say; what is due is done first.
    fn poll(&mut self) -> Vec<Vec<u8>> {
        let mut buf = [0; 2_000];
        let mut datagrams = Vec::new();
        loop {
            match self.dtls.poll_output(&mut buf) {
                DtlsOutput::Packet(datagram) => datagrams.push(datagram.to_vec()),
                DtlsOutput::Connected => self.connected = true,
                DtlsOutput::PeerCert(certificate) => self.certificate = certificate.to_vec(),
                DtlsOutput::KeyingMaterial(keys, profile) => self.keys = Some((keys.to_vec(), profile)),
                DtlsOutput::ApplicationData(data) => self.received.push(data.to_vec()),
                DtlsOutput::CloseNotify => self.closed = true,
                DtlsOutput::Timeout(at) if at <= Instant::now() && !self.failed => {
                    self.failed = self.dtls.handle_timeout(Instant::now()).is_err();
                }
                DtlsOutput::Timeout(_) => return datagrams,
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Until nobody has anything to say; `wire` tells what becomes of a datagram.
fn exchange(sides: &mut [Side; 2], mut wire: impl FnMut(Vec<u8>) -> Option<Vec<u8>>) {
    loop {
        let mut silent = true;
        for from in [0, 1] {
            for datagram in sides[from].poll() {
                assert!(datagram.len() <= MTU, "{} bytes", datagram.len());
                silent = false;
                let Some(datagram) = wire(datagram) else { continue };
                sides[1 - from].failed |= sides[1 - from].dtls.handle_packet(&datagram).is_err();
            }
        }
        if silent {
            return;
        }
    }
}

fn assert_agreed(sides: &[Side; 2], certificates: [&DtlsCert; 2]) {
    assert!(sides.iter().all(|side| side.connected && !side.failed));
    assert_eq!(sides[0].certificate, certificates[1].certificate);
    assert_eq!(sides[1].certificate, certificates[0].certificate);
    assert!(sides[0].keys.is_some() && sides[0].keys == sides[1].keys);
}

#[test]
fn certificates_of_every_kind_are_taken_in_both_roles() {
    let (p224, p256, p521) = (Nid::SECP224R1, Nid::X9_62_PRIME256V1, Nid::SECP521R1);
    for key in [Key::Rsa(2_048), Key::Rsa(4_096), Key::Curve(p224), Key::Curve(p256), Key::Curve(p521)] {
        let (own, theirs) = (own(), certificate(key));
        for active in [false, true] {
            let mut sides = [Side::openssl(&own, active), Side::openssl(&theirs, !active)];
            exchange(&mut sides, Some);
            assert_agreed(&sides, [&own, &theirs]);
            assert_eq!(sides[0].keys.as_ref().unwrap().1, SrtpProfile::AEAD_AES_128_GCM);

            assert_eq!(sides[0].dtls.send_application_data(b"from us").unwrap(), 7);
            assert_eq!(sides[1].dtls.send_application_data(&[7; 1_100]).unwrap(), 1_100);
            exchange(&mut sides, Some);
            assert_eq!(sides[1].received, [b"from us".to_vec()], "{key:?}");
            assert_eq!(sides[0].received, [vec![7; 1_100]]);

            sides[1].dtls.close().unwrap();
            exchange(&mut sides, Some);
            assert!(sides[0].closed && sides[1].dtls.is_closed());
            sides[0].dtls.close().unwrap();
            exchange(&mut sides, Some);
            assert!(sides[0].dtls.is_closed() && sides[0].dtls.send_application_data(b"late").is_err());
        }
    }
}

#[test]
fn it_agrees_with_the_dtls_of_the_stack() {
    for active in [false, true] {
        let (ours, theirs) = (own(), own());
        let mut sides = [Side::openssl(&ours, active), Side::stacks_own(&theirs, !active)];
        exchange(&mut sides, Some);
        assert_agreed(&sides, [&ours, &theirs]);
    }
}

#[test]
fn what_is_lost_is_sent_again() {
    let (ours, theirs) = (own(), certificate(Key::Rsa(2_048)));
    let mut sides = [Side::openssl(&ours, true), Side::openssl(&theirs, false)];
    let mut number = 0;
    let give_up = Instant::now() + Duration::from_secs(30);
    while !sides.iter().all(|side| side.connected) {
        assert!(Instant::now() < give_up, "no connection after {number} datagrams");
        exchange(&mut sides, |datagram| {
            number += 1;
            // Among them the first flight as a whole.
            (number % 3 != 1).then_some(datagram)
        });
        // OpenSSL's clock is the machine's.
        thread::sleep(Duration::from_millis(10));
    }
    assert_agreed(&sides, [&ours, &theirs]);
    assert!(number > 6);
}

#[test]
fn rubbish_is_left_alone() {
    let (ours, theirs) = (own(), certificate(Key::Rsa(2_048)));
    let mut sides = [Side::openssl(&ours, false), Side::openssl(&theirs, true)];
    let rubbish = |side: &mut Side| {
        for first in 20..64_u8 {
            for length in [1, 12, 13, 14, 200, 1_500, 20_000] {
                let mut datagram = vec![first.wrapping_mul(31); length];
                datagram[0] = first;
                side.failed |= side.dtls.handle_packet(&datagram).is_err();
                side.poll();
            }
        }
    };
    rubbish(&mut sides[0]);
    exchange(&mut sides, Some);
    assert_agreed(&sides, [&ours, &theirs]);
    rubbish(&mut sides[0]);
    sides[1].dtls.send_application_data(b"still here").unwrap();
    exchange(&mut sides, Some);
    assert_eq!(sides[0].received, [b"still here".to_vec()]);
}

/// Of each datagram of a handshake one byte is another. It fails or it goes on, within bounds.
#[test]
fn a_spoiled_handshake_ends_or_heals() {
    let (ours, theirs) = (own(), certificate(Key::Rsa(2_048)));
    for position in (0..600).step_by(7) {
        let mut sides = [Side::openssl(&ours, position % 2 == 0), Side::openssl(&theirs, position % 2 == 1)];
        let mut seen = 0;
        exchange(&mut sides, |mut datagram| {
            seen += 1;
            assert!(seen < 100, "they talk without end");
            if let Some(byte) = datagram.get_mut(position) {
                *byte ^= 0x55;
            }
            Some(datagram)
        });
        if sides[0].connected && sides[1].connected {
            assert_agreed(&sides, [&ours, &theirs]);
        }
    }
}

#[test]
fn a_failure_is_told_to_the_peer_before_the_session_ends() {
    let (ours, theirs) = (own(), own());
    let mut sides = [Side::openssl(&ours, false), Side::openssl(&theirs, true)];
    exchange(&mut sides, |mut datagram| {
        // The extension use_srtp (RFC 5764 section 4.1.1) becomes an unknown one: what both saw differs in the end.
        let at = datagram.windows(4).position(|bytes| bytes == [0, 14, 0, 9]);
        if let Some(at) = at {
            datagram[at] = 0x55;
        }
        Some(datagram)
    });
    assert!(sides.iter().all(|side| side.failed && !side.connected));
}
