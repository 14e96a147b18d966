//! Real encoders that publish by RTMP: FFmpeg with a clock in the picture, OBS Studio, GStreamer.

use std::{
    io::Write,
    process::Command,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Process, clients,
    picture::{HEIGHT, Picture, WIDTH},
    s,
};

const FPS: u64 = 30;

/// An encoder at work. Dropping it is a crash; [`Publisher::stop`] is a proper end.
pub(crate) struct Publisher {
    process: Process,
    painter: Option<JoinHandle<()>>,
    stop: Stop,
}

/// How an encoder is asked to end its stream.
enum Stop {
    /// FFmpeg and GStreamer at a terminal: Ctrl-C.
    Interrupt,
    /// The script's stdin.
    Line,
}

/// How FFmpeg publishes the clock.
pub(crate) struct Clock {
    /// Tells publishers apart in what a viewer sees.
    pub(crate) id: u8,
    pub(crate) video: bool,
    pub(crate) audio: bool,
    pub(crate) gop_frames: u32,
    pub(crate) b_frames: u32,
    /// A proper end after so many seconds; also the limit for a test that forgets.
    pub(crate) seconds: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { id: 1, video: true, audio: true, gop_frames: 30, b_frames: 0, seconds: 90 }
    }
}

impl Clock {
    /// Starts FFmpeg; the first frame is sent at a whole second, where the beep is.
    pub(crate) fn publish(self, url: &str) -> Publisher {
        let mut command = Command::new("ffmpeg");
        command.args(["-hide_banner", "-loglevel", "warning"]);
        if self.video {
            let size = format!("{WIDTH}x{HEIGHT}");
            command.args(["-f", "rawvideo", "-pixel_format", "yuv420p", "-video_size", &size]);
            command.args(["-framerate", &FPS.to_string(), "-probesize", "32", "-analyzeduration", "0", "-i", "pipe:0"]);
        } else {
            command.args(["-nostdin", "-re"]);
        }
        if self.audio {
            // A quiet tone, and a beep at each whole second.
            let sound = "aevalsrc=exprs='0.05*sin(2*PI*440*t)+0.5*lt(mod(t,1),0.08)*sin(2*PI*1000*t)':s=48000";
            command.args(["-f", "lavfi", "-i", sound]);
        }
        if self.video {
            let gop = self.gop_frames.to_string();
            let b_frames = self.b_frames.to_string();
            command.args([
                "-map",
                "0:v",
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
                "-b:v",
                "1200k",
                "-maxrate",
                "1200k",
            ]);
            command.args([
                "-bufsize",
                "1200k",
                "-g",
                &gop,
                "-keyint_min",
                &gop,
                "-sc_threshold",
                "0",
                "-bf",
                &b_frames,
            ]);
            if self.b_frames == 0 {
                command.args(["-tune", "zerolatency"]);
            }
        }
        if self.audio {
            command.args(["-map", if self.video { "1:a" } else { "0:a" }, "-c:a", "aac", "-ac", "2", "-b:a", "96k"]);
        }
        command.args(["-t", &self.seconds.to_string(), "-flush_packets", "1", "-f", "flv", url]);
        let mut process = Process::start(format!("ffmpeg to {url}"), &mut command);
        let painter = self.video.then(|| {
            let mut input = process.take_input();
            thread::spawn(move || paint(self.id, self.seconds, &mut input))
        });
        Publisher { process, painter, stop: Stop::Interrupt }
    }
}

/// Writes frames in real time until they are no longer wanted.
fn paint(id: u8, seconds: u64, output: &mut impl Write) {
    let mut picture = Picture::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let first_ms = (now.as_millis() as u64 / 1000 + 1) * 1000;
    let begun = Instant::now() + Duration::from_millis(first_ms) - now;
    for number in 0..seconds * FPS {
        let offset_ms = number * 1000 / FPS;
        let due = begun + Duration::from_millis(offset_ms);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if output.write_all(picture.draw(first_ms + offset_ms, id, number as u32)).is_err() {
            return;
        }
    }
}

impl Publisher {
    /// A real OBS Studio; `mode` is "defaults" or "low-latency".
    pub(crate) fn obs(mode: &str, app_url: &str, key: &str, seconds: u64) -> Self {
        let mut command = Command::new(clients("obs.sh"));
        command.args([mode, app_url, key, &seconds.to_string()]);
        let mut process = Process::start("OBS", &mut command);
        process.line("OBS to publish", s(60), |line| line.contains("\"publishing\":true").then_some(()));
        Self { process, painter: None, stop: Stop::Line }
    }

    pub(crate) fn gstreamer(url: &str) -> Self {
        let pipeline = format!(
            "videotestsrc is-live=true num-buffers=1800 ! video/x-raw,width=640,height=360,framerate=30/1 \
             ! x264enc tune=zerolatency speed-preset=ultrafast bitrate=800 key-int-max=30 ! video/x-h264,profile=baseline \
             ! h264parse ! flvmux name=mux streamable=true ! rtmp2sink location={url} \
             audiotestsrc is-live=true samplesperbuffer=1024 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! mux."
        );
        let mut command = Command::new("gst-launch-1.0");
        command.arg("-q").args(pipeline.split_whitespace());
        let process = Process::start("gst-launch-1.0", &mut command);
        Self { process, painter: None, stop: Stop::Interrupt }
    }

    /// As the user's stop button does it: the stream is deleted, the connection closed.
    pub(crate) fn stop(mut self) {
        match self.stop {
            Stop::Interrupt => self.process.interrupt(),
            Stop::Line => self.process.tell("stop"),
        }
        self.process.wait(s(30));
    }

    /// The network or the machine is gone.
    pub(crate) fn kill(mut self) {
        self.process.kill();
    }

    /// The connection stays, nothing comes.
    pub(crate) fn freeze(&self) {
        self.process.signal("STOP");
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.process.runs()
    }

    /// Until it ended, whatever ended it.
    pub(crate) fn wait(&mut self, limit: Duration) -> std::process::ExitStatus {
        self.process.wait(limit)
    }

    pub(crate) fn text(&self) -> String {
        self.process.text()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.process.signal("KILL");
        // The painter's pipe is broken now.
        if let Some(painter) = self.painter.take() {
            let _ = painter.join();
        }
    }
}
