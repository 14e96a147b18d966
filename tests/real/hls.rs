//! Watching by HLS: low-latency where the player can, plain where it can't, and what happens when publishers come and go.

use crate::harness::{
    Clock, Player, Server,
    ffmpeg::decodes_live,
    heavy, light, paired,
    playlist::{self, Playlist},
    s, until,
};

fn until_playlist(server: &Server, path: &str, what: &str, good: impl Fn(&Playlist) -> bool) -> Playlist {
    let mut last = None;
    until(&format!("a playlist {path} with {what}"), s(30), || {
        let playlist = playlist::fetch(server, path)?;
        if good(&playlist) {
            return Some(playlist);
        }
        if last.replace(playlist.text.clone()).is_none() {
            eprintln!("the first {path}:\n{}", playlist.text);
        }
        None
    })
}

#[test]
fn low_latency_hls_is_seconds_ahead_of_plain_hls() {
    heavy(s(90), || {
        let server = Server::start();
        let _ffmpeg = Clock { gop_frames: 60, ..Clock::default() }.publish(&server.rtmp_url("live/ll"));
        server.until_status("ll", "broadcasting");

        let mut viewer = Player::hls(&server, "live", "ll");
        viewer.until_playing();
        let low = viewer.settle(8.0);
        viewer.finish();
        low.assert_sound();
        println!("LL-HLS: {}; sound after picture {}", low.at("delay_ms"), low.at("skew_ms"));
        assert_eq!(*low.at("hls.blocking"), true, "{:#}", low.0);
        assert!(low.number("hls.part_target") <= 1.0, "{:#}", low.0);
        assert!(low.number("delay_ms.p50") < 5000.0, "{:#}", low.0);
        assert!(low.number("skew_ms.p50").abs() < 200.0, "sound and picture are apart: {:#}", low.0);
        assert_eq!(low.at("hls.errors").as_array().map(Vec::len), Some(0), "{:#}", low.0);

        let mut viewer = Player::hls_classic(&server, "live", "ll");
        viewer.until_playing();
        let plain = viewer.settle(6.0);
        plain.assert_sound();
        println!("plain HLS: {}", plain.at("delay_ms"));
        assert!(plain.number("delay_ms.p50") < 20_000.0, "{:#}", plain.0);
        assert!(low.number("delay_ms.p50") < plain.number("delay_ms.p50"));
    });
}

#[test]
fn ffmpeg_reads_it_without_a_complaint() {
    light(s(90), || {
        let server = Server::start();
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/clean"));
        let _b_frames = Clock { b_frames: 2, ..Clock::default() }.publish(&server.rtmp_url("live/bframes"));
        for id in ["clean", "bframes"] {
            let path = format!("/live/streams/{id}.m3u8");
            until_playlist(&server, &path, "three segments", |playlist| playlist.segments.len() >= 3);
            decodes_live(&server.url(&path), 5);
        }
    });
}

#[test]
fn a_camera_without_sound_and_a_radio_without_picture_have_playlists() {
    light(s(90), || {
        let server = Server::start();
        let _camera = Clock { audio: false, ..Clock::default() }.publish(&server.rtmp_url("live/camera"));
        let _radio = Clock { video: false, ..Clock::default() }.publish(&server.rtmp_url("live/radio"));
        for id in ["camera", "radio"] {
            let path = format!("/live/streams/{id}.m3u8");
            until_playlist(&server, &path, "two segments", |playlist| playlist.segments.len() >= 2);
            decodes_live(&server.url(&path), 3);
        }
    });
}

#[test]
fn the_playlist_keeps_its_promises() {
    light(s(60), || {
        let server = Server::start();
        assert_eq!(server.get("/live/streams/nobody.m3u8").status(), 404);
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/rules"));
        let path = "/live/streams/rules.m3u8";
        let before = until_playlist(&server, path, "three segments", |playlist| playlist.segments.len() >= 3);

        let head = crate::harness::site::send(server.request("HEAD", path));
        assert_eq!(head.status(), 200);
        assert_eq!(head.headers()["content-type"], "application/vnd.apple.mpegurl");
        let head = crate::harness::site::send(server.request("HEAD", "/live/streams/rules_adaptive.m3u8"));
        assert_eq!(head.status(), 404, "players ask for the adaptive playlist first");

        assert!(before.can_block && before.parts > 0, "{}", before.text);
        for (uri, duration) in &before.segments {
            // RFC 8216bis 4.4.3.1: rounded to the nearest integer, no segment is longer than the target duration.
            assert!(duration.round() <= before.target_s, "{uri} lasts {duration}: {}", before.text);
            assert!(server.get(uri).bytes().is_ok_and(|bytes| bytes.len() > 1000), "{uri}");
        }
        assert!(before.maps.len() == 1 && server.get(&before.maps[0]).status() == 200, "{}", before.text);

        // Blocking reload (RFC 8216bis 6.2.5.2): the answer comes with the segment that was asked for.
        let next = before.next_sequence() + 1;
        let blocked = playlist::fetch(&server, &format!("{}?_HLS_msn={next}&_HLS_part=0", before.path));
        let blocked = blocked.expect("the answer of a blocking reload");
        assert!(blocked.next_sequence() >= next, "{}", blocked.text);
        let far = server.get(&format!("{}?_HLS_msn={}", before.path, next + 100)).status();
        assert_eq!(far, 400, "nobody waits for what is far in the future");

        let after = until_playlist(&server, path, "a later sequence", |p| p.next_sequence() > before.next_sequence());
        assert!(after.media_sequence >= before.media_sequence);
        // A segment keeps its name while it is listed.
        let offset = (after.media_sequence - before.media_sequence) as usize;
        for (old, new) in before.segments.iter().skip(offset).zip(&after.segments) {
            assert_eq!(old, new);
        }
    });
}

#[test]
fn a_publisher_comes_back_and_the_playlist_goes_on() {
    heavy(s(120), || {
        let server = Server::start();
        let path = "/live/streams/again.m3u8";
        let first = Clock { id: 1, ..Clock::default() }.publish(&server.rtmp_url("live/again"));
        let before = until_playlist(&server, path, "four segments", |playlist| playlist.segments.len() >= 4);
        let mut viewer = Player::hls(&server, "live", "again");
        viewer.until("the first publisher's picture", s(30), |report| report.number("ids.1") > 30.0);
        first.kill();
        let _second = Clock { id: 2, ..Clock::default() }.publish(&server.rtmp_url("live/again"));
        viewer.until("the second publisher's picture", s(40), |report| report.number("ids.2") > 30.0);
        let seen = viewer.settle(4.0);
        let fatal = |error: &serde_json::Value| error["fatal"] == true;
        assert!(!seen.at("hls.errors").as_array().is_some_and(|list| list.iter().any(fatal)), "{:#}", seen.0);
        let after = until_playlist(&server, path, "a discontinuity", |p| p.newest_discontinuity() > 0);
        assert!(after.media_sequence >= before.media_sequence, "{}\n{}", before.text, after.text);
        assert_eq!(after.newest_discontinuity(), before.newest_discontinuity() + 1, "{}", after.text);
        assert!(!after.ended, "{}", after.text);
    });
}

#[test]
fn the_end_is_written_and_then_forgotten() {
    paired(s(120), || {
        let server = Server::start();
        let path = "/live/streams/end.m3u8";
        let publisher = Clock::default().publish(&server.rtmp_url("live/end"));
        until_playlist(&server, path, "two segments", |playlist| playlist.segments.len() >= 2);
        let mut viewer = Player::hls(&server, "live", "end");
        viewer.until_playing();
        publisher.stop();
        server.until_status("end", "finished");
        until_playlist(&server, path, "its end", |playlist| playlist.ended);
        viewer.until("the player to know", s(20), |report| *report.at("hls.live") == false);
        decodes_live(&server.url(path), 30);
    });
}

#[test]
fn late_sound_makes_a_new_beginning() {
    use crate::harness::{flv, rtmp::Wire};
    light(s(60), || {
        let server = Server::start();
        let mut wire = Wire::connect(&server);
        wire.publish("live", "late").expect("published");
        let wanted = |tag: &&flv::Tag| tag.kind != flv::AUDIO || tag.is_config() || tag.time_ms > 6000;
        let mut tags: Vec<_> = flv::clip().iter().filter(wanted).cloned().collect();
        for tag in tags.iter_mut().filter(|tag| tag.kind == flv::AUDIO && tag.is_config()) {
            tag.time_ms = 6000;
        }
        tags.sort_by_key(|tag| tag.time_ms);
        let _sending = wire.play_out(tags);
        let path = "/live/streams/late.m3u8";
        let silent = until_playlist(&server, path, "two segments", |playlist| playlist.segments.len() >= 2);
        let loud = until_playlist(&server, path, "a second initialisation", |playlist| playlist.maps.len() >= 2);
        assert!(loud.newest_discontinuity() > silent.newest_discontinuity(), "{}", loud.text);
        let init = server.get(&loud.maps[1]).bytes().expect("an initialisation segment");
        assert!(init.windows(4).any(|window| window == b"mp4a"), "sound is announced");
    });
}
