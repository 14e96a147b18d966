//! What somebody wants to know of the registry who does not wait for it: REST. In: questions. Out: answers, or within a
//! second that there is none. Deliberately absent: writing. Whoever writes asks for something first, so that a registry
//! that is away is met before anything is begun, and then waits for as long as it takes.

use std::{sync::Arc, time::Duration};

use headwater_common::{
    live::BroadcastId,
    registry::{BroadcastRow, Registry, RegistryError},
};

use crate::membership::Membership;

/// Until the loss of a registry is noticed, requests meet it themselves.
pub(crate) const WITHIN: Duration = Duration::from_millis(800);

/// Cheap to clone.
#[derive(Clone)]
pub struct Inquiry {
    registry: Arc<dyn Registry>,
    /// Where nodes share the registry. A file is never away.
    membership: Option<Membership>,
}

impl Inquiry {
    pub(crate) fn new(registry: Arc<dyn Registry>, membership: Option<Membership>) -> Self {
        Self { registry, membership }
    }

    pub async fn ask<'a, T, Answer>(
        &'a self,
        question: impl FnOnce(&'a dyn Registry) -> Answer,
    ) -> Result<T, RegistryError>
    where
        Answer: Future<Output = Result<T, RegistryError>>,
    {
        match &self.membership {
            None => question(&*self.registry).await,
            Some(membership) if membership.is_away() => Err(RegistryError::Away),
            Some(_) => within(WITHIN, question(&*self.registry)).await,
        }
    }

    /// What was seen last of a broadcast, without a question.
    pub(crate) fn last_seen(&self, id: &BroadcastId) -> Option<BroadcastRow> {
        self.membership.as_ref()?.last_seen(id)
    }
}

pub(crate) async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    tokio::time::timeout(limit, answer).await.unwrap_or(Err(RegistryError::Late { within: limit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_says_nothing_is_not_waited_for() {
        let begun = tokio::time::Instant::now();
        let error = within(WITHIN, std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert!(error.is_absence() && error.to_string().contains("800ms"), "{error}");
        assert!(begun.elapsed() <= Duration::from_secs(1));
        assert_eq!(within(WITHIN, async { Ok(7) }).await.unwrap(), 7);
    }
}
