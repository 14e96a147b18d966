//! FFmpeg as a judge: it decodes every frame, and complains about nothing.

use std::{path::Path, process::Command};

use super::{Process, s};

#[track_caller]
pub(crate) fn decodes(file: &Path) {
    judge(&[], &file.display().to_string(), &[], 60);
}

/// What was kept as HLS. A connection is for one segment: FFmpeg complains when it is led from one host to another on it.
#[track_caller]
pub(crate) fn decodes_kept(url: &str) {
    judge(&["-http_persistent", "0"], url, &[], 60);
}

/// A stream that goes on, for so long.
#[track_caller]
pub(crate) fn decodes_live(url: &str, seconds: u32) {
    judge(&[], url, &["-t", &seconds.to_string()], u64::from(seconds) + 30);
}

/// Of the pictures.
pub(crate) fn height(input: &str) -> u32 {
    let mut probe = Command::new("ffprobe");
    probe.args(["-v", "error", "-of", "csv=p=0", "-select_streams", "v", "-show_entries", "stream=height", input]);
    let output = probe.output().expect("ffprobe runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    // A playlist's are listed for its programme as well.
    let first = told.lines().next().map(|line| line.trim().trim_end_matches(',').parse());
    first.unwrap_or_else(|| panic!("ffprobe tells nothing of {input}")).expect("a height")
}

#[track_caller]
fn judge(before: &[&str], input: &str, options: &[&str], limit_s: u64) {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-nostdin", "-loglevel", "error", "-xerror"]).args(before).args(["-i", input]);
    // A browser's pictures come when they come: times that are rounded to a frame rate would be the judge's own mistake.
    command.args(options).args(["-fps_mode", "passthrough", "-enc_time_base", "-1", "-f", "null", "-"]);
    let mut ffmpeg = Process::start(format!("ffmpeg reads {input}"), &mut command);
    let status = ffmpeg.wait(s(limit_s));
    assert!(status.success(), "ffmpeg on {input}: {status} {}", ffmpeg.text());
    assert_eq!(ffmpeg.text(), "", "ffmpeg complains about {input}");
}
