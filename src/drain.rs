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
    /// Nobody is left, or nobody is waited for any longer.
    done: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct Course {
    running: Option<AbortHandle>,
    /// The process is to end: there is no way back.
    ends: bool,
}

impl Drain {
    pub(crate) fn new(party: Party) -> Self {
        Self { party: Arc::new(party), course: Arc::default(), done: Arc::default() }
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
        self.lock().ends = true;
        self.begin();
        // The sender lives as long as `self`.
        let _ = self.done.subscribe().wait_for(|done| *done).await;
    }

    /// One that is under way goes on.
    fn begin(&self) {
        let mut course = self.lock();
        if course.running.is_some() {
            return;
        }
        self.party.node.drain();
        self.done.send_replace(false);
        let (party, done) = (self.party.clone(), self.done.clone());
        let task = tokio::spawn(async move {
            party.leave().await;
            done.send_replace(true);
        });
        course.running = Some(task.abort_handle());
    }

    /// `false`: the process ends, there is nothing to take back.
    fn take_back(&self) -> bool {
        let mut course = self.lock();
        if course.ends {
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
    async fn leave(&self) {
        let (viewers, publishers) = (self.viewers(), (self.publishers)());
        tracing::info!(viewers, publishers, "draining");
        self.move_viewers().await;
        self.move_publishers().await;
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

    async fn move_publishers(&self) {
        if (self.publishers)() == 0 {
            return;
        }
        self.node.ask_publishers_to_leave();
        if self.until_no_publishers(Duration::from_secs(self.settings.publishers_s.into())).await {
            return;
        }
        tracing::warn!(publishers = (self.publishers)(), "publishers that did not go are ended");
        self.node.end_publishers();
        let late = self.engine.members(Role::Publisher);
        late.iter().for_each(|member| self.engine.send_away(&member.session));
        self.until_no_publishers(GONE_WITHIN).await;
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
