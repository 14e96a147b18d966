//! Where files go: `<data>/<app>/streams/<file>` on a disk, and from there to a bucket ([`s3`]) if there is one.
//!
//! In: checked names, and the operations that a crash must not tear (create, rename, delete: each is on the disk when
//! it returns). Out: open files, listings, and how much room is left. Deliberately absent: knowledge of what the files
//! contain, and async: all of it blocks for as long as the disk takes.

pub mod s3;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

const STREAMS: &str = "streams";
/// What a file is called until [`Store::write`] is done with it.
const SCRATCH: &str = ".new";
/// A stream id, a counter and an ending; file systems take 255.
const FILE_LENGTH_MAX: usize = 200;
const APP_LENGTH_MAX: usize = 128;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    data: PathBuf,
}

/// A file's place in the store. Holding one means that its names can't lead anywhere else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    app: String,
    file: String,
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

#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", .path.display())]
pub struct StoreError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl StoreError {
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    pub fn is_taken(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }
}

impl Place {
    pub fn new(app: &str, file: &str) -> Result<Self, PlaceError> {
        check("application name", app, APP_LENGTH_MAX)?;
        check("file name", file, FILE_LENGTH_MAX)?;
        Ok(Self { app: app.to_owned(), file: file.to_owned() })
    }

    pub fn app(&self) -> &str {
        &self.app
    }

    pub fn file(&self) -> &str {
        &self.file
    }

    /// The same place with something appended to the file name: what a file is called before it is complete.
    pub fn with_suffix(&self, suffix: &str) -> Result<Self, PlaceError> {
        Self::new(&self.app, &format!("{}{suffix}", self.file))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{STREAMS}/{}", self.app, self.file)
    }
}

impl Store {
    /// Makes the data directory if there is none.
    pub fn open(data: &Path) -> Result<Self, StoreError> {
        let store = Self { data: data.to_owned() };
        fs::create_dir_all(data).map_err(fault("create directory", data))?;
        Ok(store)
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn path(&self, place: &Place) -> PathBuf {
        self.directory(&place.app).join(&place.file)
    }

    /// A new file, open for reading and writing. Fails if there is one already.
    pub fn create(&self, place: &Place) -> Result<File, StoreError> {
        let directory = self.make_directory(place)?;
        let path = self.path(place);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(fault("create", &path))?;
        sync_directory(&directory)?;
        Ok(file)
    }

    fn make_directory(&self, place: &Place) -> Result<PathBuf, StoreError> {
        let directory = self.directory(&place.app);
        if !directory.is_dir() {
            fs::create_dir_all(&directory).map_err(fault("create directory", &directory))?;
            for made in directory.ancestors().take(3).skip(1) {
                sync_directory(made)?;
            }
        }
        Ok(directory)
    }

    pub fn read(&self, place: &Place) -> Result<File, StoreError> {
        let path = self.path(place);
        File::open(&path).map_err(fault("open", &path))
    }

    /// Puts a small file in place of whatever was there, or nothing at all.
    pub fn write(&self, place: &Place, bytes: &[u8]) -> Result<(), StoreError> {
        let directory = self.make_directory(place)?;
        let target = self.path(place);
        let path = directory.join(format!("{}{SCRATCH}", place.file));
        let written = File::create(&path).and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
        written.map_err(fault("write", &path))?;
        fs::rename(&path, &target).map_err(fault("rename", &path))?;
        sync_directory(&directory)
    }

    /// Opens what exists for reading and writing.
    pub fn edit(&self, place: &Place) -> Result<File, StoreError> {
        let path = self.path(place);
        OpenOptions::new().read(true).write(true).open(&path).map_err(fault("open", &path))
    }

    pub fn exists(&self, place: &Place) -> bool {
        self.path(place).exists()
    }

    /// Size in bytes.
    pub fn size(&self, place: &Place) -> Result<u64, StoreError> {
        let path = self.path(place);
        fs::metadata(&path).map(|metadata| metadata.len()).map_err(fault("look at", &path))
    }

    /// Whoever opens `to` from now on gets either the whole file or none. Refuses to replace another file.
    pub fn rename(&self, from: &Place, to: &Place) -> Result<(), StoreError> {
        let (old, new) = (self.path(from), self.path(to));
        if new.exists() {
            return Err(fault("rename to", &new)(io::ErrorKind::AlreadyExists.into()));
        }
        fs::rename(&old, &new).map_err(fault("rename", &old))?;
        sync_directory(&self.directory(&to.app))
    }

    /// False when there was none.
    pub fn delete(&self, place: &Place) -> Result<bool, StoreError> {
        let path = self.path(place);
        match fs::remove_file(&path) {
            Ok(()) => sync_directory(&self.directory(&place.app)).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fault("delete", &path)(error)),
        }
    }

    /// All files of all applications whose name ends like this, by name. Names that could not have been made here are
    /// left out.
    pub fn list(&self, suffix: &str) -> Result<Vec<Place>, StoreError> {
        let mut places = Vec::new();
        for app in names(&self.data)? {
            let directory = self.directory(&app);
            if !directory.is_dir() {
                continue;
            }
            let files = names(&directory)?.into_iter().filter(|file| file.ends_with(suffix));
            places.extend(files.filter_map(|file| Place::new(&app, &file).ok()));
        }
        places.sort();
        Ok(places)
    }

    /// Bytes that an unprivileged process can still write.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let room = rustix::fs::statvfs(&self.data).map_err(|error| fault("measure", &self.data)(error.into()))?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }

    fn directory(&self, app: &str) -> PathBuf {
        self.data.join(app).join(STREAMS)
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

fn names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let entries = fs::read_dir(directory).map_err(fault("list", directory))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string().unwrap_or_default()));
    names.collect::<io::Result<_>>().map_err(fault("list", directory))
}

fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(fault("sync", directory))
}

fn fault(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("headwater-store-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

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

    #[test]
    fn files_are_made_listed_renamed_and_deleted() {
        let scratch = Scratch::new("files");
        let store = Store::open(&scratch.0).unwrap();
        let (draft, whole) = (Place::new("live", "a.mp4.recording").unwrap(), Place::new("live", "a.mp4").unwrap());
        store.create(&draft).unwrap().write_all(b"12345").unwrap();
        assert!(store.create(&draft).unwrap_err().is_taken());
        assert_eq!(store.size(&draft).unwrap(), 5);
        fs::write(scratch.0.join("registry.redb"), b"not an application").unwrap();
        fs::write(scratch.0.join("live/streams/Ünfug.recording"), b"not ours").unwrap();
        assert_eq!(store.list(".recording").unwrap(), std::slice::from_ref(&draft));
        store.rename(&draft, &whole).unwrap();
        assert!(!store.exists(&draft) && store.exists(&whole));
        store.create(&draft).unwrap();
        assert!(store.rename(&draft, &whole).unwrap_err().is_taken());
        assert_eq!(store.size(&whole).unwrap(), 5, "the file that was there is untouched");
        assert!(store.delete(&whole).unwrap());
        assert!(!store.delete(&whole).unwrap());
        assert!(store.read(&whole).unwrap_err().is_not_found());
        let elsewhere = Place::new("new", "a.mp4.upload").unwrap();
        for text in ["one", "two"] {
            store.write(&elsewhere, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(store.path(&elsewhere)).unwrap(), text);
        }
        assert_eq!(fs::read_dir(scratch.0.join("new/streams")).unwrap().count(), 1, "no scratch file is left");
    }

    #[test]
    fn room_is_measured() {
        let scratch = Scratch::new("room");
        assert!(Store::open(&scratch.0).unwrap().free_bytes().unwrap() > 1 << 20);
    }
}
