//! Doors for fuzzers: every parser of what a peer or a disk hands us. In: any bytes. Out: nothing, or a panic that names
//! a broken promise. Deliberately absent: corpora and the fuzzer itself.

mod nodes;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Cursor,
};

use bytes::Bytes;

#[cfg(test)]
pub(crate) use self::nodes::lies_in;
pub use self::nodes::{pieces, relay, sealed};
use crate::antmedia::{Action, Ending, Machine, Outcome, Refusal};
use crate::fmp4::progressive::rewrite;
use crate::fmp4::read::complete_len;
use crate::fmp4::{Fragment, TrackSpec, init};
use crate::media::nal::{self, LENGTH_SIZE};
use crate::media::rtp::PAYLOAD_BYTES_MAX;
use crate::media::{
    Codec, Frame, Framing, Gop, Info, Inspector, RtpCache, Sample, Shape, aac, av1 as av1_facts, h264, h265,
    opus as opus_facts,
};

/// avcC records and sequence parameter sets.
pub fn h264_config(data: &[u8]) {
    let _ = h264::Sps::parse(data);
    let _ = h264::slice_kind(data);
    record(Codec::H264, data);
}

/// hvcC records and sequence parameter sets.
pub fn h265_config(data: &[u8]) {
    let _ = h265::Sps::parse(data);
    record(Codec::H265, data);
}

/// Access units of H.264 and H.265 in every framing.
pub fn access_unit(data: &[u8]) {
    let mut annex_b = Vec::new();
    for (codec, known) in [(Codec::H264, AVCC), (Codec::H265, HVCC)] {
        for framing in [1, 2, 3, 4].map(Framing::Lengths).into_iter().chain([Framing::AnnexB]) {
            push(&mut Inspector::new(codec, framing), codec, data);
        }
        if let Ok(mut inspector) = Inspector::with_config(codec, Bytes::from_static(known)) {
            push(&mut inspector, codec, data);
        }
        if let Ok(stream) = nal::to_annex_b(data, None) {
            annex_b = stream.to_vec();
        }
    }
    assert!(nal::annex_b_units(&annex_b).all(|unit| !unit.is_empty() && unit.end <= annex_b.len()));
}

/// AudioSpecificConfig records and ADTS streams.
pub fn aac_config(data: &[u8]) {
    record(Codec::Aac, data);
    for frame in aac::adts_frames(&Bytes::copy_from_slice(data)).flatten() {
        assert!(!frame.payload.is_empty());
        assert!(Info::from_config(Codec::Aac, frame.record).is_ok_and(|info| info.samples_per_frame() == Some(1024)));
    }
}

/// av1C records, sequence headers and temporal units.
pub fn av1(data: &[u8]) {
    record(Codec::Av1, data);
    if let Ok(header) = av1_facts::SequenceHeader::parse(data) {
        let built = av1_facts::build_record(data).and_then(|record| av1_facts::Config::parse(&record));
        assert_eq!(built.map(|config| config.sequence_header), Ok(Some(header)));
    }
    push(&mut Inspector::new(Codec::Av1, Framing::Lengths(LENGTH_SIZE)), Codec::Av1, data);
}

/// vpcC records and frames, VP8's with them.
pub fn vp9(data: &[u8]) {
    for codec in [Codec::Vp8, Codec::Vp9] {
        record(codec, data);
        push(&mut Inspector::new(codec, Framing::Lengths(LENGTH_SIZE)), codec, data);
    }
}

/// dOps and OpusHead records, packets.
pub fn opus(data: &[u8]) {
    record(Codec::Opus, data);
    assert!(opus_facts::packet_samples(data).is_none_or(|samples| (120..=5760).contains(&samples)));
    if let Ok(config) = opus_facts::Config::parse(&Bytes::copy_from_slice(data)) {
        assert_eq!(opus_facts::Config::parse(&config.opus_head()), Ok(config));
    }
}

/// Frames on their way to WebRTC viewers. The first byte says which codec and whether it is a keyframe.
pub fn rtp(data: &[u8]) {
    let Some((&selector, data)) = data.split_first() else { return };
    let codecs = [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp8, Codec::Vp9];
    let codec = codecs[usize::from(selector & 0x7f) % codecs.len()];
    let config = match codec {
        Codec::H264 => AVCC,
        Codec::H265 => HVCC,
        Codec::Av1 => AV1C,
        _ => &[],
    };
    let shape = Shape::Video { width: 320, height: 240, reorders: false };
    let gop = Gop { id: 1, epoch: 1, independent: true, has_video: true, ..Gop::default() };
    let frame = Frame {
        gop: gop.into(),
        dts_us: 0,
        pts_us: 0,
        keyframe: selector & 0x80 != 0,
        payload: Bytes::copy_from_slice(data),
        info: Info { codec, config: Bytes::from_static(config), shape }.into(),
        rtp: RtpCache::default(),
    };
    let packets = frame.rtp();
    for (left, packet) in (0..packets.len()).rev().zip(packets) {
        assert!((1..=PAYLOAD_BYTES_MAX).contains(&packet.payload.len()));
        assert_eq!(packet.marker, left == 0);
    }
    if codec == Codec::Vp8 {
        let whole: Vec<u8> = packets.iter().flat_map(|packet| &packet.payload[1..]).copied().collect();
        assert_eq!(whole, data);
    }
}

/// Recordings a crash left behind.
pub fn mp4_recover(data: &[u8]) {
    let read = |data| complete_len(Cursor::new(data)).expect("memory does not fail");
    let end = read(data);
    assert_eq!(read(&data[..end as usize]), end, "what was cut to its complete parts is complete");
    let mut output = Vec::new();
    if let Ok(summary) = rewrite(Cursor::new(data), &mut output) {
        assert_eq!((summary.bytes, summary.torn_bytes), (output.len() as u64, data.len() as u64 - end));
        assert!(summary.fragments > 0 && summary.samples > 0);
    }
}

/// A socket's conversation, a line each: what a client says, or `!` with two digits: which of the streams so far meets
/// what. However it goes, replies are short JSON, and a stream has one place on a socket.
pub fn antmedia(data: &[u8]) {
    let mut machine = Machine::new("live");
    let (mut tickets, mut open, mut closed) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    for line in String::from_utf8_lossy(data).lines() {
        let digits = line.strip_prefix('!').map(|digits| digits.chars().filter_map(|c| c.to_digit(10)));
        let met = digits.and_then(|mut digits| Some((*tickets.get(digits.next()? as usize)?, digits.next()?)));
        let actions = match met {
            Some((ticket, outcome)) => machine.outcome(ticket, outcome_of(outcome)),
            None => machine.receive(line),
        };
        assert!((met.is_some() || actions.len() <= 2) && actions.len() <= 4, "{actions:?}");
        for action in actions {
            match action {
                Action::Send(reply) => {
                    let text = reply.text();
                    assert!(text.len() < 1024, "{text}");
                    let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                    assert!(read["command"].is_string(), "{text}");
                }
                Action::Publish { ticket, stream, .. } | Action::Invite { ticket, stream } => {
                    assert!(!closed.contains(&ticket) && !open.contains_key(&ticket), "a ticket is used once");
                    assert!(open.values().all(|other| *other != stream), "{stream} twice");
                    open.insert(ticket, stream);
                    tickets.push(ticket);
                    assert!(open.len() <= 64);
                }
                Action::Accept { ticket, .. } | Action::Quality { ticket, .. } | Action::Enable { ticket, .. } => {
                    assert!(open.contains_key(&ticket));
                }
                Action::Close(ticket) => {
                    open.remove(&ticket);
                    let late = met.is_some_and(|(met, _)| met == ticket);
                    assert!(closed.insert(ticket) || late, "closed twice");
                }
                Action::Look { .. } | Action::Measure(_) | Action::ListIceServers => {}
            }
        }
    }
}

fn outcome_of(digit: u32) -> Outcome {
    match digit {
        0 => Outcome::Answer("v=0".to_owned()),
        1 => Outcome::Offer("v=0\r\na=mid:0\r\na=mid:1".to_owned()),
        2 => Outcome::Absent,
        3 => Outcome::Live,
        4 => Outcome::Refused(Refusal::Sdp("no".to_owned())),
        5 => Outcome::Refused(Refusal::Stopping),
        6 => Outcome::Running,
        7 => Outcome::Ended(Ending::Over),
        8 => Outcome::Ended(Ending::Stopped),
        _ => Outcome::Ended(Ending::Replaced),
    }
}

/// A record that is accepted is canonical: reading it again gives the same, and it has a name.
fn record(codec: Codec, data: &[u8]) {
    let Ok(info) = Info::from_config(codec, Bytes::copy_from_slice(data)) else { return };
    assert_eq!(Info::from_config(codec, info.config.clone()).as_ref(), Ok(&info));
    assert!(!info.rfc6381().is_empty());
    let track = TrackSpec { id: 1, info: info.into() };
    assert!(track.timescale() > 0);
    let _ = init(&[track]);
}

/// What an inspector lets through is canonical: it goes through again unchanged, and into a file.
fn push(inspector: &mut Inspector, codec: Codec, data: &[u8]) {
    let sample = Sample { dts_us: -1, pts_us: i64::MAX, keyframe: false, payload: Bytes::copy_from_slice(data) };
    let Ok(inspected) = inspector.push(sample) else { return };
    let Some(sample) = inspected.sample else { return };
    let info = inspector.info().expect("samples come with an info").clone();
    let mut again = Inspector::new(codec, Framing::Lengths(LENGTH_SIZE));
    // VP8, VP9 and AV1 bring their description along, or began without.
    if matches!(codec, Codec::H264 | Codec::H265) {
        again.configure(info.config.clone()).expect("its own record");
        let repeated = again.push(sample.clone()).expect("canonical").sample;
        assert_eq!(repeated.as_ref().map(|sample| &sample.payload), Some(&sample.payload));
        let _ = nal::to_annex_b(&sample.payload, Some(&info));
    }
    let track = TrackSpec { id: 1, info: info.into() };
    let mut fragment = Fragment::new(1);
    fragment.push(&track, sample);
    let mut file = init(std::slice::from_ref(&track)).map(Vec::from).unwrap_or_default();
    file.extend_from_slice(&fragment.finish());
    mp4_recover(&file);
}

/// 320x240, constrained baseline.
const AVCC: &[u8] = &[
    1, 0x42, 0xc0, 0x0d, 0xff, 0xe1, 0, 8, 0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x07, 0xc4, 1, 0, 5, 0x68, 0xeb, 0xec,
    0xb2, 0x2c,
];

/// 322x242, main profile.
const HVCC: &[u8] = &[
    0x01, 0x01, 0x60, 0x00, 0x00, 0x00, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00, 0x3c, 0xf0, 0x00, 0xfc, 0xfd, 0xf8, 0xf8,
    0x00, 0x00, 0x0f, 0x03, 0xa0, 0x00, 0x01, 0x00, 0x18, 0x40, 0x01, 0x0c, 0x01, 0xff, 0xff, 0x01, 0x60, 0x00, 0x00,
    0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x3c, 0x95, 0x94, 0x09, 0xa1, 0x00, 0x01, 0x00, 0x2b,
    0x42, 0x01, 0x01, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x3c, 0xa0,
    0x0a, 0x88, 0x04, 0x07, 0x11, 0x11, 0x96, 0x56, 0x54, 0xa4, 0xc2, 0xf0, 0x16, 0x80, 0x80, 0x00, 0x00, 0x03, 0x00,
    0x80, 0x00, 0x00, 0x0f, 0x04, 0xa2, 0x00, 0x01, 0x00, 0x06, 0x44, 0x01, 0xc0, 0x73, 0xc1, 0x89,
];

/// 320x240.
const AV1C: &[u8] =
    &[0x81, 0x00, 0x0c, 0x00, 0x0a, 0x0b, 0x00, 0x00, 0x00, 0x04, 0x3c, 0xff, 0xbc, 0x02, 0xf8, 0x00, 0x40];

#[cfg(test)]
mod tests {
    use super::*;

    /// Knuth's generator: the same bytes on every run and machine.
    struct Random(u64);

    impl Random {
        fn below(&mut self, limit: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % limit.max(1)
        }

        fn bytes(&mut self, most: usize) -> Vec<u8> {
            (0..self.below(most)).map(|_| self.below(256) as u8).collect()
        }

        /// A few bytes changed, sometimes cut, sometimes repeated.
        fn mutate(&mut self, valid: &[u8]) -> Vec<u8> {
            let mut data = valid.to_vec();
            for _ in 0..self.below(6) {
                if data.is_empty() {
                    break;
                }
                let at = self.below(data.len());
                match self.below(5) {
                    0 => data[at] = self.below(256) as u8,
                    1 => data[at] ^= 1 << self.below(8),
                    2 => data[at] = [0, 1, 0x7f, 0xff][self.below(4)],
                    3 => data.truncate(at),
                    _ => data.extend_from_within(at..),
                }
            }
            data
        }
    }

    pub(super) fn hammer(parser: fn(&[u8]), rounds: usize, valid: &[&[u8]]) {
        let mut random = Random(7);
        parser(&[]);
        for round in 0..rounds {
            parser(&random.bytes(64));
            if let Some(valid) = valid.get(round % valid.len().max(1)) {
                parser(valid);
                let mutated = random.mutate(valid);
                parser(&mutated);
            }
        }
    }

    pub(super) const ROUNDS: usize = 20_000;

    #[test]
    fn h264_and_h265() {
        hammer(h264_config, ROUNDS, &[AVCC, &AVCC[8..16]]);
        hammer(h265_config, ROUNDS, &[HVCC, &HVCC[57..100]]);
    }

    #[test]
    fn access_units() {
        let slice: &[u8] = &[0, 0, 0, 4, 0x65, 0x88, 0x84, 0x21, 0, 0, 0, 5, 6, 6, 1, 0xc4, 0x80];
        let sets: Vec<u8> = [&[0, 0, 0, 8], &AVCC[8..16], &[0, 0, 0, 5], &AVCC[19..24], slice].concat();
        let start_codes: Vec<u8> =
            [&[0, 0, 1], &AVCC[8..16], &[0, 0, 0, 1], &AVCC[19..24], &[0, 0, 1], &slice[4..8]].concat();
        let h265: Vec<u8> = [
            &[0, 0, 1],
            &HVCC[28..52],
            &[0, 0, 1],
            &HVCC[57..100],
            &[0, 0, 1],
            &HVCC[105..],
            &[0, 0, 1, 0x28, 0x01, 0xac, 0x21],
        ]
        .concat();
        hammer(access_unit, ROUNDS / 10, &[slice, &sets, &start_codes, &h265]);
    }

    #[test]
    fn sound() {
        let adts: &[u8] = &[0xff, 0xf1, 0x50, 0x80, 0x01, 0x5f, 0xfc, 1, 2, 3];
        hammer(aac_config, ROUNDS, &[&[0x12, 0x10], &[0xeb, 0x09, 0x88, 0x00], &[0x10, 0, 0, 0, 0, 0, 0], adts]);
        let mapped: &[u8] = &[0, 6, 1, 56, 0, 0, 0xbb, 0x80, 0, 0, 1, 4, 2, 0, 4, 1, 2, 3, 5];
        let head = opus_facts::Config::plain(2).opus_head();
        hammer(opus, ROUNDS, &[mapped, &head]);
    }

    #[test]
    fn pictures_of_the_open_codecs() {
        let unit: Vec<u8> = [&[0x12, 0][..], &AV1C[4..], &[0x32, 0x02, 0x10, 0x00]].concat();
        hammer(av1, ROUNDS / 4, &[AV1C, &AV1C[6..], &unit]);
        let keyframe: &[u8] = &[0x82, 0x49, 0x83, 0x42, 0x20, 0x27, 0xf0, 0x16, 0x70, 0];
        let vp8: &[u8] = &[0x10, 2, 0, 0x9d, 1, 0x2a, 0x80, 2, 0xe0, 1, 0xff];
        hammer(vp9, ROUNDS / 4, &[keyframe, vp8, &[0, 21, 0x82, 5, 6, 5, 0, 0]]);
    }

    #[test]
    fn conversations() {
        let said = |names: &str| names.replace("SAY", r#"{"streamId":"s","command":"#).replace(';', "}\n").into_bytes();
        let publisher = said(
            r#"SAY"publish";SAY"takeConfiguration","type":"offer","sdp":"v=0";!00
!06
SAY"publish";SAY"play";!09
SAY"stop";SAY"takeCandidate","label":0;"#,
        );
        let player = said(
            r#"SAY"play";!02
SAY"play";!11
SAY"takeConfiguration","type":"answer","sdp":"v=0";!16
SAY"forceStreamQuality","streamHeight":"720";SAY"enableTrack","enabled":false;!17
SAY"stop";"#,
        );
        hammer(antmedia, ROUNDS / 4, &[&publisher, &player]);
    }

    #[test]
    fn packets() {
        let seeds = rtp_seeds();
        hammer(rtp, ROUNDS / 4, &seeds.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }

    /// Access units of every codec, small ones and some that need several packets.
    fn rtp_seeds() -> Vec<Vec<u8>> {
        let long: Vec<u8> = (0..3_000).map(|i| (i * 131 % 251) as u8).collect();
        let nals = |units: &[&[u8]]| -> Vec<u8> {
            units.iter().flat_map(|unit| [&(unit.len() as u32).to_be_bytes()[..], unit].concat()).collect()
        };
        let frame_obu = |payload: &[u8]| {
            let size = [payload.len() as u8 | 0x80, (payload.len() >> 7) as u8];
            [&[0x32][..], &size, payload].concat()
        };
        let units = [
            (0, nals(&[&[9, 0xf0], &[0x65, 0x88, 0x84], &[&[0x65][..], &long].concat()])),
            (1, nals(&[&[0x46, 1, 0x50], &[0x26, 1, 0xac], &[&[0x26, 1][..], &long].concat()])),
            (2, [&AV1C[4..], &frame_obu(&long[..1_140]), &frame_obu(&long)].concat()),
            (3, [&[0x10, 2, 0, 0x9d, 1, 0x2a, 0x40, 1, 0xf0, 0][..], &long].concat()),
            (4, [&[0x82, 0x49, 0x83, 0x42, 0x20, 0x13, 0xf0, 0x0e, 0xf0, 0][..], &long].concat()),
        ];
        let seeds = |(codec, unit): &(u8, Vec<u8>)| [0, 0x80].map(|keyframe| [&[codec | keyframe], &unit[..]].concat());
        units.iter().flat_map(seeds).collect()
    }

    #[test]
    fn recordings() {
        let video = Info::from_config(Codec::H264, Bytes::from_static(AVCC)).unwrap();
        let sound = Info::from_config(Codec::Aac, Bytes::from_static(&[0x12, 0x10])).unwrap();
        let tracks = [TrackSpec { id: 1, info: video.into() }, TrackSpec { id: 2, info: sound.into() }];
        let mut file = init(&tracks).unwrap().to_vec();
        for sequence in 1..3 {
            let mut fragment = Fragment::new(sequence);
            for frame in 0..4 {
                let dts_us = i64::from(sequence) * 4_000_000 + frame * 33_333;
                let payload = Bytes::from_static(&[0, 0, 0, 1, 0x65]);
                fragment.push(
                    &tracks[frame as usize % 2],
                    Sample { dts_us, pts_us: dts_us, keyframe: frame == 0, payload },
                );
            }
            file.extend_from_slice(&fragment.finish());
        }
        hammer(mp4_recover, ROUNDS / 4, &[&file]);
    }
}
