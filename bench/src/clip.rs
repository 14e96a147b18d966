//! What publishers send: an FLV file made by ffmpeg, read into memory once, with room for a stamp in every picture.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::stamp;

#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Variant {
    /// Encode with B-frames, as encoders do by default
    #[arg(long)]
    pub(crate) b_frames: bool,
}

/// A whole number of gops (2 s), of pictures and of AAC frames (48 kHz), so that the clip loops without a seam.
const LENGTH_S: u32 = 16;

pub(crate) fn make(out: &Path, variant: Variant) -> Result<()> {
    let b_frames = if variant.b_frames { "2" } else { "0" };
    let video = "testsrc2=size=1280x720:rate=30,noise=alls=4:allf=t";
    let audio = "anoisesrc=r=48000:amplitude=0.1:seed=1";
    let status = Command::new("ffmpeg")
        .args(["-y", "-loglevel", "error", "-f", "lavfi", "-i", video, "-f", "lavfi", "-i", audio])
        .args(["-t", &LENGTH_S.to_string(), "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast"])
        .args(["-profile:v", "main", "-bf", b_frames, "-g", "60", "-keyint_min", "60", "-sc_threshold", "0"])
        .args(["-b:v", "1080k", "-maxrate", "1080k", "-bufsize", "1080k"])
        .args(["-c:a", "aac", "-b:a", "96k", "-ar", "48000", "-ac", "2", "-f", "flv"])
        .arg(out)
        .stdin(Stdio::null())
        .status()
        .context("starting ffmpeg")?;
    ensure!(status.success(), "ffmpeg could not make {}", out.display());
    Ok(())
}

/// `file`, or else the standard clip.
pub(crate) fn path(file: Option<&Path>, variant: Variant) -> Result<PathBuf> {
    file.map_or_else(|| standard(variant), |file| Ok(file.to_owned()))
}

/// The standard clip, made when it is not there yet.
fn standard(variant: Variant) -> Result<PathBuf> {
    let name = if variant.b_frames { "headwater-bench-b-frames.flv" } else { "headwater-bench.flv" };
    let path = std::env::temp_dir().join(name);
    if !path.exists() {
        // Another generator may be making the same one.
        let unfinished = path.with_extension(format!("{}.flv", std::process::id()));
        make(&unfinished, variant)?;
        std::fs::rename(&unfinished, &path)?;
    }
    Ok(path)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Audio,
    Video,
}

#[derive(Clone, Debug)]
pub(crate) struct Tag {
    pub(crate) kind: Kind,
    pub(crate) time_ms: u32,
    pub(crate) body: Vec<u8>,
    /// Where the send time belongs in a picture's body.
    pub(crate) stamp_at: Option<usize>,
}

#[derive(Debug)]
pub(crate) struct Clip {
    /// Sequence headers: sent once, before everything else.
    pub(crate) headers: Vec<Tag>,
    pub(crate) tags: Vec<Tag>,
    pub(crate) length_ms: u32,
}

impl Clip {
    /// Loads `file`, or else the standard clip; every `stamp_every`th picture gets room for a stamp.
    pub(crate) fn load(file: Option<&Path>, variant: Variant, stamp_every: usize) -> Result<Self> {
        let path = path(file, variant)?;
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&bytes, stamp_every).with_context(|| format!("{} is no clip to publish", path.display()))
    }

    fn parse(bytes: &[u8], stamp_every: usize) -> Result<Self> {
        let (mut headers, mut tags) = (Vec::new(), Vec::new());
        let mut pictures = 0;
        for mut tag in flv_tags(bytes)? {
            let sequence_header = tag.body.get(1) == Some(&0);
            match tag.kind {
                Kind::Audio => ensure!(tag.body.first().is_some_and(|b| b >> 4 == 10), "audio is not AAC"),
                Kind::Video => ensure!(tag.body.first().is_some_and(|b| b & 15 == 7), "video is not H.264"),
            }
            if sequence_header {
                ensure!(tag.kind == Kind::Audio || tag.body.get(9).is_some_and(|b| b & 3 == 3), "no 4-byte lengths");
                tag.time_ms = 0;
                headers.push(tag);
                continue;
            }
            if tag.kind == Kind::Video && tag.body.get(1) == Some(&1) {
                if pictures % stamp_every.max(1) == 0 {
                    tag.make_room_for_stamp()?;
                }
                pictures += 1;
            }
            tags.push(tag);
        }
        tags.sort_by_key(|tag| tag.time_ms);
        let video = tags.iter().filter(|tag| tag.kind == Kind::Video);
        let (first, last, count) = video.fold((u32::MAX, 0, 0), |(first, last, count), tag| {
            (first.min(tag.time_ms), last.max(tag.time_ms), count + 1)
        });
        ensure!(count >= 2, "fewer than two pictures");
        let length_ms = (f64::from(last - first) * f64::from(count) / f64::from(count - 1)).round() as u32;
        Ok(Self { headers, tags, length_ms })
    }
}

impl Tag {
    fn make_room_for_stamp(&mut self) -> Result<()> {
        // Behind an access unit delimiter if there is one: nothing may precede that (7.4.1.2.3).
        let mut at = 5;
        let length = self.body.get(at..at + 4).context("a picture without data")?;
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if self.body.get(at + 4).is_some_and(|header| header & 31 == 9) {
            at += 4 + length;
        }
        let (nal, digits) = stamp::nal();
        self.stamp_at = Some(at + 4 + digits);
        self.body.splice(at..at, (nal.len() as u32).to_be_bytes().into_iter().chain(nal));
        Ok(())
    }

    /// The body as it goes out now.
    pub(crate) fn stamped(&self) -> Vec<u8> {
        let mut body = self.body.clone();
        if let Some(at) = self.stamp_at {
            stamp::write(&mut body[at..], stamp::now_us());
        }
        body
    }
}

/// Audio and video tags of an FLV file (Video File Format Specification 10, annex E).
fn flv_tags(bytes: &[u8]) -> Result<Vec<Tag>> {
    ensure!(bytes.starts_with(b"FLV"), "not FLV");
    let mut rest = bytes.get(13..).context("cut short")?;
    let mut tags = Vec::new();
    while let Some((header, behind)) = rest.split_first_chunk::<11>() {
        let size = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let time_ms = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
        let Some(body) = behind.get(..size) else { bail!("a tag is cut short") };
        let kind = match header[0] {
            8 => Some(Kind::Audio),
            9 => Some(Kind::Video),
            _ => None,
        };
        tags.extend(kind.map(|kind| Tag { kind, time_ms, body: body.to_vec(), stamp_at: None }));
        rest = behind.get(size + 4..).unwrap_or_default();
    }
    Ok(tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flv(tags: &[(u8, u32, &[u8])]) -> Vec<u8> {
        let mut flv = b"FLV\x01\x05\0\0\0\x09\0\0\0\0".to_vec();
        for (kind, time_ms, body) in tags {
            let time = time_ms.to_be_bytes();
            flv.push(*kind);
            flv.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
            flv.extend_from_slice(&[time[1], time[2], time[3], time[0], 0, 0, 0]);
            flv.extend_from_slice(body);
            flv.extend_from_slice(&(body.len() as u32 + 11).to_be_bytes());
        }
        flv
    }

    #[test]
    fn a_clip_knows_its_length_and_where_the_stamps_go() {
        let avc_header = [0x17, 0, 0, 0, 0, 1, 77, 0, 31, 0xff];
        let picture = [0x27, 1, 0, 0, 0, 0, 0, 0, 1, 0x41];
        let delimited = [0x17, 1, 0, 0, 0, 0, 0, 0, 2, 0x09, 0xf0, 0, 0, 0, 1, 0x65];
        let flv = flv(&[(9, 0, &avc_header), (9, 0, &delimited), (8, 10, &[0xaf, 1, 7]), (9, 40, &picture)]);
        let clip = Clip::parse(&flv, 1).unwrap();
        assert_eq!((clip.headers.len(), clip.tags.len(), clip.length_ms), (1, 3, 80));
        let sent = clip.tags[0].stamped();
        assert_eq!(&sent[5..11], &delimited[5..11], "the delimiter stays in front");
        assert!(stamp::read(&sent).is_some_and(|time_us| stamp::now_us() - time_us < 10_000_000));
        assert!(clip.tags[1].stamp_at.is_none() && clip.tags[2].stamp_at.is_some());
    }

    #[test]
    fn what_is_no_clip_is_refused() {
        assert!(Clip::parse(b"RIFF", 1).is_err());
        assert!(Clip::parse(&flv(&[(9, 0, &[0x22, 1, 0, 0, 0])]), 1).is_err(), "not H.264");
    }
}
