//! What every registry keeps, whatever it keeps it in. Each test is run on each of them.

use super::*;
use crate::ladder::Rung;

contract! {
    a_claim_counts_on_and_a_late_word_of_an_old_one_is_ignored,
    who_comes_back_within_a_minute_goes_on_where_it_was,
    a_publisher_on_another_node_is_replaced_or_not_as_the_settings_say,
    a_hall_that_held_it_last_knows_its_numbers_best,
    a_publisher_that_was_let_in_without_the_registry_stays_or_is_outrun,
    of_many_that_claim_at_once_each_gets_an_epoch_of_its_own,
    broadcasts_are_created_and_listed,
    recordings_that_were_asked_for_outlive_a_node_and_end_with_the_broadcast,
    recordings_are_listed_newest_first_and_own_their_file,
}

fn recording(file: &str, vod_id: VodId) -> RecordingRow {
    RecordingRow {
        vod_id,
        app: "live".into(),
        stream: file.split(['.', '_']).next().unwrap_or_default().into(),
        file: file.into(),
        node: "n1".into(),
        ..RecordingRow::default()
    }
}

async fn row(registry: &dyn Registry, stream: &str) -> BroadcastRow {
    registry.get(&id(stream)).await.unwrap().unwrap()
}

async fn a_claim_counts_on_and_a_late_word_of_an_old_one_is_ignored(registry: &dyn Registry) {
    let first = registry.claim(&id("a"), &bid("n1", S)).await.unwrap();
    let fresh = Claimed { epoch: epoch(1), next_gop: 0, discontinuity: 0, born_us: S, segment_target_s: None };
    assert_eq!(first, fresh);
    registry.progress(&[progress("a", epoch(1), 10, 2)], 2 * S).await.unwrap();
    assert!(registry.finish(&progress("a", epoch(1), 12, 2), Ending::Finished, 3 * S).await.unwrap());
    let ended = row(registry, "a").await;
    assert_eq!((ended.status, ended.next_gop, ended.discontinuity), (BroadcastStatus::Finished, 12, 2));
    assert_eq!((ended.started_ms, ended.ended_ms), (Some(1_000), Some(3_000)));
    assert_eq!((ended.publish_type.as_str(), ended.remote.as_str()), ("rtmp", "192.0.2.7:5000"));
    assert_eq!(ended.owner, life("n1"));
    assert!(!registry.finish(&progress("a", epoch(1), 12, 2), Ending::Finished, 3 * S).await.unwrap(), "ends once");

    let second = registry.claim(&id("a"), &bid("n1", 4 * S)).await.unwrap();
    assert_eq!((second.epoch, second.next_gop, second.discontinuity), (epoch(2), 12, 3), "exact after an orderly end");
    registry.progress(&[progress("a", epoch(1), 900, 90)], 5 * S).await.unwrap();
    assert!(!registry.finish(&progress("a", epoch(1), 900, 90), Ending::Finished, 5 * S).await.unwrap());
    let live = row(registry, "a").await;
    assert_eq!((live.status, live.updated_ms, live.ended_ms), (BroadcastStatus::Broadcasting, 4_000, None));
    assert!(live.next_gop < 900);
    registry.progress(&[progress("nobody", epoch(1), 1, 1)], 5 * S).await.unwrap();
    assert_eq!(registry.get(&id("nobody")).await.unwrap(), None);
}

async fn who_comes_back_within_a_minute_goes_on_where_it_was(registry: &dyn Registry) {
    registry.claim(&id("a"), &bid("n1", 5 * S)).await.unwrap();
    let target = Progress { segment_target_s: Some(4), ..progress("a", epoch(1), 10, 0) };
    registry.progress(&[target], 6 * S).await.unwrap();
    // Its node died, and nobody has noticed yet.
    let moved = registry.claim(&id("a"), &bid("n2", 200 * S)).await.unwrap();
    assert_eq!((moved.born_us, moved.segment_target_s), (5 * S, Some(4)));
    assert!(moved.next_gop >= 10 + 60 && moved.discontinuity > 0, "{moved:?}");
    let last = progress("a", epoch(2), moved.next_gop + 1, moved.discontinuity);
    assert!(registry.finish(&last, Ending::TerminatedUnexpectedly, 210 * S).await.unwrap());
    let soon = registry.claim(&id("a"), &bid("n1", 269 * S)).await.unwrap();
    assert_eq!((soon.born_us, soon.segment_target_s), (5 * S, Some(4)));
    let last = progress("a", epoch(3), soon.next_gop + 1, soon.discontinuity);
    assert!(registry.finish(&last, Ending::Finished, 300 * S).await.unwrap());
    let late = registry.claim(&id("a"), &bid("n1", 361 * S)).await.unwrap();
    assert_eq!((late.born_us, late.segment_target_s), (361 * S, None), "another broadcast of that name");
    assert_eq!(late.next_gop, soon.next_gop + 1, "numbers are never used twice all the same");
}

async fn a_publisher_on_another_node_is_replaced_or_not_as_the_settings_say(registry: &dyn Registry) {
    let yielding = |node, now_us| Bid { ask: Ask::Enter(Takeover::Refuse), ..bid(node, now_us) };
    registry.claim(&id("a"), &yielding("n1", S)).await.unwrap();
    let refused = registry.claim(&id("a"), &yielding("n2", 2 * S)).await;
    assert!(
        matches!(&refused, Err(RegistryError::InUse { node, remote, .. })
        if (node.as_str(), remote.as_str()) == ("n1", "192.0.2.7:5000")),
        "{refused:?}"
    );
    assert_eq!(row(registry, "a").await.epoch, epoch(1), "a refusal changes nothing");
    // What its own hall holds the hall decides about.
    registry.claim(&id("a"), &yielding("n1", 3 * S)).await.unwrap();
    let silent = Progress { silent: true, ..progress("a", epoch(2), 5, 0) };
    registry.progress(&[silent], 4 * S).await.unwrap();
    let replaced = registry.claim(&id("a"), &yielding("n2", 5 * S)).await.unwrap();
    assert_eq!(replaced.epoch, epoch(3), "one that is silent is always replaced");
    assert!(registry.claim(&id("a"), &yielding("n1", 6 * S)).await.is_err(), "the new one sends");
    registry.claim(&id("a"), &bid("n1", 7 * S)).await.unwrap();
    assert!(!registry.finish(&progress("a", epoch(3), 9, 9), Ending::Finished, 8 * S).await.unwrap());
    assert_eq!(row(registry, "a").await.owner, life("n1"));
}

async fn a_hall_that_held_it_last_knows_its_numbers_best(registry: &dyn Registry) {
    registry.claim(&id("a"), &bid("n1", S)).await.unwrap();
    let hall =
        Hall { epoch: epoch(1), next_gop: 20, discontinuity: 2, born_us: S, began_us: S, segment_target_s: Some(2) };
    let again = registry.claim(&id("a"), &Bid { hall: Some(hall), ..bid("n1", 30 * S) }).await.unwrap();
    assert_eq!((again.next_gop, again.discontinuity), (20, 3), "no gap in the numbers of one hall");
    assert_eq!((again.born_us, again.segment_target_s), (S, Some(2)));
    let elsewhere = registry.claim(&id("a"), &bid("n2", 40 * S)).await.unwrap();
    let old = Hall { epoch: epoch(2), next_gop: 30, discontinuity: 3, ..hall };
    let back = registry.claim(&id("a"), &Bid { hall: Some(old), ..bid("n1", 50 * S) }).await.unwrap();
    assert!(back.next_gop > elsewhere.next_gop && back.discontinuity > elsewhere.discontinuity, "{back:?}");
}

async fn a_publisher_that_was_let_in_without_the_registry_stays_or_is_outrun(registry: &dyn Registry) {
    registry.claim(&id("a"), &bid("n1", S)).await.unwrap();
    let seen = row(registry, "a").await;
    let without = seen.clone().claim_provisionally(&bid("n2", 1_000 * S)).unwrap();
    assert!(without.epoch > epoch(1) && without.epoch < epoch(2), "{:x}", without.epoch);
    assert_eq!((without.next_gop, without.born_us), (1_000, S));
    let stay = |node, held: &Claimed, now_us| {
        let Claimed { epoch, next_gop, discontinuity, born_us, segment_target_s } = *held;
        let next_gop = next_gop + 3;
        let hall = Hall { epoch, next_gop, discontinuity, born_us, began_us: 1_000 * S, segment_target_s };
        Bid { ask: Ask::Stay, hall: Some(hall), ..bid(node, now_us) }
    };
    // Nobody else came: the publisher and its numbers go on.
    let stays = registry.claim(&id("a"), &stay("n2", &without, 1_010 * S)).await.unwrap();
    let Claimed { next_gop, discontinuity, .. } = without;
    assert_eq!((stays.epoch, stays.next_gop, stays.discontinuity), (epoch(2), next_gop + 3, discontinuity));
    // Somebody thought the node dead.
    assert!(registry.finish(&progress("a", epoch(2), 0, 0), Ending::TerminatedUnexpectedly, 1_020 * S).await.unwrap());
    let held = Claimed { epoch: epoch(2), ..without };
    let stays = registry.claim(&id("a"), &stay("n2", &held, 1_025 * S)).await.unwrap();
    assert_eq!((stays.epoch, stays.next_gop, stays.discontinuity), (epoch(3), next_gop + 3, discontinuity));
    let live = row(registry, "a").await;
    assert_eq!((live.status, live.ended_ms, live.started_ms), (BroadcastStatus::Broadcasting, None, Some(1_000_000)));
    // Somebody else had it, and is gone.
    let other = registry.claim(&id("a"), &bid("n1", 1_030 * S)).await.unwrap();
    let outrun = registry.claim(&id("a"), &stay("n2", &stays, 1_040 * S)).await;
    assert!(matches!(&outrun, Err(RegistryError::Outrun { node, .. }) if node == "n1"), "{outrun:?}");
    let last = progress("a", other.epoch, other.next_gop + 9, other.discontinuity);
    assert!(registry.finish(&last, Ending::Finished, 1_050 * S).await.unwrap());
    let stays = registry.claim(&id("a"), &stay("n2", &stays, 1_060 * S)).await.unwrap();
    assert_eq!((stays.epoch, stays.next_gop), (epoch(5), other.next_gop + 9), "numbers that nobody has used");
    assert!(stays.discontinuity > other.discontinuity);
}

async fn of_many_that_claim_at_once_each_gets_an_epoch_of_its_own(registry: &dyn Registry) {
    let nodes: Vec<_> = (0..12).map(|n| format!("n{n}")).collect();
    let (id, bids) = (id("a"), nodes.iter().map(|node| bid(node, S)).collect::<Vec<_>>());
    let claims = bids.iter().map(|bid| registry.claim(&id, bid));
    let mut epochs: Vec<_> = join_all(claims).await.into_iter().map(|claim| claim.unwrap().epoch).collect();
    let newest = row(registry, "a").await;
    let winner = nodes.iter().position(|node| *node == newest.owner.node).unwrap();
    assert_eq!(newest.epoch, epochs[winner], "the newest claim is the row's");
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=12).map(epoch).collect::<Vec<_>>());

    let yielding = |node: &String| Bid { ask: Ask::Enter(Takeover::Refuse), ..bid(node, S) };
    let (id, bids) = (super::id("b"), nodes.iter().map(yielding).collect::<Vec<_>>());
    let outcomes = join_all(bids.iter().map(|bid| registry.claim(&id, bid))).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "exactly one wins: {outcomes:?}");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(_) | Err(RegistryError::InUse { .. }))));
}

/// All at once, on this task.
pub(super) async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in &mut futures {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if futures.iter().all(|(_, done)| done.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    futures.into_iter().filter_map(|(_, done)| done).collect()
}

async fn broadcasts_are_created_and_listed(registry: &dyn Registry) {
    for n in 0..25 {
        let details = Details { name: format!("No. {n}"), ..Details::default() };
        registry.create(&id(&format!("s{n:02}")), details, n * 1_000).await.unwrap();
    }
    // Neighbours in the key space are other applications.
    for app in ["liv", "live2", "live-", "live.", "live0", "live_", "LIVE"] {
        registry.create(&BroadcastId::new(app, "other").unwrap(), Details::default(), 0).await.unwrap();
    }
    assert!(matches!(
        registry.create(&id("s00"), Details::default(), 1_000).await,
        Err(RegistryError::BroadcastExists { id: taken }) if taken == id("s00")
    ));
    assert_eq!(registry.count("live").await.unwrap(), 25);
    for (offset, size, expected) in
        [(0, 3, &["s00", "s01", "s02"][..]), (23, 50, &["s23", "s24"]), (25, 50, &[]), (3, 0, &[])]
    {
        let listed = registry.list("live", offset, size).await.unwrap();
        assert_eq!(listed.iter().map(|row| row.stream.as_str()).collect::<Vec<_>>(), expected);
    }
    assert_eq!(row(registry, "s07").await.details.name, "No. 7");
    assert_eq!(
        (row(registry, "s07").await.created_ms, row(registry, "s07").await.status),
        (7, BroadcastStatus::Created)
    );

    assert!(registry.set_record(&id("s01"), Some(true)).await.unwrap());
    assert!(!registry.set_record(&id("nobody"), Some(true)).await.unwrap());
    let ladder = Some(vec![Rung { height: 480, video_kbps: 900, audio_kbps: 64, force: true }]);
    let details = Details {
        name: "new".into(),
        description: "d".into(),
        metadata: "{\"a\":1}".into(),
        listener_hook_url: "https://example.org/hook?a=1".into(),
        ladder,
    };
    assert!(registry.set_details(&id("s01"), details.clone()).await.unwrap());
    assert!(!registry.set_details(&id("nobody"), details.clone()).await.unwrap());
    registry.claim(&id("s01"), &bid("n1", 5 * S)).await.unwrap();
    let kept = row(registry, "s01").await;
    assert_eq!((kept.record_override, kept.details), (Some(true), details), "survives a claim");
    assert!(registry.set_record(&id("s01"), None).await.unwrap());
    assert_eq!(row(registry, "s01").await.record_override, None);
}

async fn recordings_that_were_asked_for_outlive_a_node_and_end_with_the_broadcast(registry: &dyn Registry) {
    let take = |height, name: &str| Take { height, name: Some(name.to_owned()).filter(|name| !name.is_empty()) };
    let [encore, small, by_setting] = [take(None, "encore"), take(Some(240), "small"), take(Some(480), "")];
    let wanted = async || row(registry, "a").await.takes.wanted(true, &[480]).into_iter().collect::<Vec<_>>();
    assert!(!registry.set_take(&id("a"), &encore, Some(true), S).await.unwrap(), "there is no such broadcast");
    registry.create(&id("a"), Details::default(), S).await.unwrap();
    for (take, on) in [(&encore, Some(true)), (&small, Some(true)), (&by_setting, Some(false))] {
        assert!(registry.set_take(&id("a"), take, on, 2 * S).await.unwrap());
    }
    let asked_for = [Take::default(), encore.clone(), small.clone()];
    registry.claim(&id("a"), &bid("n1", 500 * S)).await.unwrap();
    registry.progress(&[progress("a", epoch(1), 9, 0)], 501 * S).await.unwrap();
    assert_eq!(wanted().await, asked_for, "long before anybody published");
    // Its node died, and nobody said how it ended.
    registry.claim(&id("a"), &bid("n2", 5_000 * S)).await.unwrap();
    assert_eq!(wanted().await, asked_for);
    assert!(registry.finish(&progress("a", epoch(2), 300, 9), Ending::Finished, 5_100 * S).await.unwrap());
    registry.claim(&id("a"), &bid("n1", 5_159 * S)).await.unwrap();
    assert_eq!(wanted().await, asked_for, "it came back within a minute");
    for take in [&encore, &by_setting] {
        assert!(registry.set_take(&id("a"), take, None, 5_160 * S).await.unwrap());
    }
    registry.claim(&id("a"), &bid("n2", 5_161 * S)).await.unwrap();
    assert_eq!(wanted().await, [Take::default(), small, by_setting], "what was stopped never comes back");

    let held = epoch(4);
    assert!(registry.finish(&progress("a", held, 900, 99), Ending::TerminatedUnexpectedly, 6_000 * S).await.unwrap());
    registry.claim(&id("a"), &bid("n1", 6_060 * S)).await.unwrap();
    assert_eq!(row(registry, "a").await.takes, Takes::default(), "another broadcast of that name");
    for n in 0..8 {
        assert!(registry.set_take(&id("a"), &take(None, &format!("n{n}")), Some(true), 6_070 * S).await.unwrap());
    }
    let refused = registry.set_take(&id("a"), &take(None, "more"), Some(true), 6_070 * S).await;
    assert!(matches!(refused, Err(RegistryError::TooManyTakes(TooMany))), "{refused:?}");
    assert_eq!(row(registry, "a").await.takes.wanted(false, &[]).len(), 8);
}

async fn recordings_are_listed_newest_first_and_own_their_file(registry: &dyn Registry) {
    for n in 0..10 {
        let stream = if n % 2 == 0 { "even" } else { "odd" };
        registry.put_recording(&recording(&format!("{stream}_{n}.mp4"), VodId::new(1_000 + n, 7))).await.unwrap();
    }
    let all = RecordingFilter::default();
    for (filter, offset, size, expected) in [
        (all, 0, 2, &["odd_9.mp4", "even_8.mp4"][..]),
        (RecordingFilter { stream: Some("even"), search: None }, 3, 9, &["even_2.mp4", "even_0.mp4"]),
        (RecordingFilter { stream: None, search: Some("_7") }, 0, 9, &["odd_7.mp4"]),
        (RecordingFilter { stream: None, search: Some(".*") }, 0, 9, &[]),
    ] {
        let rows = registry.list_recordings("live", filter, offset, size).await.unwrap();
        assert_eq!(rows.iter().map(|row| row.file.as_str()).collect::<Vec<_>>(), expected, "{filter:?}");
    }
    assert_eq!(registry.count_recordings("live", all).await.unwrap(), 10);
    assert_eq!(registry.count_recordings("other", all).await.unwrap(), 0);

    let thief = recording("odd_9.mp4", VodId::new(9_999, 8));
    let refused = registry.put_recording(&thief).await;
    assert!(matches!(&refused, Err(RegistryError::FileTaken { file, .. }) if file == "odd_9.mp4"), "{refused:?}");
    assert_eq!(registry.recording("live", &thief.vod_id).await.unwrap(), None, "a refused write leaves nothing behind");
    let namesake = RecordingRow { app: "other".into(), ..recording("odd_9.mp4", VodId::new(9_998, 8)) };
    registry.put_recording(&namesake).await.unwrap();

    let mut failed = registry.recording_of_file("live", "even_4.mp4").await.unwrap().unwrap();
    failed.state = RecordingState::Failed { reason: "the disk is full".into() };
    (failed.bytes, failed.duration_ms, failed.started_ms, failed.created_ms) = (77, 5_000, 1_004, Some(6_004));
    (failed.epoch, failed.frames_lost, failed.gaps, failed.missing_ms) = (epoch(3), 2, 3, 17_000);
    registry.put_recording(&failed).await.unwrap();
    assert_eq!(registry.recording("live", &failed.vod_id).await.unwrap(), Some(failed.clone()));
    let object = ObjectRow { key: "live/even_6.mp4".into(), etag: String::new(), error: "no route".into() };
    for defect in [Some("torn".to_owned()), None] {
        let mut uploading = registry.recording_of_file("live", "even_6.mp4").await.unwrap().unwrap();
        uploading.state = RecordingState::Uploading { defect };
        uploading.object = Some(object.clone());
        registry.put_recording(&uploading).await.unwrap();
        assert_eq!(registry.recording("live", &uploading.vod_id).await.unwrap(), Some(uploading));
    }
    assert_eq!(registry.unfinished_recordings("n1").await.unwrap().len(), 10);
    assert_eq!(registry.unfinished_recordings("n2").await.unwrap(), [], "another node writes them");

    let mut renamed = registry.recording_of_file("live", "even_2.mp4").await.unwrap().unwrap();
    renamed.file = "other.mp4".into();
    registry.put_recording(&renamed).await.unwrap();
    assert_eq!(registry.recording_of_file("live", "even_2.mp4").await.unwrap(), None);

    assert_eq!(registry.remove_recording("live", &failed.vod_id).await.unwrap(), Some(failed.clone()));
    assert_eq!(registry.remove_recording("live", &failed.vod_id).await.unwrap(), None);
    assert_eq!(registry.recording_of_file("live", "even_4.mp4").await.unwrap(), None);
    registry.put_recording(&recording("even_4.mp4", VodId::new(9_999, 8))).await.unwrap();
}
