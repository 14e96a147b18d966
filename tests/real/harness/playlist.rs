//! An HLS media playlist, as far as the tests ask about it.

use super::Site;

#[derive(Debug, Default)]
pub(crate) struct Playlist {
    pub(crate) path: String,
    pub(crate) media_sequence: u64,
    pub(crate) discontinuity_sequence: u64,
    pub(crate) discontinuities: usize,
    /// Address and duration of each whole segment.
    pub(crate) segments: Vec<(String, f64)>,
    pub(crate) maps: Vec<String>,
    pub(crate) parts: usize,
    pub(crate) part_target_s: Option<f64>,
    pub(crate) target_s: f64,
    pub(crate) can_block: bool,
    pub(crate) ended: bool,
    pub(crate) text: String,
}

/// The first media playlist of a stream: `path` itself, or what it names first. None while there is none.
pub(crate) fn fetch(server: &Site, path: &str) -> Option<Playlist> {
    let response = server.get(path);
    if !response.status().is_success() {
        return None;
    }
    let text = response.text().ok()?;
    if text.contains("#EXT-X-STREAM-INF") {
        let child = text.lines().find(|line| !line.is_empty() && !line.starts_with('#'))?;
        return fetch(server, &resolve(path, child));
    }
    Some(parse(path, text))
}

/// An address in a playlist, relative to the playlist's own.
pub(crate) fn resolve(base: &str, address: &str) -> String {
    if address.starts_with('/') {
        return address.to_owned();
    }
    let folder = &base[..base.rfind('/').map_or(0, |slash| slash + 1)];
    format!("{folder}{address}")
}

fn parse(path: &str, text: String) -> Playlist {
    let mut playlist = Playlist { path: path.to_owned(), ..Default::default() };
    let mut duration = 0.0;
    for line in text.lines() {
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        match tag {
            "#EXT-X-MEDIA-SEQUENCE" => playlist.media_sequence = value.parse().expect("a media sequence"),
            "#EXT-X-DISCONTINUITY-SEQUENCE" => {
                playlist.discontinuity_sequence = value.parse().expect("a discontinuity sequence");
            }
            "#EXT-X-DISCONTINUITY" => playlist.discontinuities += 1,
            "#EXT-X-TARGETDURATION" => playlist.target_s = value.parse().expect("a target duration"),
            "#EXT-X-PART" => playlist.parts += 1,
            "#EXT-X-PART-INF" => {
                playlist.part_target_s = value.split("PART-TARGET=").nth(1).and_then(|value| value.parse().ok());
            }
            "#EXT-X-SERVER-CONTROL" => playlist.can_block = value.contains("CAN-BLOCK-RELOAD=YES"),
            "#EXT-X-MAP" => playlist.maps.extend(value.split('"').nth(1).map(|uri| resolve(path, uri))),
            "#EXT-X-ENDLIST" => playlist.ended = true,
            "#EXTINF" => duration = value.split(',').next().and_then(|value| value.parse().ok()).expect("a duration"),
            _ if !line.is_empty() && !line.starts_with('#') => playlist.segments.push((resolve(path, line), duration)),
            _ => {}
        }
    }
    playlist.text = text;
    playlist
}

impl Playlist {
    /// The number after the last whole segment's: what a player waits for.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.media_sequence + self.segments.len() as u64
    }

    /// How many discontinuities there were up to the newest segment, forgotten ones included.
    pub(crate) fn newest_discontinuity(&self) -> u64 {
        self.discontinuity_sequence + self.discontinuities as u64
    }
}
