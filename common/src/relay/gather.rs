//! A connection between nodes that many broadcasts share: each writes a picture of its own every few hundred microseconds,
//! and what that costs (a TLS record, a call into the kernel, a wake-up over there) is the same for one and for ten.
//!
//! In: bytes as HTTP/2 has them. Out: the same bytes, those of a millisecond at once. What comes after a longer pause
//! leaves without waiting, so a single broadcast is no later for it. Deliberately absent: threads, tasks and a queue: whoever
//! drives the connection is woken when what waits is due, and when the socket takes nothing more, no more is taken.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};
use tonic::transport::server::Connected;

/// From one departure to the next, at least. Timers tick in milliseconds, so it is two at times.
const EVERY: Duration = Duration::from_millis(1);
/// So much leaves at once, however soon that is: eight records of TLS. No more ever waits.
const BYTES_MAX: usize = 128 << 10;

#[derive(Debug)]
pub struct Gathered<S> {
    below: S,
    every: Duration,
    waiting: Vec<u8>,
    /// Of what waits, so much is gone.
    gone: usize,
    departed: Instant,
    due: Pin<Box<Sleep>>,
    is_set: bool,
}

impl<S> Gathered<S> {
    pub fn new(below: S) -> Self {
        Self {
            below,
            every: EVERY,
            waiting: Vec::with_capacity(BYTES_MAX),
            gone: 0,
            departed: Instant::now(),
            due: Box::pin(sleep(EVERY)),
            is_set: false,
        }
    }

    fn take(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(BYTES_MAX - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..taken]);
        taken
    }

    fn is_full(&self) -> bool {
        self.waiting.len() == BYTES_MAX
    }

    /// Ready when what waits may leave.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.departed + self.every;
        if self.is_full() || due <= Instant::now() {
            return Poll::Ready(());
        }
        if !self.is_set {
            self.due.as_mut().reset(due);
            self.is_set = true;
        }
        self.due.as_mut().poll(cx)
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    fn poll_depart(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gone < self.waiting.len() {
            match ready!(Pin::new(&mut self.below).poll_write(cx, &self.waiting[self.gone..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.gone += written,
            }
        }
        self.waiting.clear();
        (self.gone, self.is_set) = (0, false);
        self.departed = Instant::now();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_full() {
            ready!(self.poll_depart(cx))?;
        }
        Poll::Ready(Ok(self.take(bytes)))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_full() {
            ready!(self.poll_depart(cx))?;
        }
        Poll::Ready(Ok(slices.iter().map(|bytes| self.take(bytes)).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done also when what waits is not due: HTTP/2 would write nothing else meanwhile.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.waiting.is_empty() {
            if self.poll_due(cx).is_pending() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_depart(cx))?;
        }
        Pin::new(&mut self.below).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_depart(cx))?;
        Pin::new(&mut self.below).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.below).poll_read(cx, buffer)
    }
}

/// Who calls is known by its TLS.
impl<S> Connected for Gathered<S> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker};

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    /// Long enough that no machine is too busy for what has to happen in between.
    const LONG: Duration = Duration::from_secs(1);

    fn ends(room: usize) -> (Gathered<DuplexStream>, DuplexStream) {
        let (near, far) = duplex(room);
        (Gathered { every: LONG, ..Gathered::new(near) }, far)
    }

    /// Polled as by whoever drives the connection.
    async fn until_departed(near: &mut Gathered<DuplexStream>) {
        poll_fn(|cx| {
            assert!(Pin::new(&mut *near).poll_flush(cx).is_ready());
            if near.waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// What has arrived without waiting.
    fn arrived(far: &mut DuplexStream) -> usize {
        let mut bytes = vec![0; 1 << 20];
        let mut buffer = ReadBuf::new(&mut bytes);
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Ok(())) = Pin::new(&mut *far).poll_read(&mut cx, &mut buffer) {}
        buffer.filled().len()
    }

    #[tokio::test]
    async fn what_comes_after_a_pause_leaves_at_once_and_what_follows_leaves_together() {
        let (mut near, mut far) = ends(1 << 20);
        tokio::time::sleep(LONG).await;
        near.write_all(b"first").await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(arrived(&mut far), 5);
        let began = Instant::now();
        for _ in 0..3 {
            near.write_all(b"next").await.unwrap();
            near.flush().await.unwrap();
            assert_eq!(arrived(&mut far), 0);
        }
        // Nobody writes any more: its own timer wakes whoever drives it.
        until_departed(&mut near).await;
        assert_eq!(arrived(&mut far), 12);
        assert!(began.elapsed() > LONG / 2, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn many_bytes_do_not_wait_and_all_of_them_come_in_order() {
        let (mut near, mut far) = ends(10_000);
        let bytes: Vec<u8> = (0..3 * BYTES_MAX + 17).map(|at| (at % 251) as u8).collect();
        let sent = bytes.clone();
        let writer = tokio::spawn(async move {
            let slices = sent.chunks(9_000).collect::<Vec<_>>();
            for pair in slices.chunks(2) {
                let mut left: usize = pair.iter().map(|slice| slice.len()).sum();
                let mut slices: Vec<IoSlice<'_>> = pair.iter().map(|slice| IoSlice::new(slice)).collect();
                let mut slices = &mut slices[..];
                while left > 0 {
                    let written = near.write_vectored(slices).await.unwrap();
                    left -= written;
                    IoSlice::advance_slices(&mut slices, written);
                }
            }
            near.shutdown().await.unwrap();
        });
        let mut read = Vec::new();
        far.read_to_end(&mut read).await.unwrap();
        assert!(read == bytes);
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn when_the_socket_is_full_nothing_more_is_taken() {
        let (mut near, _far) = ends(1_000);
        let mut cx = Context::from_waker(Waker::noop());
        let mut taken = 0;
        while let Poll::Ready(written) = Pin::new(&mut near).poll_write(&mut cx, &[0; 5_000]) {
            taken += written.unwrap();
            assert!(taken <= 2 * BYTES_MAX);
        }
        assert!(near.is_full());
        assert!(Pin::new(&mut near).poll_flush(&mut cx).is_pending());
    }
}
