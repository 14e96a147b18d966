//! Sockets of the shards, and what the machine's addresses are.
//!
//! In: an address to listen on; datagrams to send. Out: one UDP and one TCP socket per shard on the same port number
//! (the kernel spreads peers over them by their 4-tuple), batches that leave in one system call. Deliberately absent:
//! sessions.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    time::Duration,
};

use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Asked for; the kernel grants what net.core.{r,w}mem_max allow.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Ports tried when the system chooses one (port 0) and TCP has it taken.
const PORT_ATTEMPTS: usize = 16;
/// Candidates in an answer: more addresses than this only slow a client's checks down.
const ADDRESSES_MAX: usize = 16;
const EAFNOSUPPORT: i32 = 97;

pub(super) struct Sockets {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
}

/// Sockets for so many shards, and the address they got.
pub(super) fn bind(listen: SocketAddr, shards: usize) -> io::Result<(Vec<Sockets>, SocketAddr)> {
    let mut failure = None;
    for _ in 0..PORT_ATTEMPTS {
        match bind_once(listen, shards) {
            Ok(bound) => return Ok(bound),
            Err(err) if listen.port() == 0 => failure = Some(err),
            // A machine without IPv6 still serves IPv4.
            Err(err)
                if err.raw_os_error() == Some(EAFNOSUPPORT) && listen.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) =>
            {
                return bind_once((Ipv4Addr::UNSPECIFIED, listen.port()).into(), shards);
            }
            Err(err) => return Err(err),
        }
    }
    Err(failure.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
}

fn bind_once(listen: SocketAddr, shards: usize) -> io::Result<(Vec<Sockets>, SocketAddr)> {
    let mut address = listen;
    let mut all = Vec::new();
    for _ in 0..shards {
        let udp: UdpSocket = socket(address, Type::DGRAM, Protocol::UDP)?.into();
        address = udp.local_addr()?;
        let tcp = socket(address, Type::STREAM, Protocol::TCP)?;
        tcp.listen(256)?;
        all.push(Sockets { udp, tcp: tcp.into() });
    }
    Ok((all, address))
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    if kind == Type::DGRAM {
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// The addresses a peer may reach us at when the operator named none.
pub(super) fn addresses(listen: IpAddr) -> io::Result<Vec<IpAddr>> {
    if !listen.is_unspecified() {
        return Ok(vec![listen]);
    }
    let mut addresses: Vec<IpAddr> = if_addrs::get_if_addrs()?
        .into_iter()
        .map(|interface| interface.ip())
        .filter(|ip| listen.is_ipv6() || ip.is_ipv4())
        // A link-local address means nothing without the peer's own name for the link.
        .filter(|ip| !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    // Loopback last: it is right for a browser on this machine only.
    addresses.sort_by_key(|ip| (ip.is_loopback(), ip.is_ipv6()));
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    Ok(addresses)
}

pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Datagrams of one turn of a shard. Consecutive ones of one size to one peer leave together (segmentation offload);
/// what the kernel doesn't take within [`SEND_PATIENCE`] is dropped, as any full queue on the way would.
pub(super) struct Outbox {
    socket: tokio::net::UdpSocket,
    state: UdpSocketState,
    v6: bool,
    /// Addresses of this machine: a reply leaves from the one that was asked. Others (a NAT's) are not ours to use.
    own: Vec<IpAddr>,
    batch: Vec<u8>,
    segment: usize,
    segments: usize,
    /// The last datagram was shorter: it ends the batch.
    closed: bool,
    to: (SocketAddr, Option<IpAddr>),
    pub(super) sent: u64,
    pub(super) sent_bytes: u64,
    pub(super) dropped: u64,
}

/// A picture for a thousand viewers is more than a socket buffer holds; the network card empties one within this.
const SEND_PATIENCE: Duration = Duration::from_millis(10);
const SEND_PAUSE: Duration = Duration::from_micros(200);
/// What IP can carry in one (offloaded) datagram, less its headers.
const BATCH_BYTES_MAX: usize = 65_000;

impl Outbox {
    pub(super) fn new(socket: tokio::net::UdpSocket, own: Vec<IpAddr>) -> io::Result<Self> {
        Ok(Self {
            state: UdpSocketState::new(UdpSockRef::from(&socket))?,
            v6: socket.local_addr()?.is_ipv6(),
            socket,
            own,
            batch: Vec::with_capacity(BATCH_BYTES_MAX),
            segment: 0,
            segments: 0,
            closed: false,
            to: ((Ipv4Addr::UNSPECIFIED, 0).into(), None),
            sent: 0,
            sent_bytes: 0,
            dropped: 0,
        })
    }

    pub(super) fn socket(&self) -> (&tokio::net::UdpSocket, &UdpSocketState) {
        (&self.socket, &self.state)
    }

    pub(super) fn source(&self, ip: IpAddr) -> Option<IpAddr> {
        self.own.contains(&ip).then_some(ip)
    }

    pub(super) fn push(&mut self, to: SocketAddr, from: Option<IpAddr>, datagram: &[u8]) {
        let fits = self.segments > 0
            && !self.closed
            && self.to == (to, from)
            && datagram.len() <= self.segment
            && self.segments < self.state.max_gso_segments()
            && self.batch.len() + datagram.len() <= BATCH_BYTES_MAX;
        if !fits {
            self.flush();
            self.to = (to, from);
            self.segment = datagram.len();
        }
        self.closed = datagram.len() < self.segment;
        self.segments += 1;
        self.batch.extend_from_slice(datagram);
    }

    pub(super) fn flush(&mut self) {
        if self.segments == 0 {
            return;
        }
        let segments = self.segments as u64;
        self.sent_bytes += self.batch.len() as u64;
        match self.send(&self.batch, (self.segments > 1).then_some(self.segment)) {
            Ok(()) => self.sent += segments,
            // The card or the kernel refuses to segment: one by one then, and for good (`max_gso_segments` is 1 now).
            Err(err) if self.segments > 1 && err.kind() != io::ErrorKind::WouldBlock => {
                for datagram in self.batch.chunks(self.segment) {
                    match self.send(datagram, None) {
                        Ok(()) => self.sent += 1,
                        Err(_) => self.dropped += 1,
                    }
                }
            }
            // Unreachable peers are noticed by their silence.
            Err(_) => self.dropped += segments,
        }
        self.batch.clear();
        self.segments = 0;
        self.closed = false;
    }

    fn send(&self, contents: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        let (to, src_ip) = self.to;
        let destination = match to.ip() {
            IpAddr::V4(ip) if self.v6 => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip };
        let mut waited = Duration::ZERO;
        loop {
            match self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock && waited < SEND_PATIENCE => {
                    std::thread::sleep(SEND_PAUSE);
                    waited += SEND_PAUSE;
                }
                other => return other,
            }
        }
    }
}
