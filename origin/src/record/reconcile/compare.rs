//! What the registry says against what lies on the disk and in the bucket. Pure: listings in, differences out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use headwater_common::{
    registry::{RecordingRow, RecordingState, VodId},
    store::{Form, Place, folder, vod_id_of},
};

#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// Which node this is; the disks of others can't be seen from here.
    pub(super) node: String,
    pub(super) rows: Vec<RecordingRow>,
    /// Finished recordings on the disk, and their size.
    pub(super) files: BTreeMap<Place, u64>,
    /// Those that are still to be finalised or sent.
    pub(super) in_work: BTreeSet<Place>,
    /// `None` without a bucket.
    pub(super) bucket: Option<Contents>,
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    /// By key: the application that it belongs to, and its size.
    pub(super) objects: BTreeMap<String, (String, u64)>,
    /// What the pieces of kept HLS take, by application and folder.
    pub(super) pieces: BTreeMap<(String, String), u64>,
    /// Uploads in parts that are not complete: key and id.
    pub(super) uploads: Vec<(String, String)>,
    /// Ids of those that go on at the next start.
    pub(super) resumable: BTreeSet<String>,
    /// Local copies stay.
    pub(super) keeps_local: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// It should be here, and is neither on the disk nor in the bucket.
    Lost {
        row: RecordingRow,
    },
    /// It was in the bucket, and is on the disk only.
    Vanished {
        row: RecordingRow,
    },
    /// The bucket has something of another size, and the disk nothing.
    Changed {
        row: RecordingRow,
        bytes: u64,
    },
    /// It is in the bucket, and its local copy was to go.
    Leftover {
        place: Place,
        vod_id: VodId,
    },
    FileWithoutRow {
        place: Place,
        bytes: u64,
    },
    ObjectWithoutRow {
        app: String,
        key: String,
        bytes: u64,
    },
    /// What is in a folder of the bucket belongs to nothing that is known.
    PiecesWithoutPlaylist {
        app: String,
        folder: String,
        bytes: u64,
    },
    OpenUpload {
        key: String,
        upload_id: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |row: &RecordingRow| format!("{}/{}", row.app, row.file);
        match self {
            Self::Lost { row } => write!(f, "{}: neither on the disk nor in the bucket", name(row)),
            Self::Vanished { row } => write!(f, "{}: gone from the bucket, still on the disk", name(row)),
            Self::Changed { row, bytes } => {
                write!(f, "{}: {bytes} bytes in the bucket instead of {}", name(row), row.bytes)
            }
            Self::Leftover { place, .. } => write!(f, "{place}: still on the disk, and in the bucket already"),
            Self::FileWithoutRow { place, .. } => write!(f, "{place}: on the disk, unknown to the registry"),
            Self::ObjectWithoutRow { key, .. } => write!(f, "{key}: in the bucket, unknown to the registry"),
            Self::PiecesWithoutPlaylist { app, folder, bytes } => {
                write!(f, "{app}/{folder}: {bytes} bytes of segments in the bucket, without a playlist")
            }
            Self::OpenUpload { key, .. } => write!(f, "{key}: an upload that nobody goes on with"),
        }
    }
}

impl Contents {
    /// What a recording takes, with its pieces.
    fn whole(&self, key: &str, pieces: &(String, String)) -> Option<u64> {
        let (_, bytes) = self.objects.get(key)?;
        Some(bytes + self.pieces.get(pieces).copied().unwrap_or_default())
    }

    /// The folders that a recording of that name may have.
    fn folders_of<'a>(&'a self, app: &str, file: &str) -> impl Iterator<Item = (&'a (String, String), &'a u64)> {
        let is_one = move |name: &str| {
            vod_id_of(name).is_some_and(|vod_id| folder(file, vod_id) == name) || Form::stem(file) == name
        };
        self.pieces.iter().filter(move |((of, name), _)| of == app && is_one(name))
    }
}

pub(super) fn compare(inventory: &Inventory) -> Vec<Difference> {
    let Inventory { node, rows, files, in_work, bucket } = inventory;
    let mut found = Vec::new();
    let mut known_files = BTreeSet::new();
    let mut known_keys = BTreeSet::new();
    let mut known_folders = BTreeSet::new();
    // Something of these may have arrived, and the row does not say so yet.
    let mut awaited = BTreeSet::new();
    for row in rows {
        let Ok(place) = Place::new(&row.app, &row.file) else { continue };
        let on_disk = files.contains_key(&place);
        let is_ours = row.node.is_empty() || row.node == *node;
        known_files.insert(place.clone());
        if row.arrived().is_none() {
            awaited.insert(place.clone());
        }
        let pieces = (row.app.clone(), folder(&row.file, row.vod_id.as_str()));
        known_folders.insert(pieces.clone());
        known_keys.extend(row.object.as_ref().map(|object| object.key.clone()));
        let (row, in_work) = (row.clone(), in_work.contains(&place));
        match (&row.state, row.arrived(), bucket) {
            // Nobody knows what has become of it before the node runs again.
            _ if in_work => {}
            (RecordingState::Recording | RecordingState::Finalising, ..) => {}
            (RecordingState::Failed { .. }, None, _) if row.bytes == 0 => {}
            (_, Some(_), None) => {}
            (_, Some(key), Some(contents)) => match contents.whole(key, &pieces) {
                Some(bytes) if bytes == row.bytes => {
                    if on_disk && !contents.keeps_local {
                        found.push(Difference::Leftover { place, vod_id: row.vod_id });
                    }
                }
                None | Some(_) if on_disk => found.push(Difference::Vanished { row }),
                Some(bytes) => found.push(Difference::Changed { bytes, row }),
                None => found.push(Difference::Lost { row }),
            },
            (_, None, _) if !on_disk && is_ours => found.push(Difference::Lost { row }),
            (_, None, _) => {}
        }
    }
    let unknown = files.iter().filter(|(place, _)| !known_files.contains(place) && !in_work.contains(place));
    found.extend(unknown.map(|(place, bytes)| Difference::FileWithoutRow { place: place.clone(), bytes: *bytes }));
    if let Some(contents) = bucket {
        for (key, (app, bytes)) in &contents.objects {
            let file = key.rsplit('/').next().unwrap_or_default();
            let is_awaited = Place::new(app, file).is_ok_and(|place| awaited.contains(&place));
            if known_keys.contains(key) || is_awaited {
                continue;
            }
            let (app, key, mut bytes) = (app.clone(), key.clone(), *bytes);
            for ((_, name), more) in contents.folders_of(&app, file) {
                known_folders.insert((app.clone(), name.clone()));
                bytes += more;
            }
            found.push(Difference::ObjectWithoutRow { app, key, bytes });
        }
        for ((app, folder), bytes) in &contents.pieces {
            if !known_folders.contains(&(app.clone(), folder.clone())) {
                let (app, folder, bytes) = (app.clone(), folder.clone(), *bytes);
                found.push(Difference::PiecesWithoutPlaylist { app, folder, bytes });
            }
        }
        let open = contents.uploads.iter().filter(|(_, id)| !contents.resumable.contains(id));
        found.extend(open.map(|(key, id)| Difference::OpenUpload { key: key.clone(), upload_id: id.clone() }));
    }
    found
}

#[cfg(test)]
mod tests {
    use headwater_common::registry::ObjectRow;

    use super::*;

    const KEY: &str = "live/streams/a.mp4";

    fn row(state: RecordingState, arrived: bool) -> RecordingRow {
        let object = arrived.then(|| ObjectRow { key: KEY.to_owned(), etag: "e".to_owned(), error: String::new() });
        let (app, file, node) = ("live".to_owned(), "a.mp4".to_owned(), "n".to_owned());
        RecordingRow { app, file, node, state, bytes: 5, object, ..RecordingRow::default() }
    }

    fn place() -> Place {
        Place::new("live", "a.mp4").unwrap()
    }

    fn found(row: Option<RecordingRow>, on_disk: bool, in_bucket: Option<u64>) -> Vec<Difference> {
        let objects = in_bucket.map(|bytes| (KEY.to_owned(), ("live".to_owned(), bytes)));
        compare(&Inventory {
            node: "n".to_owned(),
            rows: row.into_iter().collect(),
            files: on_disk.then(|| (place(), 5)).into_iter().collect(),
            in_work: BTreeSet::new(),
            bucket: Some(Contents { objects: objects.into_iter().collect(), ..Contents::default() }),
        })
    }

    #[test]
    fn every_way_to_differ_has_its_name() {
        use RecordingState::Ready;
        let arrived = || row(Ready, true);
        assert_eq!(found(Some(arrived()), false, Some(5)), []);
        assert_eq!(
            found(Some(arrived()), true, Some(5)),
            [Difference::Leftover { place: place(), vod_id: VodId::default() }]
        );
        assert_eq!(found(Some(arrived()), true, None), [Difference::Vanished { row: arrived() }]);
        assert_eq!(found(Some(arrived()), true, Some(4)), [Difference::Vanished { row: arrived() }]);
        assert_eq!(found(Some(arrived()), false, Some(4)), [Difference::Changed { row: arrived(), bytes: 4 }]);
        assert_eq!(found(Some(arrived()), false, None), [Difference::Lost { row: arrived() }]);
        assert_eq!(found(Some(row(Ready, false)), true, None), [], "one from before there was a bucket");
        assert_eq!(found(Some(row(Ready, false)), false, None), [Difference::Lost { row: row(Ready, false) }]);
        let others = RecordingRow { node: "other".to_owned(), ..row(Ready, false) };
        assert_eq!(found(Some(others), false, None), [], "on a disk that can't be seen");
        assert_eq!(found(None, true, None), [Difference::FileWithoutRow { place: place(), bytes: 5 }]);
        let object = Difference::ObjectWithoutRow { app: "live".to_owned(), key: KEY.to_owned(), bytes: 5 };
        assert_eq!(found(None, false, Some(5)), [object]);
        let failed = RecordingRow { bytes: 0, ..row(RecordingState::Failed { reason: String::new() }, false) };
        assert_eq!(found(Some(failed), false, None), [], "nothing of it was saved, and it says so");
    }

    #[test]
    fn what_is_in_work_is_left_to_the_node() {
        let uploads = vec![(KEY.to_owned(), "one".to_owned()), (KEY.to_owned(), "two".to_owned())];
        let resumable = BTreeSet::from(["one".to_owned()]);
        let inventory = Inventory {
            rows: vec![row(RecordingState::Uploading { defect: None }, false)],
            in_work: BTreeSet::from([place()]),
            bucket: Some(Contents { uploads, resumable, ..Contents::default() }),
            ..Inventory::default()
        };
        let left = Difference::OpenUpload { key: KEY.to_owned(), upload_id: "two".to_owned() };
        assert_eq!(compare(&inventory), [left]);
    }

    #[test]
    fn kept_hls_is_counted_with_its_pieces() {
        const ID: &str = "0193a1b2c3d4deadbeef";
        let place = || Place::new("live", "a.vod.m3u8").unwrap();
        let key = || "live/streams/a.vod.m3u8".to_owned();
        let arrived = |bytes| {
            let object = Some(ObjectRow { key: key(), etag: "e".to_owned(), error: String::new() });
            let file = "a.vod.m3u8".to_owned();
            RecordingRow { vod_id: VodId::parse(ID), file, object, bytes, ..row(RecordingState::Ready, false) }
        };
        let found = |row: Option<RecordingRow>, in_work: bool, playlist: Option<u64>| {
            let objects = playlist.map(|bytes| (key(), ("live".to_owned(), bytes))).into_iter().collect();
            let pieces = BTreeMap::from([(("live".to_owned(), format!("a_{ID}")), 7)]);
            compare(&Inventory {
                node: "n".to_owned(),
                rows: row.into_iter().collect(),
                in_work: in_work.then(place).into_iter().collect(),
                bucket: Some(Contents { objects, pieces, ..Contents::default() }),
                ..Inventory::default()
            })
        };
        assert_eq!(found(Some(arrived(10)), false, Some(3)), []);
        assert_eq!(found(Some(arrived(11)), false, Some(3)), [Difference::Changed { row: arrived(11), bytes: 10 }]);
        let growing = RecordingRow { object: None, state: RecordingState::Recording, ..arrived(0) };
        assert_eq!(found(Some(growing), true, Some(3)), [], "the node goes on with it");
        let unknown = Difference::ObjectWithoutRow { app: "live".to_owned(), key: key(), bytes: 10 };
        assert_eq!(found(None, false, Some(3)), [unknown]);
        let (app, folder) = ("live".to_owned(), format!("a_{ID}"));
        assert_eq!(found(None, false, None), [Difference::PiecesWithoutPlaylist { app, folder, bytes: 7 }]);
    }
}
