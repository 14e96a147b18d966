//! What is the file's own: that it survives, whose it is, and what was done before it was opened.

use std::path::PathBuf;

use super::*;

pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("headwater-registry-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn file(&self) -> PathBuf {
        self.0.join("registry.redb")
    }

    pub(super) fn open(&self) -> Embedded {
        Embedded::open(&self.file()).unwrap().0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn numbers_never_go_back_after_a_dead_process() {
    let scratch = Scratch::new("orphans");
    let registry = scratch.open();
    for stream in ["a", "b", "c"] {
        registry.claim(&id(stream), &bid("n1", S)).await.unwrap();
    }
    let take = Take { height: Some(240), name: None };
    registry.set_take(&id("a"), &take, Some(true), S).await.unwrap();
    registry.progress(&[progress("a", epoch(1), 40, 3), progress("c", epoch(1), 7, 0)], 9 * S).await.unwrap();
    registry.finish(&progress("c", epoch(1), 7, 0), Ending::Finished, 9_500_000).await.unwrap();
    // Everything a method returned for is on the disk; nothing is left to do for a process that dies here.
    drop(registry);
    let (registry, orphans) = Embedded::open(&scratch.file()).unwrap();
    assert_eq!(orphans.iter().map(|row| row.stream.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let row = registry.get(&id("a")).await.unwrap().unwrap();
    assert_eq!((row.status, row.ended_ms), (BroadcastStatus::TerminatedUnexpectedly, Some(9_000)));
    let again = registry.claim(&id("a"), &bid("n1", 20 * S)).await.unwrap();
    assert_eq!((again.epoch, again.born_us), (epoch(2), S), "players that wait for it go on");
    assert!(again.next_gop >= 40 + 60 && again.discontinuity > 3, "{again:?}: a minute may have passed unreported");
    assert!(registry.get(&id("a")).await.unwrap().unwrap().takes.wanted(false, &[]).contains(&take));
    let never_reported = registry.claim(&id("b"), &bid("n1", 20 * S)).await.unwrap();
    assert!(never_reported.next_gop >= 60, "{never_reported:?}");
    assert_eq!(registry.claim(&id("c"), &bid("n1", 20 * S)).await.unwrap().next_gop, 7);
}

#[test]
fn rows_of_older_and_newer_programs_are_read() {
    let old: BroadcastRow = serde_json::from_str(r#"{"app":"live","stream":"a","epoch":3}"#).unwrap();
    assert_eq!((old.epoch, old.status, old.record_override), (3, BroadcastStatus::Created, None));
    assert_eq!(old.takes, Takes::default());
    let new: RecordingRow =
        serde_json::from_str(r#"{"vod_id":"x","state":{"is":"failed","reason":"r","since":1},"colour":"red"}"#)
            .unwrap();
    assert_eq!(new.state, RecordingState::Failed { reason: "r".into() });
}

#[tokio::test]
async fn a_file_that_is_no_registry_is_named_and_left_alone() {
    let scratch = Scratch::new("foreign");
    let foreign = vec![b'x'; 100_000];
    let mut torn = {
        scratch.open().claim(&id("a"), &bid("n1", S)).await.unwrap();
        std::fs::read(scratch.file()).unwrap()
    };
    torn.truncate(5_000);
    for content in [foreign, b"short".to_vec(), torn] {
        std::fs::write(scratch.file(), &content).unwrap();
        let Err(error) = Embedded::open(&scratch.file()) else { panic!("opened {} bytes of nonsense", content.len()) };
        assert!(error.to_string().contains("registry.redb"), "{error}");
        assert_eq!(std::fs::read(scratch.file()).unwrap().len(), content.len());
    }
    let Err(error) = Embedded::open(&scratch.0.join("missing/registry.redb")) else { panic!("opened nothing") };
    assert!(error.to_string().contains("missing/registry.redb"), "{error}");
}

#[test]
fn only_one_process_at_a_time_and_none_that_is_too_old() {
    let scratch = Scratch::new("held");
    let registry = scratch.open();
    assert!(matches!(Embedded::open(&scratch.file()), Err(RegistryError::Held { .. })));
    drop(registry);
    {
        let database = redb::Database::create(scratch.file()).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(redb::TableDefinition::<&str, u64>::new("meta")).unwrap().insert("version", 9).unwrap();
        transaction.commit().unwrap();
    }
    let Err(error) = Embedded::open(&scratch.file()) else { panic!("opened a newer file") };
    assert!(error.to_string().contains("is of version 9"), "{error}");
}

/// Not a test by itself: the victim of the one below, run in a process of its own.
#[tokio::test]
#[ignore = "started by what_a_method_returned_for_survives_kill_9"]
async fn victim() {
    let Ok(path) = std::env::var("HEADWATER_REGISTRY_VICTIM") else { return };
    let registry = Embedded::open(std::path::Path::new(&path)).unwrap().0;
    let epoch = registry.claim(&id("a"), &bid("n1", S)).await.unwrap().epoch;
    for n in 1.. {
        registry.progress(&[progress("a", epoch, n, 0)], n as i64 * 1_000).await.unwrap();
        println!("committed {n}");
    }
}

#[tokio::test]
async fn what_a_method_returned_for_survives_kill_9() {
    use std::io::{BufRead, BufReader};
    let scratch = Scratch::new("kill");
    for round in 1..=5_u64 {
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "registry::tests::embedded::victim", "--ignored", "--nocapture"])
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
        let (registry, orphans) = Embedded::open(&scratch.file()).unwrap();
        assert_eq!(orphans.len(), 1);
        let row = registry.get(&id("a")).await.unwrap().unwrap();
        assert!(row.updated_ms >= newest as i64 && row.next_gop > newest, "{row:?} after {newest}");
        assert_eq!((row.epoch, row.status), (epoch(round), BroadcastStatus::TerminatedUnexpectedly));
    }
}

#[tokio::test]
async fn a_disk_that_was_full_for_a_moment_does_not_end_the_service() {
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
    registry.create(&id("first"), Details::default(), 1).await.unwrap();
    let ballast = scratch.0.join("ballast");
    let _ = std::fs::write(&ballast, vec![0; 8 << 20]);
    let large = || Details { metadata: "x".repeat(100_000), ..Details::default() };
    let mut granted = 0;
    while granted < 100 && registry.create(&id(&format!("s{granted}")), large(), 1).await.is_ok() {
        granted += 1;
    }
    assert!(granted < 100, "the disk is full");
    std::fs::remove_file(&ballast).unwrap();
    registry.create(&id("after"), large(), 2).await.unwrap();
    assert!(registry.get(&id("first")).await.unwrap().is_some() && registry.get(&id("after")).await.unwrap().is_some());
    assert_eq!(registry.count("live").await.unwrap(), granted + 2, "what was granted is there");
    drop(registry);
    assert!(mount(&["umount"]));
}
