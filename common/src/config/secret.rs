//! Text that nobody is shown: no log, no error, no `{:?}` of the settings it stands in.

use std::fmt;

use serde::{Deserialize, Deserializer, de::Error};
use toml::Value;

#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether somebody knows it, in a time that does not tell how much of it is right.
    pub fn is(&self, claimed: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), claimed.as_bytes()).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    /// By way of a value, because serde's own complaint about a number or a list shows it.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            _ => Err(D::Error::custom("a secret is text in quotes")),
        }
    }
}
