//! What a node owes the registry once that answers: the hall and the rows are laid side by side. Pure.
//!
//! In: the rows as they were read, and the claims that the hall held all the while. Out: what is to be done so that
//! both tell the same. Nothing has to be remembered for that over a time without the registry.

use std::collections::BTreeMap;

use super::{BroadcastRow, Life, epoch};
use crate::live::BroadcastId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// The registry knows nothing of the claim that the hall holds: it was made without it, or ended by somebody who
    /// thought this node dead. To be claimed anew, for the same publisher.
    Stay { id: BroadcastId, held: u64 },
    /// Another node has a newer claim: the publisher here is to be turned away.
    Fence { id: BroadcastId, held: u64, owner: Life },
    /// The registry takes it for live here, and nobody publishes it here: its end was not heard.
    End { row: Box<BroadcastRow> },
}

/// `held`: by broadcast, the epoch under which the hall held it when the rows were asked for, and holds it now.
/// `lives` says of other nodes whether they were seen alive since the registry answers.
pub fn audit(
    us: &Life,
    rows: &[BroadcastRow],
    held: &BTreeMap<BroadcastId, u64>,
    lives: impl Fn(&Life) -> bool,
) -> Vec<Duty> {
    let ids = rows.iter().map(|row| BroadcastId::new(&row.app, &row.stream));
    let by_id: BTreeMap<_, _> = ids.zip(rows).filter_map(|(id, row)| Some((id.ok()?, row))).collect();
    let mut duties = Vec::new();
    for (id, &held) in held {
        let stay = Duty::Stay { id: id.clone(), held };
        match by_id.get(id) {
            Some(row) if row.held_by(us) && row.epoch == held => {}
            Some(row) if row.held_by(&row.owner) && row.owner.node != us.node && row.epoch > held => {
                // A claim without the registry yields to one that it granted, but not to that of the dead: they will
                // be ended, and this one stays.
                if !epoch::is_provisional(held) || lives(&row.owner) {
                    duties.push(Duty::Fence { id: id.clone(), held, owner: row.owner.clone() });
                }
            }
            _ => duties.push(stay),
        }
    }
    let unheard = by_id.into_iter().filter(|(id, row)| row.held_by(us) && !held.contains_key(id));
    duties.extend(unheard.map(|(_, row)| Duty::End { row: Box::new(row.clone()) }));
    duties
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::BroadcastStatus;

    fn life(node: &str) -> Life {
        Life { node: node.into(), incarnation: 1 }
    }

    fn row(owner: &str, epoch: u64, status: BroadcastStatus) -> BroadcastRow {
        BroadcastRow {
            app: "live".into(),
            stream: "x".into(),
            owner: life(owner),
            epoch,
            status,
            ..BroadcastRow::default()
        }
    }

    #[test]
    fn the_hall_and_the_row_are_made_to_agree() {
        use BroadcastStatus::{Broadcasting, Finished, TerminatedUnexpectedly};
        let id = BroadcastId::new("live", "x").unwrap();
        let [first, second, third] = [1, 2, 3].map(|claims: u64| claims << 32);
        let without = epoch::provisional(second, &life("us"));
        let stay = |held| vec![Duty::Stay { id: id.clone(), held }];
        let fence = |held| vec![Duty::Fence { id: id.clone(), held, owner: life("other") }];
        for (row, held, others_live, expected) in [
            (Some(row("us", second, Broadcasting)), Some(second), true, vec![]),
            (Some(row("us", second, TerminatedUnexpectedly)), Some(second), true, stay(second)),
            (Some(row("other", third, Broadcasting)), Some(second), false, fence(second)),
            (Some(row("other", third, Broadcasting)), Some(without), true, fence(without)),
            (Some(row("other", third, Broadcasting)), Some(without), false, vec![]),
            (Some(row("other", second, Broadcasting)), Some(without), true, stay(without)),
            (Some(row("other", third, Finished)), Some(without), true, stay(without)),
            (Some(row("us", first, Broadcasting)), Some(without), true, stay(without)),
            (None, Some(without), true, stay(without)),
            (Some(row("other", second, Broadcasting)), None, true, vec![]),
            (Some(row("us", second, Finished)), None, true, vec![]),
        ] {
            let held_here = held.map(|epoch| (id.clone(), epoch)).into_iter().collect();
            let rows: Vec<_> = row.clone().into_iter().collect();
            assert_eq!(audit(&life("us"), &rows, &held_here, |_| others_live), expected, "{row:?} {held:?}");
        }
        let forgotten = row("us", second, Broadcasting);
        let duties = audit(&life("us"), std::slice::from_ref(&forgotten), &BTreeMap::new(), |_| true);
        assert_eq!(duties, [Duty::End { row: Box::new(forgotten) }]);
    }
}
