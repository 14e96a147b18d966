//! Many WebRTC viewers who don't decode: the load generator, as `make test` builds it beside the server.

use std::{net::Ipv4Addr, path::Path, process::Command};

use serde_json::Value;

use super::{Process, s};

pub(crate) struct Crowd {
    process: Process,
    seconds: u64,
}

impl Crowd {
    /// All are measured for so long, once they have joined; each goes elsewhere when its node asks for it.
    pub(crate) fn watch(whep: &str, from: Ipv4Addr, viewers: u32, seconds: u64) -> Self {
        let generator = Path::new(env!("CARGO_BIN_EXE_headwater")).with_file_name("headwater-bench");
        let mut command = Command::new(generator);
        command.args(["whep", "--follow", "--url", whep, "--bind", &from.to_string()]);
        command.args(["--count", &viewers.to_string(), "--seconds", &seconds.to_string(), "--join-rate", "20"]);
        Self { process: Process::start("the load generator", &mut command), seconds }
    }

    pub(crate) fn until_measuring(&mut self) {
        self.process.line("everybody to have joined", s(60), |line| line.starts_with("measuring").then_some(()));
    }

    /// What all saw together.
    pub(crate) fn finish(mut self) -> Value {
        self.process.line("the report", s(self.seconds + 30), |line| {
            line.starts_with('{').then(|| serde_json::from_str(line).expect("a report is JSON"))
        })
    }
}
