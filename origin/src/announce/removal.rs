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

#[cfg(test)]
mod tests {
    use headwater_common::{
        config::Layers,
        live::{Claim, ClaimError, Hub, Publisher, Takeover, Writer},
        node::Node,
        registry::{Embedded, Life, Registry},
    };

    use super::*;

    struct Stage {
        desk: Desk,
        hub: Arc<Hub>,
        registry: Arc<Embedded>,
        folder: std::path::PathBuf,
    }

    impl Drop for Stage {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    fn stage(name: &str) -> Stage {
        let folder = std::env::temp_dir().join(format!("headwater-removal-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (hub, node) = (Hub::new(), Node::starting());
        node.ready();
        let config = Arc::new(Layers::defaults().unwrap().build().unwrap());
        let registry = Arc::new(Embedded::open(&folder.join("registry.redb")).unwrap().0);
        let desk = Desk::new(config, hub.clone(), registry.clone(), None, Life::default(), node);
        Stage { desk, hub, registry, folder }
    }

    fn id() -> BroadcastId {
        BroadcastId::new("live", "x").unwrap()
    }

    fn publisher() -> Publisher {
        Publisher { protocol: "rtmp", remote: "192.0.2.7:5000".into(), agent: String::new() }
    }

    impl Stage {
        async fn publish(&self) -> Writer {
            self.desk.claim("live", "x", None, publisher()).await.unwrap()
        }

        async fn remove(&self) -> Option<Removed> {
            self.desk.remove(&id(), |_| false).await.unwrap()
        }

        /// As the hall's reports tell an end that they see.
        async fn report(&self) {
            let lingering = self.hub.get(&id()).unwrap();
            assert_eq!(lingering.status(), Status::Ended);
            End::of(&self.desk, &lingering, Ending::Finished).tell(&self.desk).await.unwrap();
        }
    }

    #[tokio::test]
    async fn its_publisher_is_turned_away_and_the_next_one_begins_another_broadcast() {
        let stage = stage("live");
        assert_eq!(stage.remove().await, None);
        let first = stage.publish().await;
        assert_eq!(stage.remove().await, Some(Removed { was_live: true }));
        assert_eq!(first.check(), Err(Fenced::Stopped));
        stage.report().await;
        drop(first);
        assert_eq!(stage.registry.get(&id()).await.unwrap(), None);
        assert_eq!(stage.remove().await, None);

        let before = stage.hub.get(&id()).unwrap();
        let second = stage.publish().await;
        assert!(second.epoch() > before.epoch() && !Arc::ptr_eq(second.broadcast(), &before) && before.is_over());
        second.finish(clock::now_us());
        stage.report().await;
        assert_eq!(stage.remove().await, Some(Removed { was_live: false }));
    }

    /// Let in while the registry was away, which is back and has not heard of it yet.
    #[tokio::test]
    async fn one_that_the_registry_does_not_know_yet_is_not_known_afterwards_either() {
        let stage = stage("provisional");
        let (born_us, epoch) = (clock::now_us(), (1 << 16) + 7);
        let publisher = publisher();
        let claim = Claim { epoch, next_gop: 9, discontinuity: 0, born_us, segment_target_s: None, publisher };
        let writer = stage.hub.claim(&id(), claim, Takeover::Replace, born_us).unwrap();
        assert_eq!(stage.remove().await, Some(Removed { was_live: true }));
        assert_eq!(writer.check(), Err(Fenced::Stopped));
        stage.report().await;
        assert_eq!(stage.registry.get(&id()).await.unwrap(), None);
    }

    /// It has its claim, and is not in the hall yet.
    #[tokio::test(start_paused = true)]
    async fn a_publisher_that_is_on_its_way_is_waited_for_and_stopped() {
        let stage = stage("way");
        let bid = stage.desk.bid(&id(), publisher());
        let claimed = stage.registry.claim(&id(), &bid).await.unwrap();
        let arrive = async {
            sleep(3 * AGAIN_AFTER).await;
            stage.hub.claim(&id(), claimed.for_hall(publisher()), Takeover::Replace, clock::now_us())
        };
        let (writer, removed): (Result<_, ClaimError>, _) = tokio::join!(arrive, stage.remove());
        assert_eq!(removed, Some(Removed { was_live: true }));
        assert_eq!(writer.unwrap().check(), Err(Fenced::Stopped));
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_node_holds_is_not_waited_for_without_end() {
        let stage = stage("elsewhere");
        let bid = stage.desk.bid(&id(), publisher());
        let elsewhere = headwater_common::registry::Bid { life: Life { node: "n2".into(), incarnation: 1 }, ..bid };
        stage.registry.claim(&id(), &elsewhere).await.unwrap();
        for can_be_asked in [true, false] {
            let begun = Instant::now();
            let refused = stage.desk.remove(&id(), |node| node == "n2" && can_be_asked).await;
            assert!(matches!(&refused, Err(RegistryError::InUse { node, .. }) if node == "n2"), "{refused:?}");
            assert_eq!(begun.elapsed() >= SETTLED_WITHIN, !can_be_asked);
        }
    }
}
