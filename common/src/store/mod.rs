//! Where files go: `<data>/<app>/streams/<file>` on a disk, some of them in folders there, and from there to a bucket
//! ([`s3`]) if there is one.
//!
//! In: checked names, and the operations that a crash must not tear (create, rename, delete: each is on the disk when
//! it returns). Out: open files, listings, and how much room is left. Deliberately absent: knowledge of what the files
//! contain, and async: all of it blocks for as long as the disk takes.

mod form;
mod place;
pub mod s3;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

pub use form::{Asked, Form, Piece, asked, beside, folder, vod_id_of};
pub use place::{Place, PlaceError};

const STREAMS: &str = "streams";
/// What a file is called until [`Store::write`] is done with it.
const SCRATCH: &str = ".new";
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    data: PathBuf,
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
        self.directory(place).join(&place.file)
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
        let directory = self.directory(place);
        if !directory.is_dir() {
            fs::create_dir_all(&directory).map_err(fault("create directory", &directory))?;
            for made in directory.ancestors().take(4).skip(1).filter(|made| made.starts_with(&self.data)) {
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
        sync_directory(&self.directory(to))
    }

    /// False when there was none.
    pub fn delete(&self, place: &Place) -> Result<bool, StoreError> {
        let path = self.path(place);
        match fs::remove_file(&path) {
            Ok(()) => sync_directory(&self.directory(place)).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fault("delete", &path)(error)),
        }
    }

    /// All files of all applications whose name ends like this, by name. Names that could not have been made here are
    /// left out.
    pub fn list(&self, suffix: &str) -> Result<Vec<Place>, StoreError> {
        let mut places = Vec::new();
        for app in names(&self.data)? {
            let directory = self.streams(&app);
            if !directory.is_dir() {
                continue;
            }
            let files = names(&directory)?.into_iter().filter(|file| file.ends_with(suffix));
            places.extend(files.filter_map(|file| Place::new(&app, &file).ok()));
        }
        places.sort();
        Ok(places)
    }

    /// The folders of an application's recordings, by name.
    pub fn folders(&self, app: &str) -> Result<Vec<String>, StoreError> {
        let directory = self.streams(app);
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        let mut folders = names(&directory)?;
        folders.retain(|name| vod_id_of(name).is_some() && directory.join(name).is_dir());
        folders.sort();
        Ok(folders)
    }

    /// The pieces of a recording and their sizes, by stretch and number; none without a folder.
    pub fn pieces(&self, place: &Place, vod_id: &str) -> Result<Vec<(Piece, u64)>, StoreError> {
        let directory = self.streams(&place.app).join(folder(&place.file, vod_id));
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        let sized = |piece: Piece| {
            let path = directory.join(piece.to_string());
            fs::metadata(&path).map(|metadata| (piece, metadata.len())).map_err(fault("look at", &path))
        };
        let mut pieces: Vec<_> =
            names(&directory)?.iter().filter_map(|name| Piece::parse(name)).map(sized).collect::<Result<_, _>>()?;
        pieces.sort();
        Ok(pieces)
    }

    /// Size in bytes of a recording with all that it consists of.
    pub fn whole_size(&self, place: &Place, vod_id: &str) -> Result<u64, StoreError> {
        Ok(self.size(place)? + self.pieces(place, vod_id)?.iter().map(|(_, bytes)| bytes).sum::<u64>())
    }

    /// With whatever is in it. False when there was none.
    pub fn delete_pieces(&self, place: &Place, vod_id: &str) -> Result<bool, StoreError> {
        let streams = self.streams(&place.app);
        let path = streams.join(folder(&place.file, vod_id));
        match fs::remove_dir_all(&path) {
            Ok(()) => sync_directory(&streams).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(fault("delete", &path)(error)),
        }
    }

    /// Bytes that an unprivileged process can still write.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let room = rustix::fs::statvfs(&self.data).map_err(|error| fault("measure", &self.data)(error.into()))?;
        Ok(room.f_bavail.saturating_mul(room.f_frsize))
    }

    fn streams(&self, app: &str) -> PathBuf {
        self.data.join(app).join(STREAMS)
    }

    fn directory(&self, place: &Place) -> PathBuf {
        let streams = self.streams(&place.app);
        place.folder.as_ref().map_or(streams.clone(), |folder| streams.join(folder))
    }
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
    fn pieces_lie_in_a_folder_of_their_own_and_go_with_it() {
        let scratch = Scratch::new("pieces");
        let store = Store::open(&scratch.0).unwrap();
        let (place, id) = (Place::new("live", "a.vod.m3u8").unwrap(), "0193a1b2c3d4deadbeef");
        assert_eq!(store.pieces(&place, id).unwrap(), []);
        let pieces = [
            Piece::Init { stretch: 0 },
            Piece::Segment { stretch: 0, number: 9 },
            Piece::Segment { stretch: 0, number: 10 },
        ];
        for (piece, bytes) in pieces.into_iter().zip(1..) {
            store.write(&place.piece(id, piece).unwrap(), &vec![0; bytes]).unwrap();
        }
        fs::write(scratch.0.join(format!("live/streams/a_{id}/0-11.m4s.new")), b"torn").unwrap();
        store.write(&place, b"1234").unwrap();
        let sized: Vec<_> = pieces.into_iter().zip(1..).collect();
        assert_eq!(store.pieces(&place, id).unwrap(), sized);
        assert_eq!(store.whole_size(&place, id).unwrap(), 10);
        assert_eq!(store.list(".m3u8").unwrap(), std::slice::from_ref(&place));
        assert_eq!(store.folders("live").unwrap(), [format!("a_{id}")]);
        assert_eq!(place.piece(id, pieces[1]).unwrap().to_string(), format!("live/streams/a_{id}/0-9.m4s"));
        assert!(store.delete_pieces(&place, id).unwrap());
        assert!(!store.delete_pieces(&place, id).unwrap());
        assert!(store.exists(&place));
    }

    #[test]
    fn room_is_measured() {
        let scratch = Scratch::new("room");
        assert!(Store::open(&scratch.0).unwrap().free_bytes().unwrap() > 1 << 20);
    }
}
