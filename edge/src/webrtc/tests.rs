//! WHEP as a player speaks it.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, StatusCode},
};
use bytes::Bytes;
use headwater_common::{
    config::Layers,
    http::cross_origin,
    ice_servers::IceServers,
    live::{BroadcastId, Claim, Hub, Publisher, Takeover, Writer},
    load::Load,
    media::{Codec, Info, Shape},
    node::Node,
    rtc::Engine,
    telemetry::Telemetry,
};
use tower::ServiceExt;

use super::{router, sdp_offer};

const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=mid:0\r\na=recvonly\r\n\
    a=ice-ufrag:tZI2\r\na=ice-pwd:Z9ZzpyPFNtEjuHq3QLmhV1MN\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 64:89:A6:FE:6A:D2:CB:8E:5C:A3:D6:86:AE:C9:22:EB:95:02:DA:18:CD:4D:5A:C3:77:E1:B5:96:B7:4B:D4:D1\r\n\
    a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96 102 103\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=mid:1\r\na=recvonly\r\n\
    a=ice-ufrag:tZI2\r\na=ice-pwd:Z9ZzpyPFNtEjuHq3QLmhV1MN\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 64:89:A6:FE:6A:D2:CB:8E:5C:A3:D6:86:AE:C9:22:EB:95:02:DA:18:CD:4D:5A:C3:77:E1:B5:96:B7:4B:D4:D1\r\n\
    a=rtpmap:96 VP8/90000\r\na=rtpmap:102 H264/90000\r\n\
    a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
    a=rtcp-fb:102 nack\r\na=rtcp-fb:102 nack pli\r\na=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\n";
const FRAGMENT: &str = "a=ice-ufrag:tZI2\r\na=ice-pwd:Z9ZzpyPFNtEjuHq3QLmhV1MN\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
    a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n";

struct Stage {
    app: Router,
    node: Node,
    writer: Option<Writer>,
}

fn video() -> Info {
    let shape = Shape::Video { width: 640, height: 360, reorders: false };
    Info { codec: Codec::H264, config: Bytes::from_static(&[1, 0x42, 0xc0, 0x1f]), shape }
}

fn audio() -> Info {
    Info { codec: Codec::Opus, config: Bytes::new(), shape: Shape::Audio { sample_rate: 48_000, channels: 2 } }
}

/// A broadcast that has been going on for long.
fn stage(has_video: bool) -> Stage {
    let mut stage = claimed(0, 100);
    let writer = stage.writer.as_mut().unwrap();
    if has_video {
        writer.announce(video()).unwrap();
    }
    writer.announce(audio()).unwrap();
    stage
}

/// A broadcast that was claimed, and nothing more.
fn claimed(at_us: i64, sessions_max: usize) -> Stage {
    let listen = "127.0.0.1:0".parse().unwrap();
    let settings = headwater_common::rtc::Settings { listen, shards: 1, sessions_max, ..Default::default() };
    let engine = Engine::start(settings, &Telemetry::new()).unwrap();
    let hub = Hub::new();
    let id = BroadcastId::new("live", "x").unwrap();
    let publisher = Publisher { protocol: "test", remote: String::new(), agent: String::new() };
    let claim = Claim { epoch: 1, next_gop: 0, discontinuity: 0, born_us: at_us, segment_target_s: None, publisher };
    let writer = hub.claim(&id, claim, Takeover::Replace, at_us).unwrap();
    let node = Node::starting();
    let app = router(engine, Arc::clone(&hub), Arc::new(ice_servers()), node.clone());
    Stage { app: app.layer(axum::middleware::from_fn(cross_origin)), node, writer: Some(writer) }
}

fn ice_servers() -> IceServers {
    let settings = Layers::defaults()
        .unwrap()
        .with(&["rtc", "ice_servers"], vec![BTreeMap::from([("url", "stun:stun.example.org:3478")])])
        .with(&["turn", "urls"], vec!["turn:turn.example.org"])
        .with(&["turn", "secret"], "s");
    IceServers::new(&settings.build().unwrap())
}

impl Stage {
    async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.app.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        (parts.status, parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn post(&self, body: &str) -> (StatusCode, HeaderMap, String) {
        self.ask("POST", "/live/whep/x", &[("content-type", "application/sdp")], body).await
    }
}

#[tokio::test]
async fn a_session_from_offer_to_end() {
    let stage = stage(true);
    let (status, headers, answer) = stage.post(OFFER).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert_eq!(headers["content-type"], "application/sdp");
    assert_eq!(headers["link"], "<stun:stun.example.org:3478>; rel=\"ice-server\"");
    assert!(answer.contains("a=ice-lite") && answer.contains("a=candidate:") && answer.contains("tcptype passive"));
    assert_eq!(answer.matches("a=sendonly").count(), 2);
    assert!(answer.contains("H264") && answer.contains("VP8"), "whatever codec a publisher comes back with");
    let etag = headers["etag"].to_str().unwrap();
    assert!(etag.starts_with('"') && etag.ends_with('"'));
    let location = headers["location"].to_str().unwrap();
    assert!(location.starts_with("/live/whep/x/"));

    let fragment = ("content-type", "application/trickle-ice-sdpfrag");
    let status = async |headers: &[(&str, &str)], body: &str| stage.ask("PATCH", location, headers, body).await.0;
    assert_eq!(status(&[fragment, ("if-match", etag)], FRAGMENT).await, StatusCode::NO_CONTENT);
    assert_eq!(status(&[fragment, ("if-match", "\"other\"")], FRAGMENT).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(status(&[fragment], FRAGMENT).await, StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(status(&[("if-match", etag)], FRAGMENT).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(status(&[fragment, ("if-match", etag)], "a=mid:0\r\n").await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(status(&[fragment, ("if-match", etag)], "garbage").await, StatusCode::BAD_REQUEST);

    let restart = FRAGMENT.replace("tZI2", "uAJ3");
    let (code, headers, body) = stage.ask("PATCH", location, &[fragment, ("if-match", "*")], &restart).await;
    assert_eq!(code, StatusCode::OK, "{body}");
    assert_ne!(headers["etag"], etag);
    assert_eq!(headers["content-type"], "application/trickle-ice-sdpfrag");
    assert!(body.contains("a=ice-ufrag:") && body.contains("a=candidate:"), "{body}");

    for method in ["GET", "HEAD", "PUT", "POST"] {
        let (status, ..) = stage.ask(method, location, &[], "").await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
    assert_eq!(stage.ask("DELETE", &location.replace("/x/", "/y/"), &[], "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(stage.ask("DELETE", location, &[], "").await.0, StatusCode::OK);
    assert_eq!(stage.ask("DELETE", location, &[], "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(stage.ask("PATCH", location, &[fragment], FRAGMENT).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn each_player_is_told_of_turn_with_credentials_of_its_own() {
    let stage = stage(true);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (status, headers, _) = stage.post(OFFER).await;
        assert_eq!(status, StatusCode::CREATED);
        let links: Vec<_> = headers.get_all("link").iter().map(|link| link.to_str().unwrap().to_owned()).collect();
        let [stun, turn] = <[String; 2]>::try_from(links).unwrap();
        assert_eq!(stun, "<stun:stun.example.org:3478>; rel=\"ice-server\"");
        let names: Vec<_> = turn.split("; ").map(|part| part.split('=').next().unwrap()).collect();
        assert_eq!(names, ["<turn:turn.example.org>", "rel", "username", "credential", "credential-type"]);
        seen.push(turn);
    }
    assert_ne!(seen[0], seen[1]);
}

#[tokio::test]
async fn refusals_have_the_status_that_players_understand() {
    let mut stage = stage(true);
    assert_eq!(stage.ask("POST", "/live/whep/y", &[("content-type", "application/sdp")], OFFER).await.0, 404);
    assert_eq!(stage.ask("POST", "/live/whep/.y", &[("content-type", "application/sdp")], OFFER).await.0, 404);
    assert_eq!(stage.ask("POST", "/live/whep/x", &[("content-type", "text/plain")], OFFER).await.0, 415);
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
        assert_eq!(stage.ask(method, "/live/whep/x", &[], "").await.0, 405, "{method}");
    }
    let (status, _, text) = stage.post(&OFFER.replace("H264", "H263")).await;
    assert_eq!(status, 406);
    assert!(text.contains("VP8, H263") && text.contains("H264"), "{text}");
    for (from, to, why) in
        [("a=fingerprint", "a=x", "fingerprint"), ("a=ice-pwd", "a=x", "ice-pwd"), ("v=0", "hello", "SDP")]
    {
        let (status, _, text) = stage.post(&OFFER.replace(from, to)).await;
        assert_eq!(status, 400);
        assert!(text.contains(why), "{text}");
    }
    assert_eq!(stage.post(&"a".repeat(70_000)).await.0, 413);
    stage.writer.take().unwrap().finish(0);
    assert_eq!(stage.post(OFFER).await.0, 404, "over");
}

#[tokio::test]
async fn a_missing_track_is_inactive_in_the_answer() {
    let stage = stage(false);
    let (status, _, answer) = stage.post(OFFER).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert_eq!(answer.matches("a=sendonly").count(), 1);
    assert_eq!(answer.matches("a=inactive").count(), 1);
    let video_only = OFFER.replacen("a=recvonly", "a=inactive", 1);
    assert_eq!(stage.post(&video_only).await.0, 406, "it asks for what is not there only");
}

#[tokio::test]
async fn an_offer_without_any_codec_of_ours_is_told_so() {
    let stage = stage(true);
    let lines = ["H264/90000", "VP9/90000", "opus/48000/2", "PCMU/8000"];
    let offer = OFFER.replace(lines[0], lines[1]).replace(lines[2], lines[3]);
    let (status, _, text) = stage.post(&offer).await;
    assert_eq!(status, 406, "{text}");
    assert!(text.contains("VP8, VP9"), "{text}");
    // As the payload types stand in the profile, without an rtpmap of their own.
    let offer = OFFER.replace(" 96 102 103", " 96").replace("SAVPF 111", "SAVPF 0");
    let offer: String = offer
        .lines()
        .filter(|line| ["111", "102", "103"].iter().all(|pt| !line.contains(&format!(":{pt} "))))
        .map(|line| format!("{line}\r\n"))
        .collect();
    let (status, _, text) = stage.post(&offer).await;
    assert_eq!(status, 406, "{text}");
}

fn now_us() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as i64
}

#[tokio::test(start_paused = true)]
async fn who_comes_before_the_tracks_gets_both_of_them() {
    let mut stage = claimed(now_us(), 100);
    let mut writer = stage.writer.take().unwrap();
    let announces = async {
        tokio::time::sleep(std::time::Duration::from_millis(1_000)).await;
        writer.announce(video()).unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        writer.announce(audio()).unwrap();
    };
    let ((status, _, answer), ()) = tokio::join!(stage.post(OFFER), announces);
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert_eq!(answer.matches("a=sendonly").count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_says_nothing_is_not_there_yet() {
    let stage = claimed(now_us(), 100);
    let began = tokio::time::Instant::now();
    let (status, headers, text) = stage.post(OFFER).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{text}");
    assert!(headers.contains_key("retry-after"));
    assert!((2_900..3_500).contains(&began.elapsed().as_millis()));
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_without_sound_costs_a_moment_at_its_start_and_nothing_later() {
    for (at_us, waits_ms) in [(now_us(), 290..400), (0, 0..10)] {
        let mut stage = claimed(at_us, 100);
        stage.writer.as_mut().unwrap().announce(video()).unwrap();
        let began = tokio::time::Instant::now();
        let (status, _, answer) = stage.post(OFFER).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        assert!(waits_ms.contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_full_node_says_when_to_come_again() {
    let mut stage = claimed(0, 1);
    stage.writer.as_mut().unwrap().announce(video()).unwrap();
    assert_eq!(stage.post(OFFER).await.0, StatusCode::CREATED);
    let (status, headers, text) = stage.post(OFFER).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
    assert_eq!(headers["retry-after"], "2");
}

#[tokio::test]
async fn a_node_that_takes_nobody_new_leaves_those_alone_who_are_there() {
    let stage = stage(true);
    let (_, headers, _) = stage.post(OFFER).await;
    for (prepare, reason) in [
        (&(|| stage.node.bear(Load::default(), true)) as &dyn Fn(), "full"),
        (&|| stage.node.drain(), "being drained"),
        (&|| stage.node.stop(), "about to stop"),
    ] {
        stage.node.ready();
        prepare();
        let (status, headers, text) = stage.post(OFFER).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{text}");
        assert_eq!(headers["retry-after"], "2");
        assert!(text.contains(reason), "{text}");
        assert_eq!(stage.ask("POST", "/live/whep/y", &[("content-type", "application/sdp")], OFFER).await.0, 404);
    }
    let location = headers["location"].to_str().unwrap();
    assert_eq!(stage.ask("DELETE", location, &[], "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn preflights_and_options_say_what_is_taken() {
    let stage = stage(true);
    let preflight = [("origin", "http://a.example"), ("access-control-request-method", "POST")];
    for headers in [&preflight[..], &[]] {
        let (status, headers, _) = stage.ask("OPTIONS", "/live/whep/x", headers, "").await;
        assert!(status.is_success());
        assert_eq!(headers["accept-post"], "application/sdp");
    }
    let (_, headers, _) = stage.ask("POST", "/live/whep/y", &[("origin", "http://a.example")], "").await;
    assert_eq!(headers["access-control-allow-origin"], "http://a.example", "players must be able to read a 404");
    let exposed = headers["access-control-expose-headers"].to_str().unwrap().to_lowercase();
    assert!(["location", "etag", "link"].iter().all(|name| exposed.contains(name)), "{exposed}");
}

#[test]
fn no_bytes_make_the_offer_parser_panic() {
    let mut seed = 0x9e37_79b9_u32;
    for _ in 0..2_000 {
        let mut bytes = OFFER.as_bytes().to_vec();
        for _ in 0..4 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if bytes.is_empty() {
                break;
            }
            let at = seed as usize % bytes.len();
            match seed >> 30 {
                0 => bytes[at] = (seed >> 8) as u8,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, (seed >> 8) as u8),
                _ => bytes.truncate(at.max(1)),
            }
        }
        sdp_offer(&bytes);
    }
}
