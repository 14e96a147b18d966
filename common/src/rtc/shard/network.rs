//! What the network brings to a shard: datagrams, each for a session here or on another shard.
//!
//! In: the shard's socket. Out: sessions driven, packets handed over. Deliberately absent: what a session makes of them.

use std::{io::IoSliceMut, net::SocketAddr, time::Instant};

use quinn_udp::{RecvMeta, UdpSockRef};
use str0m::{
    Input,
    ice::StunMessage,
    net::{Protocol, Receive},
};
use tokio::io::Interest;

use super::{RECEIVE_BUFFERS, Shard};
use crate::rtc::{
    inbox::Packet,
    net::canonical,
    roster::Found,
    session::{Outcome, Route, is_check},
    tcp::TcpOut,
};

/// System calls for datagrams in one turn; the rest waits for the next, after frames and timers had theirs.
const RECEIVES_PER_TURN: usize = 16;
/// Peers of other shards whose packets the kernel gives to this one. When full all are forgotten: their next check
/// teaches us again.
const FOREIGN_MAX: usize = 8_192;

impl Shard {
    pub(super) fn receive(&mut self, buffers: &mut [Vec<u8>]) {
        let port = self.shared.address.port();
        for _ in 0..RECEIVES_PER_TURN {
            let mut metas = [RecvMeta::default(); RECEIVE_BUFFERS];
            let received = {
                let (socket, state) = self.outbox.socket();
                let mut slices: Vec<IoSliceMut<'_>> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
                socket.try_io(Interest::READABLE, || state.recv(UdpSockRef::from(socket), &mut slices, &mut metas))
            };
            // Errors of earlier sends surface here (ICMP): they concern a peer, not the socket.
            let Ok(count) = received else { return };
            for (meta, buffer) in metas.iter().zip(&*buffers).take(count) {
                let Some(ip) = meta.dst_ip else { continue };
                let destination = SocketAddr::new(ip.to_canonical(), port);
                let source = canonical(meta.addr);
                for datagram in buffer[..meta.len.min(buffer.len())].chunks(meta.stride.max(1)) {
                    self.packet(Protocol::Udp, source, destination, datagram, None);
                }
            }
            if count < RECEIVE_BUFFERS {
                return;
            }
        }
    }

    pub(super) fn packet(
        &mut self,
        proto: Protocol,
        from: SocketAddr,
        to: SocketAddr,
        data: &[u8],
        reply: Option<TcpOut>,
    ) {
        self.received += 1;
        let Some(to) = self.shared.candidate_for(to) else { return };
        let Some(key) = self.owner(proto, from, to, data, &reply) else { return };
        let Ok(receive) = Receive::new(proto, from, to, data) else { return };
        let input = Input::Receive(Instant::now(), receive);
        let mut learnt = false;
        self.act(key, |session, outbox| {
            if is_check(data) {
                if !session.accepts(&input) {
                    return Ok(Outcome::default());
                }
                learnt = session.learn(from, reply);
            } else {
                session.heard(Route { proto, local: to, peer: from }, Instant::now());
            }
            session.drive(input, outbox)
        });
        if learnt && self.sessions.contains(key) {
            self.by_address.insert(from, key);
        }
    }

    /// The session of this shard that a packet is for. Others' are handed over.
    pub(super) fn owner(
        &mut self,
        proto: Protocol,
        from: SocketAddr,
        to: SocketAddr,
        data: &[u8],
        reply: &Option<TcpOut>,
    ) -> Option<usize> {
        let forward = |shard: usize| {
            if let Some(inbox) = self.shared.inboxes.get(shard) {
                self.shared.meters.handed_over.inc();
                inbox.packet(Packet {
                    proto,
                    source: from,
                    destination: to,
                    data: data.to_vec(),
                    reply: reply.clone(),
                });
            }
        };
        if !is_check(data) {
            let own = self.by_address.get(&from).copied();
            if let (None, Some(&shard)) = (own, self.foreign.get(&from)) {
                forward(shard);
            }
            return own;
        }
        // A check names its session, wherever it comes from: addresses are reused.
        let message = StunMessage::parse(data).ok()?;
        let (ufrag, _) = message.split_username()?;
        if let Some(&key) = self.by_ufrag.get(ufrag) {
            return Some(key);
        }
        match self.shared.roster.find(ufrag, self.index) {
            Found::Adopted(session) => Some(self.adopt(session)),
            Found::Shard(shard) if shard != self.index => {
                forward(shard);
                if self.foreign.len() >= FOREIGN_MAX {
                    self.foreign.clear();
                }
                self.foreign.insert(from, shard);
                None
            }
            Found::Shard(_) | Found::Unknown => None,
        }
    }
}
