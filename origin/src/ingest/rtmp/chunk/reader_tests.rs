use bytes::Bytes;

use super::*;
use crate::ingest::rtmp::chunk::Writer;

fn message(kind: u8, timestamp_ms: i64, payload: impl Into<Bytes>) -> Message {
    Message { timestamp_ms, kind, stream_id: 1, payload: payload.into() }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 256) as u8).collect()
}

fn read_in_pieces(bytes: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<Message>, Option<Error>) {
    let (mut reader, mut input, mut messages, mut rest) = (Reader::default(), BytesMut::new(), Vec::new(), bytes);
    loop {
        match reader.read(&mut input) {
            Ok(Some(message)) => messages.push(message),
            Ok(None) if rest.is_empty() => return (messages, None),
            Ok(None) => {
                let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
                input.extend_from_slice(now);
                rest = later;
            }
            Err(error) => return (messages, Some(error)),
        }
    }
}

/// However the bytes arrive, the messages are the same.
fn read(bytes: &[u8]) -> (Vec<Message>, Option<Error>) {
    let whole = read_in_pieces(bytes, || usize::MAX);
    assert_eq!(read_in_pieces(bytes, || 1), whole);
    let mut state = 1u32;
    let random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) as usize % 300
    };
    assert_eq!(read_in_pieces(bytes, random), whole);
    whole
}

fn messages(bytes: &[u8]) -> Vec<Message> {
    let (messages, error) = read(bytes);
    assert_eq!(error, None);
    messages
}

/// A type 0 header.
fn full(chunk_stream: u8, timestamp: u32, length: u32, kind: u8) -> Vec<u8> {
    let mut bytes = vec![chunk_stream];
    bytes.extend(&timestamp.to_be_bytes()[1..]);
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.extend([kind, 1, 0, 0, 0]);
    bytes
}

#[test]
fn what_the_writer_cuts_comes_back_whole() {
    for chunk_size in [1u32, 100, 128, 4096, 0x7fff_ffff] {
        let mut writer = Writer::default();
        let mut out = BytesMut::new();
        let size = Message { stream_id: 0, ..message(kind::SET_CHUNK_SIZE, 0, chunk_size.to_be_bytes().to_vec()) };
        writer.write(2, &size, &mut out);
        writer.set_chunk_size(chunk_size);
        let sent = [
            message(kind::VIDEO, 0, pattern(1)),
            message(kind::VIDEO, 40, pattern(5000)),
            message(kind::AUDIO, 41, Bytes::new()),
            message(kind::AUDIO, 0xff_fffe, pattern(128)),
            message(kind::AUDIO, 0xff_ffff, pattern(129)),
            message(kind::VIDEO, 0x7000_0000, pattern(300)),
        ];
        for message in &sent {
            writer.write(6, message, &mut out);
        }
        assert_eq!(messages(&out), sent, "chunk size {chunk_size}");
    }
}

#[test]
fn a_message_does_not_hold_on_to_the_input() {
    let mut input = BytesMut::from(&[full(4, 0, 100, kind::VIDEO), pattern(100)].concat()[..]);
    let message = Reader::default().read(&mut input).unwrap().unwrap();
    assert!(input.try_reclaim(112), "all of it can be used again");
    assert_eq!(message.payload, pattern(100));
}

#[test]
fn interleaved_messages_and_a_new_chunk_size_in_between_keep_apart() {
    let (video, audio) = (pattern(300), vec![7; 200]);
    let bytes = [
        full(6, 10, 300, kind::VIDEO),
        video[..128].to_vec(),
        full(4, 11, 200, kind::AUDIO),
        audio[..128].to_vec(),
        vec![0xc6],
        video[128..256].to_vec(),
        // Larger chunks from here on, in the middle of both.
        full(2, 0, 4, kind::SET_CHUNK_SIZE),
        vec![0, 0, 16, 0],
        vec![0xc4],
        audio[128..].to_vec(),
        vec![0xc6],
        video[256..].to_vec(),
    ]
    .concat();
    assert_eq!(messages(&bytes), [message(kind::AUDIO, 11, audio), message(kind::VIDEO, 10, video)]);
}

#[test]
fn header_types_add_up_to_timestamps() {
    let bytes = [
        full(4, 1000, 1, kind::AUDIO),
        vec![1],
        // The same time again, for encoders that mean that by a bare header behind a full one.
        vec![0xc4, 2],
        // Type 2: 23 ms later. Type 3: another 23 ms.
        vec![0x84, 0, 0, 23, 3],
        vec![0xc4, 4],
        // Type 1: other length and kind.
        vec![0x44, 0, 0, 10, 0, 0, 2, kind::VIDEO, 5, 5],
        vec![0xc4, 6, 6],
    ]
    .concat();
    let times: Vec<_> = messages(&bytes).iter().map(|m| (m.timestamp_ms, m.payload.len(), m.stream_id)).collect();
    assert_eq!(times, [(1000, 1, 1), (1000, 1, 1), (1023, 1, 1), (1046, 1, 1), (1056, 2, 1), (1066, 2, 1)]);
}

#[test]
fn all_three_forms_of_chunk_stream_ids() {
    let with_id = |id: &[u8], byte: u8| [id, &full(0, 5, 1, kind::AUDIO)[1..], &[byte]].concat();
    let bytes = [
        with_id(&[0, 0], 1),
        with_id(&[1, 0, 0], 2),
        with_id(&[1, 255, 255], 3),
        // 64 again, by both longer forms: it has a header to repeat.
        vec![0xc0, 0, 4],
        vec![0xc1, 0, 0, 5],
        vec![0xc1, 255, 255, 6],
    ]
    .concat();
    let payloads: Vec<_> = messages(&bytes).iter().map(|m| m.payload[0]).collect();
    assert_eq!(payloads, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn extended_timestamps_with_and_without_repetition() {
    let body = pattern(300);
    for repeated in [true, false] {
        let mut bytes = full(6, 0xff_ffff, 300, kind::VIDEO);
        bytes.extend(0x0123_4567u32.to_be_bytes());
        for (i, chunk) in body.chunks(128).enumerate() {
            if i > 0 {
                bytes.push(0xc6);
                if repeated {
                    bytes.extend(0x0123_4567u32.to_be_bytes());
                }
            }
            bytes.extend(chunk);
        }
        assert_eq!(messages(&bytes), [message(kind::VIDEO, 0x0123_4567, body.clone())], "repeated: {repeated}");
    }
}

#[test]
fn a_short_last_chunk_without_the_repetition_is_not_waited_on_forever() {
    let mut bytes = full(6, 0xff_ffff, 129, kind::VIDEO);
    bytes.extend(0x0123_4567u32.to_be_bytes());
    bytes.extend([9; 128]);
    bytes.extend([0xc6, 9]);
    assert_eq!(messages(&bytes), [message(kind::VIDEO, 0x0123_4567, vec![9; 129])]);
}

#[test]
fn time_goes_on_over_24_and_32_bits() {
    let at = |timestamp: u32| {
        let mut out = BytesMut::new();
        Writer::default().write(4, &message(kind::AUDIO, timestamp.into(), vec![1]), &mut out);
        out.to_vec()
    };
    // 24 bits by deltas: nothing special happens on the wire.
    let bytes = [at(0xff_fff0), vec![0x84, 0, 0, 20, 1], vec![0xc4, 1]].concat();
    let times: Vec<_> = messages(&bytes).iter().map(|m| m.timestamp_ms).collect();
    assert_eq!(times, [0xff_fff0, 0x100_0004, 0x100_0018]);
    // 32 bits by full headers and by deltas.
    let bytes = [at(0xffff_fff0), at(4), at(0xffff_fffa), vec![0x84, 0, 0, 20, 1]].concat();
    let times: Vec<_> = messages(&bytes).iter().map(|m| m.timestamp_ms).collect();
    assert_eq!(times, [0xffff_fff0, 0x1_0000_0004, 0xffff_fffa, 0x1_0000_000e]);
}

#[test]
fn abort_and_a_new_header_both_drop_what_was_begun() {
    let bytes = [
        full(6, 0, 300, kind::VIDEO),
        pattern(128),
        full(2, 0, 4, kind::ABORT),
        vec![0, 0, 0, 6],
        full(6, 1, 1, kind::VIDEO),
        vec![1],
        full(6, 2, 300, kind::VIDEO),
        pattern(128),
        full(6, 3, 1, kind::VIDEO),
        vec![2],
    ]
    .concat();
    assert_eq!(messages(&bytes), [message(kind::VIDEO, 1, vec![1]), message(kind::VIDEO, 3, vec![2])]);
    let (mut reader, mut input) = (Reader::default(), BytesMut::from(&bytes[..]));
    while reader.read(&mut input).unwrap().is_some() {}
    assert_eq!((reader.partial_bytes(), reader.abandoned(), reader.consumed()), (0, 1, bytes.len() as u64));
}

#[test]
fn librtmp_may_open_a_chunk_stream_with_a_ping_of_type_1() {
    let bytes = [0x42, 0, 0, 1, 0, 0, 6, kind::USER_CONTROL, 0, 6, 0, 0, 0, 9];
    let (messages, error) = read(&bytes);
    assert_eq!((messages[0].kind, messages[0].timestamp_ms, error), (kind::USER_CONTROL, 1, None));
}

#[test]
fn a_claimed_length_is_paid_for_by_bytes_that_come() {
    let bytes = [full(6, 0, 0xff_ffff, kind::VIDEO), pattern(128)].concat();
    let (mut reader, mut input) = (Reader::default(), BytesMut::from(&bytes[..]));
    assert_eq!(reader.read(&mut input), Ok(None));
    assert_eq!(reader.partial_bytes(), 128);
    assert!(reader.streams[0].partial.capacity() <= 2 * PARTIAL_BYTES_INITIAL);
}

#[test]
fn unfinished_messages_are_bounded_together() {
    let (mut reader, mut input) = (Reader::default(), BytesMut::new());
    input.extend([full(2, 0, 4, kind::SET_CHUNK_SIZE), vec![0, 0xff, 0, 0]].concat());
    let mut outcome = Ok(None);
    for id in 3..10 {
        input.extend(full(id, 0, 0xff_ffff, kind::VIDEO));
        input.extend(std::iter::repeat_n(0, 0xff_0000));
        outcome = reader.read(&mut input);
        assert!(reader.partial_bytes() <= PARTIAL_BYTES_MAX + 0xff_0000);
        if outcome.is_err() {
            break;
        }
    }
    assert!(matches!(outcome, Err(Error::TooMuchUnfinished { .. })));
}

#[test]
fn errors_name_the_byte() {
    assert_eq!(read(&[0xc5]).1, Some(Error::NoPreviousHeader { at: 0, id: 5, format: 3 }));
    let zero = [full(2, 0, 4, kind::SET_CHUNK_SIZE), vec![0x80, 0, 0, 0]].concat();
    assert_eq!(read(&zero).1, Some(Error::ZeroChunkSize { at: 16 }));
    let short = [full(2, 0, 1, kind::ABORT), vec![0]].concat();
    assert_eq!(read(&short).1, Some(Error::ShortControl { at: 13, what: "Abort", length: 1 }));
    let many: Vec<u8> = (0..65u8).flat_map(|id| [&[0, id], &full(0, 0, 0, kind::AUDIO)[1..]].concat()).collect();
    let (messages, error) = read(&many);
    assert_eq!((messages.len(), error), (64, Some(Error::TooManyStreams { at: 64 * 13, id: 128 })));
}
