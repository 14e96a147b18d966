//! Sending files to a bucket: in one piece, or in parts. In: a key, a file, a stretch of it. Out: what the bucket calls
//! it (its ETag). A body is read from the disk while it is sent, so memory does not depend on its size; its MD5, made
//! before, goes ahead of it, and the bucket refuses a body that is another. Deliberately absent: what was sent already.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::Path,
};

use aws_sdk_s3::{
    primitives::{ByteStream, Length},
    types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart},
};
use base64ct::{Base64, Encoding};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::{
    super::{Form, Piece},
    Bucket, BucketError, Fault,
    fault::answer,
    limit,
};

/// Nobody else ever has the name of a piece, so its bytes are what they are; a playlist may have grown since.
const PIECE_CACHE: &str = "public, max-age=31536000, immutable";
const PLAYLIST_CACHE: &str = "max-age=1";
/// The object's owner: the id of the recording.
pub(super) const VOD_ID: &str = "vod-id";
const BUFFER_BYTES: usize = 256 << 10;

/// A part as the bucket knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Part {
    pub etag: String,
    /// By the algorithm of the settings, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

/// What an object is to consist of.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    File(&'a Path),
    Text(&'a str),
}

impl Body<'_> {
    /// As it is sent, and its MD5.
    async fn stretch(self, range: Range<u64>) -> io::Result<(ByteStream, String)> {
        match self {
            Self::File(file) => read(file, range).await,
            Self::Text(text) => {
                let whole = range.start as usize..range.end as usize;
                let bytes = text.as_bytes().get(whole).ok_or(io::ErrorKind::UnexpectedEof)?;
                Ok((ByteStream::from(bytes.to_vec()), md5_of_bytes(bytes)))
            }
        }
    }
}

impl Bucket {
    /// All of it at once; returns its ETag.
    pub async fn put(&self, key: &str, vod_id: &str, body: Body<'_>, bytes: u64) -> Result<String, BucketError> {
        let fail = |reason| self.error("put", key, reason);
        let (body, md5) = body.stretch(0..bytes).await.map_err(local).map_err(fail)?;
        let put = self.client().put_object().bucket(self.name()).key(key).body(body).content_md5(md5);
        let put = put.content_type(content_type(key)).set_cache_control(cache_control(key).map(str::to_owned));
        let put = put.set_metadata(Some(owner(vod_id))).set_request_payer(self.payer());
        let put = put.set_acl(self.acl()).set_storage_class(self.storage_class());
        let put = put.set_server_side_encryption(self.encryption()).set_ssekms_key_id(self.kms_key());
        let put = put.set_checksum_algorithm(self.checksum());
        let done = answer(limit(bytes), put.send()).await.map_err(fail)?;
        Ok(done.e_tag.unwrap_or_default())
    }

    /// Begins an upload in parts; returns its id.
    pub async fn begin(&self, key: &str, vod_id: &str) -> Result<String, BucketError> {
        let fail = |reason| self.error("begin upload of", key, reason);
        let create = self.client().create_multipart_upload().bucket(self.name()).key(key);
        let create = create.content_type(content_type(key)).set_cache_control(cache_control(key).map(str::to_owned));
        let create = create.set_metadata(Some(owner(vod_id))).set_request_payer(self.payer()).set_acl(self.acl());
        let create = create.set_storage_class(self.storage_class()).set_checksum_algorithm(self.checksum());
        let create = create.set_server_side_encryption(self.encryption()).set_ssekms_key_id(self.kms_key());
        let begun = answer(limit(0), create.send()).await.map_err(fail)?;
        begun.upload_id.ok_or_else(|| fail((Fault::Server, ": it gave no upload id".to_owned())))
    }

    /// One part, counted from 1.
    pub async fn part(
        &self,
        key: &str,
        upload_id: &str,
        number: u32,
        body: Body<'_>,
        range: Range<u64>,
    ) -> Result<Part, BucketError> {
        let fail = |reason| self.error("upload part of", key, reason);
        let bytes = range.end - range.start;
        let (body, md5) = body.stretch(range).await.map_err(local).map_err(fail)?;
        let part = self.client().upload_part().bucket(self.name()).key(key).upload_id(upload_id).body(body);
        let part = part.part_number(number as i32).content_md5(md5).set_request_payer(self.payer());
        let part = part.set_checksum_algorithm(self.checksum());
        let done = answer(limit(bytes), part.send()).await.map_err(fail)?;
        let etag = done.e_tag.ok_or_else(|| fail((Fault::Server, ": it gave no ETag".to_owned())))?;
        let checksum = match self.checksum() {
            Some(ChecksumAlgorithm::Crc32) => done.checksum_crc32,
            Some(ChecksumAlgorithm::Crc32C) => done.checksum_crc32_c,
            Some(ChecksumAlgorithm::Crc64Nvme) => done.checksum_crc64_nvme,
            Some(ChecksumAlgorithm::Sha1) => done.checksum_sha1,
            Some(ChecksumAlgorithm::Sha256) => done.checksum_sha256,
            _ => None,
        };
        Ok(Part { etag, checksum })
    }

    /// Makes one object of the parts; returns its ETag.
    pub async fn complete(&self, key: &str, upload_id: &str, parts: &[Part]) -> Result<String, BucketError> {
        let parts = (1..).zip(parts).map(|(number, part)| self.completed(number, part)).collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = self.client().complete_multipart_upload().bucket(self.name()).key(key).upload_id(upload_id);
        let complete = complete.multipart_upload(parts).set_request_payer(self.payer());
        let done = answer(limit(0) * 4, complete.send()).await.map_err(|reason| self.error("complete", key, reason))?;
        Ok(done.e_tag.unwrap_or_default())
    }

    /// Forgets an upload and its parts. One that is not there is forgotten already.
    pub async fn abort(&self, key: &str, upload_id: &str) -> Result<(), BucketError> {
        let abort = self.client().abort_multipart_upload().bucket(self.name()).key(key).upload_id(upload_id);
        match answer(limit(0), abort.set_request_payer(self.payer()).send()).await {
            Ok(_) | Err((Fault::NoUpload | Fault::NoObject, _)) => Ok(()),
            Err(reason) => Err(self.error("abort upload of", key, reason)),
        }
    }

    /// Ids of the uploads in parts that were neither completed nor aborted, with their keys.
    pub async fn uploads(&self, prefix: &str) -> Result<Vec<(String, String)>, BucketError> {
        let mut found = Vec::new();
        let (mut key_marker, mut id_marker) = (None, None);
        loop {
            let list = self.client().list_multipart_uploads().bucket(self.name()).prefix(prefix);
            let list = list.set_key_marker(key_marker.take()).set_upload_id_marker(id_marker.take());
            let page = answer(limit(0), list.set_request_payer(self.payer()).send()).await;
            let page = page.map_err(|reason| self.error("list uploads of", prefix, reason))?;
            let uploads = page.uploads.unwrap_or_default();
            found.extend(uploads.into_iter().filter_map(|upload| Some((upload.key?, upload.upload_id?))));
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
            if !page.is_truncated.unwrap_or(false) || key_marker.is_none() {
                return Ok(found);
            }
        }
    }

    /// Uploads that were given a checksum must name it again for every part.
    fn completed(&self, number: i32, part: &Part) -> CompletedPart {
        let named = CompletedPart::builder().part_number(number).e_tag(&part.etag);
        let checksum = part.checksum.clone();
        match self.checksum() {
            Some(ChecksumAlgorithm::Crc32) => named.set_checksum_crc32(checksum),
            Some(ChecksumAlgorithm::Crc32C) => named.set_checksum_crc32_c(checksum),
            Some(ChecksumAlgorithm::Crc64Nvme) => named.set_checksum_crc64_nvme(checksum),
            Some(ChecksumAlgorithm::Sha1) => named.set_checksum_sha1(checksum),
            Some(ChecksumAlgorithm::Sha256) => named.set_checksum_sha256(checksum),
            _ => named,
        }
        .build()
    }
}

pub(super) fn owner(vod_id: &str) -> HashMap<String, String> {
    HashMap::from([(VOD_ID.to_owned(), vod_id.to_owned())])
}

/// By the name of a recording's file.
pub fn content_type(name: &str) -> &'static str {
    if name.ends_with(".m3u8") { "application/vnd.apple.mpegurl" } else { "video/mp4" }
}

/// Who follows an event from the bucket, by way of a network that caches, must not be shown an old playlist.
fn cache_control(key: &str) -> Option<&'static str> {
    let (_, name) = key.rsplit_once('/').unwrap_or_default();
    match (Form::of(name), Piece::parse(name)) {
        (Some(Form::Hls), _) => Some(PLAYLIST_CACHE),
        (_, Some(Piece::Segment { .. })) => Some(PIECE_CACHE),
        _ => None,
    }
}

fn local(error: io::Error) -> (Fault, String) {
    (Fault::Local, format!(": {error}"))
}

async fn read(file: &Path, range: Range<u64>) -> io::Result<(ByteStream, String)> {
    let (path, stretch) = (file.to_owned(), range.clone());
    let md5 = tokio::task::spawn_blocking(move || md5_of(&path, stretch)).await.map_err(io::Error::other)??;
    let stream = ByteStream::read_from().path(file).offset(range.start).length(Length::Exact(range.end - range.start));
    Ok((stream.buffer_size(BUFFER_BYTES).build().await.map_err(io::Error::other)?, md5))
}

fn md5_of(file: &Path, range: Range<u64>) -> io::Result<String> {
    let mut file = File::open(file)?;
    file.seek(SeekFrom::Start(range.start))?;
    let mut hash = Md5::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut left = range.end - range.start;
    while left > 0 {
        let wanted = left.min(BUFFER_BYTES as u64) as usize;
        let read = file.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash.update(&buffer[..read]);
        left -= read as u64;
    }
    Ok(Base64::encode_string(&hash.finalize()))
}

pub(super) fn md5_of_bytes(bytes: &[u8]) -> String {
    Base64::encode_string(&Md5::digest(bytes))
}
