//! Our publish page in a browser with a fake camera, and what a viewer gets of it.

use std::time::Duration;

use crate::{
    harness::{Clock, Player, Report, Server, heavy, paired, s, scratch, server::free_address, until},
    tls::certify,
};

/// The page for `live/<id>`.
fn page(server: &Server, id: &str, options: &[&str]) -> Player {
    Player::publish_page(&server.url(&format!("/live/publish.html?id={id}")), options)
}

/// A page that is on the air.
fn publishing(server: &Server, id: &str) -> Player {
    let mut page = page(server, id, &[]);
    page.until("the camera's picture", s(20), |seen| seen.number("pictures") > 5.0);
    page.press("click start");
    until_state(&mut page, "live", s(20));
    page
}

fn until_state(page: &mut Player, state: &str, limit: Duration) {
    page.until(&format!("the page to be {state}"), limit, |seen| seen.text("state") == state);
}

#[test]
fn a_camera_is_published_by_the_page_and_seen_by_another_browser() {
    paired(s(120), || {
        let server = Server::start();
        let mut page = publishing(&server, "camera");
        let mut viewer = Player::page(&server, "live", "camera", "&mute=false");
        viewer.until_playing();
        let seen = viewer.until("its sound", s(20), |seen| seen.number("sound_peak") > 0.03);
        assert_eq!(seen.text("page.way"), "webrtc", "{:#}", seen.0);

        let figures = page.until("figures of it", s(20), |seen| {
            seen.number("bitrate") > 0.2 && seen.number("round_trip_ms") >= 0.0 && seen.text("video").contains("fps")
        });
        assert_eq!(figures.text("path"), "UDP", "{:#}", figures.0);
        assert!(figures.text("audio").eq_ignore_ascii_case("opus"), "{:#}", figures.0);
        assert!(figures.number("loss") < 5.0, "{:#}", figures.0);
        assert!(figures.number("loudness") >= 0.0 && figures.at("mirrored") == true, "{:#}", figures.0);
        assert!(figures.text("watch").ends_with("/live/play.html?id=camera"), "{:#}", figures.0);
        assert!(figures.text("whip").ends_with("/live/whip/camera"), "{:#}", figures.0);
        let broadcast = server.until_status("camera", "broadcasting");
        assert_eq!(broadcast["publishType"], "WebRTC", "{broadcast:#}");

        page.press("press m");
        page.until("the mute to be shown", s(10), |seen| seen.text("mute") == "Unmute microphone");
        until("silence", s(20), || (viewer.measure(2.0).number("sound_peak") < 0.01).then_some(()));
        page.press("press m");
        viewer.until("sound again", s(20), |seen| seen.number("sound_peak") > 0.03);

        // Another resolution of the same picture reaches the viewer without a new session.
        page.press("choose height 360");
        viewer
            .until("the smaller picture", s(30), |seen| seen.number("height") > 0.0 && seen.number("height") <= 360.0);
        let seen = viewer.measure(2.0);
        assert!(seen.number("frames") > 10.0 && seen.number("rtc.connections") == 1.0, "{:#}", seen.0);

        page.press("click screen");
        page.until("the screen", s(20), |seen| seen.at("mirrored") == false && seen.text("trouble").is_empty());
        let seen = viewer.measure(2.0);
        assert!(seen.number("frames") > 10.0, "the screen's pictures: {:#}", seen.0);

        page.press("click start");
        until_state(&mut page, "idle", s(10));
        server.until_status("camera", "finished");
        assert_eq!(page.finish().at("errors").as_array().map(Vec::len), Some(0));
    });
}

#[test]
fn a_change_of_network_keeps_the_publishers_session() {
    heavy(s(90), || {
        let server = Server::start();
        let mut page = publishing(&server, "moved");
        let mut viewer = Player::page(&server, "live", "moved", "");
        viewer.until_playing();
        page.press("script dispatchEvent(new Event('online'))");
        // Candidates are answered with 204, a restart with 200.
        let restarted = page.until("the ICE restart", s(20), |seen| seen.count("requests", "PATCH 200") == 1);
        assert_eq!(restarted.count("requests", "POST 201"), 1, "{:#}", restarted.0);
        let seen = viewer.measure(4.0);
        assert!(seen.number("frames") > 20.0 && seen.number("gap_ms_max") < 1500.0, "{:#}", seen.0);
        let seen = page.finish();
        assert_eq!((seen.text("state"), seen.count("requests", "POST 201")), ("live", 1), "{:#}", seen.0);
    });
}

#[test]
fn the_page_publishes_again_by_itself_after_the_server_was_restarted() {
    paired(s(120), || {
        let mut server = Server::start();
        let mut page = publishing(&server, "back");
        server.kill();
        page.until("the interruption to be told", s(40), |seen| {
            seen.text("state") == "interrupted" && seen.text("headline") == "The connection is interrupted"
        });
        server.start_again();
        until_state(&mut page, "live", s(40));
        server.until_status("back", "broadcasting");
        let mut viewer = Player::page(&server, "live", "back", "");
        viewer.until_playing();
    });
}

#[test]
fn leaving_the_page_ends_the_stream() {
    paired(s(60), || {
        let server = Server::start();
        let page = publishing(&server, "left");
        server.until_status("left", "broadcasting");
        page.finish();
        // Not "terminated_unexpectedly": the page said goodbye.
        server.until_status("left", "finished");
    });
}

#[test]
fn the_page_asks_before_it_replaces_another_publisher() {
    paired(s(90), || {
        let server = Server::with("[apps.strict]\ntakeover = \"refuse\"\n");
        let _other = Clock::default().publish(&server.rtmp_url("live/shared"));
        server.until_status("shared", "broadcasting");
        let mut page = page(&server, "shared", &[]);
        page.until("the camera's picture", s(20), |seen| seen.number("pictures") > 5.0);
        page.press("click start");
        let told = page.until("a question", s(20), |seen| seen.text("state") == "taken");
        assert!(told.text("explanation").contains("rtmp"), "{:#}", told.0);
        assert_eq!(told.text("act"), "Publish in their place", "{:#}", told.0);
        assert_eq!(server.until_status("shared", "broadcasting")["publishType"], "RTMP");
        page.press("click act");
        until_state(&mut page, "live", s(20));
        until("the browser to be the publisher", s(10), || {
            (server.broadcast("live", "shared")?["publishType"] == "WebRTC").then_some(())
        });

        // Whoever is replaced does not fight back.
        let _third = Clock::default().publish(&server.rtmp_url("live/shared"));
        until_state(&mut page, "taken", s(40));
        page.finish();

        let _strict = Clock::default().publish(&server.rtmp_url("strict/shared"));
        until("the strict stream", s(20), || server.broadcast("strict", "shared"));
        let mut page = Player::publish_page(&server.url("/strict/publish.html?id=shared"), &[]);
        page.until("the camera's picture", s(20), |seen| seen.number("pictures") > 5.0);
        page.press("click start");
        let told = page.until("the refusal", s(20), |seen| seen.text("state") == "taken");
        assert_eq!(told.text("act"), "Try again", "{:#}", told.0);
    });
}

#[test]
fn three_sizes_are_sent_when_asked_for() {
    heavy(s(90), || {
        let server = Server::start();
        let mut page = page(&server, "sizes", &[]);
        page.until("the camera's picture", s(20), |seen| seen.number("pictures") > 5.0);
        page.press("tick simulcast");
        page.press("click start");
        page.until("three sizes", s(40), |seen| seen.text("video").contains("3 sizes"));
        let mut viewer = Player::page(&server, "live", "sizes", "");
        viewer.until_playing();
        let seen = viewer.measure(2.0);
        assert!(seen.number("frames") > 10.0, "{:#}", seen.0);
    });
}

#[test]
fn the_codec_that_was_chosen_is_sent() {
    paired(s(60), || {
        let server = Server::start();
        let mut page = page(&server, "chosen", &[]);
        let seen = page.until("the camera's picture", s(20), |seen| seen.number("pictures") > 5.0);
        assert_eq!(seen.count("codecs", "H264"), 1, "{:#}", seen.0);
        page.press("choose codec H264");
        page.press("click start");
        page.until("H.264", s(20), |seen| seen.text("video").starts_with("H264"));
    });
}

#[test]
fn a_token_is_asked_for_and_sent() {
    paired(s(60), || {
        let server = Server::with("[apps.closed]\npublish_token = \"open sesame\"\n");
        let address = server.url("/closed/publish.html?id=quiet");
        let mut page = Player::publish_page(&address, &[]);
        page.until("the camera's picture", s(20), |seen| seen.number("pictures") > 5.0);
        page.press("click start");
        let told = page.until("the refusal", s(20), |seen| seen.text("state") == "refused");
        assert!(told.text("explanation").contains("token"), "{:#}", told.0);
        page.finish();

        let mut page = Player::publish_page(&format!("{address}&token=open%20sesame"), &[]);
        page.until("the camera's picture", s(20), |seen| seen.number("pictures") > 5.0);
        page.press("click start");
        until_state(&mut page, "live", s(20));
        let seen = page.finish();
        assert!(!seen.text("watch").contains("sesame"), "viewers are not told the token: {:#}", seen.0);
    });
}

#[test]
fn a_refused_or_missing_camera_is_told_in_words() {
    paired(s(60), || {
        let server = Server::start();
        for (camera, words) in [("refused", "refuses"), ("none", "No camera was found")] {
            let mut page = page(&server, "nobody", &[&format!("--camera={camera}")]);
            page.until("the page", s(20), |seen| {
                seen.text("act") == "Use camera and microphone" || !seen.text("trouble").is_empty()
            });
            page.press("click start");
            let told = page.until("the trouble", s(20), |seen| seen.text("trouble").contains(words));
            assert_eq!(told.text("state"), "idle", "{:#}", told.0);
            page.finish();
        }
        assert!(server.broadcast("live", "nobody").is_none());
    });
}

#[test]
fn a_page_that_is_not_secure_says_where_it_is() {
    paired(s(60), || {
        let server = Server::start();
        let told = insecure(&server);
        assert_eq!(told.text("secure"), "", "there is no certificate: {:#}", told.0);

        let folder = scratch("secure-page");
        certify(&folder, "insecure.test");
        let https = free_address();
        let server = Server::with(&format!(
            "[tls]\ncertificate = \"{0}/certificate.pem\"\nkey = \"{0}/key.pem\"\n[http]\ntls_listen = \"{https}\"\n\
             [rtmp]\ntls_listen = \"{1}\"\n",
            folder.display(),
            free_address()
        ));
        let told = insecure(&server);
        let wanted = format!("https://insecure.test:{}/live/publish.html?id=x", https.port());
        assert_eq!(told.text("secure"), wanted, "{:#}", told.0);
    });
}

/// What the page says where browsers do not trust it.
fn insecure(server: &Server) -> Report {
    let address = format!("http://insecure.test:{}/live/publish.html?id=x", server.http.port());
    let mut page = Player::publish_page(&address, &[]);
    let told = page.until("the reason", s(20), |seen| !seen.text("headline").is_empty());
    assert_eq!(told.text("headline"), "This page is not secure", "{:#}", told.0);
    assert!(told.text("explanation").contains("https"), "{:#}", told.0);
    page.finish()
}
