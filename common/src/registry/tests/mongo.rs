//! What is the database's own: its documents, its failures, and the nodes in it. Real servers, started by the first
//! test that needs them and shared by all that do them no harm.

use std::sync::OnceLock;

use mongod::Mongod;

use super::*;

#[path = "../../../../tests/real/harness/mongod.rs"]
mod mongod;

/// Each costs every test a database with its indexes. Others are kept as well, only less quickly found.
const APPS: [&str; 2] = ["live", "other"];

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("headwater-mongod-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

async fn open(server: &Mongod, test: &str) -> Mongo {
    use std::hash::{DefaultHasher, Hash, Hasher};
    // Long names would be cut.
    let mut name = DefaultHasher::new();
    test.hash(&mut name);
    let registry = Mongo::new(&server.uri(&format!("t{:x}", name.finish())), APPS.map(str::to_owned)).await.unwrap();
    registry.prepare().await.unwrap();
    registry
}

pub(super) async fn on_a_standalone(test: &str) -> Mongo {
    static SERVER: OnceLock<Mongod> = OnceLock::new();
    open(SERVER.get_or_init(|| Mongod::standalone(scratch("standalone"))), test).await
}

pub(super) async fn on_a_replica_set(test: &str) -> Mongo {
    static SERVER: OnceLock<Mongod> = OnceLock::new();
    open(SERVER.get_or_init(|| Mongod::replica_set(scratch("set"), 1)), test).await
}

fn about(node: &str, incarnation: u64) -> NodeRow {
    NodeRow {
        life: Life { node: node.into(), incarnation },
        ip: "192.0.2.1".into(),
        role: "origin".into(),
        phase: "ready".into(),
        version: "1".into(),
        grpc: "192.0.2.1:5000".into(),
        http: "http://192.0.2.1:5080".into(),
        changes: 3,
        ..NodeRow::default()
    }
}

#[tokio::test]
async fn a_node_beats_for_itself_others_vouch_and_a_new_life_replaces_the_old_one() {
    let registry = on_a_replica_set("nodes").await;
    registry.join(&about("n1", 5)).await.unwrap();
    registry.beat(&about("n1", 5)).await.unwrap();
    registry.beat(&NodeRow { phase: "draining".into(), ..about("n1", 5) }).await.unwrap();
    registry.vouch(&about("n1", 5).life).await.unwrap();
    registry.vouch(&about("n1", 4).life).await.unwrap();
    registry.join(&about("n2", 1)).await.unwrap();
    let mut nodes = registry.nodes().await.unwrap();
    nodes.sort_by(|a, b| a.life.cmp(&b.life));
    let n1 =
        NodeRow { phase: "draining".into(), beat: 3, vouched: 1, updated_ms: nodes[0].updated_ms, ..about("n1", 5) };
    assert_eq!(nodes[0], n1, "an earlier life is not vouched for");
    assert_eq!(nodes.len(), 2);
    let skew_ms = nodes[0].updated_ms - crate::clock::now_us() / 1_000;
    assert!(skew_ms.abs() < 10_000, "the server's clock, on this machine: {skew_ms} ms");

    registry.join(&about("n1", 6)).await.unwrap();
    let displaced = registry.beat(&about("n1", 5)).await;
    assert!(matches!(&displaced, Err(RegistryError::Displaced { node }) if node == "n1"), "{displaced:?}");
    assert!(registry.remove_node("n1").await.unwrap());
    assert!(!registry.remove_node("n1").await.unwrap());
    registry.beat(&about("n1", 6)).await.unwrap();
    assert_eq!(registry.nodes().await.unwrap().len(), 2, "one that lives is back with its next beat");
}

#[tokio::test]
async fn what_is_live_and_what_ended_lately_is_seen_and_a_dead_owner_ends_once() {
    let registry = on_a_replica_set("recent").await;
    for (n, stream) in ["a", "b", "c", "d"].into_iter().enumerate() {
        registry.claim(&id(stream), &bid("n1", n as i64 * S + S)).await.unwrap();
    }
    let other = BroadcastId::new("other", "x").unwrap();
    registry.claim(&other, &bid("n2", S)).await.unwrap();
    for (stream, ended_us) in [("b", 50 * S), ("c", 500 * S)] {
        assert!(registry.finish(&progress(stream, epoch(1), 5, 0), Ending::Finished, ended_us).await.unwrap());
    }
    let mut recent: Vec<_> = registry.recent(400_000).await.unwrap().into_iter().map(|row| row.stream).collect();
    recent.sort();
    assert_eq!(recent, ["a", "c", "d", "x"]);

    let (a, dead, alive) = (id("a"), life("n1"), life("n2"));
    assert!(!registry.bury(&a, &alive, 600 * S).await.unwrap(), "not the owner");
    let registries = [registry.clone(), registry.clone(), registry.clone(), registry.clone()];
    let mut told = 0;
    let tries = registries.map(|registry| {
        let (a, dead) = (a.clone(), dead.clone());
        tokio::spawn(async move { registry.bury(&a, &dead, 600 * S).await.unwrap() })
    });
    for buried in tries {
        told += usize::from(buried.await.unwrap());
    }
    assert_eq!(told, 1);
    let row = registry.get(&a).await.unwrap().unwrap();
    assert_eq!((row.status, row.ended_ms), (BroadcastStatus::TerminatedUnexpectedly, Some(600_000)));
    let next = registry.claim(&a, &bid("n2", 610 * S)).await.unwrap();
    assert!(next.next_gop >= 60 && next.born_us == S, "{next:?}");
}

#[tokio::test]
async fn operators_find_what_they_know_by_its_names() {
    use mongodb::bson::{Document, doc};
    static SERVER: OnceLock<Mongod> = OnceLock::new();
    let server = SERVER.get_or_init(|| Mongod::standalone(scratch("names")));
    let registry =
        Mongo::new(&server.uri(""), ["live", "WebRTCAppEE", "admin", "a.b"].map(str::to_owned)).await.unwrap();
    registry.prepare().await.unwrap();
    registry.prepare().await.unwrap();
    registry.claim(&id("cam"), &bid("n1", 5 * S)).await.unwrap();
    registry.join(&about("n1", 5)).await.unwrap();
    for app in ["WebRTCAppEE", "admin", "a.b"] {
        registry.claim(&BroadcastId::new(app, "cam").unwrap(), &bid("n1", S)).await.unwrap();
    }
    let take = Take { height: Some(480), name: Some("encore".into()) };
    registry.set_take(&id("cam"), &take, Some(true), 5 * S).await.unwrap();
    let row = RecordingRow {
        app: "live".into(),
        stream: "cam".into(),
        file: "cam.mp4".into(),
        bytes: 7,
        ..RecordingRow::default()
    };
    registry.put_recording(&RecordingRow { vod_id: VodId::parse("v"), ..row }).await.unwrap();

    let client = mongodb::Client::with_uri_str(server.uri("")).await.unwrap();
    let find = async |database: &str, collection: &str, filter: Document| {
        client.database(database).collection::<Document>(collection).find_one(filter).await.unwrap()
    };
    let cam = find("live", "broadcast", doc! { "streamId": "cam", "status": "broadcasting" }).await.unwrap();
    assert_eq!(cam.get_str("publishType").unwrap(), "rtmp");
    assert_eq!(cam.get_i64("startTime").unwrap(), 5_000);
    let asked_for =
        doc! { "recordings.fileName": "encore", "recordings.resolutionHeight": 480, "recordings.recording": true };
    assert!(find("live", "broadcast", asked_for).await.is_some(), "{cam:?}");
    let node = find("clusterdb", "clusternode", doc! { "_id": "n1" }).await.unwrap();
    assert_eq!(node.get_str("ip").unwrap(), "192.0.2.1");
    assert!(node.get_datetime("lastUpdateTime").is_ok());
    let vod = find("live", "vod", doc! { "vodName": "cam.mp4", "streamId": "cam" }).await.unwrap();
    let (size, path) = (vod.get_i64("fileSize").unwrap(), vod.get_str("filePath").unwrap());
    assert_eq!((size, path), (7, "streams/cam.mp4"));
    for database in ["webrtcappee", "admin_app", "a_b"] {
        assert!(find(database, "broadcast", doc! { "streamId": "cam" }).await.is_some(), "{database}");
    }
    let expiries = client.database("clusterdb").collection::<Document>("clusternode");
    let mut indexes = expiries.list_indexes().await.unwrap();
    let mut expires = false;
    while indexes.advance().await.unwrap() {
        let options = indexes.deserialize_current().unwrap().options;
        expires |= options.and_then(|options| options.expire_after).is_some();
    }
    assert!(expires, "rows of nodes vanish by themselves");
    // A document of a program that knew of fewer fields.
    let broadcasts = client.database("live").collection::<Document>("broadcast");
    let older = doc! { "$unset": { "recordings": "", "recordingsUntil": "" } };
    broadcasts.update_one(doc! { "streamId": "cam" }, older).await.unwrap();
    assert_eq!(registry.get(&id("cam")).await.unwrap().unwrap().takes, Takes::default());
    // Somebody's own field stays.
    let own = doc! { "$set": { "category": "sports" } };
    broadcasts.update_one(doc! { "streamId": "cam" }, own).await.unwrap();
    registry.claim(&id("cam"), &bid("n1", 6 * S)).await.unwrap();
    assert!(find("live", "broadcast", doc! { "category": "sports", "startTime": 6_000_i64 }).await.is_some());
}

#[tokio::test]
async fn an_address_that_makes_no_sense_is_refused_without_its_password() {
    for uri in [
        "http://h",
        "mongodb://",
        "mongodb://u:se/cret@h",
        "mongodb://u:secret@h:notaport",
        "mongodb://u:secret@h/?w=nonsense&tls=5",
    ] {
        let Err(error) = Mongo::new(uri, []).await else { panic!("took {uri}") };
        let text = format!("{error} {error:?}");
        assert!(text.contains("registry.mongodb") && !text.contains("secret") && !text.contains("cret@"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_in_time_and_without_its_password() {
    let registry = Mongo::new("mongodb://operator:secret@127.0.0.1:9,127.0.0.2:9/?replicaSet=rs0", []).await.unwrap();
    let begun = std::time::Instant::now();
    let error = registry.claim(&id("a"), &bid("n1", S)).await.unwrap_err();
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
    let text = format!("{error} {error:?}");
    assert!(error.is_absence() && text.contains("127.0.0.1:9,127.0.0.2:9") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn who_does_not_know_the_password_is_told_so_and_shows_none() {
    let server = Mongod::guarded(scratch("guarded"), "operator", "right-one");
    let host = server.uri("").trim_start_matches("mongodb://").trim_end_matches('/').to_owned();
    for uri in [format!("mongodb://operator:wrong-one@{host}"), server.uri("")] {
        let registry = Mongo::new(&uri, []).await.unwrap();
        let error = registry.join(&about("n1", 1)).await.unwrap_err();
        assert!(matches!(error, RegistryError::Refused { .. }) && error.is_absence(), "{error:?}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(&host) && text.contains("registry.mongodb") && !text.contains("wrong-one"), "{text}");
    }
    let registry = Mongo::new(&format!("mongodb://operator:right-one@{host}"), []).await.unwrap();
    registry.join(&about("n1", 1)).await.unwrap();
}

#[tokio::test]
async fn who_shares_a_database_shares_its_name_and_its_time_is_taken() {
    let (one, other) = (on_a_standalone("same").await, on_a_standalone("same").await);
    assert!(one.id().is_some_and(|name| !name.is_empty()));
    assert_eq!(one.id(), other.id());
    assert_ne!(one.id(), on_a_standalone("another").await.id());
    let time = one.operation_time();
    assert!(time > Duration::ZERO && time < Duration::from_secs(1), "{time:?}");
}

#[tokio::test]
async fn a_frozen_server_holds_nobody_up_and_one_that_drops_an_answer_is_asked_again() {
    use mongodb::bson::doc;
    let server = Mongod::replica_set(scratch("faults"), 1);
    let registry = open(&server, "faults").await;
    registry.claim(&id("a"), &bid("n1", S)).await.unwrap();
    let fail = |commands: &[&str], data| {
        let mut data: mongodb::bson::Document = data;
        data.insert("failCommands", commands.to_vec());
        server.command(0, doc! { "configureFailPoint": "failCommand", "mode": { "times": 1 }, "data": data });
    };
    fail(&["update"], doc! { "closeConnection": true });
    assert_eq!(registry.claim(&id("a"), &bid("n1", 2 * S)).await.unwrap().epoch, epoch(2));
    fail(&["find"], doc! { "errorCode": 10107 });
    assert_eq!(registry.claim(&id("a"), &bid("n1", 3 * S)).await.unwrap().epoch, epoch(3));
    fail(&["update"], doc! { "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" } });
    let error = registry.claim(&id("a"), &bid("n1", 4 * S)).await.unwrap_err();
    assert!(error.is_absence() && error.to_string().contains("replication timed out"), "{error}");
    // It was written all the same, and is found by who asks again.
    let row = registry.get(&id("a")).await.unwrap().unwrap();
    assert_eq!((row.epoch, row.owner), (epoch(4), life("n1")));

    server.signal(0, "STOP");
    let begun = std::time::Instant::now();
    assert!(registry.claim(&id("a"), &bid("n1", 5 * S)).await.unwrap_err().is_absence());
    assert!(begun.elapsed() < std::time::Duration::from_secs(7), "{:?}", begun.elapsed());
    server.signal(0, "CONT");
    let begun = std::time::Instant::now();
    while registry.claim(&id("a"), &bid("n1", 6 * S)).await.is_err() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "it answers again");
    }
}

#[tokio::test]
async fn what_was_granted_survives_the_death_of_the_primary() {
    let mut servers = Mongod::replica_set(scratch("election"), 3);
    let registry = open(&servers, "election").await;
    let mut granted = 0;
    for round in 0..40 {
        if round == 10 {
            let primary = servers.primary();
            servers.kill(primary);
        }
        if let Ok(claimed) = registry.claim(&id("a"), &bid("n1", round * S)).await {
            assert!(claimed.epoch > granted, "epochs only grow: {:x} after {granted:x}", claimed.epoch);
            granted = claimed.epoch;
        }
        let row = registry.get(&id("a")).await;
        assert!(row.is_err() || row.unwrap().unwrap().epoch >= granted, "what was granted is lost");
    }
    assert!(granted >= epoch(30), "only {:x} claims were granted", granted >> 32);
}
