//! What the registry says against the disk and the bucket, after somebody interfered with both.

use super::*;
use crate::harness::server::headwater;

/// What the command prints, and whether all is well.
pub(super) fn reconcile(server: &Server, more: &[&str]) -> (bool, String) {
    let mut command = headwater();
    command.arg("reconcile").args(more).arg("--config").arg(server.dir.join("headwater.toml"));
    let output = command.arg("--data").arg(server.dir.join("data")).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn differences_are_listed_and_repaired() {
    light(s(240), || {
        let bucket = Bucket::new();
        let mut server = Server::with(&format!("{}keep_local = true\n", settings(&bucket, &bucket.url())));
        for id in ["fine", "vanished", "lost", "foundling"] {
            publish(&server, id, flv::clip(), 2000);
            until_upload(&server, id, "done", 30);
        }
        let (well, said) = reconcile(&server, &[]);
        assert!(!well && said.contains("is held by another process"), "{said}");
        assert!(server.terminate(s(30)).success());
        assert_eq!(reconcile(&server, &[]), (true, "All recordings are where the registry says.\n".to_owned()));

        let folder = server.recordings().join("live/streams");
        bucket.delete("live/streams/vanished.mp4");
        bucket.delete("live/streams/lost.mp4");
        std::fs::remove_file(folder.join("lost.mp4")).unwrap();
        std::fs::copy(folder.join("fine.mp4"), folder.join("stray.mp4")).unwrap();
        bucket.put("live/streams/theirs.mp4", "not ours");
        bucket.begin_upload("live/streams/forgotten.mp4");
        let lines = [
            "live/vanished.mp4: gone from the bucket, still on the disk",
            "live/lost.mp4: neither on the disk nor in the bucket",
            "live/streams/stray.mp4: on the disk, unknown to the registry",
            "live/streams/theirs.mp4: in the bucket, unknown to the registry",
            "live/streams/forgotten.mp4: an upload that nobody goes on with",
        ];
        let (well, said) = reconcile(&server, &[]);
        assert!(!well && said.contains("5 differences"), "{said}");
        assert!(lines.iter().all(|line| said.contains(line)), "{said}");
        assert_eq!(bucket.open_uploads().len(), 1, "nothing was changed");
        let (well, said) = reconcile(&server, &["--repair"]);
        assert!(!well && said.contains("5 differences, 1 of them not repaired"), "{said}");
        assert!(said.contains("left alone: it was not uploaded by Headwater"), "{said}");
        assert_eq!(bucket.open_uploads(), [""; 0]);

        server.start_again();
        for id in ["vanished", "stray"] {
            until_upload(&server, id, "done", 30);
            decodes_from(&bucket, &format!("live/streams/{id}.mp4"), &server);
        }
        let lost = vod(&server, "lost").expect("its row");
        assert_eq!(lost["processStatus"], "failed", "{lost:#}");

        // A registry that is gone for good: what was uploaded by it is found in the bucket.
        assert!(server.terminate(s(30)).success());
        std::fs::remove_file(server.recordings().join("registry.redb")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        let (_, said) = reconcile(&server, &["--repair"]);
        assert!(
            said.contains(
                "live/streams/foundling.mp4: in the bucket, unknown to the registry; the registry knows it now"
            ),
            "{said}"
        );
        server.start_again();
        assert_eq!(vod(&server, "foundling").expect("listed")["uploadState"], "done");
        assert_eq!(server.get("/live/streams/foundling.mp4").status(), 200);
    });
}
