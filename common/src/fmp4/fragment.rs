//! One fragment: `moof` and `mdat`. In: samples of one or several tracks, each track in decoding order. Out: the
//! bytes. Deliberately absent: deciding what belongs into a fragment. Every time is converted for itself and every
//! duration is a difference of two times, so nothing adds up to a drift.

use bytes::{BufMut, Bytes};
use mp4_atom::{Encode, Mfhd, Moof, Tfdt, Tfhd, Traf, Trun, TrunEntry};

use super::{TrackSpec, ticks};
use crate::media::{Codec, Kind, Sample, opus};

/// sample_depends_on 2: on no other (8.8.3.1).
const SYNC: u32 = 0x0200_0000;
/// sample_depends_on 1, sample_is_non_sync_sample.
const NON_SYNC: u32 = 0x0101_0000;
/// The last picture of a fragment lasts this long where nothing tells better.
const PICTURE_US: i64 = 33_333;

#[derive(Debug)]
pub struct Fragment {
    sequence: u32,
    runs: Vec<Run>,
    payload: usize,
}

#[derive(Debug)]
struct Run {
    track: TrackSpec,
    end_us: Option<i64>,
    samples: Vec<Sample>,
}

impl Fragment {
    /// `sequence` grows by one per fragment of a file, from 1.
    pub fn new(sequence: u32) -> Self {
        Self { sequence, runs: Vec::new(), payload: 0 }
    }

    /// Appends a sample to its track's run.
    pub fn push(&mut self, track: &TrackSpec, sample: Sample) {
        self.payload += sample.payload.len();
        match self.runs.iter_mut().find(|run| run.track.id == track.id) {
            Some(run) => run.samples.push(sample),
            None => self.runs.push(Run { track: track.clone(), end_us: None, samples: vec![sample] }),
        }
    }

    /// Says when the track's next sample, which is not in this fragment, will be decoded. Without it the last sample
    /// lasts as long as its codec says, or as long as the one before it.
    pub fn end(&mut self, track: u32, end_us: i64) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.track.id == track) {
            run.end_us = Some(end_us);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes of media so far.
    pub fn payload_len(&self) -> usize {
        self.payload
    }

    /// The bytes; none if nothing was pushed. The media is copied once, into one allocation of the right size.
    pub fn finish(self) -> Bytes {
        if self.is_empty() {
            return Bytes::new();
        }
        let mut moof =
            Moof { mfhd: Mfhd { sequence_number: self.sequence }, traf: self.runs.iter().map(Run::traf).collect() };
        // The offsets count from the start of moof, whose size does not depend on them.
        let mut head = Vec::new();
        encode(&moof, &mut head);
        let wide = self.payload + MDAT_HEADER > u32::MAX as usize;
        let mut offset = head.len() + if wide { WIDE_MDAT_HEADER } else { MDAT_HEADER };
        let mut bytes = Vec::with_capacity(offset + self.payload);
        for (run, traf) in self.runs.iter().zip(&mut moof.traf) {
            // 31 bits: a fragment whose last run starts behind 2 GiB is beyond anything a gop can hold.
            traf.trun[0].data_offset = Some(i32::try_from(offset).unwrap_or(i32::MAX));
            offset += run.samples.iter().map(|sample| sample.payload.len()).sum::<usize>();
        }
        encode(&moof, &mut bytes);
        put_mdat_header(&mut bytes, self.payload as u64);
        for sample in self.runs.iter().flat_map(|run| &run.samples) {
            bytes.extend_from_slice(&sample.payload);
        }
        bytes.into()
    }
}

impl Run {
    fn traf(&self) -> Traf {
        let timescale = self.track.timescale();
        let sound = self.track.info.kind() == Kind::Audio;
        // Decoding times never stand still nor run back, whatever the publisher sent: the presentation times hold.
        let mut times: Vec<i64> = Vec::with_capacity(self.samples.len() + 1);
        for sample in &self.samples {
            let least = times.last().map_or(0, |last| last + 1);
            times.push(ticks(sample.dts_us, timescale).max(least));
        }
        times.push(self.end(&times));
        let entries: Vec<_> = (self.samples.iter().zip(times.windows(2)))
            .map(|(sample, time)| TrunEntry {
                duration: Some(u32::try_from(time[1] - time[0]).unwrap_or(u32::MAX)),
                size: Some(sample.payload.len() as u32),
                flags: Some(if sample.keyframe || sound { SYNC } else { NON_SYNC }),
                cts: (!sound).then(|| {
                    let offset = ticks(sample.pts_us, timescale).saturating_sub(time[0]);
                    offset.clamp(i32::MIN.into(), i32::MAX.into())
                }),
            })
            .collect();
        Traf {
            tfhd: Tfhd { track_id: self.track.id, default_base_is_moof: true, ..Tfhd::default() },
            tfdt: Some(Tfdt { base_media_decode_time: times[0] as u64 }),
            trun: vec![Trun { data_offset: Some(0), samples: entries.into() }],
            ..Traf::default()
        }
    }

    /// When the sample behind the last one is decoded, at least one tick later.
    fn end(&self, times: &[i64]) -> i64 {
        let last = times[times.len() - 1];
        let end = match (self.end_us, self.sound_ticks(), times) {
            (Some(end_us), ..) => ticks(end_us, self.track.timescale()),
            (None, Some(sound), _) => last + sound,
            (None, None, [.., before, last]) => last + (last - before),
            (None, None, _) => last + ticks(PICTURE_US, self.track.timescale()),
        };
        end.max(last + 1)
    }

    /// How long the last access unit sounds: the timescale is its sample rate.
    fn sound_ticks(&self) -> Option<i64> {
        let samples = match self.track.info.codec {
            Codec::Opus => opus::packet_samples(&self.samples.last()?.payload),
            _ => self.track.info.samples_per_frame(),
        };
        samples.map(i64::from)
    }
}

const MDAT_HEADER: usize = 8;
const WIDE_MDAT_HEADER: usize = 16;

pub(super) fn put_mdat_header(bytes: &mut Vec<u8>, payload: u64) {
    match u32::try_from(payload + MDAT_HEADER as u64) {
        Ok(size) => {
            bytes.put_u32(size);
            bytes.put_slice(b"mdat");
        }
        Err(_) => {
            bytes.put_u32(1);
            bytes.put_slice(b"mdat");
            bytes.put_u64(payload + WIDE_MDAT_HEADER as u64);
        }
    }
}

fn encode(moof: &Moof, bytes: &mut Vec<u8>) {
    // Fails on offsets beyond 32 bits only, and those are clamped above.
    let encoded = moof.encode(bytes);
    debug_assert!(encoded.is_ok(), "{encoded:?}");
}
