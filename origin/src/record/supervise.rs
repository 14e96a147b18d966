//! Which broadcasts are recorded, and how often. In: what appears in the hub, ends or changes, and what operators wish. Out:
//! sessions begun and stopped. One task follows each broadcast with all its takes for as long as the hub holds it.
//! Deliberately absent: media.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
};

use headwater_common::{
    live::{Broadcast, BroadcastId, Status},
    media::{Delivery, Kind},
    registry::{BroadcastRow, Take},
    store::Form,
};
use tokio::{sync::oneshot::error::RecvError, task::JoinSet};

use super::{
    Shared,
    session::{Outcome, Session, Subject},
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

/// A take, and what it is kept as.
type Keeping = (Take, Form);

/// What one take of a broadcast has come to, in one form.
#[derive(Default)]
struct Going {
    session: Option<Session>,
    /// The newest claim that was looked at with something in it to record.
    epoch: u64,
    /// Why nothing more is tried: it failed, and nobody has asked again (the wishes' version then).
    failed_at: Option<u64>,
}

/// All takes of one broadcast.
struct Followed {
    shared: Arc<Shared>,
    broadcast: Arc<Broadcast>,
    takes: BTreeMap<Keeping, Going>,
    ended: JoinSet<(Keeping, Result<Outcome, RecvError>)>,
    /// The newest claim and wish that were looked at.
    epoch: u64,
    version: u64,
}

async fn follow(shared: Arc<Shared>, broadcast: Arc<Broadcast>) {
    let mut changes = broadcast.watch();
    let mut wishes = shared.wishes.subscribe();
    let mut hub = shared.hub.watch();
    let version = wishes.borrow().version;
    let rules = shared.rules(broadcast.id());
    let (takes, ended) = (BTreeMap::new(), JoinSet::new());
    let mut followed =
        Followed { shared: shared.clone(), broadcast: broadcast.clone(), takes, ended, epoch: 0, version };
    // In which claim and by which wish it was looked up what to record: a registry is not asked with every change.
    let mut looked_up = None;
    let mut known = None;
    loop {
        let wish = *wishes.borrow_and_update();
        hub.mark_unchanged();
        changes.mark_unchanged();
        let here = shared.hub.get(broadcast.id()).is_some_and(|known| Arc::ptr_eq(&known, &broadcast));
        let epoch = broadcast.epoch();
        // A claim that is made good comes from a registry that was away.
        let now = Some((broadcast.claimed_epoch(), wish.version));
        if looked_up != now {
            looked_up = now;
            match shared.wanted(broadcast.id()).await {
                Ok(wanted) => known = Some(wanted),
                Err(error) => {
                    tracing::error!(broadcast = %broadcast.id(), %error, "what to record can't be looked up: what was known, or the application's setting, holds");
                }
            }
        }
        let goes_on = here && !wish.closing;
        let takes = match &known {
            _ if !goes_on => BTreeSet::new(),
            Some(wanted) => wanted.clone(),
            None => shared.wanted_by(broadcast.id(), &BroadcastRow::default()),
        };
        let forms = |take: Take| rules.forms().map(move |form| (take.clone(), form));
        let wanted = takes.into_iter().flat_map(forms).collect();
        followed.look(&wanted, epoch, wish.version);
        if !goes_on && followed.takes.is_empty() {
            return;
        }
        tokio::select! {
            Some(ended) = followed.ended.join_next() => match ended {
                Ok((take, outcome)) => followed.ended(&take, outcome, wish.version),
                Err(error) => tracing::error!(broadcast = %broadcast.id(), %error, "bug: a recording's end was not heard"),
            },
            _ = changes.changed() => {}
            _ = wishes.changed() => {}
            _ = hub.changed() => {}
        }
    }
}

impl Followed {
    /// Begins and stops what should be.
    fn look(&mut self, wanted: &BTreeSet<Keeping>, epoch: u64, version: u64) {
        for take in wanted {
            if !self.takes.contains_key(take) {
                // What was published before somebody asked for it is not new to this take.
                self.takes.insert(take.clone(), Going { epoch: self.epoch, ..Going::default() });
            }
        }
        let (seen_version, broadcast) = (self.version, &self.broadcast);
        self.takes.retain(|take, going| match &going.session {
            Some(session) => {
                if !wanted.contains(take) {
                    session.stop();
                }
                true
            }
            None if wanted.contains(take) => {
                let ended = &mut self.ended;
                going.begin(&self.shared, broadcast, take, (seen_version, version), ended);
                true
            }
            None => false,
        });
        (self.epoch, self.version) = (epoch, version);
    }

    fn ended(&mut self, take: &Keeping, outcome: Result<Outcome, RecvError>, version: u64) {
        let Some(going) = self.takes.get_mut(take) else { return };
        going.session = None;
        match outcome {
            // A publisher that returned went on in it, and is not to be recorded again.
            Ok(Outcome::Over { epoch }) => going.epoch = going.epoch.max(epoch),
            Ok(Outcome::Failed) => going.failed_at = Some(version),
            Err(_) => {
                self.shared.door.errors.inc();
                let (take, form) = take;
                tracing::error!(broadcast = %self.broadcast.id(), %take, %form, "recording thread failed");
                going.failed_at = Some(version);
            }
        }
    }
}

impl Going {
    fn begin(
        &mut self,
        shared: &Arc<Shared>,
        broadcast: &Arc<Broadcast>,
        keeping: &Keeping,
        (seen_version, version): (u64, u64),
        ended: &mut JoinSet<(Keeping, Result<Outcome, RecvError>)>,
    ) {
        let ((take, form), epoch) = (keeping, broadcast.epoch());
        // All of a claim that was to be recorded from its beginning, even if it is over already; what an operator asks
        // for begins where he asks.
        let whole = epoch > self.epoch && version == seen_version;
        let rendition = take
            .height
            .and_then(|height| broadcast.told().ladder.into_iter().find(|rendition| rendition.height == height));
        let recordable = match take.height {
            Some(_) => rendition.is_some(),
            None => [Kind::Video, Kind::Audio].iter().any(|kind| broadcast.choose(*kind, Delivery::Mp4).is_some()),
        };
        if !recordable || (broadcast.status() != Status::Live && !whole) {
            return;
        }
        if epoch > self.epoch {
            self.failed_at = None;
        }
        if self.failed_at == Some(version) {
            return;
        }
        let from = if whole { From::Epoch } else { From::Newest };
        self.epoch = epoch;
        let subject = Subject { broadcast: broadcast.clone(), rendition, name: take.name.clone(), form: *form };
        match Session::begin(shared, subject, from) {
            Ok((session, outcome)) => {
                self.session = Some(session);
                let keeping = keeping.clone();
                ended.spawn(async move { (keeping, outcome.await) });
            }
            Err(error) => {
                shared.door.errors.inc();
                tracing::error!(broadcast = %broadcast.id(), %take, %form, %error, "no thread to record on");
                self.failed_at = Some(version);
            }
        }
    }
}
