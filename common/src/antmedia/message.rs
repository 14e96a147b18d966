//! What a client says: a JSON object with a command and a handful of fields.
//!
//! In: text from anybody. Out: fields as text, however they were typed: clients send numbers as strings and strings as
//! numbers, leave fields out or empty. Deliberately absent: what the commands mean.

use std::borrow::Cow;

use serde_json::{Map, Value};

pub(super) struct Message(Map<String, Value>);

impl Message {
    pub(super) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }

    /// Empty when the field is absent or holds a list or an object.
    pub(super) fn text(&self, field: &str) -> Cow<'_, str> {
        match self.0.get(field) {
            Some(Value::String(text)) => Cow::Borrowed(text),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Cow::Owned(value.to_string()),
            _ => Cow::Borrowed(""),
        }
    }

    /// `None` for what says "you choose": 0, "auto", nothing.
    pub(super) fn height(&self, field: &str) -> Option<u32> {
        self.text(field).parse().ok().filter(|height| *height > 0)
    }

    /// What is not said to be off is on.
    pub(super) fn is_on(&self, field: &str) -> bool {
        !matches!(&*self.text(field), "false" | "0")
    }
}
