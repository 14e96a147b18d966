//! Where finished recordings go. In: `[store.s3]`. Out: the same with types, or an error that names the key. Deliberately
//! absent: connections; whether a bucket can be used is tried by the store.

use serde::Deserialize;

use super::{ConfigError, Secret, check::refuse};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    pub s3: S3,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    pub bucket: String,
    pub region: String,
    pub endpoint: String,
    pub prefix: String,
    pub path_style: bool,
    pub access_key: String,
    pub secret_key: Secret,
    pub storage_class: String,
    pub sse: Encryption,
    pub kms_key: String,
    pub requester_pays: bool,
    pub acl: String,
    pub checksum: Checksum,
    pub keep_local: bool,
    pub play: Play,
}

/// How the bucket encrypts what it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Encryption {
    #[serde(rename = "")]
    AsTheBucketDoes,
    #[serde(rename = "AES256")]
    Aes256,
    #[serde(rename = "aws:kms")]
    Kms,
    #[serde(rename = "aws:kms:dsse")]
    KmsTwice,
}

/// What the bucket checks and keeps besides Content-MD5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    #[serde(rename = "")]
    None,
    Crc32,
    Crc32c,
    Crc64nvme,
    Sha1,
    Sha256,
}

/// How viewers get a recording that is only in the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Play {
    /// From the bucket, by a signed address.
    Redirect,
    /// Through this node.
    Node,
}

/// What S3 knows (Amazon S3 User Guide, "Canned ACL").
const ACLS: [&str; 7] = [
    "private",
    "public-read",
    "public-read-write",
    "authenticated-read",
    "aws-exec-read",
    "bucket-owner-read",
    "bucket-owner-full-control",
];

impl S3 {
    pub fn is_set(&self) -> bool {
        !self.bucket.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.access_key.is_empty() != self.secret_key.is_empty() {
            return refuse("store.s3", "access_key and secret_key go together, only one of them is set");
        }
        if !self.endpoint.is_empty() && !["http://", "https://"].iter().any(|scheme| self.endpoint.starts_with(scheme))
        {
            return refuse(
                "store.s3.endpoint",
                format!("{:?} begins with neither http:// nor https://", self.endpoint),
            );
        }
        // An empty folder in a key is a folder of its own to S3, and nobody finds what is in it.
        if self.prefix.starts_with('/') || self.prefix.contains("//") {
            return refuse("store.s3.prefix", format!("{:?} has an empty part: write \"folder/\"", self.prefix));
        }
        if self.prefix.bytes().any(|b| !b.is_ascii_graphic()) {
            return refuse("store.s3.prefix", format!("{:?}: printable ASCII without blanks only", self.prefix));
        }
        if !self.acl.is_empty() && !ACLS.contains(&self.acl.as_str()) {
            return refuse("store.s3.acl", format!("{:?} is none of {}", self.acl, ACLS.join(", ")));
        }
        if !self.kms_key.is_empty() && !matches!(self.sse, Encryption::Kms | Encryption::KmsTwice) {
            return refuse("store.s3.kms_key", "it is set, and sse is not \"aws:kms\"");
        }
        Ok(())
    }
}
