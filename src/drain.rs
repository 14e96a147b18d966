//! Leaving without anybody noticing: viewers first, then publishers, each asked in the words of its protocol.
//!
//! In: SIGTERM, `POST /rest/v2/drain` and `POST /rest/v2/undrain`. Out: phases of the node, and who is told what and when.
//! Who comes meanwhile is turned away by the doors. Deliberately absent: the end of the process, which `main` brings
//! about when a drain for that end is over.
//!
//! | who | is asked by | and at the deadline |
//! |---|---|---|
//! | our player | its session's control channel | ended |
//! | players with Ant Media's SDK | `server_will_stop` on their socket | ended |
//! | other WebRTC players | nothing | ended |
//! | HLS players | connections that close; a load balancer finds them another node | |
//! | RTMP publishers that know how to | a reconnect request | ended |
//! | publishers with Ant Media's SDK | `server_will_stop` on their socket | ended |
//! | other publishers | nothing | ended |
//!
//! A process that ends and knows no other node ends its publishers without waiting: there is nowhere to go but back here.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::post,
};
use headwater_common::{
    antmedia::{Notification, Reply, Signalling},
    audience::Count,
    config,
    drain::{Pace, TICK},
    http::{Admin, NO_STORE, admin_only},
    node::Node,
    rtc::{Engine, Role, SessionId},
};
use serde::Serialize;
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, interval, timeout},
};

/// Those who were ended need a moment to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// Everybody who is here, and how long they have.
pub(crate) struct Party {
    /// There is no other node.
    pub(crate) is_alone: bool,
    pub(crate) node: Node,
    pub(crate) engine: Engine,
    pub(crate) signalling: Signalling,
    pub(crate) hls_viewers: Count,
    pub(crate) publishers: Count,
    pub(crate) settings: config::Drain,
}

#[derive(Clone)]
pub(crate) struct Drain {
    party: Arc<Party>,
    course: Arc<Mutex<Course>>,
    /// The process is to end.
    ends: Arc<watch::Sender<bool>>,
    /// Nobody is left, or nobody is waited for any longer.
    done: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct Course {
    running: Option<AbortHandle>,
}

impl Drain {
    pub(crate) fn new(party: Party) -> Self {
        Self { party: Arc::new(party), course: Arc::default(), ends: Arc::default(), done: Arc::default() }
    }

    pub(crate) fn router(&self, admin: Admin) -> Router {
        Router::new()
            .route("/rest/v2/drain", post(drain))
            .route("/rest/v2/undrain", post(undrain))
            .layer(middleware::from_fn_with_state(admin, admin_only))
            .with_state(self.clone())
    }

    /// For a process that is to end: resolves when it may.
    pub(crate) async fn leave(&self) {
        self.ends.send_replace(true);
        self.begin();
        // The sender lives as long as `self`.
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }

    /// For a process that is this node no longer: what its publishers send now, nobody sees.
    pub(crate) fn end_publishers(&self) {
        self.party.node.drain();
        self.party.end_publishers();
    }

    /// One that is under way goes on.
    fn begin(&self) {
        let mut course = self.lock();
        if course.running.is_some() {
            return;
        }
        self.party.node.drain();
        self.done.send_replace(false);
        let (party, ends, done) = (self.party.clone(), self.ends.subscribe(), self.done.clone());
        let task = tokio::spawn(async move {
            party.leave(ends).await;
            done.send_replace(true);
        });
        course.running = Some(task.abort_handle());
    }

    /// `false`: the process ends, there is nothing to take back.
    fn take_back(&self) -> bool {
        let mut course = self.lock();
        // There is no way back.
        if *self.ends.borrow() {
            return false;
        }
        if let Some(running) = course.running.take() {
            running.abort();
            self.party.node.undrain();
            tracing::info!("takes work again: the drain was taken back");
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Party {
    async fn leave(&self, ends: watch::Receiver<bool>) {
        let (viewers, publishers) = (self.viewers(), (self.publishers)());
        tracing::info!(viewers, publishers, "draining");
        self.move_viewers().await;
        self.move_publishers(ends).await;
        let (viewers, publishers) = (self.viewers(), (self.publishers)());
        tracing::info!(viewers, publishers, "drained");
    }

    fn viewers(&self) -> usize {
        self.engine.members(Role::Viewer).len() + (self.hls_viewers)()
    }

    /// Some at a time, those of our player as well as those of the SDK.
    async fn move_viewers(&self) {
        let limit = Duration::from_secs(self.settings.viewers_s.into());
        let (begun, pace) = (Instant::now(), Pace::new(limit));
        let word: Arc<str> = Reply::Notification(Notification::ServerWillStop).text().into();
        let mut told: HashSet<SessionId> = HashSet::new();
        let mut ticks = interval(TICK);
        while begun.elapsed() < limit {
            ticks.tick().await;
            let members = self.engine.members(Role::Viewer);
            let hearing = members.iter().filter(|member| member.hears && !told.contains(&member.session));
            let hearing: Vec<_> = hearing.map(|member| member.session.clone()).collect();
            let sockets = self.signalling.viewers_to_send_away();
            let waiting = hearing.len() + sockets;
            if waiting == 0 && self.viewers() == 0 {
                return;
            }
            let due = pace.due(begun.elapsed(), waiting);
            // Of both kinds as many as there are of each.
            let of_players = (due * hearing.len()).div_ceil(waiting.max(1));
            for session in hearing.into_iter().take(of_players) {
                self.engine.instruct(&session, &word);
                told.insert(session);
            }
            self.signalling.send_viewers_away(due - of_players);
        }
        let late = self.engine.members(Role::Viewer);
        if !late.is_empty() {
            tracing::info!(viewers = late.len(), "viewers that did not go are sent away");
        }
        late.iter().for_each(|member| self.engine.send_away(&member.session));
    }

    /// `ends`: the process is to end.
    async fn move_publishers(&self, mut ends: watch::Receiver<bool>) {
        if (self.publishers)() == 0 {
            return;
        }
        let limit = Duration::from_secs(self.settings.publishers_s.into());
        let nowhere_to_go = async {
            match self.is_alone {
                // A sender that is gone has nothing to say.
                true => drop(ends.wait_for(|ends| *ends).await),
                false => std::future::pending().await,
            }
        };
        let asked = async {
            self.node.ask_publishers_to_leave();
            self.until_no_publishers(limit).await
        };
        tokio::select! {
            biased;
            () = nowhere_to_go => {
                let publishers = (self.publishers)();
                tracing::info!(publishers, "publishers are ended: there is no other node that they could go to");
            }
            gone = asked => match gone {
                true => return,
                false => tracing::warn!(publishers = (self.publishers)(), "publishers that did not go are ended"),
            },
        }
        self.end_publishers();
        self.until_no_publishers(GONE_WITHIN).await;
    }

    fn end_publishers(&self) {
        self.node.end_publishers();
        let members = self.engine.members(Role::Publisher);
        members.iter().for_each(|member| self.engine.send_away(&member.session));
    }

    async fn until_no_publishers(&self, limit: Duration) -> bool {
        let gone = async {
            let mut ticks = interval(TICK);
            while (self.publishers)() > 0 {
                ticks.tick().await;
            }
        };
        timeout(limit, gone).await.is_ok()
    }
}

/// As every Ant Media client reads outcomes.
#[derive(Serialize)]
struct Outcome {
    success: bool,
    message: String,
}

async fn drain(State(drain): State<Drain>) -> Response {
    drain.begin();
    let (viewers, publishers) = (drain.party.viewers(), (drain.party.publishers)());
    let message = format!("draining: {viewers} viewers and {publishers} publishers are here");
    (StatusCode::ACCEPTED, [NO_STORE], Json(Outcome { success: true, message })).into_response()
}

async fn undrain(State(drain): State<Drain>) -> Response {
    let success = drain.take_back();
    let (status, message) = match success {
        true => (StatusCode::OK, drain.party.node.phase().name()),
        false => (StatusCode::CONFLICT, "the process is about to end"),
    };
    (status, [NO_STORE], Json(Outcome { success, message: message.to_owned() })).into_response()
}
