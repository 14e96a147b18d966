//! Finds what is whole in a fragmented file of ours, which a crash may have torn anywhere. In: anything that reads and
//! seeks. Out: its initialisation sections and complete fragments in order, and where the last of them ends.
//! Deliberately absent: the media itself (only positions leave here), files cut by others in ways we do not.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use mp4_atom::{Decode, Moof, Moov, Traf, Trex, TrunSamples};

/// Walks over the complete parts of a file. What cannot be read as one ends the walk: a tear, or zeros a file system
/// left behind.
pub struct Parts<R> {
    input: R,
    len: u64,
    at: u64,
    end: u64,
    defaults: Vec<Trex>,
}

#[derive(Debug)]
pub enum Part {
    /// What follows is described by this.
    Init(Box<Moov>),
    Fragment(Fragment),
}

/// A fragment whose every byte is there.
#[derive(Debug)]
pub struct Fragment {
    pub runs: Vec<Run>,
    /// Where the media of all runs lies in the file.
    pub media: Range<u64>,
}

/// The samples of one track.
#[derive(Debug)]
pub struct Run {
    pub track: u32,
    pub samples: Vec<SampleAt>,
}

/// Times in ticks of the track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleAt {
    pub dts: i64,
    pub duration: u32,
    /// Presentation minus decoding time.
    pub offset: i32,
    pub sync: bool,
    pub position: u64,
    pub size: u32,
}

/// Up to where a file is whole: what a recorder cuts it to before it goes on.
pub fn complete_len<R: Read + Seek>(input: R) -> io::Result<u64> {
    let mut parts = Parts::new(input)?;
    while parts.next()?.is_some() {}
    Ok(parts.end())
}

impl<R: Read + Seek> Parts<R> {
    pub fn new(mut input: R) -> io::Result<Self> {
        let len = input.seek(SeekFrom::End(0))?;
        Ok(Self { input, len, at: 0, end: 0, defaults: Vec::new() })
    }

    /// The next part, or `None` at the end of what is whole.
    #[expect(clippy::should_implement_trait, reason = "an error of the file is not an item")]
    pub fn next(&mut self) -> io::Result<Option<Part>> {
        let mut moof = None;
        while let Some(header) = self.header()? {
            let start = self.at;
            self.at = header.end;
            match &header.kind {
                b"moov" => {
                    let Some(moov) = self.read::<Moov>(start, &header)? else { break };
                    self.defaults = moov.mvex.iter().flat_map(|mvex| mvex.trex.iter().cloned()).collect();
                    self.end = header.end;
                    return Ok(Some(Part::Init(Box::new(moov))));
                }
                b"moof" => {
                    let Some(found) = self.read::<Moof>(start, &header)? else { break };
                    moof = Some((start, found));
                }
                b"mdat" => {
                    let Some((base, moof)) = moof.take() else { break };
                    let media = header.body..header.end;
                    let Some(runs) = self.runs(&moof, base, &media) else { break };
                    self.end = header.end;
                    return Ok(Some(Part::Fragment(Fragment { runs, media })));
                }
                b"ftyp" | b"styp" | b"free" | b"sidx" | b"prft" | b"emsg" | b"mfra" => {}
                _ => break,
            }
        }
        self.at = self.len;
        Ok(None)
    }

    /// Behind the last complete part so far.
    pub fn end(&self) -> u64 {
        self.end
    }

    pub fn into_inner(self) -> R {
        self.input
    }

    /// The header of the box at hand; `None` at the end, or if the box is not all there.
    fn header(&mut self) -> io::Result<Option<BoxHeader>> {
        let left = self.len - self.at;
        if left < 8 {
            return Ok(None);
        }
        self.input.seek(SeekFrom::Start(self.at))?;
        let mut head = [0; 8];
        self.input.read_exact(&mut head)?;
        let [a, b, c, d, kind @ ..] = head;
        let (size, header) = match u32::from_be_bytes([a, b, c, d]) {
            1 if left >= 16 => {
                let mut wide = [0; 8];
                self.input.read_exact(&mut wide)?;
                (u64::from_be_bytes(wide), 16)
            }
            size => (u64::from(size), 8),
        };
        // Size 0, "to the end of the file", is how zeros look, and nothing of ours.
        if size < header || size > left {
            return Ok(None);
        }
        Ok(Some(BoxHeader { kind, body: self.at + header, end: self.at + size }))
    }

    fn read<T: Decode>(&mut self, start: u64, header: &BoxHeader) -> io::Result<Option<T>> {
        /// A million samples: not one of ours.
        const LONGEST: u64 = 16 << 20;
        if header.end - start > LONGEST {
            return Ok(None);
        }
        let mut bytes = vec![0; (header.end - start) as usize];
        self.input.seek(SeekFrom::Start(start))?;
        self.input.read_exact(&mut bytes)?;
        Ok(T::decode(&mut &bytes[..]).ok())
    }

    /// `None` unless every sample lies in the media.
    fn runs(&self, moof: &Moof, base: u64, media: &Range<u64>) -> Option<Vec<Run>> {
        moof.traf.iter().map(|traf| self.run(traf, base, media)).collect()
    }

    fn run(&self, traf: &Traf, base: u64, media: &Range<u64>) -> Option<Run> {
        let track = traf.tfhd.track_id;
        let defaults = self.defaults.iter().find(|trex| trex.track_id == track);
        let duration = traf.tfhd.default_sample_duration.or(defaults.map(|trex| trex.default_sample_duration));
        let size = traf.tfhd.default_sample_size.or(defaults.map(|trex| trex.default_sample_size));
        let flags = traf.tfhd.default_sample_flags.or(defaults.map(|trex| trex.default_sample_flags));
        const MOST_SAMPLES: usize = 1_000_000;
        // Far from where sums could overflow, and still millions of years.
        const LATEST: u64 = 1 << 60;
        let mut dts = traf.tfdt.as_ref()?.base_media_decode_time;
        let mut samples = Vec::new();
        let mut position = base;
        for trun in &traf.trun {
            // Samples that take nothing up, in the table nor in the media, could be any number.
            if matches!(trun.samples, TrunSamples::Inherited { .. }) && size == Some(0)
                || trun.samples.len() > MOST_SAMPLES
            {
                return None;
            }
            if let Some(offset) = trun.data_offset {
                position = base.checked_add_signed(offset.into())?;
            }
            for entry in &trun.samples {
                let size = entry.size.or(size)?;
                let duration = entry.duration.or(duration)?;
                if dts > LATEST || position < media.start || position + u64::from(size) > media.end {
                    return None;
                }
                samples.push(SampleAt {
                    dts: dts as i64,
                    duration,
                    offset: i32::try_from(entry.cts.unwrap_or(0)).ok()?,
                    sync: entry.flags.or(flags).unwrap_or(0) & NON_SYNC == 0,
                    position,
                    size,
                });
                position += u64::from(size);
                dts += u64::from(duration);
            }
        }
        Some(Run { track, samples })
    }
}

/// sample_is_non_sync_sample (8.8.3.1).
const NON_SYNC: u32 = 0x0001_0000;

struct BoxHeader {
    kind: [u8; 4],
    body: u64,
    end: u64,
}
