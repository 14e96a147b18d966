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
mod turns;

use std::{
    any::Any,
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
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
pub(crate) use turns::{heavy, light, paired};

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

/// Tests judge what many processes do as time goes by, on a machine that others may stop for a moment: one that fails has a
/// second try, and what went wrong at first is told. A fault of ours fails twice.
fn twice_at_most(limit: Duration, test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let first = test.clone();
    let Err(cause) = bounded(limit, move || first()) else { return };
    // Past the test runner, which shows nothing of tests that pass in the end.
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "{name} is tried again, it failed: {}", first_line(&*cause));
    pass(bounded(limit, move || test()));
}

/// Of what a panic says.
fn first_line(cause: &(dyn Any + Send)) -> &str {
    let text = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied());
    text.and_then(|text| text.lines().next()).unwrap_or("no reason was told")
}

fn pass(result: thread::Result<()>) {
    if let Err(cause) = result {
        std::panic::resume_unwind(cause);
    }
}

/// Ends a test that hangs by ending its processes: then whatever it waits for fails, with that thing's name.
fn bounded(limit: Duration, test: impl FnOnce() + Send + 'static) -> thread::Result<()> {
    let (done, ended) = mpsc::channel();
    let body = thread::Builder::new().spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
        // Nobody listens when the test is over its limit.
        let _ = done.send(());
        pass(result);
    });
    let body = body.expect("a thread for the test");
    let late = ended.recv_timeout(limit).is_err();
    if late {
        process::kill_all_of(body.thread().id());
        assert!(ended.recv_timeout(s(10)).is_ok(), "the test takes longer than {limit:?} and does not end");
    }
    let result = body.join();
    if !late || result.is_err() {
        return result;
    }
    println!("the test took longer than {limit:?}");
    Err(Box::new("it took too long"))
}

/// A directory for one test run's files, below target/.
pub(crate) fn scratch(name: &str) -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Relaxed);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("real-{}-{number}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a directory for the test");
    path
}

/// Where the clients' scripts are.
pub(crate) fn clients(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(file)
}

#[test]
fn a_second_try_is_the_last_one() {
    let fail_times = |times: usize| {
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = tries.clone();
        let result = std::panic::catch_unwind(|| {
            twice_at_most(s(5), move || assert!(counted.fetch_add(1, Relaxed) >= times, "as it was meant to"));
        });
        (result.is_ok(), tries.load(Relaxed))
    };
    assert_eq!(fail_times(0), (true, 1));
    assert_eq!(fail_times(1), (true, 2));
    assert_eq!(fail_times(2), (false, 2));
}
