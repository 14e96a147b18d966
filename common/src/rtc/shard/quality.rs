//! Which picture each viewer of a shard is sent, where a broadcast has several: layers, or a source and its renditions.

use std::time::Instant;

use super::{ADAPT_EVERY, Shard, following::Switching};
use crate::{media::Kind, rtc::viewing::VIDEO};

impl Shard {
    /// Chooses again for every viewer that has something to choose from.
    pub(super) fn adapt_all(&mut self, now: Instant) {
        let mut layered = false;
        let audiences: Vec<usize> = self.audiences.iter().map(|(key, _)| key).collect();
        for audience_key in audiences {
            let Some(audience) = self.audiences.get_mut(audience_key).filter(|audience| audience.ladder.is_choice())
            else {
                continue;
            };
            layered = true;
            audience.ladder.look_at(audience.broadcast.pictures(), now);
            for key in audience.sessions.clone() {
                self.adapt(key, audience_key);
            }
        }
        self.adapting = layered.then_some(now + ADAPT_EVERY);
    }

    /// Makes a viewer follow the layer that its network carries. `false` if there is none that lives and suits.
    pub(super) fn adapt(&mut self, key: usize, audience_key: usize) -> bool {
        let now = Instant::now();
        let Some(audience) = self.audiences.get(audience_key).filter(|audience| audience.ladder.is_choice()) else {
            return false;
        };
        let Some(slot) = self.sessions.get_mut(key) else { return false };
        let card = slot.session.card.clone();
        let Some((viewing, rtc)) = slot.session.viewing_mut() else { return false };
        let layers = audience.ladder.layers(viewing.delivery(Kind::Video));
        let chosen = viewing.choose(rtc, &layers, &card, now);
        let Some(chosen) = chosen.and_then(|id| layers.iter().find(|layer| layer.id == id)) else { return false };
        let Some(track) = audience.ladder.track(chosen.id).cloned() else { return false };
        let current = viewing.outs[VIDEO].as_ref().and_then(|out| self.feeds.get(out.feed?)).map(|feed| feed.track());
        let layer = current.and_then(|current| audience.ladder.layer_of(current));
        card.update(|stats| {
            stats.layer_height = layer.map(|layer| layer.height);
            stats.layer_bps = layer.map(|layer| layer.bits_per_s);
            stats.layer_switches = viewing.switches;
        });
        // The source, a copy of the best layer, is no layer itself.
        let lives = current.is_some_and(|current| audience.ladder.lives(current).unwrap_or(true));
        self.follow(key, VIDEO, &track, if lives { Switching::AtKeyframe } else { Switching::AtOnce });
        let smaller = layer.is_some_and(|layer| chosen.bits_per_s < layer.bits_per_s);
        self.look_after_switch(key, smaller, now);
        true
    }

    /// A keyframe of what a viewer waits for is asked for.
    fn look_after_switch(&mut self, key: usize, smaller: bool, now: Instant) {
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let Some((viewing, rtc)) = slot.session.viewing_mut() else { return };
        let next = viewing.outs[VIDEO].as_ref().and_then(|out| out.next_feed);
        let Some(feed) = next.and_then(|feed| self.feeds.get(feed)) else { return };
        if smaller {
            viewing.pause_if_lost(rtc);
        }
        if viewing.may_ask(now) {
            feed.track().request_keyframe();
        }
    }

    /// Of what a viewer follows, because what waits for it is late.
    pub(super) fn ask_for_keyframe(&self, key: usize) {
        let viewing = self.sessions.get(key).and_then(|slot| slot.session.viewing());
        let feed = viewing.and_then(|viewing| viewing.outs[VIDEO].as_ref()?.feed);
        if let Some(feed) = feed.and_then(|feed| self.feeds.get(feed)) {
            feed.track().request_keyframe();
        }
    }
}
