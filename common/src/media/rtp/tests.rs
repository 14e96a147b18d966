//! Every format is read back by a depacketiser of its own, which knows only the specification.

use bytes::Bytes;

use super::{
    super::{Gop, Info, Kind, Shape, av1 as av1_facts},
    *,
};

/// A frame as the hall holds it.
fn frame(codec: Codec, keyframe: bool, config: impl Into<Bytes>, payload: impl Into<Bytes>) -> Frame {
    let shape = match codec.kind() {
        Kind::Video => Shape::Video { width: 640, height: 360, reorders: false },
        Kind::Audio => Shape::Audio { sample_rate: 48_000, channels: 2 },
    };
    let gop = Gop { id: 1, epoch: 1, independent: true, has_video: true, ..Gop::default() };
    Frame {
        gop: Arc::new(gop),
        dts_us: 0,
        pts_us: 0,
        keyframe,
        payload: payload.into(),
        info: Arc::new(Info { codec, config: config.into(), shape }),
        rtp: RtpCache::default(),
    }
}

/// The payloads, after looking at what holds for every codec: the limit, equal sizes but for the last, one marker.
fn packets(frame: &Frame) -> Vec<Arc<[u8]>> {
    let packets = frame.rtp();
    let sizes: Vec<usize> = packets.iter().map(|packet| packet.payload.len()).collect();
    assert!(sizes.iter().all(|size| (1..=PAYLOAD_BYTES_MAX).contains(size)), "{sizes:?}");
    let marked: Vec<usize> = (0..packets.len()).filter(|&at| packets[at].marker).collect();
    assert_eq!(marked, packets.len().checked_sub(1).into_iter().collect::<Vec<_>>(), "the last one only");
    packets.iter().map(|packet| packet.payload.clone()).collect()
}

fn equal_but_the_last(packets: &[Arc<[u8]>]) {
    let sizes: Vec<usize> = packets.iter().map(|packet| packet.len()).collect();
    let (last, others) = sizes.split_last().unwrap();
    assert!(others.iter().all(|size| *size == sizes[0]) && *last <= sizes[0], "{sizes:?}");
}

fn noise(head: &[u8], bytes: usize) -> Vec<u8> {
    head.iter().copied().chain((head.len()..bytes).map(|i| (i * 131 % 251) as u8)).collect()
}

/// Around each limit, small and large.
const SIZES: [usize; 12] = [3, 40, 1_140, 1_146, 1_147, 1_148, 1_149, 1_150, 2_294, 2_296, 2_297, 60_001];

fn access_unit(nals: &[Vec<u8>]) -> Vec<u8> {
    nals.iter().flat_map(|nal| [&(nal.len() as u32).to_be_bytes()[..], nal].concat()).collect()
}

mod h264 {
    use super::{super::h264::*, *};

    fn avcc(sps: &[u8], pps: &[u8]) -> Vec<u8> {
        let mut config = vec![1, sps[1], sps[2], sps[3], 0xff, 0xe1];
        for (set, count) in [(sps, None), (pps, Some(1))] {
            config.extend(count);
            config.extend((set.len() as u16).to_be_bytes());
            config.extend(set);
        }
        config
    }

    fn packetise(payload: Vec<u8>) -> Vec<Arc<[u8]>> {
        packets(&frame(Codec::H264, false, Bytes::new(), payload))
    }

    fn depacketise(packets: &[Arc<[u8]>]) -> Vec<Vec<u8>> {
        let mut nals: Vec<Vec<u8>> = Vec::new();
        for packet in packets {
            match packet[0] & 0x1f {
                STAP_A => {
                    let mut rest = &packet[1..];
                    while let Some((length, after)) = rest.split_first_chunk::<2>() {
                        let (nal, after) = after.split_at(u16::from_be_bytes(*length) as usize);
                        nals.push(nal.to_vec());
                        rest = after;
                    }
                }
                FU_A => {
                    if packet[1] & 0x80 != 0 {
                        nals.push(vec![(packet[0] & 0xe0) | (packet[1] & 0x1f)]);
                    }
                    nals.last_mut().unwrap().extend_from_slice(&packet[2..]);
                }
                _ => nals.push(packet.to_vec()),
            }
        }
        nals
    }

    #[test]
    fn keyframe_is_preceded_by_its_parameter_sets_in_one_packet() {
        let (sps, pps, idr) = (noise(&[0x67], 20), noise(&[0x68], 6), noise(&[0x65], 5_000));
        let unit = access_unit(&[vec![9, 0xf0], idr.clone()]);
        let packets = packets(&frame(Codec::H264, true, avcc(&sps, &pps), unit));
        assert_eq!(packets[0][0], 0x60 | STAP_A);
        assert_eq!(depacketise(&packets), [sps, pps, idr]);
    }

    #[test]
    fn every_size_is_read_back() {
        for bytes in SIZES {
            let slice = noise(&[0x41], bytes);
            let packets = packetise(access_unit(std::slice::from_ref(&slice)));
            assert_eq!(depacketise(&packets), [slice]);
            equal_but_the_last(&packets);
        }
    }

    #[test]
    fn small_slices_share_packets() {
        let slices: Vec<Vec<u8>> = (0..5).map(|_| noise(&[0x41], 400)).collect();
        let packets = packetise(access_unit(&slices));
        assert_eq!(packets.len(), 3);
        assert_eq!(depacketise(&packets), slices);
    }

    #[test]
    fn lying_lengths_and_damaged_configs_lose_only_themselves() {
        let mut unit = access_unit(&[noise(&[0x41], 10)]);
        unit.extend([0, 0, 1, 0, 0x41]);
        assert_eq!(packetise(unit.clone()).len(), 1);
        let damaged = frame(Codec::H264, true, Bytes::from_static(&[1, 2, 3, 4, 5, 0xe1, 0xff]), unit);
        assert_eq!(packets(&damaged).len(), 1);
        for nothing in [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 1, 0x09], &[0, 0, 0, 2, 0x18, 1]] {
            assert!(packetise(nothing.to_vec()).is_empty());
        }
    }
}

mod h265 {
    use super::{super::h265::*, *};

    const IDR: [u8; 2] = [19 << 1, 1];
    const TRAIL: [u8; 2] = [1 << 1, 1];

    fn hvcc(sets: &[Vec<u8>]) -> Vec<u8> {
        let mut config = vec![1; 21];
        config.extend([3, sets.len() as u8]);
        for set in sets {
            config.extend([set[0] >> 1, 0, 1]);
            config.extend((set.len() as u16).to_be_bytes());
            config.extend(set);
        }
        config
    }

    fn packetise(payload: Vec<u8>) -> Vec<Arc<[u8]>> {
        packets(&frame(Codec::H265, false, Bytes::new(), payload))
    }

    fn depacketise(packets: &[Arc<[u8]>]) -> Vec<Vec<u8>> {
        let mut nals: Vec<Vec<u8>> = Vec::new();
        let mut open = false;
        for packet in packets {
            let kind = packet[0] >> 1 & 0x3f;
            assert!(!open || kind == FRAGMENTATION, "a unit is not complete");
            match kind {
                AGGREGATION => {
                    let mut rest = &packet[2..];
                    while let Some((length, after)) = rest.split_first_chunk::<2>() {
                        let (nal, after) = after.split_at(u16::from_be_bytes(*length) as usize);
                        nals.push(nal.to_vec());
                        rest = after;
                    }
                }
                FRAGMENTATION => {
                    let (start, end) = (packet[2] & 0x80 != 0, packet[2] & 0x40 != 0);
                    assert!(start != open && !(start && end), "RFC 7798 section 4.4.3");
                    open = !end;
                    if start {
                        nals.push(vec![packet[0] & 0x81 | (packet[2] & 0x3f) << 1, packet[1]]);
                    }
                    nals.last_mut().unwrap().extend_from_slice(&packet[3..]);
                }
                _ => nals.push(packet.to_vec()),
            }
        }
        assert!(!open);
        nals
    }

    #[test]
    fn keyframe_is_preceded_by_its_parameter_sets_in_one_packet() {
        let sets = [noise(&[0x40, 1], 24), noise(&[0x42, 1], 40), noise(&[0x44, 1], 7)];
        let idr = noise(&IDR, 9_000);
        let unit = access_unit(&[vec![35 << 1, 1, 0x50], idr.clone()]);
        let packets = packets(&frame(Codec::H265, true, hvcc(&sets), unit));
        assert_eq!(packets[0][..2], [AGGREGATION << 1, 1]);
        assert_eq!(depacketise(&packets), [&sets[..], &[idr]].concat());
    }

    #[test]
    fn every_size_and_header_is_read_back() {
        for bytes in SIZES {
            for header in [IDR, TRAIL, [0x02, 3]] {
                let slice = noise(&header, bytes);
                let packets = packetise(access_unit(std::slice::from_ref(&slice)));
                assert_eq!(depacketise(&packets), [slice]);
                equal_but_the_last(&packets);
            }
        }
        let slices: Vec<Vec<u8>> = [3, 2, 4].iter().map(|temporal| noise(&[0x02, *temporal], 300)).collect();
        let shared = packetise(access_unit(&slices));
        assert_eq!((shared.len(), shared[0][1]), (1, 2), "the lowest temporal id");
        assert_eq!(depacketise(&shared), slices);
    }

    #[test]
    fn lying_lengths_and_nothing_lose_only_themselves() {
        let mut unit = access_unit(&[noise(&TRAIL, 10)]);
        unit.extend([0, 0, 1, 0, 0x41]);
        assert_eq!(packetise(unit).len(), 1);
        // No length, no unit; half a header; filler; what is an aggregation packet to a receiver.
        for nothing in [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 1, 0x02], &[0, 0, 0, 2, 38 << 1, 1], &[0, 0, 0, 2, 96, 1]] {
            assert!(packetise(nothing.to_vec()).is_empty(), "{nothing:?}");
        }
    }
}

#[test]
fn vp8_frames_are_read_back() {
    for bytes in SIZES {
        let whole = noise(&[0x10], bytes);
        let packets = packets(&frame(Codec::Vp8, true, Bytes::new(), whole.clone()));
        equal_but_the_last(&packets);
        for (at, packet) in packets.iter().enumerate() {
            assert_eq!(packet[0], if at == 0 { super::vp8::START } else { 0 }, "no extension, partition 0");
        }
        assert_eq!(packets.iter().flat_map(|packet| packet[1..].to_vec()).collect::<Vec<_>>(), whole);
    }
    assert!(packets(&frame(Codec::Vp8, false, Bytes::new(), Bytes::new())).is_empty());
}

#[test]
fn vp9_frames_are_read_back_and_keyframes_tell_their_size() {
    use super::vp9::*;
    for bytes in SIZES {
        for keyframe in [true, false] {
            let whole = noise(&[0x82], bytes);
            let packets = packets(&frame(Codec::Vp9, keyframe, Bytes::new(), whole.clone()));
            equal_but_the_last(&packets);
            let mut read = Vec::new();
            for (at, packet) in packets.iter().enumerate() {
                let (flags, mut body) = (packet[0], &packet[1..]);
                assert_eq!(flags & 0xb1, 0, "no picture id, layer indices, flexible mode or references");
                assert_eq!(flags & INTER == 0, keyframe);
                assert_eq!((flags & START != 0, flags & END != 0), (at == 0, at + 1 == packets.len()));
                assert_eq!(flags & STRUCTURE != 0, keyframe && at == 0);
                if flags & STRUCTURE != 0 {
                    assert_eq!(body[..5], [ONE_LAYER_WITH_SIZE, 2, 0x80, 1, 0x68], "640x360");
                    body = &body[5..];
                }
                read.extend_from_slice(body);
            }
            assert_eq!(read, whole);
        }
    }
    assert!(packets(&frame(Codec::Vp9, true, Bytes::new(), Bytes::new())).is_empty());
}

mod av1 {
    use super::{super::av1::*, *};

    /// What an encoder wrote for 320x240, 8 bit.
    const HEADER: [u8; 11] = [0x00, 0x00, 0x00, 0x04, 0x3c, 0xff, 0xbc, 0x02, 0xf8, 0x00, 0x40];

    fn leb128(bytes: &[u8]) -> (usize, &[u8]) {
        let used = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
        let value = bytes[..used].iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f));
        (value, &bytes[used..])
    }

    fn with_size(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut obu = vec![kind << 3 | 2];
        let mut size = payload.len();
        while size >= 0x80 {
            obu.push(size as u8 | 0x80);
            size >>= 7;
        }
        obu.push(size as u8);
        [obu, payload.to_vec()].concat()
    }

    fn bare(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&[kind << 3], payload].concat()
    }

    fn depacketise(packets: &[Arc<[u8]>], keyframe: bool) -> Vec<Vec<u8>> {
        let mut obus: Vec<Vec<u8>> = Vec::new();
        let mut open = false;
        for (at, packet) in packets.iter().enumerate() {
            let (header, mut rest) = (packet[0], &packet[1..]);
            assert_eq!(header & 0x37, 0, "W is 0, the reserved bits too");
            assert_eq!(header & NEW_SEQUENCE != 0, keyframe && at == 0);
            assert_eq!(header & CONTINUES != 0, at > 0, "who has no descriptor sees frames by this");
            assert_eq!(header & CONTINUED != 0, at + 1 < packets.len());
            assert_eq!(header & CONTINUES != 0, open);
            while !rest.is_empty() {
                let (length, after) = leb128(rest);
                assert!(length > 0);
                let (element, after) = after.split_at(length);
                if std::mem::take(&mut open) {
                    obus.last_mut().unwrap().extend_from_slice(element);
                } else {
                    obus.push(element.to_vec());
                }
                rest = after;
            }
            open = header & CONTINUED != 0;
        }
        obus
    }

    #[test]
    fn every_size_is_read_back() {
        let record = av1_facts::build_record(&HEADER).unwrap();
        for bytes in SIZES {
            let body = noise(&[0x10], bytes);
            let inter = packets(&frame(Codec::Av1, false, record.clone(), with_size(6, &body)));
            assert_eq!(depacketise(&inter, false), [bare(6, &body)]);
            equal_but_the_last(&inter);
            let key = packets(&frame(Codec::Av1, true, record.clone(), with_size(6, &body)));
            assert_eq!(depacketise(&key, true), [bare(1, &HEADER), bare(6, &body)], "the header comes from the record");
            equal_but_the_last(&key);
            let unit = [with_size(1, &HEADER), with_size(6, &body)].concat();
            let key = packets(&frame(Codec::Av1, true, record.clone(), unit));
            assert_eq!(depacketise(&key, true), [bare(1, &HEADER), bare(6, &body)], "once");
        }
    }

    /// Wherever obus end, packets part within one.
    #[test]
    fn packets_part_within_obus() {
        for first in 1_080..1_160 {
            for others in [&[1_100][..], &[1, 1, 1, 2_000], &[3, 1_140, 1, 1_140, 1]] {
                let bodies: Vec<Vec<u8>> = [&[first], others].concat().iter().map(|size| noise(&[], *size)).collect();
                let unit: Vec<u8> = bodies.iter().flat_map(|body| with_size(4, body)).collect();
                let packets = packets(&frame(Codec::Av1, false, Bytes::new(), unit.clone()));
                let expected: Vec<Vec<u8>> = bodies.iter().map(|body| bare(4, body)).collect();
                assert_eq!(depacketise(&packets, false), expected);
                assert!(packets.len() <= unit.len().div_ceil(PAYLOAD_BYTES_MAX - 3) + 1);
            }
        }
    }

    #[test]
    fn extensions_stay_and_sizes_that_lie_lose_what_follows() {
        let body = noise(&[0x10], 20);
        let extended = [&[6 << 3 | 4 | 2, 0x48, 20], &body[..]].concat();
        let lying = [extended.clone(), vec![0x32, 0x7f, 1]].concat();
        for unit in [extended, lying] {
            let packets = packets(&frame(Codec::Av1, false, Bytes::new(), unit));
            assert_eq!(depacketise(&packets, false), [[&[6 << 3 | 4, 0x48], &body[..]].concat()]);
        }
        for nothing in [&[][..], &[0x12, 0], &[0x32, 0], &[0x80, 1, 2], &[0x34]] {
            assert!(packets(&frame(Codec::Av1, true, Bytes::new(), nothing.to_vec())).is_empty(), "{nothing:?}");
        }
    }
}

#[test]
fn sound_is_one_packet_without_a_marker() {
    let packet = frame(Codec::Opus, true, Bytes::new(), Bytes::from_static(&[0xfc, 1, 2]));
    assert_eq!(packet.rtp(), [RtpPayload { payload: Arc::from([0xfc, 1, 2]), marker: false }]);
    assert!(frame(Codec::Aac, true, Bytes::new(), Bytes::from_static(&[1])).rtp().is_empty());
}
