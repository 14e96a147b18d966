//! How connections between nodes are tuned. In and out: tonic's builders, sockets and what is between them. Deliberately
//! absent: credentials, addresses.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use headwater_proto::relay_server::RelayServer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::transport::{Endpoint, Server, server::Connected};

use super::Serve;

/// What may be on the way of all that is pulled through a connection: a cold edge is sent whole rings, up to half a minute, as
/// fast as they come. With HTTP/2's 64 KiB each round trip of 50 ms would carry 10 Mbit/s and no more, with this it is 1.3 Gbit/s.
/// An answer that is handed on has as much, and may wait in memory for a client that does not take it.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Requests that are handed on use the same connection, and don't wait for media.
const CONNECTION_WINDOW_BYTES: u32 = 4 * STREAM_WINDOW_BYTES;
/// HTTP/2 servers allow 200 streams on a connection unless told otherwise, and further ones wait without a word. This is
/// as many requests as may be handed on at a time.
const STREAMS_MAX: u32 = 100_000;
/// What leaves together is one frame of HTTP/2, whose default would be 16 KiB.
const FRAME_BYTES_MAX: u32 = 128 << 10;
const _: () = assert!(headwater_proto::TOGETHER_BYTES < FRAME_BYTES_MAX as usize);
/// No ring holds a frame of more than 64 MiB, and the rest of a piece is small: so none is ever too large, which would end
/// all that is pulled.
pub(super) const PIECE_BYTES_MAX: usize = 65 << 20;
/// What the other side says is small; the most is a message of a data channel.
pub(super) const WISH_BYTES_MAX: usize = 256 << 10;
/// A connection through which nothing comes is closed, so that those who wait on it look elsewhere.
const PING_EVERY: Duration = Duration::from_secs(1);
const PONG_WITHIN: Duration = Duration::from_secs(2);
/// TCP and TLS together.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// What TLS goes on top of.
pub fn socket(stream: TcpStream) -> io::Result<TcpStream> {
    // What is to leave together is known better by whoever writes.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// For the node that connects.
pub fn endpoint(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true)
}

/// For the node that is connected to.
pub fn server<L>(server: Server<L>) -> Server<L> {
    server
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PONG_WITHIN))
}

pub fn service(serve: Serve) -> RelayServer<Serve> {
    RelayServer::new(serve).max_decoding_message_size(WISH_BYTES_MAX).max_encoding_message_size(PIECE_BYTES_MAX)
}

/// For tonic, which asks of a connection who calls: that is known by its TLS.
pub struct Caller<S>(pub S);

impl<S> Connected for Caller<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<S: AsyncRead + Unpin> AsyncRead for Caller<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Caller<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
