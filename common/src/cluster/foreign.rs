//! Origins that are no cluster, since each keeps another registry: both would let in publishers of one name.
//!
//! In: what nodes say of the registry they keep. Out: origins refuse each other, and both say so; an edge that was told of
//! two such origins says so. It serves what both have, for want of anybody who could say which of them is meant.
//! Deliberately absent: what of it is taken into the view, which decides that for itself.

use std::sync::PoisonError;

use tonic::Status;

use super::{NodeFacts, Shared, view::View};

impl Shared {
    /// Both say so: this one here, the other one when it hears the answer.
    pub(super) fn refuse_foreign(&self, theirs: &NodeFacts) -> Result<(), Box<Status>> {
        let (me, is_foreign) = {
            let view = self.view();
            (view.me().id().clone(), view.is_foreign(theirs))
        };
        if !is_foreign {
            return Ok(());
        }
        let them = theirs.id();
        let problem = format!(
            "origins {me} and {them} have different registries, and both would let in publishers of one name: give both the \
             same registry.mongodb, or take each out of the other's cluster.origins"
        );
        let first = self.foreign.lock().unwrap_or_else(PoisonError::into_inner).insert(them.clone());
        if first {
            tracing::error!("no link: {problem}");
        }
        Err(Box::new(Status::failed_precondition(problem)))
    }

    /// For who keeps no registry and is told of two. Said once of each two.
    pub(super) fn complain_of_strangers(&self, view: &View, told: &NodeFacts) {
        let Some(other) = view.stranger(told) else { return };
        let mut registries = [&told.registry.id, &other.registry.id].map(Clone::clone);
        registries.sort();
        if self.strangers.lock().unwrap_or_else(PoisonError::into_inner).insert(registries) {
            tracing::error!(
                "origins {} and {} have different registries and are no cluster, so of two broadcasts of one name this node \
                 shows either: take one of them out of cluster.origins, or give both the same registry.mongodb",
                other.id(),
                told.id()
            );
        }
    }
}
