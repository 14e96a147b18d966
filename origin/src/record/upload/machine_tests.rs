use std::collections::BTreeMap;

use super::*;

const OURS: &str = "0123456789ab01234567";

/// A bucket as S3 behaves, which loses requests and answers at random.
struct World {
    objects: BTreeMap<String, Seen>,
    uploads: BTreeMap<String, (String, BTreeMap<u32, u64>)>,
    begun: u64,
    /// Uploads that a request began that is still on its way, and how many others overtake it.
    late: Vec<(u32, String)>,
    has_detours: bool,
    random: u64,
}

/// Neither the request nor the answer was lost, or one of them was.
enum Outcome {
    Answer(Answer),
    Fault(Fault),
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            begun: 0,
            late: Vec::new(),
            has_detours: true,
            random: seed * 2 + 1,
        }
    }

    /// One in so many.
    fn chance(&mut self, of: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random.is_multiple_of(of)
    }

    fn begin(&mut self, key: &str) {
        self.begun += 1;
        self.uploads.insert(format!("upload {}", self.begun), (key.to_owned(), BTreeMap::new()));
    }

    fn ask(&mut self, key: &str, bytes: u64, action: &Action) -> Outcome {
        for (overtaken_by, key) in std::mem::take(&mut self.late) {
            match overtaken_by {
                0 => self.begin(&key),
                others => self.late.push((others - 1, key)),
            }
        }
        if self.chance(6) {
            return Outcome::Fault(Fault::Server);
        }
        let etag = format!("\"{key}-{bytes}\"");
        let ours = Seen { bytes, etag: etag.clone(), vod_id: Some(OURS.to_owned()) };
        let answer = match action {
            Action::Look => Answer::Seen(self.objects.get(key).cloned()),
            Action::Sweep => {
                self.uploads.retain(|_, (of, _)| of != key);
                Answer::Swept
            }
            Action::Put => {
                self.objects.insert(key.to_owned(), ours);
                Answer::Put { etag }
            }
            Action::Begin if self.has_detours && self.chance(3) => {
                self.late.push((4, key.to_owned()));
                return Outcome::Fault(Fault::Unreachable);
            }
            Action::Begin => {
                self.begin(key);
                Answer::Begun { upload_id: format!("upload {}", self.begun) }
            }
            Action::Part { upload_id, number, range } => {
                let Some((_, parts)) = self.uploads.get_mut(upload_id) else { return Outcome::Fault(Fault::NoUpload) };
                parts.insert(*number, range.end - range.start);
                Answer::Part(Part { etag: number.to_string(), checksum: None })
            }
            Action::Complete { upload_id, parts: named } => {
                let Some((of, parts)) = self.uploads.remove(upload_id) else { return Outcome::Fault(Fault::NoUpload) };
                assert_eq!((of.as_str(), named.len()), (key, parts.len()));
                assert_eq!(parts.values().sum::<u64>(), bytes, "every byte once");
                self.objects.insert(key.to_owned(), ours);
                Answer::Completed { etag }
            }
            Action::Abort { upload_id } => {
                self.uploads.remove(upload_id);
                Answer::Aborted
            }
            Action::Delete => {
                let deleted = self.objects.remove(key);
                assert_eq!(deleted.and_then(|seen| seen.vod_id).as_deref(), Some(OURS), "only what is ours");
                Answer::Deleted
            }
            Action::Arrived { .. } | Action::Gone => unreachable!("not a request"),
        };
        if self.chance(6) { Outcome::Fault(Fault::Unreachable) } else { Outcome::Answer(answer) }
    }

    /// Until it is over; a process may die between any two steps and comes back with the journal alone.
    fn run(&mut self, mut journal: Journal, bytes: u64, forget_at: Option<u32>) -> (Journal, Action) {
        let mut transfer = Transfer::new(journal.clone(), bytes);
        for step in 0..10_000 {
            if forget_at.is_some_and(|at| step >= at) {
                transfer.forget();
            }
            let action = transfer.action();
            journal = transfer.journal().clone();
            if self.chance(9) {
                transfer = Transfer::new(journal.clone(), bytes);
                continue;
            }
            if matches!(action, Action::Arrived { .. } | Action::Gone) {
                return (journal, action);
            }
            match self.ask(&journal.key.clone(), bytes, &action) {
                // Dies with the answer in hand.
                Outcome::Answer(_) if self.chance(9) => transfer = Transfer::new(journal.clone(), bytes),
                Outcome::Answer(answer) => transfer.answered(answer).expect("an honest bucket"),
                Outcome::Fault(fault) => transfer.failed(&action, fault),
            }
        }
        panic!("no end");
    }
}

fn journal() -> Journal {
    Journal { vod_id: VodId::parse(OURS), key: "live/streams/cam.mp4".to_owned(), ..Journal::default() }
}

#[test]
fn whatever_is_lost_and_whenever_it_dies_it_arrives_once() {
    for seed in 1..2000 {
        for bytes in [0, 1, PART_BYTES, PART_BYTES + 1, 7 * PART_BYTES, 7 * PART_BYTES + 5] {
            let mut world = World::new(seed);
            let (journal, end) = world.run(journal(), bytes, None);
            assert!(matches!(end, Action::Arrived { .. }), "{end:?}");
            assert_eq!(world.objects.keys().collect::<Vec<_>>(), [&journal.key], "seed {seed}");
            assert_eq!(world.objects[&journal.key].bytes, bytes);
            assert!(world.uploads.is_empty(), "seed {seed}: {:?}", world.uploads);
        }
    }
}

#[test]
fn whenever_it_is_deleted_nothing_is_left() {
    for seed in 1..2000 {
        for at in [0, 1, 3, 6, 9, 20] {
            // A deletion is over within a few requests: what is done still later is left to the bucket's lifecycle rules.
            let mut world = World { has_detours: false, ..World::new(seed) };
            let (_, end) = world.run(journal(), 5 * PART_BYTES, Some(at));
            if end == Action::Gone {
                assert!(world.objects.is_empty() && world.uploads.is_empty(), "seed {seed} at {at}");
            } else {
                assert!(matches!(end, Action::Arrived { .. }), "it was faster: {end:?}");
            }
        }
    }
}

#[test]
fn the_object_of_somebody_else_is_neither_replaced_nor_deleted() {
    for seed in 1..500 {
        for bytes in [1, 3 * PART_BYTES] {
            let mut world = World::new(seed);
            let theirs = Seen { bytes, etag: "theirs".to_owned(), vod_id: Some("another".to_owned()) };
            world.objects.insert(journal().key, theirs.clone());
            let (journal_after, end) = world.run(journal(), bytes, None);
            assert!(matches!(end, Action::Arrived { .. }));
            assert_eq!(journal_after.key, format!("live/streams/cam_{OURS}.mp4"));
            assert_eq!(world.objects[&journal().key], theirs);
            assert_eq!(world.objects.len(), 2);
            let unwanted = Journal { unwanted: true, ..journal() };
            assert_eq!(world.run(unwanted, bytes, None).1, Action::Gone);
            assert_eq!(world.objects[&journal().key], theirs);
        }
    }
}

#[test]
fn a_bucket_that_has_something_else_afterwards_is_caught() {
    let sent = |seen: Option<Seen>| {
        let mut transfer = Transfer::new(journal(), 5);
        transfer.answered(Answer::Seen(None)).unwrap();
        assert_eq!(transfer.action(), Action::Put);
        transfer.answered(Answer::Put { etag: "\"e\"".to_owned() }).unwrap();
        assert_eq!(transfer.action(), Action::Look);
        let outcome = transfer.answered(Answer::Seen(seen));
        (outcome.err().map(|mismatch| mismatch.to_string()), transfer.action())
    };
    let seen =
        |bytes, etag: &str, owner: &str| Some(Seen { bytes, etag: etag.to_owned(), vod_id: Some(owner.to_owned()) });
    assert_eq!(sent(seen(5, "e", OURS)), (None, Action::Arrived { etag: "e".to_owned() }));
    for (found, words) in [
        (None, "no object"),
        (seen(4, "\"e\"", OURS), "4 bytes instead of 5"),
        (seen(5, "\"f\"", OURS), "another object"),
        (seen(5, "\"e\"", "x"), "somebody else"),
    ] {
        let (complaint, next) = sent(found);
        assert!(complaint.as_ref().is_some_and(|text| text.contains(words)), "{complaint:?}");
        assert_eq!(next, Action::Look, "nothing is believed any more");
    }
}

#[test]
fn parts_grow_with_the_file_so_that_there_are_never_too_many() {
    for bytes in [PART_BYTES + 1, 80_000 << 20, (80_000 << 20) + 1, 5 << 40] {
        let part = part_bytes(bytes);
        assert!(bytes.div_ceil(part) <= PARTS_MAX && part.is_multiple_of(MIB), "{bytes}: {part}");
    }
    assert_eq!(part_bytes(80_000 << 20), PART_BYTES);
}

#[test]
fn who_may_not_list_uploads_is_not_stuck() {
    let mut transfer = Transfer::new(Journal { unsure: true, ..journal() }, 5);
    let whole = Seen { bytes: 5, etag: "e".to_owned(), vod_id: Some(OURS.to_owned()) };
    transfer.answered(Answer::Seen(Some(whole.clone()))).unwrap();
    assert_eq!(transfer.action(), Action::Sweep);
    transfer.failed(&Action::Sweep, Fault::Denied);
    transfer.answered(Answer::Seen(Some(whole))).unwrap();
    assert_eq!(transfer.action(), Action::Arrived { etag: "e".to_owned() });
}

#[test]
fn a_piece_is_sent_unasked_in_one_and_looked_at() {
    let key = format!("live/streams/cam_{OURS}/0-3.m4s");
    let mut transfer = Transfer::of_piece(Journal { key, ..journal() }, 5 * PART_BYTES);
    assert_eq!(transfer.action(), Action::Put);
    transfer.answered(Answer::Put { etag: "e".to_owned() }).unwrap();
    assert_eq!(transfer.action(), Action::Look);
    // What is in its folder is ours, whatever a server did to the metadata.
    transfer.answered(Answer::Seen(Some(Seen { bytes: 5 * PART_BYTES, etag: "e".to_owned(), vod_id: None }))).unwrap();
    assert_eq!(transfer.action(), Action::Arrived { etag: "e".to_owned() });
}

#[test]
fn a_playlist_replaces_an_older_one_of_ours_and_nobody_elses() {
    let seen = |etag: &str, owner: &str| Some(Seen { bytes: 5, etag: etag.to_owned(), vod_id: Some(owner.to_owned()) });
    let playlist = || Journal { key: "live/streams/cam.vod.m3u8".to_owned(), ..journal() };
    let mut transfer = Transfer::of_playlist(playlist(), 5);
    transfer.answered(Answer::Seen(seen("old", OURS))).unwrap();
    assert_eq!(transfer.action(), Action::Put, "though it is as long");
    transfer.failed(&Action::Put, Fault::Unreachable);
    transfer.answered(Answer::Seen(seen("old", OURS))).unwrap();
    assert_eq!(transfer.action(), Action::Put, "the answer was lost, and maybe the request");
    transfer.answered(Answer::Put { etag: "new".to_owned() }).unwrap();
    assert_eq!(transfer.action(), Action::Look);
    transfer.answered(Answer::Seen(seen("new", OURS))).unwrap();
    assert_eq!(transfer.action(), Action::Arrived { etag: "new".to_owned() });

    let mut transfer = Transfer::of_playlist(playlist(), 5);
    transfer.answered(Answer::Seen(seen("theirs", "another"))).unwrap();
    assert_eq!(transfer.action(), Action::Look);
    assert_eq!(transfer.journal().key, format!("live/streams/cam_{OURS}.vod.m3u8"));

    // Whatever is lost, it is the new one that is there in the end.
    for seed in 1..500 {
        let mut world = World::new(seed);
        world.objects.insert(playlist().key, seen("old", OURS).expect("one"));
        let mut transfer = Transfer::of_playlist(playlist(), 5);
        for _ in 0..1_000 {
            let action = transfer.action();
            if matches!(action, Action::Arrived { .. }) {
                break;
            }
            match world.ask(&playlist().key, 5, &action) {
                Outcome::Answer(answer) => transfer.answered(answer).expect("an honest bucket"),
                Outcome::Fault(fault) => transfer.failed(&action, fault),
            }
        }
        assert!(matches!(transfer.action(), Action::Arrived { .. }), "seed {seed}");
        assert_ne!(world.objects[&playlist().key].etag, "old", "seed {seed}");
    }
}
