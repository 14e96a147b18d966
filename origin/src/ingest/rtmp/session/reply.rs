//! What we say: commands, statuses and control messages, as chunks ready to be sent.

use bytes::{BufMut, Bytes, BytesMut};

use super::WINDOW_BYTES;
use crate::ingest::rtmp::amf::{self, Value};
use crate::ingest::rtmp::chunk::{Message, Writer, kind};

/// Chunk streams as Flash Media Server uses them.
const CONTROL: u8 = 2;
const COMMAND: u8 = 3;
const STATUS: u8 = 5;

/// Large enough that no reply is cut.
const CHUNK_BYTES: u32 = 4096;

#[derive(Default)]
pub(super) struct Replies {
    writer: Writer,
    out: BytesMut,
}

impl Replies {
    pub(super) fn take(&mut self) -> Bytes {
        self.out.split().freeze()
    }

    /// What a client expects between its `connect` and the answer.
    pub(super) fn begin_connection(&mut self) {
        const DYNAMIC: u8 = 2;
        self.control(kind::WINDOW_ACK_SIZE, &WINDOW_BYTES.to_be_bytes());
        let [a, b, c, d] = WINDOW_BYTES.to_be_bytes();
        self.control(kind::SET_PEER_BANDWIDTH, &[a, b, c, d, DYNAMIC]);
        self.control(kind::SET_CHUNK_SIZE, &CHUNK_BYTES.to_be_bytes());
        self.writer.set_chunk_size(CHUNK_BYTES);
    }

    pub(super) fn acknowledgement(&mut self, received: u32) {
        self.control(kind::ACKNOWLEDGEMENT, &received.to_be_bytes());
    }

    pub(super) fn stream_begin(&mut self, stream_id: u32) {
        self.user_control(0, stream_id);
    }

    pub(super) fn ping_request(&mut self, timestamp: u32) {
        self.user_control(6, timestamp);
    }

    pub(super) fn ping_response(&mut self, timestamp: u32) {
        self.user_control(7, timestamp);
    }

    /// Answers to what expects none (transaction 0) are not sent.
    pub(super) fn result(&mut self, transaction: f64, object: Value, value: Value) {
        if transaction != 0.0 {
            self.command(COMMAND, 0, &["_result".into(), transaction.into(), object, value]);
        }
    }

    pub(super) fn error(&mut self, transaction: f64, code: &str, description: &str) {
        if transaction != 0.0 {
            let info = status("error", code, description);
            self.command(COMMAND, 0, &["_error".into(), transaction.into(), Value::Null, info]);
        }
    }

    /// `connect` is transaction 1 by definition (§7.2.1.1).
    pub(super) fn connect_rejected(&mut self, description: &str) {
        self.error(1.0, "NetConnection.Connect.Rejected", description);
    }

    pub(super) fn status(&mut self, stream_id: u32, level: &str, code: &str, description: &str) {
        self.call(stream_id, "onStatus", status(level, code, description));
    }

    /// Enhanced RTMP v2, "Reconnect Request". Without a `tcUrl` the client goes where it went before, and so to whichever
    /// node the load balancer chooses.
    pub(super) fn reconnect_request(&mut self, description: &str) {
        self.status(0, "status", "NetConnection.Connect.ReconnectRequest", description);
    }

    pub(super) fn on_fc(&mut self, name: &str, code: &str, stream: &str) {
        self.call(0, name, status("status", code, stream));
    }

    fn call(&mut self, stream_id: u32, name: &str, info: Value) {
        let chunk_stream = if stream_id == 0 { COMMAND } else { STATUS };
        self.command(chunk_stream, stream_id, &[name.into(), 0.0.into(), Value::Null, info]);
    }

    fn user_control(&mut self, event: u16, number: u32) {
        let mut payload = BytesMut::with_capacity(6);
        payload.put_u16(event);
        payload.put_u32(number);
        self.control(kind::USER_CONTROL, &payload);
    }

    fn control(&mut self, kind: u8, payload: &[u8]) {
        self.send(CONTROL, Message { timestamp_ms: 0, kind, stream_id: 0, payload: Bytes::copy_from_slice(payload) });
    }

    fn command(&mut self, chunk_stream: u8, stream_id: u32, values: &[Value]) {
        let payload = amf::encode(values).into();
        self.send(chunk_stream, Message { timestamp_ms: 0, kind: kind::COMMAND_AMF0, stream_id, payload });
    }

    fn send(&mut self, chunk_stream: u8, message: Message) {
        self.writer.write(chunk_stream, &message, &mut self.out);
    }
}

fn status(level: &str, code: &str, description: &str) -> Value {
    Value::object([("level", level.into()), ("code", code.into()), ("description", description.into())])
}
