//! What every registry does with what is to be told.

use super::*;

contract! {
    a_beginning_and_an_end_are_told_once_each_and_in_order,
    of_many_that_take_a_mailbox_one_gets_it,
    a_broadcast_without_a_webhook_has_nothing_to_tell_unless_it_has_its_own,
    what_was_let_in_without_the_registry_is_told_when_it_is_back,
    a_recording_that_is_ready_is_told_after_the_end_of_its_broadcast,
    what_is_to_be_told_outlives_the_row_of_its_broadcast,
    what_is_deferred_leaves_others_their_turn,
}

const LATER_MS: i64 = 1_000_000_000_000;

async fn due(registry: &dyn Registry, now_ms: i64) -> Vec<Mailbox> {
    registry.collect_events().await.unwrap();
    registry.due_mailboxes(now_ms, 100).await.unwrap()
}

async fn actions(registry: &dyn Registry, stream: &str) -> Vec<&'static str> {
    let mailboxes = due(registry, LATER_MS).await;
    let mailbox = mailboxes.into_iter().find(|mailbox| mailbox.stream_id == stream).unwrap_or_default();
    mailbox.events.iter().map(|event| event.what.action()).collect()
}

async fn tell_all(registry: &dyn Registry, stream: &str) {
    for mailbox in due(registry, LATER_MS).await.into_iter().filter(|mailbox| mailbox.stream_id == stream) {
        for event in mailbox.events {
            let told = Turn::Told { event: event.id, until_ms: 0 };
            registry.turn_mailbox(&id(stream), &told).await.unwrap();
        }
    }
}

fn ready(file: &str, stream: &str) -> RecordingRow {
    RecordingRow {
        vod_id: VodId::new(5_000, file.len() as u32),
        app: "live".into(),
        stream: stream.into(),
        file: file.into(),
        node: "n1".into(),
        state: RecordingState::Ready,
        duration_ms: 4_000,
        ..RecordingRow::default()
    }
}

fn told_of(row: RecordingRow) -> RecordingRow {
    RecordingRow { events: Event::of_recording(&row, false, 5_000).into_iter().collect(), ..row }
}

async fn a_beginning_and_an_end_are_told_once_each_and_in_order(registry: &dyn Registry) {
    assert_eq!(due(registry, LATER_MS).await, []);
    registry.claim(&id("a"), &bid("n1", S)).await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(5), registry.noted().notified()).await.expect("woken");
    // It is replaced, and moves: nothing that anybody has to be told of.
    registry.claim(&id("a"), &bid("n1", 2 * S)).await.unwrap();
    registry.claim(&id("a"), &bid("n2", 3 * S)).await.unwrap();
    assert!(!registry.finish(&progress("a", epoch(1), 1, 0), Ending::Finished, 4 * S).await.unwrap());
    assert_eq!(actions(registry, "a").await, ["liveStreamStarted"]);
    assert!(registry.finish(&progress("a", epoch(3), 9, 0), Ending::TerminatedUnexpectedly, 5 * S).await.unwrap());
    registry.claim(&id("a"), &bid("n1", 6 * S)).await.unwrap();
    let mailboxes = due(registry, LATER_MS).await;
    let [mailbox] = &mailboxes[..] else { panic!("{mailboxes:?}") };
    let status = BroadcastStatus::TerminatedUnexpectedly;
    let told: Vec<_> = mailbox.events.iter().map(|event| (event.at_ms, event.what.clone())).collect();
    assert_eq!(
        told,
        [
            (1_000, Happening::LiveStreamStarted),
            (5_000, Happening::LiveStreamEnded { status }),
            (6_000, Happening::LiveStreamStarted)
        ]
    );
    assert_eq!(due(registry, LATER_MS).await, mailboxes, "the same again, with the same ids");
    assert_eq!(row_of(registry, "a").await.events, [], "nothing is left in the row");

    let take = |now_ms| Turn::Take { now_ms, until_ms: now_ms + 500 };
    let taken = registry.turn_mailbox(&id("a"), &take(7_000)).await.unwrap().unwrap();
    assert_eq!((taken.events[0].tried_ms, due(registry, 7_499).await.len()), (Some(7_000), 0));
    let told = Turn::Told { event: taken.events[0].id.clone(), until_ms: 7_600 };
    let left = registry.turn_mailbox(&id("a"), &told).await.unwrap().unwrap();
    assert_eq!(left.events, taken.events[1..]);
    let failed = registry.turn_mailbox(&id("a"), &Turn::Failed { until_ms: 9_000 }).await.unwrap().unwrap();
    assert_eq!((failed.failures, failed.due_ms), (1, 9_000));
    assert_eq!((due(registry, 8_999).await.len(), due(registry, 9_000).await), (0, vec![failed]));
    tell_all(registry, "a").await;
    assert_eq!(due(registry, LATER_MS).await, []);
    assert_eq!(registry.turn_mailbox(&id("a"), &take(10_000)).await.unwrap(), None);
}

async fn row_of(registry: &dyn Registry, stream: &str) -> BroadcastRow {
    registry.get(&id(stream)).await.unwrap().unwrap()
}

async fn of_many_that_take_a_mailbox_one_gets_it(registry: &dyn Registry) {
    registry.claim(&id("a"), &bid("n1", S)).await.unwrap();
    assert_eq!(due(registry, LATER_MS).await.len(), 1);
    let (id, take) = (id("a"), Turn::Take { now_ms: 2_000, until_ms: 3_000 });
    let takes = futures_util::future::join_all((0..10).map(|_| registry.turn_mailbox(&id, &take))).await;
    assert_eq!(takes.into_iter().filter(|taken| taken.as_ref().unwrap().is_some()).count(), 1);
}

async fn a_broadcast_without_a_webhook_has_nothing_to_tell_unless_it_has_its_own(registry: &dyn Registry) {
    let quiet = |node, now_us| Bid { webhook: false, ..bid(node, now_us) };
    registry.claim(&id("a"), &quiet("n1", S)).await.unwrap();
    assert!(registry.finish(&progress("a", epoch(1), 1, 0), Ending::Finished, 2 * S).await.unwrap());
    assert_eq!(due(registry, LATER_MS).await, []);
    let details = Details { listener_hook_url: "https://example.org/hook".into(), ..Details::default() };
    registry.create(&id("b"), details.clone(), S).await.unwrap();
    registry.claim(&id("b"), &quiet("n1", 2 * S)).await.unwrap();
    let mailboxes = due(registry, LATER_MS).await;
    assert_eq!(
        mailboxes.iter().map(|mailbox| &*mailbox.listener_hook_url).collect::<Vec<_>>(),
        [&*details.listener_hook_url]
    );
    assert_eq!(row_of(registry, "b").await.details, details);
    let mended = Details { listener_hook_url: "https://example.org/mended".into(), ..Details::default() };
    assert!(registry.set_details(&id("b"), mended).await.unwrap());
    registry.put_recording(&told_of(ready("b.mp4", "b"))).await.unwrap();
    let mailbox = due(registry, LATER_MS).await.remove(0);
    assert_eq!(
        (&*mailbox.listener_hook_url, mailbox.events.len()),
        ("https://example.org/mended", 2),
        "what waits, too"
    );
}

async fn what_was_let_in_without_the_registry_is_told_when_it_is_back(registry: &dyn Registry) {
    let seen = BroadcastRow::new(&id("a"), 0, 0);
    let Claimed { epoch: held, next_gop, discontinuity, born_us, .. } =
        seen.clone().claim_provisionally(&bid("n1", 9 * S)).unwrap();
    let hall = Hall { epoch: held, next_gop, discontinuity, born_us, began_us: 9 * S, segment_target_s: None };
    let stay = Bid { ask: Ask::Stay, hall: Some(hall), ..bid("n1", 60 * S) };
    let granted = registry.claim(&id("a"), &stay).await.unwrap();
    let last = progress("a", granted.epoch, next_gop + 3, 0);
    assert!(registry.finish(&last, Ending::Finished, 61 * S).await.unwrap());
    let mailboxes = due(registry, LATER_MS).await;
    let [began, ended] = &mailboxes[0].events[..] else { panic!("{mailboxes:?}") };
    assert_eq!((began.at_ms, &began.what, ended.at_ms), (9_000, &Happening::LiveStreamStarted, 61_000));
}

async fn a_recording_that_is_ready_is_told_after_the_end_of_its_broadcast(registry: &dyn Registry) {
    registry.claim(&id("a"), &bid("n1", S)).await.unwrap();
    tell_all(registry, "a").await;
    let mut row = RecordingRow { state: RecordingState::Finalising, ..ready("a.mp4", "a") };
    registry.put_recording(&row).await.unwrap();
    row.state = RecordingState::Ready;
    row.events.extend(Event::of_recording(&row, true, 5_000));
    registry.put_recording(&row).await.unwrap();
    let mailbox = due(registry, LATER_MS).await.remove(0);
    assert_eq!(mailbox.next(Some(&row_of(registry, "a").await), 5_100), None);
    assert!(registry.finish(&progress("a", epoch(1), 9, 0), Ending::Finished, 6 * S).await.unwrap());
    assert_eq!(actions(registry, "a").await, ["liveStreamEnded", "vodReady"]);
    tell_all(registry, "a").await;
    assert_eq!(due(registry, LATER_MS).await, []);
    let kept = registry.recording("live", &row.vod_id).await.unwrap().unwrap();
    assert_eq!(kept, RecordingRow { events: Vec::new(), ..row }, "told, and taken out of the row");
}

async fn what_is_to_be_told_outlives_the_row_of_its_broadcast(registry: &dyn Registry) {
    let hook = "https://example.org/hook".to_owned();
    let details = Details { name: "Show".into(), listener_hook_url: hook, ..Details::default() };
    registry.create(&id("a"), details.clone(), S).await.unwrap();
    registry.claim(&id("a"), &bid("n1", S)).await.unwrap();
    assert!(registry.finish(&progress("a", epoch(1), 1, 0), Ending::Finished, 2 * S).await.unwrap());
    assert!(registry.remove(&id("a")).await.unwrap());
    assert_eq!(actions(registry, "a").await, ["liveStreamStarted", "liveStreamEnded"]);
    let mailbox = due(registry, LATER_MS).await.remove(0);
    assert_eq!((&mailbox.listener_hook_url, mailbox.removed.as_ref()), (&details.listener_hook_url, Some(&details)));
    registry.claim(&id("a"), &bid("n1", 3 * S)).await.unwrap();
    assert_eq!(actions(registry, "a").await, ["liveStreamStarted", "liveStreamEnded", "liveStreamStarted"]);
    let ids: std::collections::BTreeSet<_> =
        due(registry, LATER_MS).await.remove(0).events.into_iter().map(|event| event.id).collect();
    assert_eq!(ids.len(), 3);
}

async fn what_is_deferred_leaves_others_their_turn(registry: &dyn Registry) {
    for stream in ["a", "b", "c"] {
        registry.claim(&id(stream), &bid("n1", S)).await.unwrap();
    }
    assert_eq!(due(registry, 2_000).await.len(), 3);
    registry.defer_mailboxes(&[id("a"), id("c"), id("nobody")], 5_000).await.unwrap();
    let names = |mailboxes: Vec<Mailbox>| mailboxes.into_iter().map(|mailbox| mailbox.stream_id).collect::<Vec<_>>();
    assert_eq!(names(due(registry, 4_999).await), ["b"]);
    assert_eq!(names(registry.due_mailboxes(5_000, 1).await.unwrap()), ["b"], "the one that waits longest");
    assert_eq!(due(registry, 5_000).await.len(), 3);
}
