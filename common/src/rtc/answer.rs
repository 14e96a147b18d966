//! What is agreed on with a viewer.
//!
//! In: an offer, or that the viewer wants to be made one, and what there is to send. Out: a WebRTC stack, its SDP, and
//! which section and payload type carries what. Deliberately absent: sockets and sessions.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use str0m::{
    Candidate, Rtc, RtcConfig,
    change::SdpOffer,
    config::DtlsCert,
    format::{Codec, CodecConfig, PayloadParams},
    media::{Direction, MediaKind, Mid, Pt},
    rtp::{Extension, ExtensionMap},
};

use super::{
    roster::Ice,
    sdp::{Offer, SdpError, guarded, in_one_stream, ufrag_of},
    session::{Agreed, Peer, Sections},
    viewing::{AUDIO, VIDEO},
};
use crate::{
    live::Broadcast,
    media::{Delivery, Info, Kind},
};

/// How often counters of a session are refreshed.
pub(super) const STATS_EVERY: Duration = Duration::from_secs(3);
/// Sender reports of both tracks: what lip sync is made from. Browsers want two of each before they begin.
const REPORTS_EVERY: Duration = Duration::from_millis(500);

/// Video, audio.
pub(super) type Mids = [Option<Mid>; 2];

/// What there is to send. The inner value is what a track carries, if that is known yet.
pub(super) type Available<'a> = [Option<Option<&'a Info>>; 2];

/// What a broadcast's viewers would be sent now.
pub(super) struct Chosen([Option<Option<Arc<Info>>>; 2]);

impl Chosen {
    pub(super) fn of(broadcast: &Broadcast) -> Self {
        let info = |kind| broadcast.choose(kind, Delivery::WebRtc).map(|choice| choice.track.info());
        Self([info(Kind::Video), info(Kind::Audio)])
    }

    pub(super) fn available(&self) -> Available<'_> {
        let [video, audio] = &self.0;
        [video.as_ref().map(Option::as_deref), audio.as_ref().map(Option::as_deref)]
    }
}

pub(super) fn answer(
    text: &str,
    available: Available<'_>,
    candidates: &[Candidate],
    cert: Option<&DtlsCert>,
    now: Instant,
) -> Result<(Agreed, Sections), SdpError> {
    let offer = Offer::parse(text)?;
    let wanted = [Kind::Video, Kind::Audio].map(|kind| offer.receiving(kind));
    let carried = [VIDEO, AUDIO].map(|index| wanted[index].filter(|_| available[index].is_some()));
    if carried.iter().all(Option::is_none) {
        let named = |there: [bool; 2]| match there {
            [true, true] => "audio and video",
            [true, false] => "video",
            [false, true] => "audio",
            [false, false] => "neither audio nor video",
        };
        let (asked, has) = (named(wanted.map(|section| section.is_some())), named(available.map(|a| a.is_some())));
        return Err(SdpError::Nothing { asked: asked.to_owned(), has: has.to_owned() });
    }
    let active: Vec<&str> = carried.iter().flatten().map(|section| section.mid).collect();
    let text = offer.with_active(&active, "a=recvonly");

    let mut rtc = config(cert).build(now);
    for candidate in candidates {
        rtc.add_local_candidate(candidate.clone());
    }
    let accepted = guarded(|| SdpOffer::from_sdp_string(&text))?;
    let sdp = guarded(|| rtc.sdp_api().accept_offer(accepted))?.to_sdp_string();
    let sdp = in_one_stream(&sdp);

    let mids = carried.map(|section| section.map(|section| Mid::from(section.mid)));
    let sections = sections(&rtc, mids, available);
    for (index, kind, needed) in [(VIDEO, "video", "H264 with packetization-mode=1"), (AUDIO, "audio", "opus")] {
        if let (Some(section), None) = (carried[index], &sections[index]) {
            return Err(SdpError::Codec { kind, offered: section.codecs(), needed });
        }
    }
    let remote_ufrag = ufrag_of(&text).unwrap_or_default().to_owned();
    let ice = Ice { local_ufrag: rtc.direct_api().local_ice_credentials().ufrag, remote_ufrag };
    Ok((Agreed { rtc, sdp, peer: Peer::Offered(text.into()), ice }, sections))
}

/// An offer to somebody who wants to watch and lets the server begin. Everything there is goes into it.
pub(super) fn invite(
    stream: &str,
    available: Available<'_>,
    candidates: &[Candidate],
    cert: Option<&DtlsCert>,
    now: Instant,
) -> Result<Agreed, SdpError> {
    let mut rtc = config(cert).build(now);
    for candidate in candidates {
        rtc.add_local_candidate(candidate.clone());
    }
    let mut api = rtc.sdp_api();
    let mids = [(VIDEO, MediaKind::Video), (AUDIO, MediaKind::Audio)].map(|(index, kind)| {
        // One stream for both: browsers keep in step what shares a stream.
        let add = || api.add_media(kind, Direction::SendOnly, Some(stream.to_owned()), None, None);
        available[index].is_some().then(add)
    });
    let (offer, pending) = api.apply().ok_or(SdpError::NothingToSend)?;
    let ice = Ice { local_ufrag: rtc.direct_api().local_ice_credentials().ufrag, remote_ufrag: String::new() };
    Ok(Agreed { rtc, sdp: offer.to_sdp_string(), peer: Peer::Invited { pending, mids }, ice })
}

/// What carries what, of the sections that were agreed on.
pub(super) fn sections(rtc: &Rtc, mids: Mids, available: Available<'_>) -> Sections {
    [(VIDEO, Kind::Video), (AUDIO, Kind::Audio)].map(|(index, kind)| {
        let (mid, info) = (mids[index]?, available[index]?);
        let (pt, delay) = payload_type(rtc, mid, kind, info)?;
        Some((mid, pt, delay))
    })
}

/// The payload type that suits best what is sent, and whether the peer takes the playout-delay extension.
fn payload_type(rtc: &Rtc, mid: Mid, kind: Kind, info: Option<&Info>) -> Option<(Pt, bool)> {
    let media = rtc.media(mid)?;
    let agreed = |params: &&PayloadParams| media.remote_pts().contains(&params.pt());
    let params = rtc.codec_config().params().iter().filter(agreed);
    let pt = match kind {
        Kind::Audio => params.filter(|params| params.spec().codec == Codec::Opus).map(|params| params.pt()).next()?,
        Kind::Video => {
            let stream = info.and_then(|info| Some((*info.config.get(1)?, *info.config.get(2)?)));
            let stream = stream.map_or(0, |(profile, constraints)| profile_rank(profile, constraints));
            let suitable = params.filter(|params| {
                params.spec().codec == Codec::H264 && params.spec().format.packetization_mode == Some(1)
            });
            // The least that is enough for the stream, else the most there is: browsers decode more than they offer.
            let best = suitable.min_by_key(|params| {
                let id = params.spec().format.profile_level_id.unwrap_or(0x42_00_1f);
                let rank = profile_rank((id >> 16) as u8, (id >> 8) as u8);
                if rank >= stream { rank } else { 100 - rank }
            });
            best?.pt()
        }
    };
    Some((pt, media.remote_extmap().id_of(Extension::PlayoutDelay).is_some()))
}

/// H.264 profiles from least to most (ITU-T H.264 Annex A; RFC 6184 table 5 for constrained baseline).
fn profile_rank(profile_idc: u8, constraints: u8) -> u8 {
    match profile_idc {
        66 if constraints & 0x40 != 0 => 0,
        66 => 1,
        77 => 2,
        _ => 3,
    }
}

fn config(cert: Option<&DtlsCert>) -> RtcConfig {
    let mut codecs = CodecConfig::empty();
    codecs.enable_opus(true, false);
    codecs.enable_h264(true);
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
