//! What has come and is not opened yet. In: bytes off a socket. Out: whole records. What they hold is opened where it lies.
//! Deliberately absent: what is in them.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::{Error, InvalidMessage};
use tokio::io::{AsyncRead, ReadBuf};

/// Room for all that one departure brings, mostly: each look into the kernel costs.
const ROOM_BYTES: usize = 128 << 10;
/// With less behind what is there, that moves to the front.
const READ_BYTES_MIN: usize = ROOM_BYTES / 2;
const HEADER_BYTES: usize = 5;
/// Sealed, it may be longer than plain text by this (RFC 8446 section 5.2).
const RECORD_BYTES_MAX: usize = super::PLAIN_BYTES_MAX + 256;
const _: () = assert!(ROOM_BYTES - READ_BYTES_MIN > HEADER_BYTES + RECORD_BYTES_MAX);
/// After the handshake all records claim to be this: application's data of TLS 1.2.
const CLAIMED: [u8; 3] = [23, 3, 3];

pub(super) struct Incoming {
    bytes: Box<[u8]>,
    /// What has come, but for what was taken.
    here: Range<usize>,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; ROOM_BYTES].into(), here: 0..0 }
    }

    pub(super) fn here_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.here.clone()]
    }

    pub(super) fn discard(&mut self, bytes: usize) {
        self.here.start += bytes;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Takes the next record and says where what it holds lies in all bytes: until more is read.
    pub(super) fn record(&mut self) -> Result<Option<Range<usize>>, Error> {
        let here = &self.bytes[self.here.clone()];
        let Some((header, rest)) = here.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [what, major, minor, high, low] = *header;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if [what, major, minor] != CLAIMED {
            return Err(InvalidMessage::InvalidContentType.into());
        }
        if length > RECORD_BYTES_MAX {
            return Err(InvalidMessage::MessageTooLarge.into());
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.here.start + HEADER_BYTES;
        self.here.start = start + length;
        Ok(Some(start..start + length))
    }

    /// Reads what there is room for; nothing at the end of the connection.
    pub(super) fn poll_fill(
        &mut self,
        socket: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.here.is_empty() {
            self.here = 0..0;
        } else if self.bytes.len() - self.here.end < READ_BYTES_MIN {
            self.bytes.copy_within(self.here.clone(), 0);
            self.here = 0..self.here.len();
        }
        let mut room = ReadBuf::new(&mut self.bytes[self.here.end..]);
        ready!(Pin::new(socket).poll_read(cx, &mut room))?;
        let came = room.filled().len();
        self.here.end += came;
        Poll::Ready(Ok(came))
    }
}
