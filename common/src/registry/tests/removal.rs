//! What becomes of broadcasts that are removed, on every registry.

use super::{contract::join_all, *};

contract! {
    what_is_over_is_removed_and_what_goes_on_is_not,
    nothing_of_a_removed_broadcast_comes_back_by_itself,
    a_later_publisher_of_that_name_begins_another_broadcast,
    of_many_that_remove_it_one_does_and_who_claims_it_meanwhile_has_it,
}

async fn ended(registry: &dyn Registry, stream: &str, now_us: i64) -> Claimed {
    let claimed = registry.claim(&id(stream), &bid("n1", now_us)).await.unwrap();
    let last = progress(stream, claimed.epoch, claimed.next_gop + 9, claimed.discontinuity);
    assert!(registry.finish(&last, Ending::Finished, now_us + S).await.unwrap());
    claimed
}

/// What the hall of a node holds under a claim.
fn hall(claimed: &Claimed, epoch: u64) -> Hall {
    let Claimed { next_gop, discontinuity, born_us, .. } = *claimed;
    let next_gop = next_gop + 9;
    Hall { epoch, next_gop, discontinuity, born_us, began_us: born_us, segment_target_s: Some(4) }
}

async fn what_is_over_is_removed_and_what_goes_on_is_not(registry: &dyn Registry) {
    let details = Details { name: "of the first".into(), ..Details::default() };
    for stream in ["created", "live", "over"] {
        registry.create(&id(stream), details.clone(), S).await.unwrap();
    }
    let held = registry.claim(&id("live"), &bid("n1", 2 * S)).await.unwrap();
    ended(registry, "over", 2 * S).await;
    for stream in ["created", "over"] {
        assert!(registry.remove(&id(stream)).await.unwrap());
        assert!(!registry.remove(&id(stream)).await.unwrap());
        assert_eq!(registry.get(&id(stream)).await.unwrap(), None);
    }
    let refused = registry.remove(&id("live")).await;
    assert!(matches!(&refused, Err(RegistryError::InUse { node, .. }) if node == "n1"), "{refused:?}");
    assert_eq!(registry.get(&id("live")).await.unwrap().unwrap().epoch, held.epoch);
    assert_eq!(registry.list("live", 0, 50).await.unwrap().len(), 1);
    assert_eq!(registry.count("live").await.unwrap(), 1);
    let again = registry.create(&id("over"), Details::default(), 9 * S).await.unwrap();
    assert_eq!((again.status, again.details, again.created_ms), (BroadcastStatus::Created, Details::default(), 9_000));
}

async fn nothing_of_a_removed_broadcast_comes_back_by_itself(registry: &dyn Registry) {
    let claimed = ended(registry, "a", S).await;
    // Its node was cut off, and let the publisher in again by itself.
    let mut seen = registry.get(&id("a")).await.unwrap().unwrap();
    let lingering = Bid { hall: Some(hall(&claimed, claimed.epoch)), ..bid("n1", 5 * S) };
    let without = seen.claim_provisionally(&lingering).unwrap();
    assert!(registry.remove(&id("a")).await.unwrap());

    let late = async |expected: Option<BroadcastStatus>| {
        registry.progress(&[progress("a", claimed.epoch, 900, 9)], 6 * S).await.unwrap();
        assert!(!registry.finish(&progress("a", claimed.epoch, 900, 9), Ending::Finished, 6 * S).await.unwrap());
        for epoch in [claimed.epoch, without.epoch] {
            let stay = Bid { ask: Ask::Stay, hall: Some(hall(&claimed, epoch)), ..bid("n1", 6 * S) };
            let refused = registry.claim(&id("a"), &stay).await;
            assert!(matches!(refused, Err(RegistryError::Removed { .. })), "{epoch:x}: {refused:?}");
        }
        let row = registry.get(&id("a")).await.unwrap();
        assert_eq!(row.map(|row| row.status), expected);
    };
    late(None).await;
    assert!(!registry.set_details(&id("a"), Details::default()).await.unwrap());
    assert!(!registry.set_record(&id("a"), Some(true)).await.unwrap());
    assert!(!registry.set_take(&id("a"), &Take::default(), Some(true), 6 * S).await.unwrap());
    assert_eq!(registry.count("live").await.unwrap(), 0);
    registry.create(&id("a"), Details::default(), 7 * S).await.unwrap();
    late(Some(BroadcastStatus::Created)).await;
    let next = ended(registry, "a", 8 * S).await;
    late(Some(BroadcastStatus::Finished)).await;
    // Of the new row this one is.
    let stay = Bid { ask: Ask::Stay, hall: Some(hall(&next, next.epoch)), ..bid("n1", 10 * S) };
    assert!(registry.claim(&id("a"), &stay).await.unwrap().epoch > next.epoch);
    // And one that nobody knew of began without the registry.
    let unknown = BroadcastRow::new(&id("b"), 0, S).claim_provisionally(&bid("n1", S)).unwrap();
    let stay = Bid { ask: Ask::Stay, hall: Some(hall(&unknown, unknown.epoch)), ..bid("n1", 11 * S) };
    assert_eq!(registry.claim(&id("b"), &stay).await.unwrap().born_us, unknown.born_us);
}

async fn a_later_publisher_of_that_name_begins_another_broadcast(registry: &dyn Registry) {
    let before = ended(registry, "a", S).await;
    assert!(registry.set_take(&id("a"), &Take::default(), Some(true), 2 * S).await.unwrap());
    assert!(registry.remove(&id("a")).await.unwrap());
    // Where viewers still look at its end, and where nothing is known of it.
    let lingering = Bid { hall: Some(hall(&before, before.epoch)), ..bid("n1", 3 * S) };
    let after = registry.claim(&id("a"), &lingering).await.unwrap();
    assert!(after.epoch > before.epoch, "nobody has that of its last publisher");
    assert_eq!((after.born_us, after.segment_target_s), (3 * S, None));
    assert_eq!((after.next_gop, after.discontinuity), (9, 1), "on one node numbers are never used twice");
    let row = registry.get(&id("a")).await.unwrap().unwrap();
    assert_eq!((row.created_ms, row.takes), (3_000, Takes::default()));
    let last = progress("a", after.epoch, 12, 1);
    assert!(registry.finish(&last, Ending::Finished, 4 * S).await.unwrap());
    assert!(registry.remove(&id("a")).await.unwrap());
    let elsewhere = registry.claim(&id("a"), &bid("n2", 5 * S)).await.unwrap();
    assert!(elsewhere.epoch > after.epoch);
    assert_eq!((elsewhere.born_us, elsewhere.next_gop), (5 * S, 0));
    // Who comes back to that one goes on with it.
    let goes_on = Bid { hall: Some(hall(&elsewhere, elsewhere.epoch)), ..bid("n2", 6 * S) };
    assert_eq!(registry.claim(&id("a"), &goes_on).await.unwrap().born_us, 5 * S);
}

async fn of_many_that_remove_it_one_does_and_who_claims_it_meanwhile_has_it(registry: &dyn Registry) {
    let mut newest = 0;
    for round in 0..12 {
        let before = ended(registry, "a", 10 * round * S).await;
        assert!(before.epoch > newest, "no epoch is granted twice");
        let (id, bid) = (id("a"), bid("n2", (10 * round + 5) * S));
        let removals = join_all((0..4).map(|_| registry.remove(&id)));
        let (removals, claimed) = futures_util::join!(removals, registry.claim(&id, &bid));
        newest = claimed.unwrap().epoch;
        let removed = removals.iter().filter(|removed| matches!(removed, Ok(true))).count();
        assert!(removed <= 1, "{removals:?}");
        let is_known = |removed: &Result<bool, _>| matches!(removed, Ok(_) | Err(RegistryError::InUse { .. }));
        assert!(removals.iter().all(is_known), "{removals:?}");
        let row = registry.get(&id).await.unwrap().expect("the newest claim has a row");
        assert_eq!((row.epoch, row.status), (newest, BroadcastStatus::Broadcasting));
        assert_eq!(row.has_forgotten(before.epoch), removed == 1, "{row:?}");
        assert!(registry.finish(&progress("a", newest, 40, 1), Ending::Finished, (10 * round + 6) * S).await.unwrap());
        let removals = join_all((0..4).map(|_| registry.remove(&id))).await;
        assert_eq!(removals.iter().filter(|removed| matches!(removed, Ok(true))).count(), 1, "{removals:?}");
        assert!(removals.iter().all(|removed| removed.is_ok()), "{removals:?}");
    }
}
