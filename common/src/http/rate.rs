//! How often one client may ask: so many requests at once, then so many a second.
//!
//! In: addresses and the time. Out: yes, or how long to wait. Deliberately absent: a table that grows with whoever comes,
//! and a belief in `X-Forwarded-For`, which any client can write.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// About 5 MB. When the table is full, clients that may use their whole burst again are forgotten; where that frees less
/// than half of it, all are: whoever commands so many addresses is not held up by counting them, and nobody else is to
/// be refused for it.
const CLIENTS_MAX: usize = 65_536;

/// The generic cell rate algorithm: a token bucket whose level is one instant, that at which the client would have
/// earned its last request at the steady rate.
pub struct RateLimit {
    interval: Duration,
    burst: Duration,
    earned: HashMap<IpAddr, Instant>,
}

impl RateLimit {
    pub fn new(burst: u32, per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second;
        Self { interval, burst: interval * burst, earned: HashMap::new() }
    }

    /// Counts one request, or tells how long to wait before the next.
    pub fn take(&mut self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let client = client(peer);
        let earned = self.earned.get(&client).copied().unwrap_or(now).max(now) + self.interval;
        let ahead = earned - now;
        if ahead > self.burst {
            return Err(ahead - self.burst);
        }
        if self.earned.len() >= CLIENTS_MAX {
            self.forget(now);
        }
        self.earned.insert(client, earned);
        Ok(())
    }

    fn forget(&mut self, now: Instant) {
        self.earned.retain(|_, earned| *earned > now);
        if self.earned.len() > CLIENTS_MAX / 2 {
            self.earned.clear();
        }
    }
}

/// IPv6 hands whole networks to one household (RFC 6177): all of a /64 is one client.
fn client(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_then_the_steady_rate() {
        let (mut limit, peer, now) = (RateLimit::new(3, 2), address("192.0.2.1"), Instant::now());
        for _ in 0..3 {
            assert_eq!(limit.take(peer, now), Ok(()));
        }
        assert_eq!(limit.take(peer, now), Err(SECOND / 2));
        assert_eq!(limit.take(peer, now + SECOND / 4), Err(SECOND / 4), "a refusal costs nothing");
        assert_eq!(limit.take(peer, now + SECOND / 2), Ok(()));
        assert_eq!(limit.take(peer, now + SECOND / 2), Err(SECOND / 2));
        let later = now + 60 * SECOND;
        assert_eq!((0..9).filter(|_| limit.take(peer, later).is_ok()).count(), 3, "what is not used is not saved up");
    }

    #[test]
    fn clients_do_not_use_up_each_others() {
        let (mut limit, now) = (RateLimit::new(1, 1), Instant::now());
        for (peer, is_new) in [
            ("192.0.2.1", true),
            ("192.0.2.2", true),
            ("::ffff:192.0.2.2", false),
            ("2001:db8::1", true),
            ("2001:db8::ffff:0:0:1", false),
            ("2001:db8:0:1::1", true),
        ] {
            assert_eq!(limit.take(address(peer), now).is_ok(), is_new, "{peer}");
        }
    }

    #[test]
    fn the_table_stays_small_and_forgets_whoever_has_waited_first() {
        let (mut limit, begin) = (RateLimit::new(1, 1), Instant::now());
        let many = |from: usize, count: usize| (from..from + count).map(|n| IpAddr::from((n as u32).to_be_bytes()));
        let old = CLIENTS_MAX * 3 / 4;
        assert!(many(0, old).all(|peer| limit.take(peer, begin).is_ok()));
        let later = begin + 2 * SECOND;
        assert!(many(old, CLIENTS_MAX - old).all(|peer| limit.take(peer, later).is_ok()));
        assert_eq!(limit.earned.len(), CLIENTS_MAX);
        assert_eq!(limit.take(address("203.0.113.1"), later), Ok(()));
        assert_eq!(limit.earned.len(), CLIENTS_MAX - old + 1);
        assert!(limit.take(many(old, 1).next().unwrap(), later).is_err(), "who asked just now is still counted");

        assert!(many(CLIENTS_MAX, 2 * CLIENTS_MAX).all(|peer| limit.take(peer, later).is_ok()), "nobody is refused");
        assert!(limit.earned.len() <= CLIENTS_MAX);
    }
}
