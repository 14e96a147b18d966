//! A bad network between one client and the server's WebRTC port: it loses, delays and drops, and changes while a test looks.
//!
//! Datagrams of a client go to the server from a port of the link's own, as behind a NAT, and back. The client has to be
//! told to use [`Link::address`] (`--via` of the scripts in `tests/clients`). Threads, because a test is no async code;
//! they end with the link.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// What waits longer than this for a narrow link is dropped: the buffer of a home router.
const QUEUE_MAX: Duration = Duration::from_millis(250);
const DATAGRAM_BYTES_MAX: usize = 2048;
/// How soon a thread sees that it is no longer wanted.
const PATIENCE: Duration = Duration::from_millis(50);

pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    front: Arc<UdpSocket>,
    server: SocketAddr,
    up: Mutex<Lane>,
    down: Mutex<Lane>,
    /// The socket that stands for a client, by the client's address.
    routes: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
    over: AtomicBool,
}

/// One direction.
#[derive(Debug)]
struct Lane {
    /// Of xorshift64: the same seed loses the same datagrams.
    random: u64,
    loss: f64,
    bits_per_second: Option<u64>,
    /// DTLS does not get through (RFC 7983 section 7 says which datagrams are DTLS).
    blocks_handshakes: bool,
    /// When the last datagram has left.
    free_at: Instant,
    passed: u64,
    lost: u64,
}

impl Lane {
    fn new(seed: u64, now: Instant) -> Self {
        Self {
            random: seed,
            loss: 0.0,
            bits_per_second: None,
            blocks_handshakes: false,
            free_at: now,
            passed: 0,
            lost: 0,
        }
    }

    fn carry(&mut self, now: Instant, datagram: &[u8]) -> Option<Instant> {
        if self.blocks_handshakes && datagram.first().is_some_and(|byte| (20..64).contains(byte)) {
            return None;
        }
        self.pass(now, datagram.len())
    }

    /// When a datagram that comes now has gone through, or None if it never does.
    fn pass(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let unlucky = (self.random as f64) < self.loss * u64::MAX as f64;
        let begins = self.free_at.max(now);
        if unlucky || begins - now > QUEUE_MAX {
            self.lost += 1;
            return None;
        }
        self.passed += 1;
        let takes = self.bits_per_second.map_or(0.0, |rate| 8.0 * bytes as f64 / rate as f64);
        self.free_at = begins + Duration::from_secs_f64(takes);
        Some(self.free_at)
    }
}

/// A datagram on its way.
struct Parcel {
    at: Instant,
    datagram: Vec<u8>,
    from: Arc<UdpSocket>,
    to: SocketAddr,
}

impl Link {
    pub(crate) fn to(server: SocketAddr) -> Self {
        let front = socket();
        let address = front.local_addr().expect("a bound socket has an address");
        let now = Instant::now();
        let lane = |seed| Mutex::new(Lane::new(seed, now));
        let (up, down) = (lane(0x5eed_0001), lane(0x5eed_0002));
        let shared =
            Arc::new(Shared { front, server, up, down, routes: Mutex::default(), over: AtomicBool::new(false) });
        let (running, to_server, to_clients) = (shared.clone(), courier(), courier());
        thread::spawn(move || running.carry_up(&to_server, &to_clients));
        Self { address, shared }
    }

    /// From now on, this share of all datagrams is lost, each way.
    pub(crate) fn lose(&self, share: f64) {
        lock(&self.shared.up).loss = share;
        lock(&self.shared.down).loss = share;
    }

    /// From now on, no more than this goes towards the client.
    pub(crate) fn limit_down(&self, bits_per_second: Option<u64>) {
        lock(&self.shared.down).bits_per_second = bits_per_second;
    }

    /// From now on, checks get through and handshakes don't, or do again.
    pub(crate) fn lose_handshakes(&self, lose: bool) {
        lock(&self.shared.up).blocks_handshakes = lose;
    }

    /// As a NAT that forgot its mapping, or a phone that changed networks: the server sees another address from now on.
    pub(crate) fn change_address(&self) {
        // Who sends next gets a new socket; the old one is no longer listened to.
        lock(&self.shared.routes).clear();
    }

    /// How many datagrams were lost so far, towards the server and towards the client.
    pub(crate) fn lost(&self) -> [u64; 2] {
        [lock(&self.shared.up).lost, lock(&self.shared.down).lost]
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn carry_up(self: &Arc<Self>, to_server: &mpsc::Sender<Parcel>, to_clients: &mpsc::Sender<Parcel>) {
        self.each_datagram(
            &self.front,
            || true,
            |datagram, client| {
                let Some(at) = lock(&self.up).carry(Instant::now(), &datagram) else { return };
                let route = lock(&self.routes).get(&client).cloned();
                let from = route.unwrap_or_else(|| self.open(client, to_clients.clone()));
                let _ = to_server.send(Parcel { at, datagram, from, to: self.server });
            },
        );
    }

    fn open(self: &Arc<Self>, client: SocketAddr, to_clients: mpsc::Sender<Parcel>) -> Arc<UdpSocket> {
        let route = socket();
        lock(&self.routes).insert(client, route.clone());
        let (shared, own) = (self.clone(), route.clone());
        thread::spawn(move || {
            let current = || lock(&shared.routes).get(&client).is_some_and(|route| Arc::ptr_eq(route, &own));
            shared.each_datagram(&own, current, |datagram, _| {
                let Some(at) = lock(&shared.down).carry(Instant::now(), &datagram) else { return };
                let _ = to_clients.send(Parcel { at, datagram, from: shared.front.clone(), to: client });
            });
        });
        route
    }

    /// Until the link is over, or the socket no longer wanted.
    fn each_datagram(&self, socket: &UdpSocket, wanted: impl Fn() -> bool, mut take: impl FnMut(Vec<u8>, SocketAddr)) {
        let mut datagram = [0; DATAGRAM_BYTES_MAX];
        while !self.over.load(Ordering::Relaxed) && wanted() {
            // An error is a timeout, or that nobody listens at the other end: the next one may go through.
            if let Ok((bytes, sender)) = socket.recv_from(&mut datagram) {
                take(datagram[..bytes].to_vec(), sender);
            }
        }
    }
}

/// Sends what it is given when it is due, in the order given. Ends with the last of its customers.
fn courier() -> mpsc::Sender<Parcel> {
    let (sender, parcels) = mpsc::channel::<Parcel>();
    thread::spawn(move || {
        for Parcel { at, datagram, from, to } in parcels {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            // Nobody there: lost, as on any network.
            let _ = from.send_to(&datagram, to);
        }
    });
    sender
}

fn socket() -> Arc<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port for the link");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout that is not zero");
    Arc::new(socket)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_lane_loses_its_share_and_a_narrow_one_delays_then_drops() {
    let now = Instant::now();
    let mut lane = Lane::new(7, now);
    assert!((0..1000).all(|_| lane.pass(now, 1000) == Some(now)), "a good lane takes no time");
    lane.loss = 0.05;
    let passed = (0..10_000).filter(|_| lane.pass(now, 1000).is_some()).count();
    assert!((9_400..9_600).contains(&passed), "{passed}");
    lane.loss = 0.0;
    // A kilobyte each eight milliseconds.
    lane.bits_per_second = Some(1_000_000);
    let arrivals: Vec<_> = (0..100).map_while(|_| lane.pass(now, 1000)).collect();
    assert_eq!(arrivals[0] - now, Duration::from_millis(8));
    assert_eq!(arrivals.len(), 32, "the queue holds a quarter of a second");
    lane.bits_per_second = None;
    let later = now + Duration::from_secs(1);
    assert_eq!(lane.pass(later, 1000), Some(later), "the limit is lifted");
}

#[test]
fn a_link_carries_both_ways_is_limited_and_changes_its_address() {
    let far = socket();
    let link = Link::to(far.local_addr().expect("an address"));
    let near = socket();
    let mut seen = [0; 64];
    let mut arrives = |bytes: &[u8]| {
        near.send_to(bytes, link.address).expect("sent");
        super::until("the datagram", super::s(5), || far.recv_from(&mut seen).ok()).1
    };
    let as_seen = arrives(b"hello");
    assert_eq!(as_seen, arrives(b"again"), "a client has one address");
    let came_back = || {
        let begun = Instant::now();
        far.send_to(&[1; 1000], as_seen).expect("sent");
        super::until("the answer", super::s(5), || near.recv_from(&mut [0; 2000]).ok());
        begun.elapsed()
    };
    came_back();
    link.limit_down(Some(80_000));
    assert!(came_back() >= Duration::from_millis(100), "a kilobyte at ten kilobytes a second");
    link.change_address();
    assert_ne!(as_seen, arrives(b"hello"));
}
