//! The command line, as an operator meets it.

use std::process::Output;

use crate::harness::{Server, light, s, scratch, server::headwater};

fn run(arguments: &[&str]) -> Output {
    headwater().args(arguments).output().expect("the binary runs")
}

fn complaint(settings: &str) -> String {
    complaint_of(&[], settings)
}

/// Of a start with this command.
fn complaint_of(command: &[&str], settings: &str) -> String {
    let folder = scratch("settings");
    let file = folder.join("headwater.toml");
    std::fs::write(&file, settings).expect("write settings");
    let [file, data] = [&file, &folder].map(|path| path.to_str().expect("a path of text"));
    let output = run(&[command, &["--config", file, "--data", data]].concat());
    std::fs::remove_dir_all(&folder).expect("remove the settings");
    assert!(!output.status.success(), "started with {settings}");
    said(&output)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[test]
fn a_setting_that_does_not_exist_is_refused_by_name() {
    light(s(30), || {
        assert!(complaint("[http]\nlistn = \"127.0.0.1:1\"\n").contains("listn"));
        assert!(complaint("[htp]\n").contains("htp"));
        assert!(complaint("[apps.live]\ntakeover = \"perhaps\"\n").contains("perhaps"));
        let output = headwater().env("HEADWATER_HTTP_LISTN", "x").output().expect("the binary runs");
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("HEADWATER_HTTP_LISTN"));
        assert!(!run(&["--no-such-flag"]).status.success());
    });
}

#[test]
fn a_node_of_a_cluster_says_what_it_needs() {
    light(s(30), || {
        let secret = String::from_utf8(run(&["cluster-secret"]).stdout).expect("text");
        let with_secret = format!("[cluster]\nsecret = \"{}\"\n", secret.trim());
        assert!(complaint_of(&["origin"], "").contains("cluster.secret"));
        assert!(complaint_of(&["edge"], &with_secret).contains("cluster.origins"));
        assert!(complaint_of(&["origin"], "[cluster]\nsecret = \"short\"\n").contains("5 characters"));
        assert!(complaint(&with_secret).contains("headwater origin"), "alone it has no use for a secret");
        let files = "[cluster]\ncertificate = \"/nowhere/c\"\nkey = \"/nowhere/k\"\nca = \"/nowhere/ca\"\n";
        assert!(complaint_of(&["origin"], files).contains("/nowhere/c"));
    });
}

#[test]
fn certificates_are_written_once() {
    light(s(30), || {
        let folder = scratch("certificates");
        let out = folder.join("cluster");
        let out = out.to_str().expect("a path of text");
        let output = run(&["cluster-cert", "--out", out]);
        assert!(output.status.success(), "{}", said(&output));
        for file in ["ca.pem", "certificate.pem", "key.pem"] {
            assert!(said(&output).contains(&format!("{out}/{file}")), "{}", said(&output));
        }
        let again = run(&["cluster-cert", "--out", out]);
        assert!(!again.status.success(), "keys that are in use must not be overwritten");
        assert!(said(&again).contains(out), "{}", said(&again));
        std::fs::remove_dir_all(folder).expect("remove the certificates");
    });
}

#[test]
fn the_printed_settings_are_a_file_that_is_accepted() {
    light(s(30), || {
        let output = run(&["--print-config"]);
        assert!(output.status.success());
        let page = String::from_utf8(output.stdout).expect("text");
        let table: toml::Table = page.parse().expect("TOML");
        for section in ["http", "rtmp", "rtc", "record", "apps"] {
            assert!(table.contains_key(section), "no [{section}] in {page}");
        }
        // With every key spelled out, it starts.
        let _server = Server::with(&page);
    });
}

#[test]
fn help_and_version_are_there() {
    light(s(30), || {
        let help = String::from_utf8(run(&["--help"]).stdout).expect("text");
        for flag in ["--config", "--data", "--http", "--rtmp", "--rtc", "--grpc", "--print-config", "origin", "edge"] {
            assert!(help.contains(flag), "no {flag} in {help}");
        }
        let version = String::from_utf8(run(&["--version"]).stdout).expect("text");
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    });
}
