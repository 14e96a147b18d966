//! Publishers over real sockets.

use std::{collections::BTreeMap, path::PathBuf};

use bytes::{Bytes, BytesMut};
use headwater_common::{
    clock::now_us,
    config::{App, Layers},
    live::{BroadcastId, Fenced, Hub, Start, Status, Takeover},
    load::Load,
    media::{Codec, Kind},
    net::listen_tcp,
    registry::{Embedded, Life},
    telemetry::Telemetry,
};
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use amf::{Value, encode};
use chunk::{Message, Reader, Writer, kind};

const SPS: &[u8] = &[0x67, 0x42, 0xc0, 0x0d, 0xda, 0x05, 0x07, 0xc4];
const PPS: &[u8] = &[0x68, 0xce, 0x3c, 0x80];
const IDR: &[u8] = &[0x65, 0x88, 0x84, 0x00];

struct Server {
    address: SocketAddr,
    hub: Arc<Hub>,
    node: Node,
    door: telemetry::Door,
    serving: tokio::task::JoinHandle<anyhow::Result<()>>,
    registry: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.registry);
    }
}

async fn server(name: &str) -> Server {
    let path = std::env::temp_dir().join(format!("headwater-rtmp-{name}-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let registry = Arc::new(Embedded::open(&path).unwrap().0);
    let (hub, node, door) = (Hub::new(), Node::starting(), Telemetry::new().door("rtmp"));
    let mut config = Layers::defaults().unwrap().build().unwrap();
    let app = |takeover| App { takeover, ..App::default() };
    config.apps = BTreeMap::from([("live".into(), app(Takeover::Replace)), ("shy".into(), app(Takeover::Refuse))]);
    let listener = listen_tcp("127.0.0.1:0".parse().unwrap(), "test").unwrap();
    let address = listener.local_addr().unwrap();
    let rtmp = Rtmp::new(
        Desk::new(Arc::new(config), hub.clone(), registry, None, Life::default(), node.clone()),
        door.clone(),
        node.clone(),
        3,
    );
    let serving = tokio::spawn(rtmp.serve(listener, None));
    Server { address, hub, node, door, serving, registry: path }
}

impl Server {
    async fn until(&self, id: &BroadcastId, status: Status) {
        let wait = async {
            while self.hub.get(id).is_none_or(|broadcast| broadcast.status() != status) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), wait).await.unwrap_or_else(|_| panic!("{id} never became {status:?}"));
    }
}

struct Client {
    stream: TcpStream,
    writer: Writer,
    reader: Reader,
    input: BytesMut,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut handshake = Handshake::new(PeerType::Client);
        stream.write_all(&handshake.generate_outbound_p0_and_p1().unwrap()).await.unwrap();
        let mut input = BytesMut::new();
        loop {
            assert!(stream.read_buf(&mut input).await.unwrap() > 0);
            let received = input.split();
            match handshake.process_bytes(&received).unwrap() {
                HandshakeProcessResult::InProgress { response_bytes } => {
                    stream.write_all(&response_bytes).await.unwrap();
                }
                HandshakeProcessResult::Completed { response_bytes, .. } => {
                    stream.write_all(&response_bytes).await.unwrap();
                    break;
                }
            }
        }
        Self { stream, writer: Writer::default(), reader: Reader::default(), input }
    }

    async fn send(&mut self, kind: u8, timestamp_ms: i64, payload: impl Into<Bytes>) {
        let mut out = BytesMut::new();
        self.writer.write(4, &Message { timestamp_ms, kind, stream_id: 1, payload: payload.into() }, &mut out);
        self.stream.write_all(&out).await.unwrap();
    }

    async fn command(&mut self, values: &[Value]) {
        self.send(kind::COMMAND_AMF0, 0, encode(values)).await;
    }

    /// Connects and asks to publish; the code of the answer.
    async fn publish(&mut self, app: &str, name: &str) -> String {
        self.publish_enhanced(app, name, 0.0).await
    }

    async fn publish_enhanced(&mut self, app: &str, name: &str, caps_ex: f64) -> String {
        let about = Value::object([("app", app.into()), ("capsEx", caps_ex.into())]);
        self.command(&["connect".into(), 1.0.into(), about]).await;
        self.command(&["createStream".into(), 2.0.into(), Value::Null]).await;
        self.command(&["publish".into(), 3.0.into(), Value::Null, name.into(), "live".into()]).await;
        self.status().await
    }

    /// The code of the next onStatus; empty when the server closed the connection.
    async fn status(&mut self) -> String {
        loop {
            while let Some(message) = self.reader.read(&mut self.input).unwrap() {
                let values = amf::decode_amf0(&message.payload).unwrap_or_default();
                if values.first().and_then(Value::as_str) == Some("onStatus") {
                    return values[3].get("code").and_then(Value::as_str).unwrap_or_default().to_owned();
                }
            }
            let read = timeout(Duration::from_secs(5), self.stream.read_buf(&mut self.input));
            if read.await.expect("an answer").unwrap() == 0 {
                return String::new();
            }
        }
    }

    async fn send_media(&mut self) {
        let record =
            [&[1, SPS[1], SPS[2], SPS[3], 0xff, 0xe1, 0, SPS.len() as u8][..], SPS, &[1, 0, PPS.len() as u8], PPS]
                .concat();
        self.send(kind::VIDEO, 0, [&[0x17, 0, 0, 0, 0][..], &record].concat()).await;
        self.send(kind::AUDIO, 0, vec![0xaf, 0, 0x12, 0x10]).await;
        for i in 0..4 {
            self.send(kind::VIDEO, i * 40, [&[0x17, 1, 0, 0, 0, 0, 0, 0, IDR.len() as u8][..], IDR].concat()).await;
            self.send(kind::AUDIO, i * 23, vec![0xaf, 1, 0x21, 0x10]).await;
        }
    }
}

#[tokio::test]
async fn a_publisher_fills_the_hall_and_says_goodbye() {
    let server = server("fills").await;
    let mut client = Client::connect(server.address).await;
    assert_eq!(client.publish("live", "one?token=x").await, "NetStream.Publish.Start");
    let id = BroadcastId::new("live", "one").unwrap();
    server.until(&id, Status::Live).await;
    client.send_media().await;
    client.send(kind::AUDIO, 100, vec![0x2f, 1]).await;
    client.command(&["deleteStream".into(), 4.0.into(), Value::Null, 1.0.into()]).await;
    server.until(&id, Status::Ended).await;

    let broadcast = server.hub.get(&id).unwrap();
    let (video, audio) = (broadcast.source(Kind::Video).unwrap(), broadcast.source(Kind::Audio).unwrap());
    assert_eq!(video.info().unwrap().codec, Codec::H264);
    assert_eq!((video.stats().frames, audio.stats().frames), (4, 4));
    assert_eq!(broadcast.publisher().protocol, "rtmp");
    let mut reader = audio.read(Start::Oldest);
    let mut times = Vec::new();
    for _ in 0..4 {
        times.push(reader.next().await.unwrap().dts_us);
    }
    let steps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(steps, [23_220, 23_220, 23_220], "to the sample, not to the millisecond");
    assert_eq!(server.door.received.get(), 11);
    assert_eq!(server.door.dropped.get(), 1, "the MP3 frame");
}

#[tokio::test]
async fn a_publisher_that_comes_back_replaces_its_dead_self() {
    let server = server("replaces").await;
    let mut first = Client::connect(server.address).await;
    assert_eq!(first.publish("live", "one").await, "NetStream.Publish.Start");
    first.send_media().await;
    let mut second = Client::connect(server.address).await;
    assert_eq!(second.publish("live", "one").await, "NetStream.Publish.Start");
    first.send(kind::AUDIO, 200, vec![0xaf, 1, 0x21, 0x10]).await;
    assert_eq!(first.status().await, "NetStream.Publish.BadName");
    assert_eq!(first.status().await, "", "and the connection is closed");
    let id = BroadcastId::new("live", "one").unwrap();
    assert_eq!(server.hub.get(&id).unwrap().epoch(), 2 << 32);
    drop(second);
    server.until(&id, Status::Interrupted).await;
}

#[tokio::test]
async fn those_who_may_not_publish_are_told_why() {
    let server = server("refuses").await;
    let mut client = Client::connect(server.address).await;
    assert_eq!(client.publish("elsewhere", "one").await, "NetConnection.Connect.Rejected");
    assert_eq!(client.status().await, "");
    let mut client = Client::connect(server.address).await;
    assert_eq!(client.publish("live", "a b").await, "NetStream.Publish.BadName");
    let mut first = Client::connect(server.address).await;
    assert_eq!(first.publish("shy", "one").await, "NetStream.Publish.Start");
    let mut second = Client::connect(server.address).await;
    assert_eq!(second.publish("shy", "one").await, "NetStream.Publish.BadName");
    assert_eq!(server.door.errors.get(), 3);
}

#[tokio::test]
async fn a_node_that_takes_nobody_new_says_so_and_lets_its_own_come_back() {
    let server = server("busy").await;
    server.node.ready();
    let mut own = Client::connect(server.address).await;
    assert_eq!(own.publish("live", "own").await, "NetStream.Publish.Start");
    server.node.bear(Load::default(), true);
    let mut other = Client::connect(server.address).await;
    assert_eq!(other.publish("live", "other").await, "NetStream.Publish.Denied");
    assert_eq!(other.status().await, "");
    drop(own);
    server.until(&BroadcastId::new("live", "own").unwrap(), Status::Interrupted).await;
    let mut own = Client::connect(server.address).await;
    assert_eq!(own.publish("live", "own").await, "NetStream.Publish.Start");
    server.node.drain();
    let mut again = Client::connect(server.address).await;
    assert_eq!(again.publish("live", "own").await, "NetStream.Publish.Denied", "elsewhere it would be taken");
}

#[tokio::test]
async fn a_full_server_closes_further_connections_and_a_place_becomes_free_again() {
    let server = server("full").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(server.address).await);
    }
    let mut fourth = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(fourth.read(&mut [0]).await.unwrap_or(0), 0);
    clients.clear();
    let free = async {
        while server.door.errors.get() > 0 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let _ = stream.write_all(&[3; 1537]).await;
            if stream.read(&mut [0]).await.unwrap_or(0) > 0 {
                return;
            }
        }
    };
    timeout(Duration::from_secs(5), free).await.expect("a place");
}

#[tokio::test]
async fn publishers_that_know_how_to_are_asked_to_connect_anew_each_time() {
    let server = server("reconnect").await;
    server.node.ready();
    let (mut new, mut old) = (Client::connect(server.address).await, Client::connect(server.address).await);
    assert_eq!(new.publish_enhanced("live", "new", 1.0).await, "NetStream.Publish.Start");
    assert_eq!(old.publish_enhanced("live", "old", 12.0).await, "NetStream.Publish.Start");
    for _ in 0..2 {
        server.node.drain();
        server.node.ask_publishers_to_leave();
        assert_eq!(new.status().await, "NetConnection.Connect.ReconnectRequest");
        server.node.undrain();
    }
    // It went elsewhere, and this node does not tell its viewers that it was the end.
    new.command(&["deleteStream".into(), 4.0.into(), Value::Null, 1.0.into()]).await;
    server.until(&BroadcastId::new("live", "new").unwrap(), Status::Interrupted).await;
    server.node.drain();
    server.node.ask_publishers_to_leave();
    server.node.end_publishers();
    assert_eq!(old.status().await, "NetConnection.Connect.Rejected", "it was not asked, it is ended");
    server.until(&BroadcastId::new("live", "old").unwrap(), Status::Interrupted).await;
}

#[tokio::test]
async fn who_is_stopped_is_told_that_it_is_over_though_it_sends_nothing() {
    let server = server("stopped").await;
    let mut client = Client::connect(server.address).await;
    assert_eq!(client.publish("live", "one").await, "NetStream.Publish.Start");
    let id = BroadcastId::new("live", "one").unwrap();
    let held = server.hub.get(&id).unwrap().claimed_epoch();
    assert!(server.hub.turn_away(&id, held, Fenced::Stopped, now_us()));
    assert_eq!(client.status().await, "NetStream.Unpublish.Success");
    assert_eq!(client.status().await, "NetConnection.Connect.Closed");
    assert_eq!(client.status().await, "", "closed");
    let mut again = Client::connect(server.address).await;
    assert_eq!(again.publish("live", "one").await, "NetStream.Publish.Start");
    server.until(&id, Status::Live).await;
}

#[tokio::test]
async fn stopping_tells_publishers_and_returns() {
    let mut server = server("stops").await;
    let mut client = Client::connect(server.address).await;
    assert_eq!(client.publish("live", "one").await, "NetStream.Publish.Start");
    server.node.stop();
    assert_eq!(client.status().await, "NetConnection.Connect.Rejected");
    timeout(Duration::from_secs(5), &mut server.serving).await.expect("an end").unwrap().unwrap();
}
