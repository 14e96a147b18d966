//! A Chromium that does what one of the scripts in `tests/clients` says, and tells its figures as it goes.

use std::{process::Command, time::Duration};

use serde_json::Value;

use super::{Process, clients, s};

/// Of the 30 that every publisher sends.
const FPS_MIN: f64 = 25.0;

/// Figures of one moment; the names are those of the scripts.
#[derive(Clone, Debug)]
pub(crate) struct Report(pub(crate) Value);

pub(super) struct Browser {
    process: Process,
    /// Lines before this one were read.
    read: usize,
}

impl Browser {
    pub(super) fn start(script: &str, words: &[&str], options: &[&str]) -> Self {
        let mut command = Command::new("node");
        command.arg(clients(script)).args(words).args(options).arg("--seconds=120");
        Self { process: Process::start(format!("Chromium, {script} {}", words.join(" ")), &mut command), read: 0 }
    }

    /// The first report from now on that satisfies `enough`.
    pub(super) fn until(&mut self, what: &str, limit: Duration, mut enough: impl FnMut(&Report) -> bool) -> Report {
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

    /// What went wrong where it had to.
    pub(super) fn until_failed(&mut self) -> String {
        self.process.line("the failure", s(30), |line| {
            let report = Report(serde_json::from_str(line).ok()?);
            report.0["failed"].as_str().map(str::to_owned)
        })
    }

    pub(super) fn tell(&mut self, order: &str) {
        self.process.tell(order);
    }

    /// As a user does who closes the page properly.
    pub(super) fn finish(mut self) -> Report {
        self.process.tell("stop");
        let report = self.until("the last report", s(20), |report| report.0["last"] == true);
        self.process.wait(s(20));
        report
    }

    pub(super) fn kill(mut self) {
        self.process.kill();
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

    pub(crate) fn at(&self, path: &str) -> &Value {
        path.split('.').fold(&self.0, |value, key| &value[key])
    }

    /// How often a list of texts has this one.
    pub(crate) fn count(&self, path: &str, text: &str) -> usize {
        self.at(path).as_array().map_or(0, |list| list.iter().filter(|one| *one == text).count())
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
    pub(super) fn is_smooth(&self, publisher_skips: bool) -> bool {
        let complete = self.number("missing") <= 0.02 * self.number("published") + 1.0;
        self.number("decoded_fps") >= FPS_MIN
            && (publisher_skips || complete)
            && self.number("dropped") <= 0.25 * self.number("decoded")
    }

    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        assert!(self.number("sound_peak") > 0.03, "no sound: {:#}", self.0);
    }
}
