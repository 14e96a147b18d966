//! Who lost a link, and what others say meanwhile.

use super::*;

/// What somebody passes on.
fn told(age_ms: u64, silent_ms: u64, health: Health) -> Known {
    let facts = NodeFacts { age: Duration::from_millis(age_ms), ..facts("a", 1, 0) };
    Known { facts, health, silent: Duration::from_millis(silent_ms) }
}

/// Each of the others lost its link with a dead node a moment later, and passes on what it heard until then.
#[test]
fn who_is_suspect_is_not_alive_by_what_others_heard_before() {
    let mut stage = Stage::new();
    stage.hear(facts("a", 1, 5));
    stage.pass(S / 5, &[]);
    stage.view.lost(&facts("a", 1, 0).identity, stage.now);
    stage.view.hear_of(told(5_100, 100, Health::Alive), stage.now);
    assert_eq!(stage.health("a"), Some(Health::Suspect));
    stage.pass(S / 5, &[]);
    // It lay in a buffer meanwhile.
    stage.view.hear_of(told(5_200, 0, Health::Alive), stage.now);
    assert_eq!(stage.health("a"), Some(Health::Suspect));
    stage.pass(S * 28 / 10, &[]);
    assert_eq!(stage.health("a"), Some(Health::Suspect), "it gave a sign of life less than three seconds ago");
    stage.pass(S / 5, &[]);
    assert_eq!(stage.health("a"), Some(Health::Dead));
}

#[test]
fn who_lost_one_link_alone_is_alive_again_by_what_it_says_afterwards() {
    let mut stage = Stage::new();
    stage.hear(facts("a", 1, 5));
    stage.view.lost(&facts("a", 1, 0).identity, stage.now);
    stage.pass(S, &[]);
    assert_eq!(stage.view.hear_of(told(6_000, 200, Health::Alive), stage.now), Change::Great);
    assert_eq!(stage.health("a"), Some(Health::Alive));
    stage.view.lost(&facts("a", 1, 0).identity, stage.now);
    assert_eq!(stage.hear(facts("a", 1, 7)), Change::Great, "over another link");
    assert_eq!(stage.health("a"), Some(Health::Alive));
    assert_eq!(stage.view.hear_of(told(7_000, 0, Health::Suspect), stage.now), Change::Nothing);
    assert_eq!(stage.view.hear_of(told(7_500, 0, Health::Suspect), stage.now), Change::Small);
    assert_eq!(stage.health("a"), Some(Health::Alive), "we hear it");
}

#[test]
fn a_doubt_is_passed_on_whatever_comes_first_and_ends_with_the_next_word() {
    for is_doubt_first in [true, false] {
        let mut stage = Stage::new();
        let mut news = [Health::Suspect, Health::Alive].map(|health| told(5_400, 100, health));
        if !is_doubt_first {
            news.reverse();
        }
        for known in news {
            stage.view.hear_of(known, stage.now);
        }
        assert_eq!(stage.health("a"), Some(Health::Suspect), "doubt first: {is_doubt_first}");
        let passed_on = stage.view.update(0, stage.now).0.nodes.remove(1);
        assert_eq!(passed_on.health, Health::Suspect);
        stage.pass(S, &[]);
        stage.view.hear_of(told(6_400, 100, Health::Alive), stage.now);
        assert_eq!(stage.health("a"), Some(Health::Alive));
    }
}
