//! WHIP as an encoder speaks it: what RFC 9725 says a server must do.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::connect_info::MockConnectInfo,
    http::{HeaderMap, Request, StatusCode},
};
use headwater_common::{
    config::Layers,
    http::cross_origin,
    ice_servers::IceServers,
    live::{BroadcastId, Hub, Publisher, Status},
    node::Node,
    registry::{Embedded, Life},
    rtc::Engine,
    telemetry::Telemetry,
};
use tower::ServiceExt;

use crate::announce::Desk;

/// As a browser makes it, shortened.
const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=mid:0\r\na=sendonly\r\n\
    a=ice-ufrag:tZI2\r\na=ice-pwd:Z9ZzpyPFNtEjuHq3QLmhV1MN\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 64:89:A6:FE:6A:D2:CB:8E:5C:A3:D6:86:AE:C9:22:EB:95:02:DA:18:CD:4D:5A:C3:77:E1:B5:96:B7:4B:D4:D1\r\n\
    a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96 102 103\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=mid:1\r\na=sendonly\r\n\
    a=ice-ufrag:tZI2\r\na=ice-pwd:Z9ZzpyPFNtEjuHq3QLmhV1MN\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 64:89:A6:FE:6A:D2:CB:8E:5C:A3:D6:86:AE:C9:22:EB:95:02:DA:18:CD:4D:5A:C3:77:E1:B5:96:B7:4B:D4:D1\r\n\
    a=rtpmap:96 VP8/90000\r\na=rtpmap:102 H264/90000\r\n\
    a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
    a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
    a=rtcp-fb:102 transport-cc\r\na=rtcp-fb:102 nack\r\na=rtcp-fb:102 nack pli\r\na=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\n";
const FRAGMENT: &str = "a=ice-ufrag:tZI2\r\na=ice-pwd:Z9ZzpyPFNtEjuHq3QLmhV1MN\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n\
    a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n";
const IS_SDP: (&str, &str) = ("content-type", "application/sdp");
const IS_FRAGMENT: (&str, &str) = ("content-type", "application/trickle-ice-sdpfrag");

struct Stage {
    app: Router,
    hub: Arc<Hub>,
    desk: Desk,
    node: Node,
    folder: std::path::PathBuf,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// `settings` are those of the application.
fn stage(name: &str, settings: &[(&str, &str)]) -> Stage {
    let folder = std::env::temp_dir().join(format!("headwater-whip-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let stun = std::collections::BTreeMap::from([("url", "stun:stun.example.org:3478")]);
    let mut layers = Layers::defaults().unwrap().with(&["rtc", "ice_servers"], vec![stun]);
    for (key, value) in settings {
        layers = layers.with(&["apps", "live", key], *value);
    }
    let config = Arc::new(layers.build().unwrap());
    let (hub, telemetry, node) = (Hub::new(), Telemetry::new(), Node::starting());
    node.ready();
    let registry = Arc::new(Embedded::open(&folder.join("registry.redb")).unwrap().0);
    let desk = Desk::new(config.clone(), hub.clone(), registry, None, Life::default(), node.clone());
    let listen = "127.0.0.1:0".parse().unwrap();
    let settings = headwater_common::rtc::Settings { listen, shards: 1, ..Default::default() };
    let engine = Engine::start(settings, &telemetry).unwrap();
    let ice_servers = Arc::new(IceServers::new(&config));
    let app = super::router(engine, desk.clone(), telemetry.door("whip"), ice_servers, None)
        .layer(axum::middleware::from_fn(cross_origin))
        .layer(MockConnectInfo(SocketAddr::from(([127, 0, 0, 1], 4_000))));
    Stage { app, hub, desk, node, folder }
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
        self.ask("POST", "/live/whip/x", &[IS_SDP], body).await
    }

    fn status(&self) -> Option<Status> {
        self.hub.get(&BroadcastId::new("live", "x").unwrap()).map(|broadcast| broadcast.status())
    }
}

#[tokio::test]
async fn a_session_from_offer_to_end() {
    let stage = stage("session", &[]);
    let (status, headers, answer) = stage.post(OFFER).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert_eq!(stage.status(), None, "it is nobody's before the publisher is connected");
    assert_eq!(headers["content-type"], "application/sdp");
    assert_eq!(headers["link"], "<stun:stun.example.org:3478>; rel=\"ice-server\"");
    assert!(answer.contains("a=ice-lite") && answer.contains("a=candidate:") && answer.contains("tcptype passive"));
    assert_eq!(answer.matches("a=recvonly").count(), 2);
    assert!(!answer.contains("VP8"), "one codec, H.264 where it is offered");
    assert!(answer.contains("transport-cc"), "the publisher is told what arrives, to judge its network by");
    let etag = headers["etag"].to_str().unwrap();
    assert!(etag.starts_with('"') && etag.ends_with('"'));
    let location = headers["location"].to_str().unwrap();
    assert!(location.starts_with("/live/whip/x/"));

    let status = async |headers: &[(&str, &str)], body: &str| stage.ask("PATCH", location, headers, body).await.0;
    assert_eq!(status(&[IS_FRAGMENT, ("if-match", etag)], FRAGMENT).await, StatusCode::NO_CONTENT);
    assert_eq!(status(&[IS_FRAGMENT, ("if-match", "\"other\"")], FRAGMENT).await, StatusCode::PRECONDITION_FAILED);
    assert_eq!(status(&[IS_FRAGMENT], FRAGMENT).await, StatusCode::PRECONDITION_REQUIRED);
    assert_eq!(status(&[("if-match", etag)], FRAGMENT).await, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let restart = FRAGMENT.replace("tZI2", "uAJ3");
    let (code, headers, body) = stage.ask("PATCH", location, &[IS_FRAGMENT, ("if-match", "*")], &restart).await;
    assert_eq!(code, StatusCode::OK, "{body}");
    assert_ne!(headers["etag"], etag, "another ICE session");
    assert!(body.contains("a=ice-ufrag:") && body.contains("a=candidate:"), "{body}");

    for method in ["GET", "HEAD", "PUT", "POST"] {
        assert_eq!(stage.ask(method, location, &[], "").await.0, StatusCode::METHOD_NOT_ALLOWED, "{method}");
    }
    assert_eq!(stage.ask("DELETE", &location.replace("/x/", "/y/"), &[], "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(stage.ask("DELETE", location, &[], "").await.0, StatusCode::OK);
    assert_eq!(stage.status(), None);
    assert_eq!(stage.ask("DELETE", location, &[], "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(stage.ask("PATCH", location, &[IS_FRAGMENT], FRAGMENT).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_can_not_be_taken_is_refused_with_its_reason_and_claims_nothing() {
    let stage = stage("refusals", &[]);
    let swapped = |from: &str, to: &str| OFFER.replace(from, to);
    for (body, status, why) in [
        (swapped("H264", "H261").replace("VP8", "H263"), 406, "H263, H261"),
        (swapped("opus", "PCMU"), 406, "PCMU"),
        (swapped("packetization-mode=1", "packetization-mode=2"), 406, "packetization-mode 0 or 1"),
        (swapped("sendonly", "recvonly"), 400, "sends neither"),
        (swapped("a=fingerprint", "a=x"), 400, "fingerprint"),
        (swapped("a=ice-pwd", "a=x"), 400, "ice-pwd"),
        (swapped("sha-256 64", "sha-256 zz"), 400, "refused"),
        (swapped("v=0", "hello"), 400, "SDP"),
        (String::new(), 400, "SDP"),
        (format!("{OFFER}{}", "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:9\r\n".repeat(1_000)), 400, "1002"),
    ] {
        let (code, _, text) = stage.post(&body).await;
        assert_eq!(code, status, "{text}");
        assert!(text.contains(why), "{why}: {text}");
    }
    assert_eq!(stage.post(&"a".repeat(70_000)).await.0, 413);
    assert_eq!(stage.ask("POST", "/live/whip/x", &[("content-type", "text/plain")], OFFER).await.0, 415);
    assert_eq!(stage.ask("POST", "/nowhere/whip/x", &[IS_SDP], OFFER).await.0, 404);
    assert_eq!(stage.ask("POST", "/live/whip/a%20b", &[IS_SDP], OFFER).await.0, 400);
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
        assert_eq!(stage.ask(method, "/live/whip/x", &[], "").await.0, 405, "{method}");
    }
    assert_eq!(stage.status(), None);
    stage.node.stop();
    let (code, headers, _) = stage.post(OFFER).await;
    assert_eq!((code, &headers["retry-after"]), (StatusCode::SERVICE_UNAVAILABLE, &"2".parse().unwrap()));
}

#[tokio::test]
async fn what_encoders_leave_out_is_no_reason_to_refuse_them() {
    let stage = stage("encoders", &[]);
    // A data channel that nobody asked for, capitals, an exotic profile, no retransmissions, a section for later.
    let extras = "m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\na=bundle-only\r\na=mid:2\r\na=sctp-port:5000\r\n";
    for offer in [
        OFFER.replace("opus/48000/2", "OPUS/48000/2"),
        OFFER.replace("profile-level-id=42e01f", "profile-level-id=64c028"),
        OFFER.replace(";profile-level-id=42e01f", ""),
        OFFER.replace(" 96 102 103", " 102").replace("a=rtpmap:96 VP8/90000\r\n", ""),
        OFFER.replace("packetization-mode=1", "packetization-mode=0"),
        OFFER.replace("m=audio 9", "m=audio 0"),
        OFFER.replace("BUNDLE 0 1", "BUNDLE 0 1 2") + extras,
        OFFER.replace("setup:actpass", "setup:passive"),
        OFFER.replace("setup:actpass", "setup:active"),
        OFFER.replace("H264", "H263"),
    ] {
        let (status, _, text) = stage.post(&offer).await;
        assert_eq!(status, StatusCode::CREATED, "{text}\n{offer}");
        assert_eq!(text.matches("a=recvonly").count(), 2, "{text}\n{offer}");
    }
}

#[tokio::test]
async fn a_token_is_asked_for_where_the_application_has_one() {
    let stage = stage("token", &[("publish_token", "sesame")]);
    for (given, status) in [
        (None, 401),
        (Some("Bearer open"), 401),
        (Some("Basic sesame"), 401),
        (Some("Bearer sesame"), 201),
        (Some("bearer sesame"), 201),
    ] {
        let mut headers = vec![IS_SDP];
        headers.extend(given.map(|given| ("authorization", given)));
        let (code, headers, text) = stage.ask("POST", "/live/whip/x", &headers, OFFER).await;
        assert_eq!(code, status, "{given:?}: {text}");
        assert_eq!(headers.contains_key("www-authenticate"), status == 401);
        assert!(!text.contains("sesame"));
    }
}

#[tokio::test]
async fn a_live_publisher_is_replaced_or_not_as_the_application_says() {
    for (takeover, status) in [("refuse", StatusCode::CONFLICT), ("replace", StatusCode::CREATED)] {
        let stage = stage(takeover, &[("takeover", takeover)]);
        let publisher = Publisher { protocol: "rtmp", remote: "10.0.0.1:9".to_owned(), agent: String::new() };
        let held = stage.desk.claim("live", "x", None, publisher).await.unwrap();
        let (code, _, text) = stage.post(OFFER).await;
        assert_eq!(code, status, "{text}");
        assert_eq!(text.contains("by rtmp from 10.0.0.1:9"), takeover == "refuse", "{text}");
        assert!(held.check().is_ok(), "who was answered has not replaced anybody yet");
    }
}

#[tokio::test]
async fn who_asks_not_to_replace_anybody_does_not() {
    let asked = [IS_SDP, ("if-none-match", "*")];
    for (takeover, status) in [("refuse", StatusCode::CONFLICT), ("replace", StatusCode::PRECONDITION_FAILED)] {
        let stage = stage(&format!("polite-{takeover}"), &[("takeover", takeover)]);
        let publisher = Publisher { protocol: "rtmp", remote: "10.0.0.1:9".to_owned(), agent: String::new() };
        let held = stage.desk.claim("live", "x", None, publisher).await.unwrap();
        let epoch = held.broadcast().epoch();
        let (code, _, text) = stage.ask("POST", "/live/whip/x", &asked, OFFER).await;
        assert_eq!(code, status, "{text}");
        assert!(text.contains("by rtmp from 10.0.0.1:9"), "{text}");
        assert_eq!(held.broadcast().epoch(), epoch, "it was replaced all the same");
        let (code, _, text) = stage.ask("POST", "/live/whip/free", &asked, OFFER).await;
        assert_eq!(code, StatusCode::CREATED, "{text}");
    }
}

#[tokio::test]
async fn preflights_and_options_say_what_is_taken() {
    let stage = stage("options", &[]);
    let preflight = [("origin", "http://a.example"), ("access-control-request-method", "POST")];
    for headers in [&preflight[..], &[]] {
        let (status, headers, _) = stage.ask("OPTIONS", "/live/whip/x", headers, "").await;
        assert!(status.is_success());
        assert_eq!(headers["accept-post"], "application/sdp");
    }
}
