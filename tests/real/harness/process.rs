//! A child process whose lines can be waited for. It dies with its owner, and tells what it said when the test fails.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, ThreadId},
    time::{Duration, Instant},
};

use super::until;

/// Process groups that run, with the test thread that started them.
static RUNNING: Mutex<Vec<(ThreadId, u32)>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<(ThreadId, u32)>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

const TAIL_LINES: usize = 80;

pub(crate) struct Process {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    output: Arc<Output>,
}

#[derive(Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Output {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn after(&self, mark: usize) -> Vec<String> {
        self.lines()[mark..].to_vec()
    }

    /// Whether there are more than `count` lines, now or within the limit.
    fn wait(&self, count: usize, limit: Duration) -> bool {
        let waited = self.grown.wait_timeout_while(self.lines(), limit, |lines| lines.len() <= count);
        waited.unwrap_or_else(PoisonError::into_inner).0.len() > count
    }

    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let output = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                output.lines().push(String::from_utf8_lossy(&line).into_owned());
                output.grown.notify_all();
            }
        });
    }
}

impl Process {
    pub(crate) fn start(name: impl Into<String>, command: &mut Command) -> Self {
        let name = name.into();
        // A group of its own: a script's children go when it goes.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}; run tests/setup.sh"));
        running().push((thread::current().id(), child.id()));
        let output = Arc::<Output>::default();
        output.follow(child.stdout.take().expect("stdout is piped"));
        output.follow(child.stderr.take().expect("stderr is piped"));
        Self { name, input: child.stdin.take(), child, output }
    }

    pub(crate) fn take_input(&mut self) -> ChildStdin {
        self.input.take().expect("input was not taken before")
    }

    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("input was not taken");
        writeln!(input, "{line}").unwrap_or_else(|error| panic!("{} does not listen: {error}", self.name));
    }

    /// How many lines there are so far; a mark for [`Process::line_after`].
    pub(crate) fn lines(&self) -> usize {
        self.output.lines().len()
    }

    pub(crate) fn text(&self) -> String {
        self.output.lines().join("\n")
    }

    pub(crate) fn line<T>(&mut self, what: &str, limit: Duration, find: impl FnMut(&str) -> Option<T>) -> T {
        self.line_after(0, what, limit, find)
    }

    /// The first line that satisfies `find`, or None if the process ends without it.
    pub(crate) fn line_unless_ended<T>(
        &mut self,
        limit: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let name = format!("a line of {}", self.name);
        until(&name, limit, || {
            let ended = !self.runs();
            let found = self.output.after(0).iter().find_map(|line| find(line));
            (ended || found.is_some()).then_some(found)
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The first line after the mark that satisfies `find`.
    pub(crate) fn line_after<T>(
        &mut self,
        mark: usize,
        what: &str,
        limit: Duration,
        mut find: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let end = Instant::now() + limit;
        let mut next = mark;
        loop {
            // Asked before the lines are read: what was said before the end is not missed.
            let ended = self.child.try_wait().ok().flatten();
            let fresh = self.output.after(next);
            next += fresh.len();
            if let Some(found) = fresh.iter().find_map(|line| find(line)) {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited {limit:?} for {what} from {}", self.name);
            let more = self.output.wait(next, left.min(Duration::from_millis(100)));
            assert!(ended.is_none() || more, "{} ended ({ended:?}) before {what}", self.name);
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// To the process alone, which tells its children what it likes.
    pub(crate) fn interrupt(&self) {
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
    }

    /// As a power cut: no goodbye.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
        self.wait(Duration::from_secs(10));
    }

    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let name = format!("the end of {}", self.name);
        until(&name, limit, || self.child.try_wait().expect("a child can be asked"))
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let failed = thread::panicking();
        signal(self.child.id(), "KILL");
        let _ = self.child.wait();
        running().retain(|(_, pid)| *pid != self.child.id());
        if failed {
            let lines = self.output.lines();
            eprintln!("---- {} said ({} lines, the last {TAIL_LINES}):", self.name, lines.len());
            for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
                eprintln!("{line}");
            }
        }
    }
}

/// To the whole group of a child that we started.
fn signal(pid: u32, name: &str) {
    let group = format!("-{pid}");
    let _ = Command::new("kill").args([&format!("-{name}"), "--", &group]).stderr(Stdio::null()).status();
}

pub(super) fn kill_all_of(test: ThreadId) {
    for (_, pid) in running().iter().filter(|(owner, _)| *owner == test) {
        signal(*pid, "KILL");
    }
}
