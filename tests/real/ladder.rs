//! A ladder: renditions made by the server while somebody watches them, by HLS and WebRTC, through links that become
//! narrow and wide again.

use std::{collections::BTreeSet, process::Command, time::Instant};

use serde_json::{Value, json};

use crate::harness::{Clock, Link, Pipe, Player, Server, heavy, light, playlist, s, site::send, until};

/// Of the clock's 640×360 at 1.2 Mbit/s.
const LADDER: &str = "[apps.live]\nladder = [{ height = 240, video_kbps = 500, audio_kbps = 64 }, \
                      { height = 144, video_kbps = 150 }, { height = 720, video_kbps = 2000 }]\n";
/// Carries the smallest rendition with the sound, not the next.
const NARROW: u64 = 400_000;
const WIDE: u64 = 20_000_000;

fn until_offered(server: &Server, id: &str) -> String {
    until("a list of qualities", s(20), || {
        let response = server.get(&format!("/live/streams/{id}_adaptive.m3u8"));
        response.status().is_success().then(|| response.text().expect("a playlist is text"))
    })
}

/// What ffprobe says about a file's pictures: size, and the times of its keyframes and of all.
fn probe(file: &std::path::Path) -> ((u64, u64), Vec<String>, BTreeSet<String>) {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-select_streams", "v", "-show_streams", "-show_packets"])
        .arg(file)
        .output()
        .expect("ffprobe runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout).expect("ffprobe writes JSON");
    let stream = &said["streams"][0];
    let packets = said["packets"].as_array().expect("packets");
    let is_key = |packet: &&Value| packet["flags"].as_str().is_some_and(|flags| flags.starts_with('K'));
    let time = |packet: &Value| packet["pts_time"].as_str().unwrap_or_default().to_owned();
    let size = |name: &str| stream[name].as_u64().unwrap_or_default();
    (
        (size("width"), size("height")),
        packets.iter().filter(is_key).map(time).collect(),
        packets.iter().map(time).collect(),
    )
}

#[test]
fn renditions_have_their_sizes_and_the_keyframes_of_the_source() {
    heavy(s(120), || {
        let server = Server::with(LADDER);
        let _ffmpeg = Clock { b_frames: 2, gop_frames: 60, ..Clock::default() }.publish(&server.rtmp_url("live/sizes"));
        let list = until_offered(&server, "sizes");
        for (file, kind) in [("sizes.png", "image/png"), ("sizes.jpg", "image/jpeg"), ("sizes.webp", "image/webp")] {
            let preview = server.get(&format!("/live/previews/{file}"));
            assert_eq!((preview.status().as_u16(), preview.headers()["content-type"].to_str().unwrap()), (200, kind));
            let path = server.dir.join(file);
            std::fs::write(&path, preview.bytes().expect("a picture")).expect("write the picture");
            assert_eq!(probe(&path).0, (640, 360), "{file}");
        }
        assert_eq!(server.get("/live/previews/nobody.png").status(), 404);
        assert_eq!(server.get("/live/streams/sizes.m3u8").text().unwrap().lines().count(), list.lines().count());
        assert!(list.contains("RESOLUTION=640x360") && list.contains("RESOLUTION=426x240"), "{list}");
        assert!(list.contains("RESOLUTION=256x144") && !list.contains("720"), "nothing is enlarged: {list}");
        let broadcast = server.broadcast("live", "sizes").expect("a broadcast");
        let resting = |broadcast: &Value| {
            let tracks = broadcast["tracks"].as_array().expect("tracks").clone();
            let made =
                tracks.into_iter().filter(|track| track["name"].as_str().is_some_and(|name| name.contains("kbps")));
            made.map(|track| (track["height"].as_u64(), track["frames"].as_u64().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(resting(&broadcast), [(Some(240), 0), (Some(144), 0), (None, 0)], "nobody watches: {broadcast:#}");

        let paths = ["sizes/playlist", "sizes_240p500kbps", "sizes_144p150kbps"]
            .map(|name| format!("/live/streams/{name}.m3u8"));
        let lists = until("three segments that all qualities have", s(30), || {
            let lists = paths.each_ref().map(|path| playlist::fetch(&server, path));
            let lists: Vec<_> = lists.into_iter().flatten().collect();
            (lists.len() == 3 && lists.iter().all(|list| list.segments.len() >= 3)).then_some(lists)
        });
        let number = lists.iter().map(|list| list.media_sequence).max().unwrap();
        let probed: Vec<_> = lists
            .iter()
            .enumerate()
            .map(|(at, list)| {
                let (uri, _) = &list.segments[(number - list.media_sequence) as usize];
                let mut bytes = server.get(&list.maps[0]).bytes().expect("an init section").to_vec();
                bytes.extend(server.get(uri).bytes().expect("a segment"));
                let file = server.dir.join(format!("{at}.mp4"));
                std::fs::write(&file, bytes).expect("write a segment");
                probe(&file)
            })
            .collect();
        assert_eq!([probed[0].0, probed[1].0, probed[2].0], [(640, 360), (426, 240), (256, 144)]);
        assert_eq!(probed[0].1.len(), 1, "a gop is a segment: {probed:?}");
        for other in &probed[1..] {
            assert_eq!(other.1, probed[0].1, "keyframes at the same time: {probed:?}");
            // A machine that is busy with other tests leaves out some pictures.
            assert!(other.2.is_subset(&probed[0].2) && other.2.len() > 15, "{probed:?}");
        }
        until("renditions to rest", s(40), || (server.metric("headwater_transcodes", "video") == 0.0).then_some(()));
        crate::harness::ffmpeg::decodes_live(&server.url("/live/streams/sizes_240p500kbps.m3u8"), 5);
        crate::harness::ffmpeg::decodes_live(&server.url("/live/streams/sizes_audio.m3u8"), 5);
    });
}

#[test]
fn what_is_made_is_asked_for_by_rest_and_nonsense_is_refused() {
    light(s(90), || {
        let server = Server::start();
        let change = |method: &str, path: &str, body: Value| {
            let response = send(server.request(method, &format!("/live/rest/v2/broadcasts/{path}")).json(&body));
            (response.status().as_u16(), response.json::<Value>().expect("JSON"))
        };
        let settings =
            |height: u64, bitrate: u64| json!({ "height": height, "videoBitrate": bitrate, "audioBitrate": 64_000 });
        let forty: Vec<_> = (0..40).map(|n| settings(100 + 2 * n, 500_000)).collect();
        for (list, words) in [
            (json!([settings(0, 500_000)]), "height 0"),
            (json!([settings(241, 500_000)]), "height 241"),
            (json!([settings(240, 1_000_000_000_000)]), "kbit/s of video"),
            (json!(forty), "40 renditions are too many"),
        ] {
            let (status, said) = change("POST", "create", json!({ "streamId": "asked", "encoderSettingsList": list }));
            let message = said["message"].as_str().unwrap_or_default();
            assert!(status == 400 && said["success"] == false && message.contains(words), "{status} {said:#}");
        }
        let wanted =
            json!({ "streamId": "asked", "name": "Asked for", "encoderSettingsList": [settings(240, 500_000)] });
        let (status, made) = change("POST", "create", wanted.clone());
        assert_eq!((status, &made["streamId"], &made["name"]), (200, &json!("asked"), &json!("Asked for")), "{made:#}");
        assert_eq!((&made["status"], &made["encoderSettingsList"][0]["height"]), (&json!("created"), &json!(240)));
        assert_eq!(change("POST", "create", wanted).0, 400, "the id is in use");
        assert_eq!(change("PUT", "nobody", json!({})).0, 404);
        let (_, named) = change("POST", "create", json!({}));
        assert!(named["streamId"].as_str().is_some_and(|id| id.len() > 10), "{named:#}");

        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/asked"));
        assert!(until_offered(&server, "asked").contains("asked_240p500kbps.m3u8"));
        let (status, done) = change("PUT", "asked", json!({ "encoderSettingsList": [settings(144, 200_000)] }));
        assert_eq!((status, &done["success"]), (200, &json!(true)), "{done:#}");
        until("another ladder", s(10), || until_offered(&server, "asked").contains("_144p200kbps").then_some(()));
        assert_eq!(server.get("/live/streams/asked_240p500kbps.m3u8").status(), 404);
        let (_, _) = change("PUT", "asked", json!({ "encoderSettingsList": [] }));
        until("no ladder", s(10), || (server.get("/live/streams/asked_adaptive.m3u8").status() == 404).then_some(()));
        assert_eq!(server.broadcast("live", "asked").unwrap()["name"], "Asked for", "what is absent stays");
    });
}

#[test]
fn a_webrtc_viewer_goes_down_and_comes_back_up() {
    heavy(s(180), || {
        let server = Server::with(LADDER);
        let _ffmpeg = Clock { seconds: 170, ..Clock::default() }.publish(&server.rtmp_url("live/ladder"));
        until_offered(&server, "ladder");
        let link = Link::to(server.rtc);
        link.limit_down(Some(WIDE));
        let mut viewer = Player::whep_via(&link, &server, "live", "ladder");
        viewer.until("the source", s(30), |report| report.number("height") == 360.0);
        for _ in 0..2 {
            viewer.settle(2.0);
            link.limit_down(Some(NARROW));
            let limited = Instant::now();
            let fallen = viewer.until("the smallest rendition", s(15), |report| report.number("height") == 144.0);
            let down = limited.elapsed();
            let narrow = viewer.measure(6.0);
            link.limit_down(Some(WIDE));
            let lifted = Instant::now();
            let climbed = viewer.until("the source again", s(15), |report| report.number("height") == 360.0);
            println!("down after {down:?}, up after {:?}", lifted.elapsed());
            for seen in [&fallen, &narrow, &climbed] {
                println!("gap {}, delay {}", seen.at("gap_ms_max"), seen.at("delay_ms"));
                assert_eq!(seen.number("backwards"), 0.0, "{:#}", seen.0);
            }
            assert!(fallen.number("gap_ms_max") < 2_500.0, "{:#}", fallen.0);
            assert!(narrow.number("decoded_fps") > 20.0, "{:#}", narrow.0);
            assert!(climbed.number("gap_ms_max") < 1_000.0, "{:#}", climbed.0);
        }
    });
}

#[test]
fn an_hls_player_goes_down_and_comes_back_up() {
    heavy(s(180), || {
        let server = Server::with(LADDER);
        let _ffmpeg = Clock { seconds: 170, ..Clock::default() }.publish(&server.rtmp_url("live/ladder"));
        until_offered(&server, "ladder");
        let pipe = Pipe::to(server.http, WIDE);
        // By whole segments: hls.js takes what a busy machine needs to unpack a part for slowness of the line, and would
        // never believe that parts of a small rendition could have come as fast as the source wants.
        let mut viewer = Player::hls_classic_at(&format!("http://{}/live/streams/ladder_adaptive.m3u8", pipe.address));
        let seen = viewer.until("the source", s(60), |report| report.number("height") == 360.0);
        assert_eq!(seen.at("hls.levels").as_array().map(Vec::len), Some(3), "{:#}", seen.0);
        pipe.limit_down(450_000);
        let limited = Instant::now();
        viewer.until("the smallest rendition", s(40), |report| report.number("height") == 144.0);
        println!("down after {:?}", limited.elapsed());
        let narrow = viewer.measure(6.0);
        assert!(narrow.number("decoded_fps") > 20.0, "{:#}", narrow.0);
        pipe.limit_down(WIDE);
        let lifted = Instant::now();
        viewer.until("the source again", s(60), |report| report.number("height") == 360.0);
        println!("up after {:?}", lifted.elapsed());
        let errors = viewer.finish();
        let fatal = |error: &Value| error["fatal"] == true;
        assert!(!errors.at("hls.errors").as_array().is_some_and(|list| list.iter().any(fatal)), "{:#}", errors.0);
    });
}

#[test]
fn the_sdk_lists_the_qualities_and_forces_one() {
    heavy(s(120), || {
        let server = Server::with(LADDER);
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/forced"));
        until_offered(&server, "forced");
        let mut viewer = Player::antmedia(&server, "live", "forced");
        viewer.until_playing();
        viewer.press("info");
        let listed = viewer.until("the list", s(10), |report| report.at("antmedia.heights").is_array());
        assert_eq!(*listed.at("antmedia.heights"), json!([360, 240, 144]), "{:#}", listed.0);
        for height in [144, 360, 240] {
            viewer.press(&format!("quality {height}"));
            viewer.until("the quality", s(15), |report| report.number("height") == f64::from(height));
            viewer.settle(2.0);
        }
        viewer.press("quality 0");
        let seen = viewer.until("the best", s(20), |report| report.number("height") == 360.0);
        assert_eq!(seen.at("antmedia.errors").to_string(), "[]");
    });
}
