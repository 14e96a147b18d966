//! What a peer offers, before the WebRTC stack sees it, and what goes back.
//!
//! In: SDP text of an offer (or the fragment of a PATCH, RFC 8840), from anybody. Out: the sections it has, the offer
//! with directions as delivery wants them, a fragment for an ICE restart; or a sentence that says what is wrong.
//! Deliberately absent: full SDP grammar. The WebRTC stack parses everything again; this looks at what it passes over
//! in silence or reports without telling what the peer sent.

use std::{
    fmt::Write,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::media::Kind;

/// Longer offers than any client makes, even with simulcast and all codecs.
pub const SDP_BYTES_MAX: usize = 64 * 1024;
/// Sections (m-lines) that an offer may have.
const SECTIONS_MAX: usize = 16;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SdpError {
    #[error("this is not SDP: {0}")]
    NotSdp(String),
    #[error("the offer has no m= section")]
    NoMedia,
    #[error("the offer has {0} m= sections, at most {SECTIONS_MAX} are looked at")]
    TooManySections(usize),
    #[error("section {0} has no a=mid")]
    NoMid(usize),
    #[error("the offer has no a=ice-ufrag and a=ice-pwd (ICE is required)")]
    NoIce,
    #[error("the offer has no a=fingerprint (DTLS is required)")]
    NoFingerprint,
    #[error("{kind} was offered as {offered}, but is available as {needed} only")]
    Codec { kind: &'static str, offered: String, needed: String },
    #[error("nothing in the offer can be answered: it asks to receive {asked}, the broadcast has {has}")]
    Nothing { asked: String, has: String },
    #[error("{kind} was offered as {offered}; what is taken is {taken}")]
    NotTaken { kind: &'static str, offered: String, taken: &'static str },
    #[error("{kind} was offered as {offered}, but in no form that is taken; H264 needs packetization-mode 0 or 1")]
    NoForm { kind: &'static str, offered: String },
    #[error("the offer sends neither audio nor video")]
    NothingSent,
    #[error("the broadcast has nothing to send yet")]
    NothingToSend,
    #[error("the answer accepts neither audio nor video in a codec that there is")]
    NothingAccepted,
    #[error("the session was not offered anything that could be answered now")]
    NotInvited,
    #[error("the server made the offer of this session: only a new one restarts it")]
    Invited,
    #[error("the session description was refused: {0}")]
    Refused(String),
}

/// Lets the WebRTC stack look at what the Internet sends: a bug in there costs this session description.
pub(super) fn guarded<T, E: std::fmt::Display>(act: impl FnOnce() -> Result<T, E>) -> Result<T, SdpError> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(result) => result.map_err(|err| SdpError::Refused(err.to_string())),
        Err(_) => Err(SdpError::Refused("it can't be understood".to_owned())),
    }
}

/// One m= section of an offer.
#[derive(Debug)]
pub(super) struct Section<'a> {
    lines: Vec<&'a str>,
    /// `None` for what is neither audio nor video (a data channel).
    pub(super) kind: Option<Kind>,
    pub(super) mid: &'a str,
    /// The peer asks to receive here.
    receives: bool,
    /// The peer offers to send here.
    sends: bool,
}

#[derive(Debug)]
pub(super) struct Offer<'a> {
    session: Vec<&'a str>,
    pub(super) sections: Vec<Section<'a>>,
}

const DIRECTIONS: [&str; 4] = ["a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive"];

impl<'a> Offer<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, SdpError> {
        if text.len() > SDP_BYTES_MAX {
            return Err(SdpError::NotSdp(format!("it has {} bytes, at most {SDP_BYTES_MAX} are read", text.len())));
        }
        let mut session = Vec::new();
        let mut parts: Vec<Vec<&str>> = Vec::new();
        for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            if line.as_bytes().get(1) != Some(&b'=') {
                return Err(SdpError::NotSdp(format!("the line {:?} has no form of type=value", shortened(line))));
            }
            match parts.last_mut() {
                _ if line.starts_with("m=") => parts.push(vec![line]),
                Some(part) => part.push(line),
                None => session.push(line),
            }
        }
        if session.first() != Some(&"v=0") {
            return Err(SdpError::NotSdp("it does not begin with v=0".to_owned()));
        }
        if parts.is_empty() {
            return Err(SdpError::NoMedia);
        }
        if parts.len() > SECTIONS_MAX {
            return Err(SdpError::TooManySections(parts.len()));
        }
        let default_direction = direction(&session).unwrap_or("a=sendrecv");
        let mut sections = Vec::new();
        for (index, lines) in parts.into_iter().enumerate() {
            let mid = value(&lines, "a=mid:").ok_or(SdpError::NoMid(index))?;
            let kind = match lines[0] {
                line if line.starts_with("m=audio ") => Some(Kind::Audio),
                line if line.starts_with("m=video ") => Some(Kind::Video),
                _ => None,
            };
            let direction = direction(&lines).unwrap_or(default_direction);
            let receives = matches!(direction, "a=sendrecv" | "a=recvonly");
            let sends = matches!(direction, "a=sendrecv" | "a=sendonly");
            sections.push(Section { lines, kind, mid, receives, sends });
        }
        let offer = Self { session, sections };
        if !offer.has("a=ice-ufrag:") || !offer.has("a=ice-pwd:") {
            return Err(SdpError::NoIce);
        }
        if !offer.has("a=fingerprint:") {
            return Err(SdpError::NoFingerprint);
        }
        Ok(offer)
    }

    fn has(&self, attribute: &str) -> bool {
        let mut groups = self.sections.iter().map(|section| &section.lines).chain([&self.session]);
        groups.any(|lines| value(lines, attribute).is_some_and(|value| !value.is_empty()))
    }

    /// The section that will carry this kind to the peer: the first that asks to receive it.
    pub(super) fn receiving(&self, kind: Kind) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.kind == Some(kind) && section.receives)
    }

    /// The section that will carry this kind from the peer: the first that offers to send it.
    pub(super) fn sending(&self, kind: Kind) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.kind == Some(kind) && section.sends)
    }

    /// The offer with the sections in `mids` in this direction and all others inactive, so that the answer says what
    /// is going to happen.
    pub(super) fn with_active(&self, mids: &[&str], active: &str) -> String {
        let mut out = String::new();
        for line in self.session.iter().filter(|line| !DIRECTIONS.contains(line)) {
            let _ = write!(out, "{line}\r\n");
        }
        for section in &self.sections {
            for line in section.lines.iter().filter(|line| !DIRECTIONS.contains(line)) {
                let _ = write!(out, "{line}\r\n");
            }
            if section.kind.is_some() {
                let direction = if mids.contains(&section.mid) { active } else { "a=inactive" };
                let _ = write!(out, "{direction}\r\n");
            }
        }
        out
    }
}

/// A codec of a section, with what it is offered with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Format<'a> {
    pub(super) pt: u8,
    /// As the peer spelled it.
    pub(super) codec: &'a str,
    /// Of `a=fmtp`.
    parameters: &'a str,
    /// The payload type of its retransmissions (RFC 4588).
    pub(super) rtx: Option<u8>,
}

impl Format<'_> {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.parameters.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl Section<'_> {
    /// In the order of the peer's preference, as far as it says what they are.
    pub(super) fn formats(&self) -> Vec<Format<'_>> {
        let described = |attribute: &str, pt: u8| {
            let lines = self.lines.iter().filter_map(|line| line.strip_prefix(attribute)?.split_once(' '));
            lines.into_iter().find(|(number, _)| number.parse() == Ok(pt)).map(|(_, text)| text.trim())
        };
        let pts: Vec<u8> = self.lines[0].split_whitespace().skip(3).filter_map(|pt| pt.parse().ok()).collect();
        let of = |pt: u8| Some((pt, described("a=rtpmap:", pt)?.split('/').next().unwrap_or_default()));
        let named: Vec<(u8, &str)> = pts.iter().filter_map(|&pt| of(pt)).collect();
        let repairs = |rtx: u8, pt: u8| {
            let apt = described("a=fmtp:", rtx).and_then(|text| text.strip_prefix("apt=")?.parse().ok());
            apt == Some(pt)
        };
        let is_rtx = |codec: &str| codec.eq_ignore_ascii_case("rtx");
        let rtx = |pt| named.iter().find(|(rtx, codec)| is_rtx(codec) && repairs(*rtx, pt)).map(|(rtx, _)| *rtx);
        let media = named.iter().filter(|(_, codec)| !is_rtx(codec));
        media
            .map(|&(pt, codec)| Format {
                pt,
                codec,
                parameters: described("a=fmtp:", pt).unwrap_or_default(),
                rtx: rtx(pt),
            })
            .collect()
    }

    /// Codec names as the peer spelled them.
    pub(super) fn codecs(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for rtpmap in self.lines.iter().filter_map(|line| line.strip_prefix("a=rtpmap:")) {
            let name = rtpmap.split_whitespace().nth(1).and_then(|codec| codec.split('/').next()).unwrap_or("?");
            if !names.contains(&name) && names.len() < 12 && !["rtx", "red", "ulpfec", "flexfec-03"].contains(&name) {
                names.push(name);
            }
        }
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    }
}

fn direction<'a>(lines: &[&'a str]) -> Option<&'a str> {
    lines.iter().copied().find(|line| DIRECTIONS.contains(line))
}

fn value<'a>(lines: &[&'a str], attribute: &str) -> Option<&'a str> {
    lines.iter().find_map(|line| line.strip_prefix(attribute)).map(str::trim)
}

fn shortened(line: &str) -> String {
    line.chars().take(40).collect()
}

/// What a PATCH brings (RFC 8840 section 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub ufrag: String,
    pub pwd: String,
}

impl Fragment {
    /// Candidates are not kept: an ICE-lite peer learns addresses from the checks that arrive.
    pub fn parse(text: &str) -> Result<Self, SdpError> {
        let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        if let Some(line) = lines.iter().find(|line| line.as_bytes().get(1) != Some(&b'=')) {
            return Err(SdpError::NotSdp(format!("the line {:?} has no form of type=value", shortened(line))));
        }
        // RFC 8445 section 5.3: 4 to 256 and 22 to 256 characters.
        let ufrag = value(&lines, "a=ice-ufrag:").filter(|ufrag| (4..=256).contains(&ufrag.len()));
        let pwd = value(&lines, "a=ice-pwd:").filter(|pwd| (22..=256).contains(&pwd.len()));
        let (Some(ufrag), Some(pwd)) = (ufrag, pwd) else { return Err(SdpError::NoIce) };
        let ice_chars = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
        if !ice_chars(ufrag) || !ice_chars(pwd) {
            return Err(SdpError::NotSdp(
                "a=ice-ufrag and a=ice-pwd may have letters, digits, + and / only".to_owned(),
            ));
        }
        Ok(Self { ufrag: ufrag.to_owned(), pwd: pwd.to_owned() })
    }
}

/// An offer with other ICE credentials and no candidates: how a restart is told to the WebRTC stack.
pub(super) fn restarted(offer: &str, fragment: &Fragment) -> String {
    let mut out = String::with_capacity(offer.len());
    for line in offer.lines() {
        let _ = match line {
            _ if line.starts_with("a=ice-ufrag:") => write!(out, "a=ice-ufrag:{}\r\n", fragment.ufrag),
            _ if line.starts_with("a=ice-pwd:") => write!(out, "a=ice-pwd:{}\r\n", fragment.pwd),
            _ if line.starts_with("a=candidate:") || line == "a=end-of-candidates" => Ok(()),
            _ => write!(out, "{line}\r\n"),
        };
    }
    out
}

pub(super) fn ufrag_of(sdp: &str) -> Option<&str> {
    sdp.lines().find_map(|line| line.strip_prefix("a=ice-ufrag:")).map(str::trim)
}

/// The answer with all its tracks in one media stream (RFC 8830): browsers keep in step what shares a stream, and the
/// WebRTC stack gives each track its own.
pub(super) fn in_one_stream(answer: &str) -> String {
    let stream = |line: &str| Some(line.split_once("msid:")?.1.split_once(' ')?.0.to_owned());
    let Some(shared) = answer.lines().filter(|line| line.starts_with("a=msid:")).find_map(stream) else {
        return answer.to_owned();
    };
    let mut out = String::with_capacity(answer.len());
    for line in answer.lines() {
        let _ = match line.split_once("msid:").and_then(|(before, ids)| Some((before, ids.split_once(' ')?.1))) {
            Some((before, track)) => write!(out, "{before}msid:{shared} {track}\r\n"),
            None if line.starts_with("a=msid-semantic:") => write!(out, "a=msid-semantic: WMS {shared}\r\n"),
            None => write!(out, "{line}\r\n"),
        };
    }
    out
}

/// Of an answer, what a client needs after an ICE restart (RFC 9725 section 4.3.3).
pub(super) fn fragment_of(answer: &str) -> String {
    let mut out = String::new();
    let mut sections = 0;
    for line in answer.lines() {
        sections += usize::from(line.starts_with("m="));
        let of_session = sections == 0 && (line == "a=ice-lite" || line.starts_with("a=group:"));
        let of_transport = ["m=", "a=mid:", "a=ice-", "a=candidate:", "a=end-of-candidates"];
        // All sections share the transport of the first.
        let of_first = sections == 1 && of_transport.iter().any(|prefix| line.starts_with(prefix));
        if of_session || of_first {
            let _ = write!(out, "{line}\r\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=ice-ufrag:abcd\r\na=ice-pwd:aaaaaaaaaaaaaaaaaaaaaaaa\r\n\
        a=fingerprint:sha-256 AA\r\na=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\na=recvonly\r\na=rtpmap:111 opus/48000/2\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\na=mid:1\r\na=sendrecv\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:2\r\n";

    #[test]
    fn sections_are_told_apart() {
        let offer = Offer::parse(OFFER).unwrap();
        assert_eq!(offer.receiving(Kind::Audio).map(|section| section.mid), Some("0"));
        assert_eq!(offer.receiving(Kind::Video).map(Section::codecs).as_deref(), Some("VP8"));
        assert_eq!(offer.sections[2].kind, None);
    }

    #[test]
    fn only_wanted_sections_stay_active() {
        let text = Offer::parse(OFFER).unwrap().with_active(&["1"], "a=recvonly");
        let offer = Offer::parse(&text).unwrap();
        assert!(offer.receiving(Kind::Audio).is_none());
        assert!(offer.receiving(Kind::Video).is_some());
        assert_eq!(text.matches("a=inactive").count(), 1);
        assert_eq!(text.matches("a=recvonly").count(), 1);
        assert!(!text.contains("a=sendrecv"));
    }

    #[test]
    fn refusals_name_what_is_missing() {
        assert!(matches!(Offer::parse("hello"), Err(SdpError::NotSdp(_))));
        assert!(matches!(Offer::parse(""), Err(SdpError::NotSdp(_))));
        assert_eq!(Offer::parse("v=0\r\ns=-\r\n").unwrap_err(), SdpError::NoMedia);
        assert_eq!(Offer::parse(&OFFER.replace("a=ice-pwd", "a=x")).unwrap_err(), SdpError::NoIce);
        assert_eq!(Offer::parse(&OFFER.replace("a=fingerprint", "a=x")).unwrap_err(), SdpError::NoFingerprint);
        assert_eq!(Offer::parse(&OFFER.replace("a=mid:1", "a=x")).unwrap_err(), SdpError::NoMid(1));
        let many = format!("{OFFER}{}", "m=audio 9 x 0\r\na=mid:9\r\n".repeat(20));
        assert_eq!(Offer::parse(&many).unwrap_err(), SdpError::TooManySections(23));
    }

    #[test]
    fn tracks_of_an_answer_share_a_stream() {
        let answer = "v=0\r\na=msid-semantic: WMS one two\r\nm=audio 9 x 1\r\na=msid:one a\r\na=ssrc:1 cname:c\r\n\
            a=ssrc:1 msid:one a\r\nm=video 9 x 2\r\na=msid:two b\r\na=ssrc:2 msid:two b\r\n";
        let expected = answer.replace("WMS one two", "WMS one").replace("msid:two", "msid:one");
        assert_eq!(in_one_stream(answer), expected);
        assert_eq!(in_one_stream("v=0\r\n"), "v=0\r\n");
    }

    #[test]
    fn a_restart_replaces_credentials_and_drops_candidates() {
        let fragment = "a=ice-ufrag:EFGH\r\na=ice-pwd:bbbbbbbbbbbbbbbbbbbbbbbb\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n";
        let fragment = Fragment::parse(fragment).unwrap();
        let text = restarted(OFFER, &fragment);
        assert_eq!(ufrag_of(&text), Some("EFGH"));
        assert!(text.contains("a=ice-pwd:bbbb") && !text.contains("a=candidate") && !text.contains("abcd"));
        assert!(Offer::parse(&text).is_ok());
        assert_eq!(Fragment::parse("a=mid:0\r\n").unwrap_err(), SdpError::NoIce);
        assert!(matches!(Fragment::parse("nonsense"), Err(SdpError::NotSdp(_))));
        let evil = "a=ice-ufrag:ab cd\r\na=ice-pwd:bbbbbbbbbbbbbbbbbbbbbbbb\r\n";
        assert!(matches!(Fragment::parse(evil), Err(SdpError::NotSdp(_))));
    }
}
