use super::*;
use crate::node::Role;

fn env(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let pairs = pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Layers::defaults()?.environment(pairs.collect::<Vec<_>>().into_iter())?.build()
}

fn file(text: &str) -> Result<Config, ConfigError> {
    let path = std::env::temp_dir().join(format!("headwater-config-{}-{:p}.toml", std::process::id(), text));
    std::fs::write(&path, text).unwrap();
    let config = Layers::defaults()?.file(&path).and_then(Layers::build);
    std::fs::remove_file(&path).unwrap();
    config
}

#[test]
fn the_commented_page_is_the_defaults() {
    let config = Layers::defaults().unwrap().build().unwrap();
    assert_eq!(config.http.listen.port(), 5080);
    assert_eq!(config.rtmp.listen.port(), 1935);
    assert_eq!(config.rtc.listen.port(), 50_000);
    assert!(!config.apps["live"].record);
    assert_eq!((config.limits.cpu_percent, config.limits.egress_mbps), (0, 0), "no limit");
}

#[test]
fn every_key_has_a_sentence() {
    let mut before = "";
    for line in DEFAULTS.lines() {
        let is_key = line.contains(" = ") && !line.starts_with('#');
        assert!(!is_key || before.starts_with('#'), "no comment above: {line}");
        before = line;
    }
}

#[test]
fn a_file_overrides_and_keeps_the_rest() {
    let config = file("[apps.shop]\nrecord = true\n[http]\nlisten = \"127.0.0.1:80\"\n").unwrap();
    assert!(config.apps["shop"].record);
    assert_eq!(config.apps["shop"].recording.gap_tolerance_s, 10, "the values of the page hold for other applications");
    assert!(config.apps.contains_key("live"));
    assert_eq!(config.http.listen.to_string(), "127.0.0.1:80");
    assert_eq!(config.http.tls_listen.port(), 5443);
}

#[test]
fn unknown_keys_are_refused_by_name() {
    for (text, name) in
        [("[http]\nlistn = 1\n", "listn"), ("[htp]\nlisten = 1\n", "htp"), ("[apps.live]\nrecrd = true\n", "recrd")]
    {
        let error = file(text).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let error = env(&[("HEADWATER_HTTP_LISTN", "x")]).unwrap_err().to_string();
    assert!(error.contains("HEADWATER_HTTP_LISTN"), "{error}");
}

#[test]
fn variables_set_any_key_with_any_type() {
    let config = env(&[
        ("HEADWATER_DATA", "/srv/headwater"),
        ("HEADWATER_RTC_SHARDS", "3"),
        ("HEADWATER_RTC_PUBLIC_IPS", "[\"192.0.2.1\"]"),
        ("HEADWATER_APPS_LIVE_RECORD", "true"),
        ("HEADWATER_APPS_LIVE_TAKEOVER", "refuse"),
        ("HEADWATER_RECORD_FREE_DISK_MB_MIN", "9"),
        ("PATH", "/bin"),
    ])
    .unwrap();
    assert_eq!(config.data, PathBuf::from("/srv/headwater"));
    assert_eq!(config.rtc.shards, 3);
    assert_eq!(config.rtc.public_ips[0].to_string(), "192.0.2.1");
    assert!(config.apps["live"].record);
    assert_eq!(config.apps["live"].takeover, Takeover::Refuse);
    assert_eq!(config.record.free_disk_mb_min, 9);
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    for (text, complaint) in [
        ("[http]\nlisten = \"localhost\"\n", "listen"),
        ("[apps.live]\ntakeover = \"maybe\"\n", "maybe"),
        ("[apps.live]\ndata_from_viewers = \"maybe\"\n", "maybe"),
        ("[tls]\nkey = \"k.pem\"\n", "only one of them"),
        ("[apps.\"a b\"]\nrecord = true\n", "app contains ' '"),
        ("[rtc]\nice_servers = [{ url = \"http://x\" }]\n", "rtc.ice_servers"),
        ("[rtc]\nice_servers = [{ url = \"turn:x\", username = \"u\" }]\n", "without username and credential"),
        ("[rtc]\nice_servers = [{ url = \"stun:x\", username = \"a\\\"b\" }]\n", "without quotes"),
        ("[turn]\nurls = [\"turn:x\"]\n", "turn.secret"),
        ("[turn]\nsecret = \"s\"\n", "turn.urls"),
        ("[turn]\nurls = [\"stun:x\"]\nsecret = \"s\"\n", "turn.urls: \"stun:x\""),
        ("[turn]\nurls = [\"turn://x\"]\nsecret = \"s\"\n", "turn.urls: \"turn://x\""),
        ("[turn]\nttl_s = 5\n", "turn.ttl_s"),
        ("[apps.live.recording]\ngap_tolerance_s = 61\n", "gap_tolerance_s"),
        ("[apps.live.recording]\nsplit_h = 1\n", "split_h"),
        ("[store.s3]\naccess_key = \"a\"\n", "only one of them"),
        ("[store.s3]\nendpoint = \"s3.example.org\"\n", "store.s3.endpoint"),
        ("[store.s3]\nprefix = \"/a\"\n", "store.s3.prefix"),
        ("[store.s3]\nprefix = \"a//b\"\n", "store.s3.prefix"),
        ("[store.s3]\nprefix = \"ä\"\n", "store.s3.prefix"),
        ("[store.s3]\nacl = \"everybody\"\n", "store.s3.acl"),
        ("[store.s3]\nsse = \"rot13\"\n", "rot13"),
        ("[store.s3]\nkms_key = \"k\"\n", "store.s3.kms_key"),
        ("[store.s3]\nchecksum = \"md4\"\n", "md4"),
        ("[store.s3]\nplay = \"loud\"\n", "loud"),
        ("[rtc]\npublic_ips = [\"here\"]\n", "public_ips"),
        ("[apps.live]\nladder = [{ height = 0, video_kbps = 500 }]\n", "live.ladder: height 0"),
        ("[[apps.live.ladder]]\nheight = 480\nvideo_kbps = 1000000000\n", "480p: 1000000000 kbit/s"),
        ("[[apps.live.ladder]]\nheight = 480\nvideo_kbps = 500\nwidth = 5\n", "width"),
        (
            "[[apps.live.ladder]]\nheight = 480\nvideo_kbps = 500\n[apps.live.recording]\nrenditions = [479]\n",
            "apps.*.recording.renditions: 479",
        ),
        ("[cluster]\norigins = [\"here\"]\n", "a port is missing"),
        ("[cluster]\norigins = [\"::1:5000\"]\n", "in brackets"),
        ("[cluster]\norigins = [\"here:fifty\"]\n", "the port"),
        ("[cluster]\nadvertise = \"http://x:5\"\n", "cluster.advertise"),
        ("[cluster]\nhttp = \"x:5080\"\n", "cluster.http"),
        ("[cluster]\ncertificate = \"c.pem\"\n", "only some of them"),
        ("[cluster]\nca = \"c.pem\"\nkey = \"k.pem\"\n", "only some of them"),
        ("[cluster]\nsecret = \"short\"\n", "5 characters"),
        (
            "[cluster]\ncertificate = \"c\"\nkey = \"k\"\nca = \"a\"\nsecret = \"0123456789abcdef0123456789abcdef\"\n",
            "one or the other",
        ),
        ("[http\n", "TOML"),
    ] {
        let error = file(text).unwrap_err().to_string();
        assert!(error.contains(complaint), "{text}: {error}");
    }
}

#[test]
fn what_a_role_needs_and_what_it_has_no_use_for_is_said() {
    let secret = "secret = \"0123456789abcdef0123456789abcdef\"\n";
    let files = "certificate = \"c\"\nkey = \"k\"\nca = \"a\"\n";
    let origins = "origins = [\"origin:5000\", \"[::1]:5000\", \"10.0.0.1:5000\"]\n";
    let database = "[registry]\nmongodb = \"mongodb://db\"\n";
    let check = |lines: &[&str], role| file(&format!("[cluster]\n{}", lines.concat())).unwrap().check_for(role);
    for (lines, role, complaint) in [
        (&[secret][..], Role::Whole, "headwater origin"),
        (&[origins], Role::Whole, "headwater origin"),
        (&[files], Role::Whole, "headwater origin"),
        (&[], Role::Origin, "cluster.secret"),
        (&[origins], Role::Edge, "cluster.secret"),
        (&[secret], Role::Edge, "cluster.origins"),
        (&[secret, origins, database], Role::Edge, "registry.mongodb"),
    ] {
        let error = check(lines, role).unwrap_err().to_string();
        assert!(error.contains(complaint), "{lines:?} {role:?}: {error}");
    }
    for (lines, role) in [
        (&[][..], Role::Whole),
        (&[secret], Role::Origin),
        (&[files, origins], Role::Origin),
        (&[secret, database], Role::Origin),
        (&[database], Role::Whole),
        (&[secret, origins], Role::Edge),
        (&[files, origins], Role::Edge),
    ] {
        check(lines, role).unwrap();
    }
}

#[test]
fn a_syntax_error_is_found_by_its_line() {
    let error = file("[http]\n\nlisten = \n").unwrap_err().to_string();
    assert!(error.contains(".toml, line 3"), "{error}");
}

/// Whatever is wrong with a page, its secrets are not in the complaint.
#[test]
fn secrets_are_never_shown() {
    for page in [
        "[turn]\nsecret = 57349\n",
        "[registry]\nmongodb = 57349\n",
        "[turn]\nsecret = [\"57349\"]\n",
        "[turn]\nsecret = \"57349\n",
        "[turn]\nsecret = 57349x\n",
        "[turn]\nsecret = \"\\q57349\"\n",
        "[turn]\nsecret = \"57349\"\nsecret = \"57349\"\n",
        "[turn]\nsecret = \"57349\"\n",
        "[turn]\nsecret = \"57349\"\nurls = [\"x\"]\n",
        "[cluster]\nsecret = \"57349\"\n",
        "[rtc]\nice_servers = [{ url = \"turn:x\", username = \"u\", credential = 57349 }]\n",
        "[rtc]\nice_servers = [{ url = \"turn:x\", credential = \"57349\" }]\n",
        "[store.s3]\nsecret_key = \"57349\"\n",
    ] {
        let error = file(page).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("57349"), "{error} {error:?}");
    }
    let config = file(
        "[turn]\nurls = [\"turn:x\"]\nsecret = \"57349\"\n\
         [rtc]\nice_servers = [{ url = \"turn:x\", username = \"u\", credential = \"57349\" }]\n",
    )
    .unwrap();
    assert_eq!((config.turn.secret.reveal(), config.rtc.ice_servers[0].credential.reveal()), ("57349", "57349"));
    assert!(!format!("{config:?}").contains("57349"));
}

#[test]
fn a_variable_that_looks_like_a_number_is_text_where_text_belongs() {
    let config = env(&[("HEADWATER_TURN_URLS", "[\"turn:x\"]"), ("HEADWATER_TURN_SECRET", "57349")]).unwrap();
    assert_eq!(config.turn.secret.reveal(), "57349");
    let config = env(&[("HEADWATER_DATA", "\"57\"")]).unwrap();
    assert_eq!(config.data, PathBuf::from("57"));
}

#[test]
fn webhooks_are_refused_by_name_without_showing_them() {
    let set = |key: &str, text: &str| file(&format!("[apps.shop.webhooks]\n{key} = \"{text}\"\n"));
    for (key, text) in [
        ("url", "htps://hooks.example.org/sesame"),
        ("url", "https://user:sesame@example.org"),
        ("secret", "sesame"),
        ("secret", "whsec_c2VzYW1l"),
        ("secret", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz?"),
    ] {
        let error = set(key, text).unwrap_err().to_string();
        assert!(error.contains(&format!("webhooks.{key}")) && error.contains("shop"), "{error}");
        assert!(!error.contains("sesame") && !error.contains(text), "{error}");
    }
    assert_eq!(set("url", "https://example.org/hook").unwrap().apps["shop"].webhooks.key(), None);
    for secret in ["whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"] {
        let key = set("secret", secret).unwrap().apps["shop"].webhooks.key();
        assert_eq!(key.as_deref(), Some(&b"012345678901234567890123"[..]));
    }
}
