//! A bad way to a web server: requests are refused, cut off in the middle, or done without anybody hearing of it.
//!
//! In: connections. Out: the same bytes at the server, unless it is this request's turn to fail. Of what passes only
//! requests' heads are understood, far enough to know where the next one begins.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

const LOOK_EVERY: Duration = Duration::from_millis(20);
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Dropping it ends it, with all connections.
pub(crate) struct Faulty {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    over: AtomicBool,
    stalled: AtomicBool,
    unreachable: AtomicBool,
    /// Of a hundred requests.
    share: AtomicU64,
    random: AtomicU64,
    /// What every request is answered with instead.
    answer: Mutex<Option<String>>,
    requests: AtomicUsize,
    /// Of the requests, in lower case.
    heads: Mutex<Vec<String>>,
    faults: AtomicUsize,
    body_bytes: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// 500, 503.
    Answer(&'static str),
    /// The connection ends within the request's body.
    CutRequest,
    /// The request is done, its answer is not heard.
    CutAnswer,
}

impl Faulty {
    pub(crate) fn to(server: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            server,
            over: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            unreachable: AtomicBool::new(false),
            share: AtomicU64::new(0),
            random: AtomicU64::new(seed * 2 + 1),
            answer: Mutex::new(None),
            requests: AtomicUsize::new(0),
            heads: Mutex::default(),
            faults: AtomicUsize::new(0),
            body_bytes: AtomicU64::new(0),
        });
        let proxy = Self { address, shared: shared.clone() };
        listener.set_nonblocking(true).expect("a socket option");
        thread::spawn(move || {
            while !shared.over.load(Relaxed) {
                match listener.accept() {
                    Ok((client, _)) if !shared.unreachable.load(Relaxed) => {
                        let shared = shared.clone();
                        thread::spawn(move || shared.carry(client));
                    }
                    Ok(_) => {}
                    Err(_) => thread::sleep(LOOK_EVERY),
                }
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// So many of a hundred requests fail, one way or another.
    pub(crate) fn fail(&self, share: u64) {
        self.shared.share.store(share, Relaxed);
    }

    /// Nothing goes through any more, and nothing ends.
    pub(crate) fn stall(&self, on: bool) {
        self.shared.stalled.store(on, Relaxed);
    }

    /// Connections end, the old ones and the new ones.
    pub(crate) fn cut_off(&self, on: bool) {
        self.shared.unreachable.store(on, Relaxed);
    }

    /// Each request gets this answer instead of the server's.
    pub(crate) fn answer(&self, answer: String) {
        *self.shared.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Relaxed)
    }

    /// What requests began with so far, in lower case.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.shared.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn faults(&self) -> usize {
        self.shared.faults.load(Relaxed)
    }

    /// Of requests, as far as they were passed on.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.shared.body_bytes.load(Relaxed)
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
    }
}

impl Shared {
    fn carry(&self, client: TcpStream) {
        let Ok(server) = TcpStream::connect(self.server) else { return };
        for socket in [&client, &server] {
            let _ = socket.set_read_timeout(Some(LOOK_EVERY));
            let _ = socket.set_nodelay(true);
        }
        let deaf = AtomicBool::new(false);
        let end = || {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                let _ = self.answers(&server, &client, &deaf);
                end();
            });
            let _ = self.requests_of(&client, &server, &deaf);
            end();
        });
    }

    fn answers(&self, mut server: &TcpStream, mut client: &TcpStream, deaf: &AtomicBool) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = self.read(&mut server, &mut buffer)?;
            // The server has done what it was asked to; nobody hears of it.
            if read == 0 || deaf.load(Relaxed) {
                return Ok(());
            }
            client.write_all(&buffer[..read])?;
        }
    }

    fn requests_of(&self, mut client: &TcpStream, mut server: &TcpStream, deaf: &AtomicBool) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let mut ahead = Vec::new();
        loop {
            let head_ends = loop {
                if let Some(at) = ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                assert!(ahead.len() < HEAD_BYTES_MAX, "no end of a request's head");
                let read = self.read(&mut client, &mut buffer)?;
                if read == 0 {
                    return Ok(());
                }
                ahead.extend(&buffer[..read]);
            };
            let head: Vec<u8> = ahead.drain(..head_ends).collect();
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let mut left: u64 = length.unwrap_or(0);
            self.requests.fetch_add(1, Relaxed);
            self.heads.lock().unwrap_or_else(PoisonError::into_inner).push(text.clone());
            let canned = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let fault = self.draw();
            if !matches!(fault, Fault::None) {
                self.faults.fetch_add(1, Relaxed);
            }
            let answer = canned.or_else(|| match fault {
                Fault::Answer(status) => Some(refusal(status)),
                _ => None,
            });
            let cut_at = if matches!(fault, Fault::CutRequest) { left / 2 } else { 0 };
            match fault {
                Fault::CutRequest if left == 0 => return Ok(()),
                Fault::CutAnswer => deaf.store(true, Relaxed),
                _ => {}
            }
            if answer.is_none() {
                server.write_all(&head)?;
            }
            while left > cut_at {
                if ahead.is_empty() {
                    let read = self.read(&mut client, &mut buffer)?;
                    if read == 0 {
                        return Ok(());
                    }
                    ahead.extend(&buffer[..read]);
                }
                let piece: Vec<u8> = ahead.drain(..ahead.len().min(left as usize)).collect();
                left -= piece.len() as u64;
                if answer.is_none() {
                    self.body_bytes.fetch_add(piece.len() as u64, Relaxed);
                    server.write_all(&piece)?;
                }
            }
            if left > 0 {
                return Ok(());
            }
            if let Some(answer) = answer {
                client.write_all(answer.as_bytes())?;
                return Ok(());
            }
        }
    }

    /// Waits for bytes, and for as long as nothing goes through.
    fn read(&self, from: &mut &TcpStream, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.over.load(Relaxed) || self.unreachable.load(Relaxed) {
                return Ok(0);
            }
            if self.stalled.load(Relaxed) {
                thread::sleep(LOOK_EVERY);
                continue;
            }
            match from.read(into) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                read => return read,
            }
        }
    }

    fn draw(&self) -> Fault {
        let mut random = self.random.load(Relaxed);
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.store(random, Relaxed);
        if random % 100 >= self.share.load(Relaxed) {
            return Fault::None;
        }
        match (random >> 8) % 4 {
            0 => Fault::Answer("500 Internal Server Error"),
            1 => Fault::Answer("503 Slow Down"),
            2 => Fault::CutRequest,
            _ => Fault::CutAnswer,
        }
    }
}

/// As S3 says it.
fn refusal(status: &str) -> String {
    let code = if status.starts_with("503") { "SlowDown" } else { "InternalError" };
    said(status, code, "")
}

/// A whole answer with an S3 error; `headers` end with a line break each.
pub(crate) fn said(status: &str, code: &str, headers: &str) -> String {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>");
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n{body}"
    )
}
