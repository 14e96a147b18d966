//! A position in an AMF payload, and what is left of the message's budget. Reads are big-endian.

use std::sync::Arc;

use super::{DEPTH_MAX, ELEMENTS_MAX, Error};

pub(super) struct Cursor<'a> {
    input: &'a [u8],
    at: usize,
    elements: usize,
    text_bytes_left: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        // Without references no byte is read twice; with them, twice as much as was sent is generous.
        Self { input, at: 0, elements: 0, text_bytes_left: input.len().saturating_mul(2) }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Goes back to a value seen before (or forward again after it): see the decoders' references.
    pub(super) fn jump(&mut self, at: usize) {
        self.at = at;
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.input.len()
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    /// Every value passes here once before it is read.
    pub(super) fn enter(&mut self, depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::TooDeep { at: self.at });
        }
        self.count()
    }

    pub(super) fn count(&mut self) -> Result<(), Error> {
        self.elements += 1;
        if self.elements > ELEMENTS_MAX {
            return Err(Error::TooMany { at: self.at });
        }
        Ok(())
    }

    pub(super) fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], Error> {
        let taken = self.at.checked_add(length).and_then(|end| self.input.get(self.at..end));
        let taken = taken.ok_or(Error::Truncated { at: self.input.len(), what })?;
        self.at += length;
        Ok(taken)
    }

    /// Bytes that the caller is going to keep.
    pub(super) fn take_kept(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], Error> {
        let at = self.at;
        let taken = self.take(length, what)?;
        self.text_bytes_left = self.text_bytes_left.checked_sub(length).ok_or(Error::TooRepetitive { at })?;
        Ok(taken)
    }

    /// Encoders on Windows send metadata in the local code page: what is not UTF-8 is replaced, never refused.
    pub(super) fn text(&mut self, length: usize, what: &'static str) -> Result<Arc<str>, Error> {
        Ok(String::from_utf8_lossy(self.take_kept(length, what)?).into())
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, Error> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    pub(super) fn f64(&mut self, what: &'static str) -> Result<f64, Error> {
        Ok(f64::from_be_bytes(self.array(what)?))
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }
}
