//! What is kept as HLS follows the event into the bucket, and plays from there when it is over, whatever happened meanwhile.

use std::collections::BTreeSet;

use reqwest::{Method, blocking::Response};

use super::{reconcile::reconcile, *};
use crate::harness::{
    ffmpeg::decodes_kept,
    playlist::{self, Playlist},
};

const FILE: &str = "event.vod.m3u8";
const SENT_MS: u32 = 12_000;
/// The clip has a keyframe each second, and so many are segments.
const GOP_MS: u32 = 1000;

fn keeping(bucket: &Bucket, endpoint: &str) -> String {
    format!("{RECORDING}[apps.live.recording]\nhls = true\n{}", bucket.settings(endpoint))
}

fn kept(server: &Server) -> Option<Value> {
    server.recorded().into_iter().find(|vod| vod["vodName"] == FILE)
}

fn until_kept(server: &Server, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    until(what, s(60), || kept(server).filter(&is))
}

/// What a playlist consists of, below the streams of its application.
fn pieces(playlist: &Playlist) -> BTreeSet<String> {
    let segments = playlist.segments.iter().map(|(uri, _)| uri);
    segments.chain(&playlist.maps).map(|uri| uri.trim_start_matches('/').to_owned()).collect()
}

fn text_in(bucket: &Bucket, server: &Server, key: &str) -> String {
    let file = server.dir.join("playlist");
    bucket.download(key, &file);
    std::fs::read_to_string(file).expect("text")
}

#[test]
fn kept_hls_follows_the_event_and_survives_a_kill_and_a_bucket_that_is_away() {
    light(s(240), || {
        let (bucket, key) = (Bucket::new(), format!("live/streams/{FILE}"));
        let way = Faulty::to(bucket.server, 1);
        let mut server = Server::with(&keeping(&bucket, &way.url()));
        let mut wire = Wire::connect(&server);
        wire.publish("live", "event").expect("published");
        let tags: Vec<_> = flv::clip().iter().filter(|tag| tag.time_ms < SENT_MS).cloned().collect();
        let sending = wire.play_out(tags);

        // While it goes on its playlist is in the bucket, and all that it names.
        let followed = until("a playlist to follow", s(30), || {
            let text = bucket.keys().contains(&key).then(|| text_in(&bucket, &server, &key))?;
            (text.matches("#EXTINF").count() >= 3).then_some(text)
        });
        let there = bucket.keys();
        assert!(followed.contains("#EXT-X-PLAYLIST-TYPE:EVENT\n") && !followed.contains("ENDLIST"), "{followed}");
        for uri in followed.lines().filter(|line| !line.starts_with('#')) {
            assert!(there.contains(&format!("live/streams/{uri}")), "{uri} is named, and not in {there:?}");
        }
        let growing = kept(&server).expect("its row");
        assert_eq!((&growing["processStatus"], &growing["objectKey"]), (&"recording".into(), &"".into()));
        assert!(growing["uploadBytes"].as_u64().unwrap() > 0, "{growing:#}");
        assert_eq!(server.get(&format!("/live/streams/{FILE}")).status(), 404, "it is not over");

        // The bucket goes away, and then the process.
        way.cut_off(true);
        let alone = until_kept(&server, "a failure to be told", |vod| vod["uploadState"] == "failed-retrying");
        assert!(alone["uploadError"].as_str().unwrap().contains("can't be reached"), "{alone:#}");
        let wire = sending.end().expect("sent");
        let growing = server.recordings().join(format!("live/streams/{FILE}.recording"));
        until("all but the last segment to be on the disk", s(20), || {
            let text = std::fs::read_to_string(&growing).ok()?;
            (text.matches("#EXTINF").count() >= (SENT_MS / GOP_MS) as usize - 1).then_some(())
        });
        server.kill();
        drop(wire);
        server.start_again();
        until_kept(&server, "the failure to be told again", |vod| vod["uploadState"] == "failed-retrying");
        way.cut_off(false);
        until("the bucket to be back", s(30), || {
            let works = send(server.request("POST", "/live/rest/v2/vods/test-storage"));
            works.status().is_success().then_some(())
        });

        let vod = until_kept(&server, "it to arrive", |vod| vod["uploadState"] == "done");
        assert_eq!((&vod["processStatus"], &vod["objectKey"]), (&"ready".into(), &key.as_str().into()), "{vod:#}");
        assert_eq!(vod["filePath"], format!("streams/{FILE}"));
        let mp4 = "live/streams/event.mp4".to_owned();
        until("the MP4 to arrive", s(30), || bucket.keys().contains(&mp4).then_some(()));
        until("the local copies to go", s(10), || on_disk(&server).is_empty().then_some(()));

        let address = format!("/live/streams/{FILE}");
        let response = server.get(&address);
        assert_eq!(response.headers()["content-type"], "application/vnd.apple.mpegurl");
        assert_eq!(response.url().port(), Some(server.http.port()), "the playlist comes from the node");
        let playlist = playlist::fetch(&server, &address).expect("a playlist");
        assert!(playlist.ended && playlist.text.contains("#EXT-X-PLAYLIST-TYPE:VOD\n"), "{}", playlist.text);
        assert_eq!(playlist.text, text_in(&bucket, &server, &key));
        let lasts_ms: f64 = playlist.segments.iter().map(|(_, seconds)| seconds * 1000.0).sum();
        assert!((lasts_ms - vod["duration"].as_f64().unwrap()).abs() < 2.0, "{lasts_ms} {vod:#}");
        println!("{SENT_MS} ms sent, killed, {lasts_ms} ms kept");
        let lost_ms = f64::from(SENT_MS) - lasts_ms;
        assert!((-200.0..=f64::from(GOP_MS) + 200.0).contains(&lost_ms), "the segment under way: {lost_ms} ms");
        // Its objects are those of the playlist, and nothing else is there.
        let mut named = pieces(&playlist);
        named.extend([key.clone(), mp4]);
        assert_eq!(bucket.keys().into_iter().collect::<BTreeSet<_>>(), named);
        let bytes = bucket.objects().into_iter().filter(|(key, _)| !key.ends_with("event.mp4")).map(|(_, bytes)| bytes);
        assert_eq!(bytes.sum::<u64>(), vod["fileSize"].as_u64().unwrap());
        let segment = server.get(&playlist.segments[0].0);
        assert_eq!((segment.status().as_u16(), segment.url().port()), (200, Some(way.address.port())), "redirected");
        assert_eq!(segment.headers()["content-type"], "video/mp4");
        decodes_kept(&server.url(&address));

        assert!(server.terminate(s(30)).success());
        assert_eq!(reconcile(&server, &[]), (true, "All recordings are where the registry says.\n".to_owned()));
        bucket.delete(playlist.segments[2].0.trim_start_matches('/'));
        let (well, said) = reconcile(&server, &[]);
        assert!(!well && said.contains(&format!("live/{FILE}:")) && said.contains("1 differences"), "{said}");
        server.start_again();
        let id = vod["vodId"].as_str().unwrap();
        assert_eq!(send(server.request("DELETE", &format!("/live/rest/v2/vods/{id}"))).status(), 200);
        until("all of it to go", s(20), || (bucket.keys() == ["live/streams/event.mp4"]).then_some(()));
        assert_eq!(server.get(&address).status(), 404);
    });
}

#[test]
fn kept_hls_plays_in_the_page_through_the_node_and_from_a_bucket_that_allows_pages() {
    paired(s(180), || {
        let bucket = Bucket::new();
        let keeping = keeping(&bucket, &bucket.url());
        let mut server = Server::with(&format!("{keeping}play = \"node\"\n"));
        publish(&server, "event", flv::clip(), 5000);
        let vod = until_kept(&server, "it to arrive", |vod| vod["uploadState"] == "done");
        until("the local copies to go", s(10), || on_disk(&server).is_empty().then_some(()));
        let path = vod["filePath"].as_str().unwrap();
        let plays = |mut viewer: Player| {
            let seen = viewer.until("it to play", s(60), |report| report.number("media_time") > 2.0);
            assert_eq!(seen.number("width"), 320.0);
            seen
        };
        assert_eq!(plays(Player::page(&server, "live", path, "&playOrder=vod")).text("page.state"), "playing");
        assert!(server.terminate(s(30)).success());

        // Now viewers are redirected. A browser whose page is neither of here nor of the bucket calls itself nobody then.
        server.start_again_with(&keeping);
        let address = format!("/live/{path}");
        let segment = playlist::fetch(&server, &address).expect("a playlist").segments[0].0.clone();
        let ask = || send(server.request("GET", &segment).header("origin", "null").header("range", "bytes=4-7"));
        let told = |response: &Response, name: &str| {
            response.headers().get(name).map_or_else(String::new, |value| value.to_str().unwrap().to_lowercase())
        };
        let kept_out = ask();
        assert_eq!((kept_out.status().as_u16(), kept_out.url().port()), (206, Some(bucket.server.port())));
        assert_eq!(told(&kept_out, "access-control-allow-origin"), "", "no page may read it");
        bucket.allow_pages();
        let let_in = until("pages to be let in", s(30), || {
            Some(ask()).filter(|answer| !told(answer, "access-control-allow-origin").is_empty())
        });
        assert!(["*", "null"].contains(&&*told(&let_in, "access-control-allow-origin")), "{let_in:?}");
        assert!(told(&let_in, "access-control-expose-headers").contains("content-range"), "{let_in:?}");
        let before = reqwest::blocking::Client::new().request(Method::OPTIONS, let_in.url().clone());
        let before = before.header("origin", "null").header("access-control-request-method", "GET");
        let before = send(before.header("access-control-request-headers", "range"));
        assert!(before.status().is_success() && told(&before, "access-control-allow-headers").contains("range"));
        assert_eq!(plays(Player::page(&server, "live", path, "&playOrder=vod")).text("page.state"), "playing");
        plays(Player::hls_classic_at(&server.url(&address)));
    });
}
