//! With a certificate: HTTPS with HTTP/2, RTMPS, and a certificate that is renewed while everything runs.

use std::{path::Path, process::Command};

use crate::harness::{Clock, Server, light, s, scratch, server::free_address, until};

/// A self-signed certificate of this name, as an operator's renewal would put it there.
pub(crate) fn certify(folder: &Path, name: &str) {
    let path = |file: &str| folder.join(file).display().to_string();
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", &format!("/CN={name}")])
        .args(["-keyout", &path("key.pem"), "-out", &path("certificate.pem")])
        .output()
        .expect("openssl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What curl prints of a request: the HTTP version, the status, and the certificate's subject.
fn ask(url: &str) -> String {
    let output = Command::new("curl")
        .args(["--silent", "--insecure", "--http2", "--max-time", "10", "--output", "/dev/null"])
        .args(["--write-out", "HTTP/%{http_version} %{response_code} %{certs}", url])
        .output()
        .expect("curl runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_certificate_opens_https_with_http_2_and_rtmps() {
    light(s(90), || {
        let folder = scratch("tls");
        certify(&folder, "first.example");
        let (https, rtmps) = (free_address(), free_address());
        let server = Server::with(&format!(
            "[tls]\ncertificate = \"{0}/certificate.pem\"\nkey = \"{0}/key.pem\"\n\
             [http]\ntls_listen = \"{https}\"\n[rtmp]\ntls_listen = \"{rtmps}\"\n",
            folder.display()
        ));
        let ready = format!("https://{https}/readyz");
        let answer = ask(&ready);
        assert!(answer.starts_with("HTTP/2 200"), "{answer}");
        assert!(answer.contains("first.example"), "{answer}");

        let publisher = Clock { seconds: 30, ..Clock::default() }.publish(&format!("rtmps://{rtmps}/live/secret"));
        server.until_playable("secret");
        let playlist = format!("https://{https}/live/streams/secret.m3u8");
        until("the playlist over HTTP/2", s(20), || ask(&playlist).starts_with("HTTP/2 200").then_some(()));

        certify(&folder, "second.example");
        server.signal("HUP");
        until("the renewed certificate", s(10), || ask(&ready).contains("second.example").then_some(()));
        let broadcast = server.broadcast("live", "secret").expect("the publisher noticed nothing");
        assert_eq!(broadcast["publisherConnected"], true);
        publisher.stop();
    });
}

#[test]
fn a_certificate_that_is_none_is_named() {
    light(s(30), || {
        let folder = scratch("tls");
        std::fs::write(folder.join("key.pem"), "nothing").expect("write a file");
        let file = folder.join("headwater.toml");
        let page = format!("[tls]\ncertificate = \"{0}/missing.pem\"\nkey = \"{0}/key.pem\"\n", folder.display());
        std::fs::write(&file, page).expect("write settings");
        let mut command = crate::harness::server::headwater();
        let output = command.arg("--config").arg(&file).arg("--data").arg(&folder).output().expect("the binary runs");
        assert!(!output.status.success());
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.contains("missing.pem"), "{complaint}");
    });
}
