//! Recordings end in the bucket, whole and once, whatever happens to the bucket, to the way there, and to the server.

mod bad;
mod crash;
mod hls;
mod load;
mod options;
mod reconcile;

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{
    Player, Server, faulty::Faulty, ffmpeg::decodes, flv, light, paired, rtmp::Wire, s, s3::Bucket, site::send, until,
};

const RECORDING: &str = "[apps.live]\nrecord = true\n";

/// A server that records everything into a bucket, by way of `endpoint`.
fn settings(bucket: &Bucket, endpoint: &str) -> String {
    format!("{RECORDING}{}", bucket.settings(endpoint))
}

/// Sends so many milliseconds of a clip in real time and ends properly.
fn publish(server: &Server, id: &str, tags: &[flv::Tag], ms: u32) {
    let mut wire = Wire::connect(server);
    wire.publish("live", id).expect("published");
    let tags: Vec<_> = tags.iter().filter(|tag| tag.time_ms < ms).cloned().collect();
    wire.play_out(tags).end().expect("sent").goodbye();
}

fn vod(server: &Server, id: &str) -> Option<Value> {
    server.recorded().into_iter().find(|vod| vod["streamId"] == id)
}

fn until_upload(server: &Server, id: &str, state: &str, limit_s: u64) -> Value {
    until(&format!("{id} to be {state}"), s(limit_s), || vod(server, id).filter(|vod| vod["uploadState"] == state))
}

/// What lies in the data directory for the application.
fn on_disk(server: &Server) -> Vec<String> {
    let Ok(folder) = std::fs::read_dir(server.recordings().join("live/streams")) else { return Vec::new() };
    let mut names: Vec<_> = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn decodes_from(bucket: &Bucket, key: &str, server: &Server) -> PathBuf {
    let file = server.dir.join(key.replace('/', "_"));
    bucket.download(key, &file);
    decodes(&file);
    file
}

#[test]
fn a_recording_arrives_and_is_played_from_the_bucket() {
    light(s(240), || {
        let bucket = Bucket::new();
        let server = Server::with(&settings(&bucket, &bucket.url()));
        let works = send(server.request("POST", "/live/rest/v2/vods/test-storage"));
        assert_eq!(works.status(), 200);
        assert_eq!(works.json::<Value>().unwrap()["success"], true);
        assert_eq!(bucket.keys(), [""; 0], "the probe leaves nothing");

        publish(&server, "small", flv::clip(), 3000);
        publish(&server, "large", flv::bulky(), 8000);
        let small = until_upload(&server, "small", "done", 60);
        let large = until_upload(&server, "large", "done", 60);
        assert!(large["fileSize"].as_u64().unwrap() > 16 << 20, "three parts: {large:#}");
        for vod in [&small, &large] {
            assert_eq!(vod["processStatus"], "ready");
            assert_eq!(vod["uploadError"], "");
            assert_eq!(vod["uploadBytes"], vod["fileSize"]);
        }
        let sizes: Vec<_> = [&large, &small].map(|vod| vod["fileSize"].as_u64().unwrap()).into();
        assert_eq!(
            bucket.objects(),
            [("live/streams/large.mp4".to_owned(), sizes[0]), ("live/streams/small.mp4".to_owned(), sizes[1])]
        );
        assert_eq!(bucket.open_uploads(), [""; 0]);
        until("the local copies to go", s(5), || on_disk(&server).is_empty().then_some(()));
        decodes_from(&bucket, "live/streams/large.mp4", &server);

        // By a signed address of the bucket.
        let away = send(server.request("GET", "/live/streams/small.mp4").header("range", "bytes=100-199"));
        assert_eq!((away.status().as_u16(), away.url().port()), (206, Some(bucket.server.port())), "followed");
        assert_eq!(away.bytes().unwrap().len(), 100);
        let head = send(server.request("HEAD", "/live/streams/small.mp4"));
        assert_eq!(head.headers()["content-length"], sizes[1].to_string().as_str());
        assert_eq!(server.get("/live/streams/nobody.mp4").status(), 404);

        // The next recording of the name is another file, though the first one is not on the disk.
        publish(&server, "small", flv::clip(), 2000);
        until("the second recording", s(30), || {
            bucket.keys().contains(&"live/streams/small_1.mp4".to_owned()).then_some(())
        });
        let id = large["vodId"].as_str().unwrap();
        assert_eq!(send(server.request("DELETE", &format!("/live/rest/v2/vods/{id}"))).status(), 200);
        until("the object to go", s(10), || {
            (bucket.keys() == ["live/streams/small.mp4", "live/streams/small_1.mp4"]).then_some(())
        });
        assert_eq!(server.get(&format!("/live/rest/v2/vods/{id}")).status(), 404);
        assert_eq!(server.get("/live/streams/large.mp4").status(), 404);
    });
}

#[test]
fn recordings_may_stay_on_the_disk_and_play_through_the_node() {
    light(s(240), || {
        let bucket = Bucket::new();
        let more = "play = \"node\"\nprefix = \"tv/\"\n";
        let mut server = Server::with(&format!("{}{more}keep_local = true\n", settings(&bucket, &bucket.url())));
        publish(&server, "kept", flv::clip(), 3000);
        let vod = until_upload(&server, "kept", "done", 30);
        assert_eq!(vod["objectKey"], "tv/streams/kept.mp4");
        assert_eq!(
            (bucket.keys(), on_disk(&server)),
            (vec!["tv/streams/kept.mp4".to_owned()], vec!["kept.mp4".to_owned()])
        );
        let whole = server.get("/live/streams/kept.mp4").bytes().unwrap();
        std::fs::remove_file(server.recordings().join("live/streams/kept.mp4")).unwrap();

        let ask = |headers: &[(&str, &str)]| {
            let mut request = server.request("GET", "/live/streams/kept.mp4");
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            send(request)
        };
        let again = ask(&[]);
        assert_eq!(again.url().port(), Some(server.http.port()), "not redirected");
        assert_eq!(again.headers()["content-type"], "video/mp4");
        let etag = again.headers()["etag"].to_str().unwrap().to_owned();
        assert_eq!(again.bytes().unwrap(), whole);
        let size = whole.len();
        for (range, wanted) in [("bytes=100-199", 100..200), ("bytes=-50", size - 50..size)] {
            let part = ask(&[("range", range)]);
            assert_eq!(part.status(), 206);
            let told = format!("bytes {}-{}/{size}", wanted.start, wanted.end - 1);
            assert_eq!(part.headers()["content-range"], told.as_str());
            assert_eq!(part.bytes().unwrap(), whole.slice(wanted));
        }
        let beyond = ask(&[("range", &format!("bytes={size}-"))]);
        assert_eq!(beyond.status(), 416);
        assert_eq!(beyond.headers()["content-range"], format!("bytes */{size}").as_str());
        assert_eq!(ask(&[("if-none-match", &etag)]).status(), 304);
        assert_eq!(ask(&[("range", "bytes=0-1"), ("if-range", &etag)]).status(), 206);
        assert_eq!(ask(&[("range", "bytes=0-1"), ("if-range", "\"other\"")]).status(), 200);

        // A process that died just after the bucket's answer: nothing is sent twice, and the row is made true.
        server.kill();
        server.start_again();
        assert_eq!(until_upload(&server, "kept", "done", 10)["processStatus"], "ready");
    });
}

#[test]
fn a_recording_in_the_bucket_plays_in_the_page() {
    paired(s(240), || {
        let bucket = Bucket::new();
        let server = Server::with(&settings(&bucket, &bucket.url()));
        publish(&server, "replay", flv::clip(), 6000);
        let vod = until_upload(&server, "replay", "done", 60);
        until("the local copy to go", s(5), || on_disk(&server).is_empty().then_some(()));
        let mut viewer = Player::page(&server, "live", vod["filePath"].as_str().unwrap(), "&playOrder=vod");
        let seen = viewer.until("the recording to play", s(30), |report| report.number("media_time") > 2.0);
        assert_eq!(seen.text("page.state"), "playing");
    });
}

#[test]
fn an_object_of_somebody_else_is_left_alone() {
    light(s(240), || {
        let bucket = Bucket::new();
        bucket.put("live/streams/cam.mp4", "theirs");
        let server = Server::with(&settings(&bucket, &bucket.url()));
        publish(&server, "cam", flv::clip(), 2000);
        let vod = until_upload(&server, "cam", "done", 30);
        let key = format!("live/streams/cam_{}.mp4", vod["vodId"].as_str().unwrap());
        assert_eq!(vod["objectKey"], key.as_str());
        assert_eq!(bucket.objects()[0], ("live/streams/cam.mp4".to_owned(), 6));
        decodes_from(&bucket, &key, &server);
        let address = format!("/live/{}", vod["filePath"].as_str().unwrap());
        assert_eq!(server.get(&address).bytes().unwrap().len() as u64, vod["fileSize"].as_u64().unwrap());
    });
}
