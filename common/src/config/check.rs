//! What the types of the settings can't say. In: settings. Out: nothing, or an error that names the key.

use std::net::Ipv6Addr;

use super::{Cluster, Config, ConfigError, IceServer, Turn};
use crate::{ladder, live::BroadcastId, node::Role};

/// Clocks of two machines may be apart, and a page takes a while from its load to its use of the credentials.
const TTL_S_MIN: u32 = 60;
/// The hall forgets a broadcast then.
const GAP_S_MAX: u32 = 60;
/// Certificates are derived from the cluster's secret without slowing down who guesses it.
pub const SECRET_LENGTH_MIN: usize = 32;

impl Config {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.tls.certificate.as_os_str().is_empty() != self.tls.key.as_os_str().is_empty() {
            return refuse("tls", "certificate and key go together, only one of them is set");
        }
        for (name, app) in &self.apps {
            if let Err(problem) = BroadcastId::new(name, "x") {
                return refuse("apps", problem.to_string());
            }
            app.webhooks.check(name)?;
            let gap_s = app.recording.gap_tolerance_s;
            if gap_s > GAP_S_MAX {
                return refuse("apps.*.recording.gap_tolerance_s", format!("{gap_s} is too long: {GAP_S_MAX} at most"));
            }
            if let Err(problem) = ladder::check(&app.ladder) {
                return refuse("apps", format!("{name}.ladder: {problem}"));
            }
            // Where there is no ladder, single broadcasts may have one.
            let is_made = |height: &u32| app.ladder.is_empty() || app.ladder.iter().any(|rung| rung.height == *height);
            if let Some(height) = app.recording.renditions.iter().find(|height| !is_made(height)) {
                return refuse("apps.*.recording.renditions", format!("{height} is no height of {name}.ladder"));
            }
        }
        for server in &self.rtc.ice_servers {
            if let Some(problem) = server_problem(server) {
                return refuse("rtc.ice_servers", format!("{:?}: {problem}", server.url));
            }
        }
        self.store.s3.check()?;
        self.cluster.check()?;
        self.turn.check()
    }

    /// What only makes sense for one way of running.
    pub fn check_for(&self, role: Role) -> Result<(), ConfigError> {
        let cluster = &self.cluster;
        let is_set = !cluster.secret.is_empty() || !cluster.certificate.as_os_str().is_empty();
        match role {
            Role::Whole if is_set || !cluster.origins.is_empty() => {
                refuse("cluster", "a node of a cluster is started as `headwater origin` or `headwater edge`")
            }
            Role::Whole => Ok(()),
            Role::Origin | Role::Edge if !is_set => {
                let problem =
                    "it is missing: give what `headwater cluster-secret` prints to all nodes, or a certificate";
                refuse("cluster.secret", problem)
            }
            Role::Edge if cluster.origins.is_empty() => {
                refuse("cluster.origins", "they are missing: an edge has everything from an origin")
            }
            Role::Edge if !self.registry.mongodb.is_empty() => {
                refuse("registry.mongodb", "it is set, and an edge has no registry: it asks its origins")
            }
            Role::Origin | Role::Edge => Ok(()),
        }
    }
}

impl Cluster {
    fn check(&self) -> Result<(), ConfigError> {
        for origin in &self.origins {
            if let Some(problem) = place_problem(origin) {
                return refuse("cluster.origins", format!("{origin:?}: {problem}"));
            }
        }
        if let Some(problem) = place_problem(&self.advertise).filter(|_| !self.advertise.is_empty()) {
            return refuse("cluster.advertise", format!("{:?}: {problem}", self.advertise));
        }
        if !self.http.is_empty() && !self.http.starts_with("http://") && !self.http.starts_with("https://") {
            return refuse("cluster.http", format!("{:?} begins with neither http:// nor https://", self.http));
        }
        let files = [&self.certificate, &self.key, &self.ca].map(|path| !path.as_os_str().is_empty());
        if files != [files[0]; 3] {
            return refuse("cluster", "certificate, key and ca go together, and only some of them are set");
        }
        if files[0] && !self.secret.is_empty() {
            return refuse("cluster", "there is a secret and a certificate, and nodes take one or the other");
        }
        let length = self.secret.reveal().chars().count();
        if length > 0 && length < SECRET_LENGTH_MIN {
            return refuse(
                "cluster.secret",
                format!("{length} characters can be guessed, {SECRET_LENGTH_MIN} are the least"),
            );
        }
        Ok(())
    }
}

/// Of `host:port`, where an IPv6 address stands in brackets.
fn place_problem(place: &str) -> Option<&'static str> {
    let Some((host, port)) = place.rsplit_once(':') else { return Some("a port is missing, as in host:5000") };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let host_is_good = match bracketed {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')),
    };
    if !host_is_good {
        return Some("a host's name or address comes first, an IPv6 address in brackets");
    }
    port.parse::<u16>().is_err().then_some("the port is not a number below 65536")
}

impl Turn {
    fn check(&self) -> Result<(), ConfigError> {
        for url in &self.urls {
            if let Some(problem) = url_problem(url) {
                return refuse("turn.urls", format!("{url:?}: {problem}"));
            }
            if !is_turn(url) {
                return refuse("turn.urls", format!("{url:?}: not turn: or turns:, it belongs in rtc.ice_servers"));
            }
        }
        if self.secret.is_empty() && !self.urls.is_empty() {
            return refuse("turn.secret", "it is missing, and turn.urls are set: give coturn's static-auth-secret");
        }
        if self.urls.is_empty() && !self.secret.is_empty() {
            return refuse("turn.urls", "they are missing, and turn.secret is set");
        }
        if self.ttl_s < TTL_S_MIN {
            return refuse("turn.ttl_s", format!("{} is too short: {TTL_S_MIN} at least", self.ttl_s));
        }
        Ok(())
    }
}

pub(super) fn refuse(key: &'static str, problem: impl Into<String>) -> Result<(), ConfigError> {
    Err(ConfigError::Value { key, problem: problem.into() })
}

fn server_problem(server: &IceServer) -> Option<&'static str> {
    let has_login = !server.username.is_empty() && !server.credential.is_empty();
    // They are told to players in a header, in quotes.
    let quotable = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'>'));
    if let Some(problem) = url_problem(&server.url) {
        return Some(problem);
    }
    if is_turn(&server.url) && !has_login {
        // W3C webrtc-pc section 4.4.1.6: it refuses the whole list.
        return Some("a browser takes no TURN server without username and credential");
    }
    let is_quotable = quotable(&server.username) && quotable(server.credential.reveal());
    (!is_quotable).then_some("username and credential may have printable ASCII without quotes and backslashes only")
}

fn is_turn(url: &str) -> bool {
    url.starts_with("turn:") || url.starts_with("turns:")
}

/// RFC 7064 and RFC 7065 section 3.1. One that a browser can't read makes it refuse to play at all.
fn url_problem(url: &str) -> Option<&'static str> {
    let Some((_, rest)) =
        url.split_once(':').filter(|(scheme, _)| matches!(*scheme, "stun" | "stuns" | "turn" | "turns"))
    else {
        return Some("it begins with none of stun:, stuns:, turn:, turns:");
    };
    let (place, query) = rest.split_once('?').map_or((rest, None), |(place, query)| (place, Some(query)));
    match query {
        None => {}
        Some("transport=udp" | "transport=tcp") if is_turn(url) => {}
        Some(_) => return Some("what follows ? is transport=udp or transport=tcp, with turn: and turns: only"),
    }
    let (host_is_good, port) = match place.strip_prefix('[').and_then(|bracketed| bracketed.split_once(']')) {
        Some((host, port)) => (host.parse::<Ipv6Addr>().is_ok(), port),
        None => {
            let (host, port) = place.split_at(place.find(':').unwrap_or(place.len()));
            let is_name = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
            (is_name && !host.is_empty(), port)
        }
    };
    if !host_is_good {
        return Some("a host's name or address follows the scheme, without slashes");
    }
    port_problem(port)
}

/// Of what follows a host's name in a URL, colon and all.
pub(super) fn port_problem(port: &str) -> Option<&'static str> {
    let port_is_good = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    (!port_is_good).then_some("the port is not a number below 65536")
}

#[cfg(test)]
mod tests {
    use super::url_problem;

    #[test]
    fn urls_that_browsers_take_are_taken() {
        for url in [
            "stun:stun.example.org",
            "stuns:192.0.2.1:5349",
            "turn:turn.example.org:3478",
            "turn:turn.example.org?transport=udp",
            "turns:[2001:db8::1]:5349?transport=tcp",
            "turn:[::1]",
        ] {
            assert_eq!(url_problem(url), None, "{url}");
        }
    }

    #[test]
    fn urls_that_browsers_refuse_are_refused() {
        for (url, word) in [
            ("http://x", "none of"),
            ("TURN.example.org", "none of"),
            ("turn://turn.example.org", "slashes"),
            ("turn:", "slashes"),
            ("turn::3478", "slashes"),
            ("turn:a b", "slashes"),
            ("turn:[2001:db8::1", "slashes"),
            ("turn:[192.0.2.1]", "slashes"),
            ("turn:x:70000", "port"),
            ("turn:x:", "port"),
            ("turn:[::1]3478", "port"),
            ("turn:x?transport=tls", "transport"),
            ("stun:x?transport=udp", "transport"),
        ] {
            let problem = url_problem(url).unwrap_or_default();
            assert!(problem.contains(word), "{url}: {problem:?}");
        }
    }
}
