//! Chromium watching one stream, or publishing one by our page, and what it saw. Its reports are of `watch.mjs` and
//! `publish_page.mjs` in `tests/clients`.

use std::time::Duration;

use super::{Link, Report, Site, browser::Browser, s, until};

/// How much later than it is the sound seems to be: the page's own audio graph, also where one Chromium sends to another
/// without a server.
const PAGE_SOUND_MS: f64 = 60.0;

pub(crate) struct Player {
    browser: Browser,
    /// The publisher is a browser: it skips pictures when it has no time to encode them.
    skips: bool,
}

impl Player {
    /// Our own page. `query` is what follows `?id=…`.
    pub(crate) fn page(server: &Site, app: &str, id: &str, query: &str) -> Self {
        Self::start("page", &server.url(&format!("/{app}/play.html?id={id}{query}")), &[])
    }

    /// Our own page, at whatever address.
    pub(crate) fn page_at(url: &str) -> Self {
        Self::start("page", url, &[])
    }

    /// Ant Media's SDK, at whatever address.
    pub(crate) fn antmedia_at(url: &str, id: &str) -> Self {
        Self::start("adaptor", url, &[&format!("--stream={id}")])
    }

    /// Our own page in a network that lets nothing through but TURN.
    pub(crate) fn page_relay(server: &Site, app: &str, id: &str) -> Self {
        Self::start("page", &server.url(&format!("/{app}/play.html?id={id}&playOrder=webrtc")), &["--relay"])
    }

    pub(crate) fn whep(server: &Site, app: &str, id: &str) -> Self {
        Self::whep_with(server, app, id, &[])
    }

    pub(crate) fn whep_with(server: &Site, app: &str, id: &str, options: &[&str]) -> Self {
        Self::start("whep", &server.url(&format!("/{app}/whep/{id}")), options)
    }

    /// A network that lets no UDP through.
    pub(crate) fn whep_tcp(server: &Site, app: &str, id: &str) -> Self {
        Self::whep_with(server, app, id, &["--tcp"])
    }

    /// A network that lets nothing through but the way to the TURN servers that the server tells of.
    pub(crate) fn whep_relay(server: &Site, app: &str, id: &str) -> Self {
        let relay = format!("--relay={}", server.url(&format!("/{app}/turn-credentials")));
        Self::whep_with(server, app, id, &[&relay])
    }

    pub(crate) fn whep_via(link: &Link, server: &Site, app: &str, id: &str) -> Self {
        Self::whep_with(server, app, id, &[&format!("--via={}", link.address)])
    }

    /// Ant Media's SDK.
    pub(crate) fn antmedia(server: &Site, app: &str, id: &str) -> Self {
        Self::start("adaptor", &server.websocket_url(app), &[&format!("--stream={id}")])
    }

    /// Ant Media's web player, with its `playOrder`.
    pub(crate) fn antmedia_player(server: &Site, app: &str, id: &str, order: &str) -> Self {
        Self::start(
            "player",
            &server.url(&format!("/{app}/")),
            &[&format!("--stream={id}"), &format!("--order={order}")],
        )
    }

    pub(crate) fn hls(server: &Site, app: &str, id: &str) -> Self {
        Self::start("hls", &server.url(&format!("/{app}/streams/{id}.m3u8")), &[])
    }

    pub(crate) fn hls_classic(server: &Site, app: &str, id: &str) -> Self {
        Self::hls_classic_at(&server.url(&format!("/{app}/streams/{id}.m3u8")))
    }

    /// By whatever way the address takes.
    pub(crate) fn hls_classic_at(address: &str) -> Self {
        Self::start("hls", address, &["--classic"])
    }

    /// Our publish page, with a fake camera unless the options of `publish_page.mjs` say otherwise.
    pub(crate) fn publish_page(address: &str, options: &[&str]) -> Self {
        Self { browser: Browser::start("publish_page.mjs", &[address], options), skips: false }
    }

    fn start(mode: &str, address: &str, options: &[&str]) -> Self {
        Self { browser: Browser::start("watch.mjs", &[mode, address], options), skips: false }
    }

    /// The publisher is a browser.
    pub(crate) fn of_browser(mut self) -> Self {
        self.skips = true;
        self
    }

    /// The first report from now on that satisfies `enough`.
    pub(crate) fn until(&mut self, what: &str, limit: Duration, enough: impl FnMut(&Report) -> bool) -> Report {
        self.browser.until(what, limit, enough)
    }

    pub(crate) fn until_playing(&mut self) -> Report {
        self.until("the picture to move", s(30), |report| report.number("frames") > 15.0)
    }

    /// Begins a new measurement. Reports from before it are not met again.
    pub(crate) fn reset(&mut self) {
        self.browser.tell("reset");
        self.until("a new measurement", s(10), |report| report.number("seconds") < 0.5);
    }

    /// What is seen from now on, for so long.
    pub(crate) fn measure(&mut self, seconds: f64) -> Report {
        self.reset();
        let limit = Duration::from_secs_f64(seconds + 15.0);
        self.until("the measurement's end", limit, |report| report.number("seconds") >= seconds)
    }

    /// What is seen once the picture has come to rest, for so long: browsers take seconds to settle after a start or a
    /// change of publishers, and this machine may be busy with something else.
    #[track_caller]
    pub(crate) fn settle(&mut self, seconds: f64) -> Report {
        const WINDOWS_MAX: usize = 4;
        let mut seen = self.measure(seconds);
        for _ in 1..WINDOWS_MAX {
            if seen.is_smooth(self.skips) {
                break;
            }
            seen = self.measure(seconds);
        }
        seen.assert_moves();
        assert!(seen.is_smooth(self.skips), "missing pictures: {:#}", seen.0);
        seen
    }

    /// Waits for lips to fit to within 60 ms: a browser brings sound and picture together over seconds, the more of them
    /// the busier the machine was when it began.
    #[track_caller]
    pub(crate) fn until_lips_fit(&mut self) -> Report {
        until("sound and picture to be within 60 ms", s(25), || {
            let seen = self.measure(3.0);
            let late_ms = seen.number("skew_ms.p50") - PAGE_SOUND_MS;
            println!("sound after picture {late_ms} ms, delay {}", seen.at("delay_ms"));
            seen.assert_sound();
            (late_ms.abs() < 60.0).then_some(seen)
        })
    }

    /// A button of the player, or an order of `publish_page.mjs`.
    pub(crate) fn press(&mut self, button: &str) {
        self.browser.tell(button);
    }

    /// Stops watching as a viewer does who closes the player.
    pub(crate) fn finish(self) -> Report {
        self.browser.finish()
    }
}
