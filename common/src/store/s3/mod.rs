//! A bucket of an S3 server, where finished recordings go.
//!
//! In: the settings, keys, files to send. Out: what the bucket says, or a [`BucketError`] with a precise reason; one try
//! each, within a time that depends on the bytes. Deliberately absent: trying again, which is for who knows how urgent it
//! is, and anything that S3 servers understand differently (conditional writes, tags, versions, policies): what is
//! used here works on all that are known to us.
//!
//! The SDK's own checksums are sent only where an operation requires them: many servers other than Amazon's refuse the
//! others, or keep their framing in the object. Content-MD5, which all check, goes with every body instead.

mod fault;
mod probe;
mod read;
mod write;

use std::{fmt, sync::Arc, time::Duration};

use aws_sdk_s3::{
    Client,
    config::{
        BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        retry::RetryConfig, timeout::TimeoutConfig,
    },
    types::{ChecksumAlgorithm, ObjectCannedAcl, RequestPayer, ServerSideEncryption, StorageClass},
};

pub use fault::{BucketError, Fault};
pub use probe::ProbeError;
pub use read::{Fetched, Object, Seen};
pub use write::{Body, Part, content_type};

use super::Place;
use crate::config::{self, Checksum, Encryption, Play};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What an answer may take, and the slowest line that is still waited for.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const BYTES_PER_S_MIN: u64 = 64 << 10;
/// Where nothing says otherwise: servers other than Amazon's take any.
const REGION_OF_OTHERS: &str = "us-east-1";

/// Cheap to clone.
#[derive(Clone)]
pub struct Bucket {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    settings: config::S3,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bucket").field(&self.name()).finish()
    }
}

impl Bucket {
    /// `None` without a bucket in the settings. Connects to nothing, except to ask the instance for its region where no
    /// setting tells one.
    pub async fn open(settings: &config::S3) -> Option<Self> {
        if !settings.is_set() {
            return None;
        }
        let region = match (settings.region.as_str(), settings.endpoint.as_str()) {
            ("", "") => None,
            ("", _) => Some(REGION_OF_OTHERS),
            (region, _) => Some(region),
        };
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if !settings.access_key.is_empty() {
            let (key, secret) = (settings.access_key.as_str(), settings.secret_key.reveal());
            loader = loader.credentials_provider(Credentials::new(key, secret, None, None, "settings"));
        }
        let shared = loader.load().await;
        // The SDK sends the algorithm that a request names, and no checksum with it, where only required ones are made.
        let checksums = match settings.checksum {
            Checksum::None => RequestChecksumCalculation::WhenRequired,
            _ => RequestChecksumCalculation::WhenSupported,
        };
        let mut builder = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(settings.path_style)
            .request_checksum_calculation(checksums)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_LIMIT).build());
        if !settings.endpoint.is_empty() {
            builder = builder.endpoint_url(&settings.endpoint);
        }
        let client = Client::from_conf(builder.build());
        Some(Self { shared: Arc::new(Shared { client, settings: settings.clone() }) })
    }

    pub fn name(&self) -> &str {
        &self.settings().bucket
    }

    pub fn keeps_local(&self) -> bool {
        self.settings().keep_local
    }

    pub fn plays_by_redirect(&self) -> bool {
        self.settings().play == Play::Redirect
    }

    /// The key of a file of the data directory.
    pub fn key(&self, place: &Place) -> String {
        key(&self.settings().prefix, place)
    }

    /// What all keys of an application's recordings begin with.
    pub fn prefix(&self, app: &str) -> String {
        prefix(&self.settings().prefix, app)
    }

    fn settings(&self) -> &config::S3 {
        &self.shared.settings
    }

    fn client(&self) -> &Client {
        &self.shared.client
    }

    fn payer(&self) -> Option<RequestPayer> {
        self.settings().requester_pays.then_some(RequestPayer::Requester)
    }

    fn acl(&self) -> Option<ObjectCannedAcl> {
        given(&self.settings().acl).map(ObjectCannedAcl::from)
    }

    fn storage_class(&self) -> Option<StorageClass> {
        given(&self.settings().storage_class).map(StorageClass::from)
    }

    fn encryption(&self) -> Option<ServerSideEncryption> {
        match self.settings().sse {
            Encryption::AsTheBucketDoes => None,
            Encryption::Aes256 => Some(ServerSideEncryption::Aes256),
            Encryption::Kms => Some(ServerSideEncryption::AwsKms),
            Encryption::KmsTwice => Some(ServerSideEncryption::AwsKmsDsse),
        }
    }

    fn kms_key(&self) -> Option<String> {
        given(&self.settings().kms_key).map(str::to_owned)
    }

    fn checksum(&self) -> Option<ChecksumAlgorithm> {
        match self.settings().checksum {
            Checksum::None => None,
            Checksum::Crc32 => Some(ChecksumAlgorithm::Crc32),
            Checksum::Crc32c => Some(ChecksumAlgorithm::Crc32C),
            Checksum::Crc64nvme => Some(ChecksumAlgorithm::Crc64Nvme),
            Checksum::Sha1 => Some(ChecksumAlgorithm::Sha1),
            Checksum::Sha256 => Some(ChecksumAlgorithm::Sha256),
        }
    }
}

fn key(pattern: &str, place: &Place) -> String {
    format!("{}{}", prefix(pattern, place.app()), place.name())
}

fn prefix(pattern: &str, app: &str) -> String {
    format!("{}{}/", pattern.replace("{app}", app), super::STREAMS)
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// How long a request that carries so many bytes may take.
fn limit(bytes: u64) -> Duration {
    ANSWER_LIMIT + Duration::from_secs(bytes / BYTES_PER_S_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_in_the_data_directory() {
        let place = Place::new("live", "cam_1.mp4").unwrap();
        assert_eq!(key("{app}/", &place), "live/streams/cam_1.mp4");
        assert_eq!(key("", &place), "streams/cam_1.mp4");
        assert_eq!(key("tv/{app}-", &place), "tv/live-streams/cam_1.mp4");
    }
}
