//! Ant Media's signalling, message by message, as a client of no SDK speaks it. The SDK itself is in `antmedia_sdk`.

use std::{net::TcpStream, time::Instant};

use serde_json::{Value, json};
use tungstenite::{Error, Message, WebSocket, client, protocol::frame::coding::CloseCode};

use crate::harness::{Clock, SOUND_OFFER, Server, light, paired, s, until};

struct Socket(WebSocket<TcpStream>);

impl Socket {
    fn open(server: &Server) -> Self {
        Self::try_open(server, "/live/websocket?target=edge").expect("an open socket")
    }

    fn try_open(server: &Server, path: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(server.http).expect("a connection");
        stream.set_read_timeout(Some(s(10))).expect("a limit");
        match client(format!("ws://{}{path}", server.http), stream) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tungstenite::HandshakeError::Failure(Error::Http(response))) => {
                let text = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                Err(format!("{} {text}", response.status()))
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn say(&mut self, message: impl ToString) {
        self.0.send(Message::text(message.to_string())).expect("the message is taken");
    }

    fn hear(&mut self) -> Value {
        loop {
            match self.0.read().expect("a message") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The code that the server closes with.
    fn hear_end(&mut self) -> Option<CloseCode> {
        loop {
            match self.0.read() {
                Ok(Message::Close(frame)) => return frame.map(|frame| frame.code),
                Ok(_) => {}
                Err(error) => panic!("closed without a word: {error}"),
            }
        }
    }

    #[track_caller]
    fn asks(&mut self, message: Value, definition: &str) -> Value {
        self.say(message);
        let answer = self.hear();
        assert_eq!(answer["definition"], definition, "{answer}");
        answer
    }
}

#[test]
fn only_applications_that_exist_have_a_socket() {
    light(s(20), || {
        let server = Server::start();
        let refusal = Socket::try_open(&server, "/nope/websocket").err().expect("no socket");
        assert!(refusal.starts_with("404") && refusal.contains("nope"), "{refusal}");
        let mut mobile = Socket::try_open(&server, "/live/websocket/signaling").expect("the other path");
        mobile.say(json!({ "command": "ping" }));
        assert_eq!(mobile.hear(), json!({ "command": "pong" }));
    });
}

#[test]
fn whatever_a_client_says_it_is_answered() {
    light(s(30), || {
        let server = Server::start();
        let mut socket = Socket::open(&server);
        socket.say("hello");
        assert_eq!(socket.hear()["definition"], "messageNotReadable");
        socket.asks(json!({ "command": "publish", "streamId": "a/b" }), "invalidStreamName");
        socket.asks(json!({ "command": "joinRoom", "room": "r" }), "no_active_streams_in_room");
        socket.asks(json!({ "command": "getStreamInfo", "streamId": "s" }), "no_stream_exist");
        socket.say(json!({ "command": "getIceServerConfig" }));
        assert_eq!(socket.hear()["command"], "iceServerConfig");

        socket.say(json!({ "command": "publish", "streamId": "s" }));
        assert_eq!(socket.hear(), json!({ "command": "start", "streamId": "s" }));
        let offer = json!({ "command": "takeConfiguration", "streamId": "s", "type": "offer", "sdp": "v=0" });
        socket.asks(offer, "notSetRemoteDescription");
        assert!(server.broadcast("live", "s").is_none(), "an offer that can't be taken claims nothing");

        socket.0.send(Message::binary(vec![1, 2, 3])).expect("taken");
        assert_eq!(socket.hear_end(), Some(CloseCode::Unsupported));
    });
}

/// An answer makes no publisher: who sends now goes on. Where nobody is replaced the client is told at once.
#[test]
fn a_client_that_never_connects_takes_nobodys_stream() {
    paired(s(60), || {
        let server = Server::with("[apps.live]\ntakeover = \"replace\"\n[apps.first]\ntakeover = \"refuse\"\n");
        let urls = ["live/one", "first/one"].map(|name| server.rtmp_url(name));
        let _ffmpeg = Clock::default().publish_to_all(&urls);
        server.until_status("one", "broadcasting");
        until("both", s(10), || (server.broadcast("first", "one")?["status"] == "broadcasting").then_some(()));
        let publish = json!({ "command": "publish", "streamId": "one" });
        let offer = json!({ "command": "takeConfiguration", "streamId": "one", "type": "offer", "sdp": SOUND_OFFER });

        let mut ghost = Socket::open(&server);
        ghost.say(&publish);
        assert_eq!(ghost.hear()["command"], "start");
        ghost.say(&offer);
        let answer = ghost.hear();
        assert_eq!((&answer["command"], &answer["type"]), (&json!("takeConfiguration"), &json!("answer")), "{answer}");

        let mut second = Socket::try_open(&server, "/first/websocket").expect("an open socket");
        second.say(&publish);
        assert_eq!(second.hear()["command"], "start");
        let told = second.asks(offer, "streamIdInUse");
        assert!(told["information"].as_str().is_some_and(|text| text.contains("rtmp")), "{told}");

        ghost.asks(json!({ "command": "stop", "streamId": "one" }), "publish_finished");
        for app in ["live", "first"] {
            let broadcast = server.broadcast(app, "one").expect("it goes on");
            assert_eq!((&broadcast["status"], &broadcast["publishType"]), (&json!("broadcasting"), &json!("RTMP")));
        }
    });
}

#[test]
fn a_flood_of_messages_waits_its_turn() {
    light(s(30), || {
        let server = Server::start();
        let mut socket = Socket::open(&server);
        let begun = Instant::now();
        (0..400).for_each(|_| socket.say(json!({ "command": "ping" })));
        (0..400).for_each(|_| assert_eq!(socket.hear(), json!({ "command": "pong" })));
        assert!(begun.elapsed() >= s(2), "four hundred messages in {:?}", begun.elapsed());
        // No longer than any message needs to be.
        let mut endless = Socket::open(&server);
        let text = format!("{{\"command\":\"ping\",\"x\":\"{}\"}}", "x".repeat(200_000));
        // It may be refused while it is still being sent.
        let _ = endless.0.send(Message::text(text));
        until("the end of its socket", s(10), || endless.0.read().err());
    });
}

#[test]
fn a_client_is_sent_away_when_the_node_stops() {
    light(s(30), || {
        let mut server = Server::start();
        let mut socket = Socket::open(&server);
        socket.say(json!({ "command": "ping" }));
        socket.hear();
        server.signal("TERM");
        assert_eq!(socket.hear(), json!({ "command": "notification", "definition": "server_will_stop" }));
        socket.asks(json!({ "command": "play", "streamId": "s" }), "server_will_stop");
        socket.0.close(None).expect("closing");
        assert!(server.terminate(s(10)).success());
    });
}

#[test]
fn who_came_first_is_told_when_somebody_publishes() {
    paired(s(60), || {
        let server = Server::start();
        let mut socket = Socket::open(&server);
        let play = json!({ "command": "play", "streamId": "early", "token": "", "trackList": [] });
        let absent = socket.asks(play.clone(), "no_stream_exist");
        assert_eq!(absent["information"], "stream_not_exist_or_not_streaming");
        assert_eq!(absent["error_code"], "404");
        let _ffmpeg = Clock::default().publish(&server.rtmp_url("live/early"));
        assert_eq!(socket.hear()["definition"], "streaming_started");

        socket.say(play);
        let offer = socket.hear();
        assert_eq!((&offer["command"], &offer["type"]), (&json!("takeConfiguration"), &json!("offer")), "{offer}");
        let sdp = offer["sdp"].as_str().expect("an offer");
        let mids: Vec<_> = sdp.lines().filter_map(|line| line.strip_prefix("a=mid:")).collect();
        assert!(mids.len() >= 2, "picture and sound: {sdp}");
        assert!(mids.iter().all(|mid| offer["idMapping"][mid] == "early"), "{offer}");
        socket.asks(json!({ "command": "play", "streamId": "early" }), "already_playing");

        socket.say(json!({ "command": "getStreamInfo", "streamId": "early" }));
        let quality = &socket.hear()["streamInfo"][0];
        assert_eq!((&quality["streamWidth"], &quality["streamHeight"]), (&json!(640), &json!(360)), "{quality}");
        socket.say(json!({ "command": "getTrackList", "streamId": "early" }));
        assert_eq!(socket.hear(), json!({ "command": "trackList", "streamId": "early", "trackList": ["early"] }));
        let told = socket.asks(json!({ "command": "getBroadcastObject", "streamId": "early" }), "broadcastObject");
        let told: Value = serde_json::from_str(told["broadcast"].as_str().expect("text")).expect("JSON in JSON");
        assert_eq!((&told["streamId"], &told["status"]), (&json!("early"), &json!("broadcasting")), "{told}");

        assert_eq!(server.broadcast("live", "early").expect("known")["webRTCViewerCount"], 1);
        socket.asks(json!({ "command": "stop", "streamId": "early" }), "play_finished");
        until("the viewer to be gone", s(5), || {
            (server.broadcast("live", "early")?["webRTCViewerCount"] == 0).then_some(())
        });
    });
}
