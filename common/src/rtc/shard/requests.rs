//! What others ask of a shard and say to its sessions. In: commands, messages for data channels. Out: both carried out.

use std::time::Instant;

use str0m::Input;

use super::Shard;
use crate::{
    media::Kind,
    rtc::{inbox::Command, session::End},
};

/// Messages for data channels that are told in one turn, whatever waits: media comes first.
const TOLD_PER_TURN: usize = 512;

impl Shard {
    /// Passes on what was said about broadcasts, to those of this shard who have a data channel.
    pub(super) fn tell(&mut self) {
        let mut told = 0;
        while told < TOLD_PER_TURN {
            let messages = self.inbox.messages();
            let Some(first) = messages.first() else { return };
            let (listeners, now) = (self.listeners.of(&first.broadcast), Instant::now());
            for &key in &listeners {
                self.act(key, |session, outbox| session.tell(&messages, now, outbox));
            }
            told += messages.len() * listeners.len().max(1);
        }
        self.inbox.nudge();
    }

    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Close(id, end) => self.ended.extend(self.by_id.get(&id).map(|&key| (key, end))),
            Command::Instruct { id, text } => {
                let Some(&key) = self.by_id.get(&id) else { return };
                self.act(key, |session, outbox| session.instruct(&text, Instant::now(), outbox));
            }
            Command::Accept { id, answer, reply } => {
                let Some(&key) = self.by_id.get(&id) else { return };
                let Some(slot) = self.sessions.get_mut(key) else { return };
                let accepted = slot.session.accept(&answer);
                // Who asked may have gone.
                let _ = reply.send(accepted);
                self.follow_broadcast(key);
                self.act(key, |session, outbox| session.drive(Input::Timeout(Instant::now()), outbox));
            }
            Command::LetIn { id, intake } => match self.by_id.get(&id) {
                Some(&key) => self.act(key, |session, outbox| session.let_in(intake, Instant::now(), outbox)),
                // It has gone meanwhile, and has sent nothing.
                None => intake.into_iter().for_each(|intake| intake.finish(crate::clock::now_us())),
            },
            Command::Enable { id, kind, enabled } => {
                let Some(&key) = self.by_id.get(&id) else { return };
                let Some(slot) = self.sessions.get_mut(key) else { return };
                if slot.session.enable(kind, enabled) && enabled && kind == Kind::Video {
                    self.show_picture(key, true);
                }
            }
            Command::Restart { id, fragment, reply } => {
                let Some(slot) = self.by_id.get(&id).and_then(|&key| self.sessions.get_mut(key)) else { return };
                let restarted = slot.session.restart(&fragment).map(|(ice, restarted)| {
                    let old = slot.session.card.ice().local_ufrag;
                    self.shared.roster.rename(&old, &ice.local_ufrag);
                    if let Some(key) = self.by_ufrag.remove(&old) {
                        self.by_ufrag.insert(ice.local_ufrag.clone(), key);
                    }
                    slot.session.card.set_ice(ice);
                    restarted
                });
                // Who asked may have gone.
                let _ = reply.send(restarted);
                if let Some(&key) = self.by_id.get(&id) {
                    self.act(key, |session, outbox| session.drive(Input::Timeout(Instant::now()), outbox));
                }
            }
            Command::Pin { id, quality } => {
                let Some(&key) = self.by_id.get(&id) else { return };
                if let Some(slot) = self.sessions.get_mut(key) {
                    slot.session.pin(quality);
                }
                self.follow_broadcast(key);
            }
            Command::Stop => {
                self.ended.extend(self.sessions.iter().map(|(key, _)| (key, End::Asked)));
                self.stopped = true;
            }
        }
    }
}
