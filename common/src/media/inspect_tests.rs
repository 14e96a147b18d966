use bytes::Bytes;

use super::h264::{Reordering, Sps};
use super::*;

/// What x264 writes for 1080p with B-frames, high profile.
const SPS: &[u8] = &[
    0x67, 0x64, 0x00, 0x28, 0xac, 0xd9, 0x40, 0x78, 0x02, 0x27, 0xe5, 0x84, 0x00, 0x00, 0x03, 0x00, 0x04, 0x00, 0x00,
    0x03, 0x00, 0xf0, 0x3c, 0x60, 0xc6, 0x58,
];
const PPS: &[u8] = &[0x68, 0xeb, 0xec, 0xb2, 0x2c];
/// Constrained baseline, 320x240, no VUI.
const BASELINE_SPS: &[u8] = &[0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x07, 0xc4];
/// Main profile, 320x240, no VUI: only pictures tell whether there are B slices.
const SILENT_SPS: &[u8] = &[0x67, 0x4d, 0x00, 0x0d, 0xf4, 0x0a, 0x0f, 0xc8];
const IDR: &[u8] = &[0x65, 0x88, 0x84, 0x21];
const P: &[u8] = &[0x41, 0x9a, 0x02, 0x04];
/// first_mb 0, slice_type 6.
const B: &[u8] = &[0x01, 0x9f, 0x01, 0x02];
const I: &[u8] = &[0x41, 0x88, 0x84, 0x21];
const AUD: &[u8] = &[0x09, 0xf0];
/// Recovery point, recovery_frame_cnt 0.
const SEI: &[u8] = &[0x06, 0x06, 0x01, 0xc4, 0x80];

fn lengths(units: &[&[u8]], size: usize) -> Bytes {
    let mut payload = Vec::new();
    for unit in units {
        payload.extend_from_slice(&(unit.len() as u32).to_be_bytes()[4 - size..]);
        payload.extend_from_slice(unit);
    }
    payload.into()
}

fn annex_b(units: &[&[u8]]) -> Bytes {
    units.iter().flat_map(|unit| [&[0, 0, 1], *unit].concat()).collect()
}

fn sample(payload: Bytes) -> Sample {
    Sample { dts_us: 7, pts_us: 9, keyframe: true, payload }
}

fn avcc(sps: &[u8], length_size: u8) -> Bytes {
    let sets =
        nal::ParameterSets { vps: vec![], sps: vec![Bytes::copy_from_slice(sps)], pps: vec![Bytes::from_static(PPS)] };
    let mut record = h264::build_record(&sets).unwrap().to_vec();
    record[4] = 0xfc | (length_size - 1);
    record.into()
}

#[test]
fn a_record_tells_the_shape_and_the_name() {
    let info = Info::from_config(Codec::H264, avcc(SPS, 4)).unwrap();
    assert_eq!(info.shape, Shape::Video { width: 1920, height: 1080, reorders: true });
    assert_eq!(info.rfc6381(), "avc1.640028");
    let sps = Sps::parse(SPS).unwrap();
    assert_eq!((sps.timing, sps.frame_mbs_only), (Some((1, 60)), true));
    assert_eq!(sps.reordering(), Reordering::Yes);
    assert_eq!(Sps::parse(BASELINE_SPS).unwrap().reordering(), Reordering::Never);
    let silent = Sps::parse(SILENT_SPS).unwrap();
    assert_eq!((silent.width, silent.height, silent.reordering()), (320, 240, Reordering::Unsaid));
}

#[test]
fn every_length_size_becomes_canonical() {
    for size in [1, 2, 4] {
        let mut inspector = Inspector::with_config(Codec::H264, avcc(SPS, size)).unwrap();
        assert_eq!(inspector.info().unwrap().config, avcc(SPS, 4), "what leaves has 4-byte lengths");
        let inspected = inspector.push(sample(lengths(&[AUD, SPS, PPS, IDR], size.into()))).unwrap();
        assert_eq!(inspected.new_info, None, "the same parameter sets again change nothing");
        let sample = inspected.sample.unwrap();
        assert_eq!((sample.keyframe, sample.payload), (true, lengths(&[IDR], 4)));
    }
}

#[test]
fn what_is_canonical_is_not_copied() {
    let mut inspector = Inspector::with_config(Codec::H264, avcc(SPS, 4)).unwrap();
    let payload = lengths(&[SEI, P, P], 4);
    let kept = inspector.push(sample(payload.clone())).unwrap().sample.unwrap().payload;
    assert_eq!((kept.as_ptr(), kept.len()), (payload.as_ptr(), payload.len()));
}

#[test]
fn the_bitstream_decides_what_a_keyframe_is() {
    let mut inspector = Inspector::with_config(Codec::H264, avcc(SPS, 4)).unwrap();
    for (units, keyframe) in
        [(&[P][..], false), (&[IDR], true), (&[I], false), (&[SEI, I], true), (&[SEI, I, P], false), (&[SEI, P], false)]
    {
        let inspected = inspector.push(sample(lengths(units, 4))).unwrap();
        assert_eq!(inspected.sample.unwrap().keyframe, keyframe, "{units:?}");
    }
}

#[test]
fn parameter_sets_in_band_make_a_new_info() {
    let mut inspector = Inspector::new(Codec::H264, Framing::AnnexB);
    assert_eq!(inspector.push(sample(annex_b(&[P]))), Err(FrameError::Unconfigured));
    let first = inspector.push(sample(annex_b(&[AUD, BASELINE_SPS, PPS, IDR]))).unwrap();
    assert_eq!(first.new_info.unwrap().shape, Shape::Video { width: 320, height: 240, reorders: false });
    assert_eq!(first.sample.unwrap().payload, lengths(&[IDR], 4));
    let second = inspector.push(sample(annex_b(&[SPS, PPS, IDR]))).unwrap().new_info.unwrap();
    assert_eq!(second.shape, Shape::Video { width: 1920, height: 1080, reorders: true });
    assert_eq!(nal::parameter_sets(&second), [SPS, PPS]);
    let decodable = nal::to_annex_b(&lengths(&[IDR], 4), Some(&second)).unwrap();
    assert_eq!(*decodable, [&[0, 0, 0, 1], SPS, &[0, 0, 0, 1], PPS, &[0, 0, 0, 1], IDR].concat());
}

#[test]
fn the_first_b_slice_is_noticed_once() {
    let mut inspector = Inspector::with_config(Codec::H264, avcc(SILENT_SPS, 4)).unwrap();
    assert_eq!(inspector.push(sample(lengths(&[P], 4))).unwrap().new_info, None);
    let info = inspector.push(sample(lengths(&[B], 4))).unwrap().new_info.unwrap();
    assert!(info.reorders());
    assert_eq!(inspector.push(sample(lengths(&[B], 4))).unwrap().new_info, None);
    assert_eq!(inspector.configure(avcc(SILENT_SPS, 4)), Ok(None), "the same record again forgets nothing");
    let mut baseline = Inspector::with_config(Codec::H264, avcc(BASELINE_SPS, 4)).unwrap();
    assert_eq!(baseline.push(sample(lengths(&[B], 4))).unwrap().new_info, None);
}

#[test]
fn nothing_to_show_is_no_sample() {
    let mut inspector = Inspector::with_config(Codec::H264, avcc(SPS, 4)).unwrap();
    for units in [&[][..], &[AUD], &[SEI], &[SPS, PPS]] {
        assert_eq!(inspector.push(sample(lengths(units, 4))), Ok(Inspected { sample: None, new_info: None }));
    }
    let torn = lengths(&[P, P], 4).slice(..13);
    assert_eq!(inspector.push(sample(torn)), Err(FrameError::NalLength { offset: 8, length: 4, left: 1 }));
}

#[test]
fn a_broken_parameter_set_costs_one_frame() {
    let mut inspector = Inspector::with_config(Codec::H264, avcc(SPS, 4)).unwrap();
    let broken = lengths(&[&[0x67, 0x64], PPS, IDR], 4);
    assert!(matches!(inspector.push(sample(broken)), Err(FrameError::ParameterSet(_))));
    let next = inspector.push(sample(lengths(&[IDR], 4))).unwrap();
    assert!(next.new_info.is_none() && next.sample.is_some());
}

#[test]
fn vp8_learns_from_its_keyframes() {
    let mut inspector = Inspector::new(Codec::Vp8, Framing::Lengths(4));
    let frame = Bytes::from_static(&[0x10, 2, 0, 0x9d, 1, 0x2a, 0x80, 2, 0xe0, 1, 0xff]);
    let info = inspector.push(sample(frame)).unwrap().new_info.unwrap();
    assert_eq!(
        (info.shape, &*info.rfc6381()),
        (Shape::Video { width: 640, height: 480, reorders: false }, "vp08.00.30.08")
    );
    let inter = inspector.push(sample(Bytes::from_static(&[0x11, 2, 0]))).unwrap();
    assert_eq!((inter.new_info, inter.sample.unwrap().keyframe), (None, false));
}

#[test]
fn vp9_learns_from_its_keyframes() {
    let mut inspector = Inspector::new(Codec::Vp9, Framing::AnnexB);
    let inter = sample(Bytes::from_static(&[0x86, 0, 0x40]));
    assert_eq!(inspector.push(inter.clone()), Err(FrameError::Unconfigured));
    let frame = sample(Bytes::from_static(&[0x82, 0x49, 0x83, 0x42, 0x20, 0x27, 0xf0, 0x16, 0x70, 0]));
    let first = inspector.push(frame.clone()).unwrap();
    let info = first.new_info.unwrap();
    assert_eq!(info.shape, Shape::Video { width: 640, height: 360, reorders: false });
    assert_eq!((&*info.config, &*info.rfc6381()), (&[0, 21, 0x82, 5, 6, 5, 0, 0][..], "vp09.00.21.08"));
    for (next, keyframe) in [(inter, false), (frame, true)] {
        let inspected = inspector.push(next).unwrap();
        assert_eq!((inspected.new_info, inspected.sample.unwrap().keyframe), (None, keyframe));
    }
}

/// Temporal units as RTP receivers hand them on: every OBU with a size, delimiters left out.
#[test]
fn av1_learns_from_its_sequence_headers() {
    const HEADER: &[u8] = &[0x0a, 0x0b, 0x00, 0x00, 0x00, 0x04, 0x3c, 0xff, 0xbc, 0x02, 0xf8, 0x00, 0x40];
    let mut inspector = Inspector::new(Codec::Av1, Framing::AnnexB);
    let inter = sample(Bytes::from_static(&[0x32, 3, 0x30, 1, 2]));
    assert_eq!(inspector.push(inter.clone()), Err(FrameError::Unconfigured));
    let key = sample([HEADER, &[0x32, 3, 0x10, 1, 2]].concat().into());
    let first = inspector.push(key.clone()).unwrap();
    let info = first.new_info.unwrap();
    assert_eq!(info.shape, Shape::Video { width: 320, height: 240, reorders: false });
    assert_eq!(&info.config[4..], HEADER, "av1C");
    assert_eq!(first.sample.unwrap().payload, key.payload, "headers stay where they are");
    for (next, keyframe) in [(inter, false), (key, true)] {
        let inspected = inspector.push(next.clone()).unwrap();
        let kept = inspected.sample.unwrap();
        assert_eq!((inspected.new_info, kept.keyframe, kept.payload.as_ptr()), (None, keyframe, next.payload.as_ptr()));
    }
}

#[test]
fn opus_packets_tell_their_channels() {
    let mut inspector = Inspector::new(Codec::Opus, Framing::AnnexB);
    let (mono, stereo) = ([0xf8, 1], [0xfc, 1]);
    assert_eq!(inspector.push(sample(Bytes::from_static(&[0xff, 63]))), Err(FrameError::Unconfigured));
    let expected = [(mono, Some(1)), (mono, None), (stereo, Some(2)), (stereo, None), (mono, None)];
    for (packet, channels) in expected {
        let inspected = inspector.push(sample(Bytes::copy_from_slice(&packet))).unwrap();
        assert!(inspected.sample.unwrap().keyframe);
        assert_eq!(
            inspected.new_info.as_ref().map(|info| info.config.clone()),
            channels.map(|n| opus::Config::plain(n).dops())
        );
        let told = inspected.new_info.map(|info| info.shape);
        assert_eq!(told, channels.map(|channels| Shape::Audio { sample_rate: 48_000, channels }));
    }
    let mono_record = opus::Config { pre_skip: 312, ..opus::Config::plain(1) };
    let mut told = Inspector::with_config(Codec::Opus, mono_record.dops()).unwrap();
    assert_eq!(told.push(sample(Bytes::copy_from_slice(&stereo))).unwrap().new_info, None, "the record counts");
}

#[test]
fn h265_in_band_is_learnt_once() {
    let sets = h265::parse_record(&Bytes::from_static(HVCC)).unwrap().sets;
    let sets: Vec<Bytes> = sets.into_iter().collect();
    let idr: &[u8] = &[0x26, 0x01, 0xac];
    let unit = annex_b(&[&sets[0], &sets[1], &sets[2], idr]);
    let mut inspector = Inspector::new(Codec::H265, Framing::AnnexB);
    let first = inspector.push(sample(unit.clone())).unwrap();
    assert_eq!(first.new_info.unwrap().rfc6381(), "hvc1.1.6.L60.90");
    let second = inspector.push(sample(unit)).unwrap();
    assert_eq!((second.new_info, second.sample.unwrap().payload), (None, lengths(&[idr], 4)));
}

#[test]
fn sound_is_configured_and_passes() {
    let mut inspector = Inspector::with_config(Codec::Aac, Bytes::from_static(&[0x11, 0x90])).unwrap();
    let info = inspector.info().unwrap();
    assert_eq!(info.shape, Shape::Audio { sample_rate: 48_000, channels: 2 });
    assert_eq!((info.rfc6381(), info.samples_per_frame()), ("mp4a.40.2".to_owned(), Some(1024)));
    assert_eq!(inspector.push(sample(Bytes::new())).unwrap().sample, None);
    assert!(inspector.push(sample(Bytes::from_static(&[1]))).unwrap().sample.is_some());
    let opus = Info::from_config(Codec::Opus, opus::Config::plain(2).opus_head()).unwrap();
    assert_eq!((opus.rfc6381(), opus.config), ("opus".to_owned(), opus::Config::plain(2).dops()));
}

/// What x265 writes for 322x242, main profile, B-frames.
const HVCC: &[u8] = &[
    0x01, 0x01, 0x60, 0x00, 0x00, 0x00, 0x90, 0x00, 0x00, 0x00, 0x00, 0x00, 0x3c, 0xf0, 0x00, 0xfc, 0xfd, 0xf8, 0xf8,
    0x00, 0x00, 0x0f, 0x03, 0xa0, 0x00, 0x01, 0x00, 0x18, 0x40, 0x01, 0x0c, 0x01, 0xff, 0xff, 0x01, 0x60, 0x00, 0x00,
    0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x3c, 0x95, 0x94, 0x09, 0xa1, 0x00, 0x01, 0x00, 0x2b,
    0x42, 0x01, 0x01, 0x01, 0x60, 0x00, 0x00, 0x03, 0x00, 0x90, 0x00, 0x00, 0x03, 0x00, 0x00, 0x03, 0x00, 0x3c, 0xa0,
    0x0a, 0x88, 0x04, 0x07, 0x11, 0x11, 0x96, 0x56, 0x54, 0xa4, 0xc2, 0xf0, 0x16, 0x80, 0x80, 0x00, 0x00, 0x03, 0x00,
    0x80, 0x00, 0x00, 0x0f, 0x04, 0xa2, 0x00, 0x01, 0x00, 0x06, 0x44, 0x01, 0xc0, 0x73, 0xc1, 0x89,
];

#[test]
fn h265_is_read_and_its_irap_pictures_are_keyframes() {
    let mut inspector = Inspector::with_config(Codec::H265, Bytes::from_static(HVCC)).unwrap();
    let info = inspector.info().unwrap().clone();
    assert_eq!(info.shape, Shape::Video { width: 322, height: 242, reorders: true });
    assert_eq!(info.rfc6381(), "hvc1.1.6.L60.90");
    let sets = nal::parameter_sets(&info);
    assert_eq!(sets.iter().map(|set| set[0] >> 1).collect::<Vec<_>>(), [32, 33, 34]);
    let cra: &[u8] = &[0x2a, 0x01, 0xac];
    let trail: &[u8] = &[0x02, 0x01, 0xd0];
    let second_layer: &[u8] = &[0x02, 0x09, 0xd0];
    for (units, kept, keyframe) in
        [(&[&sets[0][..], &sets[1], &sets[2], cra][..], &[cra][..], true), (&[trail, second_layer], &[trail], false)]
    {
        let inspected = inspector.push(sample(lengths(units, 4))).unwrap();
        assert_eq!(inspected.new_info, None);
        let found = inspected.sample.unwrap();
        assert_eq!((found.payload, found.keyframe), (lengths(kept, 4), keyframe));
    }
}

#[test]
fn names_follow_the_records() {
    for (codec, record, name) in [
        (Codec::Av1, &[0x81, 0x05, 0x0c, 0x00][..], "av01.0.05M.08"),
        (Codec::Av1, &[0x81, 0x2d, 0xcc, 0x00], "av01.1.13H.10"),
        (Codec::Vp9, &[0, 10, 0x82, 1, 1, 1, 0, 0], "vp09.00.10.08"),
        (Codec::Vp9, &[1, 0, 0, 0, 2, 51, 0xa2, 9, 16, 9, 0, 0], "vp09.02.51.10"),
        (Codec::Aac, &[0x2b, 0x11, 0x88, 0x00], "mp4a.40.5"),
    ] {
        assert_eq!(Info::from_config(codec, Bytes::from_static(record)).unwrap().rfc6381(), name);
    }
}

#[test]
fn a_picture_parameter_set_replaces_the_one_with_its_number() {
    let mut inspector = Inspector::with_config(Codec::H264, avcc(SPS, 4)).unwrap();
    let other: &[u8] = &[0x68, 0xef, 0xec, 0xb2, 0x2c];
    let second: &[u8] = &[0x68, 0x5b, 0xec, 0xb2, 0x2c];
    for (set, expected) in [(other, &[SPS, other][..]), (second, &[SPS, other, second])] {
        let info = inspector.push(sample(lengths(&[set, P], 4))).unwrap().new_info.unwrap();
        assert_eq!(nal::parameter_sets(&info), expected);
    }
}
