//! What is in a bucket. In: a key or what keys begin with. Out: size and owner of objects, their bytes, addresses under
//! which others may fetch them. And their end.

use std::time::Duration;

use aws_sdk_s3::{
    config::http::HttpRequest,
    presigning::{PresignedRequest, PresigningConfig},
    primitives::SdkBody,
};

use super::{Bucket, BucketError, Fault, fault::answer, limit, write::VOD_ID};

/// What HEAD tells of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub bytes: u64,
    pub etag: String,
    /// The recording that it was uploaded for.
    pub vod_id: Option<String>,
}

/// An object in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    pub bytes: u64,
}

/// An object, or a range of it, on its way.
pub struct Fetched {
    /// On their way.
    pub bytes: u64,
    /// As in the header, when it is a range.
    pub range: Option<String>,
    pub etag: String,
    pub body: SdkBody,
}

impl Bucket {
    /// `None` when there is no such object.
    pub async fn head(&self, key: &str) -> Result<Option<Seen>, BucketError> {
        let head = self.client().head_object().bucket(self.name()).key(key).set_request_payer(self.payer());
        match answer(limit(0), head.send()).await {
            Ok(seen) => Ok(Some(Seen {
                bytes: seen.content_length.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default(),
                etag: seen.e_tag.unwrap_or_default(),
                vod_id: seen.metadata.and_then(|mut metadata| metadata.remove(VOD_ID)),
            })),
            Err((Fault::NoObject, _)) => Ok(None),
            Err(reason) => Err(self.error("look at", key, reason)),
        }
    }

    /// `range` as in the header.
    pub async fn get(&self, key: &str, range: Option<&str>) -> Result<Fetched, BucketError> {
        let get = self.client().get_object().bucket(self.name()).key(key).set_request_payer(self.payer());
        let get = get.set_range(range.map(str::to_owned));
        let got = answer(limit(0), get.send()).await.map_err(|reason| self.error("get", key, reason))?;
        Ok(Fetched {
            bytes: got.content_length.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default(),
            range: got.content_range,
            etag: got.e_tag.unwrap_or_default(),
            body: got.body.into_inner(),
        })
    }

    /// Where anybody may fetch the object until then; `head` for who only wants to look at it. Temporary credentials may
    /// end it earlier.
    pub async fn address(&self, key: &str, head: bool, valid_for: Duration) -> Result<String, BucketError> {
        let fail = |detail: String| self.error("sign address of", key, (Fault::Credentials, detail));
        let payer = self.payer();
        // Whoever follows an address sends no headers of ours, so that it has to say this itself.
        let say_payer = move |request: &mut HttpRequest| {
            if let Some(payer) = &payer {
                let joint = if request.uri().contains('?') { '&' } else { '?' };
                let uri = format!("{}{joint}x-amz-request-payer={}", request.uri(), payer.as_str());
                if let Err(error) = request.set_uri(uri) {
                    tracing::error!(%error, "an address can't say who pays");
                }
            }
        };
        let valid = PresigningConfig::expires_in(valid_for).map_err(|error| fail(format!(": {error}")))?;
        let signed: Result<PresignedRequest, _> = if head {
            let head = self.client().head_object().bucket(self.name()).key(key).customize();
            answer(limit(0), head.mutate_request(say_payer).presigned(valid)).await
        } else {
            let get = self.client().get_object().bucket(self.name()).key(key).customize();
            answer(limit(0), get.mutate_request(say_payer).presigned(valid)).await
        };
        signed.map(|signed| signed.uri().to_owned()).map_err(|reason| self.error("sign address of", key, reason))
    }

    /// An object that is not there is deleted already.
    pub async fn delete(&self, key: &str) -> Result<(), BucketError> {
        let delete = self.client().delete_object().bucket(self.name()).key(key).set_request_payer(self.payer());
        match answer(limit(0), delete.send()).await {
            Ok(_) | Err((Fault::NoObject, _)) => Ok(()),
            Err(reason) => Err(self.error("delete", key, reason)),
        }
    }

    /// All objects whose keys begin like this.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Object>, BucketError> {
        let mut found = Vec::new();
        let mut next = None;
        loop {
            let list = self.client().list_objects_v2().bucket(self.name()).prefix(prefix);
            let list = list.set_continuation_token(next.take()).set_request_payer(self.payer());
            let page = answer(limit(0), list.send()).await;
            let page = page.map_err(|reason| self.error("list", prefix, reason))?;
            found.extend(page.contents.unwrap_or_default().into_iter().filter_map(|object| {
                let bytes = object.size.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default();
                Some(Object { key: object.key?, bytes })
            }));
            next = page.next_continuation_token;
            if next.is_none() {
                return Ok(found);
            }
        }
    }
}
