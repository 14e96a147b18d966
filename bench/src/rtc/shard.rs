//! A thread that drives peers: each has its own UDP socket, because to a server one address is one peer.

use std::{
    io::{ErrorKind, IoSliceMut},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mio::{Events, Interest, Poll, Token, Waker, net::UdpSocket};
use quinn_udp::{RecvMeta, UdpSocketState};
use slab::Slab;
use tokio::sync::mpsc::UnboundedSender;

use super::{Arrival, News, Peer};
use crate::stamp;

/// How often timers are looked at; ICE and DTLS work in steps of tens of milliseconds.
const TICK: Duration = Duration::from_millis(5);
const WAKER: Token = Token(usize::MAX);
/// Datagrams taken by one system call, each up to the largest that segmentation offload can hand over.
const BATCH: usize = 8;
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// In which part of the run we are.
#[derive(Debug, Default)]
pub(super) struct Phase {
    pub(super) measuring: AtomicBool,
    pub(super) over: AtomicBool,
}

/// What the session of this client has to say.
type Told<P> = (u32, News<<P as Peer>::Legacy>);

/// A session and its client's number.
type Newcomer<P> = (u32, P, std::net::UdpSocket);

pub(super) struct Shard<P: Peer> {
    inbox: Sender<Newcomer<P>>,
    waker: Arc<Waker>,
    thread: JoinHandle<Result<Vec<P::Seen>>>,
}

impl<P: Peer> Shard<P> {
    pub(super) fn start(phase: Arc<Phase>, teller: UnboundedSender<Told<P>>) -> Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (inbox, joining) = channel();
        let thread = std::thread::spawn(move || Loop::new(poll, teller).run(&joining, &phase));
        Ok(Self { inbox, waker, thread })
    }

    pub(super) fn add(&self, client: u32, peer: P, socket: std::net::UdpSocket) -> Result<()> {
        self.inbox.send((client, peer, socket)).ok().context("a media thread has ended")?;
        Ok(self.waker.wake()?)
    }

    pub(super) fn join(self) -> Result<Vec<P::Seen>> {
        self.thread.join().ok().context("a media thread panicked")?
    }
}

struct Seat<P> {
    client: u32,
    peer: P,
    socket: UdpSocket,
    state: UdpSocketState,
}

struct Loop<P: Peer> {
    poll: Poll,
    seats: Slab<Seat<P>>,
    buffers: Vec<Vec<u8>>,
    teller: UnboundedSender<Told<P>>,
}

impl<P: Peer> Loop<P> {
    fn new(poll: Poll, teller: UnboundedSender<Told<P>>) -> Self {
        Self { poll, seats: Slab::new(), buffers: vec![vec![0; DATAGRAM_BYTES_MAX]; BATCH], teller }
    }

    fn run(mut self, joining: &Receiver<Newcomer<P>>, phase: &Phase) -> Result<Vec<P::Seen>> {
        let mut events = Events::with_capacity(1024);
        let mut next_tick = Instant::now();
        while !phase.over.load(Relaxed) {
            let patience = next_tick.saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, Some(patience)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            let measuring = phase.measuring.load(Relaxed);
            for event in &events {
                if let Some(seat) = self.seats.get_mut(event.token().0) {
                    seat.receive(&mut self.buffers, measuring)?;
                    if let Some(news) = seat.peer.news() {
                        // Nobody hears it when the run is over.
                        let _ = self.teller.send((seat.client, news));
                    }
                }
            }
            for (client, peer, socket) in joining.try_iter() {
                self.sit_down(client, peer, socket)?;
            }
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                let arrival = Arrival { now, wall_us: stamp::now_us(), measuring };
                for (_, seat) in self.seats.iter_mut().filter(|(_, seat)| seat.peer.wake_at() <= now) {
                    seat.peer.wake(arrival, &mut |to, datagram| send(&seat.socket, to, datagram))?;
                }
            }
        }
        let wall_us = stamp::now_us();
        Ok(self.seats.drain().map(|seat| seat.peer.finish(wall_us)).collect())
    }

    fn sit_down(&mut self, client: u32, peer: P, socket: std::net::UdpSocket) -> Result<()> {
        let state = UdpSocketState::new((&socket).into())?;
        // A whole gop may come at once; where the system allows less, it shows as loss that is not the server's.
        state.set_recv_buffer_size((&socket).into(), RECEIVE_BUFFER_BYTES)?;
        let mut socket = UdpSocket::from_std(socket);
        let entry = self.seats.vacant_entry();
        self.poll.registry().register(&mut socket, Token(entry.key()), Interest::READABLE)?;
        entry.insert(Seat { client, peer, socket, state });
        Ok(())
    }
}

impl<P: Peer> Seat<P> {
    fn receive(&mut self, buffers: &mut [Vec<u8>], measuring: bool) -> Result<()> {
        let mut metas = [RecvMeta::default(); BATCH];
        loop {
            let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let received = match self.state.recv((&self.socket).into(), &mut slices, &mut metas) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // The server's port is closed: its ICE will time out, which is what we count.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error).context("receiving"),
            };
            let now = Instant::now();
            for (meta, buffer) in metas[..received].iter().zip(buffers.iter()) {
                // The kernel's time of arrival: our own queue is not the server's delay.
                let wall_us = meta.timestamp.map_or_else(stamp::now_us, |since| since.as_micros() as u64);
                let arrival = Arrival { now, wall_us, measuring };
                for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                    self.peer.receive(meta.addr, datagram, arrival, &mut |to, bytes| send(&self.socket, to, bytes))?;
                }
            }
            if received < BATCH {
                return Ok(());
            }
        }
    }
}

/// A full socket buffer loses the datagram, as a network would.
fn send(socket: &UdpSocket, to: SocketAddr, datagram: &[u8]) {
    let _ = socket.send_to(datagram, to);
}
