//! Which node serves a client best.
//!
//! In: the nodes that are known, who holds the broadcast, what the client wants. Out: one node, and why it is that one, or
//! why there is none. Deliberately absent: requests and answers, and how nodes are known.

use std::fmt;

use crate::node::{Phase, Role};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Play,
    Publish,
}

/// What counts of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate<N> {
    pub node: N,
    pub role: Role,
    pub phase: Phase,
    pub used_percent: u32,
}

/// Why it is this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has the broadcast already.
    Owner,
    Only {
        used_percent: u32,
    },
    LeastUsed {
        used_percent: u32,
        among: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlace {
    #[error("no node is known that {0}")]
    Unknown(Wish),
    #[error("nodes that could: {known}, of which {full} are full; none takes new work")]
    Busy { known: usize, full: usize },
}

/// Loads are some seconds old: who is that close to the least used one (percent) is as good, and takes its turn. Else all
/// that ask within a second would go to the same node.
const AS_GOOD_PERCENT: u32 = 5;

/// `turn` grows with each question.
pub fn place<'a, N: PartialEq>(
    candidates: &'a [Candidate<N>],
    owner: Option<&N>,
    wish: Wish,
    turn: usize,
) -> Result<(&'a N, Reason), NoPlace> {
    let suits = |candidate: &&Candidate<N>| match wish {
        Wish::Play => candidate.role.serves_viewers(),
        Wish::Publish => candidate.role.takes_publishers(),
    };
    let suited: Vec<_> = candidates.iter().filter(suits).collect();
    if wish == Wish::Publish {
        // A full node takes back who publishes there.
        let takes = |candidate: &&&Candidate<N>| matches!(candidate.phase, Phase::Ready | Phase::Full);
        let holder = suited.iter().find(|candidate| Some(&candidate.node) == owner).filter(takes);
        if let Some(holder) = holder {
            return Ok((&holder.node, Reason::Owner));
        }
    }
    let ready: Vec<_> = suited.iter().filter(|candidate| candidate.phase == Phase::Ready).collect();
    let Some(least) = ready.iter().map(|candidate| candidate.used_percent).min() else {
        let full = suited.iter().filter(|candidate| candidate.phase == Phase::Full).count();
        return Err(match suited.len() {
            0 => NoPlace::Unknown(wish),
            known => NoPlace::Busy { known, full },
        });
    };
    let good: Vec<_> = ready.iter().filter(|candidate| candidate.used_percent <= least + AS_GOOD_PERCENT).collect();
    let chosen = good[turn % good.len()];
    let used_percent = chosen.used_percent;
    let reason = match ready.len() {
        1 => Reason::Only { used_percent },
        among => Reason::LeastUsed { used_percent, among },
    };
    Ok((&chosen.node, reason))
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Play => "serves viewers",
            Self::Publish => "takes publishers",
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("the broadcast is there"),
            Self::Only { used_percent } => write!(f, "the only one that takes new work, {used_percent} % used"),
            Self::LeastUsed { used_percent, among } => {
                write!(f, "the least used of {among} that take new work, or nearly, {used_percent} % used")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: &'static str, role: Role, phase: Phase, used_percent: u32) -> Candidate<&'static str> {
        Candidate { node, role, phase, used_percent }
    }

    fn cluster() -> Vec<Candidate<&'static str>> {
        vec![
            node("o1", Role::Origin, Phase::Ready, 70),
            node("o2", Role::Origin, Phase::Ready, 10),
            node("o3", Role::Origin, Phase::Draining, 0),
            node("e1", Role::Edge, Phase::Ready, 44),
            node("e2", Role::Edge, Phase::Full, 100),
            node("e3", Role::Edge, Phase::Ready, 40),
            node("e4", Role::Edge, Phase::Draining, 0),
            node("e5", Role::Edge, Phase::Ready, 60),
        ]
    }

    #[test]
    fn viewers_go_to_the_least_used_edges_in_turn() {
        let nodes = cluster();
        let placed: Vec<_> = (0..4).map(|turn| *place(&nodes, Some(&"o1"), Wish::Play, turn).unwrap().0).collect();
        assert_eq!(placed, ["e1", "e3", "e1", "e3"]);
        let (_, reason) = place(&nodes, None, Wish::Play, 1).unwrap();
        assert_eq!(reason, Reason::LeastUsed { used_percent: 40, among: 3 });
    }

    #[test]
    fn publishers_go_where_their_broadcast_is_unless_that_node_leaves() {
        let mut nodes = cluster();
        assert_eq!(place(&nodes, Some(&"o1"), Wish::Publish, 0), Ok((&"o1", Reason::Owner)));
        nodes[0].phase = Phase::Full;
        assert_eq!(place(&nodes, Some(&"o1"), Wish::Publish, 0), Ok((&"o1", Reason::Owner)));
        let only = Reason::Only { used_percent: 10 };
        assert_eq!(place(&nodes, Some(&"o3"), Wish::Publish, 0), Ok((&"o2", only)));
        assert_eq!(place(&nodes, None, Wish::Publish, 0), Ok((&"o2", only)));
        assert_eq!(place(&nodes, Some(&"e1"), Wish::Publish, 0).unwrap().0, &"o2", "an edge takes nobody");
    }

    #[test]
    fn a_node_alone_does_everything() {
        let nodes = [node("it", Role::Whole, Phase::Ready, 3)];
        for wish in [Wish::Play, Wish::Publish] {
            assert_eq!(place(&nodes, None, wish, 7), Ok((&"it", Reason::Only { used_percent: 3 })));
        }
    }

    #[test]
    fn that_there_is_no_place_is_said_with_its_cause() {
        let mut nodes = cluster();
        nodes.truncate(3);
        assert_eq!(place(&nodes, None, Wish::Play, 0), Err(NoPlace::Unknown(Wish::Play)));
        nodes[0].phase = Phase::Full;
        nodes[1].phase = Phase::Starting;
        let busy = place(&nodes, None, Wish::Publish, 0).unwrap_err();
        assert_eq!(busy, NoPlace::Busy { known: 3, full: 1 });
    }
}
