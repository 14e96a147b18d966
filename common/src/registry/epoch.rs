//! Epochs: which of two claims of a broadcast is the newer one. In: the newest epoch that somebody knows. Out: the one
//! that follows it. Only ever compared by everybody else.
//!
//! The registry counts claims in the upper half. Where a node had to let a publisher in without it, the lower half says
//! so: such a claim is newer than the one that was known, older than any that the registry grants after that, and two
//! nodes that do this at the same time give different ones.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::Life;

/// 32 bits count claims, 16 count claims without the registry since then, 16 tell the nodes apart that made those.
const COUNTED_FROM: u32 = 32;
const PROVISIONAL_FROM: u32 = 16;
const PROVISIONAL_MAX: u64 = 0xffff;

/// Of a claim that the registry grants.
pub(super) fn after(known: u64) -> u64 {
    ((known >> COUNTED_FROM) + 1) << COUNTED_FROM
}

/// Of a claim that is made without it.
pub(super) fn provisional(known: u64, life: &Life) -> u64 {
    let counted = known >> COUNTED_FROM;
    // Publishers that come back every second fill it in eighteen hours without the registry; what follows is fenced
    // by the hall then, as any claim that is not newer.
    let count = ((known >> PROVISIONAL_FROM) & PROVISIONAL_MAX).saturating_add(1).min(PROVISIONAL_MAX);
    let mut tag = DefaultHasher::new();
    life.hash(&mut tag);
    (counted << COUNTED_FROM) | (count << PROVISIONAL_FROM) | (tag.finish() & 0xffff)
}

/// Whether nothing was granted between these two, the second of which was granted.
pub fn is_next_grant(before: u64, granted: u64) -> bool {
    after(before) == granted
}

/// The claim that the registry had granted last when this one was made; 0 where it knew of none.
pub(super) fn granted(epoch: u64) -> u64 {
    epoch >> COUNTED_FROM << COUNTED_FROM
}

/// Whether nothing was granted between these two claims.
pub(super) fn is_same_grant(one: u64, other: u64) -> bool {
    one >> COUNTED_FROM == other >> COUNTED_FROM
}

/// Whether the claim was made without the registry.
pub fn is_provisional(epoch: u64) -> bool {
    epoch & ((1 << COUNTED_FROM) - 1) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provisional_claim_lies_between_what_was_known_and_what_is_granted_next() {
        let [ours, theirs] = ["a", "b"].map(|node| Life { node: node.into(), incarnation: 1 });
        let granted = after(after(0));
        let first = provisional(granted, &ours);
        let second = provisional(first, &ours);
        assert!(granted < first && first < second && second < after(granted), "{granted:x} {first:x} {second:x}");
        assert_ne!(first, provisional(granted, &theirs));
        assert!(is_provisional(first) && is_provisional(provisional(0, &theirs)) && !is_provisional(granted));
        assert_eq!(after(second), after(granted), "counts on from the last one that was granted");
        assert_eq!((super::granted(second), super::granted(granted)), (granted, granted));
        assert_eq!(super::granted(provisional(0, &ours)), 0);
    }
}
