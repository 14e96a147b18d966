//! The clip as WebRTC sends it. In: the FLV clip of the RTMP publishers. Out: its pictures as byte streams with start
//! codes (H.264 annex B), parameter sets in front of keyframes, and its sound as Opus packets of 20 ms.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    clip::{self, Clip, Kind, Tag},
    stamp,
};

const OPUS_MS: u32 = 20;
const START_CODE: [u8; 4] = [0, 0, 0, 1];

#[derive(Debug)]
pub(super) struct Media {
    /// By time.
    pub(super) samples: Vec<Sample>,
    pub(super) length: Duration,
}

#[derive(Debug)]
pub(super) struct Sample {
    pub(super) kind: Kind,
    pub(super) time: Duration,
    data: Vec<u8>,
    stamp_at: Option<usize>,
}

impl Media {
    pub(super) fn load(file: Option<&Path>, stamp_every: usize) -> Result<Self> {
        let path = clip::path(file, clip::Variant::default())?;
        let clip = Clip::load(Some(&path), clip::Variant::default(), stamp_every)?;
        Self::new(&clip, opus(&path)?)
    }

    fn new(clip: &Clip, sound: Vec<Vec<u8>>) -> Result<Self> {
        let record =
            clip.headers.iter().find(|tag| tag.kind == Kind::Video).context("a clip without parameter sets")?;
        let parameters = parameter_sets(&record.body).context("parameter sets are cut short")?;
        let pictures = clip.tags.iter().filter(|tag| tag.kind == Kind::Video && tag.body.get(1) == Some(&1));
        let mut samples = pictures.map(|tag| Sample::picture(tag, &parameters)).collect::<Result<Vec<_>>>()?;
        let length = Duration::from_millis(clip.length_ms.into());
        // What the encoder adds behind the end would overlap with the next round.
        let sound = sound.into_iter().zip(0..clip.length_ms / OPUS_MS).map(|(data, number)| Sample {
            kind: Kind::Audio,
            time: Duration::from_millis((number * OPUS_MS).into()),
            data,
            stamp_at: None,
        });
        samples.extend(sound);
        samples.sort_by_key(|sample| sample.time);
        Ok(Self { samples, length })
    }
}

impl Sample {
    fn picture(tag: &Tag, parameters: &[u8]) -> Result<Self> {
        let keyframe = tag.body[0] >> 4 == 1;
        let mut data = if keyframe { parameters.to_vec() } else { Vec::new() };
        let moved = data.len();
        let mut rest = &tag.body[5..];
        while let Some((length, behind)) = rest.split_first_chunk() {
            let (nal, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize).context("cut short")?;
            data.extend_from_slice(&START_CODE);
            data.extend_from_slice(nal);
            rest = behind;
        }
        // A start code is as long as the length that it replaces.
        let stamp_at = tag.stamp_at.map(|at| at - 5 + moved);
        Ok(Self { kind: Kind::Video, time: Duration::from_millis(tag.time_ms.into()), data, stamp_at })
    }

    /// As it goes out now.
    pub(super) fn stamped(&self) -> Vec<u8> {
        let mut data = self.data.clone();
        if let Some(at) = self.stamp_at {
            stamp::write(&mut data[at..], stamp::now_us());
        }
        data
    }
}

/// SPS and PPS of an AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1.2) in a tag's body, with start codes.
fn parameter_sets(body: &[u8]) -> Option<Vec<u8>> {
    let mut sets = Vec::new();
    let mut rest = body.get(5 + 5..)?;
    for count_mask in [0x1f, 0xff] {
        let (count, behind) = rest.split_first()?;
        rest = behind;
        for _ in 0..count & count_mask {
            let (length, behind) = rest.split_first_chunk()?;
            let (set, behind) = behind.split_at_checked(u16::from_be_bytes(*length).into())?;
            sets.extend_from_slice(&START_CODE);
            sets.extend_from_slice(set);
            rest = behind;
        }
    }
    Some(sets)
}

/// The clip's sound, encoded by ffmpeg.
fn opus(clip: &Path) -> Result<Vec<Vec<u8>>> {
    let output = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-i"])
        .arg(clip)
        .args(["-vn", "-c:a", "libopus", "-b:a", "96k", "-ar", "48000", "-ac", "2"])
        .args(["-frame_duration", &OPUS_MS.to_string(), "-f", "ogg", "-"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting ffmpeg")?;
    ensure!(output.status.success(), "ffmpeg could not encode the sound of {}", clip.display());
    let packets = ogg_packets(&output.stdout).context("no Ogg")?;
    ensure!(packets.first().is_some_and(|head| head.starts_with(b"OpusHead")), "no Opus");
    // The second one is OpusTags (RFC 7845, 3).
    Ok(packets.into_iter().skip(2).collect())
}

/// The packets of an Ogg file with one stream (RFC 3533, 6).
fn ogg_packets(mut rest: &[u8]) -> Option<Vec<Vec<u8>>> {
    const HEADER_BYTES: usize = 27;
    let mut packets = Vec::new();
    let mut packet = Vec::new();
    while !rest.is_empty() {
        let (header, behind) = rest.split_at_checked(HEADER_BYTES)?;
        if !header.starts_with(b"OggS") {
            return None;
        }
        let (lacing, mut behind) = behind.split_at_checked(header[HEADER_BYTES - 1].into())?;
        for &length in lacing {
            let (segment, after) = behind.split_at_checked(length.into())?;
            packet.extend_from_slice(segment);
            behind = after;
            // A segment that is not full ends its packet.
            if length < 255 {
                packets.push(std::mem::take(&mut packet));
            }
        }
        rest = behind;
    }
    Some(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lacing: &[u8], data: &[u8]) -> Vec<u8> {
        let mut page = b"OggS".to_vec();
        page.extend([0; 22]);
        page.push(lacing.len() as u8);
        [&page, lacing, data].concat()
    }

    #[test]
    fn packets_are_read_over_the_borders_of_pages() {
        let long = vec![7; 300];
        let ogg = [page(&[2, 255], &[&[1, 2], &long[..255]].concat()), page(&[45, 0], &long[255..])].concat();
        assert_eq!(ogg_packets(&ogg).unwrap(), [vec![1, 2], long, vec![]]);
        assert!(ogg_packets(&ogg[..ogg.len() - 1]).is_none());
        assert!(ogg_packets(b"RIFF").is_none());
    }

    #[test]
    fn a_keyframe_carries_its_parameter_sets_and_a_stamp_stays_in_its_place() {
        let record =
            [&[0x17, 0, 0, 0, 0, 1, 77, 0, 31, 0xff][..], &[0xe1, 0, 2, 0x67, 9], &[1, 0, 2, 0x68, 8]].concat();
        let (stamp, digits) = stamp::nal();
        let keyframe = [&[0x17, 1, 0, 0, 0, 0, 0, 0, stamp.len() as u8][..], &stamp, &[0, 0, 0, 2, 0x65, 1]].concat();
        let tag = |time_ms, body: &[u8], stamp_at| Tag { kind: Kind::Video, time_ms, body: body.to_vec(), stamp_at };
        let clip = Clip {
            headers: vec![tag(0, &record, None)],
            tags: vec![tag(0, &keyframe, Some(9 + digits)), tag(33, &[0x27, 1, 0, 0, 0, 0, 0, 0, 2, 0x41, 3], None)],
            length_ms: 66,
        };
        let media = Media::new(&clip, vec![vec![1], vec![2], vec![3], vec![4]]).unwrap();
        let order: Vec<_> = media.samples.iter().map(|sample| (sample.kind, sample.time.as_millis())).collect();
        use Kind::{Audio, Video};
        assert_eq!(order, [(Video, 0), (Audio, 0), (Audio, 20), (Video, 33), (Audio, 40)]);

        let sent = media.samples[0].stamped();
        assert!(sent.starts_with(&[0, 0, 0, 1, 0x67, 9, 0, 0, 0, 1, 0x68, 8, 0, 0, 0, 1, 6]));
        assert!(sent.ends_with(&[0, 0, 0, 1, 0x65, 1]));
        assert!(stamp::read(&sent).is_some_and(|time_us| stamp::now_us() - time_us < 10_000_000));
        assert_eq!(media.samples[3].stamped(), [0, 0, 0, 1, 0x41, 3]);
    }
}
