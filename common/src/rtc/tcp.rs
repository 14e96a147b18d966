//! ICE over TCP, passive (RFC 6544) with the framing of RFC 4571: for viewers whose network lets no UDP through.
//!
//! In: connections. Out: datagrams to the shard, and datagrams of sessions back onto the connection. Deliberately
//! absent: what is in them; and waiting for a slow peer. A connection holds [`QUEUE_PACKETS_MAX`] packets; what comes
//! when it is full is dropped, and the peer's NACK or PLI brings the picture back.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf, BytesMut};
use str0m::net::{DatagramSend, Protocol};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};

use super::{
    inbox::{Inbox, Packet},
    net::canonical,
};

/// About half a second of a 5 Mbit/s stream.
const QUEUE_PACKETS_MAX: usize = 256;
/// Of one shard. Further connections are closed at once.
const CONNECTIONS_MAX: usize = 4_096;
/// A connection has this long to bring a check that belongs to a session.
const HELLO: Duration = Duration::from_secs(5);
/// Peers send us checks, handshakes and reports: nothing of this size.
const FRAME_BYTES_MAX: usize = 2_048;
/// A write that takes longer finds a peer that is gone.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// The way back to a TCP peer.
#[derive(Clone, Debug)]
pub(super) struct TcpOut {
    queue: mpsc::Sender<DatagramSend>,
    /// A session knows this connection.
    known: Arc<AtomicBool>,
    closed: Arc<Notify>,
}

impl TcpOut {
    pub(super) fn send(&self, datagram: DatagramSend) -> bool {
        self.queue.try_send(datagram).is_ok()
    }

    pub(super) fn claim(&self) {
        self.known.store(true, Relaxed);
    }

    pub(super) fn close(&self) {
        self.closed.notify_one();
    }
}

pub(super) async fn serve(listener: TcpListener, inbox: Arc<Inbox>) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(err) => {
                // Out of file descriptors: pausing lets some go.
                tracing::warn!(%err, "WebRTC: TCP connection not accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if connections.fetch_add(1, Relaxed) >= CONNECTIONS_MAX {
            connections.fetch_sub(1, Relaxed);
            continue;
        }
        let (connections, inbox) = (connections.clone(), inbox.clone());
        tokio::spawn(async move {
            if let Err(err) = connection(stream, &inbox).await {
                tracing::debug!(%err, "WebRTC: TCP connection lost");
            }
            connections.fetch_sub(1, Relaxed);
        });
    }
}

async fn connection(stream: TcpStream, inbox: &Inbox) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let source = canonical(stream.peer_addr()?);
    let destination = canonical(stream.local_addr()?);
    let (queue, mut waiting) = mpsc::channel(QUEUE_PACKETS_MAX);
    let out = TcpOut { queue, known: Arc::default(), closed: Arc::default() };
    let (mut from, mut to) = stream.into_split();
    let reading = async {
        let mut buffer = BytesMut::with_capacity(4_096);
        loop {
            while let Some(frame) = next_frame(&mut buffer)? {
                let reply = Some(out.clone());
                inbox.packet(Packet { proto: Protocol::Tcp, source, destination, data: frame.to_vec(), reply });
            }
            if from.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    };
    let writing = async {
        let mut datagrams = Vec::new();
        let mut bytes = Vec::new();
        while waiting.recv_many(&mut datagrams, 32).await > 0 {
            bytes.clear();
            for datagram in datagrams.drain(..) {
                bytes.extend_from_slice(&(datagram.len() as u16).to_be_bytes());
                bytes.extend_from_slice(&datagram);
            }
            timeout(WRITE_PATIENCE, to.write_all(&bytes)).await??;
        }
        Ok(())
    };
    let unknown = async {
        sleep(HELLO).await;
        if out.known.load(Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
        () = unknown => Ok(()),
        () = out.closed.notified() => Ok(()),
    }
}

fn next_frame(buffer: &mut BytesMut) -> std::io::Result<Option<BytesMut>> {
    let Some(length) = buffer.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length))) else {
        return Ok(None);
    };
    if length > FRAME_BYTES_MAX {
        let text = format!("frame of {length} bytes, at most {FRAME_BYTES_MAX} are expected");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, text));
    }
    if buffer.len() < 2 + length {
        return Ok(None);
    }
    buffer.advance(2);
    Ok(Some(buffer.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_and_oversized_ones_end_the_connection() {
        let mut buffer = BytesMut::from(&[0, 2, 7, 8, 0, 0, 0, 3, 1][..]);
        assert_eq!(next_frame(&mut buffer).unwrap().as_deref(), Some(&[7, 8][..]));
        assert_eq!(next_frame(&mut buffer).unwrap().as_deref(), Some(&[][..]));
        assert!(next_frame(&mut buffer).unwrap().is_none());
        buffer.extend_from_slice(&[2, 3]);
        assert_eq!(next_frame(&mut buffer).unwrap().as_deref(), Some(&[1, 2, 3][..]));
        buffer.extend_from_slice(&[0xff, 0xff]);
        assert!(next_frame(&mut buffer).is_err());
    }
}
