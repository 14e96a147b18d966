//! A broadcast that an operator stops, or removes for good. In: its id. Out: a publisher that is turned away, an end that is told
//! as any other, and no row. Deliberately absent: broadcasts that another node holds; requests go there.
//!
//! The hall goes first, then the end in the registry, then the row, which goes only while it is over: so a publisher that
//! comes meanwhile either has its claim before that, and is stopped as well, or finds no row and begins another broadcast.
//! Recordings have rows of their own, and stay.

use std::{sync::Arc, time::Duration};

use headwater_common::{
    clock,
    live::{Broadcast, BroadcastId, Fenced, Status},
    registry::{Ending, RegistryError, is_provisional},
};
use tokio::time::{Instant, sleep};

use super::{Desk, reports::End};

/// For a publisher that is on its way from the registry into the hall, and for a death that others find first: so long after
/// the last beat of its owner what that held is ended.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);
const AGAIN_AFTER: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Somebody published it here until then.
    pub(crate) was_live: bool,
}

/// What became of a publisher here.
enum Stopped {
    Yes,
    NobodyHere,
    /// Its claim is being made anew at this moment.
    NotYet,
}

impl Desk {
    /// Turns its publisher away. False when nobody publishes it here.
    pub(crate) fn stop(&self, id: &BroadcastId) -> bool {
        self.held_here(id).is_some_and(|held| self.turn_away(&held))
    }

    /// `None` when there is no such broadcast. Fails while another node holds it, at once if that one `can_be_asked` instead, or
    /// when the registry does: what was stopped by then stays stopped, and it can be asked again.
    pub(crate) async fn remove(
        &self,
        id: &BroadcastId,
        can_be_asked: impl Fn(&str) -> bool,
    ) -> Result<Option<Removed>, RegistryError> {
        let begun = Instant::now();
        let mut was_live = false;
        loop {
            let may_wait = begun.elapsed() < SETTLED_WITHIN;
            match self.end(id).await? {
                Stopped::NotYet if may_wait => {
                    sleep(AGAIN_AFTER).await;
                    continue;
                }
                Stopped::Yes => was_live = true,
                Stopped::NobodyHere | Stopped::NotYet => {}
            }
            match self.registry.remove(id).await {
                Err(RegistryError::InUse { node, .. }) if may_wait && !can_be_asked(&node) => {
                    sleep(AGAIN_AFTER).await;
                }
                removed => {
                    self.changed();
                    return Ok(removed?.then_some(Removed { was_live }));
                }
            }
        }
    }

    /// In the hall and in the registry, where a second word of the same end changes nothing.
    async fn end(&self, id: &BroadcastId) -> Result<Stopped, RegistryError> {
        let Some(held) = self.held_here(id) else { return Ok(Stopped::NobodyHere) };
        let epoch = held.claimed_epoch();
        if is_provisional(epoch) {
            // An end under this claim would be told by claiming it first, after the row has gone, too.
            let Some(_claiming) = self.claiming.alone(id) else { return Ok(Stopped::NotYet) };
            let claimed = self.registry.claim(id, &self.stay(&held)).await?;
            if !self.hub.renew(id, epoch, claimed.epoch, claimed.next_gop, claimed.discontinuity) {
                return Ok(Stopped::NotYet);
            }
        }
        if !self.turn_away(&held) {
            return Ok(Stopped::NotYet);
        }
        End::of(self, &held, Ending::Finished).tell(self).await?;
        Ok(Stopped::Yes)
    }

    fn held_here(&self, id: &BroadcastId) -> Option<Arc<Broadcast>> {
        self.hub.get(id).filter(|held| !held.is_mirror() && held.status() != Status::Ended)
    }

    fn turn_away(&self, held: &Broadcast) -> bool {
        self.hub.turn_away(held.id(), held.claimed_epoch(), Fenced::Stopped, clock::now_us())
    }
}
