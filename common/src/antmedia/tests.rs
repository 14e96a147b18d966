use super::*;
use crate::{
    ice_servers::{IceServer, Login},
    live::BroadcastId,
};

/// A socket of the application `live`. What it is expected to do is told as replies go over the wire, and actions by
/// their names.
struct Socket {
    machine: Machine,
    /// Of the newest publish or play.
    ticket: Option<Ticket>,
}

impl Socket {
    fn open() -> Self {
        Self { machine: Machine::new("live"), ticket: None }
    }

    #[track_caller]
    fn client(&mut self, said: &str, expected: &[&str]) -> &mut Self {
        let actions = self.machine.receive(said);
        self.check(said, &actions, expected)
    }

    #[track_caller]
    fn node(&mut self, outcome: Outcome, expected: &[&str]) -> &mut Self {
        let about = format!("{outcome:?}");
        let actions = self.machine.outcome(self.ticket.expect("something was asked for"), outcome);
        self.check(&about, &actions, expected)
    }

    #[track_caller]
    fn check(&mut self, about: &str, actions: &[Action], expected: &[&str]) -> &mut Self {
        for action in actions {
            if let Action::Publish { ticket, .. } | Action::Invite { ticket, .. } = action {
                self.ticket = Some(*ticket);
            }
        }
        let shown: Vec<String> = actions.iter().map(shown).collect();
        assert_eq!(shown, expected, "after {about}");
        self
    }

    /// As far as media that flows.
    fn published(stream: &str) -> Self {
        let mut socket = Self::open();
        socket
            .client(
                &format!(r#"{{"command":"publish","streamId":"{stream}"}}"#),
                &[&format!(r#"{{"command":"start","streamId":"{stream}"}}"#)],
            )
            .client(
                &format!(r#"{{"command":"takeConfiguration","streamId":"{stream}","type":"offer","sdp":"o"}}"#),
                &[&format!("publish live/{stream}: o")],
            )
            .node(
                Outcome::Answer("a".into()),
                &[&format!(r#"{{"command":"takeConfiguration","streamId":"{stream}","type":"answer","sdp":"a"}}"#)],
            )
            .node(
                Outcome::Running,
                &[&format!(r#"{{"command":"notification","definition":"publish_started","streamId":"{stream}"}}"#)],
            );
        socket
    }

    fn playing(stream: &str) -> Self {
        let mut socket = Self::open();
        socket
            .client(&format!(r#"{{"command":"play","streamId":"{stream}"}}"#), &[&format!("invite live/{stream}")])
            .node(Outcome::Offer("v=0\r\na=mid:0\r\na=mid:1\r\n".into()), &[&format!(
                "{{\"command\":\"takeConfiguration\",\"streamId\":\"{stream}\",\"type\":\"offer\",\
                 \"sdp\":\"v=0\\r\\na=mid:0\\r\\na=mid:1\\r\\n\",\"idMapping\":{{\"0\":\"{stream}\",\"1\":\"{stream}\"}}}}"
            )])
            .client(
                &format!(r#"{{"command":"takeConfiguration","streamId":"{stream}","type":"answer","sdp":"a"}}"#),
                &["accept: a"],
            )
            .node(Outcome::Running, &[&format!(
                r#"{{"command":"notification","definition":"play_started","streamId":"{stream}"}}"#
            )]);
        socket
    }
}

fn shown(action: &Action) -> String {
    match action {
        Action::Send(reply) => reply.text(),
        Action::Publish { stream, token, offer, .. } if token.is_empty() => format!("publish {stream}: {offer}"),
        Action::Publish { stream, token, offer, .. } => format!("publish {stream} with {token}: {offer}"),
        Action::Invite { stream, .. } => format!("invite {stream}"),
        Action::Accept { answer, .. } => format!("accept: {answer}"),
        Action::Quality { height, .. } => format!("quality {height:?}"),
        Action::Enable { kind, enabled, .. } => format!("enable {kind:?} {enabled}"),
        Action::Measure(_) => "measure".to_owned(),
        Action::Close(_) => "close".to_owned(),
        Action::Look { stream, what } => format!("look {stream}: {what:?}"),
        Action::ListIceServers => "list ICE servers".to_owned(),
    }
}

const PONG: &str = r#"{"command":"pong"}"#;
const SERVER_WILL_STOP: &str = r#"{"command":"notification","definition":"server_will_stop"}"#;
const PLAY_FINISHED: &str = r#"{"command":"notification","definition":"play_finished","streamId":"s"}"#;
const PUBLISH_FINISHED: &str = r#"{"command":"notification","definition":"publish_finished","streamId":"s"}"#;

fn error(definition: &str, information: &str) -> String {
    format!(r#"{{"command":"error","definition":"{definition}","streamId":"s","information":"{information}"}}"#)
}

#[test]
fn what_the_sdk_sends_unasked_is_answered() {
    Socket::open()
        .client(r#"{"command":"getIceServerConfig"}"#, &["list ICE servers"])
        .client(r#"{"command":"ping"}"#, &[PONG]);
}

/// As `@antmedia/webrtc_adaptor` 2.16.2 writes it, word for word.
#[test]
fn a_publisher_comes_and_goes() {
    Socket::open()
        .client(
            r#"{"command":"publish","streamId":"s","subscriberId":"","subscriberCode":"","streamName":"","mainTrack":"","video":true,"audio":true,"metaData":"","role":""}"#,
            &[r#"{"command":"start","streamId":"s"}"#],
        )
        .client(
            r#"{"command":"takeCandidate","streamId":"s","label":0,"id":"0","candidate":"candidate:1 1 udp 1 192.0.2.1 9 typ host"}"#,
            &[],
        )
        .client(r#"{"command":"takeConfiguration","streamId":"s","type":"offer","sdp":"v=0\r\n"}"#, &["publish live/s: v=0\r\n"])
        .node(Outcome::Answer("v=0\r\n".into()), &[r#"{"command":"takeConfiguration","streamId":"s","type":"answer","sdp":"v=0\r\n"}"#])
        .node(Outcome::Running, &[r#"{"command":"notification","definition":"publish_started","streamId":"s"}"#])
        .node(Outcome::Running, &[])
        .client(r#"{"command":"stop","streamId":"s"}"#, &["close", PUBLISH_FINISHED])
        .client(r#"{"command":"stop","streamId":"s"}"#, &[])
        .client(r#"{"command":"publish","streamId":"s"}"#, &[r#"{"command":"start","streamId":"s"}"#]);
}

#[test]
fn a_publishers_token_comes_with_its_offer() {
    Socket::open()
        .client(r#"{"command":"publish","streamId":"s","token":"t"}"#, &[r#"{"command":"start","streamId":"s"}"#])
        .client(
            r#"{"command":"takeConfiguration","streamId":"s","type":"offer","sdp":"o"}"#,
            &["publish live/s with t: o"],
        );
}

#[test]
fn a_player_comes_and_goes() {
    Socket::open()
        .client(
            r#"{"command":"play","streamId":"s","token":"","room":"","trackList":[],"subscriberId":"","subscriberCode":"","viewerInfo":"","role":"","userPublishId":""}"#,
            &["invite live/s"],
        )
        .node(
            Outcome::Offer("a=mid:video\na=mid:1\n".into()),
            &[r#"{"command":"takeConfiguration","streamId":"s","type":"offer","sdp":"a=mid:video\na=mid:1\n","idMapping":{"1":"s","video":"s"}}"#],
        )
        .client(r#"{"command":"takeConfiguration","streamId":"s","type":"answer","sdp":"v=0"}"#, &["accept: v=0"])
        .client(r#"{"command":"takeCandidate","streamId":"s","label":0,"id":"0","candidate":""}"#, &[])
        .node(Outcome::Running, &[r#"{"command":"notification","definition":"play_started","streamId":"s"}"#])
        // The web player asks at this point.
        .client(r#"{"command":"getStreamInfo","streamId":"s"}"#, &["look live/s: Renditions"])
        .client(r#"{"command":"stop","streamId":"s"}"#, &["close", PLAY_FINISHED]);
}

#[test]
fn several_streams_share_a_socket() {
    let mut socket = Socket::playing("one");
    socket.client(r#"{"command":"publish","streamId":"two"}"#, &[r#"{"command":"start","streamId":"two"}"#]);
    socket.client(r#"{"command":"play","streamId":"three"}"#, &["invite live/three"]);
    socket.node(Outcome::Refused(Refusal::Stopping), &["close", SERVER_WILL_STOP]);
    let stopped = r#"{"command":"notification","definition":"play_finished","streamId":"one"}"#;
    socket.client(r#"{"command":"stop","streamId":"one"}"#, &["close", stopped]);
    socket.client(
        r#"{"command":"takeConfiguration","streamId":"two","type":"offer","sdp":"o"}"#,
        &["publish live/two: o"],
    );
}

#[test]
fn a_full_node_sends_its_client_to_another_unless_it_has_more_here() {
    let full = || Outcome::Refused(Refusal::Full("full".into()));
    let error = r#"{"command":"error","definition":"highResourceUsage","streamId":"s","information":"full"}"#;
    let play = r#"{"command":"play","streamId":"s"}"#;
    Socket::open().client(play, &["invite live/s"]).node(full(), &["close", error, SERVER_WILL_STOP]);
    Socket::playing("one").client(play, &["invite live/s"]).node(full(), &["close", error]);
}

#[test]
fn who_plays_too_early_is_told_when_it_is_time() {
    let absent = r#"{"command":"error","definition":"no_stream_exist","streamId":"s","error_code":"404","information":"stream_not_exist_or_not_streaming"}"#;
    let live = r#"{"command":"notification","definition":"streaming_started","streamId":"s"}"#;
    let mut socket = Socket::open();
    socket
        .client(r#"{"command":"play","streamId":"s"}"#, &["invite live/s"])
        .node(Outcome::Absent, &[absent])
        .node(Outcome::Live, &["close", live])
        .client(r#"{"command":"play","streamId":"s"}"#, &["invite live/s"])
        .node(Outcome::Absent, &[absent])
        // The SDK's adaptor does not wait: every three seconds it stops and plays again.
        .client(r#"{"command":"play","streamId":"s"}"#, &["close", "invite live/s"])
        .node(Outcome::Absent, &[absent])
        .client(r#"{"command":"stop","streamId":"s"}"#, &["close"])
        .node(Outcome::Live, &["close"]);
}

#[test]
fn one_stream_id_is_one_thing_on_a_socket() {
    let publish = r#"{"command":"publish","streamId":"s"}"#;
    let play = r#"{"command":"play","streamId":"s"}"#;
    let publishing = error("already_publishing", "this connection publishes it, stop that first");
    let playing = error("already_playing", "this connection plays it, stop that first");
    Socket::published("s").client(publish, &[&publishing]).client(play, &[&publishing]);
    Socket::playing("s").client(publish, &[&playing]).client(play, &[&playing]);
    Socket::open().client(publish, &[r#"{"command":"start","streamId":"s"}"#]).client(publish, &[&publishing]);
}

#[test]
fn refusals_have_the_names_that_clients_act_on() {
    for (refusal, definition) in [
        (Refusal::InUse("t".into()), "streamIdInUse"),
        (Refusal::Unauthorized("t".into()), "unauthorized_access"),
        (Refusal::Sdp("t".into()), "notSetRemoteDescription"),
        (Refusal::Busy("t".into()), "highResourceUsage"),
        (Refusal::Registry("t".into()), "data_store_not_available"),
    ] {
        Socket::open()
            .client(r#"{"command":"play","streamId":"s"}"#, &["invite live/s"])
            .node(Outcome::Refused(refusal.clone()), &["close", &error(definition, "t")])
            .client(r#"{"command":"publish","streamId":"s"}"#, &[r#"{"command":"start","streamId":"s"}"#])
            .client(
                r#"{"command":"takeConfiguration","streamId":"s","type":"offer","sdp":"o"}"#,
                &["publish live/s: o"],
            )
            .node(Outcome::Refused(refusal), &["close", &error(definition, "t")]);
    }
}

#[test]
fn ends_that_the_client_did_not_ask_for() {
    Socket::published("s").node(Outcome::Ended(Ending::Over), &["close", PUBLISH_FINISHED]);
    Socket::playing("s").node(Outcome::Ended(Ending::Over), &["close", PLAY_FINISHED]);
    // "stop" keeps the SDK from taking the broadcast back.
    Socket::published("s").node(
        Outcome::Ended(Ending::Replaced),
        &[
            "close",
            &error("streamIdInUse", "another publisher took it over"),
            r#"{"command":"stop","streamId":"s"}"#,
            PUBLISH_FINISHED,
        ],
    );
    Socket::published("s")
        .node(Outcome::Ended(Ending::Stopped), &["close", r#"{"command":"stop","streamId":"s"}"#, PUBLISH_FINISHED]);
    Socket::open()
        .client(r#"{"command":"publish","streamId":"s"}"#, &[r#"{"command":"start","streamId":"s"}"#])
        .client(r#"{"command":"takeConfiguration","streamId":"s","type":"offer","sdp":"o"}"#, &["publish live/s: o"])
        .node(Outcome::Ended(Ending::Over), &["close", &error("publishTimeoutError", "no media arrived")]);
}

#[test]
fn an_outcome_that_comes_too_late_is_let_go_of() {
    let mut socket = Socket::open();
    socket.client(r#"{"command":"play","streamId":"s"}"#, &["invite live/s"]);
    let old = socket.ticket;
    socket
        .client(r#"{"command":"stop","streamId":"s"}"#, &["close", PLAY_FINISHED])
        .client(r#"{"command":"play","streamId":"s"}"#, &["invite live/s"]);
    assert_ne!(socket.ticket, old);
    socket.ticket = old;
    socket.node(Outcome::Offer("a=mid:0".into()), &["close"]).node(Outcome::Ended(Ending::Over), &["close"]);
    let unasked = r#"{"command":"takeConfiguration","streamId":"s","type":"answer","sdp":"a"}"#;
    socket.client(unasked, &[&error("notSetRemoteDescription", r#"no description of type \"answer\" was waited for"#)]);
}

#[test]
fn descriptions_that_nobody_waits_for() {
    let information = "no description of type \\\"offer\\\" was waited for";
    let second = r#"{"command":"takeConfiguration","streamId":"s","type":"offer","sdp":"o"}"#;
    Socket::published("s").client(second, &[&error("notSetRemoteDescription", information)]);
    Socket::playing("s").client(second, &[&error("notSetRemoteDescription", information)]);
    let stranger = error("stream_not_exist_or_not_streaming", "this connection has no such stream");
    Socket::open().client(second, &[&stranger]);
    let cut = error("notSetRemoteDescription", "no description of type \\\"xxxxxxxxxxxxxxxx\\\" was waited for");
    let kind = "x".repeat(1000);
    let long = format!(r#"{{"command":"takeConfiguration","streamId":"s","type":"{kind}"}}"#);
    Socket::published("s").client(&long, &[&cut]);
}

#[test]
fn a_player_chooses_its_quality_and_its_tracks() {
    let mut socket = Socket::playing("s");
    for (height, expected) in [
        ("720", "quality Some(720)"),
        (r#""720""#, "quality Some(720)"),
        ("0", "quality None"),
        (r#""auto""#, "quality None"),
        (r#""""#, "quality None"),
        ("-1", "quality None"),
        ("[720]", "quality None"),
    ] {
        socket.client(
            &format!(r#"{{"command":"forceStreamQuality","streamId":"s","streamHeight":{height}}}"#),
            &[expected],
        );
    }
    socket
        .client(r#"{"command":"toggleVideo","streamId":"s","trackId":"s","enabled":false}"#, &["enable Video false"])
        .client(r#"{"command":"toggleAudio","streamId":"s","trackId":"","enabled":"false"}"#, &["enable Audio false"])
        .client(
            r#"{"command":"enableTrack","streamId":"s","trackId":"s","enabled":true}"#,
            &["enable Video true", "enable Audio true"],
        )
        .client(
            r#"{"command":"enableTrack","streamId":"s","trackId":"other","enabled":true}"#,
            &[&error("stream_not_exist_or_not_streaming", "it has no such track, only itself")],
        );
    let stranger = error("stream_not_exist_or_not_streaming", "this connection has no such stream");
    Socket::published("s")
        .client(r#"{"command":"toggleVideo","streamId":"s"}"#, &[&stranger])
        .client(r#"{"command":"forceStreamQuality","streamId":"s","streamHeight":0}"#, &[&stranger]);
}

#[test]
fn a_player_is_told_how_its_stream_arrives() {
    let measured = Measured { target_bitrate: 800_000, video_bitrate: 1_200_000, audio_bitrate: 64_000 };
    let mut socket = Socket::playing("s");
    let actions = socket.machine.measure();
    socket.check("a turn", &actions, &["measure"]).node(
        Outcome::Measured(measured),
        &[r#"{"command":"notification","definition":"bitrateMeasurement","streamId":"s","targetBitrate":800000,"videoBitrate":1200000,"audioBitrate":64000}"#],
    );
    socket.client(r#"{"command":"stop","streamId":"s"}"#, &["close", PLAY_FINISHED]);
    assert_eq!(socket.machine.measure(), []);
    assert_eq!(Socket::published("s").machine.measure(), [], "publishers know it themselves");
}

#[test]
fn questions_about_a_stream() {
    Socket::open()
        .client(r#"{"command":"getStreamInfo","streamId":"s"}"#, &["look live/s: Renditions"])
        .client(r#"{"command":"getBroadcastObject","streamId":"s"}"#, &["look live/s: Description"])
        .client(r#"{"command":"getTrackList","streamId":"s","token":""}"#, &["look live/s: Tracks"]);
    let id = BroadcastId::new("live", "s").unwrap();
    let rendition = Rendition {
        stream_width: 1280,
        stream_height: 720,
        video_bitrate: 2_000_000,
        audio_bitrate: 96_000,
        video_codec: "h264",
    };
    for (found, expected) in [
        (None, r#"{"command":"error","definition":"no_stream_exist","streamId":"s","error_code":"404"}"#),
        (
            Some(Found::Renditions(vec![rendition])),
            r#"{"command":"streamInformation","streamId":"s","streamInfo":[{"streamWidth":1280,"streamHeight":720,"videoBitrate":2000000,"audioBitrate":96000,"videoCodec":"h264"}]}"#,
        ),
        (Some(Found::Tracks), r#"{"command":"trackList","streamId":"s","trackList":["s"]}"#),
        (
            Some(Found::Description(r#"{"streamId":"s"}"#.into())),
            r#"{"command":"notification","definition":"broadcastObject","streamId":"s","broadcast":"{\"streamId\":\"s\"}"}"#,
        ),
    ] {
        assert_eq!(Machine::found(&id, found).text(), expected);
    }
}

#[test]
fn one_ice_server_is_told_turn_before_stun() {
    let server = |url: &str, name: &str| IceServer {
        urls: vec![url.to_owned()],
        login: (!name.is_empty()).then(|| Login { username: name.to_owned(), credential: name.to_owned() }),
    };
    let stun = server("stun:a.example:3478", "");
    let turns = server("turns:b.example:5349", "u");
    let turn = server("turn:b.example:3478?transport=udp", "u");
    for (servers, expected) in [
        (
            vec![],
            r#"{"command":"iceServerConfig","stunServerUri":"","turnServerUsername":"","turnServerCredential":""}"#,
        ),
        (
            vec![turns.clone(), stun.clone()],
            r#"{"command":"iceServerConfig","stunServerUri":"stun:a.example:3478","turnServerUsername":"","turnServerCredential":""}"#,
        ),
        (
            vec![stun, turns, turn],
            r#"{"command":"iceServerConfig","stunServerUri":"turn:b.example:3478?transport=udp","turnServerUsername":"u","turnServerCredential":"u"}"#,
        ),
    ] {
        assert_eq!(Machine::ice_servers(&servers).text(), expected);
    }
}

#[test]
fn a_node_that_stops_sends_clients_away() {
    let mut socket = Socket::playing("s");
    let told = socket.machine.send_away();
    socket
        .check("send away", &told, &[SERVER_WILL_STOP])
        .client(r#"{"command":"ping"}"#, &[PONG])
        .client(r#"{"command":"play","streamId":"t"}"#, &[SERVER_WILL_STOP])
        .client(r#"{"command":"publish","streamId":"t"}"#, &[SERVER_WILL_STOP])
        .client(r#"{"command":"stop","streamId":"s"}"#, &["close", PLAY_FINISHED]);
    socket.machine.keep();
    assert!(!socket.machine.publishes());
    socket.client(r#"{"command":"publish","streamId":"t"}"#, &[r#"{"command":"start","streamId":"t"}"#]);
    assert!(socket.machine.publishes());
}

#[test]
fn names_are_checked() {
    let missing = r#"{"command":"error","definition":"noStreamNameSpecified","information":"stream id is empty"}"#;
    for said in [
        r#"{"command":"publish"}"#,
        r#"{"command":"play","streamId":""}"#,
        r#"{"command":"stop","streamId":null}"#,
        r#"{"command":"getStreamInfo","streamId":["s"]}"#,
    ] {
        Socket::open().client(said, &[missing]);
    }
    let invalid = r#"{"command":"error","definition":"invalidStreamName","information":"stream id contains '/', only A-Z a-z 0-9 . _ - are allowed"}"#;
    Socket::open().client(r#"{"command":"publish","streamId":"a/b"}"#, &[invalid]);
    Socket::open().client(r#"{"command":"play","streamId":7}"#, &["invite live/7"]);
}

#[test]
fn what_is_not_offered_here_is_refused_not_ignored() {
    let room =
        r#"{"command":"error","definition":"no_active_streams_in_room","information":"there are no rooms here"}"#;
    let peer = r#"{"command":"error","definition":"no_peer_associated_before","information":"peers are not connected to each other here"}"#;
    let push = r#"{"command":"notification","definition":"pushNotificationsNotSupported","success":false,"information":"push messages are not sent from here"}"#;
    let other = error("commandNotSupported", "this command is not known here");
    for (said, expected) in [
        (r#"{"command":"joinRoom","room":"r","mainTrack":"r","mode":"multitrack","streamName":"n"}"#, room),
        (r#"{"command":"leaveFromRoom","room":"r","mainTrack":"r","streamId":"s"}"#, room),
        (r#"{"command":"getRoomInfo","streamId":"s","room":"r"}"#, room),
        (r#"{"command":"join","streamId":"s","multiPeer":false,"mode":"both"}"#, peer),
        (r#"{"command":"leave","streamId":"s"}"#, peer),
        (r#"{"command":"peerMessageCommand","streamId":"s","definition":"d","data":{}}"#, peer),
        (r#"{"command":"registerPushNotificationToken","subscriberId":"u","token":"t","pnsType":"fcm"}"#, push),
        (r#"{"command":"sendPushNotification","subscriberId":"u","token":"t","topic":"x"}"#, push),
        (r#"{"command":"getSubtracks","streamId":"s","role":"","offset":0,"size":10}"#, &other),
        (r#"{"command":"getSubtracksCount","streamId":"s","role":"","status":""}"#, &other),
        (r#"{"command":"getSubscriberCount","streamId":"s"}"#, &other),
        (r#"{"command":"getSubscribers","streamId":"s","offset":0,"size":10}"#, &other),
        (r#"{"command":"assignVideoTrackCommand","streamId":"s","videoTrackId":"v","enabled":true}"#, &other),
        (r#"{"streamId":"s","command":"updateVideoTrackAssignmentsCommand","offset":0,"size":4}"#, &other),
        (r#"{"streamId":"s","command":"setMaxVideoTrackCountCommand","maxTrackCount":4}"#, &other),
        (r#"{"command":"getVideoTrackAssignmentsCommand","streamId":"s"}"#, &other),
        (r#"{"streamId":"s","command":"getDebugInfo"}"#, &other),
        (r#"{"command":"updateStreamMetaData","streamId":"s","metaData":"m"}"#, &other),
        (r#"{"command":"makeCoffee","streamId":"s"}"#, &other),
        (
            r#"{"command":"publish","streamId":"s","mainTrack":"room"}"#,
            &error("commandNotSupported", "a stream can't be published into another one"),
        ),
    ] {
        Socket::open().client(said, &[expected]);
    }
}

#[test]
fn what_is_no_message_is_answered_too() {
    let deep = "[".repeat(10_000);
    for (said, information) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("hello", "expected value at line 1 column 1"),
        ("[1]", "invalid type: sequence, expected a map at line 1 column 0"),
        (r#"{"command":"ping""#, "EOF while parsing an object at line 1 column 17"),
        (&deep, "invalid type: sequence, expected a map at line 1 column 0"),
    ] {
        let [Action::Send(reply)] = &Machine::new("live").receive(said)[..] else { panic!("one reply to {said:?}") };
        let text = reply.text();
        assert!(text.starts_with(r#"{"command":"error","definition":"messageNotReadable""#), "{text}");
        assert!(text.contains(information) && text.len() < 300, "{text}");
    }
    let none = r#"{"command":"error","definition":"missingParameter","information":"there is no command"}"#;
    Socket::open().client(r#"{"streamId":"s"}"#, &[none]).client(r#"{"command":{"a":1}}"#, &[none]);
}

#[test]
fn a_socket_has_so_many_streams_and_no_more() {
    let mut socket = Socket::open();
    for at in 0..64 {
        let said = format!(r#"{{"command":"play","streamId":"s{at}"}}"#);
        socket.client(&said, &[&format!("invite live/s{at}")]);
    }
    let full = error("highResourceUsage", "this connection has the 64 streams it may have");
    socket
        .client(r#"{"command":"play","streamId":"s"}"#, &[&full])
        .client(r#"{"command":"stop","streamId":"s0"}"#, &["close", &PLAY_FINISHED.replace("\"s\"", "\"s0\"")])
        .client(r#"{"command":"play","streamId":"s"}"#, &["invite live/s"]);
}
