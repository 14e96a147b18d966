//! What a publisher wants to be called: application, stream and parameters, from the three places encoders put them.
//!
//! In: `app` and `tcUrl` of the connect command, the name of the publish command. Out: application, stream, and the
//! parameters of all three. Deliberately absent: what parameters mean (tokens, keys), and which names are allowed.

/// In the order they were found; a name appears once.
pub type Query = Vec<(String, String)>;

/// Longer names are refused before anything is looked up by them.
pub const NAME_BYTES_MAX: usize = 1024;

/// `live?token=x` → `live` and its parameters. Without `app`, the path of `tcUrl` is used.
pub(super) fn application(app: &str, tc_url: &str) -> (String, Query) {
    let (url, url_query) = split_query(tc_url);
    let (app, mut query) = match split_query(app) {
        (app, query) if app.trim_matches('/').is_empty() => (url_path(url), query),
        parts => parts,
    };
    merge(&mut query, url_query);
    let app = app.trim_matches('/');
    // Flash Media Server's name for "no instance", which FMLE and some hardware add by themselves.
    (app.strip_suffix("/_definst_").unwrap_or(app).to_owned(), query)
}

/// `key?token=x` → application, stream, and the parameters of both.
pub(super) fn publication(app: &str, app_query: &Query, name: &str) -> (String, String, Query) {
    let (stream, mut query) = split_query(name);
    merge(&mut query, app_query.clone());
    let stream = stream.trim_matches('/');
    // The whole address in the encoder's server field, and its key field left empty.
    match app.rsplit_once('/') {
        Some((app, last)) if stream.is_empty() => (app.to_owned(), last.to_owned(), query),
        _ => (app.to_owned(), stream.to_owned(), query),
    }
}

fn split_query(text: &str) -> (&str, Query) {
    let Some((path, parameters)) = text.split_once('?') else { return (text, Query::new()) };
    let mut query = Query::new();
    // A question mark starts the parameters of the next place again: OBS appends the key to the URL as it is.
    for pair in parameters.split(['&', '?']).filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        merge(&mut query, vec![(percent_decode(name), percent_decode(value))]);
    }
    (path, query)
}

/// What stands nearer to the stream name wins.
fn merge(query: &mut Query, more: Query) {
    for (name, value) in more {
        if query.len() < PARAMETERS_MAX && !query.iter().any(|(known, _)| *known == name) {
            query.push((name, value));
        }
    }
}

const PARAMETERS_MAX: usize = 64;

fn url_path(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split_once('/').map_or("", |(_, path)| path)
}

/// A plus sign stays one: tokens are base64 more often than they are forms.
fn percent_decode(text: &str) -> String {
    let hex = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16)).map(|digit| digit as u8);
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        match (byte, hex(bytes.get(i + 1)), hex(bytes.get(i + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high << 4 | low);
                i += 3;
            }
            _ => {
                decoded.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(app: &str, tc_url: &str, name: &str) -> (String, String, String) {
        let (app, query) = application(app, tc_url);
        let (app, stream, query) = publication(&app, &query, name);
        (app, stream, query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&"))
    }

    fn expect(app: &str, stream: &str, query: &str) -> (String, String, String) {
        (app.into(), stream.into(), query.into())
    }

    #[test]
    fn parameters_are_taken_from_name_app_and_url() {
        assert_eq!(address("live", "rtmp://h/live", "s?a=1&b=x%20y+"), expect("live", "s", "a=1&b=x y+"));
        assert_eq!(address("live?a=1", "rtmp://h/live?a=1", "s"), expect("live", "s", "a=1"));
        assert_eq!(address("live", "rtmp://h/live?a=1", "s?a=2&c"), expect("live", "s", "a=2&c="));
        assert_eq!(address("live?a=1?b=2", "", "s?"), expect("live", "s", "a=1&b=2"));
        assert_eq!(address("live", "", "s?a=%zz%4"), expect("live", "s", "a=%zz%4"));
    }

    #[test]
    fn odd_addresses_find_their_application() {
        assert_eq!(address("", "rtmp://h:1935/live/?x=1", "s"), expect("live", "s", "x=1"));
        assert_eq!(address("live/", "", "/s"), expect("live", "s", ""));
        assert_eq!(address("live/_definst_", "", "s"), expect("live", "s", ""));
        assert_eq!(address("live/key", "rtmp://h/live/key", ""), expect("live", "key", ""));
        assert_eq!(address("live", "rtmp://h/live", ""), expect("live", "", ""));
    }
}
