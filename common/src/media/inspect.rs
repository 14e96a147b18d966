//! Looks at every access unit a publisher sends, once, where it enters. In: samples as the protocol framed them, and
//! configuration records. Out: samples in the canonical form whose keyframe mark comes from the bitstream, and a new
//! [`Info`] whenever the track is no longer what it was: other parameter sets, another size, the first B slice.
//! Deliberately absent: timestamps (passed through), and repair: a malformed access unit is an error that names its
//! offset, the door drops it and counts.
//!
//! What is a keyframe: H.264 IDR pictures, and I pictures behind a recovery point message without delay (encoders with
//! open gops or a rolling start never send a second IDR; the B pictures that follow such a picture and precede it on
//! the screen may be broken for who joins there). H.265 IRAP pictures. AV1 temporal units that start with a shown
//! keyframe. All sound.

use std::ops::Range;

use bytes::Bytes;

use super::av1::{self, SequenceHeader};
use super::config::ConfigError;
use super::h264::{self, Reordering, SliceKind};
use super::nal::{self, Framing, ParameterSets};
use super::{Codec, Info, Sample, Shape, h265, opus, vp8, vp9};

/// One per source track.
#[derive(Debug)]
pub struct Inspector {
    codec: Codec,
    framing: Framing,
    info: Option<Info>,
    sets: ParameterSets,
    reordering: Reordering,
    sequence_header: Option<SequenceHeader>,
    /// Of the access unit at hand; kept for its allocation.
    kept: Vec<Range<usize>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// `None` for an access unit without a picture or sound in it.
    pub sample: Option<Sample>,
    /// What the track is from this sample on, if that changed.
    pub new_info: Option<Info>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("NAL unit at byte {offset} claims {length} bytes, {left} are left")]
    NalLength { offset: usize, length: usize, left: usize },
    #[error("OBU at byte {offset} is malformed or goes beyond the end")]
    Obu { offset: usize },
    #[error("parameter set in the access unit: {0}")]
    ParameterSet(ConfigError),
    #[error("no configuration record or parameter sets yet")]
    Unconfigured,
}

impl Inspector {
    /// For a track whose access units bring what is needed (Annex-B, VP8, VP9, AV1, Opus), or until
    /// [`configure`](Self::configure) is called. What the framing is matters to H.264 and H.265 only.
    pub fn new(codec: Codec, framing: Framing) -> Self {
        Self {
            codec,
            framing,
            info: None,
            sets: ParameterSets::default(),
            reordering: Reordering::Unsaid,
            sequence_header: None,
            kept: Vec::new(),
        }
    }

    /// For a track that starts with its configuration record.
    pub fn with_config(codec: Codec, record: Bytes) -> Result<Self, ConfigError> {
        let mut inspector = Self::new(codec, Framing::Lengths(nal::LENGTH_SIZE));
        inspector.configure(record)?;
        Ok(inspector)
    }

    /// Takes in a configuration record, first or new. The `Info` that follows from it, unless the track is what it was
    /// or is not known yet (an avcC without parameter sets, a vpcC: the next keyframe tells).
    pub fn configure(&mut self, record: Bytes) -> Result<Option<Info>, ConfigError> {
        match self.codec {
            Codec::H264 | Codec::H265 => {
                let parsed = match self.codec {
                    Codec::H264 => h264::parse_record(&record)?,
                    _ => h265::parse_record(&record)?,
                };
                if parsed.sets.sps.is_empty() {
                    self.framing = Framing::Lengths(parsed.length_size);
                    return Ok(None);
                }
                let before = std::mem::replace(&mut self.sets, parsed.sets);
                match self.info_of_sets(&before) {
                    Ok(info) => {
                        self.framing = Framing::Lengths(parsed.length_size);
                        Ok(self.adopt(info))
                    }
                    Err(error) => {
                        self.sets = before;
                        Err(error)
                    }
                }
            }
            Codec::Av1 => {
                let info = Info::from_config(self.codec, record)?;
                self.sequence_header = av1::Config::parse(&info.config)?.sequence_header;
                Ok(if self.sequence_header.is_some() { self.adopt(info) } else { None })
            }
            // Dimensions are only in keyframes, and so is everything the record says.
            Codec::Vp8 | Codec::Vp9 => Info::from_config(self.codec, record).map(|_| None),
            Codec::Aac | Codec::Opus => {
                let info = Info::from_config(self.codec, record)?;
                Ok(self.adopt(info))
            }
        }
    }

    /// What the track is, as far as it is known.
    pub fn info(&self) -> Option<&Info> {
        self.info.as_ref()
    }

    /// Looks at the next access unit. Its `keyframe` is overwritten, its timestamps are left alone.
    pub fn push(&mut self, sample: Sample) -> Result<Inspected, FrameError> {
        match self.codec {
            Codec::H264 | Codec::H265 => self.push_nals(sample),
            Codec::Av1 => self.push_av1(sample),
            Codec::Vp8 | Codec::Vp9 => self.push_vpx(sample),
            Codec::Opus => self.push_opus(sample),
            Codec::Aac => self.finish(Sample { keyframe: true, ..sample }, None),
        }
    }

    fn push_nals(&mut self, sample: Sample) -> Result<Inspected, FrameError> {
        let payload = &sample.payload;
        let mut unit = AccessUnit::default();
        self.kept.clear();
        match self.framing {
            Framing::Lengths(size) => {
                for range in nal::units(payload, size) {
                    unit.look(self.codec, payload, range?, self.reordering, &mut self.kept);
                }
            }
            Framing::AnnexB => {
                for range in nal::annex_b_units(payload) {
                    unit.look(self.codec, payload, range, self.reordering, &mut self.kept);
                }
            }
        }
        let mut new_info = None;
        if !unit.sets.is_empty() {
            let before = self.sets.clone();
            let id = if self.codec == Codec::H264 { h264::parameter_set_id } else { h265::parameter_set_id };
            if self.sets.merge(unit.sets, id) {
                match self.info_of_sets(&before) {
                    Ok(info) => new_info = self.adopt(info),
                    // The rest of the sets may come with the next access unit.
                    Err(_) if self.info.is_none() && !unit.picture => {}
                    Err(error) => {
                        self.sets = before;
                        return Err(FrameError::ParameterSet(error));
                    }
                }
            }
        }
        if unit.bidirectional
            && self.reordering == Reordering::Unsaid
            && let Some(info) = &mut self.info
        {
            self.reordering = Reordering::Yes;
            set_reorders(info);
            new_info = Some(info.clone());
        }
        let keyframe = unit.keyframe || (unit.recovery_point && unit.intra);
        let payload = match unit.picture {
            true => nal::assemble(payload, &self.kept, self.framing),
            false => Bytes::new(),
        };
        self.finish(Sample { keyframe, payload, ..sample }, new_info)
    }

    fn push_av1(&mut self, sample: Sample) -> Result<Inspected, FrameError> {
        let payload = &sample.payload;
        let unit = av1::inspect(payload, self.sequence_header.as_ref())?;
        let mut new_info = None;
        if let Some(header) = unit.sequence_header {
            let record = av1::build_record(&payload[header]).map_err(FrameError::ParameterSet)?;
            let info = Info::from_config(Codec::Av1, record).map_err(FrameError::ParameterSet)?;
            self.sequence_header = av1::Config::parse(&info.config).ok().and_then(|config| config.sequence_header);
            new_info = self.adopt(info);
        }
        let adjoining = unit.kept.windows(2).all(|pair| pair[0].end == pair[1].start);
        let payload = match (unit.kept.first(), unit.kept.last()) {
            _ if !unit.has_frame => Bytes::new(),
            (Some(first), Some(last)) if adjoining => payload.slice(first.start..last.end),
            _ => unit.kept.iter().flat_map(|obu| &payload[obu.clone()]).copied().collect(),
        };
        self.finish(Sample { keyframe: unit.keyframe, payload, ..sample }, new_info)
    }

    fn push_vpx(&mut self, sample: Sample) -> Result<Inspected, FrameError> {
        let keyframe = match self.codec {
            Codec::Vp8 => vp8::keyframe(&sample.payload).map(|(width, height)| vp9::Keyframe {
                profile: vp8::profile(&sample.payload),
                bit_depth: 8,
                chroma_subsampling: 1,
                full_range: false,
                color_space: 1,
                width,
                height,
            }),
            _ => vp9::keyframe(&sample.payload),
        };
        let new_info = keyframe.and_then(|shown| {
            let shape = Shape::Video { width: shown.width, height: shown.height, reorders: false };
            self.adopt(Info { codec: self.codec, config: vp9::build_record(&shown), shape })
        });
        self.finish(Sample { keyframe: keyframe.is_some(), ..sample }, new_info)
    }

    /// RTP says nothing about channels: offers say two whatever is sent (RFC 7587 section 7). So packets do, and mono
    /// ones between stereo ones, which encoders send when nothing is to be heard, take nothing back.
    fn push_opus(&mut self, sample: Sample) -> Result<Inspected, FrameError> {
        let known = match &self.info {
            None => 0,
            // A record that says more than that is to be believed.
            Some(info) if info.config == opus::Config::plain(1).dops() => 1,
            Some(_) => u8::MAX,
        };
        let new_info =
            opus::packet_channels(&sample.payload).filter(|channels| *channels > known).and_then(|channels| {
                let config = opus::Config::plain(channels).dops();
                let shape = Shape::Audio { sample_rate: opus::SAMPLE_RATE, channels };
                self.adopt(Info { codec: Codec::Opus, config, shape })
            });
        self.finish(Sample { keyframe: true, ..sample }, new_info)
    }

    fn finish(&self, sample: Sample, new_info: Option<Info>) -> Result<Inspected, FrameError> {
        if sample.payload.is_empty() {
            return Ok(Inspected { sample: None, new_info });
        }
        if self.info.is_none() {
            return Err(FrameError::Unconfigured);
        }
        Ok(Inspected { sample: Some(sample), new_info })
    }

    /// What the parameter sets at hand make of the track. That a B slice was seen outlives everything but another
    /// sequence parameter set.
    fn info_of_sets(&mut self, before: &ParameterSets) -> Result<Info, ConfigError> {
        let record = match self.codec {
            Codec::H264 => h264::build_record(&self.sets)?,
            _ => h265::build_record(&self.sets)?,
        };
        let mut info = Info::from_config(self.codec, record)?;
        if self.codec == Codec::H264 {
            let same_sequence = before.sps == self.sets.sps;
            match h264::Sps::parse(&self.sets.sps[0])?.reordering() {
                Reordering::Unsaid if same_sequence && self.reordering == Reordering::Yes => set_reorders(&mut info),
                reordering => self.reordering = reordering,
            }
        }
        Ok(info)
    }

    fn adopt(&mut self, info: Info) -> Option<Info> {
        if self.info.as_ref() == Some(&info) {
            return None;
        }
        self.info = Some(info.clone());
        Some(info)
    }
}

/// What a walk over the NAL units found.
#[derive(Default)]
struct AccessUnit {
    sets: ParameterSets,
    picture: bool,
    keyframe: bool,
    recovery_point: bool,
    /// No slice but I slices.
    intra: bool,
    bidirectional: bool,
}

impl AccessUnit {
    fn look(
        &mut self,
        codec: Codec,
        payload: &Bytes,
        range: Range<usize>,
        reordering: Reordering,
        kept: &mut Vec<Range<usize>>,
    ) {
        let nal = &payload[range.clone()];
        // Parameter sets are copied: they live on, the frame around them must not.
        if codec == Codec::H264 {
            match h264::unit(nal) {
                h264::Unit::Sps => return self.sets.sps.push(Bytes::copy_from_slice(nal)),
                h264::Unit::Pps => return self.sets.pps.push(Bytes::copy_from_slice(nal)),
                h264::Unit::Dropped => return,
                h264::Unit::RecoveryPoint => self.recovery_point = true,
                h264::Unit::Other => {}
                h264::Unit::Slice { idr } => {
                    self.keyframe |= idr;
                    if self.recovery_point || reordering == Reordering::Unsaid {
                        let kind = h264::slice_kind(nal);
                        self.bidirectional |= kind == Some(SliceKind::B);
                        self.intra = (self.intra || !self.picture) && kind == Some(SliceKind::I);
                    }
                    self.picture = true;
                }
            }
        } else {
            match h265::unit(nal) {
                h265::Unit::Vps => return self.sets.vps.push(Bytes::copy_from_slice(nal)),
                h265::Unit::Sps => return self.sets.sps.push(Bytes::copy_from_slice(nal)),
                h265::Unit::Pps => return self.sets.pps.push(Bytes::copy_from_slice(nal)),
                h265::Unit::Dropped => return,
                h265::Unit::Other => {}
                h265::Unit::Slice { irap } => {
                    self.keyframe |= irap;
                    self.picture = true;
                }
            }
        }
        kept.push(range);
    }
}

fn set_reorders(info: &mut Info) {
    if let Shape::Video { reorders, .. } = &mut info.shape {
        *reorders = true;
    }
}
