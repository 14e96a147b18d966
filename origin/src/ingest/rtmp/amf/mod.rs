//! Action Message Format: the values inside command and data messages.
//!
//! In: the payload of one message. Out: [`Value`]s, or an [`Error`] that names the byte. Both decoders are bounded in
//! depth, in the number of values and in the bytes references may repeat, because a nested array a few kilobytes long
//! would otherwise overflow the stack. Deliberately absent: class names, and AMF3 on the way out (nobody asks for it).

mod amf0;
mod amf3;
mod cursor;
mod encode;

use std::sync::Arc;

use bytes::Bytes;

pub use amf0::decode as decode_amf0;
pub use amf3::decode as decode_amf3;
pub use encode::encode;

/// Values inside values. Real metadata stays below five.
pub const DEPTH_MAX: usize = 16;
/// Values in one message, repetitions by reference included. Real metadata stays below two hundred.
pub const ELEMENTS_MAX: usize = 4096;

pub type Properties = Vec<(Arc<str>, Value)>;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Number(f64),
    Boolean(bool),
    /// Also XML documents.
    String(Arc<str>),
    /// Objects, typed objects and associative arrays: names in the order they were sent.
    Object(Properties),
    Array(Vec<Value>),
    /// Milliseconds since 1970.
    Date(f64),
    Bytes(Bytes),
    Null,
    Undefined,
}

impl Value {
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub fn as_properties(&self) -> Option<&[(Arc<str>, Value)]> {
        match self {
            Self::Object(properties) => Some(properties),
            _ => None,
        }
    }

    /// A property of an object.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.as_properties()?.iter().find(|(key, _)| &**key == name).map(|(_, value)| value)
    }

    pub fn object<const N: usize>(properties: [(&str, Value); N]) -> Self {
        Self::Object(properties.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("AMF ends at byte {at} in the middle of {what}")]
    Truncated { at: usize, what: &'static str },
    #[error("unknown AMF{version} marker {marker:#04x} at byte {at}")]
    Marker { at: usize, version: u8, marker: u8 },
    #[error("AMF is nested deeper than {DEPTH_MAX} at byte {at}")]
    TooDeep { at: usize },
    #[error("more than {ELEMENTS_MAX} AMF values at byte {at}")]
    TooMany { at: usize },
    #[error("AMF references repeat more than the message holds at byte {at}")]
    TooRepetitive { at: usize },
    #[error("AMF reference at byte {at} to {what} {index}, which was never sent")]
    Reference { at: usize, what: &'static str, index: usize },
    #[error("AMF3 object of class {class:?} at byte {at} has an encoding of its own")]
    Externalizable { at: usize, class: String },
}
