//! Somebody who is told by webhooks what becomes of broadcasts: takes in, refuses, or is away.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use aws_lc_rs::hmac;
use base64ct::{Base64, Encoding};
use serde_json::Value;

use super::{s, server::free_address, until};

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    told: Vec<Told>,
    /// So many are answered with 500 first.
    refusals: usize,
    /// Counts its comings and goings; even: it is away.
    turn: u64,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) body: Value,
    pub(crate) answer: u16,
    pub(crate) path: String,
    text: String,
    timestamp: String,
    signature: Option<String>,
}

impl Told {
    pub(crate) fn action(&self) -> &str {
        self.body["action"].as_str().expect("an action")
    }

    /// Standard Webhooks: base64 of the HMAC of `id.timestamp.body`.
    pub(crate) fn assert_signed(&self, key: &[u8]) {
        let signed = format!("{}.{}.{}", self.id, self.timestamp, self.text);
        let signature = self.signature.as_deref().and_then(|text| text.strip_prefix("v1,")).expect("a signature");
        let tag = Base64::decode_vec(signature).expect("base64");
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        assert!(hmac::verify(&key, signed.as_bytes(), &tag).is_ok(), "{self:?}");
    }
}

impl Receiver {
    /// One that is there.
    pub(crate) fn start() -> Self {
        let receiver = Self::away();
        receiver.come();
        receiver
    }

    /// One where nobody listens yet.
    pub(crate) fn away() -> Self {
        Self { address: free_address(), shared: Arc::default() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(crate) fn refuse(&self, requests: usize) {
        self.shared().refusals = requests;
    }

    pub(crate) fn come(&self) {
        let listener = TcpListener::bind(self.address).expect("its port is free");
        listener.set_nonblocking(true).expect("a listener that can be left");
        let turn = {
            let mut shared = self.shared();
            assert!(shared.turn.is_multiple_of(2), "it is there");
            shared.turn += 1;
            shared.turn
        };
        let shared = self.shared.clone();
        thread::spawn(move || {
            while lock(&shared).turn == turn {
                match listener.accept() {
                    Ok((connection, _)) => {
                        let shared = shared.clone();
                        thread::spawn(move || hear(&connection, &shared, turn));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
    }

    /// From when this returns nobody can connect.
    pub(crate) fn leave(&self) {
        self.shared().turn += 1;
        until("nobody to listen", s(5), || TcpStream::connect(self.address).is_err().then_some(()));
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        self.shared().told.clone()
    }

    /// What it has taken in of a broadcast, once that is so much.
    pub(crate) fn until_told(&self, stream: &str, count: usize) -> Vec<Told> {
        until(&format!("{count} news of {stream}"), s(60), || {
            let mut told = self.told();
            told.retain(|told| told.answer == 200 && told.body["id"] == stream);
            (told.len() >= count).then_some(told)
        })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Odd or even, no thread goes on with it.
        self.shared().turn += 2;
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request, and hangs up.
fn hear(connection: &TcpStream, shared: &Mutex<Shared>, turn: u64) {
    let _ = connection.set_nonblocking(false);
    let _ = connection.set_read_timeout(Some(s(10)));
    let Some(mut told) = read(connection) else { return };
    {
        let mut shared = lock(shared);
        // It has left meanwhile, and takes nothing in.
        if shared.turn != turn {
            return;
        }
        if shared.refusals > 0 {
            shared.refusals -= 1;
            told.answer = 500;
        }
        shared.told.push(told.clone());
    }
    let mut output = connection;
    let _ = write!(output, "HTTP/1.1 {} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", told.answer);
}

fn read(connection: &TcpStream) -> Option<Told> {
    let mut input = BufReader::new(connection);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let header = |wanted: &str| {
        let mut named = lines.iter().filter_map(|line| line.split_once(": "));
        named.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
    };
    assert_eq!(header("content-type").as_deref(), Some("application/json"), "{lines:?}");
    let mut text = vec![0; header("content-length")?.parse().ok()?];
    input.read_exact(&mut text).ok()?;
    let text = String::from_utf8(text).expect("text");
    Some(Told {
        id: header("webhook-id").expect("an id"),
        body: serde_json::from_str(&text).expect("JSON"),
        answer: 200,
        path: lines[0].clone(),
        timestamp: header("webhook-timestamp").expect("a time"),
        signature: header("webhook-signature"),
        text,
    })
}
