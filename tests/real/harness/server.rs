//! The real binary, with ports and a data directory of its own.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    ops::Deref,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use reqwest::blocking::Client;
use serde_json::Value;

use super::{
    Process, s, scratch,
    site::{self, Site},
    until,
};

pub(crate) struct Server {
    process: Process,
    launch: Launch,
    site: Site,
    pub(crate) dir: PathBuf,
    pub(crate) rtmp: SocketAddr,
    pub(crate) rtc: SocketAddr,
}

/// How the process is started, each time.
#[derive(Clone)]
pub(super) struct Launch {
    /// What comes before the program: a command line that runs it somewhere else.
    pub(super) prefix: Vec<String>,
    /// None: everything in one process.
    pub(super) role: Option<&'static str>,
    /// Of the environment.
    pub(super) variables: Vec<(&'static str, String)>,
    pub(super) http: SocketAddr,
    pub(super) rtmp: SocketAddr,
    pub(super) rtc: SocketAddr,
    /// Where the other nodes of a cluster reach it.
    pub(super) grpc: SocketAddr,
}

impl Launch {
    fn here(role: Option<&'static str>) -> Self {
        let [http, rtmp, rtc, grpc] = std::array::from_fn(|_| free_address());
        Self { prefix: Vec::new(), role, variables: Vec::new(), http, rtmp, rtc, grpc }
    }

    fn with_clock(self, off: &str) -> Self {
        let prefix = ["faketime", "-f", off].map(str::to_owned).to_vec();
        Self { prefix, variables: vec![("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned())], ..self }
    }

    fn name(&self) -> String {
        format!("headwater {} at {}", self.role.unwrap_or("alone"), self.http)
    }

    fn command(&self, dir: &Path) -> Command {
        let program = headwater();
        let mut words = self.prefix.clone();
        words.push(program.get_program().to_string_lossy().into_owned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        for (name, _) in program.get_envs() {
            command.env_remove(name);
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(role) = self.role {
            command.args([role, "--grpc", &self.grpc.to_string()]);
        }
        command.arg("--config").arg(dir.join("headwater.toml")).arg("--data").arg(dir.join("data"));
        for (flag, address) in [("--http", self.http), ("--rtmp", self.rtmp), ("--rtc", self.rtc)] {
            command.args([flag, &address.to_string()]);
        }
        command
    }
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
    write_settings(&dir, settings);
    dir
}

fn write_settings(dir: &Path, settings: &str) {
    std::fs::write(dir.join("headwater.toml"), settings).expect("write settings");
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with("")
    }

    /// `settings` is a TOML page, laid over the defaults.
    pub(crate) fn with(settings: &str) -> Self {
        Self::started(Launch::here(None), settings)
    }

    /// One that may end at its start.
    pub(crate) fn lonely(settings: &str) -> Self {
        Self::launch(Launch::here(None), settings, client())
    }

    /// With a copy of another one's data, but for what that holds locked.
    pub(crate) fn with_data_of(other: &Self, settings: &str) -> Self {
        let dir = folder(settings);
        std::fs::create_dir_all(dir.join("data")).expect("a data directory");
        std::fs::copy(other.dir.join("data/node"), dir.join("data/node")).expect("the node's id");
        let mut server = Self::launch_in(dir, Launch::here(None), client());
        server.until_ready();
        server
    }

    /// On a machine whose clock is off, as in "+1h".
    pub(crate) fn with_clock(settings: &str, off: &str) -> Self {
        Self::started(Launch::here(None).with_clock(off), settings)
    }

    /// The same server, as [`Server::with_clock`].
    pub(crate) fn start_again_with_clock(&mut self, off: &str) {
        let launch = self.launch.clone().with_clock(off);
        self.process = Process::start(launch.name(), &mut launch.command(&self.dir));
        self.until_ready();
    }

    fn started(launch: Launch, settings: &str) -> Self {
        let mut server = Self::launch(launch, settings, client());
        server.until_ready();
        server
    }

    /// A part of a cluster: `headwater origin` or `headwater edge`. Ready when it has found the others.
    pub(crate) fn part(role: &'static str, settings: &str) -> Self {
        let mut server = Self::lonely_part(role, settings);
        server.until_ready();
        server
    }

    /// One that is not waited for.
    pub(crate) fn lonely_part(role: &'static str, settings: &str) -> Self {
        Self::launch(Launch::here(Some(role)), settings, client())
    }

    /// Where the other nodes of its cluster reach it.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.launch.grpc
    }

    /// Which takes a moment.
    pub(super) fn launch(launch: Launch, settings: &str, client: Client) -> Self {
        Self::launch_in(folder(settings), launch, client)
    }

    fn launch_in(dir: PathBuf, launch: Launch, client: Client) -> Self {
        let process = Process::start(launch.name(), &mut launch.command(&dir));
        let site = Site::new(launch.http, client);
        Self { process, site, dir, rtmp: launch.rtmp, rtc: launch.rtc, launch }
    }

    pub(super) fn until_ready(&mut self) {
        until("/readyz", s(20), || {
            assert!(self.process.runs(), "the server ended at its start");
            self.site.try_get("/readyz").filter(|response| response.status().is_success())
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
        self.process = Process::start(self.launch.name(), &mut self.launch.command(&self.dir));
        self.until_ready();
    }

    /// The same, with other settings.
    pub(crate) fn start_again_with(&mut self, settings: &str) {
        write_settings(&self.dir, settings);
        self.start_again();
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

    /// Whether a line since the mark has these words.
    pub(crate) fn log_says_after(&self, mark: usize, words: &str) -> Option<()> {
        self.process.text().lines().skip(mark).any(|line| line.contains(words)).then_some(())
    }

    pub(crate) fn log_line_after<T>(&mut self, mark: usize, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.process.line_after(mark, what, s(10), find)
    }

    /// Where to publish `app/id`.
    pub(crate) fn rtmp_url(&self, name: &str) -> String {
        format!("rtmp://{}/{name}", self.rtmp)
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

impl Deref for Server {
    type Target = Site;

    fn deref(&self) -> &Site {
        &self.site
    }
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

fn client() -> Client {
    static CLIENT: OnceLock<Client> = OnceLock::new();
    CLIENT.get_or_init(site::new_client).clone()
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
