//! What a shared registry says of nodes, and those that keep another one.

use super::*;
use crate::registry::Verdict;

/// As the registry has it.
fn row(facts: NodeFacts, verdict: Verdict, beat: u64) -> Judged {
    Judged { facts: NodeFacts { age: Duration::ZERO, ..facts }, verdict, beat, silent: Duration::from_secs(7) }
}

fn health(view: &View, id: &str) -> Option<Health> {
    view.node(&NodeId::from(id)).map(|(_, health)| health)
}

#[test]
fn the_registry_tells_of_nodes_that_nobody_hears() {
    let mut now = Instant::now();
    let mut view = View::new(facts("me", 1, 0));
    let rows = |beat| {
        vec![
            row(facts("me", 1, 0), Verdict::Dead, beat),
            row(facts("dead", 5, 0), Verdict::Dead, 9),
            row(stopping("left", 5, 0), Verdict::Dead, 9),
            row(facts("cut", 5, 0), Verdict::Alive, beat),
            row(facts("new", 5, 0), Verdict::Unknown, beat),
        ]
    };
    assert_eq!(view.judge(rows(1), now), Change::Great);
    let seen = |view: &View| ["dead", "left", "cut", "new"].map(|id| health(view, id));
    let expected = [Some(Health::Dead), Some(Health::Left), Some(Health::Suspect), None];
    assert_eq!(seen(&view), expected);
    let silent = view.list(now).into_iter().find(|known| known.facts.id().as_str() == "dead").map(|known| known.silent);
    assert_eq!(silent, Some(Duration::from_secs(7)), "since its row was written");
    for beat in 2..12 {
        now += Duration::from_secs(1);
        view.tick(now);
        assert_eq!(view.judge(rows(beat), now), Change::Nothing, "beat {beat}");
        assert_eq!(seen(&view), expected, "who beats is there, whoever hears it");
    }

    // A drain of a node that is not heard.
    let mut drained = rows(12);
    drained[3].facts.phase = Phase::Draining;
    assert_eq!(view.judge(drained, now), Change::Great);
    assert_eq!(view.node(&NodeId::from("cut")).map(|(facts, _)| facts.phase), Some(Phase::Draining));
    // Its death, and what died before a minute ago comes back.
    let mut later = rows(13);
    later[3].verdict = Verdict::Dead;
    later[1] = row(facts("dead", 6, 0), Verdict::Alive, 10);
    assert_eq!(view.judge(later, now), Change::Great);
    assert_eq!(seen(&view), [Some(Health::Suspect), Some(Health::Left), Some(Health::Dead), None]);
    // The row of one that is not there was taken away.
    let mut without = rows(14);
    without.remove(3);
    assert_eq!(view.judge(without, now), Change::Great);
    assert_eq!(health(&view, "cut"), None);
}

#[test]
fn who_is_heard_speaks_for_itself_and_not_through_the_registry() {
    let mut now = Instant::now();
    let mut view = View::new(facts("me", 1, 0));
    view.hear_itself(facts("there", 5, 10), now);
    let judge = |view: &mut View, facts, verdict, now| view.judge(vec![row(facts, verdict, 3)], now);
    assert_eq!(judge(&mut view, stopping("there", 5, 0), Verdict::Dead, now), Change::Nothing);
    assert_eq!(judge(&mut view, facts("there", 4, 0), Verdict::Dead, now), Change::Nothing, "an earlier life");
    assert_eq!(health(&view, "there"), Some(Health::Alive));
    // With its link goes what it could say, and a registry in which it stands still keeps nobody alive.
    view.lost(&facts("there", 5, 0).identity, now);
    for _ in 0..4 {
        now += Duration::from_secs(1);
        judge(&mut view, facts("there", 5, 0), Verdict::Alive, now);
        view.tick(now);
    }
    assert_eq!(health(&view, "there"), Some(Health::Dead));
    // A row that is older than the list remembers is none.
    let old = Judged { silent: LISTED_FOR, ..row(facts("old", 1, 0), Verdict::Dead, 1) };
    view.judge(vec![old], now);
    assert_eq!(health(&view, "old"), None);
}

#[test]
fn an_origin_of_another_registry_and_what_it_holds_are_not_taken() {
    let now = Instant::now();
    let of = |id: &str, registry: &str| {
        let registry = RegistryFacts { id: registry.to_owned(), ..RegistryFacts::default() };
        NodeFacts { registry, ..facts(id, 1, 1) }
    };
    let mut view = View::new(of("me", "a"));
    for (id, registry, taken) in [("same", "a", true), ("edge", "", true), ("foreign", "b", false)] {
        view.hear_itself(of(id, registry), now);
        assert_eq!(health(&view, id).is_some(), taken, "{id}");
        let owner = Identity { id: NodeId::from(id), incarnation: 1 };
        let statement = Statement { broadcast: broadcast(id), owner, epoch: 1, status: Status::Live };
        view.hear_statement(statement, now);
        assert_eq!(view.locate(&broadcast(id)).is_some(), taken, "{id}");
    }

    // Who keeps none hears both.
    let mut edge = View::new(of("me", ""));
    let [first, second] = [of("first", "a"), of("second", "b")];
    assert_eq!(edge.stranger(&first), None);
    edge.hear_itself(first.clone(), now);
    assert_eq!(
        (edge.stranger(&first), edge.stranger(&of("other", "a")), edge.stranger(&of("edge", ""))),
        Default::default()
    );
    assert_eq!(edge.stranger(&second), Some(&first));
    assert_eq!(edge.stranger(&of("first", "b")), None, "it was begun anew with another one");
    edge.tick(now + DEAD_AFTER);
    assert_eq!(edge.stranger(&second), None, "its place is taken");
}
