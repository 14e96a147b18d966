//! Real MongoDB servers: a standalone, or a replica set that elects within a second or two. They end with the process
//! that started them, whatever becomes of it.

use std::{
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use mongodb::{
    Client,
    bson::{Document, doc},
    options::ClientOptions,
};

const SET: &str = "rs0";
/// From nothing to a primary, on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(60);

/// One server, or the members of a set.
pub(crate) struct Mongod {
    dir: PathBuf,
    members: Vec<Member>,
    is_set: bool,
    is_guarded: bool,
}

struct Member {
    address: SocketAddr,
    /// What comes before the program: a command line that runs it somewhere else.
    prefix: Vec<String>,
    running: Option<Running>,
}

struct Running {
    /// A shell that ends the server when its input ends, which is when this process does.
    shell: Child,
    pid: u32,
}

impl Mongod {
    /// `dir` is the servers' own, and removed with them.
    pub(crate) fn standalone(dir: PathBuf) -> Self {
        Self::start(dir, vec![(free_address(), Vec::new())], false)
    }

    pub(crate) fn replica_set(dir: PathBuf, members: usize) -> Self {
        Self::replica_set_at(dir, (0..members).map(|_| (free_address(), Vec::new())).collect())
    }

    /// A standalone that lets nobody in but this user.
    pub(crate) fn guarded(dir: PathBuf, user: &str, password: &str) -> Self {
        let mut server = Self::standalone(dir);
        server.command(
            0,
            doc! { "createUser": user, "pwd": password, "roles": ["root"], "writeConcern": { "w": 1, "j": true } },
        );
        server.kill(0);
        server.is_guarded = true;
        server.start_again(0);
        server
    }

    /// A set whose members are at these addresses, each behind the command line that runs it there.
    pub(crate) fn replica_set_at(dir: PathBuf, places: Vec<(SocketAddr, Vec<String>)>) -> Self {
        Self::start(dir, places, true)
    }

    fn start(dir: PathBuf, places: Vec<(SocketAddr, Vec<String>)>, is_set: bool) -> Self {
        let member = |(address, prefix)| Member { address, prefix, running: None };
        let members = places.into_iter().map(member).collect();
        let mut servers = Self { dir, members, is_set, is_guarded: false };
        for index in 0..servers.members.len() {
            servers.start_again(index);
        }
        if is_set {
            servers.initiate();
        }
        servers
    }

    /// How to reach it; what is kept is kept apart by `name`.
    pub(crate) fn uri(&self, name: &str) -> String {
        let hosts: Vec<_> = self.members.iter().map(|member| member.address.to_string()).collect();
        let set = if self.is_set { format!("?replicaSet={SET}") } else { String::new() };
        format!("mongodb://{}/{name}{set}", hosts.join(","))
    }

    /// As a power cut.
    pub(crate) fn kill(&mut self, index: usize) {
        self.signal(index, "KILL");
        if let Some(Running { mut shell, .. }) = self.members[index].running.take() {
            drop(shell.stdin.take());
            let _ = shell.wait();
        }
    }

    /// STOP freezes it, CONT lets it go on.
    pub(crate) fn signal(&self, index: usize, name: &str) {
        // None where it did not even start: a test that fails ends what there is of its servers.
        if let Some(Running { pid, .. }) = &self.members[index].running {
            let _ = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
        }
    }

    /// With the same data, at the same address.
    pub(crate) fn start_again(&mut self, index: usize) {
        let data = self.dir.join(index.to_string());
        std::fs::create_dir_all(&data).expect("a directory for mongod");
        let address = self.members[index].address;
        let mut arguments = self.members[index].prefix.clone();
        arguments.extend([
            binary().display().to_string(),
            format!("--dbpath={}", data.display()),
            format!("--bind_ip={}", address.ip()),
            format!("--port={}", address.port()),
            format!("--logpath={}", self.dir.join(format!("{index}.log")).display()),
            "--logappend".into(),
            "--nounixsocket".into(),
            "--wiredTigerCacheSizeGB=0.25".into(),
            "--setParameter=ttlMonitorSleepSecs=1".into(),
            "--setParameter=enableTestCommands=1".into(),
            "--setParameter=diagnosticDataCollectionEnabled=false".into(),
        ]);
        if self.is_guarded {
            arguments.push("--auth".into());
        }
        if self.is_set {
            arguments.extend([format!("--replSet={SET}"), "--oplogSize=64".into()]);
        }
        let mut shell = Command::new("sh")
            .args(["-c", "\"$@\" >/dev/null 2>&1 & echo $!; read -r _; kill -KILL $! 2>/dev/null; wait $!", "mongod"])
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let mut pid = String::new();
        BufReader::new(shell.stdout.take().expect("stdout is piped")).read_line(&mut pid).expect("mongod's pid");
        let pid = pid.trim().parse().expect("mongod's pid");
        self.members[index].running = Some(Running { shell, pid });
        self.ask(index, doc! { "ping": 1 }, |_| true);
    }

    /// Which member takes writes.
    pub(crate) fn primary(&self) -> usize {
        let begun = Instant::now();
        loop {
            let is_primary = |index: &usize| {
                let hello = command(self.members[*index].address, doc! { "hello": 1 });
                hello.is_some_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
            };
            if let Some(primary) = (0..self.members.len()).find(is_primary) {
                return primary;
            }
            assert!(begun.elapsed() < PATIENCE, "no primary within {PATIENCE:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Runs a command on one server, as an operator or a fail point needs it.
    pub(crate) fn command(&self, index: usize, request: Document) -> Document {
        command(self.members[index].address, request).expect("an answer of mongod")
    }

    fn initiate(&self) {
        let members = self.members.iter().enumerate();
        let members: Vec<_> =
            members.map(|(n, member)| doc! { "_id": n as i32, "host": member.address.to_string() }).collect();
        let settings = doc! { "electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200 };
        let config = doc! { "_id": SET, "members": members, "settings": settings };
        self.command(0, doc! { "replSetInitiate": config });
        self.primary();
    }

    fn ask(&self, index: usize, request: Document, is_good: impl Fn(&Document) -> bool) {
        let begun = Instant::now();
        while !command(self.members[index].address, request.clone()).is_some_and(|answer| is_good(&answer)) {
            assert!(begun.elapsed() < PATIENCE, "mongod {index} does not answer, see {}", self.dir.display());
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        for index in 0..self.members.len() {
            self.kill(index);
        }
        if !thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn command(address: SocketAddr, request: Document) -> Option<Document> {
    ask(address, "admin", request)
}

/// On a thread and a runtime of its own: whoever asks may be on one already.
pub(crate) fn ask(address: SocketAddr, database: &str, request: Document) -> Option<Document> {
    let database = database.to_owned();
    let ask = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let answer = runtime.block_on(async {
            let mut options = ClientOptions::parse(format!("mongodb://{address}/?directConnection=true")).await.ok()?;
            options.server_selection_timeout = Some(Duration::from_millis(500));
            let client = Client::with_options(options).ok()?;
            let answer = client.database(&database).run_command(request).await.ok();
            client.shutdown().immediate(true).await;
            answer
        });
        runtime.shutdown_background();
        answer
    };
    thread::spawn(ask).join().expect("asking mongod")
}

fn binary() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let beside = |root: &Path| root.join("tests/clients/mongod/fiftyone/db/bin/mongod");
    let found = [root, root.parent().unwrap_or(root)].map(beside).into_iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("there is no mongod in tests/clients, run tests/setup.sh"))
}

/// Free when it was looked at; below the range that the kernel hands out.
fn free_address() -> SocketAddr {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = 15_000 + (std::process::id() % 200) as u16 * 20;
    loop {
        let port = begin + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
