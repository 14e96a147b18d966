mod registry;
mod suspects;

use super::*;
use crate::{cluster::RegistryFacts, load::Load, node::Role};

fn facts(id: &str, incarnation: u64, age_s: u64) -> NodeFacts {
    NodeFacts {
        identity: Identity { id: NodeId::from(id), incarnation },
        role: Role::Origin,
        phase: Phase::Ready,
        version: "1".to_owned(),
        grpc: format!("{id}:5000"),
        http: format!("http://{id}:5080"),
        load: Load::default(),
        registry: RegistryFacts::default(),
        age: Duration::from_secs(age_s),
    }
}

fn stopping(id: &str, incarnation: u64, age_s: u64) -> NodeFacts {
    NodeFacts { phase: Phase::Stopping, ..facts(id, incarnation, age_s) }
}

fn dead(id: &str, incarnation: u64, age_s: u64) -> Known {
    Known { health: Health::Dead, ..Known::direct(facts(id, incarnation, age_s)) }
}

fn broadcast(name: &str) -> BroadcastId {
    BroadcastId::new("live", name).unwrap()
}

fn statement(owner: &str, incarnation: u64, epoch: u64, status: Status) -> Statement {
    Statement { broadcast: broadcast("x"), owner: Identity { id: NodeId::from(owner), incarnation }, epoch, status }
}

/// A view on a clock that is moved by hand.
struct Stage {
    view: View,
    begun: Instant,
    now: Instant,
}

impl Stage {
    fn new() -> Self {
        let now = Instant::now();
        Self { view: View::new(facts("me", 1, 0)), begun: now, now }
    }

    fn hear(&mut self, facts: NodeFacts) -> Change {
        self.view.hear_itself(facts, self.now)
    }

    fn state(&mut self, statement: Statement) -> Change {
        self.view.hear_statement(statement, self.now)
    }

    /// Time passes, looked at as often as the loop does; those that are named give signs of life.
    fn pass(&mut self, time: Duration, alive: &[(&str, u64)]) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(200);
            for (id, incarnation) in alive {
                let age = self.now.duration_since(self.begun) + Duration::from_secs(100);
                self.view.hear_itself(NodeFacts { age, ..facts(id, *incarnation, 0) }, self.now);
            }
            self.view.tick(self.now);
        }
    }

    fn health(&self, id: &str) -> Option<Health> {
        self.view.node(&NodeId::from(id)).map(|(_, health)| health)
    }

    #[track_caller]
    fn located(&self, owner: &str, epoch: u64, status: Status) {
        let expected = Located { owner: NodeId::from(owner), epoch, status };
        assert_eq!(self.view.locate(&broadcast("x")), Some(expected));
    }
}

const S: Duration = Duration::from_secs(1);

#[test]
fn a_node_whose_link_broke_is_suspect_at_once_and_dead_after_three_seconds() {
    let mut stage = Stage::new();
    assert_eq!(stage.hear(facts("a", 1, 1)), Change::Great);
    assert_eq!(stage.view.lost(&facts("a", 1, 0).identity, stage.now), Change::Great);
    assert_eq!(stage.health("a"), Some(Health::Suspect));
    stage.pass(S * 28 / 10, &[]);
    assert_eq!(stage.health("a"), Some(Health::Suspect));
    stage.pass(S * 2 / 10, &[]);
    assert_eq!(stage.health("a"), Some(Health::Dead));
}

#[test]
fn a_node_that_others_hear_is_not_dead() {
    let mut stage = Stage::new();
    stage.hear(facts("a", 1, 1));
    stage.view.lost(&facts("a", 1, 0).identity, stage.now);
    assert_eq!(stage.hear(facts("a", 1, 2)), Change::Great);
    assert_eq!(stage.health("a"), Some(Health::Alive));
    stage.pass(S * 10, &[("a", 1)]);
    assert_eq!(stage.health("a"), Some(Health::Alive));
}

/// Two that tell each other of a third must not keep it alive between them.
#[test]
fn what_was_heard_before_is_no_sign_of_life() {
    let mut stage = Stage::new();
    stage.hear(facts("a", 1, 5));
    for _ in 0..4 {
        stage.pass(S, &[]);
        assert_eq!(stage.hear(facts("a", 1, 5)), Change::Nothing);
        assert_eq!(stage.hear(facts("a", 1, 4)), Change::Nothing);
    }
    assert_eq!(stage.health("a"), Some(Health::Dead));
    assert_eq!(stage.hear(facts("a", 1, 6)), Change::Great);
    assert_eq!(stage.health("a"), Some(Health::Alive), "it was cut off, not dead");
}

/// The last word of a dead node comes last from who heard it last, after up to a second there.
#[test]
fn what_another_one_heard_is_as_old_as_that_one_says() {
    let hearsay = |age_s, silent| Known { silent, ..Known::direct(facts("a", 1, age_s)) };
    let mut stage = Stage::new();
    stage.hear(facts("a", 1, 5));
    stage.pass(S * 28 / 10, &[]);
    assert_eq!(stage.view.hear_of(hearsay(6, S * 18 / 10), stage.now), Change::Small);
    stage.pass(S, &[]);
    assert_eq!(stage.health("a"), Some(Health::Alive), "it said so 2.8 s ago");
    stage.pass(S * 2 / 10, &[]);
    assert_eq!(stage.health("a"), Some(Health::Dead));

    // What passes through a third one grows older on the way.
    let mut third = Stage::new();
    third.view.hear_of(hearsay(6, S), third.now);
    third.pass(S, &[]);
    let told = third.view.update(0, third.now).0.nodes.remove(1);
    assert_eq!((told.facts.age, told.silent), (S * 6, S * 2));
    let mut last = Stage::new();
    last.view.hear_of(told, last.now);
    last.pass(S * 8 / 10, &[]);
    assert_eq!(last.health("a"), Some(Health::Alive));
    last.pass(S * 2 / 10, &[]);
    assert_eq!(last.health("a"), Some(Health::Dead));
    assert!(last.view.remove(&NodeId::from("a")), "nobody waits for it once more");

    // One who has heard it since then knows better, and who hears first of something so old need not wait.
    let mut near = Stage::new();
    near.hear(facts("a", 1, 5));
    assert_eq!(near.view.hear_of(hearsay(6, S * 2), near.now), Change::Small);
    near.pass(S * 28 / 10, &[]);
    assert_eq!(near.health("a"), Some(Health::Alive));
    let mut late = Stage::new();
    late.view.hear_of(hearsay(6, S * 3), late.now);
    late.view.hear_of(Known { silent: S * 3, ..Known::direct(stopping("b", 1, 6)) }, late.now);
    assert_eq!(["a", "b"].map(|id| late.health(id)), [Some(Health::Dead), Some(Health::Left)]);
}

#[test]
fn a_node_that_left_properly_is_not_called_dead() {
    let mut stage = Stage::new();
    stage.hear(facts("a", 1, 1));
    stage.hear(facts("b", 1, 1));
    stage.state(statement("a", 1, 1, Status::Live));
    assert_eq!(stage.hear(stopping("a", 1, 2)), Change::Great);
    stage.view.lost(&facts("a", 1, 0).identity, stage.now);
    assert_eq!(stage.health("a"), Some(Health::Left));
    stage.located("a", 1, Status::Finished);
    // One that no link was with, so that its silence is all that is noticed.
    stage.hear(stopping("b", 1, 2));
    stage.pass(S * 4, &[]);
    assert_eq!(stage.health("b"), Some(Health::Left));
    assert_eq!(stage.health("a"), Some(Health::Left));
}

#[test]
fn a_later_life_of_a_node_takes_its_place_and_ends_what_the_earlier_one_held() {
    let mut stage = Stage::new();
    stage.hear(facts("a", 7, 50));
    stage.state(statement("a", 7, 3, Status::Live));
    stage.located("a", 3, Status::Live);
    assert_eq!(stage.hear(facts("a", 8, 0)), Change::Great);
    stage.located("a", 3, Status::Terminated);
    assert_eq!(stage.hear(facts("a", 7, 51)), Change::Nothing, "news of the past");
    assert_eq!(stage.view.lost(&facts("a", 7, 0).identity, stage.now), Change::Nothing, "a link of the past");
    stage.state(statement("a", 8, 4, Status::Live));
    stage.located("a", 4, Status::Live);
}

#[test]
fn what_a_dead_node_held_is_terminated_and_goes_on_when_it_was_not_dead() {
    let mut stage = Stage::new();
    stage.hear(facts("a", 1, 1));
    stage.state(statement("a", 1, 1, Status::Live));
    stage.pass(S * 4, &[]);
    stage.located("a", 1, Status::Terminated);
    stage.hear(facts("a", 1, 9));
    stage.located("a", 1, Status::Live);
}

#[test]
fn of_two_owners_the_newer_claim_is_right_and_of_one_owner_the_later_word() {
    let mut stage = Stage::new();
    stage.hear(facts("a", 1, 1));
    stage.hear(facts("b", 1, 1));
    stage.state(statement("a", 1, 4, Status::Live));
    stage.state(statement("b", 1, 5, Status::Live));
    stage.located("b", 5, Status::Live);
    // The fenced one may say so late.
    stage.state(statement("a", 1, 4, Status::Finished));
    stage.located("b", 5, Status::Live);
    stage.state(statement("b", 1, 5, Status::Interrupted));
    assert_eq!(stage.state(statement("b", 1, 5, Status::Live)), Change::Nothing, "passed on by a slow one");
    stage.located("b", 5, Status::Interrupted);
    stage.state(statement("b", 1, 6, Status::Live));
    stage.located("b", 6, Status::Live);
}

#[test]
fn nobody_speaks_for_this_node() {
    let mut stage = Stage::new();
    assert_eq!(stage.hear(facts("me", 9, 9)), Change::Nothing);
    assert_eq!(stage.state(statement("me", 1, 1, Status::Live)), Change::Nothing);
    assert_eq!(stage.view.locate(&broadcast("x")), None);
    assert_eq!(stage.view.state(broadcast("x"), 1, Status::Live, stage.now), Change::Great);
    stage.located("me", 1, Status::Live);
    assert_eq!(stage.state(statement("nobody", 1, 9, Status::Live)), Change::Nothing, "an owner that nobody knows");
    stage.located("me", 1, Status::Live);
}

#[test]
fn audiences_add_up_and_go_with_their_node() {
    let mut stage = Stage::new();
    let watching = |webrtc, hls| vec![(broadcast("x"), Viewers { webrtc, hls })];
    for edge in ["a", "b"] {
        stage.hear(facts(edge, 1, 1));
        stage.view.hear_audiences(&NodeId::from(edge), watching(2, 3), true);
    }
    assert_eq!(stage.view.viewers(&broadcast("x")), Viewers { webrtc: 4, hls: 6 });
    stage.view.hear_audiences(&NodeId::from("a"), watching(5, 0), false);
    assert_eq!(stage.view.viewers(&broadcast("x")), Viewers { webrtc: 7, hls: 3 });
    // A new link says everything again: what was missed while there was none is void.
    stage.view.hear_audiences(&NodeId::from("a"), Vec::new(), true);
    assert_eq!(stage.view.viewers(&broadcast("x")), Viewers { webrtc: 2, hls: 3 });
    stage.view.hear_audiences(&NodeId::from("b"), watching(0, 0), false);
    assert_eq!(stage.view.viewers(&broadcast("x")), Viewers::default());
    stage.view.hear_audiences(&NodeId::from("b"), watching(1, 1), false);
    stage.pass(S * 4, &[("a", 1)]);
    assert_eq!(stage.health("b"), Some(Health::Dead));
    assert_eq!(stage.view.viewers(&broadcast("x")), Viewers::default());
}

#[test]
fn only_who_is_gone_is_removed_and_a_sign_of_life_takes_it_back() {
    let mut stage = Stage::new();
    let a = NodeId::from("a");
    assert!(!stage.view.remove(&a));
    stage.hear(facts("a", 1, 1));
    assert!(!stage.view.remove(&a));
    stage.pass(S * 4, &[]);
    let told = stage.view.update(0, stage.now).1;
    assert!(stage.view.remove(&a) && !stage.view.remove(&a));
    assert_eq!(stage.view.nodes().count(), 0);
    assert_eq!(stage.view.update(told, stage.now).0.removed, std::slice::from_ref(&a));
    // Who has not heard of it yet passes on what it knows.
    assert_eq!(stage.view.hear_of(dead("a", 1, 1), stage.now), Change::Nothing);
    assert_eq!(stage.view.nodes().count(), 0);
    stage.hear(facts("a", 2, 0));
    assert_eq!(stage.health("a"), Some(Health::Alive));
}

#[test]
fn what_is_over_is_forgotten_in_the_end() {
    let mut stage = Stage::new();
    stage.hear(facts("a", 1, 1));
    stage.hear(facts("b", 1, 1));
    stage.state(statement("b", 1, 1, Status::Finished));
    stage.pass(ENDED_FOR - S, &[("b", 1)]);
    assert!(stage.view.locate(&broadcast("x")).is_some());
    stage.pass(S * 2, &[("b", 1)]);
    assert_eq!(stage.view.locate(&broadcast("x")), None);
    assert_eq!(stage.health("a"), Some(Health::Dead));
    stage.pass(LISTED_FOR, &[("b", 1)]);
    assert_eq!(stage.health("a"), None);
    assert_eq!(stage.health("b"), Some(Health::Alive));
}

#[test]
fn a_pause_of_our_own_kills_nobody() {
    let mut stage = Stage::new();
    stage.hear(facts("a", 1, 1));
    stage.pass(S, &[]);
    stage.now += S * 60;
    stage.view.tick(stage.now);
    assert_eq!(stage.health("a"), Some(Health::Alive));
    stage.pass(S * 4, &[]);
    assert_eq!(stage.health("a"), Some(Health::Dead));
}

/// Whoever comes late is told who is dead, and need not wait to find out.
#[test]
fn deaths_are_told_to_who_comes_later() {
    let mut stage = Stage::new();
    stage.view.hear_of(dead("a", 1, 5), stage.now);
    stage.state(statement("a", 1, 1, Status::Live));
    assert_eq!(stage.health("a"), Some(Health::Dead));
    stage.located("a", 1, Status::Terminated);
    stage.hear(facts("b", 1, 1));
    assert_eq!(stage.view.hear_of(dead("b", 1, 2), stage.now), Change::Nothing, "we hear it ourselves");
    assert_eq!(stage.health("b"), Some(Health::Alive));
}

#[test]
fn a_reader_gets_everything_and_then_what_changed() {
    let mut stage = Stage::new();
    stage.hear(facts("a", 1, 1));
    stage.state(statement("a", 1, 1, Status::Live));
    let (update, told) = stage.view.update(0, stage.now);
    assert_eq!((update.nodes.len(), update.statements.len()), (2, 1));
    assert_eq!(stage.view.update(told, stage.now), (Update::default(), told));
    stage.state(statement("a", 1, 1, Status::Interrupted));
    stage.state(statement("a", 1, 2, Status::Live));
    let (update, told) = stage.view.update(told, stage.now);
    assert_eq!(update.nodes, []);
    assert_eq!(update.statements, [statement("a", 1, 2, Status::Live)], "the newest, not what was in between");
    stage.hear(facts("a", 1, 2));
    assert_eq!(stage.view.update(told, stage.now).0.nodes, [Known::direct(facts("a", 1, 2))]);
}

/// However news travel, doubled, late and in any order, everybody ends up with the same view.
#[test]
fn all_who_hear_of_each_other_agree() {
    for seed in 0..200_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |bound: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % bound
        };
        let now = Instant::now();
        let names = ["a", "b", "c", "d"];
        let mut views: Vec<View> = names.iter().map(|name| View::new(facts(name, 1, 1))).collect();
        let mut epoch = 0;
        let exchange = |views: &mut Vec<View>, from: usize, to: usize| {
            let update = views[from].update(0, now).0;
            update.nodes.into_iter().for_each(|known| {
                views[to].hear_of(known, now);
            });
            update.statements.into_iter().for_each(|statement| {
                views[to].hear_statement(statement, now);
            });
        };
        for age_s in 2..60 {
            let (from, to) = (below(4) as usize, below(4) as usize);
            match below(4) {
                0 => {
                    epoch += 1;
                    views[from].state(broadcast("x"), epoch, Status::Live, now);
                }
                1 => {
                    let ending = [Status::Interrupted, Status::Finished, Status::Terminated][below(3) as usize];
                    let id = views[from].me().id().clone();
                    let held = views[from].locate(&broadcast("x")).filter(|located| located.owner == id);
                    if let Some(held) = held {
                        views[from].state(broadcast("x"), held.epoch, ending, now);
                    }
                }
                2 => {
                    let me = views[from].me().clone();
                    views[from].describe(NodeFacts { age: Duration::from_secs(age_s), ..me });
                }
                _ => exchange(&mut views, from, to),
            }
        }
        // Two rounds: from everybody to everybody over whatever ways there are.
        for _ in 0..2 {
            (0..4).for_each(|from| (0..4).for_each(|to| exchange(&mut views, from, to)));
        }
        let located: Vec<_> = views.iter().map(|view| view.locate(&broadcast("x"))).collect();
        assert!(located.iter().all(|one| *one == located[0]), "seed {seed}: {located:?}");
        assert_eq!(located[0].as_ref().map_or(0, |located| located.epoch), epoch, "seed {seed}");
        for view in &views {
            assert_eq!(view.nodes().count(), 3, "seed {seed}");
        }
    }
}
