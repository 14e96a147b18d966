//! The keys of one connection, and what the two sides say about them. In: records and plain text. Out: the other one of each.
//! Keys are replaced before they have sealed more than they safely can, and when the other side does so. Deliberately absent:
//! what keys are made of, which is rustls's.

use std::ops::Range;

use rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, InvalidMessage, PeerMisbehaved, ProtocolVersion,
    Tls13CipherSuite,
    crypto::cipher::{
        AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
    },
    kernel::KernelConnection,
};

use super::{PLAIN_BYTES_MAX, outgoing::Outgoing};

/// What may be said after a handshake (RFC 8446 section 4.6).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// A message may lie in several records, but none is as long as this.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

pub(super) struct Keys<D> {
    /// Makes new keys.
    source: KernelConnection<D>,
    suite: &'static Tls13CipherSuite,
    opens: Box<dyn MessageDecrypter>,
    opened: u64,
    seals: Box<dyn MessageEncrypter>,
    sealed: u64,
    /// One key seals no more records than this.
    sealed_max: u64,
    /// The other side has asked for it.
    owes_update: bool,
    /// The beginning of a message whose rest is in the next record.
    heard: Vec<u8>,
}

impl<D> Keys<D> {
    pub(super) fn new(secrets: ExtractedSecrets, source: KernelConnection<D>) -> Result<Self, Error> {
        let suite = source.negotiated_cipher_suite().tls13().ok_or(Error::HandshakeNotComplete)?;
        let ExtractedSecrets { tx: (sealed, seals), rx: (opened, opens) } = secrets;
        Ok(Self {
            source,
            suite,
            opens: opening(suite, opens)?,
            opened,
            seals: sealing(suite, seals)?,
            sealed,
            sealed_max: suite.common.confidentiality_limit,
            owes_update: false,
            heard: Vec::new(),
        })
    }

    /// Opens a record in its place. Returns what is in it, and where.
    pub(super) fn open(
        &mut self,
        bytes: &mut [u8],
        record: Range<usize>,
    ) -> Result<(ContentType, Range<usize>), Error> {
        let start = record.start;
        let sealed =
            InboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, &mut bytes[record]);
        let plain = self.opens.decrypt(sealed, self.opened)?;
        self.opened += 1;
        // TLS 1.3 puts nothing before what it seals.
        let (what, length) = (plain.typ, plain.payload.len());
        if what != ContentType::Handshake && !self.heard.is_empty() {
            return Err(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into());
        }
        Ok((what, start..start + length))
    }

    /// Seals plain text as as many records as it takes.
    pub(super) fn seal(
        &mut self,
        what: ContentType,
        mut plain: OutboundChunks<'_>,
        outgoing: &mut Outgoing,
    ) -> Result<(), Error> {
        while !plain.is_empty() {
            if self.owes_update || self.sealed + 1 >= self.sealed_max {
                self.update(false, outgoing)?;
            }
            let (first, rest) = plain.split_at(PLAIN_BYTES_MAX);
            outgoing.push(self.record(what, first)?);
            plain = rest;
        }
        Ok(())
    }

    /// Replaces the keys of this side, and may ask for the same from the other one.
    pub(super) fn update(&mut self, ask: bool, outgoing: &mut Outgoing) -> Result<(), Error> {
        let said = [KEY_UPDATE, 0, 0, 1, ask.into()];
        outgoing.push(self.record(ContentType::Handshake, said[..].into())?);
        let (sealed, secrets) = self.source.update_tx_secret()?;
        (self.sealed, self.seals) = (sealed, sealing(self.suite, secrets)?);
        self.owes_update = false;
        Ok(())
    }

    fn record(&mut self, typ: ContentType, payload: OutboundChunks<'_>) -> Result<Vec<u8>, Error> {
        let plain = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload };
        let record = self.seals.encrypt(plain, self.sealed)?;
        self.sealed += 1;
        Ok(record.encode())
    }

    /// Takes what the other side says about the connection itself.
    pub(super) fn hear(&mut self, said: &[u8]) -> Result<(), Error> {
        self.heard.extend_from_slice(said);
        while let Some((what, body)) = self.message()? {
            match (what, &body[..]) {
                (KEY_UPDATE, &[asks @ (0 | 1)]) => {
                    // What comes next is sealed by another key, so nothing of it can be here yet.
                    if !self.heard.is_empty() {
                        return Err(PeerMisbehaved::KeyEpochWithPendingFragment.into());
                    }
                    let (opened, secrets) = self.source.update_rx_secret()?;
                    (self.opened, self.opens) = (opened, opening(self.suite, secrets)?);
                    self.owes_update |= asks == 1;
                }
                // Of a node that still gives them.
                (NEW_SESSION_TICKET, _) => {}
                _ => return Err(InvalidMessage::UnexpectedMessage("after the handshake").into()),
            }
        }
        Ok(())
    }

    /// By the present key.
    #[cfg(test)]
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    #[cfg(test)]
    pub(super) fn limit(&mut self, records: u64) {
        self.sealed_max = records;
    }

    fn message(&mut self) -> Result<Option<(u8, Vec<u8>)>, Error> {
        let Some((&[what, high, middle, low], rest)) = self.heard.split_first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        if length > MESSAGE_BYTES_MAX {
            return Err(InvalidMessage::MessageTooLarge.into());
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let body = body.to_vec();
        self.heard.drain(..4 + length);
        Ok(Some((what, body)))
    }
}

fn opening(suite: &Tls13CipherSuite, secrets: ConnectionTrafficSecrets) -> Result<Box<dyn MessageDecrypter>, Error> {
    let (key, iv) = parts(secrets)?;
    Ok(suite.aead_alg.decrypter(key, iv))
}

fn sealing(suite: &Tls13CipherSuite, secrets: ConnectionTrafficSecrets) -> Result<Box<dyn MessageEncrypter>, Error> {
    let (key, iv) = parts(secrets)?;
    Ok(suite.aead_alg.encrypter(key, iv))
}

fn parts(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("a cipher that nobody here knows".to_owned())),
    }
}
