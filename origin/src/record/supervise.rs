//! Which broadcasts are recorded. In: what appears in the hub, ends or changes, and what operators wish. Out: sessions
//! begun and stopped. One task follows each broadcast for as long as the hub holds it. Deliberately absent: media.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use headwater_common::{
    live::{Broadcast, BroadcastId, Status},
    media::{Delivery, Kind},
};
use tokio::task::JoinSet;

use super::{
    Shared,
    session::{Outcome, Session},
    source::From,
};

pub(super) async fn run(shared: &Arc<Shared>, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    let mut hub = shared.hub.watch();
    let mut followed: BTreeMap<BroadcastId, Arc<Broadcast>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    loop {
        hub.mark_unchanged();
        let present = shared.hub.list();
        followed.retain(|_, known| present.iter().any(|broadcast| Arc::ptr_eq(broadcast, known)));
        for broadcast in present {
            if !followed.contains_key(broadcast.id()) {
                followed.insert(broadcast.id().clone(), broadcast.clone());
                tasks.spawn(follow(shared.clone(), broadcast));
            }
        }
        tokio::select! {
            () = &mut shutdown => break,
            // The hub lives as long as `shared`, so this can't fail.
            _ = hub.changed() => {}
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(error) = ended {
                    shared.door.errors.inc();
                    tracing::error!(%error, "recording supervision of a broadcast failed");
                }
            }
        }
    }
    shared.wishes.send_modify(|wishes| wishes.closing = true);
    while tasks.join_next().await.is_some() {}
    let _ = shared.finalising.subscribe().wait_for(|files| *files == 0).await;
}

/// What one broadcast's recording has come to.
#[derive(Default)]
struct Desire {
    /// The newest claim that was looked at with something in it to record.
    epoch: u64,
    /// Why nothing more is tried: it failed, and nobody has asked again (the wishes' version then).
    failed_at: Option<u64>,
    /// The newest wish that was looked at.
    version: u64,
}

async fn follow(shared: Arc<Shared>, broadcast: Arc<Broadcast>) {
    let mut changes = broadcast.watch();
    let mut wishes = shared.wishes.subscribe();
    let mut hub = shared.hub.watch();
    let mut session: Option<Session> = None;
    let mut desire = Desire { version: wishes.borrow().version, ..Desire::default() };
    // What was asked for last time, and of which claim and by which wish: a registry is not asked with every change.
    let mut wants: Option<(u64, u64, bool)> = None;
    loop {
        let wish = *wishes.borrow_and_update();
        hub.mark_unchanged();
        changes.mark_unchanged();
        let here = shared.hub.get(broadcast.id()).is_some_and(|known| Arc::ptr_eq(&known, &broadcast));
        let epoch = broadcast.epoch();
        let wants = match wants {
            Some((of, by, wants)) if (of, by) == (epoch, wish.version) => wants,
            _ => wants.insert((epoch, wish.version, shared.wants(broadcast.id()).await)).2,
        };
        let wanted = here && !wish.closing && wants;
        match &session {
            Some(session) if !wanted => session.stop(),
            Some(_) => {}
            None if !here || wish.closing => return,
            None if wanted => session = desire.begin(&shared, &broadcast, wish.version),
            None => desire.epoch = broadcast.epoch(),
        }
        desire.version = wish.version;
        let outcome = async {
            match &mut session {
                Some(session) => (&mut session.outcome).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = outcome => {
                session = None;
                match outcome {
                    Ok(Outcome::Over) => {}
                    Ok(Outcome::Failed) => desire.failed_at = Some(wish.version),
                    Err(_) => {
                        shared.door.errors.inc();
                        tracing::error!(broadcast = %broadcast.id(), "recording thread failed");
                        desire.failed_at = Some(wish.version);
                    }
                }
            }
            _ = changes.changed() => {}
            _ = wishes.changed() => {}
            _ = hub.changed() => {}
        }
    }
}

impl Desire {
    fn begin(&mut self, shared: &Arc<Shared>, broadcast: &Arc<Broadcast>, version: u64) -> Option<Session> {
        let epoch = broadcast.epoch();
        // All of a claim that was to be recorded from its beginning, even if it is over already; what an operator asks
        // for begins where he asks.
        let whole = epoch > self.epoch && version == self.version;
        let recordable = [Kind::Video, Kind::Audio].iter().any(|kind| broadcast.choose(*kind, Delivery::Mp4).is_some());
        if !recordable || (broadcast.status() != Status::Live && !whole) {
            return None;
        }
        if epoch > self.epoch {
            self.failed_at = None;
        }
        if self.failed_at == Some(version) {
            return None;
        }
        let from = if whole { From::Epoch } else { From::Newest };
        self.epoch = epoch;
        match Session::begin(shared, broadcast.clone(), from) {
            Ok(session) => Some(session),
            Err(error) => {
                shared.door.errors.inc();
                tracing::error!(broadcast = %broadcast.id(), %error, "no thread to record on");
                self.failed_at = Some(version);
                None
            }
        }
    }
}
