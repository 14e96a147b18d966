//! Buckets that can't be used, are gone, or work badly: said precisely, and made good later.

use super::*;
use crate::harness::{faulty::said, s3::SECRET_KEY};

/// What the operator is told who tries the bucket.
fn complaint(server: &Server) -> String {
    let answer = send(server.request("POST", "/live/rest/v2/vods/test-storage").timeout(s(40)));
    assert_eq!(answer.status(), 502);
    let answer = answer.json::<Value>().unwrap();
    assert_eq!(answer["success"], false);
    answer["message"].as_str().expect("a reason").to_owned()
}

#[test]
fn what_is_wrong_with_a_bucket_is_said_precisely() {
    light(s(240), || {
        let bucket = Bucket::new();
        let way = Faulty::to(bucket.server, 1);
        let good = settings(&bucket, &way.url());
        let with = |from: &str, to: &str| Server::with(&good.replacen(from, to, 1));
        for (server, words) in [
            (with(&bucket.name, "no-such-bucket"), "there is no such bucket (404, NoSuchBucket"),
            (with("\"AK\"", "\"AX\""), "no valid credentials (403, InvalidAccessKeyId"),
            (with(SECRET_KEY, "wrong"), "no valid credentials (403, SignatureDoesNotMatch"),
            (with(&way.url(), "http://127.0.0.1:9"), "the server can't be reached: "),
            (with(&way.url(), "http://no-such-host.invalid"), "the server can't be reached: "),
        ] {
            let said = complaint(&server);
            assert!(said.contains(words), "{said}");
            // The log says so from the beginning, without secrets, and the node runs all the same.
            until("the log to say so", s(20), || server.log().contains(words).then_some(()));
            assert!(!server.log().contains(SECRET_KEY) && !said.contains(SECRET_KEY));
        }

        let server = Server::with(&good);
        until("the probe at the start", s(10), || server.log().contains("bucket for recordings works").then_some(()));
        for (status, code, headers, words) in [
            (
                "301 Moved Permanently",
                "PermanentRedirect",
                "x-amz-bucket-region: eu-west-7\r\n",
                "in another region, \"eu-west-7\"",
            ),
            ("400 Bad Request", "AuthorizationHeaderMalformed", "", "in another region"),
            ("403 Forbidden", "AccessDenied", "", "don't allow this"),
            ("503 Slow Down", "SlowDown", "", "asks to slow down"),
            ("500 Internal Server Error", "InternalError", "", "the server failed"),
        ] {
            way.answer(said(status, code, headers));
            let said = complaint(&server);
            assert!(said.contains(words), "{said}");
        }
        let nothing = Server::start();
        let answer = send(nothing.request("POST", "/live/rest/v2/vods/test-storage"));
        assert_eq!(answer.status(), 400);
        assert!(answer.text().unwrap().contains("the settings name no bucket"));
    });
}

#[test]
fn a_clock_that_is_an_hour_off_is_said_to_be_and_made_up_for() {
    light(s(240), || {
        let bucket = Bucket::new();
        let server = Server::with_clock(&settings(&bucket, &bucket.url()), "+1h");
        let words = "this machine's clock is too far from the server's";
        until("the log to say so", s(20), || server.log().contains(words).then_some(()));
        publish(&server, "late", flv::clip(), 2000);
        until_upload(&server, "late", "done", 30);
        decodes_from(&bucket, "live/streams/late.mp4", &server);
    });
}

#[test]
fn what_could_not_be_sent_is_sent_when_the_bucket_is_back() {
    light(s(240), || {
        let bucket = Bucket::new();
        let way = Faulty::to(bucket.server, 1);
        let mut server = Server::with(&settings(&bucket, &way.url()));
        until("the probe at the start", s(10), || server.log().contains("bucket for recordings works").then_some(()));
        bucket.remove();
        publish(&server, "early", flv::clip(), 2000);
        let vod = until_upload(&server, "early", "failed-retrying", 30);
        assert_eq!(vod["processStatus"], "finalising", "not ready before it has arrived");
        assert!(vod["uploadError"].as_str().unwrap().contains("NoSuchBucket"), "{vod:#}");
        // Meanwhile it plays from the disk, and survives the process.
        assert_eq!(server.get("/live/streams/early.mp4").status(), 200);
        server.kill();
        server.start_again();
        let vod = until_upload(&server, "early", "failed-retrying", 30);
        assert!(!vod["uploadError"].as_str().unwrap().is_empty(), "{vod:#}");

        bucket.create();
        assert_eq!(send(server.request("POST", "/live/rest/v2/vods/test-storage")).status(), 200);
        until_upload(&server, "early", "done", 5);
        decodes_from(&bucket, "live/streams/early.mp4", &server);

        // Nobody there at all; then the recording is deleted before it was sent.
        way.cut_off(true);
        publish(&server, "late", flv::bulky(), 4000);
        let vod = until_upload(&server, "late", "failed-retrying", 30);
        let id = vod["vodId"].as_str().unwrap();
        assert_eq!(send(server.request("DELETE", &format!("/live/rest/v2/vods/{id}"))).status(), 200);
        assert_eq!(server.get("/live/streams/late.mp4").status(), 404);
        way.cut_off(false);
        until("the deletion to be over", s(60), || on_disk(&server).is_empty().then_some(()));
        assert_eq!(bucket.keys(), ["live/streams/early.mp4"]);
        assert_eq!(bucket.open_uploads(), [""; 0]);
    });
}

/// Requests refused, cut within their bodies, and done without an answer.
#[test]
fn every_third_request_may_fail() {
    light(s(400), || {
        let bucket = Bucket::new();
        let seed = u64::from(std::process::id());
        println!("seed {seed}");
        let way = Faulty::to(bucket.server, seed);
        let server = Server::with(&settings(&bucket, &way.url()));
        way.fail(30);
        for (id, tags, ms) in
            [("a", flv::bulky(), 8000), ("b", flv::clip(), 2000), ("c", flv::bulky(), 6000), ("d", flv::bulky(), 4000)]
        {
            publish(&server, id, tags, ms);
        }
        for id in ["a", "b", "c", "d"] {
            let vod = until_upload(&server, id, "done", 300);
            assert_eq!(vod["processStatus"], "ready");
        }
        way.fail(0);
        // A probe whose deletion failed is removed by the next one.
        assert_eq!(send(server.request("POST", "/live/rest/v2/vods/test-storage")).status(), 200);
        println!("{} of {} requests failed", way.faults(), way.requests());
        assert!(way.faults() > 5, "{} faults", way.faults());
        assert_eq!(bucket.keys(), ["a", "b", "c", "d"].map(|id| format!("live/streams/{id}.mp4")), "each once");
        for key in bucket.keys() {
            decodes_from(&bucket, &key, &server);
        }
        assert_eq!(bucket.open_uploads(), [""; 0]);
        assert_eq!(on_disk(&server), [""; 0]);
    });
}
