//! Chromium publishing. Its reports are of `tests/clients/publish.mjs`, where the options and the orders are told as well.

use std::time::Duration;

use super::{Link, Report, Site, browser::Browser, s};

/// A publisher's offer, with sound only, and nobody behind it.
pub(crate) const SOUND_OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=rtcp-mux\r\na=mid:0\r\na=sendonly\r\n\
    a=ice-ufrag:tZI2\r\na=ice-pwd:Z9ZzpyPFNtEjuHq3QLmhV1MN\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 64:89:A6:FE:6A:D2:CB:8E:5C:A3:D6:86:AE:C9:22:EB:95:02:DA:18:CD:4D:5A:C3:77:E1:B5:96:B7:4B:D4:D1\r\n\
    a=rtpmap:111 opus/48000/2\r\n";

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
