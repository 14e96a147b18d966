//! The real binary, with ports and a data directory of its own.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use reqwest::blocking::{Client, RequestBuilder, Response};
use serde_json::Value;

use super::{Process, s, scratch, until};

pub(crate) struct Server {
    process: Process,
    pub(crate) dir: PathBuf,
    pub(crate) http: SocketAddr,
    pub(crate) rtmp: SocketAddr,
    pub(crate) rtc: SocketAddr,
    part: Option<Part>,
}

/// Of a cluster.
#[derive(Clone, Copy)]
struct Part {
    role: &'static str,
    grpc: SocketAddr,
}

pub(crate) fn headwater() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    // The settings are the test's, not those of who runs it.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HEADWATER_")) {
        command.env_remove(name);
    }
    command
}

/// Of a server that is to have these settings.
fn folder(settings: &str) -> PathBuf {
    let dir = scratch("server");
    std::fs::write(dir.join("headwater.toml"), settings).expect("write settings");
    dir
}

fn with_clock(off: &str) -> Command {
    let mut command = Command::new("faketime");
    command.args(["-f", off]).arg(env!("CARGO_BIN_EXE_headwater")).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    command
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// `settings` is a TOML page, laid over the defaults.
    pub(crate) fn with(settings: &str) -> Self {
        Self::started(headwater(), settings)
    }

    /// One that may end at its start.
    pub(crate) fn lonely(settings: &str) -> Self {
        Self::launch(headwater(), None, settings)
    }

    /// With a copy of another one's data, but for what that holds locked.
    pub(crate) fn with_data_of(other: &Self, settings: &str) -> Self {
        let dir = folder(settings);
        std::fs::create_dir_all(dir.join("data")).expect("a data directory");
        std::fs::copy(other.dir.join("data/node"), dir.join("data/node")).expect("the node's id");
        let mut server = Self::launch_in(dir, headwater(), None);
        server.wait_ready();
        server
    }

    /// On a machine whose clock is off, as in "+1h".
    pub(crate) fn with_clock(settings: &str, off: &str) -> Self {
        Self::started(with_clock(off), settings)
    }

    /// The same server, as [`Server::with_clock`].
    pub(crate) fn start_again_with_clock(&mut self, off: &str) {
        self.process = run(with_clock(off), &self.dir, self.http, self.rtmp, self.rtc, self.part);
        self.wait_ready();
    }

    fn started(command: Command, settings: &str) -> Self {
        let mut server = Self::launch(command, None, settings);
        server.wait_ready();
        server
    }

    /// A part of a cluster: `headwater origin` or `headwater edge`. Ready when it has found the others.
    pub(crate) fn part(role: &'static str, settings: &str) -> Self {
        let mut server = Self::lonely_part(role, settings);
        server.wait_ready();
        server
    }

    /// One that is not waited for.
    pub(crate) fn lonely_part(role: &'static str, settings: &str) -> Self {
        Self::launch(headwater(), Some(Part { role, grpc: free_address() }), settings)
    }

    fn launch(command: Command, part: Option<Part>, settings: &str) -> Self {
        Self::launch_in(folder(settings), command, part)
    }

    fn launch_in(dir: PathBuf, command: Command, part: Option<Part>) -> Self {
        let [http, rtmp, rtc] = std::array::from_fn(|_| free_address());
        let process = run(command, &dir, http, rtmp, rtc, part);
        Self { process, dir, http, rtmp, rtc, part }
    }

    /// Where the other nodes of its cluster reach it.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.part.expect("a part of a cluster").grpc
    }

    pub(crate) fn wait_ready(&mut self) {
        let limit = s(20);
        let url = self.url("/readyz");
        until("/readyz", limit, || {
            assert!(self.process.runs(), "the server ended at its start");
            client().get(&url).send().ok().filter(|response| response.status().is_success())
        });
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    pub(crate) fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.process.signal("TERM");
        self.wait(limit)
    }

    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait(limit)
    }

    pub(crate) fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// After [`Server::kill`] or [`Server::terminate`]: the same ports, the same data.
    pub(crate) fn start_again(&mut self) {
        assert!(!self.process.runs(), "the server still runs");
        self.process = run(headwater(), &self.dir, self.http, self.rtmp, self.rtc, self.part);
        self.wait_ready();
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.process.runs()
    }

    /// What it took at most since its start.
    pub(crate) fn memory_bytes_max(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells");
        line.trim_end_matches("kB").trim().parse::<u64>().expect("kilobytes") << 10
    }

    pub(crate) fn log(&self) -> String {
        self.process.text()
    }

    pub(crate) fn log_lines(&self) -> usize {
        self.process.lines()
    }

    pub(crate) fn log_line_after<T>(&mut self, mark: usize, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.process.line_after(mark, what, s(10), find)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    /// Where Ant Media's clients signal.
    pub(crate) fn websocket_url(&self, app: &str) -> String {
        format!("ws://{}/{app}/websocket", self.http)
    }

    /// Where to publish `app/id`.
    pub(crate) fn rtmp_url(&self, name: &str) -> String {
        format!("rtmp://{}/{name}", self.rtmp)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        send(client().get(self.url(path)))
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        client().request(method.parse().expect("a method"), self.url(path))
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        let response = self.get(path);
        let status = response.status();
        let text = response.text().unwrap_or_default();
        assert!(status.is_success(), "GET {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("GET {path}: {error} in {text}"))
    }

    /// The broadcast as REST tells it, or None where it is not known.
    pub(crate) fn broadcast(&self, app: &str, id: &str) -> Option<Value> {
        let response = self.get(&format!("/{app}/rest/v2/broadcasts/{id}"));
        response.status().is_success().then(|| response.json().expect("a broadcast is JSON"))
    }

    pub(crate) fn until_status(&self, id: &str, status: &str) -> Value {
        until(&format!("{id} to be {status}"), s(20), || {
            self.broadcast("live", id).filter(|broadcast| broadcast["status"] == status)
        })
    }

    /// Until its pictures can be sent to WebRTC viewers.
    pub(crate) fn until_playable(&self, id: &str) {
        until(&format!("{id} to have a picture"), s(20), || {
            self.broadcast("live", id)?["deliveryPath"]["webrtc"]["video"].is_string().then_some(())
        });
    }

    /// The sum of a counter over its labels that contain `label`.
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        let text = self.get("/metrics").text().expect("metrics are text");
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Everything that was recorded, as REST lists it.
    pub(crate) fn recorded(&self) -> Vec<Value> {
        self.json("/live/rest/v2/vods/list/0/50").as_array().expect("a list").clone()
    }

    /// The only recording of a stream, once it is complete: as it is listed, and downloaded.
    pub(crate) fn until_recorded(&self, id: &str) -> (Value, PathBuf) {
        let vod = until("the recording to be listed", s(30), || {
            self.recorded().into_iter().find(|vod| vod["streamId"] == id && vod["processStatus"] == "ready")
        });
        let path = self.dir.join(format!("{id}.download.mp4"));
        let bytes = self.get(&format!("/live/{}", vod["filePath"].as_str().unwrap())).bytes().expect("the recording");
        assert_eq!(vod["fileSize"], bytes.len(), "{vod:#}");
        std::fs::write(&path, bytes).expect("write the download");
        (vod, path)
    }

    pub(crate) fn recordings(&self) -> PathBuf {
        self.dir.join("data")
    }
}

pub(crate) fn send(request: RequestBuilder) -> Response {
    request.send().expect("the server answers")
}

fn run(
    mut command: Command,
    dir: &Path,
    http: SocketAddr,
    rtmp: SocketAddr,
    rtc: SocketAddr,
    part: Option<Part>,
) -> Process {
    if let Some(Part { role, grpc }) = part {
        command.args([role, "--grpc", &grpc.to_string()]);
    }
    command.arg("--config").arg(dir.join("headwater.toml")).arg("--data").arg(dir.join("data"));
    command.args(["--http", &http.to_string(), "--rtmp", &rtmp.to_string(), "--rtc", &rtc.to_string()]);
    Process::start(part.map_or("headwater".to_owned(), |part| format!("headwater {}", part.role)), &mut command)
}

impl Drop for Server {
    fn drop(&mut self) {
        // What a failed test leaves behind is worth looking at.
        if !std::thread::panicking() {
            self.process.kill();
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn client() -> &'static Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    // No connection is kept: a server that was killed must not be met again through an old one.
    CLIENT.get_or_init(|| {
        Client::builder().timeout(s(10)).pool_max_idle_per_host(0).no_proxy().build().expect("an HTTP client")
    })
}

/// A port that nobody uses, TCP and UDP, below those that the kernel hands out by itself.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = 20_000 + (std::process::id() % 400) as u16 * 25;
    loop {
        let port = begin + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
}
