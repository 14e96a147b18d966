//! The beat of this node, each second, and the registry server's clock, which comes back with it. In: what this node says
//! of itself. Out: a row that lives; whether the registry answers; the cluster's time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use headwater_common::{
    clock::{self, Reading, Readings},
    registry::RegistryError,
};
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{Contact, EVERY, Shared};

/// A beat that failed is not waited for: others count the seconds.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How often the time is asked for before it is believed.
const QUESTIONS: usize = 4;

/// Runs until another process has taken over this node.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut turn = interval(EVERY);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pulse = Pulse::default();
    loop {
        turn.tick().await;
        while let Err(error) = pulse.beat(&shared).await {
            let is_over = matches!(error, RegistryError::Displaced { .. });
            shared.is_now(Contact::without(error));
            if is_over {
                return;
            }
            sleep(AGAIN_AFTER).await;
        }
        shared.is_now(Contact::Answers);
    }
}

#[derive(Default)]
struct Pulse {
    joined: bool,
    /// On the connection as it is now.
    readings: Readings,
}

impl Pulse {
    async fn beat(&mut self, shared: &Shared) -> Result<(), RegistryError> {
        let beaten = self.try_beat(shared).await;
        if beaten.is_err() {
            // What comes next may have to connect anew, and the machine may have slept.
            self.readings = Readings::default();
        }
        beaten
    }

    async fn try_beat(&mut self, shared: &Shared) -> Result<(), RegistryError> {
        let mut questions = 1;
        if self.readings.is_empty() {
            // Who is asked first is connected with first, which is no part of the way.
            if self.joined {
                shared.mongo.beat(&shared.about()).await?;
            } else {
                join(shared).await?;
                self.joined = true;
            }
            questions = QUESTIONS;
        }
        for question in 1..=questions {
            let asked = Instant::now();
            let beaten = shared.mongo.beat(&shared.about()).await?;
            let best = self.readings.take(Reading::of_answer(beaten.server_ms, asked.elapsed()));
            if question == questions {
                clock::take(best);
            }
        }
        Ok(())
    }
}

async fn join(shared: &Shared) -> Result<(), RegistryError> {
    shared.mongo.join(&shared.about()).await?;
    if let Err(error) = shared.mongo.prepare().await {
        tracing::error!(%error, "indexes are missing in the registry: lists are slower, and rows of dead nodes stay");
    }
    Ok(())
}
