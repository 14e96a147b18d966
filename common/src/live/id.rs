//! How a broadcast is named: `<app>/<stream id>`. In: names as peers spell them. Out: a checked id or the reason why not.

use std::{fmt, sync::Arc};

/// Cheap to clone: it labels every reader, log line and metric of a broadcast.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BroadcastId(Arc<(String, String)>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} is {length} characters long, at most {NAME_LENGTH_MAX} are allowed")]
    TooLong { what: &'static str, length: usize },
    #[error("{what} contains {found:?}, only A-Z a-z 0-9 . _ - are allowed")]
    Character { what: &'static str, found: char },
    #[error("{what} must not begin with a dot")]
    LeadingDot { what: &'static str },
}

const NAME_LENGTH_MAX: usize = 128;

impl BroadcastId {
    pub fn new(app: &str, stream: &str) -> Result<Self, IdError> {
        check_name("app", app)?;
        check_name("stream id", stream)?;
        Ok(Self(Arc::new((app.to_owned(), stream.to_owned()))))
    }

    pub fn app(&self) -> &str {
        &self.0.0
    }

    pub fn stream(&self) -> &str {
        &self.0.1
    }
}

/// Names become path segments, file names and object keys, so they stay within the characters that need no quoting
/// anywhere, and can't be hidden or parent directories.
fn check_name(what: &'static str, name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::Empty { what });
    }
    if let Some(found) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(IdError::Character { what, found });
    }
    if name.len() > NAME_LENGTH_MAX {
        return Err(IdError::TooLong { what, length: name.len() });
    }
    if name.starts_with('.') {
        return Err(IdError::LeadingDot { what });
    }
    Ok(())
}

impl fmt::Display for BroadcastId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.0, self.0.1)
    }
}

impl fmt::Debug for BroadcastId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
