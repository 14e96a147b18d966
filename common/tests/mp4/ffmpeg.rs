//! Real media for the tests, and the judgement of a real player. In: encoder arguments, finished files. Out: access
//! units with their records, frame counts, complaints. Deliberately absent: anything Headwater writes.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use headwater_common::fmp4::read::{Part, Parts};
use headwater_common::media::{Codec, Sample};
use mp4_atom::{Atom, Codec as Entry, Moov};

/// A directory that goes away with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("headwater-mp4-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One track as an encoder made it.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) codec: Codec,
    pub(crate) record: Bytes,
    pub(crate) samples: Vec<Sample>,
}

pub(crate) fn has_encoder(name: &str) -> bool {
    let listed = Command::new("ffmpeg").args(["-hide_banner", "-encoders"]).output();
    listed.is_ok_and(|listed| String::from_utf8_lossy(&listed.stdout).contains(&format!(" {name} ")))
}

/// Encodes a test picture and a tone with these arguments, and takes the result apart.
pub(crate) fn encode(scratch: &Scratch, video: Option<(&str, &str)>, audio: Option<&str>, seconds: u32) -> Vec<Source> {
    let path = scratch.path("source.mp4");
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-y", "-threads", "2"]);
    if let Some((size, _)) = video {
        command.args(["-f", "lavfi", "-i", &format!("testsrc2=s={size}:r=30:d={seconds}")]);
    }
    if audio.is_some() {
        command.args(["-f", "lavfi", "-i", &format!("sine=f=440:r=48000:d={seconds}")]);
    }
    if let Some((_, encoder)) = video {
        command.args(encoder.split(' '));
    }
    if let Some(encoder) = audio {
        command.args(encoder.split(' '));
    }
    command.args(["-movflags", "+frag_keyframe+empty_moov+default_base_moof", "-strict", "-2"]).arg(&path);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    take_apart(&fs::read(&path).unwrap())
}

/// Any file's video as a raw stream with delimiters, split into access units at them.
pub(crate) fn annex_b(path: &Path, format: &str, filter: &str) -> Vec<Bytes> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args(["-map", "0:v", "-c", "copy", "-bsf:v", filter, "-f", format, "-"])
        .output()
        .unwrap();
    let stream = Bytes::from(output.stdout);
    let delimiter: &[u8] = if format == "h264" { &[0, 0, 0, 1, 9] } else { &[0, 0, 0, 1, 0x46, 1] };
    let mut starts: Vec<_> =
        (0..stream.len()).filter(|&at| stream[at..].starts_with(delimiter)).chain([stream.len()]).collect();
    starts.dedup();
    starts.windows(2).map(|pair| stream.slice(pair[0]..pair[1])).collect()
}

/// What a full decode complains about.
pub(crate) fn complaints(path: &Path) -> String {
    let decode =
        Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(path).args(["-f", "null", "-"]).output().unwrap();
    String::from_utf8_lossy(&decode.stderr).into_owned()
}

/// The complaints, and how many pictures or frames of sound each track yields.
pub(crate) fn judge(path: &Path) -> (String, Vec<(String, u64)>) {
    let counted = probe(path, &["-count_frames", "-show_entries", "stream=codec_name,nb_read_frames"]);
    let counts = (counted.lines().filter(|line| !line.is_empty()))
        .map(|line| {
            let (name, count) = line.split_once(',').unwrap();
            (name.to_owned(), count.trim_end_matches(',').parse().unwrap_or(0))
        })
        .collect();
    (complaints(path), counts)
}

pub(crate) fn probe(path: &Path, arguments: &[&str]) -> String {
    let output =
        Command::new("ffprobe").args(["-v", "error", "-of", "csv=p=0"]).args(arguments).arg(path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn take_apart(file: &[u8]) -> Vec<Source> {
    let mut parts = Parts::new(Cursor::new(file)).unwrap();
    let mut sources: Vec<(u32, i64, Source)> = Vec::new();
    while let Some(part) = parts.next().unwrap() {
        match part {
            Part::Init(moov) => sources = tracks(&moov),
            Part::Fragment(fragment) => {
                for run in fragment.runs {
                    let (_, timescale, source) = sources.iter_mut().find(|(id, ..)| *id == run.track).unwrap();
                    let us = |ticks: i64| (ticks * 1_000_000 + *timescale / 2).div_euclid(*timescale);
                    source.samples.extend(run.samples.iter().map(|sample| Sample {
                        dts_us: us(sample.dts),
                        pts_us: us(sample.dts + i64::from(sample.offset)),
                        keyframe: sample.sync,
                        payload: Bytes::copy_from_slice(&file[sample.position as usize..][..sample.size as usize]),
                    }));
                }
            }
        }
    }
    sources.into_iter().map(|(_, _, source)| source).collect()
}

fn tracks(moov: &Moov) -> Vec<(u32, i64, Source)> {
    let body = |atom: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        atom(&mut bytes);
        Bytes::from(bytes)
    };
    moov.trak
        .iter()
        .map(|trak| {
            let (codec, record) = match &trak.mdia.minf.stbl.stsd.codecs[0] {
                Entry::Avc1(entry) => (Codec::H264, body(&|bytes| entry.avcc.encode_body(bytes).unwrap())),
                Entry::Hvc1(entry) => (Codec::H265, body(&|bytes| entry.hvcc.encode_body(bytes).unwrap())),
                Entry::Av01(entry) => (Codec::Av1, body(&|bytes| entry.av1c.encode_body(bytes).unwrap())),
                Entry::Vp09(entry) => (Codec::Vp9, body(&|bytes| entry.vpcc.encode_body(bytes).unwrap())),
                Entry::Opus(entry) => (Codec::Opus, body(&|bytes| entry.dops.encode_body(bytes).unwrap())),
                Entry::Mp4a(entry) => {
                    let specific = entry.esds.es_desc.dec_config.dec_specific.as_ref().unwrap();
                    (Codec::Aac, Bytes::copy_from_slice(&specific.raw))
                }
                other => panic!("{other:?}"),
            };
            let source = Source { codec, record, samples: Vec::new() };
            (trak.tkhd.track_id, i64::from(trak.mdia.mdhd.timescale), source)
        })
        .collect()
}
