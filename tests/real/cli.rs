//! The command line, as an operator meets it.

use std::process::Output;

use crate::harness::{Server, light, s, scratch, server::headwater};

fn run(arguments: &[&str]) -> Output {
    headwater().args(arguments).output().expect("the binary runs")
}

fn complaint(settings: &str) -> String {
    let folder = scratch("settings");
    let file = folder.join("headwater.toml");
    std::fs::write(&file, settings).expect("write settings");
    let output =
        run(&["--config", file.to_str().expect("a path of text"), "--data", folder.to_str().expect("a path of text")]);
    std::fs::remove_dir_all(&folder).expect("remove the settings");
    assert!(!output.status.success(), "started with {settings}");
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
        for flag in ["--config", "--data", "--http", "--rtmp", "--rtc", "--print-config"] {
            assert!(help.contains(flag), "no {flag} in {help}");
        }
        let version = String::from_utf8(run(&["--version"]).stdout).expect("text");
        assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    });
}
