//! What was recorded is there, whole, and plays anywhere, whatever happened to the server meanwhile.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::harness::{Clock, Player, Server, ffmpeg::decodes, flv, light, paired, rtmp::Wire, s, site::send, until};

const RECORDING: &str = "[apps.live]\nrecord = true\n";

fn probe(file: &Path, entries: &str) -> Vec<String> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-of", "csv=p=0", "-show_entries", entries]).arg(file);
    let output = command.output().expect("ffprobe runs");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{file:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim_end_matches(',').to_owned()).collect()
}

fn duration_s(file: &Path) -> f64 {
    probe(file, "format=duration")[0].parse().expect("a duration")
}

/// The index before the media: it plays before all of it is there.
fn assert_starts_at_once(file: &Path) {
    let bytes = std::fs::read(file).expect("the recording");
    let find = |name: &[u8; 4]| bytes.windows(4).position(|window| window == name);
    assert!(find(b"moov") < find(b"mdat"), "{file:?}: moov at {:?}, mdat at {:?}", find(b"moov"), find(b"mdat"));
    assert_eq!(find(b"moof"), None, "{file:?} is still in fragments");
}

/// Sends the clip's first seconds as fast as real time, and ends properly.
fn publish_clip(server: &Server, id: &str, seconds: u32) {
    let mut wire = Wire::connect(server);
    wire.publish("live", id).expect("published");
    let tags: Vec<_> = flv::clip().iter().filter(|tag| tag.time_ms < seconds * 1000).cloned().collect();
    wire.play_out(tags).end().expect("sent");
}

#[test]
fn an_application_that_records_keeps_every_broadcast() {
    light(s(60), || {
        let server = Server::with(RECORDING);
        publish_clip(&server, "kept", 4);
        let (vod, file) = server.until_recorded("kept");
        decodes(&file);
        assert!(!server.log().contains("can't be recorded"), "all of it was");
        assert_starts_at_once(&file);
        let codecs = probe(&file, "stream=codec_name");
        assert!(codecs.contains(&"h264".to_owned()) && codecs.contains(&"aac".to_owned()), "{codecs:?}");
        let seconds = duration_s(&file);
        assert!((3.8..4.3).contains(&seconds), "{seconds} s");
        let listed = vod["duration"].as_f64().unwrap() / 1000.0;
        assert!((listed - seconds).abs() < 0.2, "listed as {listed} s, is {seconds} s");
        assert_eq!(vod["type"], "streamVod", "{vod:#}");

        // Players seek by ranges (RFC 9110, 14).
        let address = format!("/live/{}", vod["filePath"].as_str().unwrap());
        let whole = server.get(&address);
        assert_eq!(whole.headers()["accept-ranges"], "bytes");
        assert_eq!(whole.headers()["content-type"], "video/mp4");
        let whole = whole.bytes().unwrap();
        let size = whole.len();
        let part = send(server.request("GET", &address).header("range", "bytes=100-199"));
        assert_eq!(part.status(), 206);
        assert_eq!(part.headers()["content-range"], format!("bytes 100-199/{size}").as_str());
        assert_eq!(part.bytes().unwrap(), whole.slice(100..200));
        let tail = send(server.request("GET", &address).header("range", "bytes=-50"));
        assert_eq!((tail.status().as_u16(), tail.bytes().unwrap()), (206, whole.slice(size - 50..)));
        let beyond = send(server.request("GET", &address).header("range", format!("bytes={size}-")));
        assert_eq!(beyond.status(), 416);
        assert_eq!(beyond.headers()["content-range"], format!("bytes */{size}").as_str());
        let head = send(server.request("HEAD", &address));
        assert_eq!(
            (head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()),
            (200, &*size.to_string())
        );
        for outside in ["/live/streams/../../headwater.toml", "/live/streams/%2e%2e/%2e%2e/headwater.toml"] {
            assert_ne!(server.get(outside).status(), 200, "{outside}");
        }

        // A second broadcast of the same name is a second file.
        publish_clip(&server, "kept", 2);
        until("the second recording", s(20), || {
            (server.recorded().iter().filter(|vod| vod["streamId"] == "kept").count() == 2).then_some(())
        });
    });
}

#[test]
fn rest_switches_recording_on_and_off() {
    light(s(60), || {
        let server = Server::start();
        let _publisher = Clock::default().publish(&server.rtmp_url("live/switched"));
        server.until_status("switched", "broadcasting");
        let put = |on: bool| send(server.request("PUT", &format!("/live/rest/v2/broadcasts/switched/recording/{on}")));
        let unknown = send(server.request("PUT", "/live/rest/v2/broadcasts/nobody/recording/true"));
        assert!(!unknown.status().is_success() || unknown.json::<Value>().unwrap()["success"] == false);
        let on = put(true);
        assert_eq!(on.status(), 200);
        assert_eq!(on.json::<Value>().unwrap()["success"], true);
        assert_eq!(server.broadcast("live", "switched").unwrap()["mp4Enabled"], 1);
        let file = until("the recording to begin", s(10), || unfinished(&server));
        until("three seconds of it", s(10), || (file.metadata().ok()?.len() > 400_000).then_some(()));
        assert_eq!(put(false).json::<Value>().unwrap()["success"], true);
        let (_, file) = server.until_recorded("switched");
        decodes(&file);
        assert!(duration_s(&file) > 2.0);
        server.until_status("switched", "broadcasting");
    });
}

/// The file of a recording that goes on.
fn unfinished(server: &Server) -> Option<PathBuf> {
    let folder = server.recordings().join("live/streams");
    let files = std::fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.into_iter().find(|file| file.extension().is_none_or(|ending| ending != "mp4"))
}

#[test]
fn a_killed_server_loses_less_than_a_gop() {
    light(s(90), || {
        let mut server = Server::with(RECORDING);
        let mut wire = Wire::connect(&server);
        wire.publish("live", "crash").expect("published");
        let tags: Vec<_> = flv::clip().iter().filter(|tag| tag.time_ms < 7500).cloned().collect();
        let wire = wire.play_out(tags).end().expect("sent");
        // The publisher is still connected: nobody has told the recorder that this is the end.
        server.kill();
        drop(wire);
        server.start_again();
        let (_, file) = server.until_recorded("crash");
        decodes(&file);
        assert_starts_at_once(&file);
        let seconds = duration_s(&file);
        println!("7.5 s sent, killed, {seconds} s kept");
        assert!((6.5..7.6).contains(&seconds), "one gop (1 s) may be lost of 7.5 s: {seconds} s are there");
        assert_eq!(unfinished(&server), None, "nothing is left over");
        // The registry knows how it ended, and the name can be used again.
        assert_eq!(
            server.broadcast("live", "crash").expect("known after the crash")["status"],
            "terminated_unexpectedly"
        );
        publish_clip(&server, "crash", 2);
        until("both recordings", s(20), || (server.recorded().len() == 2).then_some(()));
    });
}

#[test]
fn a_server_that_is_told_to_stop_finishes_its_recordings() {
    light(s(60), || {
        // The publisher does not know how to go elsewhere, and is not waited for.
        let mut server = Server::with(&format!("{RECORDING}\n[drain]\npublishers_s = 0\n"));
        let _publisher = Clock::default().publish(&server.rtmp_url("live/drain"));
        let file = until("the recording to begin", s(20), || unfinished(&server));
        until("some of it", s(10), || (file.metadata().ok()?.len() > 300_000).then_some(()));
        let status = server.terminate(s(20));
        assert!(status.success(), "{status}");
        server.start_again();
        let (_, file) = server.until_recorded("drain");
        decodes(&file);
    });
}

#[test]
fn sound_alone_and_picture_alone_are_recorded() {
    light(s(60), || {
        let server = Server::with(RECORDING);
        for (id, left_out, codec) in [("picture", flv::AUDIO, "h264"), ("sound", flv::VIDEO, "aac")] {
            let mut wire = Wire::connect(&server);
            wire.publish("live", id).expect("published");
            let wanted = |tag: &&flv::Tag| tag.kind != left_out && tag.kind != flv::DATA && tag.time_ms < 4000;
            let tags: Vec<_> = flv::clip().iter().filter(wanted).cloned().collect();
            drop(wire.play_out(tags).end().expect("sent"));
            let (_, file) = server.until_recorded(id);
            decodes(&file);
            assert_eq!(probe(&file, "stream=codec_name"), [codec]);
        }
    });
}

#[test]
fn a_recording_plays_in_the_page() {
    paired(s(60), || {
        let server = Server::with(RECORDING);
        publish_clip(&server, "replay", 6);
        let (vod, _) = server.until_recorded("replay");
        let mut viewer = Player::page(&server, "live", vod["filePath"].as_str().unwrap(), "&playOrder=vod");
        let seen = viewer.until("the recording to play", s(30), |report| report.number("media_time") > 2.0);
        assert_eq!(seen.text("page.state"), "playing");
        assert_eq!(seen.number("width"), 320.0);
    });
}
