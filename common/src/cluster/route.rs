//! A way to one node. In: how to dial. Out: one connection for all who go there, made with the first request and again after a
//! loss. A connection that TCP still believes in and that nothing comes through is replaced as soon as somebody says
//! so: who asks next does not wait behind those who wait. Deliberately absent: who finds that out, and how.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::transport::Channel;

use super::{Shared, dial};
use crate::relay::Line;

/// Cheap to clone: all clones lead the same way.
#[derive(Clone)]
pub struct Route(Arc<Inner>);

struct Inner {
    dial: Box<dyn Fn() -> Channel + Send + Sync>,
    connection: Mutex<Connection>,
}

/// One of those that a route has had.
#[derive(Clone)]
pub struct Connection {
    number: u64,
    pub channel: Channel,
    /// All that is pulled through it.
    pub line: Line,
}

impl Route {
    /// `dial` is called within the runtime, and does not wait for an answer.
    pub fn new(dial: impl Fn() -> Channel + Send + Sync + 'static) -> Self {
        let connection = Connection::new(0, dial());
        Self(Arc::new(Inner { dial: Box::new(dial), connection: Mutex::new(connection) }))
    }

    pub fn connection(&self) -> Connection {
        self.lock().clone()
    }

    /// Nothing comes through this one. It is closed when the last of those who still wait for something there is gone.
    /// Many say so at the same time: the first one counts.
    pub fn give_up(&self, stalled: &Connection) {
        let mut connection = self.lock();
        if connection.number == stalled.number {
            *connection = Connection::new(stalled.number + 1, (self.0.dial)());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn new(number: u64, channel: Channel) -> Self {
        Self { number, line: Line::new(channel.clone()), channel }
    }
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Route").field("connections", &(self.lock().number + 1)).finish()
    }
}

impl Shared {
    pub(super) fn route(&self, place: String) -> Route {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || {
            let (place, credentials) = (place.clone(), self.surroundings.credentials.clone());
            Route::new(move || dial::channel(place.clone(), &credentials))
        };
        routes.entry(place.clone()).or_insert_with(make).clone()
    }

    /// Forgets ways to places where no node is any more.
    pub(super) fn forget_routes(&self) {
        let places: Vec<String> = self.view().nodes().map(|(facts, _)| facts.grpc.clone()).collect();
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        routes.retain(|place, _| places.contains(place));
    }
}
