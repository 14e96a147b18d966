//! Real encoders: FFmpeg with a clock in the picture, OBS Studio, GStreamer. By RTMP, and by WHIP where it is said.

use std::{
    io::Write,
    path::PathBuf,
    process::Command,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Process, clients,
    picture::{HEIGHT, Picture, WIDTH},
    s, scratch,
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
        command.args(self.encoder(&["-c:a", "aac"])).args(["-f", "flv", url]);
        self.start(format!("ffmpeg to {url}"), command)
    }

    /// The same pictures to several servers.
    pub(crate) fn publish_to_all(self, urls: &[String]) -> Publisher {
        let mut command = Command::new("ffmpeg");
        let outputs: Vec<_> = urls.iter().map(|url| format!("[f=flv:onfail=ignore]{url}")).collect();
        command.args(self.encoder(&["-c:a", "aac", "-flags:v", "+global_header", "-flags:a", "+global_header"]));
        command.args(["-f", "tee", &outputs.join("|")]);
        self.start(format!("ffmpeg to {}", urls.join(" and ")), command)
    }

    /// By FFmpeg's own WHIP muxer.
    pub(crate) fn publish_whip(self, url: &str) -> Publisher {
        let mut command = Command::new(clients("venv/bin/python"));
        command.arg(clients("whip_ffmpeg.py")).args([url, "ffmpeg"]);
        command.args(self.encoder(&["-profile:v", "baseline", "-c:a", "libopus"])).args(["-f", "nut", "pipe:1"]);
        self.start(format!("FFmpeg by WHIP to {url}"), command)
    }

    fn encoder(&self, codecs: &[&str]) -> Vec<String> {
        let (size, gop) = (format!("{WIDTH}x{HEIGHT}"), self.gop_frames.to_string());
        let (fps, b_frames, seconds) = (FPS.to_string(), self.b_frames.to_string(), self.seconds.to_string());
        let mut args = vec!["-hide_banner", "-loglevel", "warning"];
        if self.video {
            args.extend(["-f", "rawvideo", "-pixel_format", "yuv420p", "-video_size", &size]);
            args.extend(["-framerate", &fps, "-probesize", "32", "-analyzeduration", "0", "-i", "pipe:0"]);
        } else {
            args.extend(["-nostdin", "-re"]);
        }
        if self.audio {
            // A quiet tone, and a beep at each whole second.
            let sound = "aevalsrc=exprs='0.05*sin(2*PI*440*t)+0.5*lt(mod(t,1),0.08)*sin(2*PI*1000*t)':s=48000";
            args.extend(["-f", "lavfi", "-i", sound]);
        }
        if self.video {
            args.extend([
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
            args.extend(["-bufsize", "1200k", "-g", &gop, "-keyint_min", &gop, "-sc_threshold", "0", "-bf", &b_frames]);
            if self.b_frames == 0 {
                args.extend(["-tune", "zerolatency"]);
            }
        }
        if self.audio {
            args.extend(["-map", if self.video { "1:a" } else { "0:a" }, "-ac", "2", "-b:a", "96k"]);
        }
        args.extend(codecs);
        args.extend(["-t", &seconds, "-flush_packets", "1"]);
        args.into_iter().map(str::to_owned).collect()
    }

    fn start(self, name: String, mut command: Command) -> Publisher {
        let mut process = Process::start(name, &mut command);
        let painter = self.video.then(|| {
            let mut input = process.take_input();
            thread::spawn(move || paint(self.id, self.seconds, &mut input))
        });
        Publisher { process, painter, stop: Stop::Interrupt }
    }
}

/// A certificate for encoders and its key, on the curve that browsers and OBS use.
fn p256_certificate() -> [PathBuf; 2] {
    let folder = scratch("encoder");
    let files = ["certificate.pem", "key.pem"].map(|file| folder.join(file));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    command.args(["-subj", "/CN=encoder", "-out"]).arg(&files[0]).arg("-keyout").arg(&files[1]);
    let output = command.output().expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    files
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

    /// By WHIP, with candidates that follow the offer one by one and the RSA certificate that it makes for itself.
    pub(crate) fn gstreamer_whip(url: &str) -> Self {
        Self::gstreamer_whip_with(url, "h264", &[])
    }

    pub(crate) fn gstreamer_whip_vp8_p256(url: &str) -> Self {
        Self::gstreamer_whip_with(url, "vp8", &p256_certificate())
    }

    fn gstreamer_whip_with(url: &str, codec: &str, certificate: &[PathBuf]) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(clients("whip_gstreamer.py")).args([url, codec]).args(certificate);
        let process = Process::start(format!("GStreamer by WHIP to {url}"), &mut command);
        Self { process, painter: None, stop: Stop::Interrupt }
    }

    /// As the user's stop button does it: the stream is deleted, the connection closed. What it said.
    pub(crate) fn stop(mut self) -> String {
        match self.stop {
            Stop::Interrupt => self.process.interrupt(),
            Stop::Line => self.process.tell("stop"),
        }
        self.process.wait(s(30));
        self.process.text()
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
