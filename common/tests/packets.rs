//! What leaves for WebRTC viewers, put together again by GStreamer, whose depacketisers share nothing with ours.

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
};

use bytes::Bytes;
use headwater_common::media::{Codec, Frame, Gop, Info, RtpCache, Shape, nal};

const FRAME_TICKS: u32 = 3_000;

fn frames(codec: Codec, config: &[u8], payloads: impl IntoIterator<Item = Vec<u8>>) -> Vec<Frame> {
    let shape = Shape::Video { width: 640, height: 480, reorders: false };
    let info = Arc::new(Info { codec, config: Bytes::copy_from_slice(config), shape });
    let gop = Gop { id: 1, epoch: 1, independent: true, has_video: true, ..Gop::default() };
    let gop = Arc::new(gop);
    let frame = |(at, payload): (usize, Vec<u8>)| {
        let dts_us = at as i64 * 33_333;
        let (gop, info, payload) = (gop.clone(), info.clone(), payload.into());
        Frame { gop, dts_us, pts_us: dts_us, keyframe: at == 0, payload, info, rtp: RtpCache::default() }
    };
    payloads.into_iter().enumerate().map(frame).collect()
}

/// A keyframe and others of many sizes: what does not fit, what just fits, what is small.
fn sizes() -> impl Iterator<Item = usize> {
    [20_000, 40, 1_140, 1_145, 1_147, 1_148, 1_149, 1_150, 2_294, 2_296, 5_000, 13].into_iter()
}

/// No zeros: nothing in it looks like a start code.
fn noise(head: &[u8], bytes: usize) -> Vec<u8> {
    head.iter().copied().chain((0..bytes).map(|i| (i * 131 % 251) as u8 | 1)).collect()
}

/// As a stream of RTP packets, each behind its length (RFC 4571).
fn stream(frames: &[Frame]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut seq = 0u16;
    for (at, frame) in frames.iter().enumerate() {
        for packet in frame.rtp() {
            stream.extend_from_slice(&(12 + packet.payload.len() as u16).to_be_bytes());
            stream.extend_from_slice(&[0x80, 96 | u8::from(packet.marker) << 7]);
            stream.extend_from_slice(&seq.to_be_bytes());
            stream.extend_from_slice(&(at as u32 * FRAME_TICKS).to_be_bytes());
            stream.extend_from_slice(b"ssrc");
            stream.extend_from_slice(&packet.payload);
            seq = seq.wrapping_add(1);
        }
    }
    stream
}

fn gstreamer(encoding: &str, depacketiser: &str, frames: &[Frame]) -> Vec<u8> {
    let caps = format!("application/x-rtp-stream,media=video,clock-rate=90000,payload=96,encoding-name={encoding}");
    let elements = format!("fdsrc fd=0 ! {caps} ! rtpstreamdepay ! {depacketiser} ! fdsink fd=1");
    let mut program = Command::new("gst-launch-1.0")
        .arg("-q")
        .args(elements.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("GStreamer");
    let mut stdin = program.stdin.take().expect("a pipe");
    let stream = stream(frames);
    let feeder = std::thread::spawn(move || stdin.write_all(&stream));
    let output = program.wait_with_output().expect("an end");
    feeder.join().expect("no panic").expect("GStreamer reads all of it");
    assert!(output.status.success(), "{encoding}: {}", output.status);
    output.stdout
}

fn same(encoding: &str, found: &[u8], expected: &[u8]) {
    let differ = found.iter().zip(expected).position(|(found, expected)| found != expected);
    let (got, wanted) = (found.len(), expected.len());
    assert!(found == expected, "{encoding}: {got} bytes of {wanted}, the first that differs is {differ:?}");
}

#[test]
fn vp8_and_vp9_come_back_byte_by_byte() {
    const VP8: [&[u8]; 2] = [&[0x10, 2, 0, 0x9d, 1, 0x2a, 0x80, 2, 0xe0, 1], &[0x11, 2, 0]];
    const VP9: [&[u8]; 2] = [&[0x82, 0x49, 0x83, 0x42, 0x20, 0x27, 0xf0, 0x1d, 0xf0], &[0x86, 0, 0x40]];
    for (codec, encoding, heads) in [(Codec::Vp8, "VP8", VP8), (Codec::Vp9, "VP9", VP9)] {
        let payloads = sizes().enumerate().map(|(at, bytes)| noise(heads[usize::from(at > 0)], bytes));
        let frames = frames(codec, &[], payloads);
        let expected: Vec<u8> = frames.iter().flat_map(|frame| frame.payload.to_vec()).collect();
        let depacketiser = format!("rtp{}depay", encoding.to_lowercase());
        same(encoding, &gstreamer(encoding, &depacketiser, &frames), &expected);
    }
}

/// 322x242, main profile, as x265 writes it.
const HVCC: &[u8] = &[
    0x01, 0x01, 0x60, 0x00, 0x00, 0x00, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00, 0x3c, 0xf0, 0x00, 0xfc, 0xfd, 0xf8, 0xf8,
    0x00, 0x00, 0x0f, 0x03, 0xa0, 0x00, 0x01, 0x00, 0x18, 0x40, 0x01, 0x0c, 0x01, 0xff, 0xff, 0x01, 0x60, 0x00, 0x00,
    0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x3c, 0x95, 0x94, 0x09, 0xa1, 0x00, 0x01, 0x00, 0x2b,
    0x42, 0x01, 0x01, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x3c, 0xa0,
    0x0a, 0x88, 0x04, 0x07, 0x11, 0x11, 0x96, 0x56, 0x54, 0xa4, 0xc2, 0xf0, 0x16, 0x80, 0x80, 0x00, 0x00, 0x03, 0x00,
    0x80, 0x00, 0x00, 0x0f, 0x04, 0xa2, 0x00, 0x01, 0x00, 0x06, 0x44, 0x01, 0xc0, 0x73, 0xc1, 0x89,
];

/// 320x240, constrained baseline.
const AVCC: &[u8] = &[
    1, 0x42, 0xc0, 0x0d, 0xff, 0xe1, 0, 8, 0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x07, 0xc4, 1, 0, 5, 0x68, 0xeb, 0xec,
    0xb2, 0x2c,
];

#[test]
fn h264_and_h265_come_back_unit_by_unit() {
    let h264: [&[u8]; 3] = [&[0x65, 0x88], &[0x41, 0x9a], &[0x01, 0x9a]];
    let h265: [&[u8]; 3] = [&[0x26, 1, 0xac], &[0x02, 1, 0xd0], &[0x02, 2, 0xd0]];
    for (codec, encoding, config, heads) in [(Codec::H264, "H264", AVCC, h264), (Codec::H265, "H265", HVCC, h265)] {
        let unit = |at: usize, bytes: usize| {
            // Two slices each: a large and a small one, which travels with others.
            let first = noise(heads[usize::from(at > 0)], bytes);
            let second = noise(if at == 0 { heads[0] } else { heads[1 + at % 2] }, 60);
            [first, second].iter().flat_map(|nal| [&(nal.len() as u32).to_be_bytes()[..], nal].concat()).collect()
        };
        let frames = frames(codec, config, sizes().enumerate().map(|(at, bytes)| unit(at, bytes)));
        let annex_b = |frame: &Frame| nal::to_annex_b(&frame.payload, frame.keyframe.then_some(&*frame.info));
        let expected: Vec<u8> = frames.iter().flat_map(|frame| annex_b(frame).expect("canonical").to_vec()).collect();
        let name = encoding.to_lowercase();
        let depacketiser = format!("rtp{name}depay ! video/x-{name},stream-format=byte-stream,alignment=nal");
        same(encoding, &gstreamer(encoding, &depacketiser, &frames), &expected);
    }
}
