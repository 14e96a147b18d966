//! An encoder as they are set up in the field: whatever ends its connection, it comes back at once.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Clock, Publisher};

/// Each of its lives has the next number in its picture, from 1 on. Dropping it is a crash.
pub(crate) struct Steadfast {
    over: Arc<AtomicBool>,
    begun: Arc<Mutex<Vec<Instant>>>,
    thread: Option<JoinHandle<()>>,
}

impl Steadfast {
    pub(crate) fn publish(url: &str) -> Self {
        let (over, begun) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Instant>>>::default());
        let (ends, lives, url) = (over.clone(), begun.clone(), url.to_owned());
        let thread = thread::spawn(move || {
            for id in 1..=u8::MAX {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                lives.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                live(&ends, &mut Clock { id, seconds: 600, ..Clock::default() }.publish(&url));
            }
        });
        Self { over, begun, thread: Some(thread) }
    }

    /// When it began to connect, each time.
    pub(crate) fn begun(&self) -> Vec<Instant> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn live(over: &AtomicBool, publisher: &mut Publisher) {
    while publisher.runs() && !over.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Steadfast {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
