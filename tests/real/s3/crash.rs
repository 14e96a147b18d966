//! `kill -9` at any moment, many times: nothing is lost but the newest gop, nothing arrives twice.

use std::{thread, time::Duration};

use super::*;

const ROUNDS: u32 = 14;
/// The clip has a keyframe each second.
const GOP_MS: u32 = 1000;
const SENT_MS: u32 = 5000;

#[test]
fn killed_at_any_moment_every_recording_arrives_once() {
    light(s(580), || {
        let bucket = Bucket::new();
        let seed = u64::from(std::process::id());
        println!("seed {seed}");
        let way = Faulty::to(bucket.server, seed);
        let mut random = seed * 2 + 1;
        let mut below = |limit: u32| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % u64::from(limit)) as u32
        };
        let mut server = Server::with(&settings(&bucket, &way.url()));
        let mut sent = Vec::new();
        for round in 0..ROUNDS {
            way.fail(u64::from(below(3)) * 10);
            let id = format!("round{round}");
            let (tags, ms) = (flv::bulky(), 2000 + below(SENT_MS - 2000));
            let mut wire = Wire::connect(&server);
            wire.publish("live", &id).expect("published");
            let tags: Vec<_> = tags.iter().filter(|tag| tag.time_ms < ms).cloned().collect();
            let wire = wire.play_out(tags).end().expect("sent");
            // Within the recording, or its end, or its upload, or that of an earlier one.
            let ended = below(3) > 0;
            let wait_ms = if ended { 400 + below(1000) } else { 0 };
            let wire = if ended {
                wire.goodbye();
                None
            } else {
                Some(wire)
            };
            thread::sleep(Duration::from_millis(wait_ms.into()));
            let state = vod(&server, &id).map(|vod| format!("{} {}", vod["processStatus"], vod["uploadState"]));
            println!(
                "round {round}: {ms} ms sent, {}, killed {wait_ms} ms later: {state:?}",
                if ended { "ended" } else { "live" }
            );
            server.kill();
            drop(wire);
            server.start_again();
            sent.push((id, ms, ended));
        }
        way.fail(0);
        // Its probe is not left behind either.
        assert_eq!(send(server.request("POST", "/live/rest/v2/vods/test-storage")).status(), 200);
        for (id, _, _) in &sent {
            let vod = until_upload(&server, id, "done", 120);
            assert_eq!(vod["processStatus"], "ready", "{vod:#}");
        }
        let mut wanted: Vec<_> = sent.iter().map(|(id, _, _)| format!("live/streams/{id}.mp4")).collect();
        wanted.sort();
        assert_eq!(bucket.keys(), wanted, "each once, nothing else");
        assert_eq!(bucket.open_uploads(), [""; 0]);
        assert_eq!(on_disk(&server), [""; 0]);
        for (id, ms, _) in sent {
            let vod = vod(&server, &id).expect("listed");
            decodes_from(&bucket, &format!("live/streams/{id}.mp4"), &server);
            let kept_ms = vod["duration"].as_u64().unwrap() as u32;
            assert!(kept_ms + GOP_MS + 200 > ms && kept_ms <= ms + 200, "{id}: {kept_ms} of {ms} ms");
        }
    });
}
