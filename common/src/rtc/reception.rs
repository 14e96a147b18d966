//! What is agreed on with a publisher.
//!
//! In: an offer. Out: a WebRTC stack that takes what it sends, and the answer. One codec per section is taken: the
//! first of [`PREFERRED`] that the publisher offers, since what it sends should be playable everywhere without being
//! encoded again. Deliberately absent: sockets, sessions and the hall.

use std::time::Instant;

use str0m::{
    Candidate, Rtc, RtcConfig,
    config::DtlsCert,
    format::CodecConfig,
    rtp::{Extension, ExtensionMap},
};

use super::{
    answer::{STATS_EVERY, stack},
    channel, dtls,
    sdp::{Format, Offer, SdpError, Section},
    session::Agreed,
};
use crate::media::Kind;

/// Video codecs, best first.
const PREFERRED: [&str; 5] = ["H264", "VP8", "VP9", "AV1", "H265"];
/// Packets of sound that wait for one that is missing. It is not sent again, so this is for those that overtook it. At
/// 20 ms each, waiting longer makes players hold back all sound by that much, and after it the picture.
const AUDIO_WAITS_MAX: usize = 2;
/// What an H.264 format means that says nothing (RFC 6184 section 8.1): constrained baseline would be 42e0.
const H264_UNSAID: u32 = 0x42_00_0a;

/// What a publisher is going to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sends {
    pub(super) picture: bool,
    pub(super) sound: bool,
}

pub(super) fn answer(
    text: &str,
    candidates: &[Candidate],
    cert: Option<&DtlsCert>,
    now: Instant,
) -> Result<(Agreed, Sends), SdpError> {
    let offer = Offer::parse(text)?;
    let [video, audio] = [Kind::Video, Kind::Audio].map(|kind| offer.sending(kind));
    if video.is_none() && audio.is_none() {
        return Err(SdpError::NothingSent);
    }
    let mut codecs = CodecConfig::empty();
    if let Some(section) = video {
        take_video(section, &mut codecs)?;
    }
    if let Some(section) = audio {
        take_audio(section, &mut codecs)?;
    }
    let active: Vec<&str> = [video, audio].into_iter().flatten().map(|section| section.mid).collect();
    let text = offer.with_active(&active, "a=sendonly");

    let rtc = stack(config(codecs), candidates, cert, now);
    let agreed = Agreed::by_answering(rtc, text)?;
    for (section, kind) in [(video, "video"), (audio, "audio")] {
        let Some(section) = section else { continue };
        if !is_taken(&agreed.rtc, section) {
            return Err(SdpError::NoForm { kind, offered: section.codecs() });
        }
    }
    Ok((agreed, Sends { picture: video.is_some(), sound: audio.is_some() }))
}

fn is_taken(rtc: &Rtc, section: &Section<'_>) -> bool {
    rtc.media(section.mid.into()).is_some_and(|media| !media.remote_pts().is_empty())
}

/// The best codec, in every form the publisher offers it: profiles differ between encoders more than decoders care.
fn take_video(section: &Section<'_>, codecs: &mut CodecConfig) -> Result<(), SdpError> {
    let formats = section.formats();
    let offered = |name: &str| formats.iter().any(|format| format.codec.eq_ignore_ascii_case(name));
    let Some(best) = PREFERRED.into_iter().find(|name| offered(name)) else {
        let taken = "H264, VP8, VP9, AV1 or H265";
        return Err(SdpError::NotTaken { kind: "video", offered: section.codecs(), taken });
    };
    match best {
        "H264" => {
            for format in formats.iter().filter(|format| format.codec.eq_ignore_ascii_case(best)) {
                take_h264(format, codecs);
            }
        }
        "VP8" => codecs.enable_vp8(true),
        "VP9" => codecs.enable_vp9(true),
        "AV1" => codecs.enable_av1(true),
        _ => codecs.enable_h265(true),
    }
    Ok(())
}

fn take_h264(format: &Format<'_>, codecs: &mut CodecConfig) {
    let interleaves = format.parameter("packetization-mode") == Some("2");
    if interleaves {
        return;
    }
    let profile = format.parameter("profile-level-id").and_then(|id| u32::from_str_radix(id, 16).ok());
    let non_interleaved = format.parameter("packetization-mode") == Some("1");
    let rtx = format.rtx.map(Into::into);
    codecs.add_h264(format.pt.into(), rtx, non_interleaved, profile.unwrap_or(H264_UNSAID));
}

fn take_audio(section: &Section<'_>, codecs: &mut CodecConfig) -> Result<(), SdpError> {
    if !section.formats().iter().any(|format| format.codec.eq_ignore_ascii_case("opus")) {
        return Err(SdpError::NotTaken { kind: "audio", offered: section.codecs(), taken: "opus" });
    }
    codecs.enable_opus(true, false);
    Ok(())
}

fn config(codecs: CodecConfig) -> RtcConfig {
    // Not the orientation of the picture: a publisher that can't tell it turns the picture itself, which every output
    // can carry.
    let mut extensions = ExtensionMap::empty();
    extensions.set(3, Extension::TransportSequenceNumber);
    extensions.set(4, Extension::RtpMid);
    extensions.set(10, Extension::RtpStreamId);
    extensions.set(11, Extension::RepairedRtpStreamId);
    let mut config = channel::bounded(RtcConfig::new())
        .set_ice_lite(true)
        // Viewers' is the stack's own, with 58 kB less per session: browsers show nothing that it doesn't know.
        .set_crypto_provider(dtls::provider())
        .set_extension_map(extensions)
        .set_stats_interval(Some(STATS_EVERY))
        .set_reordering_size_audio(AUDIO_WAITS_MAX);
    *config.codec_config() = codecs;
    config
}
