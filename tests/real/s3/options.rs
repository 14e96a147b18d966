//! How objects are kept is what the settings say: seen at the bucket where the server of these tests knows the option, and in
//! what it was sent where it does not.

use super::*;

#[test]
fn objects_are_encrypted_classed_and_shared_as_the_settings_say() {
    light(s(240), || {
        let bucket = Bucket::new();
        let way = Faulty::to(bucket.server, 1);
        let options = "sse = \"aws:kms\"\nkms_key = \"tests-key\"\nacl = \"public-read\"\nstorage_class = \"STANDARD_IA\"\n\
                       requester_pays = true\n";
        let server = Server::with(&format!("{}{options}", settings(&bucket, &way.url())));
        bucket.put("plain", "as the bucket does");
        assert_eq!(bucket.kept("plain"), ["", "", "", "tests FULL_CONTROL"]);
        publish(&server, "small", flv::clip(), 2000);
        publish(&server, "large", flv::bulky(), 8000);
        for id in ["small", "large"] {
            let vod = until_upload(&server, id, "done", 60);
            let key = vod["objectKey"].as_str().unwrap();
            let shared = "AllUsers READ, tests FULL_CONTROL";
            assert_eq!(bucket.kept(key), ["aws:kms", "tests-key", "STANDARD_IA", shared], "{id}");
            decodes_from(&bucket, key, &server);
        }
        assert_eq!(server.get("/live/streams/large.mp4").status(), 200, "by a signed address");
        let heads = way.heads();
        assert!(
            heads.iter().any(|head| head.starts_with("put ") && head.contains("partnumber=2")),
            "in parts: {heads:#?}"
        );
        let pays = ["\r\nx-amz-request-payer: requester\r\n", "x-amz-request-payer=requester"];
        let unpaid: Vec<_> = heads.iter().filter(|head| !pays.iter().any(|words| head.contains(words))).collect();
        assert!(unpaid.is_empty(), "{unpaid:#?}");
    });
}

#[test]
fn checksums_and_encryption_that_this_server_does_not_know_are_asked_for() {
    light(s(240), || {
        let bucket = Bucket::new();
        for (option, asked_for) in [
            ("checksum = \"crc32\"", "x-amz-checksum-crc32"),
            ("checksum = \"crc32c\"", "x-amz-checksum-crc32c"),
            ("checksum = \"crc64nvme\"", "x-amz-checksum-crc64nvme"),
            ("checksum = \"sha1\"", "x-amz-checksum-sha1"),
            ("checksum = \"sha256\"", "x-amz-checksum-sha256"),
            ("sse = \"AES256\"", "x-amz-server-side-encryption: aes256"),
            ("sse = \"aws:kms:dsse\"", "x-amz-server-side-encryption: aws:kms:dsse"),
        ] {
            let way = Faulty::to(bucket.server, 1);
            // Tried at the start.
            let _server = Server::with(&format!("{}{option}\n", settings(&bucket, &way.url())));
            let put = until("the probe", s(20), || way.heads().into_iter().find(|head| head.starts_with("put ")));
            assert!(put.contains(asked_for) && put.contains("\r\ncontent-md5: "), "{option}: {put}");
        }
        // And of every part of an upload.
        let way = Faulty::to(bucket.server, 1);
        let server = Server::with(&format!("{}checksum = \"sha256\"\n", settings(&bucket, &way.url())));
        publish(&server, "large", flv::bulky(), 8000);
        let find = |words: [&str; 2]| {
            until(words[0], s(60), || way.heads().into_iter().find(|head| words.iter().all(|word| head.contains(word))))
        };
        find(["post ", "\r\nx-amz-checksum-algorithm: sha256\r\n"]);
        find(["partnumber=1", "x-amz-checksum-sha256"]);
    });
}
