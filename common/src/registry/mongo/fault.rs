//! What the driver complains of, in words that name the database and never its password.

use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::registry::RegistryError;

const DUPLICATE_KEY: i32 = 11_000;
/// Who does not log in, or not rightly, where that is asked for.
const UNAUTHORIZED: i32 = 13;
const AUTHENTICATION_FAILED: i32 = 18;

pub(super) enum Fault {
    /// Somebody else has written a document of that key.
    Duplicate,
    /// The server answers, and lets nobody in with this user name and password.
    Refused(String),
    Other(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        if is_duplicate(&error) {
            return Self::Duplicate;
        }
        match &*error.kind {
            // The driver's words for what failed, of which the password is no part.
            ErrorKind::Authentication { message, .. } => return Self::Refused(message.clone()),
            ErrorKind::Command(error) if matches!(error.code, UNAUTHORIZED | AUTHENTICATION_FAILED) => {
                return Self::Refused(error.message.clone());
            }
            _ => {}
        }
        Self::Other(match &*error.kind {
            // The driver's own words for these two repeat all it knows of the server.
            ErrorKind::Command(error) => format!("{} ({})", error.message, error.code_name),
            ErrorKind::Write(WriteFailure::WriteConcernError(error)) => {
                format!("{} ({})", error.message, error.code_name)
            }
            kind => kind.to_string(),
        })
    }
}

impl Fault {
    pub(super) fn explain(self, hosts: &str) -> RegistryError {
        let problem = match self {
            Self::Duplicate => "a document that nobody else should have written is there".to_owned(),
            Self::Refused(problem) => return RegistryError::Refused { hosts: hosts.to_owned(), problem },
            Self::Other(problem) => problem,
        };
        RegistryError::Database { hosts: hosts.to_owned(), problem }
    }
}

/// It comes as a `Command` for findAndModify, as a `Write` for insert and update.
fn is_duplicate(error: &Error) -> bool {
    match &*error.kind {
        ErrorKind::Command(error) => error.code == DUPLICATE_KEY,
        ErrorKind::Write(WriteFailure::WriteError(error)) => error.code == DUPLICATE_KEY,
        _ => false,
    }
}
