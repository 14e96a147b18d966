//! The walls of the house (ARCHITECTURE.md): who may know whom, and which rooms have no clock, no socket, no task.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).expect("readable source");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no source below {folder}");
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name == "tests" || name.ends_with("_tests") || path.components().any(|part| part.as_os_str() == "tests")
}

/// The code without comments and without its tests, which may do what they like.
fn code(text: &str) -> String {
    let product = text.find("#[cfg(test)]\nmod tests {").map_or(text, |at| &text[..at]);
    product.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn dependencies(manifest: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(manifest)).expect("a manifest");
    let table: toml::Table = text.parse().expect("TOML");
    let names = table.get("dependencies").and_then(toml::Value::as_table);
    names.into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

#[test]
fn origin_and_edge_never_know_each_other() {
    let common = dependencies("common/Cargo.toml");
    let origin = dependencies("origin/Cargo.toml");
    let edge = dependencies("edge/Cargo.toml");
    assert!(!origin.contains("headwater-edge") && !edge.contains("headwater-origin"));
    assert!(origin.contains("headwater-common") && edge.contains("headwater-common"));
    let known: Vec<_> = common.iter().filter(|name| name.starts_with("headwater")).collect();
    assert_eq!(known, ["headwater-proto"], "what crosses the wire is below common, everything else above");
}

/// The rooms of `common` that a source names, by `crate::room` alone or by `crate::{room, …}`.
fn rooms_named(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let Some(group) = after.strip_prefix('{') else {
            rooms.insert(word(after));
            continue;
        };
        // Only names directly in the group: what is deeper belongs to a room already named.
        let mut depth = 0;
        let mut begins = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && depth == 0 && !c.is_whitespace() => {
                    rooms.insert(word(&group[at..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    rooms
}

#[test]
fn inside_common_the_arrows_point_down() {
    // rtc → live → media ← fmp4; registry and store know names, not media.
    for (room, forbidden) in [
        ("media", &["live", "fmp4", "rtc", "registry", "store", "config", "http", "telemetry"][..]),
        ("live", &["fmp4", "rtc", "registry", "store", "config", "http"]),
        ("fmp4", &["live", "rtc", "registry", "store", "config", "http"]),
        ("rtc", &["fmp4", "registry", "store", "config", "http"]),
        ("registry", &["media", "fmp4", "rtc", "http"]),
        ("store", &["media", "fmp4", "rtc", "http"]),
    ] {
        let folder = format!("common/src/{room}");
        if !root().join(&folder).exists() {
            continue;
        }
        for (path, text) in sources(&folder) {
            if is_test(&path) {
                continue;
            }
            let named = rooms_named(&code(&text));
            let wrong: Vec<_> = forbidden.iter().filter(|room| named.contains(**room)).collect();
            assert!(wrong.is_empty(), "{} uses {wrong:?}", shown(&path));
        }
    }
}

#[test]
fn pure_rooms_have_no_socket_no_task_and_no_clock() {
    let forbidden = [
        "std::net",
        "std::fs",
        "thread::spawn",
        "tokio::net",
        "tokio::time",
        "tokio::fs",
        "tokio::task",
        "tokio::spawn",
        "SystemTime",
        "Instant::now",
    ];
    for room in ["media", "live", "fmp4"] {
        for (path, text) in sources(&format!("common/src/{room}")) {
            if is_test(&path) {
                continue;
            }
            let code = code(&text);
            let wrong: Vec<_> = forbidden.iter().filter(|word| code.contains(**word)).collect();
            assert!(wrong.is_empty(), "{} uses {wrong:?}", shown(&path));
        }
    }
}

#[test]
fn every_module_says_what_it_is() {
    for folder in ["common/src", "origin/src", "edge/src", "src", "tests/real"] {
        for (path, text) in sources(folder) {
            // Tests beside a room are introduced by the room.
            let silent = is_test(&path) && !path.starts_with(root().join("tests"));
            assert!(silent || text.starts_with("//!"), "{} begins without a word about itself", shown(&path));
        }
    }
}

#[test]
fn every_setting_has_a_sentence() {
    let page = std::fs::read_to_string(root().join("common/src/config/default.toml")).expect("the defaults");
    let mut introduced = false;
    let mut keys = 0;
    for line in page.lines() {
        let is_key = line.contains(" = ") && !line.starts_with('#');
        assert!(!is_key || introduced, "nothing is said about: {line}");
        keys += usize::from(is_key);
        introduced = line.starts_with('#');
    }
    assert!(keys > 10, "{keys} settings");
}

#[test]
fn names_of_rooms_are_found_in_groups() {
    let named = rooms_named("use crate::{live::{Hub, Track}, media::Frame,\n net};\nuse crate::clock::now_ms;");
    assert_eq!(named, ["live", "media", "net", "clock"].map(str::to_owned).into());
}
