//! A port in front of a node, so that it can be cut off and be back at the same address.

use std::{
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// A port that leads to a node until it is cut.
pub(super) struct Front {
    listener: TcpListener,
    shared: Arc<FrontShared>,
}

#[derive(Default)]
struct FrontShared {
    target: Mutex<Option<SocketAddr>>,
    cut: AtomicBool,
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Front {
    pub(super) fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener, shared: Arc::default() }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(super) fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap() = Some(target);
        let (listener, shared) = (self.listener.try_clone().unwrap(), self.shared.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.over.load(Ordering::SeqCst) {
                    return;
                }
                if shared.cut.load(Ordering::SeqCst) {
                    continue;
                }
                let target = shared.target.lock().unwrap().unwrap();
                let Ok(onward) = TcpStream::connect(target) else { continue };
                shared.open.lock().unwrap().extend([stream.try_clone().unwrap(), onward.try_clone().unwrap()]);
                for (mut from, mut to) in [(stream.try_clone().unwrap(), onward.try_clone().unwrap()), (onward, stream)]
                {
                    thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
    }

    pub(super) fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.cut();
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the listener up to see that it is over.
        let _ = TcpStream::connect(self.address());
    }
}
