//! Whether a bucket can be used, tried out. In: a bucket. Out: nothing, or which step failed and why. Deliberately
//! absent: anything that stays in the bucket.

use aws_sdk_s3::primitives::ByteStream;

use super::{
    Bucket, BucketError, Fault,
    fault::answer,
    limit,
    write::{md5_of_bytes, owner},
};

/// Of the same bytes each time: a server that answers with something else is found out.
const BODY: &[u8] = b"headwater was here";

#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("{bucket}/{key} was written, and then {found}")]
    Mismatch { bucket: String, key: String, found: String },
    #[error("the credentials may not ask whether an object is in {bucket}: they need s3:ListBucket")]
    NoList { bucket: String },
}

impl Bucket {
    /// Writes an object where an application's recordings go, looks at it, deletes it: what they need. `name` is the
    /// node's own, and always the same, so that the next probe removes what a dying process left.
    pub async fn probe(&self, app: &str, name: &str) -> Result<(), ProbeError> {
        let key = format!("{}.headwater-probe-{name}", self.prefix(app));
        let put = self.client().put_object().bucket(self.name()).key(&key).body(ByteStream::from_static(BODY));
        let put = put
            .content_md5(md5_of_bytes(BODY))
            .set_metadata(Some(owner(name)))
            .set_request_payer(self.payer())
            .set_acl(self.acl());
        let put = put.set_storage_class(self.storage_class()).set_checksum_algorithm(self.checksum());
        let put = put.set_server_side_encryption(self.encryption()).set_ssekms_key_id(self.kms_key());
        answer(limit(0), put.send()).await.map_err(|reason| self.error("put", &key, reason))?;
        let seen = self.head(&key).await;
        // Whatever it looked like.
        let deleted = self.delete(&key).await;
        let found = match seen? {
            Some(seen) if seen.bytes == BODY.len() as u64 && seen.vod_id.as_deref() == Some(name) => None,
            Some(seen) if seen.bytes == BODY.len() as u64 => Some("its metadata was gone".to_owned()),
            Some(seen) => Some(format!("it was {} bytes long instead of {}", seen.bytes, BODY.len())),
            None => Some("it was not there".to_owned()),
        };
        if let Some(found) = found {
            return Err(ProbeError::Mismatch { bucket: self.name().to_owned(), key, found });
        }
        deleted?;
        // Amazon tells that something is not there only to those who may list the bucket.
        match self.head(&key).await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(ProbeError::Mismatch {
                bucket: self.name().to_owned(),
                key,
                found: "it could not be deleted".to_owned(),
            }),
            Err(BucketError { fault: Fault::Denied, .. }) => Err(ProbeError::NoList { bucket: self.name().to_owned() }),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn error(&self, action: &'static str, key: &str, (fault, detail): (Fault, String)) -> BucketError {
        BucketError { action, bucket: self.name().to_owned(), key: key.to_owned(), fault, detail }
    }
}
