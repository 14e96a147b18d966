//! TURN: credentials that a real coturn takes until they expire, and a viewer whose only way is through it.

use std::{
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::SystemTime,
};

use serde_json::{Value, json};

use crate::harness::{
    Clock, Player, Process, SOUND_OFFER, Server, heavy, light, paired, s, scratch, server, site, until,
};

const SECRET: &str = "rosebud-57349";

struct Coturn {
    process: Process,
    address: SocketAddr,
}

impl Coturn {
    /// As the README tells operators to run it, but on loopback.
    fn start() -> Self {
        let address = server::free_address();
        let folder = scratch("coturn");
        let mut command = Command::new("turnserver");
        command.args(["-n", "--use-auth-secret", &format!("--static-auth-secret={SECRET}"), "--realm=example.org"]);
        command.args(["--user-quota=12", "--no-cli", "--no-multicast-peers", "--no-tls", "--no-dtls"]);
        command.args(["--denied-peer-ip=0.0.0.0-255.255.255.255", "--allowed-peer-ip=127.0.0.1"]);
        command.args(["--allow-loopback-peers", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1"]);
        // Above what tests take for themselves, below what the kernel hands out.
        command.args([&format!("--listening-port={}", address.port()), "--min-port=30000", "--max-port=32000"]);
        command.arg(format!("--userdb={}", folder.join("users").display()));
        command.arg(format!("--pidfile={}", folder.join("pid").display()));
        command.args(["--log-file=stdout", "--simple-log", "--verbose"]);
        let process = Process::start("coturn", &mut command);
        until("coturn to listen", s(10), || TcpStream::connect(address).ok());
        Self { process, address }
    }

    /// Whether somebody with these credentials gets a relay, and messages through it.
    fn relays(&self, username: &str, credential: &str) -> bool {
        let port = self.address.port().to_string();
        let mut command = Command::new("turnutils_uclient");
        // Two clients, a message from each to the other.
        command.args(["-y", "-c", "-m", "1", "-n", "1", "-u", username, "-w", credential, "-p", &port, "127.0.0.1"]);
        let output = command.stdin(Stdio::null()).output().expect("turnutils_uclient comes with coturn");
        let told = String::from_utf8_lossy(&output.stdout);
        let has_relay = output.status.success() && told.contains("tot_recv_msgs=2");
        assert!(has_relay || told.contains("Cannot complete Allocation"), "{told}");
        has_relay
    }
}

/// The credential as OpenSSL computes it.
fn sign(username: &str) -> String {
    let script = "printf %s \"$1\" | openssl dgst -sha1 -hmac \"$2\" -binary | base64";
    let output = Command::new("sh").args(["-c", script, "sh", username, SECRET]).output().expect("openssl runs");
    String::from_utf8(output.stdout).expect("base64").trim().to_owned()
}

fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_secs()
}

fn settings(urls: &[String]) -> String {
    format!("[turn]\nurls = {urls:?}\nsecret = \"{SECRET}\"\nttl_s = 600\n")
}

/// Username and credential of the one server that is told.
fn login(told: &Value) -> (&str, &str) {
    let server = &told["iceServers"][0];
    (server["username"].as_str().expect("a username"), server["credential"].as_str().expect("a credential"))
}

#[test]
fn a_viewer_whose_network_lets_only_turn_through_watches() {
    heavy(s(60), || {
        let mut coturn = Coturn::start();
        // Over TCP, because those are the networks that need it.
        let server = Server::with(&settings(&[format!("turn:{}?transport=tcp", coturn.address)]));
        let _publisher = Clock::default().publish(&server.rtmp_url("live/relayed"));
        server.until_status("relayed", "broadcasting");
        let mut viewer = Player::whep_relay(&server, "live", "relayed");
        viewer.until_playing();
        let seen = viewer.settle(4.0);
        seen.assert_sound();
        println!("through coturn by TCP: delay {}", seen.at("delay_ms"));
        assert_eq!((seen.text("rtc.candidate"), seen.text("rtc.relay_protocol")), ("relay", "tcp"), "{:#}", seen.0);
        assert!(seen.number("rtc.video.frames") > 100.0, "decoded: {:#}", seen.0);
        coturn.process.line("an allocation", s(1), |line| line.contains("ALLOCATE processed, success").then_some(()));
        viewer.finish();
    });
}

#[test]
fn our_pages_find_their_way_through_turn() {
    paired(s(90), || {
        let coturn = Coturn::start();
        let server = Server::with(&settings(&[format!("turn:{}?transport=tcp", coturn.address)]));
        let mut page = Player::publish_page(&server.url("/live/publish.html?id=pages"), &["--relay"]);
        page.until("the camera's picture", s(20), |seen| seen.number("pictures") > 5.0);
        page.press("click start");
        page.until("figures through coturn", s(20), |seen| seen.text("path") == "a relay (TCP)");
        let mut viewer = Player::page_relay(&server, "live", "pages");
        viewer.until_playing();
        let seen = viewer.until("the way to be told", s(10), |seen| !seen.text("page.protocol").is_empty());
        assert_eq!(seen.text("page.protocol"), "WebRTC over a relay (TCP)", "{:#}", seen.0);
    });
}

#[test]
fn coturn_takes_our_credentials_until_they_expire() {
    light(s(60), || {
        let coturn = Coturn::start();
        let server = Server::with(&settings(&[format!("turn:{}", coturn.address)]));
        let told = server.json("/live/turn-credentials");
        let (username, credential) = login(&told);
        let (expires_s, name) = username.split_once(':').expect("an expiry and a name");
        let expires_s: u64 = expires_s.parse().expect("a number");
        assert!((595..=600).contains(&(expires_s - now_s())), "expires at {expires_s}, now it is {}", now_s());
        assert_eq!(credential, sign(username));
        assert!(coturn.relays(username, credential), "as told");

        let expired = format!("{}:{name}", now_s() - 2);
        assert!(!coturn.relays(&expired, &sign(&expired)), "expired");
        let stretched = format!("{}:{name}", expires_s + 600);
        assert!(!coturn.relays(&stretched, credential), "with a later expiry written into it");
        assert!(coturn.relays(&stretched, &sign(&stretched)), "nothing but the signature was wrong");
    });
}

#[test]
fn publishers_are_told_of_turn_with_the_answer() {
    light(s(30), || {
        let server = Server::with(&settings(&["turn:turn.example.org".to_owned()]));
        let request =
            server.request("POST", "/live/whip/told").header("content-type", "application/sdp").body(SOUND_OFFER);
        let response = site::send(request);
        assert_eq!(response.status(), 201);
        let link = response.headers()["link"].to_str().expect("ASCII");
        let parts: Vec<_> = link.split('"').collect();
        let ["<turn:turn.example.org>; rel=", "ice-server", "; username=", username, "; credential=", credential, ..] =
            parts[..]
        else {
            panic!("{link}")
        };
        assert_eq!(credential, sign(username));
    });
}

#[test]
fn pages_anywhere_are_told_of_turn_and_nothing_of_it_is_logged() {
    light(s(30), || {
        let page = settings(&["turn:turn.example.org".to_owned(), "turns:turn.example.org:443".to_owned()]);
        let server = Server::with(&format!(
            "{page}[log]\nfilter = \"trace\"\n[rtc]\nice_servers = [{{ url = \"stun:stun.example.org\" }}]\n[apps.shop]\n"
        ));
        for app in ["live", "shop"] {
            let request = server.request("GET", &format!("/{app}/turn-credentials"));
            let response = site::send(request.header("origin", "https://page.example"));
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(response.headers()["content-type"], "application/json");
            assert_eq!(response.headers()["access-control-allow-origin"], "https://page.example");
            let told: Value = response.json().expect("JSON");
            let servers = told["iceServers"].as_array().expect("a list");
            assert_eq!(servers[0], json!({ "urls": ["stun:stun.example.org"] }));
            assert_eq!(servers[1]["urls"], json!(["turn:turn.example.org", "turns:turn.example.org:443"]));
            let log = server.log();
            for text in [SECRET, servers[1]["credential"].as_str().expect("a credential")] {
                assert!(!log.contains(text), "{text} is in the log");
            }
        }
        let response = server.get("/attic/turn-credentials");
        assert_eq!(response.status(), 404);
        assert!(response.text().expect("a sentence").contains("attic"));
        assert_eq!(site::send(server.request("POST", "/live/turn-credentials")).status(), 405);
    });
}

#[test]
fn a_script_that_collects_turn_credentials_is_slowed_down() {
    light(s(60), || {
        let server = Server::start();
        let path = "/live/turn-credentials";
        assert_eq!(server.json(path), json!({ "iceServers": [] }), "without settings there is nothing to tell");
        let mut answered = 1;
        let refusal = until("a refusal", s(30), || {
            // The sender of a request writes this header as it likes.
            let request = server.request("GET", path).header("x-forwarded-for", format!("192.0.2.{answered}"));
            let response = site::send(request);
            answered += usize::from(response.status() == 200);
            (response.status() != 200).then_some(response)
        });
        assert_eq!(refusal.status(), 429);
        assert_eq!(refusal.headers()["retry-after"], "1");
        assert!((100..300).contains(&answered), "{answered} were answered");
        assert_eq!(server.get("/live/rest/v2/broadcasts/list/0/1").status(), 200, "the rest goes on");
        until("the next answer", s(3), || (server.get(path).status() == 200).then_some(()));
    });
}
