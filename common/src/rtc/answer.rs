//! What is agreed on with a viewer.
//!
//! In: an offer, or that the viewer wants to be made one, and what there is to send. Out: a WebRTC stack, its SDP, and
//! which section carries what with which payload types: of all codecs that both sides know, because a publisher may come
//! back with another one. Deliberately absent: sockets and sessions.

use std::time::{Duration, Instant};

use str0m::{
    Candidate, Rtc, RtcConfig,
    bwe::Bitrate,
    config::DtlsCert,
    format::{CodecConfig, PayloadParams},
    media::{Direction, MediaKind, Mid},
    rtp::{Extension, ExtensionMap},
};

use super::{
    channel,
    formats::Formats,
    roster::Ice,
    sdp::{Offer, SdpError, in_one_stream},
    session::{Agreed, Peer, Sections},
    viewing::{AUDIO, VIDEO},
};
use crate::{
    live::Broadcast,
    media::{Accepts, Codec, Delivery, Kind},
};

/// How often counters of a session are refreshed.
pub(super) const STATS_EVERY: Duration = Duration::from_secs(3);
/// And where the loss among them decides over layers.
const LOSS_EVERY: Duration = Duration::from_millis(250);
/// Sender reports of both tracks: what lip sync is made from. Browsers want two of each before they begin.
const REPORTS_EVERY: Duration = Duration::from_millis(500);

/// How a viewer's path is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measured {
    /// By the receiver's own estimate (goog-remb): two small reports a second.
    ByReceiver,
    /// Every packet is numbered across streams and the peer reports twenty times a second when each came (transport-wide
    /// feedback, draft-holmer-rmcat-transport-wide-cc-extensions-01): the stack estimates from that, finds out sooner
    /// that the path has become narrow, and probes for more. It costs half as much again per packet and 110 kB more per
    /// viewer (bench/RESULTS.md).
    ByPacket,
    /// As [`ByPacket`](Self::ByPacket), and the loss is looked at more often: there are layers to choose from.
    ForLayers,
}

/// As long as a shard has fewer sessions than this, what [`Measured::ByPacket`] costs is no matter: fifty viewers of
/// 150 packets a second take 3 percent of a core and 6 MB for it.
const FEW_SESSIONS: usize = 50;

impl Measured {
    /// For who comes now. `sessions` is how many each shard has, about.
    pub(super) fn suiting(broadcast: &Broadcast, sessions: usize) -> Self {
        match broadcast.pictures().len() > 1 {
            true => Self::ForLayers,
            false if sessions < FEW_SESSIONS => Self::ByPacket,
            false => Self::ByReceiver,
        }
    }
}

/// What a path is believed to carry before anything was measured: most mobile networks do.
pub(super) const FIRST_ESTIMATE: Bitrate = Bitrate::kbps(800);

/// Video, audio.
pub(super) type Mids = [Option<Mid>; 2];

/// Tells whether there is something of a kind for who takes these codecs.
pub(super) fn sends(broadcast: &Broadcast) -> impl Fn(Kind, Accepts) -> bool {
    |kind, peer| broadcast.choose(kind, Delivery::WebRtc(peer)).is_some()
}

pub(super) fn answer(
    text: &str,
    sends: impl Fn(Kind, Accepts) -> bool,
    measured: Measured,
    candidates: &[Candidate],
    cert: Option<&DtlsCert>,
    now: Instant,
) -> Result<(Agreed, Sections), SdpError> {
    let offer = Offer::parse(text)?;
    let wanted = [Kind::Video, Kind::Audio].map(|kind| offer.receiving(kind));
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
    let active: Vec<&str> = carried.iter().flatten().map(|section| section.mid).collect();
    let text = offer.with_active(&active, "a=recvonly");

    let rtc = stack(config(measured), candidates, cert, now);
    let mut agreed = Agreed::by_answering(rtc, text)?;
    agreed.sdp = in_one_stream(&agreed.sdp);

    let mids = carried.map(|section| section.map(|section| Mid::from(section.mid)));
    let sections = sections(&agreed.rtc, mids);
    for (index, kind, label) in [(VIDEO, Kind::Video, "video"), (AUDIO, Kind::Audio, "audio")] {
        let Some(section) = carried[index] else { continue };
        let accepts = sections[index].as_ref().map_or_else(Accepts::default, |(_, formats, _)| formats.accepts());
        if !sends(kind, accepts) {
            let suits = Codec::ALL.into_iter().filter(|codec| sends(kind, Accepts::from_iter([*codec])));
            let needed = suits.map(sdp_name).collect::<Vec<_>>().join(" or ");
            return Err(SdpError::Codec { kind: label, offered: section.codecs(), needed });
        }
    }
    Ok((agreed, sections))
}

/// An offer to somebody who wants to watch and lets the server begin. Everything there is goes into it.
pub(super) fn invite(
    stream: &str,
    sends: impl Fn(Kind, Accepts) -> bool,
    measured: Measured,
    candidates: &[Candidate],
    cert: Option<&DtlsCert>,
    now: Instant,
) -> Result<Agreed, SdpError> {
    let mut rtc = stack(config(measured), candidates, cert, now);
    let mut api = rtc.sdp_api();
    let mids = [(Kind::Video, MediaKind::Video), (Kind::Audio, MediaKind::Audio)].map(|(kind, section)| {
        // One stream for both: browsers keep in step what shares a stream.
        let add = || api.add_media(section, Direction::SendOnly, Some(stream.to_owned()), None, None);
        sends(kind, Accepts::EVERYTHING).then(add)
    });
    if mids.iter().any(Option::is_some) {
        // Named as Ant Media's players expect it.
        api.add_channel(stream.to_owned());
    }
    let (offer, pending) = api.apply().ok_or(SdpError::NothingToSend)?;
    let ice = Ice { local_ufrag: rtc.direct_api().local_ice_credentials().ufrag, remote_ufrag: String::new() };
    Ok(Agreed { rtc, sdp: offer.to_sdp_string(), peer: Peer::Invited { pending, mids }, ice })
}

/// What carries what, of the sections that were agreed on.
pub(super) fn sections(rtc: &Rtc, mids: Mids) -> Sections {
    mids.map(|mid| {
        let mid = mid?;
        let delay = rtc.media(mid)?.remote_extmap().id_of(Extension::PlayoutDelay).is_some();
        Some((mid, Formats::agreed(rtc, mid), delay))
    })
}

/// As offers spell them.
fn sdp_name(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "H264 with packetization-mode=1",
        Codec::H265 => "H265",
        Codec::Av1 => "AV1",
        Codec::Vp8 => "VP8",
        Codec::Vp9 => "VP9",
        Codec::Aac => "MPEG4-GENERIC",
        Codec::Opus => "opus",
    }
}

fn config(measured: Measured) -> RtcConfig {
    let numbered = measured != Measured::ByReceiver;
    let mut codecs = CodecConfig::empty();
    codecs.enable_opus(true, false);
    codecs.enable_h264(true);
    codecs.enable_vp8(true);
    codecs.enable_vp9(true);
    codecs.enable_av1(true);
    codecs.enable_h265(true);
    let mut params = codecs.params().to_vec();
    params.iter_mut().for_each(|params| params.set_fb_transport_cc(numbered));
    let mut extensions = ExtensionMap::empty();
    extensions.set(2, Extension::AbsoluteSendTime);
    if numbered {
        extensions.set(3, Extension::TransportSequenceNumber);
    }
    extensions.set(4, Extension::RtpMid);
    extensions.set(5, Extension::PlayoutDelay);

    let mut config = channel::bounded(RtcConfig::new())
        .set_ice_lite(true)
        .set_rtp_mode(true)
        .set_extension_map(extensions)
        .set_stats_interval(Some(STATS_EVERY))
        .set_rtcp_report_interval_audio(REPORTS_EVERY)
        .set_rtcp_report_interval_video(REPORTS_EVERY)
        .set_send_buffer_audio(1)
        .set_send_buffer_video(1);
    if numbered {
        config = config.enable_bwe(Some(FIRST_ESTIMATE));
    }
    if measured == Measured::ForLayers {
        config = config.set_stats_interval(Some(LOSS_EVERY));
    }
    *config.codec_config() = CodecConfig::new_from_payload_params(params);
    config
}

/// Of anybody's session: all of them show one certificate, and all can be reached everywhere the engine listens.
pub(super) fn stack(config: RtcConfig, candidates: &[Candidate], cert: Option<&DtlsCert>, now: Instant) -> Rtc {
    let config = match cert {
        Some(cert) => config.set_dtls_cert(cert.clone()),
        None => config,
    };
    let mut rtc = config.build(now);
    for candidate in candidates {
        rtc.add_local_candidate(candidate.clone());
    }
    rtc
}

/// Whether the packets of a section are numbered across streams, and reported on.
pub(super) fn numbers_packets(rtc: &Rtc, mid: Mid) -> bool {
    let Some(media) = rtc.media(mid) else { return false };
    let reported = |params: &PayloadParams| params.fb_transport_cc() && media.remote_pts().contains(&params.pt());
    media.remote_extmap().id_of(Extension::TransportSequenceNumber).is_some()
        && rtc.codec_config().params().iter().any(reported)
}
