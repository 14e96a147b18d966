//! What every test stands on: the real binary with a directory and ports of its own, real clients, waiting with a limit.

mod balancer;
mod broadcaster;
mod browser;
pub(crate) mod cluster;
pub(crate) mod crowd;
pub(crate) mod faulty;
pub(crate) mod ffmpeg;
pub(crate) mod flv;
mod link;
pub(crate) mod mongod;
mod network;
pub(crate) mod picture;
mod pipe;
pub(crate) mod player;
pub(crate) mod playlist;
pub(crate) mod process;
pub(crate) mod publisher;
pub(crate) mod receiver;
pub(crate) mod rtmp;
pub(crate) mod s3;
pub(crate) mod server;
pub(crate) mod site;
mod steadfast;

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

pub(crate) use balancer::Balancer;
pub(crate) use broadcaster::{Broadcaster, SOUND_OFFER};
pub(crate) use browser::Report;
pub(crate) use link::Link;
pub(crate) use mongod::Mongod;
pub(crate) use pipe::Pipe;
pub(crate) use player::Player;
pub(crate) use process::Process;
pub(crate) use publisher::{Clock, Publisher};
pub(crate) use server::Server;
pub(crate) use site::Site;
pub(crate) use steadfast::Steadfast;

pub(crate) const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Asks until there is an answer. A test never sleeps and hopes.
pub(crate) fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

static HEAVY: Mutex<()> = Mutex::new(());

/// A browser and an encoder fill this machine: one such test at a time, so that what they measure is the server.
fn heavy_turn() -> MutexGuard<'static, ()> {
    // A test that failed while it held the turn has nothing to tell the next one.
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A test with a browser or OBS in it.
pub(crate) fn heavy(limit: Duration, test: impl FnOnce() + Send + 'static) {
    let _turn = heavy_turn();
    bounded(limit, test);
}

/// A test with the server and light clients.
pub(crate) fn light(limit: Duration, test: impl FnOnce() + Send + 'static) {
    bounded(limit, test);
}

/// Ends a test that hangs by ending its processes: then whatever it waits for fails, with that thing's name.
fn bounded(limit: Duration, test: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel();
    let body = thread::Builder::new().spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        // Nobody listens when the test is over its limit.
        let _ = done.send(());
        if let Err(cause) = result {
            std::panic::resume_unwind(cause);
        }
    });
    let body = body.expect("a thread for the test");
    let late = ended.recv_timeout(limit).is_err();
    if late {
        process::kill_all_of(body.thread().id());
        assert!(ended.recv_timeout(s(10)).is_ok(), "the test takes longer than {limit:?} and does not end");
    }
    if let Err(cause) = body.join() {
        std::panic::resume_unwind(cause);
    }
    assert!(!late, "the test took longer than {limit:?}");
}

/// A directory for one test run's files, below target/.
pub(crate) fn scratch(name: &str) -> PathBuf {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("real-{}-{number}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a directory for the test");
    path
}

/// Where the clients' scripts are.
pub(crate) fn clients(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file)
}
