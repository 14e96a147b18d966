//! From an offer to a WebRTC stack that has answered it.
//!
//! In: an offer and what there is to send. Out: the stack, the answer, and which section carries what with which payload
//! types: of all codecs that both sides know, because a publisher may come back with another one. Deliberately absent:
//! sockets and sessions.

use std::time::{Duration, Instant};

use str0m::{
    Candidate, RtcConfig,
    change::SdpOffer,
    config::DtlsCert,
    format::CodecConfig,
    rtp::{Extension, ExtensionMap},
};

use super::{
    formats::Formats,
    roster::Ice,
    sdp::{Offer, SdpError, in_one_stream, ufrag_of},
    session::{AUDIO, Answered, VIDEO},
};
use crate::media::{self, Accepts, Kind};

/// How often counters of a session are refreshed.
const STATS_EVERY: Duration = Duration::from_secs(3);
/// Sender reports of both tracks: what lip sync is made from. Browsers want two of each before they begin.
const REPORTS_EVERY: Duration = Duration::from_millis(500);

/// `sends` tells whether there is something of this kind for who takes these codecs.
pub(super) fn answer(
    text: &str,
    sends: impl Fn(Kind, Accepts) -> bool,
    candidates: &[Candidate],
    cert: Option<&DtlsCert>,
    now: Instant,
) -> Result<Answered, SdpError> {
    let offer = Offer::parse(text)?;
    let wanted = [Kind::Video, Kind::Audio].map(|kind| offer.wanted(kind));
    let available = [Kind::Video, Kind::Audio].map(|kind| sends(kind, Accepts::EVERYTHING));
    let carried = [VIDEO, AUDIO].map(|index| wanted[index].filter(|_| available[index]));
    if carried.iter().all(Option::is_none) {
        let named = |there: [bool; 2]| match there {
            [true, true] => "audio and video",
            [true, false] => "video",
            [false, true] => "audio",
            [false, false] => "neither audio nor video",
        };
        let (asked, has) = (named(wanted.map(|section| section.is_some())), named(available));
        return Err(SdpError::Nothing { asked: asked.to_owned(), has: has.to_owned() });
    }
    let mids: Vec<&str> = carried.iter().flatten().map(|section| section.mid).collect();
    let text = offer.asking_for(&mids);

    let mut rtc = config(cert).build(now);
    for candidate in candidates {
        rtc.add_local_candidate(candidate.clone());
    }
    let refused = |err: &dyn std::fmt::Display| SdpError::Refused(err.to_string());
    let accepted = SdpOffer::from_sdp_string(&text).map_err(|err| refused(&err))?;
    let sdp = rtc.sdp_api().accept_offer(accepted).map_err(|err| refused(&err))?.to_sdp_string();
    let sdp = in_one_stream(&sdp);

    let mut sections = [None, None];
    for (index, kind, label) in [(VIDEO, Kind::Video, "video"), (AUDIO, Kind::Audio, "audio")] {
        let Some(section) = carried[index] else { continue };
        let mid = section.mid.into();
        let formats = Formats::agreed(&rtc, mid);
        if !sends(kind, formats.accepts()) {
            let suits = media::Codec::ALL.into_iter().filter(|codec| sends(kind, Accepts::from_iter([*codec])));
            let needed = suits.map(sdp_name).collect::<Vec<_>>().join(" or ");
            return Err(SdpError::Codec { kind: label, offered: section.codecs(), needed });
        }
        let delay = rtc.media(mid).is_some_and(|media| media.remote_extmap().id_of(Extension::PlayoutDelay).is_some());
        sections[index] = Some((mid, formats, delay));
    }
    let local_ufrag = rtc.direct_api().local_ice_credentials().ufrag;
    let remote_ufrag = ufrag_of(&text).unwrap_or_default().to_owned();
    Ok(Answered { rtc, sdp, offer: text.into(), ice: Ice { local_ufrag, remote_ufrag }, sections })
}

/// As offers spell them.
fn sdp_name(codec: media::Codec) -> &'static str {
    match codec {
        media::Codec::H264 => "H264 with packetization-mode=1",
        media::Codec::H265 => "H265",
        media::Codec::Av1 => "AV1",
        media::Codec::Vp8 => "VP8",
        media::Codec::Vp9 => "VP9",
        media::Codec::Aac => "MPEG4-GENERIC",
        media::Codec::Opus => "opus",
    }
}

fn config(cert: Option<&DtlsCert>) -> RtcConfig {
    let mut codecs = CodecConfig::empty();
    codecs.enable_opus(true, false);
    codecs.enable_h264(true);
    codecs.enable_vp8(true);
    codecs.enable_vp9(true);
    codecs.enable_av1(true);
    codecs.enable_h265(true);
    let mut params = codecs.params().to_vec();
    for params in &mut params {
        // The receiver's own estimate (goog-remb) costs two small reports a second; transport-wide feedback costs
        // twenty, and a third more work per packet. It pays off when there are renditions to choose from.
        params.set_fb_transport_cc(false);
    }
    let mut extensions = ExtensionMap::empty();
    extensions.set(2, Extension::AbsoluteSendTime);
    extensions.set(4, Extension::RtpMid);
    extensions.set(5, Extension::PlayoutDelay);

    let mut config = RtcConfig::new()
        .set_ice_lite(true)
        .set_rtp_mode(true)
        .set_extension_map(extensions)
        .set_stats_interval(Some(STATS_EVERY))
        .set_rtcp_report_interval_audio(REPORTS_EVERY)
        .set_rtcp_report_interval_video(REPORTS_EVERY)
        .set_send_buffer_audio(1)
        .set_send_buffer_video(1);
    *config.codec_config() = CodecConfig::new_from_payload_params(params);
    match cert {
        Some(cert) => config.set_dtls_cert(cert.clone()),
        None => config,
    }
}
