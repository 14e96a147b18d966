//! Between what the hall holds and what crosses the wire. In and out: one message each, in memory of its own or
//! shared with the frame. Whatever a peer sends is checked here, once: what comes out of this module can be put into
//! the hall. Deliberately absent: the order of messages, which is the affair of who serves and who pulls.

use std::sync::Arc;

use headwater_proto as proto;

use crate::{
    ladder::Rendition,
    live::{BroadcastId, Declared, IdError, Origin, Publisher, Status, Told, Track},
    media::{Codec, Conversion, Frame, Gop, Info, Kind, Sample, Shape},
    rtc::To,
};

/// A broadcast's time is counted in microseconds from its birth: this is some three hundred years. Sums of a few
/// such numbers are no overflow.
const TIME_US_MAX: i64 = 1 << 53;
const NAME_BYTES_MAX: usize = 256;
/// avcC and hvcC are some hundred bytes, whatever an encoder may hide in there.
const CONFIG_BYTES_MAX: usize = 64 << 10;
/// As many as an operator may ask for, and then some.
const LADDER_MAX: usize = 32;
/// Trees are flat: an origin, an edge per region, an edge.
pub(crate) const PATH_MAX: usize = 16;

/// What was wrong with a message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{what} can't be {number}")]
    Number { what: &'static str, number: i64 },
    #[error("{what} has {length} bytes, at most {max} are taken")]
    TooLong { what: &'static str, length: usize, max: usize },
    #[error(transparent)]
    Name(#[from] IdError),
    #[error("a track of {kind:?} can't carry {codec:?}")]
    Codec { kind: Kind, codec: Codec },
    #[error("{0:?} can't be made from {1:?}")]
    Conversion(Codec, Codec),
}

fn number(what: &'static str, number: impl Into<i64>) -> WireError {
    WireError::Number { what, number: number.into() }
}

fn time(what: &'static str, us: i64) -> Result<i64, WireError> {
    if (-TIME_US_MAX..=TIME_US_MAX).contains(&us) { Ok(us) } else { Err(number(what, us)) }
}

fn short(what: &'static str, text: String) -> Result<String, WireError> {
    match text.len() {
        length if length > NAME_BYTES_MAX => Err(WireError::TooLong { what, length, max: NAME_BYTES_MAX }),
        _ => Ok(text),
    }
}

/// What an encoder says of itself is for REST alone.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(NAME_BYTES_MAX));
    text
}

pub fn from_id(id: &BroadcastId) -> proto::Name {
    proto::Name { app: id.app().to_owned(), stream: id.stream().to_owned() }
}

pub fn to_id(name: Option<proto::Name>) -> Result<BroadcastId, WireError> {
    let name = name.ok_or(WireError::Missing("the broadcast's name"))?;
    Ok(BroadcastId::new(&name.app, &name.stream)?)
}

/// `node` is the one that tells.
pub fn from_told(told: Told, node: &str) -> proto::State {
    let Told {
        status,
        epoch,
        claimed_epoch,
        epoch_began_us,
        next_gop,
        segment_target_s,
        publisher,
        mut path,
        ladder,
        deep,
    } = told;
    let status = match status {
        Status::Live => proto::Status::Live,
        Status::Interrupted => proto::Status::Interrupted,
        Status::Ended => proto::Status::Finished,
    };
    path.push(node.to_owned());
    proto::State {
        status: status.into(),
        epoch: claimed_epoch,
        publisher_epoch: epoch,
        epoch_began_us,
        next_gop,
        segment_target_s: segment_target_s.unwrap_or(0),
        protocol: publisher.protocol.to_owned(),
        remote: publisher.remote,
        agent: publisher.agent,
        path,
        ladder: ladder.into_iter().map(from_rendition).collect(),
        deep,
    }
}

pub fn to_told(state: proto::State) -> Result<Told, WireError> {
    let status = match state.status() {
        proto::Status::Unspecified => return Err(number("the status", state.status)),
        proto::Status::Live => Status::Live,
        proto::Status::Interrupted => Status::Interrupted,
        proto::Status::Finished | proto::Status::Terminated => Status::Ended,
    };
    if state.path.is_empty() || state.path.len() > PATH_MAX {
        return Err(number("the length of the path", state.path.len() as i64));
    }
    let path = state.path.into_iter().map(|node| short("a node's name", node)).collect::<Result<_, _>>()?;
    let target_s = state.segment_target_s;
    if target_s > 60 {
        return Err(number("the segment target", target_s));
    }
    Ok(Told {
        status,
        epoch: state.publisher_epoch,
        claimed_epoch: state.epoch,
        epoch_began_us: time("the beginning of the epoch", state.epoch_began_us)?,
        next_gop: state.next_gop,
        segment_target_s: (target_s > 0).then_some(target_s),
        publisher: Publisher {
            protocol: protocol(&state.protocol),
            remote: short("the publisher's address", state.remote)?,
            agent: cut(state.agent),
        },
        path,
        ladder: ladder(state.ladder)?,
        deep: state.deep,
    })
}

fn ladder(told: Vec<proto::Rendition>) -> Result<Vec<Rendition>, WireError> {
    match told.len() {
        steps if steps > LADDER_MAX => Err(number("the number of renditions", steps as i64)),
        _ => Ok(told.into_iter().map(to_rendition).collect()),
    }
}

fn from_rendition(rendition: Rendition) -> proto::Rendition {
    let Rendition { height, video_kbps, audio_kbps } = rendition;
    proto::Rendition { height, video_kbps, audio_kbps }
}

fn to_rendition(told: proto::Rendition) -> Rendition {
    let proto::Rendition { height, video_kbps, audio_kbps } = told;
    Rendition { height, video_kbps, audio_kbps }
}

/// A newer node may know more of them than this one.
fn protocol(name: &str) -> &'static str {
    const KNOWN: [&str; 6] = ["rtmp", "rtmps", "webrtc", "rtsp", "srt", ""];
    KNOWN.into_iter().find(|known| *known == name).unwrap_or("other")
}

/// `layers` are those of the present publisher; `info` may be older than the track's own, for frames that are.
pub fn from_track(id: u32, track: &Track, layers: &[Arc<Track>], info: Option<&Info>) -> proto::Track {
    let sent = layers.iter().any(|layer| std::ptr::eq(&**layer, track));
    let origin = match track.origin() {
        Origin::Source => proto::track::Origin::Source(proto::Source {}),
        Origin::Layer { index } => proto::track::Origin::Layer(proto::Layer { index: index.into(), sent }),
        Origin::Derived { conversion } => {
            let derived = |from, to| {
                proto::track::Origin::Derived(proto::Derived { from: codec(from).into(), to: codec(to).into() })
            };
            match conversion {
                Conversion::BFrames => derived(Codec::H264, Codec::H264),
                Conversion::Codec { from, to } => derived(from, to),
                Conversion::Rendition(rendition) => proto::track::Origin::Rendition(from_rendition(rendition)),
                Conversion::Sound { kbps } => proto::track::Origin::Sound(proto::Sound { kbps }),
            }
        }
    };
    let kind = match track.kind() {
        Kind::Video => proto::Kind::Video,
        Kind::Audio => proto::Kind::Audio,
    };
    proto::Track {
        id,
        name: track.name().to_owned(),
        kind: kind.into(),
        origin: Some(origin),
        info: info.map(from_info),
        waiting: track.waiting(),
    }
}

pub fn to_declared(track: proto::Track) -> Result<Declared, WireError> {
    let kind = match track.kind() {
        proto::Kind::Unspecified => return Err(number("the kind of a track", track.kind)),
        proto::Kind::Video => Kind::Video,
        proto::Kind::Audio => Kind::Audio,
    };
    let (origin, sent) = match track.origin.ok_or(WireError::Missing("where a track comes from"))? {
        proto::track::Origin::Source(proto::Source {}) => (Origin::Source, true),
        proto::track::Origin::Layer(proto::Layer { index, sent }) => {
            (Origin::Layer { index: index.try_into().map_err(|_| number("the index of a layer", index))? }, sent)
        }
        proto::track::Origin::Derived(derived) => (Origin::Derived { conversion: to_conversion(derived)? }, true),
        proto::track::Origin::Rendition(told) => {
            (Origin::Derived { conversion: Conversion::Rendition(to_rendition(told)) }, true)
        }
        proto::track::Origin::Sound(proto::Sound { kbps }) => {
            (Origin::Derived { conversion: Conversion::Sound { kbps } }, true)
        }
    };
    let info = track.info.map(to_info).transpose()?;
    let made = match origin {
        Origin::Derived { conversion } => Some(conversion.target()),
        Origin::Source | Origin::Layer { .. } => None,
    };
    for codec in made.into_iter().chain(info.as_ref().map(|info| info.codec)) {
        if codec.kind() != kind {
            return Err(WireError::Codec { kind, codec });
        }
    }
    Ok(Declared { name: short("a track's name", track.name)?, kind, origin, sent, info, waiting: track.waiting })
}

fn to_conversion(derived: proto::Derived) -> Result<Conversion, WireError> {
    let (from, to) = (to_codec(derived.from)?, to_codec(derived.to)?);
    match (from, to) {
        (Codec::H264, Codec::H264) => Ok(Conversion::BFrames),
        (from, to) if from == to || from.kind() != to.kind() => Err(WireError::Conversion(to, from)),
        (from, to) => Ok(Conversion::Codec { from, to }),
    }
}

fn codec(codec: Codec) -> proto::Codec {
    match codec {
        Codec::H264 => proto::Codec::H264,
        Codec::H265 => proto::Codec::H265,
        Codec::Av1 => proto::Codec::Av1,
        Codec::Vp8 => proto::Codec::Vp8,
        Codec::Vp9 => proto::Codec::Vp9,
        Codec::Aac => proto::Codec::Aac,
        Codec::Opus => proto::Codec::Opus,
    }
}

fn to_codec(number_on_wire: i32) -> Result<Codec, WireError> {
    let known = Codec::ALL.into_iter().find(|known| i32::from(codec(*known)) == number_on_wire);
    known.ok_or(number("a codec", number_on_wire))
}

fn from_info(info: &Info) -> proto::Info {
    let (width, height, reorders, sample_rate, channels) = match info.shape {
        Shape::Video { width, height, reorders } => (width, height, reorders, 0, 0),
        Shape::Audio { sample_rate, channels } => (0, 0, false, sample_rate, channels),
    };
    let (codec, config, channels) = (codec(info.codec).into(), info.config.clone(), channels.into());
    proto::Info { codec, config, width, height, reorders, sample_rate, channels }
}

fn to_info(info: proto::Info) -> Result<Info, WireError> {
    let proto::Info { codec, config, width, height, reorders, sample_rate, channels } = info;
    let codec = to_codec(codec)?;
    if config.len() > CONFIG_BYTES_MAX {
        return Err(WireError::TooLong { what: "a configuration", length: config.len(), max: CONFIG_BYTES_MAX });
    }
    let shape = match codec.kind() {
        Kind::Video => Shape::Video { width, height, reorders },
        Kind::Audio => {
            let channels = channels.try_into().map_err(|_| number("the number of channels", channels))?;
            Shape::Audio { sample_rate, channels }
        }
    };
    Ok(Info { codec, config, shape })
}

pub fn from_gop(gop: &Gop) -> proto::Gop {
    let &Gop { id, epoch, discontinuity, start_us, independent, has_video, has_audio, detached } = gop;
    proto::Gop { id, epoch, discontinuity, start_us, independent, has_video, has_audio, detached }
}

pub fn to_gop(gop: proto::Gop) -> Result<Gop, WireError> {
    let proto::Gop { id, epoch, discontinuity, start_us, independent, has_video, has_audio, detached } = gop;
    let start_us = time("the start of a gop", start_us)?;
    Ok(Gop { id, epoch, discontinuity, start_us, independent, has_video, has_audio, detached })
}

/// The payload is shared.
pub fn from_frame(track: u32, frame: &Frame) -> proto::Frame {
    proto::Frame {
        track,
        gop: frame.gop.id,
        dts_us: frame.dts_us,
        // A frame is never shown before it is decoded: the hall sees to that.
        composition_us: frame.pts_us.saturating_sub(frame.dts_us).clamp(0, u32::MAX.into()) as u32,
        keyframe: frame.keyframe,
        payload: frame.payload.clone(),
    }
}

/// The payload is a slice of what it came in.
pub fn to_sample(frame: proto::Frame) -> Result<Sample, WireError> {
    let proto::Frame { dts_us, composition_us, keyframe, payload, .. } = frame;
    let dts_us = time("the time of a frame", dts_us)?;
    if payload.is_empty() {
        return Err(WireError::Missing("the payload of a frame"));
    }
    Ok(Sample { dts_us, pts_us: dts_us + i64::from(composition_us), keyframe, payload })
}

pub fn to_born_us(born_us: i64) -> Result<i64, WireError> {
    time("the birth of the broadcast", born_us)
}

pub fn from_hearers(to: To) -> proto::Hearers {
    match to {
        To::Everybody => proto::Hearers::Everybody,
        To::Viewers => proto::Hearers::Viewers,
        To::Publisher => proto::Hearers::Publisher,
    }
}

pub fn to_hearers(said: &proto::Said) -> Result<To, WireError> {
    match proto::Hearers::try_from(said.hearers) {
        Ok(proto::Hearers::Everybody) => Ok(To::Everybody),
        Ok(proto::Hearers::Viewers) => Ok(To::Viewers),
        Ok(proto::Hearers::Publisher) => Ok(To::Publisher),
        Err(_) => Err(number("who is to hear a message", said.hearers)),
    }
}
