//! All that another node tells on one stream, read where HTTP/2 has put it.
//!
//! In: wishes, and the chunks of the answer. Out: pieces, whose payloads are slices of those chunks; only what lies
//! across two is joined. tonic makes the call, and says what an answer means that is no stream of pieces. But it would
//! copy every chunk into a buffer of its own before it reads a message, which was a tenth of what an edge spends: so
//! the framing, five bytes before each message, is read here. No more than one chunk waits. Deliberately absent:
//! compression, which nobody has asked for, and what pieces mean.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    sync::{Mutex, PoisonError},
};

use axum::http::{HeaderMap, Response, StatusCode};
use bytes::{Buf, Bytes, BytesMut};
use headwater_proto::{Message, Piece, Wish, relay_client::RelayClient};
use http_body::Body as _;
use tokio_stream::Stream;
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::ServiceExt as _;

use super::transport::{PIECE_BYTES_MAX, WISH_BYTES_MAX};

/// Whether it is compressed, and its length in four bytes.
const PREFIX_BYTES: usize = 5;

pub struct Pieces {
    body: Body,
    messages: Messages,
}

impl Pieces {
    pub async fn pull(channel: Channel, wishes: impl Stream<Item = Wish> + Send + 'static) -> Result<Self, Status> {
        // What is no stream of pieces is left to tonic.
        let taken = Mutex::new(None);
        let channel = channel.map_response(|mut answer: Response<Body>| {
            if answer.status() == StatusCode::OK && !answer.headers().contains_key("grpc-status") {
                *taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(mem::take(answer.body_mut()));
            }
            answer
        });
        let mut client = RelayClient::new(channel).max_encoding_message_size(WISH_BYTES_MAX);
        let mut left = client.pull(wishes).await?.into_inner();
        let body = taken.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(body) = body else {
            left.message().await?;
            return Err(Status::unknown("its answer is no stream of pieces"));
        };
        Ok(Self { body, messages: Messages::default() })
    }

    /// None when the other node has said all it wanted to. Nothing follows that, or an error.
    pub async fn next(&mut self) -> Result<Option<Piece>, Status> {
        loop {
            if let Some(message) = self.messages.next()? {
                return Piece::decode(message).map(Some).map_err(|error| Status::internal(error.to_string()));
            }
            let Some(frame) = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await.transpose()? else {
                return self.end(None);
            };
            match frame.into_data() {
                Ok(chunk) => self.messages.put(chunk),
                Err(other) => return self.end(other.into_trailers().ok()),
            }
        }
    }

    fn end(&self, trailers: Option<HeaderMap>) -> Result<Option<Piece>, Status> {
        match trailers.and_then(|trailers| Status::from_header_map(&trailers)) {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ if self.messages.is_amid() => Err(Status::internal("the stream ends in the middle of a piece")),
            Some(_) => Ok(None),
            None => Err(Status::unknown("the stream ends without a status")),
        }
    }
}

/// Chunks go in, one after the other, and messages come out.
#[derive(Default)]
pub(crate) struct Messages {
    /// What is unread of the newest one.
    chunk: Bytes,
    /// A message that began in an earlier one, and its prefix.
    begun: BytesMut,
}

impl Messages {
    /// When there is no next message.
    pub(crate) fn put(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty(), "{} bytes are unread", self.chunk.len());
        self.chunk = chunk;
    }

    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.is_amid() || self.chunk.len() < PREFIX_BYTES {
            self.join(PREFIX_BYTES);
        }
        let beginning = if self.is_amid() { &self.begun[..] } else { &self.chunk };
        let Some(prefix) = beginning.first_chunk() else { return Ok(None) };
        let whole = PREFIX_BYTES + length(prefix)?;
        let mut message = if !self.is_amid() && self.chunk.len() >= whole {
            self.chunk.split_to(whole)
        } else {
            self.join(whole);
            if self.begun.len() < whole {
                return Ok(None);
            }
            mem::take(&mut self.begun).freeze()
        };
        message.advance(PREFIX_BYTES);
        Ok(Some(message))
    }

    /// Whether a part of one is here, when there is no next one.
    pub(crate) fn is_amid(&self) -> bool {
        !self.begun.is_empty()
    }

    /// So much of the message, or all that is here of it.
    fn join(&mut self, bytes: usize) {
        let missing = bytes.saturating_sub(self.begun.len());
        let more = self.chunk.split_to(missing.min(self.chunk.len()));
        if !more.is_empty() {
            self.begun.reserve(missing);
            self.begun.extend_from_slice(&more);
        }
    }
}

fn length(&[compressed, ref length @ ..]: &[u8; PREFIX_BYTES]) -> Result<usize, Status> {
    if compressed != 0 {
        return Err(Status::internal(format!("a piece begins with {compressed}: it is compressed, or none")));
    }
    let bytes = u32::from_be_bytes(*length) as usize;
    if bytes > PIECE_BYTES_MAX {
        return Err(Status::out_of_range(format!("a piece has {bytes} bytes, and {PIECE_BYTES_MAX} are the most")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        slice,
        task::{Context, Poll},
    };

    use axum::{Router, http::HeaderValue};
    use futures_util::FutureExt as _;
    use headwater_proto::{Frame, piece};
    use http_body::Frame as Part;
    use tokio::net::TcpListener;
    use tonic::transport::Endpoint;

    use super::*;
    use crate::fuzz::lies_in;

    /// An answer's body, all of it there.
    struct Parts(VecDeque<Part<Bytes>>);

    impl http_body::Body for Parts {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Part<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn body(chunks: &[Bytes], trailers: &[(&'static str, &'static str)]) -> Body {
        let trailers = trailers.iter().map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let trailers: HeaderMap = trailers.collect();
        let end = (!trailers.is_empty()).then(|| Part::trailers(trailers));
        Body::new(Parts(chunks.iter().cloned().map(Part::data).chain(end).collect()))
    }

    const GOOD: &[(&str, &str)] = &[("grpc-status", "0")];

    /// All pieces, and how it ends. All of it is there, so nothing waits.
    fn read(chunks: &[Bytes], trailers: &[(&'static str, &'static str)]) -> (Vec<Piece>, Result<(), Status>) {
        let mut reader = Pieces { body: body(chunks, trailers), messages: Messages::default() };
        let mut pieces = Vec::new();
        loop {
            match reader.next().now_or_never().expect("waits for nothing") {
                Ok(Some(piece)) => pieces.push(piece),
                Ok(None) => return (pieces, Ok(())),
                Err(error) => return (pieces, Err(error)),
            }
        }
    }

    fn piece(pull: u32, payload_bytes: usize) -> Piece {
        let payload = (0..payload_bytes).map(|i| (i as u32 + pull) as u8).collect();
        Piece { pull, piece: Some(piece::Piece::Frame(Frame { payload, ..Frame::default() })) }
    }

    fn framed(pieces: &[Piece]) -> Bytes {
        let framed = pieces.iter().flat_map(|piece| {
            let message = piece.encode_to_vec();
            [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
        });
        framed.collect()
    }

    fn cut(stream: &Bytes, at: usize) -> [Bytes; 2] {
        [stream.slice(..at), stream.slice(at..)]
    }

    fn payload(piece: &Piece) -> &Bytes {
        let Some(piece::Piece::Frame(Frame { payload, .. })) = &piece.piece else { panic!("{piece:?}") };
        payload
    }

    #[test]
    fn many_pieces_in_a_chunk_are_slices_of_it() {
        // The second one is a message without a byte.
        let sent = [piece(1, 1_000), Piece::default(), piece(2, 0), piece(3, 70_000), piece(4, 1)];
        let chunk = framed(&sent);
        let (pieces, end) = read(slice::from_ref(&chunk), GOOD);
        assert_eq!(pieces, sent);
        end.unwrap();
        for of in [0, 3, 4] {
            assert!(lies_in(payload(&pieces[of]), &chunk), "the payload of {of} was copied");
        }
    }

    #[test]
    fn wherever_chunks_end_the_pieces_are_the_same() {
        let sent = [piece(1, 20), Piece::default(), piece(2, 30), piece(3, 3)];
        let stream = framed(&sent);
        for at in 0..=stream.len() {
            let chunks = cut(&stream, at);
            let (pieces, end) = read(&chunks, GOOD);
            assert_eq!(pieces, sent, "cut at {at}");
            end.unwrap();
            let whole =
                [0, 2, 3].into_iter().filter(|&of| chunks.iter().any(|chunk| lies_in(payload(&pieces[of]), chunk)));
            assert!(whole.count() >= 2, "cut at {at}: no more than one is to be joined");
        }
        for bytes in 1..=8 {
            let mut chunks = Vec::new();
            for chunk in stream.chunks(bytes) {
                chunks.extend([stream.slice_ref(chunk), Bytes::new()]);
            }
            let (pieces, end) = read(&chunks, GOOD);
            assert_eq!(pieces, sent, "{bytes} bytes each");
            end.unwrap();
        }
    }

    #[test]
    fn a_piece_across_many_chunks_is_joined_once_and_the_next_one_is_not() {
        let sent = [piece(1, 400_000), piece(2, 500)];
        let stream = framed(&sent);
        let chunks: Vec<_> = stream.chunks(112 << 10).map(|chunk| stream.slice_ref(chunk)).collect();
        assert_eq!(chunks.len(), 4);
        let (pieces, end) = read(&chunks, GOOD);
        assert_eq!(pieces, sent);
        end.unwrap();
        assert!(!lies_in(payload(&pieces[0]), &stream));
        assert!(lies_in(payload(&pieces[1]), &chunks[3]));
    }

    #[test]
    fn no_more_than_a_chunk_waits() {
        let chunk = Bytes::from(framed(&[piece(1, 100), piece(2, 100)]).to_vec());
        let mut messages = Messages::default();
        messages.put(chunk.clone());
        while messages.next().unwrap().is_some() {}
        assert!(chunk.is_unique(), "one that was read is kept");
        messages.put(chunk.slice(..50));
        assert_eq!(messages.next().unwrap(), None);
        assert!(messages.is_amid() && chunk.is_unique(), "what is begun has a place of its own");
    }

    #[test]
    fn what_is_too_large_or_compressed_is_refused() {
        for at in 0..=PREFIX_BYTES {
            let stream = |prefix: [u8; PREFIX_BYTES]| [framed(&[piece(1, 9)]), Bytes::copy_from_slice(&prefix)];
            let mut refused = Vec::new();
            let largest = (PIECE_BYTES_MAX as u32).to_be_bytes();
            let [a, b, c, d] = (PIECE_BYTES_MAX as u32 + 1).to_be_bytes();
            for prefix in [[0, a, b, c, d], [0, 0xff, 0xff, 0xff, 0xff], [1, 0, 0, 0, 1], [60, 0, 0, 0, 1]] {
                let [good, bad] = stream(prefix);
                let (pieces, end) = read(&[&[good][..], &cut(&bad, at)].concat(), GOOD);
                assert_eq!(pieces, [piece(1, 9)], "what came before it is read");
                refused.push(end.unwrap_err());
            }
            use Code::{Internal, OutOfRange};
            let codes: Vec<_> = refused.iter().map(Status::code).collect();
            assert_eq!(codes, [OutOfRange, OutOfRange, Internal, Internal], "{refused:?}");
            assert!(refused[0].message().contains(&format!("{} bytes", PIECE_BYTES_MAX + 1)), "{refused:?}");
            let mut messages = Messages::default();
            messages.put([&[0][..], &largest].concat().into());
            assert_eq!(messages.next().unwrap(), None, "as large as that is none too large");
        }
    }

    #[test]
    fn what_is_no_piece_is_refused() {
        // A field of two bytes, of which one is there.
        let (pieces, end) = read(&[Bytes::from_static(&[0, 0, 0, 0, 3, 0x0a, 2, 0])], GOOD);
        assert_eq!((pieces, end.unwrap_err().code()), (vec![], Code::Internal));
    }

    #[test]
    fn how_the_other_node_ends_it_is_told() {
        let stream = framed(&[piece(1, 10), piece(2, 10)]);
        let bad = &[("grpc-status", "14"), ("grpc-message", "it%20stops")][..];
        let amid = [stream.slice(..stream.len() - 1)];
        let in_a_prefix = [stream.slice(..stream.len() / 2 + 1)];
        for (chunks, trailers, pieces, code) in [
            (slice::from_ref(&stream), GOOD, 2, None),
            (&[], GOOD, 0, None),
            (slice::from_ref(&stream), bad, 2, Some(Code::Unavailable)),
            (slice::from_ref(&stream), &[], 2, Some(Code::Unknown)),
            (slice::from_ref(&stream), &[("other", "1")], 2, Some(Code::Unknown)),
            (&amid, &[], 1, Some(Code::Internal)),
            (&amid, GOOD, 1, Some(Code::Internal)),
            (&amid, bad, 1, Some(Code::Unavailable)),
            (&in_a_prefix, GOOD, 1, Some(Code::Internal)),
        ] {
            let (read, end) = read(chunks, trailers);
            assert_eq!((read.len(), end.as_ref().err().map(Status::code)), (pieces, code), "{end:?}");
            if trailers == bad {
                assert_eq!(end.unwrap_err().message(), "it stops");
            }
        }
    }

    type Answer = fn() -> Response<Body>;

    /// The same answer to everybody who asks where the service and its method are.
    async fn pull(answer: Answer) -> Result<Pieces, Status> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let channel = Endpoint::try_from(format!("http://{}", listener.local_addr().unwrap())).unwrap().connect_lazy();
        let asked = move |request: axum::extract::Request| async move {
            assert_eq!(request.headers()["content-type"], "application/grpc");
            assert_eq!(request.headers()["te"], "trailers");
            answer()
        };
        let router = Router::new().route("/headwater.v1.Relay/Pull", axum::routing::post(asked));
        tokio::spawn(async { axum::serve(listener, router).await });
        Pieces::pull(channel, tokio_stream::pending()).await
    }

    fn with(name: &'static str, value: &'static str) -> Response<Body> {
        let mut answer = Response::new(body(&[framed(&[piece(1, 9)])], GOOD));
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
        answer
    }

    fn without_pieces(status: StatusCode) -> Response<Body> {
        let mut answer = Response::default();
        *answer.status_mut() = status;
        answer
    }

    #[tokio::test]
    async fn an_answer_without_pieces_says_why() {
        let answers: [(Answer, Code); _] = [
            (|| Status::permission_denied("no").into_http(), Code::PermissionDenied),
            (|| without_pieces(StatusCode::SERVICE_UNAVAILABLE), Code::Unavailable),
            (|| without_pieces(StatusCode::NOT_FOUND), Code::Unimplemented),
            (|| with("grpc-status", "0"), Code::Unknown),
            (|| with("grpc-encoding", "gzip"), Code::Unimplemented),
        ];
        for (of, (answer, code)) in answers.into_iter().enumerate() {
            assert_eq!(pull(answer).await.err().map(|status| status.code()), Some(code), "{of}");
        }
        // An empty answer is a stream of nothing, until it ends.
        let mut nothing = pull(|| without_pieces(StatusCode::OK)).await.unwrap();
        assert_eq!(nothing.next().await.unwrap_err().code(), Code::Unknown);
    }

    #[tokio::test]
    async fn pieces_come_from_the_wire() {
        let mut pieces =
            pull(|| Response::new(body(&[framed(&[piece(1, 40_000)]), framed(&[piece(2, 9)])], GOOD))).await.unwrap();
        assert_eq!(pieces.next().await.unwrap(), Some(piece(1, 40_000)));
        assert_eq!(pieces.next().await.unwrap(), Some(piece(2, 9)));
        assert_eq!(pieces.next().await.unwrap(), None);
    }
}
