//! Chromium publishing. Its reports are of `tests/clients/publish.mjs`, where the options and the orders are told as well.

use std::time::Duration;

use super::{Link, Report, Site, browser::Browser, s};

/// Dropping it is a crash; [`Broadcaster::finish`] is a proper end.
pub(crate) struct Broadcaster(Browser);

impl Broadcaster {
    pub(crate) fn whip(server: &Site, app: &str, id: &str, options: &[&str]) -> Self {
        Self(Browser::start("publish.mjs", &["whip", &server.url(&format!("/{app}/whip/{id}"))], options))
    }

    pub(crate) fn whip_via(link: &Link, server: &Site, app: &str, id: &str) -> Self {
        Self::whip(server, app, id, &[&format!("--via={}", link.address)])
    }

    /// What somebody is told who is turned away.
    pub(crate) fn whip_refused(server: &Site, app: &str, id: &str) -> String {
        let mut browser = Self::whip(server, app, id, &[]).0;
        browser.until_failed()
    }

    /// Ant Media's SDK.
    pub(crate) fn antmedia(server: &Site, app: &str, id: &str, options: &[&str]) -> Self {
        Self::antmedia_at(&server.websocket_url(app), id, options)
    }

    /// Ant Media's SDK, at whatever address.
    pub(crate) fn antmedia_at(address: &str, id: &str, options: &[&str]) -> Self {
        let stream = format!("--stream={id}");
        let options: Vec<&str> = [stream.as_str()].iter().chain(options).copied().collect();
        Self(Browser::start("publish.mjs", &["adaptor", address], &options))
    }

    /// The first report from now on that satisfies `enough`.
    pub(crate) fn until(&mut self, what: &str, limit: Duration, enough: impl FnMut(&Report) -> bool) -> Report {
        self.0.until(what, limit, enough)
    }

    pub(crate) fn until_connected(&mut self) -> Report {
        self.until("the connection", s(20), |report| report.text("rtc.state") == "connected")
    }

    pub(crate) fn order(&mut self, order: &str) {
        self.0.tell(order);
    }

    pub(crate) fn finish(self) -> Report {
        self.0.finish()
    }

    /// The network or the machine is gone.
    pub(crate) fn kill(self) {
        self.0.kill();
    }
}
