use bytes::BufMut;

use super::*;
use crate::ingest::rtmp::amf::{decode_amf0, encode};
use crate::ingest::rtmp::chunk::Writer;

/// The publisher's side, made by hand.
#[derive(Default)]
struct Peer {
    writer: Writer,
    bytes: BytesMut,
}

impl Peer {
    fn send(mut self, kind: u8, stream_id: u32, timestamp_ms: i64, payload: impl Into<Bytes>) -> Self {
        let message = Message { timestamp_ms, kind, stream_id, payload: payload.into() };
        self.writer.write(if kind == kind::VIDEO { 6 } else { 4 }, &message, &mut self.bytes);
        self
    }

    fn command(self, stream_id: u32, values: &[Value]) -> Self {
        self.send(kind::COMMAND_AMF0, stream_id, 0, encode(values))
    }

    fn call(self, name: &str, transaction: f64, argument: Value) -> Self {
        self.command(0, &[name.into(), transaction.into(), Value::Null, argument])
    }

    fn connect(self, properties: Value) -> Self {
        self.command(0, &["connect".into(), 1.0.into(), properties])
    }

    fn connected() -> Self {
        Self::default().connect(Value::object([("app", "live".into()), ("tcUrl", "rtmp://host/live".into())]))
    }

    fn publish(self, name: &str) -> Self {
        self.command(1, &["publish".into(), 5.0.into(), Value::Null, name.into(), "live".into()])
    }

    fn publishing() -> Self {
        Self::connected().call("createStream", 4.0, Value::Null).publish("key")
    }
}

struct Outcome {
    events: Vec<Event>,
    replies: Vec<Message>,
    error: Option<Error>,
}

impl Outcome {
    /// Name and values of the commands we answered with.
    fn commands(&self) -> Vec<Vec<Value>> {
        let commands = self.replies.iter().filter(|message| message.kind == kind::COMMAND_AMF0);
        commands.map(|message| decode_amf0(&message.payload).unwrap()).collect()
    }

    fn command(&self, name: &str) -> Vec<Value> {
        let found = self.commands().into_iter().find(|values| values[0].as_str() == Some(name));
        found.unwrap_or_else(|| panic!("no {name} in {:?}", self.commands()))
    }

    fn codes(&self) -> Vec<String> {
        let code = |values: &Vec<Value>| Some(values.last()?.get("code")?.as_str()?.to_owned());
        self.commands().iter().filter_map(code).collect()
    }
}

/// What a publisher is allowed to do here: everything.
fn run_in_pieces(bytes: &[u8], piece: usize) -> Outcome {
    run_deciding(bytes, piece, Session::accept_publish)
}

fn run_deciding(bytes: &[u8], piece: usize, decide: fn(&mut Session)) -> Outcome {
    let (mut session, mut input, mut output) = (Session::new(), BytesMut::new(), BytesMut::new());
    let mut outcome = Outcome { events: Vec::new(), replies: Vec::new(), error: None };
    'pieces: for piece in bytes.chunks(piece) {
        input.extend_from_slice(piece);
        loop {
            let event = session.next_event(&mut input);
            output.put(session.take_output());
            match event {
                Ok(None) => break,
                Ok(Some(event)) => {
                    if matches!(event, Event::PublishRequested(_)) {
                        decide(&mut session);
                        output.put(session.take_output());
                    }
                    outcome.events.push(event);
                }
                Err(error) => {
                    outcome.error = Some(error);
                    break 'pieces;
                }
            }
        }
    }
    let mut reader = Reader::default();
    while let Some(message) = reader.read(&mut output).unwrap() {
        outcome.replies.push(message);
    }
    assert!(output.is_empty());
    outcome
}

fn run(peer: Peer) -> Outcome {
    let whole = run_in_pieces(&peer.bytes, usize::MAX);
    for piece in [1, 2, 3, 97, 129, 1000] {
        let other = run_in_pieces(&peer.bytes, piece);
        assert_eq!((&other.events, &other.error), (&whole.events, &whole.error), "in pieces of {piece}");
        assert_eq!(other.replies, whole.replies, "in pieces of {piece}");
    }
    whole
}

fn request(app: &str, stream: &str) -> PublishRequest {
    PublishRequest {
        app: app.into(),
        stream: stream.into(),
        query: Query::new(),
        tc_url: "rtmp://host/live".into(),
        encoder: String::new(),
    }
}

/// `connect` as OBS Studio 30 sends it: codes of the codecs it has, which v1 calls for.
#[test]
fn obs_is_told_which_codecs_are_taken() {
    let outcome = run(Peer::default().connect(Value::object([
        ("app", "live".into()),
        ("type", "nonprivate".into()),
        ("flashVer", "FMLE/3.0 (compatible; FMSc/1.0)".into()),
        ("swfUrl", "rtmp://host/live".into()),
        ("tcUrl", "rtmp://host/live".into()),
        ("fourCcList", Value::Array(vec!["av01".into(), "hvc1".into()])),
    ])));
    let kinds: Vec<_> = outcome.replies.iter().map(|message| message.kind).collect();
    assert_eq!(
        kinds,
        [kind::WINDOW_ACK_SIZE, kind::SET_PEER_BANDWIDTH, kind::COMMAND_AMF0],
        "and Set Chunk Size, which the reader obeys"
    );
    let result = outcome.command("_result");
    assert_eq!(result[1], 1.0.into());
    assert!(result[2].get("fmsVer").is_some());
    assert_eq!(result[3].get("code"), Some(&"NetConnection.Connect.Success".into()));
    let codecs = ["avc1", "hvc1", "av01", "vp09", "vp08", "Opus", "mp4a"].map(Value::from).to_vec();
    assert_eq!(result[3].get("fourCcList"), Some(&Value::Array(codecs)));
    assert_eq!(result[3].get("capsEx"), None);
}

#[test]
fn enhanced_rtmp_v2_is_answered_with_maps_and_capabilities() {
    let outcome = run(Peer::default().connect(Value::object([
        ("app", "live".into()),
        ("videoFourCcInfoMap", Value::object([("*", 2.0.into())])),
        ("audioFourCcInfoMap", Value::object([("Opus", 2.0.into())])),
        ("capsEx", 15.0.into()),
    ])));
    let info = &outcome.command("_result")[3];
    assert_eq!(info.get("videoFourCcInfoMap").and_then(|map| map.get("hvc1")), Some(&4.0.into()));
    assert_eq!(info.get("audioFourCcInfoMap").and_then(|map| map.get("Opus")), Some(&4.0.into()));
    assert_eq!(info.get("capsEx"), Some(&13.0.into()));
    assert_eq!(info.get("fourCcList"), None);
}

/// FFmpeg 5: everything up to the first frame, in its order and with its transaction numbers.
#[test]
fn ffmpeg_publishes() {
    let peer = Peer::default()
        .connect(Value::object([
            ("app", "live".into()),
            ("type", "nonprivate".into()),
            ("flashVer", "FMLE/3.0 (compatible; Lavf59.27.100)".into()),
            ("tcUrl", "rtmp://127.0.0.1:1935/live".into()),
        ]))
        .call("releaseStream", 2.0, "key".into())
        .call("FCPublish", 3.0, "key".into())
        .call("createStream", 4.0, Value::Null)
        .send(kind::WINDOW_ACK_SIZE, 0, 0, 2_500_000u32.to_be_bytes().to_vec())
        .publish("key?token=a%2Fb")
        .send(
            kind::DATA_AMF0,
            1,
            0,
            encode(&["@setDataFrame".into(), "onMetaData".into(), Value::object([("width", 1280.0.into())])]),
        )
        .send(kind::VIDEO, 1, 0, vec![0x17, 0, 0, 0, 0, 1])
        .send(kind::AUDIO, 1, 5, vec![0xaf, 0, 0x12])
        .call("FCUnpublish", 6.0, "key".into())
        .call("deleteStream", 7.0, 1.0.into());
    let outcome = run(peer);
    let requested = PublishRequest {
        query: vec![("token".into(), "a/b".into())],
        tc_url: "rtmp://127.0.0.1:1935/live".into(),
        encoder: "FMLE/3.0 (compatible; Lavf59.27.100)".into(),
        ..request("live", "key")
    };
    assert_eq!(
        outcome.events,
        [
            Event::PublishRequested(requested),
            Event::Metadata { timestamp_ms: 0, properties: vec![("width".into(), 1280.0.into())] },
            Event::Video { timestamp_ms: 0, body: vec![0x17, 0, 0, 0, 0, 1].into() },
            Event::Audio { timestamp_ms: 5, body: vec![0xaf, 0, 0x12].into() },
            Event::Unpublished,
        ]
    );
    let answered: Vec<_> = outcome
        .commands()
        .iter()
        .map(|values| (values[0].as_str().unwrap_or_default().to_owned(), values[1].as_number().unwrap_or(-1.0)))
        .collect();
    let expected = [
        ("_result", 1.0),
        ("_result", 2.0),
        ("_result", 3.0),
        ("onFCPublish", 0.0),
        ("_result", 4.0),
        ("onStatus", 0.0),
        ("_result", 6.0),
        ("onFCUnpublish", 0.0),
        ("onStatus", 0.0),
    ];
    assert_eq!(answered, expected.map(|(name, transaction)| (name.to_owned(), transaction)));
    let start = outcome.replies.iter().find(|message| message.stream_id == 1).unwrap();
    assert_eq!(decode_amf0(&start.payload).unwrap()[3].get("code"), Some(&"NetStream.Publish.Start".into()));
}

/// GStreamer's rtmp2sink: capabilities as numbers, an associative array, and publish with transaction 0.
#[test]
fn gstreamer_publishes() {
    let mut connect = encode(&["connect".into(), 1.0.into()]);
    connect.extend([0x08, 0, 0, 0, 4]);
    let properties = Value::object([
        ("app", "live".into()),
        ("tcUrl", "rtmp://host/live".into()),
        ("fpad", Value::Boolean(false)),
        ("videoFunction", 1.0.into()),
        ("flashVer", "FMLE/3.0 (compatible; FMSc/1.0)".into()),
    ]);
    connect.extend(&encode(&[properties])[1..]);
    let peer = Peer::default()
        .send(kind::COMMAND_AMF0, 0, 0, connect)
        .call("createStream", 2.0, Value::Null)
        .command(1, &["publish".into(), 0.0.into(), Value::Null, "key".into(), "live".into()])
        .send(kind::DATA_AMF0, 1, 0, encode(&["onMetaData".into(), Value::object([("height", 720.0.into())])]))
        .command(0, &["closeStream".into(), 0.0.into(), Value::Null])
        .command(1, &["closeStream".into(), 0.0.into(), Value::Null]);
    let outcome = run(peer);
    assert_eq!(outcome.error, None);
    assert!(matches!(&outcome.events[..], [
        Event::PublishRequested(PublishRequest { app, stream, .. }),
        Event::Metadata { properties, .. },
        Event::Unpublished,
    ] if app == "live" && stream == "key" && properties.len() == 1));
}

#[test]
fn a_client_of_another_implementation_publishes() {
    use rml_rtmp::sessions::{
        ClientSession, ClientSessionConfig, ClientSessionEvent, ClientSessionResult, PublishRequestType, StreamMetadata,
    };
    use rml_rtmp::time::RtmpTimestamp;

    let config = ClientSessionConfig { tc_url: Some("rtmp://host/live".into()), ..ClientSessionConfig::new() };
    let (mut client, _) = ClientSession::new(config).unwrap();
    let (mut session, mut input, mut events) = (Session::new(), BytesMut::new(), Vec::new());
    let mut to_do = vec![client.request_connection("live".into()).unwrap()];
    let sent = |step: usize| [0x27, 1, 0, 0, step as u8].repeat(step * 400 + 1);
    while let Some(result) = (!to_do.is_empty()).then(|| to_do.remove(0)) {
        match result {
            ClientSessionResult::OutboundResponse(packet) => input.extend_from_slice(&packet.bytes),
            ClientSessionResult::RaisedEvent(ClientSessionEvent::ConnectionRequestAccepted) => {
                to_do.push(client.request_publishing("key".into(), PublishRequestType::Live).unwrap());
            }
            ClientSessionResult::RaisedEvent(ClientSessionEvent::PublishRequestAccepted) => {
                let metadata = StreamMetadata { video_width: Some(640), ..StreamMetadata::new() };
                to_do.push(client.publish_metadata(&metadata).unwrap());
                for step in 0..5usize {
                    // Over the 24-bit border.
                    let time = RtmpTimestamp::new(0xff_fff0 + 8 * step as u32);
                    to_do.push(client.publish_video_data(sent(step).into(), time, false).unwrap());
                    to_do.push(client.publish_audio_data(vec![0xaf, 1, 9].into(), time, false).unwrap());
                }
                to_do.extend(client.stop_publishing().unwrap());
            }
            ClientSessionResult::RaisedEvent(ClientSessionEvent::UnhandleableOnStatusCode { code }) => {
                assert_eq!(code, "NetStream.Unpublish.Success");
            }
            // It does not know Set Peer Bandwidth.
            ClientSessionResult::UnhandleableMessageReceived(payload) => {
                assert_eq!(payload.type_id, kind::SET_PEER_BANDWIDTH);
            }
            other => panic!("{other:?}"),
        }
        while let Some(event) = session.next_event(&mut input).unwrap() {
            if matches!(event, Event::PublishRequested(_)) {
                session.accept_publish();
            }
            events.push(event);
        }
        let output = session.take_output();
        if !output.is_empty() {
            to_do.extend(client.handle_input(&output).unwrap());
        }
    }
    let mut expected = vec![
        Event::PublishRequested(PublishRequest { encoder: "WIN 23,0,0,207".into(), ..request("live", "key") }),
        Event::Metadata { timestamp_ms: 0, properties: vec![("width".into(), 640.0.into())] },
    ];
    for step in 0..5usize {
        let timestamp_ms = 0xff_fff0 + 8 * step as i64;
        expected.push(Event::Video { timestamp_ms, body: sent(step).into() });
        expected.push(Event::Audio { timestamp_ms, body: vec![0xaf, 1, 9].into() });
    }
    expected.push(Event::Unpublished);
    // The client stamps metadata with its own clock.
    if let Some(Event::Metadata { timestamp_ms, .. }) = events.get_mut(1) {
        *timestamp_ms = 0;
    }
    assert_eq!(events, expected);
}

#[test]
fn nothing_is_read_while_a_request_waits() {
    let peer = Peer::publishing().send(kind::VIDEO, 1, 0, vec![1]);
    let (mut session, mut input) = (Session::new(), peer.bytes);
    assert!(matches!(session.next_event(&mut input), Ok(Some(Event::PublishRequested(_)))));
    let left = input.len();
    assert_eq!(session.next_event(&mut input), Ok(None));
    assert_eq!(input.len(), left);
    session.accept_publish();
    assert!(matches!(session.next_event(&mut input), Ok(Some(Event::Video { .. }))));
}

#[test]
fn a_rejected_publisher_learns_why_and_its_media_goes_nowhere() {
    let peer = Peer::publishing().send(kind::VIDEO, 1, 0, vec![1]);
    let outcome =
        run_deciding(&peer.bytes, usize::MAX, |session| session.reject(Refusal::Denied, "The token has expired."));
    assert_eq!(outcome.events.len(), 1);
    let status = outcome.command("onStatus");
    assert_eq!(status[3].get("level"), Some(&"error".into()));
    assert_eq!(status[3].get("code"), Some(&"NetStream.Publish.Denied".into()));
    assert_eq!(status[3].get("description"), Some(&"The token has expired.".into()));
}

#[test]
fn a_running_publication_can_be_ended_by_the_owner() {
    let (mut session, mut input) = (Session::new(), Peer::publishing().bytes);
    while session.next_event(&mut input).unwrap().is_some() {
        session.accept_publish();
    }
    session.take_output();
    session.reject(Refusal::BadName, "Another publisher took over.");
    assert!(!session.take_output().is_empty());
    let mut more = Peer::default().send(kind::AUDIO, 1, 0, vec![1]).bytes;
    assert_eq!(session.next_event(&mut more), Ok(None));
}

#[test]
fn one_stream_at_a_time_and_another_after_it() {
    let outcome = run(Peer::publishing()
        .command(2, &["publish".into(), 6.0.into(), Value::Null, "other".into()])
        .call("deleteStream", 7.0, 9.0.into())
        .call("deleteStream", 8.0, 1.0.into())
        .publish("")
        .publish("next"));
    let names: Vec<_> = outcome
        .events
        .iter()
        .map(|event| match event {
            Event::PublishRequested(request) => request.stream.clone(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(names, ["key", "Unpublished", "next"]);
    assert_eq!(
        outcome.codes(),
        [
            "NetConnection.Connect.Success",
            "NetStream.Publish.Start",
            "NetStream.Publish.BadName",
            "NetStream.Unpublish.Success",
            "NetStream.Publish.BadName",
            "NetStream.Publish.Start",
        ]
    );
}

#[test]
fn play_is_refused_and_unknown_methods_are_named() {
    let outcome = run(Peer::connected()
        .command(1, &["play".into(), 0.0.into(), Value::Null, "key".into()])
        .call("getStreamLength", 3.0, "key".into())
        .call("_checkbw", 4.0, Value::Null)
        .call("makeCoffee", 5.0, Value::Null));
    assert_eq!(outcome.codes()[1..], ["NetStream.Play.Failed", "NetConnection.Call.Failed"]);
    assert_eq!(outcome.command("_error")[1], 5.0.into());
    assert_eq!(outcome.error, None);
}

#[test]
fn pings_are_answered() {
    let outcome = run(Peer::connected().send(kind::USER_CONTROL, 0, 0, vec![0, 6, 1, 2, 3, 4]));
    let pong = outcome.replies.iter().find(|message| message.kind == kind::USER_CONTROL).unwrap();
    assert_eq!(&pong.payload[..], [0, 7, 1, 2, 3, 4]);
}

#[test]
fn acknowledgements_carry_the_total() {
    let mut peer = Peer::publishing().send(kind::WINDOW_ACK_SIZE, 0, 0, 20_000u32.to_be_bytes().to_vec());
    for i in 0..50 {
        peer = peer.send(kind::AUDIO, 1, i, vec![0xaf; 1000]);
    }
    let outcome = run_in_pieces(&peer.bytes, 1000);
    let totals: Vec<_> = outcome
        .replies
        .iter()
        .filter(|message| message.kind == kind::ACKNOWLEDGEMENT)
        .map(|message| u32::from_be_bytes(message.payload[..].try_into().unwrap()))
        .collect();
    assert_eq!(totals, [20_000, 40_000]);
}

fn flv_tag(kind: u8, timestamp: u32, body: &[u8]) -> Vec<u8> {
    let [top, time @ ..] = timestamp.to_be_bytes();
    let length = &(body.len() as u32).to_be_bytes()[1..];
    let back = (body.len() as u32 + 11).to_be_bytes();
    [&[kind], length, &time, &[top, 0, 0, 0], body, &back].concat()
}

#[test]
fn aggregates_are_taken_apart_on_the_messages_own_time() {
    let aggregate = [
        flv_tag(kind::VIDEO, 0x0100_0000, b"v1"),
        flv_tag(kind::AUDIO, 0x0100_0017, b"a1"),
        flv_tag(kind::VIDEO, 0x00ff_ffff, b"v0"),
    ]
    .concat();
    let cut = [&flv_tag(kind::AUDIO, 7, b"a2")[..], &[9, 0, 0]].concat();
    let outcome = run(Peer::publishing()
        .send(kind::AGGREGATE, 1, 5000, aggregate)
        .send(kind::AGGREGATE, 1, 6000, cut)
        .send(kind::AUDIO, 1, 6001, vec![1]));
    assert_eq!(
        outcome.events[1..4],
        [
            Event::Video { timestamp_ms: 5000, body: "v1".into() },
            Event::Audio { timestamp_ms: 5023, body: "a1".into() },
            Event::Video { timestamp_ms: 4999, body: "v0".into() },
        ]
    );
    assert_eq!(outcome.events[4], Event::Audio { timestamp_ms: 6000, body: "a2".into() });
    assert!(matches!(outcome.events[5], Event::Skipped(Error::Aggregate { .. })));
    assert_eq!(outcome.events[6], Event::Audio { timestamp_ms: 6001, body: vec![1].into() });
}

#[test]
fn data_messages_of_every_kind() {
    let amf3 = [&[0][..], &encode(&["onTextData".into(), "hello".into()])].concat();
    let outcome = run(Peer::publishing()
        .send(kind::DATA_AMF0, 1, 1, encode(&["@setDataFrame".into()]))
        .send(kind::DATA_AMF0, 1, 2, Bytes::new())
        .send(kind::DATA_AMF0, 1, 3, [0x0a, 0, 0, 0, 1].repeat(1000))
        .send(kind::DATA_AMF3, 1, 4, amf3)
        .send(kind::DATA_AMF3, 1, 5, vec![3, 0x06, 0x05, b'h', b'i', 0x04, 7])
        .send(kind::DATA_AMF0, 1, 6, encode(&["@setDataFrame".into(), "onMetaData".into()])));
    assert_eq!(outcome.error, None);
    let [_, no_name, empty, deep, text, native, metadata] = &outcome.events[..] else { panic!("{:?}", outcome.events) };
    assert!(matches!(no_name, Event::Skipped(Error::Nameless { .. })));
    assert!(matches!(empty, Event::Skipped(Error::Nameless { .. })));
    assert!(matches!(deep, Event::Skipped(Error::Amf { source: amf::Error::TooDeep { .. }, .. })));
    assert_eq!(*text, Event::Data { timestamp_ms: 4, name: "onTextData".into(), values: vec!["hello".into()] });
    assert_eq!(*native, Event::Data { timestamp_ms: 5, name: "hi".into(), values: vec![7.0.into()] });
    assert_eq!(*metadata, Event::Metadata { timestamp_ms: 6, properties: Vec::new() });
}

#[test]
fn commands_may_come_as_amf3_messages() {
    let connect = encode(&["connect".into(), 1.0.into(), Value::object([("app", "live".into())])]);
    let outcome = run(Peer::default().send(kind::COMMAND_AMF3, 0, 0, [&[0][..], &connect].concat()));
    assert_eq!(outcome.codes(), ["NetConnection.Connect.Success"]);
}

#[test]
fn errors_are_told_to_the_peer() {
    let outcome = run(Peer::default().connect(Value::object([("tcUrl", "rtmp://host".into())])));
    assert_eq!(outcome.error, Some(Error::NoApplication { tc_url: "rtmp://host".into() }));
    assert_eq!(outcome.codes(), ["NetConnection.Connect.Rejected"]);

    let outcome = run(Peer::default().publish("key"));
    assert!(matches!(outcome.error, Some(Error::NotConnected { at: 45, .. })), "{:?}", outcome.error);

    let outcome = run(Peer::connected().command(0, &["connect".into(), 2.0.into(), Value::Null]));
    assert!(matches!(outcome.error, Some(Error::ConnectedTwice { .. })));
    assert_eq!(outcome.codes()[1..], ["NetConnection.Call.Failed"]);

    let mut peer = Peer::publishing();
    peer.bytes.put_u8(0xff);
    let outcome = run(peer);
    assert!(matches!(outcome.error, Some(Error::Chunk(chunk::Error::NoPreviousHeader { id: 63, .. }))));
    let status = outcome.commands().pop().unwrap();
    assert_eq!(status[3].get("code"), Some(&"NetStream.Failed".into()));
    let description = status[3].get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    assert!(description.contains("chunk stream 63"), "{description}");
}

#[test]
fn an_unreadable_command_ends_a_connection_that_has_not_begun_and_is_skipped_later() {
    let outcome = run(Peer::default().send(kind::COMMAND_AMF0, 0, 0, vec![0x02, 0, 9]));
    assert!(matches!(outcome.error, Some(Error::Amf { kind: kind::COMMAND_AMF0, .. })));
    let outcome =
        run(Peer::publishing().send(kind::COMMAND_AMF0, 0, 0, vec![0x02, 0, 9]).send(kind::AUDIO, 1, 0, vec![1]));
    assert!(matches!(outcome.events[1..], [Event::Skipped(Error::Amf { .. }), Event::Audio { .. }]));
}
