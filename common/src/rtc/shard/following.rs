//! What the hall brings to a shard: frames of the tracks its sessions follow, and news of their broadcasts.
//!
//! In: marks of feeds and audiences. Out: packets handed to sessions, sessions moved from one track to another.
//! Deliberately absent: which of several layers a viewer is sent (`quality`).

use std::{sync::Arc, time::Instant};

use super::Shard;
use crate::{
    live::{Broadcast, Track},
    media::{Delivery, Frame, Kind},
    rtc::{
        feed::{Audience, Feed},
        session::End,
        viewing::{AUDIO, Clock, VIDEO},
    },
};

/// How a session comes from one track to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switching {
    /// With the gop that the other has, if there is one: the one so far does not suit (any more).
    AtOnce,
    /// At the other's next keyframe. The one so far goes on until then.
    AtKeyframe,
}

impl Shard {
    pub(super) fn deliver(&mut self, feed_key: usize) {
        let Some(feed) = self.feeds.get_mut(feed_key) else { return };
        let mut frames = std::mem::take(&mut self.frames);
        let goes_on = feed.take(&mut frames);
        let (index, rate, rest) = (feed.index, feed.rate(), feed.take_rest());
        // Taken out while walking: who leaves meanwhile is dealt with afterwards.
        let subscribers = std::mem::take(&mut feed.subscribers);
        let mut left = Vec::new();
        if !frames.is_empty() {
            let clock = self.clock();
            for &key in &subscribers {
                self.act(key, |session, outbox| {
                    let connected = session.connected;
                    if let Some((viewing, rtc)) = session.viewing_mut().filter(|_| connected) {
                        for frame in &frames {
                            let switched = viewing.frame(rtc, index, feed_key, frame, rate, &clock);
                            left.extend(switched.map(|feed| (key, feed)));
                        }
                    }
                    session.flush(&clock, outbox)
                });
            }
        }
        frames.clear();
        self.frames = frames;
        if !goes_on {
            self.ended.extend(subscribers.iter().map(|&key| (key, End::BroadcastGone)));
        }
        if let Some(feed) = self.feeds.get_mut(feed_key) {
            // Whoever joined during the walk is in the list already.
            feed.subscribers.splice(0..0, subscribers.iter().copied());
        }
        if let Some(rest) = rest.filter(|_| index == VIDEO) {
            let clock = self.clock();
            for &key in &subscribers {
                let viewing = self.sessions.get(key).and_then(|slot| slot.session.viewing());
                let Some(viewing) = viewing.filter(|viewing| viewing.follows(feed_key)) else { continue };
                if viewing.waits_for_picture() {
                    self.show_picture(key, true);
                } else {
                    self.catch_up(key, &rest, rate, &clock);
                }
            }
        }
        for (key, feed) in left {
            self.leave(feed, key);
        }
        self.bury();
    }

    /// A broadcast changed: perhaps another track suits its viewers better now.
    pub(super) fn look_at(&mut self, audience_key: usize) {
        let Some(audience) = self.audiences.get_mut(audience_key) else { return };
        if !audience.has_news() {
            return;
        }
        audience.ladder.look_at(audience.broadcast.pictures(), Instant::now());
        let layered = audience.ladder.is_choice();
        let (broadcast, keys) = (audience.broadcast.clone(), audience.sessions.clone());
        if layered {
            self.adapting.get_or_insert_with(Instant::now);
        }
        for (index, kind) in [(VIDEO, Kind::Video), (AUDIO, Kind::Audio)] {
            // Most peers take the same codecs.
            let mut chosen: Vec<(Delivery, Option<Arc<Track>>)> = Vec::new();
            for &key in &keys {
                if index == VIDEO && layered && self.adapt(key, audience_key) {
                    continue;
                }
                let viewing = self.sessions.get(key).and_then(|slot| slot.session.viewing());
                let Some(delivery) = viewing.map(|viewing| viewing.delivery(kind)) else { continue };
                let known = chosen.iter().find(|(known, _)| *known == delivery).map(|(_, track)| track.clone());
                let track = known.unwrap_or_else(|| {
                    let track = broadcast.choose(kind, delivery).map(|choice| choice.track);
                    chosen.push((delivery, track.clone()));
                    track
                });
                if let Some(track) = track {
                    self.follow(key, index, &track, Switching::AtOnce);
                }
            }
        }
    }

    /// Makes a session follow a track, at once if it followed none.
    pub(super) fn follow(&mut self, key: usize, index: usize, track: &Arc<Track>, switching: Switching) {
        let Some(slot) = self.sessions.get(key) else { return };
        let Some(out) = slot.session.viewing().and_then(|viewing| viewing.outs[index].as_ref()) else { return };
        let (now, later) = (out.feed, out.next_feed);
        let follows = |feed: Option<usize>| {
            feed.and_then(|feed| self.feeds.get(feed)).is_some_and(|feed| Arc::ptr_eq(feed.track(), track))
        };
        let (has_it, will_have_it) = (follows(now), follows(later));
        if will_have_it || (has_it && later.is_none()) {
            return;
        }
        if let Some(later) = later {
            self.leave(later, key);
        }
        if has_it {
            self.set_feeds(key, index, now, None);
            return;
        }
        let feed_key = self.subscribe(track, key);
        let Some(feed) = self.feeds.get(feed_key) else { return };
        let connected = self.sessions.get(key).is_some_and(|slot| slot.session.connected);
        let at_once = switching == Switching::AtOnce;
        let gop = if index == VIDEO && connected && at_once { feed.newest_gop() } else { Vec::new() };
        let rate = feed.rate();
        match now {
            Some(old) if connected && gop.is_empty() => self.set_feeds(key, index, Some(old), Some(feed_key)),
            Some(old) => {
                self.set_feeds(key, index, Some(feed_key), None);
                self.leave(old, key);
            }
            None => self.set_feeds(key, index, Some(feed_key), None),
        }
        if !gop.is_empty() {
            let clock = self.clock();
            self.catch_up(key, &gop, rate, &clock);
        }
    }

    pub(super) fn catch_up(&mut self, key: usize, gop: &[Arc<Frame>], rate: i64, clock: &Clock) {
        self.act(key, |session, outbox| {
            if let Some((viewing, _)) = session.viewing_mut() {
                viewing.catch_up(gop, rate, clock.now);
            }
            session.flush(clock, outbox)
        });
    }

    pub(super) fn set_feeds(&mut self, key: usize, index: usize, now: Option<usize>, later: Option<usize>) {
        let viewing = self.sessions.get_mut(key).and_then(|slot| slot.session.viewing_mut());
        if let Some(out) = viewing.and_then(|(viewing, _)| viewing.outs[index].as_mut()) {
            (out.feed, out.next_feed) = (now, later);
        }
    }

    pub(super) fn subscribe(&mut self, track: &Arc<Track>, key: usize) -> usize {
        let known = self.feeds.iter().find(|(_, feed)| Arc::ptr_eq(feed.track(), track)).map(|(key, _)| key);
        let feed_key = known.unwrap_or_else(|| {
            let entry = self.feeds.vacant_entry();
            let feed_key = entry.key();
            let mut feed = Feed::open(track, feed_key, &self.inbox);
            // Catches up with the track; who joins is sent the newest gop by itself.
            feed.take(&mut Vec::new());
            feed.take_rest();
            entry.insert(feed);
            feed_key
        });
        if let Some(feed) = self.feeds.get_mut(feed_key) {
            feed.subscribers.push(key);
        }
        feed_key
    }

    pub(super) fn leave(&mut self, feed_key: usize, key: usize) {
        let Some(feed) = self.feeds.get_mut(feed_key) else { return };
        feed.subscribers.retain(|subscriber| *subscriber != key);
        if feed.subscribers.is_empty() {
            self.feeds.remove(feed_key);
        }
    }

    /// Makes a viewer's session follow what suits it.
    pub(super) fn follow_broadcast(&mut self, key: usize) {
        let audience = self.sessions.get(key).and_then(|slot| slot.audience);
        for (index, kind) in [(VIDEO, Kind::Video), (AUDIO, Kind::Audio)] {
            if index == VIDEO && audience.is_some_and(|audience| self.adapt(key, audience)) {
                continue;
            }
            let Some(viewing) = self.sessions.get(key).and_then(|slot| slot.session.viewing()) else { return };
            if let Some(choice) = viewing.broadcast.choose(kind, viewing.delivery(kind)) {
                self.follow(key, index, &choice.track, Switching::AtOnce);
            }
        }
    }

    pub(super) fn audience(&mut self, broadcast: &Arc<Broadcast>) -> usize {
        let known = self.audiences.iter().find(|(_, audience)| Arc::ptr_eq(&audience.broadcast, broadcast));
        if let Some((key, _)) = known {
            return key;
        }
        let entry = self.audiences.vacant_entry();
        let key = entry.key();
        let audience = entry.insert(Audience::open(broadcast, key, &self.inbox));
        audience.ladder.look_at(broadcast.pictures(), Instant::now());
        if audience.ladder.is_choice() {
            self.adapting.get_or_insert_with(Instant::now);
        }
        key
    }

    /// A viewer has just joined, or lost its picture.
    pub(super) fn show_picture(&mut self, key: usize, joined: bool) {
        let clock = self.clock();
        let viewing = self.sessions.get_mut(key).and_then(|slot| slot.session.viewing_mut());
        let Some((viewing, _)) = viewing else { return };
        let feed = viewing.outs[VIDEO].as_ref().and_then(|out| out.feed);
        let Some(feed) = feed.and_then(|feed| self.feeds.get(feed)) else { return };
        if !joined {
            feed.track().request_keyframe();
            if !viewing.may_replay(clock.now) {
                return;
            }
        }
        let (gop, rate) = (feed.newest_gop(), feed.rate());
        self.catch_up(key, &gop, rate, &clock);
    }
}
