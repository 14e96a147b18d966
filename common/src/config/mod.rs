//! Everything that can be set, on one page: `default.toml` beside this file, which is also where the defaults are.
//!
//! In: that page, the operator's TOML file, environment variables and flags, each overriding the one before. Out: one
//! [`Config`], or an error that names the key. Deliberately absent: keys that are read anywhere else.

mod check;
mod layers;
mod secret;
mod store;
#[cfg(test)]
mod tests;
mod webhooks;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use ipnet::IpNet;
use serde::Deserialize;

pub use check::SECRET_LENGTH_MIN;
pub use layers::{ConfigError, Layers};
pub use secret::Secret;
pub use store::{Checksum, Encryption, Play, S3, Store};
pub use webhooks::{Webhooks, hook_problem};

use crate::{ladder::Rung, live::Takeover, rtc::Distribution};

/// The commented defaults, as `--print-config` shows them.
pub const DEFAULTS: &str = include_str!("default.toml");

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub data: PathBuf,
    pub http: Http,
    pub tls: Tls,
    pub rtmp: Rtmp,
    pub rtc: Rtc,
    pub turn: Turn,
    pub limits: Limits,
    pub drain: Drain,
    pub record: Record,
    pub store: Store,
    pub cluster: Cluster,
    pub registry: Registry,
    pub log: Log,
    pub apps: BTreeMap<String, App>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub listen: SocketAddr,
    pub tls_listen: SocketAddr,
    pub admin_networks: Vec<IpNet>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rtmp {
    pub listen: SocketAddr,
    pub tls_listen: SocketAddr,
    pub connections_max: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rtc {
    pub listen: SocketAddr,
    pub public_ips: Vec<IpAddr>,
    pub shards: usize,
    pub ice_servers: Vec<IceServer>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IceServer {
    pub url: String,
    #[serde(default)]
    pub username: String,
    #[serde(default)]
    pub credential: Secret,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    pub urls: Vec<String>,
    pub secret: Secret,
    pub ttl_s: u32,
}

/// 0 is no limit.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub cpu_percent: u32,
    pub egress_mbps: u32,
    pub sessions: usize,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    pub viewers_s: u32,
    pub publishers_s: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub free_disk_mb_min: u64,
    pub free_disk_mb_warn: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    pub origins: Vec<String>,
    pub secret: Secret,
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
    pub listen: SocketAddr,
    pub advertise: String,
    pub http: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Has the password in it.
    pub mongodb: Secret,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub filter: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct App {
    pub record: bool,
    pub takeover: Takeover,
    pub data_from_viewers: Distribution,
    pub publish_token: Secret,
    pub ladder: Vec<Rung>,
    pub recording: Recording,
    pub webhooks: Webhooks,
}

/// How an application's recordings are cut, named and kept. Zero: not at all.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recording {
    pub split_s: u32,
    pub split_mb: u32,
    pub gap_tolerance_s: u32,
    pub date_time: bool,
    pub retention_days: u32,
    pub renditions: Vec<u32>,
    pub hls: bool,
}

impl Default for Recording {
    fn default() -> Self {
        Self {
            split_s: 0,
            split_mb: 0,
            gap_tolerance_s: 10,
            date_time: false,
            retention_days: 0,
            renditions: Vec::new(),
            hls: false,
        }
    }
}

impl Tls {
    pub fn is_set(&self) -> bool {
        !self.certificate.as_os_str().is_empty()
    }
}
