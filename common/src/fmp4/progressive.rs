//! Makes an ordinary MP4 file, which starts to play before it is all there, of a fragmented recording. In: a recording
//! of ours, finished or torn anywhere. Out: `ftyp`, `moov` with sample tables, `mdat`; every complete fragment is in
//! it. Deliberately absent: any change to the media, which is copied from file to file. Memory grows with the length
//! of the recording by about four bytes per sample.
//!
//! The file starts with whatever is due first, and what starts later is delayed by an empty edit, so picture and sound
//! keep the distance their publisher gave them. What reordering or a negative offset puts in front of the first picture
//! is taken out by the edit list. A track that changed (another resolution, another sample rate) has several sample
//! descriptions. Limits: when a track's codec itself changed, most players show the part before the change only; and
//! a sound track keeps the timescale it began with, so times behind a change of sample rate are rounded to it.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use mp4_atom::{Encode, Moov, Mvhd};

use super::fragment::put_mdat_header;
use super::init::{ftyp, movie_header};
use super::read::{Part, Parts, SampleAt};
use super::tables::Tables;
use crate::media::Codec;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub fragments: u64,
    pub samples: u64,
    pub duration_us: u64,
    /// Size of the new file.
    pub bytes: u64,
    /// What the recording had behind its last complete fragment.
    pub torn_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    #[error("no complete fragment in the recording")]
    Empty,
    #[error("sample tables: {0}")]
    Tables(#[from] mp4_atom::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes the recording in `input` to `output` as an ordinary MP4 file.
pub fn rewrite<R: Read + Seek, W: Write>(input: R, mut output: W) -> Result<Summary, RewriteError> {
    let mut parts = Parts::new(input)?;
    let mut tracks: Vec<Tables> = Vec::new();
    let mut pieces: Vec<Range<u64>> = Vec::new();
    let mut media_len = 0;
    while let Some(part) = parts.next()? {
        match part {
            Part::Init(moov) => {
                for trak in moov.trak {
                    match tracks.iter_mut().find(|track| track.track() == trak.tkhd.track_id) {
                        Some(track) => track.redescribe(&trak),
                        None => tracks.push(Tables::new(trak)),
                    }
                }
            }
            Part::Fragment(fragment) => {
                for run in &fragment.runs {
                    let Some(track) = tracks.iter_mut().find(|track| track.track() == run.track) else { continue };
                    let adjoining =
                        |one: &SampleAt, next: &SampleAt| one.position + u64::from(one.size) == next.position;
                    for chunk in run.samples.chunk_by(adjoining) {
                        track.push(chunk, media_len + (chunk[0].position - fragment.media.start));
                    }
                }
                media_len += fragment.media.end - fragment.media.start;
                pieces.push(fragment.media);
            }
        }
    }
    let end = parts.end();
    let mut input = parts.into_inner();
    let torn_bytes = input.seek(SeekFrom::End(0))?.saturating_sub(end);

    tracks.retain(|track| track.samples() > 0);
    let Some(start) = tracks.iter().map(Tables::start).min() else { return Err(RewriteError::Empty) };
    let samples = tracks.iter().map(|track| track.samples() as u64).sum();
    let av1 = tracks.iter().flat_map(Tables::descriptions).any(|entry| matches!(entry, mp4_atom::Codec::Av01(_)));
    let trak: Vec<_> = tracks.into_iter().map(|track| track.finish(start)).collect();
    let header = movie_header();
    let duration = trak.iter().map(|trak| trak.tkhd.duration).max().unwrap_or(0);
    let next_track_id = trak.iter().map(|trak| trak.tkhd.track_id).max().unwrap_or(0).saturating_add(1);
    let duration_us = (u128::from(duration) * 1_000_000 / u128::from(header.timescale)) as u64;
    let mut moov = Moov { mvhd: Mvhd { duration, next_track_id, ..header }, trak, ..Moov::default() };

    let mut mdat_header = Vec::new();
    put_mdat_header(&mut mdat_header, media_len);
    let mut head = Vec::new();
    ftyp(b"isom", av1.then_some(Codec::Av1).into_iter()).encode(&mut head)?;
    let ftyp_len = head.len();
    // Once for its size, which does not depend on the offsets in it, and once with them.
    moov.encode(&mut head)?;
    let media_at = (head.len() + mdat_header.len()) as u64;
    head.truncate(ftyp_len);
    for offset in
        moov.trak.iter_mut().filter_map(|trak| trak.mdia.minf.stbl.co64.as_mut()).flat_map(|co64| &mut co64.entries)
    {
        *offset += media_at;
    }
    moov.encode(&mut head)?;
    output.write_all(&head)?;
    output.write_all(&mdat_header)?;
    for piece in &pieces {
        let len = piece.end - piece.start;
        input.seek(SeekFrom::Start(piece.start))?;
        if io::copy(&mut input.by_ref().take(len), &mut output)? != len {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
    output.flush()?;
    Ok(Summary { fragments: pieces.len() as u64, samples, duration_us, bytes: media_at + media_len, torn_bytes })
}
