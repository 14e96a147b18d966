//! An RTMP client with no manners of its own: it sends what a test says, right or wrong (RTMP 1.0, Adobe 2012).

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{
    Server,
    flv::{AUDIO, Tag, VIDEO},
    s,
};

pub(crate) const COMMAND: u8 = 20;
const SET_CHUNK_SIZE: u8 = 1;
const CHUNK_SIZE: usize = 65_536;

pub(crate) struct Wire {
    pub(crate) socket: TcpStream,
    chunk_size_in: usize,
    partial: HashMap<u8, Message>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    length: usize,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// Names and texts are plain inside AMF0.
    pub(crate) fn says(&self, text: &str) -> bool {
        self.body.windows(text.len()).any(|window| window == text.as_bytes())
    }

    pub(crate) fn readable(&self) -> String {
        self.body
            .iter()
            .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { *byte as char } else { '·' })
            .collect()
    }
}

/// An AMF0 value.
pub(crate) enum Amf<'a> {
    Number(f64),
    Text(&'a str),
    Null,
    Object(&'a [(&'a str, Amf<'a>)]),
}

impl Amf<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Amf::Number(number) => {
                out.push(0);
                out.extend(number.to_be_bytes());
            }
            Amf::Text(text) => {
                out.push(2);
                key(text, out);
            }
            Amf::Null => out.push(5),
            Amf::Object(fields) => {
                out.push(3);
                for (name, value) in *fields {
                    key(name, out);
                    value.write(out);
                }
                out.extend([0, 0, 9]);
            }
        }
    }
}

fn key(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// Connected, nothing said.
pub(crate) fn dial(server: &Server) -> TcpStream {
    let socket = TcpStream::connect_timeout(&server.rtmp, s(5)).expect("the server takes connections");
    socket.set_read_timeout(Some(s(10))).expect("a socket option");
    socket.set_nodelay(true).expect("a socket option");
    socket
}

/// Whether the other side closes within the limit, whatever it sends before.
pub(crate) fn closes(socket: &mut TcpStream, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    let mut trash = [0; 4096];
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).expect("a socket option");
        match socket.read(&mut trash) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return false,
            Err(_) => return true,
        }
    }
    false
}

impl Wire {
    /// Through the handshake.
    pub(crate) fn connect(server: &Server) -> Self {
        let mut socket = dial(server);
        let mut hello = vec![3];
        hello.extend([0; 8]);
        hello.extend((0..1528u32).map(|i| i as u8));
        socket.write_all(&hello).expect("C0 and C1");
        let mut answer = vec![0; 1 + 1536 + 1536];
        socket.read_exact(&mut answer).expect("S0, S1 and S2");
        assert_eq!(answer[0], 3, "the version in S0");
        socket.write_all(&answer[1..1537]).expect("C2");
        let mut wire = Self { socket, chunk_size_in: 128, partial: HashMap::new() };
        wire.send(2, SET_CHUNK_SIZE, 0, 0, &(CHUNK_SIZE as u32).to_be_bytes()).expect("set the chunk size");
        wire
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr().expect("a connected socket")
    }

    pub(crate) fn send(&mut self, channel: u8, kind: u8, stream: u32, time_ms: u32, body: &[u8]) -> io::Result<()> {
        let mut out = vec![channel & 0x3f];
        let extended = time_ms >= 0xff_ffff;
        out.extend(&(if extended { 0xff_ffff } else { time_ms }).to_be_bytes()[1..]);
        out.extend(&(body.len() as u32).to_be_bytes()[1..]);
        out.push(kind);
        out.extend(stream.to_le_bytes());
        if extended {
            out.extend(time_ms.to_be_bytes());
        }
        for (number, chunk) in body.chunks(CHUNK_SIZE).enumerate() {
            if number > 0 {
                out.push(0xc0 | channel & 0x3f);
                if extended {
                    out.extend(time_ms.to_be_bytes());
                }
            }
            out.extend(chunk);
        }
        self.socket.write_all(&out)
    }

    pub(crate) fn command(&mut self, stream: u32, values: &[Amf<'_>]) -> io::Result<()> {
        let mut body = Vec::new();
        values.iter().for_each(|value| value.write(&mut body));
        self.send(3, COMMAND, stream, 0, &body)
    }

    /// The next whole message from the server.
    pub(crate) fn read(&mut self) -> io::Result<Message> {
        loop {
            let first = self.bytes::<1>()?[0];
            let (format, channel) = (first >> 6, first & 0x3f);
            let mut message = self.partial.remove(&channel).unwrap_or_default();
            let mut time = [0; 3];
            if format < 3 {
                time = self.bytes::<3>()?;
            }
            if format < 2 {
                let [a, b, c, kind] = self.bytes::<4>()?;
                message.length = u32::from_be_bytes([0, a, b, c]) as usize;
                message.kind = kind;
            }
            if format == 0 {
                self.bytes::<4>()?;
            }
            if time == [0xff; 3] {
                self.bytes::<4>()?;
            }
            let begun = message.body.len();
            message.body.resize(message.length.min(begun + self.chunk_size_in), 0);
            self.socket.read_exact(&mut message.body[begun..])?;
            if message.body.len() < message.length {
                self.partial.insert(channel, message);
                continue;
            }
            // The header stays for what follows on this channel.
            self.partial.insert(channel, Message { body: Vec::new(), ..message });
            if message.kind == SET_CHUNK_SIZE {
                self.chunk_size_in = u32::from_be_bytes(message.body[..4].try_into().expect("four bytes")) as usize;
            }
            return Ok(message);
        }
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.socket.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads up to the command that says one of these words.
    pub(crate) fn until_says(&mut self, words: &[&str]) -> io::Result<Message> {
        loop {
            let message = self.read()?;
            if message.kind == COMMAND && words.iter().any(|word| message.says(word)) {
                return Ok(message);
            }
        }
    }

    /// What an encoder says until it may send media; the server's refusal otherwise.
    pub(crate) fn publish(&mut self, app: &str, key: &str) -> Result<(), String> {
        self.publish_enhanced(app, key, 0.0)
    }

    /// With what enhanced RTMP's `capsEx` says of the encoder.
    pub(crate) fn publish_enhanced(&mut self, app: &str, key: &str, caps_ex: f64) -> Result<(), String> {
        let io = |error: io::Error| error.to_string();
        let url = format!("rtmp://127.0.0.1/{app}");
        let about = [
            ("app", Amf::Text(app)),
            ("type", Amf::Text("nonprivate")),
            ("tcUrl", Amf::Text(&url)),
            ("capsEx", Amf::Number(caps_ex)),
        ];
        self.command(0, &[Amf::Text("connect"), Amf::Number(1.0), Amf::Object(&about)]).map_err(io)?;
        let answer = self.until_says(&["_result", "_error"]).map_err(io)?;
        if answer.says("_error") {
            return Err(answer.readable());
        }
        self.command(0, &[Amf::Text("createStream"), Amf::Number(2.0), Amf::Null]).map_err(io)?;
        self.until_says(&["_result"]).map_err(io)?;
        let publish = [Amf::Text("publish"), Amf::Number(3.0), Amf::Null, Amf::Text(key), Amf::Text("live")];
        self.command(1, &publish).map_err(io)?;
        let answer = self.until_says(&["onStatus", "_error"]).map_err(io)?;
        if answer.says("NetStream.Publish.Start") { Ok(()) } else { Err(answer.readable()) }
    }

    /// What an encoder says at the end of its stream.
    pub(crate) fn goodbye(mut self) {
        let delete = [Amf::Text("deleteStream"), Amf::Number(4.0), Amf::Null, Amf::Number(1.0)];
        self.command(0, &delete).expect("the server listens");
    }

    pub(crate) fn tag(&mut self, tag: &Tag) -> io::Result<()> {
        let channel = match tag.kind {
            AUDIO => 4,
            VIDEO => 6,
            _ => 5,
        };
        self.send(channel, tag.kind, 1, tag.time_ms, &tag.body)
    }

    /// Sends tags in real time until they end or the server hangs up.
    pub(crate) fn play_out(mut self, tags: impl IntoIterator<Item = Tag> + Send + 'static) -> PlayOut {
        PlayOut(thread::spawn(move || {
            let begun = Instant::now();
            for tag in tags {
                let due = begun + Duration::from_millis(tag.time_ms.into());
                thread::sleep(due.saturating_duration_since(Instant::now()));
                self.tag(&tag)?;
            }
            Ok(self)
        }))
    }
}

pub(crate) struct PlayOut(thread::JoinHandle<io::Result<Wire>>);

impl PlayOut {
    /// Waits for the last tag; the connection is still open then.
    pub(crate) fn end(self) -> io::Result<Wire> {
        self.0.join().expect("sending does not panic")
    }
}
