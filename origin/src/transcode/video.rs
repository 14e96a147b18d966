//! The pictures of one source, decoded once for every track that is made of them. In: the frames of the source track, in
//! order, and the pace. Out: the frames of those tracks. Deliberately absent: threads, clocks, and who reads what.
//!
//! A track that is wanted while others are being made begins with the next picture; or, for playlists, with a gop that is
//! over already: then it has a decoder of its own until it has come as far as the others, a few frames at each of
//! theirs, so that nobody waits for it.

use headwater_common::{ladder::Rendition, live::Reader, media::Frame, telemetry::Door};

use super::{
    ConvertError,
    decoder::{Decoder, Picture},
    pace::Pace,
    rate::Measured,
    rendering::Rendering,
};

/// Frames of the past that a track may go through for each new one. With more, the new ones would be late.
fn past_per_frame(pace: Pace) -> usize {
    match pace {
        Pace::Every => 4,
        Pace::Newest => 2,
        Pace::EverySecond => 1,
    }
}

pub(super) struct Video {
    door: Door,
    decoder: Decoder,
    outputs: Vec<Output>,
    /// The newest picture that was decoded but not shown, while catching up.
    held: Option<Picture>,
    left_out_last: bool,
}

/// Which track a frame is for, as the caller numbers them.
pub(super) type Id = usize;

/// Frames, or why there will be no more of them.
pub(super) type Made = (Id, Result<Frame, ConvertError>);

struct Output {
    id: Id,
    rendering: Rendering,
    past: Option<Past>,
    frames: Vec<Frame>,
    failed: Option<ConvertError>,
}

/// What lies before the newest frame and is still to be shown.
struct Past {
    reader: Reader,
    decoder: Decoder,
}

impl Video {
    pub(super) fn new(door: Door) -> Self {
        Self { decoder: Decoder::new(door.clone()), door, outputs: Vec::new(), held: None, left_out_last: false }
    }

    /// Another track from now on, or from where the reader of the source stands. It may hold pictures of a predecessor,
    /// up to `shown_us`.
    pub(super) fn add(&mut self, id: Id, rendition: Option<Rendition>, shown_us: i64, past: Option<Reader>) {
        let rendering = Rendering::new(rendition, self.door.clone(), shown_us);
        let past = past.map(|reader| Past { reader, decoder: Decoder::new(self.door.clone()) });
        self.outputs.push(Output { id, rendering, past, frames: Vec::new(), failed: None });
    }

    pub(super) fn remove(&mut self, id: Id) {
        self.outputs.retain(|output| output.id != id);
    }

    /// Somebody can't show a picture before the next keyframe.
    pub(super) fn want_keyframe(&mut self, id: Id) {
        if let Some(output) = self.outputs.iter_mut().find(|output| output.id == id) {
            output.rendering.want_keyframe();
        }
    }

    /// Whether something could not be decoded since this was asked last.
    pub(super) fn take_damage(&mut self) -> bool {
        self.decoder.take_damage()
    }

    pub(super) fn take(&mut self, frame: &Frame, pace: Pace, out: &mut Vec<Made>) -> Result<(), ConvertError> {
        let pictures = self.decoder.take(frame, pace)?;
        self.show(pictures, pace);
        for output in &mut self.outputs {
            output.catch_up(frame.dts_us, past_per_frame(pace));
            out.extend(output.frames.drain(..).map(|made| (output.id, Ok(made))));
            out.extend(output.failed.take().map(|error| (output.id, Err(error))));
        }
        Ok(())
    }

    fn show(&mut self, pictures: Vec<Picture>, pace: Pace) {
        let has_begun = self.outputs.iter().any(|output| output.rendering.has_begun());
        if pace == Pace::Newest {
            for picture in pictures {
                if self.held.replace(picture).is_some() && has_begun {
                    self.door.dropped.inc();
                }
            }
            return;
        }
        let measured = self.decoder.measured();
        // The live edge is reached. If the decoder has nothing newer at hand, the held picture is the newest.
        if let Some(mut held) = self.held.take() {
            if pictures.is_empty() {
                self.outputs.iter_mut().for_each(|output| output.show(&mut held, measured));
            } else if has_begun {
                self.door.dropped.inc();
            }
        }
        for mut picture in pictures {
            let left_out = pace == Pace::EverySecond && !self.left_out_last && !picture.source.keyframe;
            self.left_out_last = left_out;
            if left_out {
                self.door.dropped.inc();
            } else {
                self.outputs.iter_mut().for_each(|output| output.show(&mut picture, measured));
            }
        }
    }
}

impl Output {
    /// A picture at the live edge.
    fn show(&mut self, picture: &mut Picture, measured: Option<Measured>) {
        if self.past.is_none() {
            self.make(picture, measured);
        }
    }

    /// `now_us`: how far the others have come.
    fn catch_up(&mut self, now_us: i64, frames: usize) {
        let Some(mut past) = self.past.take() else { return };
        for _ in 0..frames {
            let Some(frame) = past.reader.try_next() else { break };
            match past.decoder.take(&frame, Pace::Every) {
                Ok(pictures) => {
                    let measured = past.decoder.measured();
                    pictures.into_iter().for_each(|mut picture| self.make(&mut picture, measured));
                }
                Err(error) => self.failed = Some(error),
            }
            if frame.dts_us >= now_us {
                // What this decoder still holds, the common one holds too.
                return;
            }
        }
        self.past = Some(past);
    }

    fn make(&mut self, picture: &mut Picture, measured: Option<Measured>) {
        if self.failed.is_none()
            && let Err(error) = self.rendering.show(picture, measured, &mut self.frames)
        {
            self.failed = Some(error);
        }
    }
}
