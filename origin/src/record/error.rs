//! Why a recorder does not do what it is asked to, as whoever asked should read it.

use headwater_common::{
    live::BroadcastId,
    registry::{RegistryError, VodId},
    store::{PlaceError, StoreError, s3::ProbeError},
};

#[derive(Debug, thiserror::Error)]
pub enum SetError {
    #[error("there is no broadcast {id}")]
    Unknown { id: BroadcastId },
    #[error("{reason}")]
    NoRoom { reason: String },
    #[error("a recording can't have that name: {0}")]
    Name(#[from] PlaceError),
    #[error("there is no rendition of {height} lines now; these are made: {offered:?}")]
    NoRendition { height: u32, offered: Vec<u32> },
    #[error("say which one shall stop: {0}")]
    Which(String),
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    #[error("recording {vod_id} of {app}/{stream} is still being written")]
    InProgress { vod_id: VodId, app: String, stream: String },
    #[error("recording {vod_id} is in a bucket, and the settings name none")]
    NoBucket { vod_id: VodId },
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("deletion can't be noted: {0}")]
    Upload(String),
}

/// Whether recordings can go where they should.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("recordings stay on this disk: the settings name no bucket")]
    NoBucket,
    #[error(transparent)]
    Probe(#[from] ProbeError),
}
