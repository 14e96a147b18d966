//! Whether what the registry says of recordings is true, and making it so. In: the registry, the store, the bucket, of a
//! node that does not run. Out: differences, and their repair if that is asked for. Nothing is ever deleted that is not
//! elsewhere as well; uploads in parts that nobody goes on with are aborted. Deliberately absent: recordings that the node
//! itself settles at its next start.

mod compare;

use std::{fmt, sync::Arc};

use headwater_common::{
    chance::entropy,
    registry::{ObjectRow, RecordingFilter, RecordingRow, RecordingState, Registry, VodId},
    store::{Form, Piece, Place, Store, s3::Bucket, vod_id_of},
};

use super::{
    hls::playlist,
    tape::RECORDING,
    upload::{JOURNAL, Journal},
};
use compare::{Contents, Difference, Inventory, compare};

/// Rows that are read together.
const PAGE: usize = 500;

pub struct Reconciler {
    pub registry: Arc<dyn Registry>,
    pub store: Store,
    pub bucket: Option<Bucket>,
    pub apps: Vec<String>,
    pub node: String,
}

/// One difference, and what became of it.
#[derive(Debug)]
pub struct Finding {
    difference: Difference,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Found,
    Repaired(&'static str),
    /// Nothing that a program should decide.
    Left(&'static str),
    Failed(anyhow::Error),
}

impl Finding {
    pub fn is_repaired(&self) -> bool {
        matches!(self.outcome, Outcome::Repaired(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.difference)?;
        match &self.outcome {
            Outcome::Found => Ok(()),
            Outcome::Repaired(how) => write!(f, "; {how}"),
            Outcome::Left(why) => write!(f, "; left alone: {why}"),
            Outcome::Failed(error) => write!(f, "; not repaired: {error:#}"),
        }
    }
}

impl Reconciler {
    pub async fn run(&self, repair: bool) -> anyhow::Result<Vec<Finding>> {
        let mut findings = Vec::new();
        for difference in compare(&self.take_stock().await?) {
            let outcome = match repair {
                true => self.repair(&difference).await.unwrap_or_else(Outcome::Failed),
                false => Outcome::Found,
            };
            findings.push(Finding { difference, outcome });
        }
        Ok(findings)
    }

    async fn take_stock(&self) -> anyhow::Result<Inventory> {
        let mut inventory = Inventory { node: self.node.clone(), ..Inventory::default() };
        for app in &self.apps {
            for page in 0.. {
                let filter = RecordingFilter::default();
                let rows = self.registry.list_recordings(app, filter, page * PAGE, PAGE).await?;
                let last = rows.len() < PAGE;
                inventory.rows.extend(rows);
                if last {
                    break;
                }
            }
        }
        for form in [Form::Mp4, Form::Hls] {
            for place in self.store.list(form.ending())? {
                let vod_id = self.vod_id_in(&place).unwrap_or_default();
                inventory.files.insert(place.clone(), self.store.whole_size(&place, vod_id.as_str())?);
            }
        }
        let mut resumable = Vec::new();
        for suffix in [RECORDING, JOURNAL] {
            for file in self.store.list(suffix)? {
                let Some(name) = file.file().strip_suffix(suffix).filter(|name| Form::of(name).is_some()) else {
                    continue;
                };
                let place = Place::new(file.app(), name)?;
                if suffix == JOURNAL {
                    let journal: Journal = serde_json::from_reader(self.store.read(&file)?).unwrap_or_default();
                    resumable.extend(journal.upload.map(|upload| upload.id));
                }
                inventory.in_work.insert(place);
            }
        }
        if let Some(bucket) = &self.bucket {
            let keeps_local = bucket.keeps_local();
            let mut contents =
                Contents { resumable: resumable.into_iter().collect(), keeps_local, ..Contents::default() };
            for app in &self.apps {
                let prefix = bucket.prefix(app);
                for object in bucket.list(&prefix).await? {
                    let name = object.key.strip_prefix(&prefix).unwrap_or_default();
                    match name.split_once('/') {
                        None if Form::of(name).is_some() => {
                            contents.objects.insert(object.key, (app.clone(), object.bytes));
                        }
                        Some((folder, piece)) if vod_id_of(folder).is_some() && Piece::parse(piece).is_some() => {
                            *contents.pieces.entry((app.clone(), folder.to_owned())).or_default() += object.bytes;
                        }
                        // Not one of ours.
                        _ => {}
                    }
                }
                contents.uploads.extend(bucket.uploads(&prefix).await?);
            }
            contents.uploads.sort();
            contents.uploads.dedup();
            inventory.bucket = Some(contents);
        }
        Ok(inventory)
    }

    async fn repair(&self, difference: &Difference) -> anyhow::Result<Outcome> {
        match difference {
            Difference::Lost { row } => {
                let reason = "it is neither on the disk nor in the bucket".to_owned();
                let row =
                    RecordingRow { state: RecordingState::Failed { reason }, bytes: 0, object: None, ..row.clone() };
                self.registry.put_recording(&row).await?;
                Ok(Outcome::Repaired("the registry says so now"))
            }
            Difference::Vanished { row } => {
                let place = Place::new(&row.app, &row.file)?;
                let bytes = self.store.whole_size(&place, row.vod_id.as_str())?;
                let state = RecordingState::Uploading { defect: None };
                self.registry.put_recording(&RecordingRow { state, bytes, object: None, ..row.clone() }).await?;
                Ok(Outcome::Repaired("it is sent again when the node runs"))
            }
            Difference::Changed { .. } => Ok(Outcome::Left("only who changed it knows which one is right")),
            Difference::Leftover { place, vod_id } => {
                self.store.delete_pieces(place, vod_id.as_str())?;
                self.store.delete(place)?;
                Ok(Outcome::Repaired("deleted from the disk"))
            }
            Difference::FileWithoutRow { place, bytes } => {
                let state = match &self.bucket {
                    Some(_) => RecordingState::Uploading { defect: None },
                    None => RecordingState::Ready,
                };
                let modified = self.store.read(place)?.metadata()?.modified()?;
                let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                let created_ms = i64::try_from(since.as_millis()).unwrap_or_default();
                let vod_id = self.vod_id_in(place).unwrap_or_else(|| VodId::new(created_ms, entropy()));
                let row = self.row(vod_id, place.app(), place.file(), *bytes);
                let created_ms = Some(created_ms);
                self.registry.put_recording(&RecordingRow { state, created_ms, ..row }).await?;
                Ok(Outcome::Repaired("the registry knows it now"))
            }
            Difference::ObjectWithoutRow { app, key, bytes } => {
                let Some(bucket) = &self.bucket else { return Ok(Outcome::Left("there is no bucket")) };
                let Some(seen) = bucket.head(key).await? else { return Ok(Outcome::Left("it has gone meanwhile")) };
                let Some(vod_id) = seen.vod_id else { return Ok(Outcome::Left("it was not uploaded by Headwater")) };
                let file = key.rsplit('/').next().unwrap_or_default();
                let row = self.row(VodId::parse(&vod_id), app, file, *bytes);
                let object = Some(ObjectRow { key: key.clone(), etag: seen.etag, error: String::new() });
                self.registry.put_recording(&RecordingRow { state: RecordingState::Ready, object, ..row }).await?;
                Ok(Outcome::Repaired("the registry knows it now"))
            }
            Difference::PiecesWithoutPlaylist { .. } => Ok(Outcome::Left("nothing names them any more")),
            Difference::OpenUpload { key, upload_id } => {
                let Some(bucket) = &self.bucket else { return Ok(Outcome::Left("there is no bucket")) };
                bucket.abort(key, upload_id).await?;
                Ok(Outcome::Repaired("aborted"))
            }
        }
    }

    /// Of the pieces that a playlist names.
    fn vod_id_in(&self, place: &Place) -> Option<VodId> {
        let is_playlist = Form::of(place.file()) == Some(Form::Hls);
        let text = is_playlist.then(|| std::fs::read_to_string(self.store.path(place)).ok()).flatten()?;
        Some(VodId::parse(vod_id_of(playlist::folder(&text)?)?))
    }

    fn row(&self, vod_id: VodId, app: &str, file: &str, bytes: u64) -> RecordingRow {
        let stream = Form::stem(file).to_owned();
        let (app, file, node) = (app.to_owned(), file.to_owned(), self.node.clone());
        // Ids begin with the time of the recording.
        let started_ms = vod_id.started_ms();
        RecordingRow { vod_id, app, stream, file, node, bytes, started_ms, ..RecordingRow::default() }
    }
}
