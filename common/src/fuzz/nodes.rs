//! What nodes hear from each other. In: any bytes, as pieces of a broadcast, as chunks of a stream, on a connection. Out: as
//! for all doors. Deliberately absent: wishes, which prost alone reads.

use std::sync::{Arc, LazyLock};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use headwater_proto::{Message, Piece, piece};
use rustls::ContentType;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional, duplex},
    runtime,
};

use crate::{
    cluster::{seal, tls::Credentials},
    config::Layers,
    live::{BroadcastId, Copied, Hub, Mirror, Told},
    relay::{Messages, wire},
};

/// Pieces of a broadcast as another node sends them, each behind its length in two bytes. What is understood goes into the
/// hall and is told on, and is the same there.
pub fn relay(data: &[u8]) {
    let id = BroadcastId::new("live", "x").expect("a name");
    let (hub, mut mirror, mut lanes, mut gop) = (Hub::new(), None::<Mirror>, Vec::new(), None);
    for message in parts(data) {
        let Ok(Piece { piece: Some(piece), .. }) = Piece::decode(message) else { continue };
        match (piece, &mut mirror) {
            (piece::Piece::Begin(begin), _) => {
                let told = begin.state.map(wire::to_told);
                let (Ok(born_us), Some(Ok(told))) = (wire::to_born_us(begin.born_us), told) else { continue };
                match wire::to_told(wire::from_told(told.clone(), "here")) {
                    Ok(again) => assert_eq!(Told { path: told.path.clone(), ..again }, told),
                    Err(_) => assert_eq!(told.path.len(), wire::PATH_MAX, "one more is too many"),
                }
                if let Ok(begun) = hub.mirror(&id, born_us, told, 0) {
                    mirror = Some(begun);
                    lanes.clear();
                }
            }
            (piece::Piece::State(state), Some(mirror)) => {
                if let Ok(told) = wire::to_told(state) {
                    let _ = mirror.tell(told, 0);
                }
            }
            (piece::Piece::Track(track), Some(mirror)) => {
                let Ok(declared) = wire::to_declared(track) else { continue };
                let Ok(lane) = mirror.declare(declared.clone()) else { continue };
                lanes.push(lane);
                let (track, layers) = (mirror.track(lane), mirror.broadcast().layers());
                let again = wire::to_declared(wire::from_track(0, track, &layers, declared.info.as_ref()));
                let again = again.expect("what was understood once");
                let known = (again.kind, again.origin, &again.info, again.waiting);
                assert_eq!(known, (declared.kind, declared.origin, &declared.info, declared.waiting));
            }
            (piece::Piece::Run(run), Some(mirror)) => {
                if let Some(&lane) = lanes.get(run.track as usize) {
                    mirror.begin_run(lane, run.whole);
                }
            }
            (piece::Piece::Live(live), Some(mirror)) => {
                if let Some(&lane) = lanes.get(live.track as usize) {
                    mirror.is_live(lane);
                }
            }
            (piece::Piece::Gop(told), _) => {
                if let Ok(told) = wire::to_gop(told) {
                    assert_eq!(wire::to_gop(wire::from_gop(&told)), Ok(told.clone()));
                    gop = Some(Arc::new(told));
                }
            }
            (piece::Piece::Frame(frame), Some(mirror)) => {
                let lane = lanes.get(frame.track as usize).copied();
                let (Some(lane), Some(gop), Ok(sample)) = (lane, gop.clone(), wire::to_sample(frame)) else { continue };
                let bytes = sample.payload.len();
                if mirror.append(lane, gop, sample, 0) == Ok(Copied::Kept) {
                    assert!(mirror.track(lane).stats().ring_bytes >= bytes);
                }
            }
            (piece::Piece::Said(said), _) => {
                let _ = wire::to_hearers(&said);
            }
            _ => {}
        }
    }
}

/// A stream of pieces in chunks, each behind its length in two bytes. However it is cut, the same messages come of it, and
/// what lies in one chunk is a slice of it.
pub fn pieces(data: &[u8]) {
    let chunks: Vec<Bytes> = parts(data).map(Bytes::copy_from_slice).collect();
    let stream = [Bytes::from(chunks.concat())];
    let (messages, end) = messages(&stream);
    assert!(messages.iter().all(|message| lies_in(message, &stream[0])));
    let (again, ended) = self::messages(&chunks);
    assert_eq!((&again, ended), (&messages, end));
    let joined = again.iter().filter(|message| !chunks.iter().any(|chunk| lies_in(message, chunk)));
    assert!(joined.count() < chunks.len().max(1), "one where two chunks meet");
    for message in messages {
        let _ = Piece::decode(message);
    }
}

/// Each of them behind its length in two bytes. The last one may be cut short.
fn parts(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk()?;
        let (part, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        data = rest;
        Some(part)
    })
}

/// And what goes wrong at last, or whether it ends amid one.
fn messages(chunks: &[Bytes]) -> (Vec<Bytes>, Result<bool, String>) {
    let (mut reader, mut messages) = (Messages::default(), Vec::new());
    for chunk in chunks {
        reader.put(chunk.clone());
        loop {
            match reader.next() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Err(error.to_string())),
            }
        }
    }
    (messages, Ok(reader.is_amid()))
}

/// Whether it is a slice of that, or at least could be.
pub(crate) fn lies_in(part: &[u8], all: &[u8]) -> bool {
    let (part, all) = (part.as_ptr_range(), all.as_ptr_range());
    all.start <= part.start && part.end <= all.end
}

/// What comes on a connection after its handshake: each item is what it is, its length in two bytes, and itself. Bytes that
/// nobody has sealed, media, nonsense that an honest peer has sealed, new keys. Nothing is heard but what was said, in its
/// order; and all of it, if there was no nonsense.
pub fn sealed(data: &[u8]) {
    let runtime = runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let ((here, mut between), (mut beyond, there)) = (duplex(WIRE_BYTES), duplex(WIRE_BYTES));
        let ends = async { tokio::join!(seal::dial(NODE.client(), here), seal::accept(NODE.server(), there)) };
        let (peer, node) = tokio::select! {
            ends = ends => ends,
            _ = copy_bidirectional(&mut between, &mut beyond) => unreachable!("nobody has gone"),
        };
        let (mut peer, mut node) = (peer.expect("a node"), node.expect("another one"));
        let (mut said, mut sense, mut rest) = (Vec::new(), true, data);
        while let Some((&[what, high, low], after)) = rest.split_first_chunk() {
            let (item, after) = after.split_at(usize::from(u16::from_be_bytes([high, low])).min(after.len()));
            rest = after;
            match what % 5 {
                0 => beyond.write_all(item).await.expect("room"),
                1 => {
                    said.extend_from_slice(item);
                    peer.seal(ContentType::ApplicationData, item.into()).expect("a record");
                }
                2 => peer.seal(ContentType::Handshake, item.into()).expect("a record"),
                3 => peer.seal(ContentType::Alert, item.into()).expect("a record"),
                _ => peer.update_keys(high > 0).expect("new keys"),
            }
            sense &= item.is_empty() || matches!(what % 5, 1 | 4);
            peer.flush().await.expect("room");
            let mut wire = BytesMut::new();
            while between.read_buf(&mut wire).now_or_never().is_some() {}
            beyond.write_all(&wire).await.expect("room");
        }
        drop(beyond);
        let mut heard = Vec::new();
        let _ = node.read_to_end(&mut heard).await;
        assert!(said.starts_with(&heard), "{} bytes of {}", heard.len(), said.len());
        assert!(!sense || heard == said, "{} bytes of {}", heard.len(), said.len());
    });
}

/// Between the two, whatever an input says.
const WIRE_BYTES: usize = 8 << 20;

static NODE: LazyLock<Credentials> = LazyLock::new(|| {
    let layers = Layers::defaults().expect("the defaults").with(&["cluster", "secret"], "s".repeat(32));
    Credentials::load(&layers.build().expect("settings").cluster).expect("credentials")
});

#[cfg(test)]
mod tests {
    use super::super::tests::{ROUNDS, hammer};
    use super::*;

    #[test]
    fn streams_of_pieces() {
        let stream: Vec<u8> = [&[0, 0, 0, 0, 2, 0x78, 1][..], &[0; 5], &[0, 0, 0, 0, 4, 0x0a, 0, 0x78, 2]].concat();
        for chunk_bytes in [1, 3, 7, stream.len()] {
            let chunks = stream.chunks(chunk_bytes).flat_map(|chunk| [&[0, chunk.len() as u8], chunk].concat());
            hammer(pieces, ROUNDS / 10, &[&chunks.collect::<Vec<_>>()]);
        }
    }

    #[test]
    fn what_nodes_seal() {
        let items: &[u8] = &[1, 0, 3, b'o', b'n', b'e', 4, 0, 0, 1, 0, 3, b't', b'w', b'o', 4, 1, 0, 1, 0, 1, b'3'];
        let nonsense: &[u8] = &[1, 0, 1, b'1', 2, 0, 5, 24, 0, 0, 1, 0, 1, 0, 1, b'2', 3, 0, 2, 1, 0];
        let raw: &[u8] = &[1, 0, 1, b'1', 0, 0, 9, 23, 3, 3, 0, 4, 1, 2, 3, 4, 1, 0, 1, b'2'];
        // Each begins with a handshake.
        hammer(sealed, ROUNDS / 100, &[items, nonsense, raw]);
    }
}
