//! Which STUN and TURN servers a client is told of.
//!
//! In: settings, and the time. Out: a list as `RTCPeerConnection` takes it, or the same as `Link` headers for WHIP and
//! WHEP. Servers from `rtc.ice_servers` are told as they are; for those from `turn` each client gets credentials of its
//! own, which expire (draft-uberti-behave-turn-rest). Deliberately absent: talking to any of these servers.

use aws_lc_rs::{hmac, rand};
use axum::http::HeaderValue;
use base64ct::{Base64, Encoding};
use serde::Serialize;

use crate::config::{self, Config};

/// An `RTCIceServer` (W3C webrtc-pc section 4.2.2).
#[derive(Clone, Serialize)]
pub struct IceServer {
    pub urls: Vec<String>,
    #[serde(flatten)]
    pub login: Option<Login>,
}

#[derive(Clone, Serialize)]
pub struct Login {
    pub username: String,
    pub credential: String,
}

pub struct IceServers {
    fixed: Vec<IceServer>,
    turn: Option<Turn>,
}

/// A TURN server that shares a secret with us.
struct Turn {
    urls: Vec<String>,
    key: hmac::Key,
    ttl_s: u32,
}

impl IceServers {
    pub fn new(config: &Config) -> Self {
        let config::Turn { urls, secret, ttl_s } = &config.turn;
        let turn = (!urls.is_empty()).then(|| Turn { urls: urls.clone(), key: key(secret.reveal()), ttl_s: *ttl_s });
        Self { fixed: config.rtc.ice_servers.iter().map(fixed).collect(), turn }
    }

    /// The list for one client: no two get the same credentials.
    pub fn for_client(&self, now_us: i64) -> Vec<IceServer> {
        self.fixed.iter().cloned().chain(self.turn.as_ref().map(|turn| turn.server(now_us))).collect()
    }

    /// The same as values of `Link`, one for each address (RFC 9725 section 4.6).
    pub fn links(&self, now_us: i64) -> Vec<HeaderValue> {
        self.for_client(now_us).iter().flat_map(IceServer::links).collect()
    }
}

impl IceServer {
    /// A value that can't stand in a header is left out, and was refused with the settings.
    fn links(&self) -> impl Iterator<Item = HeaderValue> {
        let login = self.login.as_ref().map(|Login { username, credential }| {
            format!("; username=\"{username}\"; credential=\"{credential}\"; credential-type=\"password\"")
        });
        let login = login.unwrap_or_default();
        self.urls.iter().filter_map(move |url| {
            let mut value = HeaderValue::from_str(&format!("<{url}>; rel=\"ice-server\"{login}")).ok()?;
            // Kept out of logs and of HTTP/2's compression tables.
            value.set_sensitive(!login.is_empty());
            Some(value)
        })
    }
}

impl Turn {
    fn server(&self, now_us: i64) -> IceServer {
        let expires_s = now_us / 1_000_000 + i64::from(self.ttl_s);
        let mut name = [0; 8];
        // Fails only where the operating system has no entropy at all; the name is no secret.
        let _ = rand::fill(&mut name);
        let login = login(&self.key, expires_s, &format!("{:016x}", u64::from_be_bytes(name)));
        IceServer { urls: self.urls.clone(), login: Some(login) }
    }
}

/// Section 2.2 of the draft. coturn counts its `user-quota` by what follows the colon.
fn login(key: &hmac::Key, expires_s: i64, name: &str) -> Login {
    let username = format!("{expires_s}:{name}");
    let credential = Base64::encode_string(hmac::sign(key, username.as_bytes()).as_ref());
    Login { username, credential }
}

/// SHA-1 is what the draft and coturn have; as an HMAC it is unbroken.
fn key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes())
}

fn fixed(server: &config::IceServer) -> IceServer {
    let config::IceServer { url, username, credential } = server;
    let login = (!username.is_empty())
        .then(|| Login { username: username.clone(), credential: credential.reveal().to_owned() });
    IceServer { urls: vec![url.clone()], login }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::config::Layers;

    const NOW_US: i64 = 12_000_000_000_999;

    fn ice_servers() -> IceServers {
        let stun = BTreeMap::from([("url", "stun:stun.example.org")]);
        let lasting = BTreeMap::from([("url", "turn:old.example.org"), ("username", "u"), ("credential", "c")]);
        let settings = Layers::defaults()
            .unwrap()
            .with(&["rtc", "ice_servers"], vec![stun, lasting])
            .with(&["turn", "urls"], vec!["turn:a.example.org", "turns:a.example.org:443?transport=tcp"])
            .with(&["turn", "secret"], "logen")
            .with(&["turn", "ttl_s"], 600);
        IceServers::new(&settings.build().unwrap())
    }

    /// The draft's own example of a username; the credential is what OpenSSL makes of it:
    /// `printf 12334939:mbzrxpgjys | openssl dgst -sha1 -hmac logen -binary | base64`.
    #[test]
    fn credentials_are_what_coturn_computes() {
        let login = login(&key("logen"), 12_334_939, "mbzrxpgjys");
        assert_eq!(login.username, "12334939:mbzrxpgjys");
        assert_eq!(login.credential, "v/a4ZZrTDtm3JFHfgWgtMUJOIc8=");
    }

    #[test]
    fn a_client_is_told_of_all_servers_as_browsers_take_them() {
        let servers = ice_servers().for_client(NOW_US);
        let turn = servers[2].login.clone().unwrap();
        let (expires_s, name) = turn.username.split_once(':').unwrap();
        assert_eq!(expires_s, "12000600");
        assert_eq!(turn.credential, login(&key("logen"), 12_000_600, name).credential);
        let wanted = json!([
            { "urls": ["stun:stun.example.org"] },
            { "urls": ["turn:old.example.org"], "username": "u", "credential": "c" },
            {
                "urls": ["turn:a.example.org", "turns:a.example.org:443?transport=tcp"],
                "username": turn.username,
                "credential": turn.credential,
            },
        ]);
        assert_eq!(serde_json::to_value(&servers).unwrap(), wanted);
    }

    #[test]
    fn no_two_clients_share_credentials() {
        let servers = ice_servers();
        let [one, other] = [(); 2].map(|()| servers.for_client(NOW_US)[2].login.clone().unwrap());
        assert_ne!(one.username, other.username);
        assert_ne!(one.credential, other.credential);
    }

    #[test]
    fn links_name_every_address_and_hide_credentials_from_logs() {
        let links = ice_servers().links(NOW_US);
        let texts: Vec<_> = links.iter().map(|link| link.to_str().unwrap()).collect();
        assert_eq!(texts.len(), 4);
        assert_eq!(texts[0], "<stun:stun.example.org>; rel=\"ice-server\"");
        let login = "username=\"u\"; credential=\"c\"; credential-type=\"password\"";
        assert_eq!(texts[1], format!("<turn:old.example.org>; rel=\"ice-server\"; {login}"));
        assert!(texts[2].starts_with("<turn:a.example.org>; rel=\"ice-server\"; username=\"12000600:"), "{}", texts[2]);
        let login_of = |text: &str| text.split_once("; username").unwrap().1.to_owned();
        assert!(texts[3].starts_with("<turns:a.example.org:443?transport=tcp>; "), "{}", texts[3]);
        assert_eq!(login_of(texts[2]), login_of(texts[3]));
        assert_eq!(links.iter().map(HeaderValue::is_sensitive).collect::<Vec<_>>(), [false, true, true, true]);
    }

    #[test]
    fn without_settings_there_is_nothing_to_tell() {
        let config = Layers::defaults().unwrap().build().unwrap();
        assert!(IceServers::new(&config).for_client(NOW_US).is_empty());
    }
}
