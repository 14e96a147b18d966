//! A slow network between one browser and the server's HTTP port: TCP, passed on at a rate that changes while a test looks.
//!
//! All connections share the rate, towards the client. Threads, because a test is no async code; a connection's end with it.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// So much is written at once: a small part of a second of any rate that tests use.
const CHUNK_BYTES: usize = 1_400;

pub(crate) struct Pipe {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    over: AtomicBool,
    down: Mutex<Rate>,
}

struct Rate {
    bits_per_second: u64,
    free_at: Instant,
}

impl Pipe {
    pub(crate) fn to(server: SocketAddr, bits_per_second: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port for the pipe");
        let address = listener.local_addr().expect("a bound socket has an address");
        let down = Mutex::new(Rate { bits_per_second, free_at: Instant::now() });
        let shared = Arc::new(Shared { over: AtomicBool::new(false), down });
        let accepting = shared.clone();
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if accepting.over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else { continue };
                thread::spawn(move || pass(from_client, to_server, |_| {}));
                let shared = accepting.clone();
                thread::spawn(move || pass(server, client, |bytes| shared.wait(bytes)));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn limit_down(&self, bits_per_second: u64) {
        self.shared.rate().bits_per_second = bits_per_second;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // The listener is woken to see it.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn rate(&self) -> std::sync::MutexGuard<'_, Rate> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, bytes: usize) {
        let now = Instant::now();
        let mut rate = self.rate();
        rate.free_at =
            rate.free_at.max(now) + Duration::from_secs_f64(8.0 * bytes as f64 / rate.bits_per_second as f64);
        let until = rate.free_at;
        drop(rate);
        thread::sleep(until - now);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, wait: impl Fn(usize)) {
    let mut chunk = [0; CHUNK_BYTES];
    while let Ok(bytes @ 1..) = from.read(&mut chunk) {
        wait(bytes);
        if to.write_all(&chunk[..bytes]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
