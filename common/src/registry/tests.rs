use std::path::PathBuf;

use super::*;
use crate::live::{BroadcastId, Publisher};

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("headwater-registry-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("registry.redb")
    }

    fn open(&self) -> Registry {
        Registry::open(&self.file()).unwrap().registry
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn id(stream: &str) -> BroadcastId {
    BroadcastId::new("live", stream).unwrap()
}

fn publisher() -> Publisher {
    Publisher { protocol: "RTMP", remote: "192.0.2.7:5000".into(), agent: "OBS".into() }
}

fn progress(stream: &str, epoch: u64, next_gop: u64, discontinuity: u64) -> Progress {
    Progress { id: id(stream), epoch, next_gop, discontinuity }
}

fn recording(file: &str, vod_id: VodId) -> RecordingRow {
    RecordingRow {
        vod_id,
        app: "live".into(),
        stream: file.split(['.', '_']).next().unwrap_or_default().into(),
        file: file.into(),
        ..RecordingRow::default()
    }
}

#[test]
fn a_claim_counts_on_and_a_late_word_of_an_old_one_is_ignored() {
    let scratch = Scratch::new("claim");
    let registry = scratch.open();
    let first = registry.claim(&id("a"), &publisher(), 1_000).unwrap();
    assert_eq!(first, Claimed { epoch: 1, next_gop: 0, discontinuity: 0 });
    registry.progress(&[progress("a", 1, 10, 2)], 2_000).unwrap();
    assert!(registry.finish(&progress("a", 1, 12, 2), Ending::Finished, 3_000).unwrap());
    let row = registry.get(&id("a")).unwrap().unwrap();
    assert_eq!((row.status, row.next_gop, row.discontinuity), (BroadcastStatus::Finished, 12, 2));
    assert_eq!((row.started_ms, row.ended_ms), (Some(1_000), Some(3_000)));
    assert_eq!((row.publish_type.as_str(), row.remote.as_str()), ("RTMP", "192.0.2.7:5000"));

    let second = registry.claim(&id("a"), &publisher(), 4_000).unwrap();
    assert_eq!(second, Claimed { epoch: 2, next_gop: 12, discontinuity: 3 }, "exact after an orderly end");
    registry.progress(&[progress("a", 1, 900, 90)], 5_000).unwrap();
    assert!(!registry.finish(&progress("a", 1, 900, 90), Ending::Finished, 5_000).unwrap());
    let row = registry.get(&id("a")).unwrap().unwrap();
    assert_eq!((row.status, row.updated_ms, row.ended_ms), (BroadcastStatus::Broadcasting, 4_000, None));
    assert!(row.next_gop < 900);
    registry.progress(&[progress("nobody", 1, 1, 1)], 5_000).unwrap();
    assert_eq!(registry.get(&id("nobody")).unwrap(), None);
}

#[test]
fn numbers_never_go_back_after_a_dead_process() {
    let scratch = Scratch::new("orphans");
    let registry = scratch.open();
    registry.claim(&id("a"), &publisher(), 1_000).unwrap();
    registry.claim(&id("b"), &publisher(), 1_000).unwrap();
    registry.claim(&id("c"), &publisher(), 1_000).unwrap();
    registry.progress(&[progress("a", 1, 40, 3), progress("c", 1, 7, 0)], 9_000).unwrap();
    registry.finish(&progress("c", 1, 7, 0), Ending::Finished, 9_500).unwrap();
    // Everything a method returned for is on the disk; nothing is left to do for a process that dies here.
    drop(registry);
    let Opened { registry, orphans } = Registry::open(&scratch.file()).unwrap();
    assert_eq!(orphans.iter().map(|row| row.stream.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let row = registry.get(&id("a")).unwrap().unwrap();
    assert_eq!((row.status, row.ended_ms), (BroadcastStatus::TerminatedUnexpectedly, Some(9_000)));
    let again = registry.claim(&id("a"), &publisher(), 20_000).unwrap();
    assert_eq!(again.epoch, 2);
    assert!(again.next_gop >= 40 + 60 && again.discontinuity > 3, "{again:?}: a minute may have passed unreported");
    let never_reported = registry.claim(&id("b"), &publisher(), 20_000).unwrap();
    assert!(never_reported.next_gop >= 60, "{never_reported:?}");
    assert_eq!(registry.claim(&id("c"), &publisher(), 20_000).unwrap().next_gop, 7);
}

#[test]
fn broadcasts_are_created_listed_and_removed() {
    let scratch = Scratch::new("list");
    let registry = scratch.open();
    for n in 0..25 {
        registry
            .create(&id(&format!("s{n:02}")), Details { name: format!("No. {n}"), ..Details::default() }, n)
            .unwrap();
    }
    // Neighbours in the key space are other applications.
    for app in ["liv", "live2", "live-", "live.", "live0", "live_"] {
        registry.create(&BroadcastId::new(app, "other").unwrap(), Details::default(), 0).unwrap();
    }
    assert!(matches!(
        registry.create(&id("s00"), Details::default(), 1),
        Err(RegistryError::BroadcastExists { id: taken }) if taken == id("s00")
    ));
    assert_eq!(registry.count("live").unwrap(), 25);
    let names = |offset, size| -> Vec<String> {
        registry.list("live", offset, size).unwrap().into_iter().map(|row| row.stream).collect()
    };
    assert_eq!(names(0, 3), ["s00", "s01", "s02"]);
    assert_eq!(names(23, 50), ["s23", "s24"]);
    assert_eq!(names(25, 50), Vec::<String>::new());

    assert!(registry.set_record(&id("s01"), Some(true)).unwrap());
    assert!(!registry.set_record(&id("nobody"), Some(true)).unwrap());
    assert!(registry.set_details(&id("s01"), Details { name: "new".into(), ..Details::default() }).unwrap());
    let claimed = registry.claim(&id("s01"), &publisher(), 5).unwrap();
    let row = registry.get(&id("s01")).unwrap().unwrap();
    assert_eq!((row.record_override, row.details.name.as_str()), (Some(true), "new"), "survives a claim");

    assert!(registry.remove(&id("s01")).unwrap());
    assert!(!registry.remove(&id("s01")).unwrap());
    assert_eq!(registry.count("live").unwrap(), 24);
    let again = registry.claim(&id("s01"), &publisher(), 6).unwrap();
    assert!(again.epoch > claimed.epoch, "its last publisher may still be in the hub");
    assert_eq!(registry.get(&id("s01")).unwrap().unwrap().record_override, None);
}

#[test]
fn recordings_are_listed_newest_first_and_own_their_file() {
    let scratch = Scratch::new("recordings");
    let registry = scratch.open();
    for n in 0..10 {
        let stream = if n % 2 == 0 { "even" } else { "odd" };
        registry.put_recording(&recording(&format!("{stream}_{n}.mp4"), VodId::new(1_000 + n, 7))).unwrap();
    }
    let all = RecordingFilter::default();
    let files = |filter, offset, size| -> Vec<String> {
        registry.list_recordings("live", filter, offset, size).unwrap().into_iter().map(|row| row.file).collect()
    };
    assert_eq!(files(all, 0, 2), ["odd_9.mp4", "even_8.mp4"]);
    assert_eq!(files(RecordingFilter { stream: Some("even"), search: None }, 3, 9), ["even_2.mp4", "even_0.mp4"]);
    assert_eq!(files(RecordingFilter { stream: None, search: Some("_7") }, 0, 9), ["odd_7.mp4"]);
    assert_eq!(registry.count_recordings("live", all).unwrap(), 10);
    assert_eq!(registry.count_recordings("other", all).unwrap(), 0);

    let thief = recording("odd_9.mp4", VodId::new(9_999, 8));
    assert!(
        matches!(registry.put_recording(&thief), Err(RegistryError::FileTaken { file, .. }) if file == "odd_9.mp4")
    );
    assert_eq!(registry.recording("live", &thief.vod_id).unwrap(), None, "a refused write leaves nothing behind");

    let mut row = registry.recording_of_file("live", "even_4.mp4").unwrap().unwrap();
    row.state = RecordingState::Failed { reason: "the disk is full".into() };
    row.bytes = 77;
    registry.put_recording(&row).unwrap();
    assert_eq!(registry.recording("live", &row.vod_id).unwrap(), Some(row.clone()));
    assert_eq!(registry.unfinished_recordings().unwrap().len(), 9);

    assert_eq!(registry.remove_recording("live", &row.vod_id).unwrap(), Some(row.clone()));
    assert_eq!(registry.remove_recording("live", &row.vod_id).unwrap(), None);
    assert_eq!(registry.recording_of_file("live", "even_4.mp4").unwrap(), None);
    registry.put_recording(&recording("even_4.mp4", VodId::new(9_999, 8))).unwrap();
}

#[test]
fn rows_of_older_and_newer_programs_are_read() {
    let old: BroadcastRow = serde_json::from_str(r#"{"app":"live","stream":"a","epoch":3}"#).unwrap();
    assert_eq!((old.epoch, old.status, old.record_override), (3, BroadcastStatus::Created, None));
    let new: RecordingRow =
        serde_json::from_str(r#"{"vod_id":"x","state":{"is":"failed","reason":"r","since":1},"colour":"red"}"#)
            .unwrap();
    assert_eq!(new.state, RecordingState::Failed { reason: "r".into() });
}

#[test]
fn a_file_that_is_no_registry_is_named_and_left_alone() {
    let scratch = Scratch::new("foreign");
    let foreign = vec![b'x'; 100_000];
    let mut torn = {
        scratch.open().claim(&id("a"), &publisher(), 1).unwrap();
        std::fs::read(scratch.file()).unwrap()
    };
    torn.truncate(5_000);
    for content in [foreign, b"short".to_vec(), torn] {
        std::fs::write(scratch.file(), &content).unwrap();
        let Err(error) = Registry::open(&scratch.file()) else { panic!("opened {} bytes of nonsense", content.len()) };
        assert!(error.to_string().contains("registry.redb"), "{error}");
        assert_eq!(std::fs::read(scratch.file()).unwrap().len(), content.len());
    }
    let Err(error) = Registry::open(&scratch.0.join("missing/registry.redb")) else { panic!("opened nothing") };
    assert!(error.to_string().contains("missing/registry.redb"), "{error}");
}

#[test]
fn only_one_process_at_a_time_and_none_that_is_too_old() {
    let scratch = Scratch::new("held");
    let registry = scratch.open();
    assert!(matches!(Registry::open(&scratch.file()), Err(RegistryError::Held { .. })));
    drop(registry);
    {
        let database = redb::Database::create(scratch.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap().insert("version", 9).unwrap();
        transaction.commit().unwrap();
    }
    let Err(error) = Registry::open(&scratch.file()) else { panic!("opened a newer file") };
    assert!(error.to_string().contains("is of version 9"), "{error}");
}

/// Not a test by itself: the victim of the one below, run in a process of its own.
#[test]
#[ignore = "started by what_a_method_returned_for_survives_kill_9"]
fn victim() {
    let Ok(path) = std::env::var("HEADWATER_REGISTRY_VICTIM") else { return };
    let registry = Registry::open(std::path::Path::new(&path)).unwrap().registry;
    let epoch = registry.claim(&id("a"), &publisher(), 1).unwrap().epoch;
    for n in 1.. {
        registry.progress(&[progress("a", epoch, n, 0)], n as i64).unwrap();
        println!("committed {n}");
    }
}

#[test]
fn what_a_method_returned_for_survives_kill_9() {
    use std::io::{BufRead, BufReader};
    let scratch = Scratch::new("kill");
    for round in 1..=5_u64 {
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "registry::tests::victim", "--ignored", "--nocapture"])
            .env("HEADWATER_REGISTRY_VICTIM", scratch.file())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
        let committed = |line: String| line.strip_prefix("committed ").and_then(|n| n.parse::<u64>().ok());
        let mut newest = said.by_ref().filter_map(committed).find(|n| *n >= 20 * round).unwrap();
        victim.kill().unwrap();
        newest = said.filter_map(committed).last().unwrap_or(newest);
        victim.wait().unwrap();
        let Opened { registry, orphans } = Registry::open(&scratch.file()).unwrap();
        assert_eq!(orphans.len(), 1);
        let row = registry.get(&id("a")).unwrap().unwrap();
        assert!(row.updated_ms >= newest as i64 && row.next_gop > newest, "{row:?} after {newest}");
        assert_eq!((row.epoch, row.status), (round, BroadcastStatus::TerminatedUnexpectedly));
    }
}

#[test]
fn a_disk_that_was_full_for_a_moment_does_not_end_the_service() {
    let scratch = Scratch::new("full");
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(&scratch.0).status();
        status.is_ok_and(|status| status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=6m", "headwater-test"]) {
        eprintln!("no file system can be mounted here, the test is left out");
        return;
    }
    let registry = scratch.open();
    registry.create(&id("first"), Details::default(), 1).unwrap();
    let ballast = scratch.0.join("ballast");
    let _ = std::fs::write(&ballast, vec![0; 8 << 20]);
    let large = || Details { metadata: "x".repeat(100_000), ..Details::default() };
    let refused = (0..100).find(|n| registry.create(&id(&format!("s{n}")), large(), 1).is_err());
    assert!(refused.is_some(), "the disk is full");
    std::fs::remove_file(&ballast).unwrap();
    registry.create(&id("after"), large(), 2).unwrap();
    assert!(registry.get(&id("first")).unwrap().is_some() && registry.get(&id("after")).unwrap().is_some());
    assert_eq!(registry.count("live").unwrap(), refused.unwrap() + 2, "what was granted is there");
    drop(registry);
    assert!(mount(&["umount"]));
}
