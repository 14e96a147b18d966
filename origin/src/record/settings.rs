//! What is recorded, and how. In: an application's settings. Out: the same in the units that the recorder works with.

use std::collections::{BTreeMap, BTreeSet};

use headwater_common::{config, store::Form};

use super::cutter::Limits;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether broadcasts of an application are recorded; `record` where it is not named.
    pub apps: BTreeMap<String, bool>,
    pub record: bool,
    /// By application; those that are not named have none.
    pub rules: BTreeMap<String, Rules>,
    /// Applications that have one: it is told what is ready.
    pub webhooks: BTreeSet<String>,
    /// Which node this is: its rows in the registry are told from those of others by that.
    pub node: String,
    /// Recordings end, and none begins, while the disk has less room than this.
    pub free_disk_mb_min: u64,
    /// The log warns while it has less than this.
    pub free_disk_mb_warn: u64,
}

/// How an application's recordings are cut, named and kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub(super) limits: Limits,
    pub(super) date_time: bool,
    pub(super) retention_days: u32,
    /// Heights of the renditions that are recorded whenever the source is.
    pub(super) renditions: Vec<u32>,
    /// Each recording is kept as HLS as well.
    pub(super) hls: bool,
}

impl Rules {
    /// What a take is kept as, each by itself.
    pub(super) fn forms(&self) -> impl Iterator<Item = Form> {
        [Form::Mp4].into_iter().chain(self.hls.then_some(Form::Hls))
    }
}

impl From<&config::Recording> for Rules {
    fn from(settings: &config::Recording) -> Self {
        let config::Recording { split_s, split_mb, gap_tolerance_s, date_time, retention_days, hls, .. } = *settings;
        let limits = Limits {
            split_us: i64::from(split_s) * 1_000_000,
            split_bytes: u64::from(split_mb) << 20,
            gap_us: i64::from(gap_tolerance_s) * 1_000_000,
        };
        Self { limits, date_time, retention_days, renditions: settings.renditions.clone(), hls }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            apps: BTreeMap::new(),
            record: false,
            rules: BTreeMap::new(),
            webhooks: BTreeSet::new(),
            node: String::new(),
            free_disk_mb_min: 512,
            free_disk_mb_warn: 4096,
        }
    }
}
