//! The RTMP handshake, server side: simple and digest.
//!
//! In: the first bytes of a connection. Out: our half of the handshake, and whether it is done; what follows it stays
//! in the input. The cryptography is `rml_rtmp`'s; this wrapper feeds it exactly the 3073 bytes it needs (it would
//! buffer anything) and tells an operator what knocked at the port when it was not RTMP.

use bytes::{Buf, Bytes, BytesMut};
use rml_rtmp::handshake::{Handshake as Exchange, HandshakeProcessResult, PeerType};

/// C0 (one byte), C1 and C2.
const HANDSHAKE_BYTES: usize = 1 + 1536 + 1536;

pub struct Handshake {
    exchange: Exchange,
    bytes_left: usize,
}

#[derive(Debug)]
pub struct Step {
    /// To be sent to the peer.
    pub reply: Bytes,
    pub done: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the peer speaks TLS to the plain RTMP port: RTMPS has a port of its own")]
    Tls,
    #[error("the peer speaks HTTP to the RTMP port")]
    Http,
    #[error("the peer asks for encrypted RTMP (RTMPE, version {0}), which is not offered: use RTMPS")]
    Encrypted(u8),
    #[error("byte 0 is {0:#04x}, an RTMP handshake begins with 0x03")]
    Version(u8),
    #[error("RTMP handshake within its first {HANDSHAKE_BYTES} bytes: {0}")]
    Exchange(#[from] rml_rtmp::handshake::HandshakeError),
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl Handshake {
    pub fn new() -> Self {
        Self { exchange: Exchange::new(PeerType::Server), bytes_left: HANDSHAKE_BYTES }
    }

    /// Takes what belongs to the handshake out of `input`. Must not be called again once it was done.
    pub fn step(&mut self, input: &mut BytesMut) -> Result<Step, Error> {
        let Some(&first) = input.first() else { return Ok(Step { reply: Bytes::new(), done: false }) };
        if self.bytes_left == HANDSHAKE_BYTES {
            check_version(first)?;
        }
        let length = input.len().min(self.bytes_left);
        let result = self.exchange.process_bytes(&input[..length])?;
        input.advance(length);
        self.bytes_left -= length;
        Ok(match result {
            HandshakeProcessResult::InProgress { response_bytes } => Step { reply: response_bytes.into(), done: false },
            HandshakeProcessResult::Completed { response_bytes, .. } => {
                Step { reply: response_bytes.into(), done: true }
            }
        })
    }
}

fn check_version(first: u8) -> Result<(), Error> {
    match first {
        3 => Ok(()),
        // A TLS record of type handshake.
        0x16 => Err(Error::Tls),
        b'G' | b'P' | b'O' | b'H' => Err(Error::Http),
        6 | 8 | 9 => Err(Error::Encrypted(first)),
        other => Err(Error::Version(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(client: &mut Exchange, piece: usize) -> BytesMut {
        let mut server = Handshake::new();
        let mut to_server = client.generate_outbound_p0_and_p1().unwrap();
        for _ in 0..4 {
            let mut input = BytesMut::new();
            let mut to_client = Vec::new();
            let mut done = false;
            for piece in to_server.chunks(piece) {
                input.extend_from_slice(piece);
                if !done {
                    let step = server.step(&mut input).unwrap();
                    to_client.extend(step.reply);
                    done = step.done;
                }
            }
            if done {
                return input;
            }
            to_server = match client.process_bytes(&to_client).unwrap() {
                HandshakeProcessResult::InProgress { response_bytes } => response_bytes,
                HandshakeProcessResult::Completed { response_bytes, .. } => {
                    [&response_bytes[..], b"chunks follow"].concat()
                }
            };
        }
        panic!("the handshake never ended");
    }

    #[test]
    fn a_digest_handshake_completes_in_any_split_and_leaves_what_follows() {
        for piece in [1, 7, 1536, 1537, 10_000] {
            assert_eq!(&run(&mut Exchange::new(PeerType::Client), piece)[..], b"chunks follow");
        }
    }

    #[test]
    fn a_simple_handshake_is_echoed() {
        let mut server = Handshake::new();
        let c1: Vec<u8> = (0..1536u32).map(|i| if i < 8 { 0 } else { (i * 7) as u8 }).collect();
        let mut input = BytesMut::from(&[&[3][..], &c1].concat()[..]);
        let step = server.step(&mut input).unwrap();
        assert!(!step.done && input.is_empty());
        assert_eq!((step.reply.len(), step.reply[0]), (HANDSHAKE_BYTES, 3));
        assert_eq!(&step.reply[1537..], &c1[..]);
        input.extend_from_slice(&step.reply[1..1537]);
        assert!(server.step(&mut input).unwrap().done);
    }

    #[test]
    fn other_protocols_are_named() {
        let error = |bytes: &[u8]| Handshake::new().step(&mut bytes.into()).unwrap_err();
        assert!(matches!(error(&[0x16, 3, 1]), Error::Tls));
        assert!(matches!(error(b"GET / HTTP/1.1"), Error::Http));
        assert!(matches!(error(&[6]), Error::Encrypted(6)));
        assert!(matches!(error(&[0xff; 5000]), Error::Version(0xff)));
    }
}
