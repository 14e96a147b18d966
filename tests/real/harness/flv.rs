//! A real encoder's output cut into FLV tags, so that a test can send them otherwise than an encoder would.

use std::{process::Command, sync::OnceLock};

pub(crate) const AUDIO: u8 = 8;
pub(crate) const VIDEO: u8 = 9;
pub(crate) const DATA: u8 = 18;

#[derive(Clone)]
pub(crate) struct Tag {
    pub(crate) kind: u8,
    pub(crate) time_ms: u32,
    pub(crate) body: Vec<u8>,
}

impl Tag {
    /// Codec configuration rather than media (video_file_format_spec_v10_1, E.4.2.1 and E.4.3.1).
    pub(crate) fn is_config(&self) -> bool {
        self.kind != DATA && self.body.get(1) == Some(&0)
    }
}

/// Twenty seconds of H.264 (a keyframe each second) and AAC, made once for all tests.
pub(crate) fn clip() -> &'static [Tag] {
    static CLIP: OnceLock<Vec<Tag>> = OnceLock::new();
    CLIP.get_or_init(|| encode("testsrc2=s=320x180:r=30", 20, "400k"))
}

/// Eight seconds of the same kind that take more room than a piece of an upload: three megabytes each.
pub(crate) fn bulky() -> &'static [Tag] {
    static CLIP: OnceLock<Vec<Tag>> = OnceLock::new();
    CLIP.get_or_init(|| encode("testsrc2=s=640x360:r=30,noise=alls=90:allf=t", 8, "24M"))
}

fn encode(picture: &str, seconds: u32, bitrate: &str) -> Vec<Tag> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", picture])
        .args(format!("-f lavfi -i sine=440:r=48000 -t {seconds}").split(' '))
        .args(format!("-c:v libx264 -preset ultrafast -tune zerolatency -g 30 -b:v {bitrate}").split(' '))
        .args("-pix_fmt yuv420p -c:a aac -b:a 96k -flvflags no_duration_filesize -f flv pipe:1".split(' '))
        .output()
        .expect("ffmpeg runs; tests/setup.sh installs it");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    parse(&output.stdout)
}

fn parse(file: &[u8]) -> Vec<Tag> {
    // Nine bytes of file header, then each tag after the four bytes of the size of the one before it.
    let mut rest = &file[9 + 4..];
    let mut tags = Vec::new();
    while let Some((header, after)) = rest.split_at_checked(11) {
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let time_ms = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
        tags.push(Tag { kind: header[0], time_ms, body: after[..length].to_vec() });
        rest = &after[length + 4..];
    }
    tags
}
