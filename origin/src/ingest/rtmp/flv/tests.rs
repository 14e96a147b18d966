use super::*;

fn bytes(parts: &[&[u8]]) -> Bytes {
    parts.concat().into()
}

fn frame(codec: Codec, keyframe: bool, composition_us: i64, payload: &'static [u8]) -> Tag {
    Tag::Frame { codec, keyframe, composition_us, offset_us: 0, payload: payload.into() }
}

fn config(codec: Codec, record: &'static [u8]) -> Tag {
    Tag::Config { codec, record: record.into() }
}

fn video_tag(parts: &[&[u8]]) -> Tag {
    video(&bytes(parts)).unwrap().tag
}

fn audio_tag(parts: &[&[u8]]) -> Tag {
    audio(&bytes(parts)).unwrap().tag
}

#[test]
fn legacy_video() {
    assert_eq!(video_tag(&[&[0x17, 0, 0, 0, 0], b"avcC"]), config(Codec::H264, b"avcC"));
    assert_eq!(video_tag(&[&[0x17, 1, 0, 0, 66], b"idr"]), frame(Codec::H264, true, 66_000, b"idr"));
    assert_eq!(video_tag(&[&[0x27, 1, 0xff, 0xff, 0xff], b"b"]), frame(Codec::H264, false, -1000, b"b"));
    assert_eq!(video_tag(&[&[0x17, 2, 0, 0, 0]]), Tag::End(Codec::H264));
    assert_eq!(video_tag(&[&[0x1c, 0, 0, 0, 0], b"hvcC"]), config(Codec::H265, b"hvcC"));
    assert_eq!(video_tag(&[&[0x2c, 1, 0, 0, 0], b"p"]), frame(Codec::H265, false, 0, b"p"));
    assert_eq!(video_tag(&[&[0x57, 0]]), Tag::Ignored);
    assert_eq!(video_tag(&[&[0x17, 1, 0, 0, 0]]), Tag::Ignored);
    assert_eq!(video_tag(&[&[0x22, 9]]), Tag::Unsupported("Sorenson H.263".into()));
    assert_eq!(video_tag(&[]), Tag::Ignored);
}

#[test]
fn legacy_audio() {
    assert_eq!(audio_tag(&[&[0xaf, 0, 0x12, 0x10]]), config(Codec::Aac, &[0x12, 0x10]));
    assert_eq!(audio_tag(&[&[0xaf, 1], b"raw"]), frame(Codec::Aac, true, 0, b"raw"));
    assert_eq!(audio_tag(&[&[0xaf, 1]]), Tag::Ignored);
    assert_eq!(audio_tag(&[&[0x2f, 1]]), Tag::Unsupported("MP3".into()));
    assert_eq!(audio_tag(&[&[0x7f, 1]]), Tag::Unsupported("G.711 A-law".into()));
    assert_eq!(audio_tag(&[&[0xb2]]), Tag::Unsupported("Speex".into()));
    assert_eq!(audio_tag(&[]), Tag::Ignored);
}

#[test]
fn enhanced_video() {
    assert_eq!(video_tag(&[&[0x90], b"hvc1hvcC"]), config(Codec::H265, b"hvcC"));
    assert_eq!(video_tag(&[&[0x91], b"hvc1", &[0, 0, 33], b"au"]), frame(Codec::H265, true, 33_000, b"au"));
    assert_eq!(video_tag(&[&[0xa3], b"hvc1au"]), frame(Codec::H265, false, 0, b"au"));
    assert_eq!(video_tag(&[&[0x91], b"avc1", &[0, 0, 1], b"au"]), frame(Codec::H264, true, 1000, b"au"));
    // Only H.264 and H.265 have composition times.
    assert_eq!(video_tag(&[&[0x91], b"av01obus"]), frame(Codec::Av1, true, 0, b"obus"));
    assert_eq!(video_tag(&[&[0xa1], b"vp09frame"]), frame(Codec::Vp9, false, 0, b"frame"));
    assert_eq!(video_tag(&[&[0x92], b"av01"]), Tag::End(Codec::Av1));
    assert_eq!(video_tag(&[&[0x94], b"hvc1", b"colorInfo"]), Tag::Ignored);
    assert_eq!(video_tag(&[&[0xd1, 0]]), Tag::Ignored);
    assert_eq!(video_tag(&[&[0x90], b"vvc1x"]), Tag::Unsupported("FourCC vvc1".into()));
}

#[test]
fn enhanced_audio() {
    assert_eq!(audio_tag(&[&[0x90], b"OpusOpusHead"]), config(Codec::Opus, b"OpusHead"));
    assert_eq!(audio_tag(&[&[0x91], b"Opuspacket"]), frame(Codec::Opus, true, 0, b"packet"));
    assert_eq!(audio_tag(&[&[0x90], b"mp4a", &[0x12, 0x10]]), config(Codec::Aac, &[0x12, 0x10]));
    assert_eq!(audio_tag(&[&[0x94], b"Opus", &[1, 2]]), Tag::Ignored);
    assert_eq!(audio_tag(&[&[0x92], b"Opus"]), Tag::End(Codec::Opus));
    assert_eq!(audio_tag(&[&[0x91], b"ac-3x"]), Tag::Unsupported("AC-3".into()));
    assert_eq!(audio_tag(&[&[0x91], &[0xff, 0, 1, 2]]), Tag::Unsupported(r"FourCC \xff\x00\x01\x02".into()));
}

#[test]
fn nanoseconds_come_as_a_modifier() {
    // 500 µs in three bytes, then the real packet type.
    let tag = video_tag(&[&[0xa7, 2, 0x07, 0xa1, 0x20, 0x03], b"avc1au"]);
    let expected =
        Tag::Frame { codec: Codec::H264, keyframe: false, composition_us: 0, offset_us: 500, payload: "au".into() };
    assert_eq!(tag, expected);
    // An unknown modifier of 300 bytes is stepped over.
    let modifier = [&[0x97, 255, 1, 43][..], &[0; 300], &[0x51]].concat();
    assert_eq!(audio_tag(&[&modifier, b"Opusx"]), frame(Codec::Opus, true, 0, b"x"));
}

#[test]
fn the_first_track_is_taken_and_the_others_counted() {
    // Many tracks of one codec.
    let body = bytes(&[&[0x96, 0x13], b"avc1", &[0, 0, 0, 2], b"au", &[1, 0, 0, 3], b"low"]);
    assert_eq!(video(&body).unwrap(), Body { tag: frame(Codec::H264, true, 0, b"au"), tracks_ignored: 1 });
    // Each with its own codec, the first one last.
    let body = bytes(&[&[0x95, 0x21], b"mp4a", &[1, 0, 0, 1], b"x", b"Opus", &[0, 0, 0, 1], b"o"]);
    assert_eq!(audio(&body).unwrap(), Body { tag: frame(Codec::Opus, true, 0, b"o"), tracks_ignored: 1 });
    // One track that is not the first.
    let body = bytes(&[&[0x96, 0x00], b"avc1", &[1], b"avcC"]);
    assert_eq!(video(&body).unwrap(), Body { tag: Tag::Ignored, tracks_ignored: 1 });
}

#[test]
fn cut_off_bodies_say_where() {
    let error = |body: &[u8]| video(&Bytes::copy_from_slice(body)).unwrap_err();
    let truncated = |what, length| Error::Truncated { kind: "video", what, length };
    assert_eq!(error(&[0x17]), truncated("the packet type", 1));
    assert_eq!(error(&[0x17, 1, 0]), truncated("the composition time", 3));
    assert_eq!(error(&[0x90, b'a']), truncated("the FourCC", 2));
    assert_eq!(error(&[0x97, 255]), truncated("a modifier", 2));
    assert_eq!(error(&[0x96, 0x16]), Error::Nested { kind: "video" });
    assert_eq!(error(&[0x96, 0x31]), Error::Multitrack { kind: "video", multitrack: 3 });
    assert_eq!(error(&[0x96, 0x13, b'a', b'v', b'c', b'1', 0, 0, 0, 9]), truncated("a track", 10));
}
