//! Waiting. In: how often something failed, and chance. Out: how long it waits before the next try; a wait that may have
//! no end.

use std::time::Duration;

use tokio::time::{self, Instant};

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Doubles each time; between half of that and all of it. `chance` is anything; it keeps those that failed together from
/// coming back together.
pub(crate) fn pause(failures: u32, chance: u32) -> Duration {
    let whole = PAUSE_MIN.saturating_mul(1 << failures.min(16)).min(PAUSE_MAX);
    whole / 2 + whole.mul_f64(f64::from(chance) / f64::from(u32::MAX)) / 2
}

/// Never, without a time.
pub(crate) async fn sleep_until(then: Option<Instant>) {
    match then {
        Some(then) => time::sleep_until(then).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::pause;

    #[test]
    fn pauses_grow_to_five_minutes_and_are_spread() {
        let seconds = |failures, chance| pause(failures, chance).as_secs_f64();
        assert_eq!((seconds(0, 0), seconds(0, u32::MAX)), (0.5, 1.0));
        assert_eq!((seconds(3, 0), seconds(3, u32::MAX)), (4.0, 8.0));
        assert_eq!((seconds(9, u32::MAX), seconds(u32::MAX, u32::MAX)), (300.0, 300.0));
        assert_eq!(seconds(20, 0), 150.0);
    }
}
