//! The sample tables of one track, grown sample by sample. In: samples as they lie in fragments. Out: a `trak` for an
//! ordinary MP4 file. Deliberately absent: the media. Memory: four bytes per sample, and runs of what repeats.

use mp4_atom::{
    Co64, Codec as Entry, Ctts, CttsEntry, Edts, Elst, ElstEntry, Stbl, Stsc, StscEntry, Stsd, Stss, Stsz, StszSamples,
    Stts, SttsEntry, Trak,
};

use super::init::MOVIE_TIMESCALE;
use super::read::SampleAt;

pub(super) struct Tables {
    /// Names, handler and header as the first initialisation section had them.
    trak: Trak,
    /// Every different sample description so far.
    descriptions: Vec<Entry>,
    /// Of the samples to come, from 1.
    description: u32,
    /// Ticks of the samples to come, where a later section changed it.
    incoming_timescale: u32,
    first_dts: i64,
    last: Option<Last>,
    /// The earliest presentation time.
    first_pts: i64,
    durations: Vec<SttsEntry>,
    offsets: Vec<CttsEntry>,
    sync: Vec<u32>,
    sizes: Vec<u32>,
    /// Counted from the start of the media.
    chunks: Vec<u64>,
    chunk_runs: Vec<StscEntry>,
}

#[derive(Clone, Copy)]
struct Last {
    dts: i64,
    duration: u32,
}

impl Tables {
    pub(super) fn new(trak: Trak) -> Self {
        let descriptions = trak.mdia.minf.stbl.stsd.codecs.clone();
        Self {
            incoming_timescale: trak.mdia.mdhd.timescale,
            trak,
            descriptions,
            description: 1,
            first_dts: 0,
            last: None,
            first_pts: i64::MAX,
            durations: Vec::new(),
            offsets: Vec::new(),
            sync: Vec::new(),
            sizes: Vec::new(),
            chunks: Vec::new(),
            chunk_runs: Vec::new(),
        }
    }

    pub(super) fn track(&self) -> u32 {
        self.trak.tkhd.track_id
    }

    pub(super) fn samples(&self) -> usize {
        self.sizes.len()
    }

    pub(super) fn descriptions(&self) -> &[Entry] {
        &self.descriptions
    }

    /// A later initialisation section: the samples to come are described by it.
    pub(super) fn redescribe(&mut self, trak: &Trak) {
        self.incoming_timescale = trak.mdia.mdhd.timescale;
        let Some(entry) = trak.mdia.minf.stbl.stsd.codecs.first() else { return };
        let known = self.descriptions.iter().position(|known| known == entry);
        let index = known.unwrap_or_else(|| {
            self.descriptions.push(entry.clone());
            self.descriptions.len() - 1
        });
        self.description = index as u32 + 1;
        // The track is as large as its largest picture.
        let (ours, theirs) = (&mut self.trak.tkhd, &trak.tkhd);
        if theirs.width.integer() > ours.width.integer() {
            (ours.width, ours.height) = (theirs.width, theirs.height);
        }
    }

    /// Adds samples that adjoin in the file, the first of them `chunk` bytes into the media.
    pub(super) fn push(&mut self, samples: &[SampleAt], chunk: u64) {
        if samples.is_empty() {
            return;
        }
        self.chunks.push(chunk);
        let run = StscEntry {
            first_chunk: self.chunks.len() as u32,
            samples_per_chunk: samples.len() as u32,
            sample_description_index: self.description,
        };
        if !self.chunk_runs.last().is_some_and(|last| {
            last.samples_per_chunk == run.samples_per_chunk
                && last.sample_description_index == run.sample_description_index
        }) {
            self.chunk_runs.push(run);
        }
        for sample in samples {
            self.push_sample(sample);
        }
    }

    fn push_sample(&mut self, sample: &SampleAt) {
        let arrived = self.rescale(sample.dts);
        let pts = self.rescale(sample.dts + i64::from(sample.offset));
        let dts = match self.last {
            None => {
                self.first_dts = arrived;
                arrived
            }
            // A sample lasts until the next one: that closes what gaps there are between fragments.
            Some(last) => {
                let delta = arrived.saturating_sub(last.dts).clamp(1, u32::MAX.into());
                self.push_duration(delta as u32);
                last.dts + delta
            }
        };
        let duration = self.rescale(sample.duration.into()).clamp(0, u32::MAX.into()) as u32;
        self.last = Some(Last { dts, duration });
        self.first_pts = self.first_pts.min(pts);
        self.sizes.push(sample.size);
        if sample.sync {
            self.sync.push(self.sizes.len() as u32);
        }
        let sample_offset = pts.saturating_sub(dts).clamp(i32::MIN.into(), i32::MAX.into());
        match self.offsets.last_mut() {
            Some(last) if last.sample_offset == sample_offset => last.sample_count += 1,
            _ => self.offsets.push(CttsEntry { sample_count: 1, sample_offset }),
        }
    }

    fn push_duration(&mut self, sample_delta: u32) {
        match self.durations.last_mut() {
            Some(last) if last.sample_delta == sample_delta => last.sample_count += 1,
            _ => self.durations.push(SttsEntry { sample_count: 1, sample_delta }),
        }
    }

    fn timescale(&self) -> u32 {
        self.trak.mdia.mdhd.timescale.max(1)
    }

    fn rescale(&self, ticks: i64) -> i64 {
        if self.incoming_timescale == self.timescale() {
            return ticks;
        }
        convert(ticks, self.incoming_timescale, self.timescale())
    }

    /// When the first picture or sound of the track is due, in ticks of the movie.
    pub(super) fn start(&self) -> i64 {
        convert(self.first_pts, self.timescale(), MOVIE_TIMESCALE)
    }

    /// The finished track, in a movie that starts at `movie_start`. Its chunk offsets still count from the start of
    /// the media.
    pub(super) fn finish(mut self, movie_start: i64) -> Trak {
        if let Some(last) = self.last {
            self.push_duration(last.duration);
        }
        // Presentation must not begin before decoding does: where offsets are negative, all of them move. The edit
        // list takes out what that, or reordering, puts in front of the first picture.
        let lead = self.first_pts.saturating_sub(self.first_dts);
        let shift = (-lead).max(0);
        if shift > 0 {
            for entry in &mut self.offsets {
                entry.sample_offset = (entry.sample_offset + shift).min(i32::MAX.into());
            }
        }
        let media_time = lead.max(0) as u64;
        let duration: u64 =
            self.durations.iter().map(|entry| u64::from(entry.sample_count) * u64::from(entry.sample_delta)).sum();
        let timescale = self.timescale();
        let shown = convert(i64::try_from(duration).unwrap_or(i64::MAX), timescale, MOVIE_TIMESCALE) as u64;
        let delay = self.start().saturating_sub(movie_start).max(0) as u64;

        let mut edits = Vec::new();
        if delay > 0 {
            edits.push(ElstEntry { segment_duration: delay, media_time: None, media_rate: 1.into() });
        }
        if delay > 0 || media_time > 0 {
            edits.push(ElstEntry { segment_duration: shown, media_time: Some(media_time), media_rate: 1.into() });
        }
        let mut trak = self.trak;
        trak.edts = (!edits.is_empty()).then_some(Edts { elst: Some(Elst { entries: edits }) });
        trak.tkhd.duration = delay + shown;
        trak.mdia.mdhd.duration = duration;
        let every_sample_syncs = self.sync.len() == self.sizes.len();
        trak.mdia.minf.stbl = Stbl {
            stsd: Stsd { codecs: self.descriptions },
            stts: Stts { entries: self.durations },
            ctts: self.offsets.iter().any(|entry| entry.sample_offset != 0).then_some(Ctts { entries: self.offsets }),
            stss: (!every_sample_syncs).then_some(Stss { entries: self.sync }),
            stsc: Stsc { entries: self.chunk_runs },
            stsz: Stsz { samples: StszSamples::Different { sizes: self.sizes } },
            co64: Some(Co64 { entries: self.chunks }),
            ..Stbl::default()
        };
        trak
    }
}

fn convert(ticks: i64, from: u32, to: u32) -> i64 {
    let (from, to) = (i128::from(from.max(1)), i128::from(to));
    let converted = (i128::from(ticks) * to + from / 2).div_euclid(from);
    i64::try_from(converted).unwrap_or(i64::MAX)
}
