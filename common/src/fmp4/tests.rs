use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;

use super::read::{Part, Parts, SampleAt};
use super::*;
use crate::media::{Codec, Info, Sample, Shape};

fn video() -> TrackSpec {
    let shape = Shape::Video { width: 1280, height: 720, reorders: true };
    let config = Bytes::from_static(&[0, 31, 0x82, 1, 1, 1, 0, 0]);
    TrackSpec { id: 1, info: Arc::new(Info { codec: Codec::Vp9, config, shape }) }
}

fn sound(record: &'static [u8]) -> TrackSpec {
    TrackSpec { id: 2, info: Arc::new(Info::from_config(Codec::Aac, Bytes::from_static(record)).unwrap()) }
}

fn sample(dts_us: i64, pts_us: i64) -> Sample {
    Sample { dts_us, pts_us, keyframe: false, payload: Bytes::from_static(b"frame") }
}

/// Writes each group of samples as a fragment and reads them all back.
fn round_trip(track: &TrackSpec, groups: &[&[Sample]]) -> Vec<SampleAt> {
    let mut file = init(std::slice::from_ref(track)).unwrap().to_vec();
    for (index, group) in groups.iter().enumerate() {
        let mut fragment = Fragment::new(index as u32 + 1);
        for sample in *group {
            fragment.push(track, sample.clone());
        }
        if let Some(next) = groups.get(index + 1).and_then(|next| next.first()) {
            fragment.end(track.id, next.dts_us);
        }
        file.extend_from_slice(&fragment.finish());
    }
    let mut parts = Parts::new(Cursor::new(&file)).unwrap();
    let mut samples = Vec::new();
    while let Some(part) = parts.next().unwrap() {
        if let Part::Fragment(fragment) = part {
            samples.extend(fragment.runs.into_iter().flat_map(|run| run.samples));
        }
    }
    assert!(samples.iter().all(|sample| &file[sample.position as usize..][..sample.size as usize] == b"frame"));
    samples
}

#[test]
fn times_on_a_grid_come_back_exactly() {
    for (step, rate) in [(1024u64, 44_100u32), (1024, 48_000), (960, 48_000), (3003, 90_000), (3000, 90_000)] {
        for frame in (0..10_000_000u64).step_by(997) {
            let exact = frame * step;
            let us = (exact * 1_000_000 + u64::from(rate) / 2) / u64::from(rate);
            assert_eq!(ticks(us as i64, rate), exact as i64);
        }
    }
    assert_eq!(ticks(-1_000_000, 90_000), -90_000);
}

#[test]
fn durations_are_differences_so_nothing_drifts() {
    let times: Vec<i64> = (0..300).map(|frame| (frame * 1_001_000 + 15) / 30).collect();
    let samples: Vec<_> = times.iter().map(|&dts| sample(dts, dts)).collect();
    let groups: Vec<_> = samples.chunks(7).collect();
    let read = round_trip(&video(), &groups);
    for (index, pair) in read.windows(2).enumerate() {
        assert_eq!((pair[0].dts, pair[0].duration), (index as i64 * 3003, 3003));
        assert_eq!(pair[0].dts + i64::from(pair[0].duration), pair[1].dts);
    }
    assert_eq!(read[299].duration, 3003, "as long as the one before it");
}

#[test]
fn the_last_sound_lasts_as_its_codec_says() {
    let alone = [sample(0, 0)];
    assert_eq!(round_trip(&sound(&[0x12, 0x10]), &[&alone])[0].duration, 1024);
    assert_eq!(round_trip(&sound(&[0x2b, 0x11, 0x88, 0x00]), &[&alone])[0].duration, 2048, "HE-AAC");
}

#[test]
fn time_that_stands_still_or_runs_back_is_pushed_on() {
    let samples = [sample(-50, 0), sample(1_000_000, 1_100_000), sample(1_000_000, 900_000), sample(400_000, 400_000)];
    let read = round_trip(&video(), &[&samples]);
    assert_eq!(read.iter().map(|sample| sample.dts).collect::<Vec<_>>(), [0, 90_000, 90_001, 90_002]);
    let shown: Vec<_> = read.iter().map(|sample| sample.dts + i64::from(sample.offset)).collect();
    assert_eq!(shown, [0, 99_000, 81_000, 36_000], "what is shown when holds");
}

#[test]
fn a_fragment_is_one_allocation_of_the_right_size() {
    let mut fragment = Fragment::new(1);
    assert!(fragment.is_empty() && fragment.payload_len() == 0);
    fragment.push(&video(), Sample { keyframe: true, ..sample(0, 0) });
    fragment.push(&video(), sample(33_333, 33_333));
    assert_eq!(fragment.payload_len(), 10);
    let bytes = Vec::from(fragment.finish());
    assert_eq!(bytes.capacity(), bytes.len());
    assert!(bytes.ends_with(b"\0\0\0\x12mdatframeframe"));
}

#[test]
fn media_beyond_four_gigabytes_gets_a_wide_header() {
    for (payload, expected) in [
        (u64::from(u32::MAX) - 8, &b"\xff\xff\xff\xffmdat"[..]),
        (u64::from(u32::MAX), b"\0\0\0\x01mdat\0\0\0\x01\0\0\0\x0f"),
    ] {
        let mut header = Vec::new();
        fragment::put_mdat_header(&mut header, payload);
        assert_eq!(header, expected);
    }
}
