//! The list of a broadcast's qualities as text (a multivariant playlist). In: a broadcast with a ladder. Out: what a
//! player reads before it chooses. Deliberately absent: the playlists that it names; none is started by this.

use std::fmt::{self, Write};

use headwater_common::{
    live::Broadcast,
    media::{Kind, Shape},
};

use super::variant::Variant;

/// AAC-LC (RFC 6381): what sound becomes where it is made anew.
const AAC: &str = "mp4a.40.2";
/// Of fragments around the media, and what an encoder overshoots.
const OVERHEAD: f64 = 1.05;

pub(super) fn render(broadcast: &Broadcast) -> String {
    let mut text = String::from("#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-INDEPENDENT-SEGMENTS\n");
    for variant in Variant::all(broadcast) {
        // Writing into a string can't fail.
        let _ = write(&mut text, broadcast, variant);
    }
    text
}

fn write(text: &mut String, broadcast: &Broadcast, variant: Variant) -> fmt::Result {
    let Bandwidth { average, peak } =
        [Kind::Video, Kind::Audio].map(|kind| Bandwidth::of(broadcast, variant, kind)).into_iter().fold(
            Bandwidth::default(),
            |sum, track| Bandwidth { average: sum.average + track.average, peak: sum.peak + track.peak },
        );
    let with_overhead = |bits_per_s: u64| (bits_per_s as f64 * OVERHEAD) as u64;
    write!(text, "#EXT-X-STREAM-INF:BANDWIDTH={}", with_overhead(peak).max(1))?;
    write!(text, ",AVERAGE-BANDWIDTH={}", with_overhead(average).max(1))?;
    let [video, audio] = [Kind::Video, Kind::Audio].map(|kind| variant.track(broadcast, kind));
    let info = video.as_ref().and_then(|track| track.info());
    if video.is_some() == info.is_some() {
        let sound = audio.map(|track| track.info().map_or_else(|| AAC.to_owned(), |info| info.rfc6381()));
        let codecs: Vec<_> = info.iter().map(|info| info.rfc6381()).chain(sound).collect();
        write!(text, ",CODECS=\"{}\"", codecs.join(","))?;
    }
    if let Some(Shape::Video { width, height, .. }) = info.map(|info| info.shape) {
        write!(text, ",RESOLUTION={width}x{height}")?;
    }
    // Of all renditions the source's.
    let rates = broadcast.source(Kind::Video).and_then(|source| source.rates());
    if let (Some(rates), Variant::Source | Variant::Rendition(_)) = (rates, variant) {
        write!(text, ",FRAME-RATE={:.3}", rates.frames_per_s)?;
    }
    writeln!(text, "\n{}", variant.playlist(broadcast.id().stream()))
}

/// Bits per second.
#[derive(Clone, Copy, Debug, Default)]
struct Bandwidth {
    average: u64,
    peak: u64,
}

impl Bandwidth {
    /// Measured where something was made; what a rendition may take, as long as it rests, is known as well.
    fn of(broadcast: &Broadcast, variant: Variant, kind: Kind) -> Self {
        let Some(track) = variant.track(broadcast, kind) else { return Self::default() };
        let most = match (variant, kind) {
            (Variant::Rendition(rendition), Kind::Video) => u64::from(rendition.video_kbps) * 1_000,
            (Variant::Rendition(rendition), Kind::Audio) => u64::from(rendition.audio_kbps) * 1_000,
            _ => 0,
        };
        // What is made of the source in its own size takes about what that takes.
        let rates = track.rates().or_else(|| broadcast.source(kind).filter(|_| most == 0)?.rates());
        match rates {
            Some(rates) => Self { average: rates.bits_per_s, peak: rates.peak_bits_per_s.max(most) },
            None => Self { average: most, peak: most },
        }
    }
}
