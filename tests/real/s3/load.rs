//! What uploads cost: memory that does not grow with them, and nothing of what is live.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::*;

const MIB: u64 = 1 << 20;

#[test]
fn a_large_upload_takes_little_memory_and_goes_on_where_it_was() {
    light(s(400), || {
        let bucket = Bucket::new();
        let way = Faulty::to(bucket.server, 1);
        let mut server = Server::with(&settings(&bucket, &way.url()));
        // What a process leaves behind that was killed while it sent this, with a registry that got lost.
        server.kill();
        let folder = server.recordings().join("live/streams");
        fs::create_dir_all(&folder).unwrap();
        let bytes = 400 * MIB;
        fs::File::create(folder.join("huge.mp4")).unwrap().set_len(bytes).unwrap();
        let journal = r#"{"vod_id":"0123456789ab00000001","key":"live/streams/huge.mp4"}"#;
        fs::write(folder.join("huge.mp4.upload"), journal).unwrap();
        server.start_again();
        let before = server.memory_bytes_max();
        let sending = until("half of it", s(200), || {
            vod(&server, "huge").filter(|vod| vod["uploadBytes"].as_u64() > Some(bytes / 2))
        });
        assert_eq!(sending["uploadState"], "uploading");
        let grown = server.memory_bytes_max().saturating_sub(before);
        println!("memory: {} MiB before, {} MiB more for {} MiB", before / MIB, grown / MIB, bytes / MIB);
        assert!(grown < 32 * MIB, "{grown} bytes more");
        let known: u64 = sending["uploadBytes"].as_u64().unwrap();
        server.kill();
        let passed = way.body_bytes();
        server.start_again();
        until_upload(&server, "huge", "done", 200);
        assert_eq!(send(server.request("POST", "/live/rest/v2/vods/test-storage")).status(), 200);
        let again = way.body_bytes() - passed;
        assert!(again <= bytes - known + 8 * MIB, "{again} bytes were sent after the restart, {known} were there");
        assert_eq!(bucket.objects(), [("live/streams/huge.mp4".to_owned(), bytes)]);
        assert_eq!(bucket.open_uploads(), [""; 0]);
    });
}

#[test]
fn a_bucket_that_stalls_is_not_felt_by_those_who_watch() {
    light(s(240), || {
        let bucket = Bucket::new();
        let way = Faulty::to(bucket.server, 1);
        let server = Server::with(&settings(&bucket, &way.url()));
        until("the probe at the start", s(10), || server.log().contains("bucket for recordings works").then_some(()));
        way.stall(true);
        for id in ["one", "two", "three"] {
            publish(&server, id, flv::bulky(), 2000);
        }
        until_upload(&server, "one", "uploading", 10);
        let mut wire = Wire::connect(&server);
        wire.publish("live", "live").expect("published");
        let playing = wire.play_out(flv::clip().iter().filter(|tag| tag.time_ms < 12_000).cloned().collect::<Vec<_>>());
        server.until_status("live", "broadcasting");
        let playlist = until("a playlist", s(10), || {
            let answer = server.get("/live/streams/live.m3u8");
            answer.status().is_success().then(|| answer.text().unwrap())
        });
        let media = playlist.lines().find(|line| line.contains(".m3u8") && !line.starts_with('#')).map(str::to_owned);
        let path = format!("/live/streams/{}", media.as_deref().unwrap_or("live.m3u8"));
        let begun = Instant::now();
        let (mut slowest, mut changes, mut last) = (Duration::ZERO, 0, String::new());
        while begun.elapsed() < s(8) {
            let asked = Instant::now();
            let text = server.get(&path).text().unwrap();
            slowest = slowest.max(asked.elapsed());
            changes += usize::from(text != last);
            last = text;
            std::thread::sleep(Duration::from_millis(50));
        }
        println!("slowest playlist {slowest:?}, {changes} versions in 8 s");
        assert!(slowest < Duration::from_millis(500), "{slowest:?}");
        assert!(changes >= 8, "{changes} versions of the playlist in 8 s");
        playing.end().expect("sent").goodbye();
        way.stall(false);
        for id in ["one", "two", "three", "live"] {
            until_upload(&server, id, "done", 120);
        }
    });
}
