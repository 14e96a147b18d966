//! Where one file of the store is. In: names as clients and operators spell them. Out: a place within the store, or the reason
//! why not. Deliberately absent: whether there is a file. Pure.

use super::STREAMS;

/// A stream id, a counter and an ending; file systems take 255.
const FILE_LENGTH_MAX: usize = 200;
const APP_LENGTH_MAX: usize = 128;

/// A file's place in the store. Holding one means that its names can't lead anywhere else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub(super) app: String,
    /// Beside the files, where it is in one.
    pub(super) folder: Option<String>,
    pub(super) file: String,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PlaceError {
    #[error("{what} is empty")]
    Empty { what: &'static str },
    #[error("{what} is {length} characters long, at most {max} are allowed")]
    TooLong { what: &'static str, length: usize, max: usize },
    #[error("{what} contains {found:?}, only A-Z a-z 0-9 . _ - are allowed")]
    Character { what: &'static str, found: char },
    #[error("{what} must not begin with a dot")]
    LeadingDot { what: &'static str },
}

impl Place {
    pub fn new(app: &str, file: &str) -> Result<Self, PlaceError> {
        check("application name", app, APP_LENGTH_MAX)?;
        check("file name", file, FILE_LENGTH_MAX)?;
        Ok(Self { app: app.to_owned(), folder: None, file: file.to_owned() })
    }

    /// The same name in a folder.
    pub(super) fn within(self, folder: &str) -> Result<Self, PlaceError> {
        check("folder name", folder, FILE_LENGTH_MAX)?;
        Ok(Self { folder: Some(folder.to_owned()), ..self })
    }

    pub fn app(&self) -> &str {
        &self.app
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    /// The same place with something appended to the file name: what a file is called before it is complete.
    pub fn with_suffix(&self, suffix: &str) -> Result<Self, PlaceError> {
        let place = Self::new(&self.app, &format!("{}{suffix}", self.file))?;
        Ok(Self { folder: self.folder.clone(), ..place })
    }

    /// Below the application's files.
    pub(super) fn name(&self) -> String {
        self.folder.iter().map(|folder| format!("{folder}/")).chain([self.file.clone()]).collect()
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{STREAMS}/{}", self.app, self.name())
    }
}

/// Names become path segments, so they stay within the characters that need no quoting anywhere, and can't be hidden
/// or parent directories.
fn check(what: &'static str, name: &str, max: usize) -> Result<(), PlaceError> {
    if name.is_empty() {
        return Err(PlaceError::Empty { what });
    }
    if let Some(found) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
        return Err(PlaceError::Character { what, found });
    }
    if name.len() > max {
        return Err(PlaceError::TooLong { what, length: name.len(), max });
    }
    if name.starts_with('.') {
        return Err(PlaceError::LeadingDot { what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_store() {
        for (app, file) in [
            ("..", "x.mp4"),
            ("live", ".."),
            ("live", "../x.mp4"),
            ("live", "a/b.mp4"),
            ("live", "a\\b.mp4"),
            ("live", ".hidden"),
            ("live", ""),
            ("", "x"),
            ("live/..", "x"),
            ("live", "x\0.mp4"),
            ("live", "%2e%2e"),
        ] {
            assert!(Place::new(app, file).is_err(), "{app:?} {file:?}");
        }
        assert!(Place::new("live", &"x".repeat(201)).is_err());
        assert_eq!(Place::new("live", "a..b_1-2.mp4").unwrap().to_string(), "live/streams/a..b_1-2.mp4");
    }
}
