//! Real media for tests: the ffmpeg program makes it, libavformat takes it apart, the hall times it.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use ffmpeg_next as ff;
use headwater_common::{
    ladder::Rung,
    live::{Broadcast, BroadcastId, Claim, Hub, Publisher, Start, Takeover, Writer},
    media::{Accepts, Codec, Delivery, Frame, Info, Kind, Sample, Shape, nal},
    telemetry::{Door, Telemetry},
};

use crate::{
    ladders::Ladders,
    transcode::{ConvertError, libav, pace::Pace, video::Video},
};

/// A viewer that takes what every browser takes.
pub(super) const BROWSER: Delivery = Delivery::WebRtc(Accepts::EVERYWHERE);

/// When test broadcasts are born.
pub(super) const BORN_US: i64 = 1_700_000_000_000_000;

#[derive(Clone)]
pub(super) struct Clip {
    pub(super) info: Info,
    pub(super) samples: Vec<Sample>,
}

pub(super) struct TempFile(pub(super) PathBuf);

impl TempFile {
    pub(super) fn new(extension: &str) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("headwater-{}-{}.{extension}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// `arguments` are the ffmpeg program's, without the output file.
pub(super) fn clip(codec: Codec, arguments: &str) -> Clip {
    libav::init();
    let extension = if matches!(codec, Codec::Vp8 | Codec::Vp9) { "webm" } else { "mp4" };
    let file = TempFile::new(extension);
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(arguments.split_whitespace())
        .arg(&file.0)
        .status()
        .expect("the ffmpeg program");
    assert!(status.success(), "ffmpeg {arguments}");
    let mut input = ff::format::input(&file.0).unwrap();
    let (record, width, height) = {
        let parameters = input.streams().next().unwrap().parameters();
        // SAFETY: read only, and the parameters live as long as the block.
        unsafe {
            let raw = parameters.as_ptr();
            let record = match (*raw).extradata_size {
                0 => Bytes::new(),
                size => Bytes::copy_from_slice(std::slice::from_raw_parts((*raw).extradata, size as usize)),
            };
            (record, (*raw).width as u32, (*raw).height as u32)
        }
    };
    // WebM has no record for VP8 and VP9.
    let info = Info::from_config(codec, record.clone()).unwrap_or_else(|error| {
        assert_eq!(codec.kind(), Kind::Video, "{error}");
        Info { codec, config: record, shape: Shape::Video { width, height, reorders: false } }
    });
    let mut samples = Vec::new();
    for (stream, packet) in input.packets() {
        let base = stream.time_base();
        let us = |ticks: i64| {
            (i128::from(ticks) * i128::from(base.numerator()) * 1_000_000 / i128::from(base.denominator())) as i64
        };
        samples.push(Sample {
            dts_us: us(packet.dts().unwrap()),
            pts_us: us(packet.pts().unwrap()),
            keyframe: packet.is_key(),
            payload: Bytes::copy_from_slice(packet.data().unwrap()),
        });
    }
    assert!(!samples.is_empty());
    Clip { info, samples }
}

pub(super) fn id() -> BroadcastId {
    BroadcastId::new("live", "test").unwrap()
}

pub(super) fn claim(hub: &Hub, epoch: u64, now_us: i64) -> Writer {
    claim_as(&id(), hub, epoch, now_us)
}

pub(super) fn claim_as(id: &BroadcastId, hub: &Hub, epoch: u64, now_us: i64) -> Writer {
    let publisher = Publisher { protocol: "test", remote: String::new(), agent: String::new() };
    let born_us = hub.get(id).map_or(now_us, |known| known.born_us());
    let claim = Claim { epoch, next_gop: 0, discontinuity: 0, born_us, segment_target_s: None, publisher };
    hub.claim(id, claim, Takeover::Replace, now_us).unwrap()
}

/// What the hall makes of clips, each published by another publisher, one behind the other.
pub(super) fn frames(clips: &[Clip]) -> Vec<Arc<Frame>> {
    let hub = Hub::new();
    let mut now_us = BORN_US;
    let mut read = Vec::new();
    for (epoch, clip) in clips.iter().enumerate() {
        let mut writer = claim(&hub, epoch as u64 + 1, now_us);
        writer.announce(clip.info.clone()).unwrap();
        let kind = clip.info.kind();
        let mut reader = writer.broadcast().source(kind).unwrap().read(Start::Live);
        let began_us = now_us;
        let first_us = clip.samples[0].dts_us;
        for sample in &clip.samples {
            now_us = began_us + sample.dts_us - first_us;
            writer.write(kind, sample.clone(), now_us).unwrap();
            read.extend(reader.try_next());
        }
        now_us += 33_333;
        writer.finish(now_us);
    }
    assert_eq!(read.len(), clips.iter().map(|clip| clip.samples.len()).sum::<usize>());
    read
}

/// What the hall makes of clips that one publisher sends one behind the other.
pub(super) fn frames_of_one(clips: &[Clip]) -> Vec<Arc<Frame>> {
    let hub = Hub::new();
    let mut writer = claim(&hub, 1, BORN_US);
    let mut read = Vec::new();
    let mut reader = None;
    let mut shift_us = 0;
    for clip in clips {
        writer.announce(clip.info.clone()).unwrap();
        let kind = clip.info.kind();
        let reader = reader.get_or_insert_with(|| writer.broadcast().source(kind).unwrap().read(Start::Live));
        let first_us = clip.samples[0].dts_us;
        for sample in &clip.samples {
            let (dts_us, pts_us) = (sample.dts_us - first_us + shift_us, sample.pts_us - first_us + shift_us);
            writer.write(kind, Sample { dts_us, pts_us, ..sample.clone() }, BORN_US + dts_us).unwrap();
            read.extend(reader.try_next());
        }
        shift_us += clip.samples.len() as i64 * 33_333;
    }
    read
}

pub(super) fn door() -> Door {
    Telemetry::new().door("transcode")
}

/// How many pictures the ffmpeg program decodes, and what it complains about.
pub(super) fn program_decodes<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> (usize, String) {
    let mut program = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "h264", "-i", "-", "-fps_mode", "passthrough", "-f", "framecrc", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the ffmpeg program");
    let mut stdin = program.stdin.take().unwrap();
    let stream: Vec<u8> = frames
        .into_iter()
        .flat_map(|frame| nal::to_annex_b(&frame.payload, frame.keyframe.then_some(&*frame.info)).unwrap())
        .collect();
    let feeder = std::thread::spawn(move || stdin.write_all(&stream));
    let output = program.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    let pictures = String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.starts_with('#')).count();
    (pictures, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// One channel of a track, as a plain decoder gives it, at its rate, and when its first sample is to be heard.
pub(super) struct Heard {
    pub(super) values: Vec<f32>,
    pub(super) rate: u32,
    pub(super) began_us: i64,
}

pub(super) fn listen<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Heard {
    let mut decoder = None;
    let mut heard = Heard { values: Vec::new(), rate: 0, began_us: 0 };
    for frame in frames {
        let decoder = decoder.get_or_insert_with(|| libav::open_decoder(&frame.info).unwrap());
        decoder.send_packet(&ff::Packet::copy(&frame.payload)).unwrap();
        let mut sound = ff::frame::Audio::empty();
        while decoder.receive_frame(&mut sound).is_ok() {
            if heard.rate == 0 {
                (heard.rate, heard.began_us) = (sound.rate(), frame.pts_us);
            }
            assert!(matches!(sound.format(), ff::format::Sample::F32(ff::format::sample::Type::Planar)));
            heard.values.extend_from_slice(sound.plane::<f32>(0));
        }
    }
    heard
}

impl Heard {
    /// When it first gets loud.
    pub(super) fn onset_us(&self) -> i64 {
        let index = self.values.iter().position(|value| value.abs() > 0.05).expect("a sound");
        self.began_us + index as i64 * 1_000_000 / i64::from(self.rate)
    }

    /// By upward zero crossings, within a part that leaves out the beginning and the end.
    pub(super) fn hertz(&self) -> f64 {
        let part = &self.values[self.values.len() / 4..self.values.len() * 3 / 4];
        let crossings: Vec<f64> = (1..part.len())
            .filter(|&at| part[at - 1] < 0.0 && part[at] >= 0.0)
            .map(|at| at as f64 - f64::from(part[at]) / f64::from(part[at] - part[at - 1]))
            .collect();
        let (first, last) = (crossings.first().unwrap(), crossings.last().unwrap());
        (crossings.len() - 1) as f64 * f64::from(self.rate) / (last - first)
    }

    pub(super) fn loudness(&self) -> f32 {
        let part = &self.values[self.values.len() / 4..self.values.len() * 3 / 4];
        (part.iter().map(|value| value * value).sum::<f32>() / part.len() as f32).sqrt()
    }
}

pub(super) fn broadcast(hub: &Hub) -> Arc<Broadcast> {
    hub.get(&id()).unwrap()
}

/// For every broadcast.
pub(super) fn ladder(rungs: &[Rung]) -> Ladders {
    let rungs = rungs.to_vec();
    let lookup = Arc::new(move |_| {
        let rungs = rungs.clone();
        let answer: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move { Some(rungs) });
        answer
    });
    Ladders::new(Default::default(), lookup)
}

/// A source of which one track is made, in its own size.
pub(super) struct One(Video);

impl One {
    pub(super) fn new(door: Door, shown_us: i64) -> Self {
        let mut video = Video::new(door);
        video.add(0, None, shown_us, None);
        Self(video)
    }

    pub(super) fn take(&mut self, frame: &Frame, pace: Pace, out: &mut Vec<Frame>) -> Result<(), ConvertError> {
        let mut made = Vec::new();
        self.0.take(frame, pace, &mut made)?;
        out.extend(made.into_iter().map(|(_, frame)| frame.unwrap()));
        Ok(())
    }

    pub(super) fn want_keyframe(&mut self) {
        self.0.want_keyframe(0);
    }

    pub(super) fn take_damage(&mut self) -> bool {
        self.0.take_damage()
    }
}
