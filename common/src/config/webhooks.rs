//! Who is told what becomes of an application's broadcasts. In: `[apps.NAME.webhooks]`, and addresses that REST sets for single
//! broadcasts. Out: the same, checked. Deliberately absent: connections.

use axum::http::Uri;
use base64ct::{Base64, Encoding};
use serde::Deserialize;

use super::{
    ConfigError, Secret,
    check::{port_problem, refuse},
};

const URL_LENGTH_MAX: usize = 2_048;
/// Standard Webhooks, "Signature scheme": 24 to 64 bytes, shown in base64 behind this.
const SECRET_PREFIX: &str = "whsec_";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhooks {
    pub url: String,
    pub secret: Secret,
}

impl Webhooks {
    pub fn is_set(&self) -> bool {
        !self.url.is_empty()
    }

    /// What requests are signed with.
    pub fn key(&self) -> Option<Vec<u8>> {
        let text = self.secret.reveal();
        let key = Base64::decode_vec(text.strip_prefix(SECRET_PREFIX).unwrap_or(text)).ok()?;
        (24..=64).contains(&key.len()).then_some(key)
    }

    pub(super) fn check(&self, app: &str) -> Result<(), ConfigError> {
        if let Some(problem) = hook_problem(&self.url).filter(|_| self.is_set()) {
            // An address may have a password in it.
            return refuse("apps.*.webhooks.url", format!("that of {app}: {problem}"));
        }
        if !self.secret.is_empty() && self.key().is_none() {
            return refuse(
                "apps.*.webhooks.secret",
                format!(
                    "that of {app} is not {SECRET_PREFIX} and 24 to 64 bytes in base64; `openssl rand -base64 32` makes some"
                ),
            );
        }
        Ok(())
    }
}

/// Why nobody can be told there.
pub fn hook_problem(url: &str) -> Option<&'static str> {
    if url.len() > URL_LENGTH_MAX {
        return Some("it is too long");
    }
    let Ok(uri) = url.parse::<Uri>() else { return Some("it is no URL; special characters are to be percent-encoded") };
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Some("it begins with neither http:// nor https://");
    }
    let Some(authority) = uri.authority() else { return Some("a host's name or address is missing") };
    let authority = authority.as_str();
    if authority.contains('@') {
        return Some("user name and password are not sent: requests are signed");
    }
    let host = uri.host().unwrap_or_default();
    let port = authority.strip_prefix(host).unwrap_or_default();
    if host.is_empty() {
        return Some("a host's name or address is missing");
    }
    port_problem(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_can_be_told_are_taken_and_others_refused() {
        for url in [
            "http://localhost",
            "https://hooks.example.org:8443/a/b?key=%20x",
            "http://192.0.2.1:80/",
            "https://[2001:db8::1]:8443/hook",
            "http://[::1]",
        ] {
            assert_eq!(hook_problem(url), None, "{url}");
        }
        let long = format!("https://example.org/{}", "x".repeat(URL_LENGTH_MAX));
        for (url, word) in [
            ("", "no URL"),
            ("https://example.org/with blank", "no URL"),
            ("hooks.example.org/x", "no URL"),
            ("/hook", "neither"),
            ("ftp://example.org/", "neither"),
            ("https://user:password@example.org/", "user name"),
            ("https://example.org:70000/", "port"),
            ("https://example.org:/", "port"),
            (&long, "long"),
        ] {
            let problem = hook_problem(url).unwrap_or_default();
            assert!(problem.contains(word), "{url}: {problem:?}");
        }
    }
}
