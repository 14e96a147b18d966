//! Chromium watching one stream, or publishing one by our page, and what it saw.

use std::{process::Command, time::Duration};

use serde_json::Value;

use super::{Process, Server, clients, s};

/// Of the 30 that every publisher sends.
const FPS_MIN: f64 = 25.0;

/// Figures since the last [`Player::measure`] began; the names are those of `watch.mjs` and `probe.js`, or of `publish.mjs`.
#[derive(Clone, Debug)]
pub(crate) struct Report(pub(crate) Value);

pub(crate) struct Player {
    process: Process,
    /// Lines before this one were read.
    read: usize,
}

impl Player {
    /// Our own page. `query` is what follows `?id=…`.
    pub(crate) fn page(server: &Server, app: &str, id: &str, query: &str) -> Self {
        Self::start("page", &server.url(&format!("/{app}/play.html?id={id}{query}")), &[])
    }

    /// Our own page in a network that lets nothing through but TURN.
    pub(crate) fn page_relay(server: &Server, app: &str, id: &str) -> Self {
        Self::start("page", &server.url(&format!("/{app}/play.html?id={id}&playOrder=webrtc")), &["--relay"])
    }

    pub(crate) fn whep(server: &Server, app: &str, id: &str) -> Self {
        Self::start("whep", &server.url(&format!("/{app}/whep/{id}")), &[])
    }

    /// A network that lets no UDP through.
    pub(crate) fn whep_tcp(server: &Server, app: &str, id: &str) -> Self {
        Self::start("whep", &server.url(&format!("/{app}/whep/{id}")), &["--tcp"])
    }

    /// A network that lets nothing through but the way to the TURN servers that the server tells of.
    pub(crate) fn whep_relay(server: &Server, app: &str, id: &str) -> Self {
        let relay = format!("--relay={}", server.url(&format!("/{app}/turn-credentials")));
        Self::start("whep", &server.url(&format!("/{app}/whep/{id}")), &[&relay])
    }

    pub(crate) fn hls(server: &Server, app: &str, id: &str) -> Self {
        Self::start("hls", &server.url(&format!("/{app}/streams/{id}.m3u8")), &[])
    }

    pub(crate) fn hls_classic(server: &Server, app: &str, id: &str) -> Self {
        Self::start("hls", &server.url(&format!("/{app}/streams/{id}.m3u8")), &["--classic"])
    }

    /// Our publish page, with a fake camera unless the options of `publish.mjs` say otherwise.
    pub(crate) fn publish_page(address: &str, options: &[&str]) -> Self {
        Self::run("publish.mjs", &[&[address], options].concat())
    }

    fn start(mode: &str, address: &str, options: &[&str]) -> Self {
        Self::run("watch.mjs", &[&[mode, address], options].concat())
    }

    fn run(script: &str, words: &[&str]) -> Self {
        let mut command = Command::new("node");
        command.arg(clients(script)).args(words).arg("--seconds=120");
        Self { process: Process::start(format!("Chromium, {script} {}", words.join(" ")), &mut command), read: 0 }
    }

    /// The first report from now on that satisfies `enough`.
    pub(crate) fn until(&mut self, what: &str, limit: Duration, mut enough: impl FnMut(&Report) -> bool) -> Report {
        let mut latest = None;
        let mut read = self.read;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            self.process.line_after(self.read, what, limit, |line| {
                read += 1;
                let report = Report(serde_json::from_str(line).ok()?);
                assert!(report.0["failed"].is_null(), "the browser failed before {what}: {}", report.0["failed"]);
                let good = enough(&report);
                latest = Some(report.clone());
                good.then_some(report)
            })
        }));
        self.read = read;
        found.unwrap_or_else(|cause| {
            if let Some(report) = latest {
                eprintln!("---- the last report before {what} failed:\n{:#}", report.0);
            }
            std::panic::resume_unwind(cause)
        })
    }

    pub(crate) fn until_playing(&mut self) -> Report {
        self.until("the picture to move", s(30), |report| report.number("frames") > 15.0)
    }

    /// What is seen from now on, for so long.
    pub(crate) fn measure(&mut self, seconds: f64) -> Report {
        self.process.tell("reset");
        // Wait for the reset itself first: an older report may already be as long.
        self.until("a new measurement", s(10), |report| report.number("seconds") < 0.5);
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
            if seen.is_smooth() {
                break;
            }
            seen = self.measure(seconds);
        }
        seen.assert_moves();
        assert!(seen.is_smooth(), "missing pictures: {:#}", seen.0);
        seen
    }

    /// A button of the player, or an order of `publish.mjs`.
    pub(crate) fn press(&mut self, button: &str) {
        self.process.tell(button);
    }

    /// Stops watching as a viewer does who closes the player.
    pub(crate) fn finish(mut self) -> Report {
        self.process.tell("stop");
        let report = self.until("the last report", s(20), |report| report.0["last"] == true);
        self.process.wait(s(20));
        report
    }
}

impl Report {
    /// A number by its path, as in "delay_ms.p50"; NaN where there is none, which no comparison likes.
    pub(crate) fn number(&self, path: &str) -> f64 {
        self.at(path).as_f64().unwrap_or(f64::NAN)
    }

    pub(crate) fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or_default()
    }

    /// How often a list of texts has this one.
    pub(crate) fn count(&self, path: &str, text: &str) -> usize {
        self.at(path).as_array().map_or(0, |list| list.iter().filter(|one| *one == text).count())
    }

    pub(crate) fn at(&self, path: &str) -> &Value {
        path.split('.').fold(&self.0, |value, key| &value[key])
    }

    /// The picture moves at the publisher's rate, in order and undamaged.
    #[track_caller]
    pub(crate) fn assert_moves(&self) {
        assert!(self.number("decoded_fps") >= FPS_MIN, "frames per second: {:#}", self.0);
        assert!(self.number("backwards") == 0.0, "pictures out of order: {:#}", self.0);
        assert!(self.number("unreadable") <= 0.02 * self.number("frames") + 1.0, "damaged pictures: {:#}", self.0);
    }

    /// At the publisher's rate, and nearly every frame that was published arrives. What arrived and was not shown is
    /// mostly the browser's own affair: where other work fills the processors it skips one in ten.
    fn is_smooth(&self) -> bool {
        self.number("decoded_fps") >= FPS_MIN
            && self.number("missing") <= 0.02 * self.number("published") + 1.0
            && self.number("dropped") <= 0.25 * self.number("decoded")
    }

    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        assert!(self.number("sound_peak") > 0.03, "no sound: {:#}", self.0);
    }
}
