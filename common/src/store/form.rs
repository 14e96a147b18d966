//! What recordings are called, and what they consist of. In and out: names. An MP4 is one file, `<stem>.mp4`. Kept HLS is a
//! playlist, `<stem>.vod.m3u8`, and a folder of pieces beside it, `<stem>_<vod id>/`: the id makes it nobody else's, in the
//! store, in a bucket and among the addresses of live streams. Deliberately absent: what is in the files. Pure.

use std::fmt;

use super::{Place, PlaceError};

/// Of a [`VodId`](crate::registry::VodId).
const VOD_ID_LENGTH: usize = 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    #[default]
    Mp4,
    Hls,
}

impl Form {
    pub fn ending(self) -> &'static str {
        match self {
            Self::Mp4 => ".mp4",
            Self::Hls => ".vod.m3u8",
        }
    }

    /// Of a recording that is called like this.
    pub fn of(file: &str) -> Option<Self> {
        [Self::Mp4, Self::Hls].into_iter().find(|form| file.ends_with(form.ending()))
    }

    /// What a recording is called without its ending.
    pub fn stem(file: &str) -> &str {
        Self::of(file).and_then(|form| file.strip_suffix(form.ending())).unwrap_or(file)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mp4 => "MP4",
            Self::Hls => "HLS",
        })
    }
}

/// A file of kept HLS. A stretch is what one initialisation section describes: whatever breaks the timeline begins another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Piece {
    Init {
        stretch: u32,
    },
    /// Numbers count over all stretches.
    Segment {
        stretch: u32,
        number: u64,
    },
}

impl fmt::Display for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Init { stretch } => write!(f, "{stretch}.mp4"),
            Self::Segment { stretch, number } => write!(f, "{stretch}-{number}.m4s"),
        }
    }
}

impl Piece {
    /// `None` for anything that is not exactly a name that we give.
    pub fn parse(name: &str) -> Option<Self> {
        let piece = match name.strip_suffix(".m4s") {
            Some(numbers) => {
                let (stretch, number) = numbers.split_once('-')?;
                Self::Segment { stretch: stretch.parse().ok()?, number: number.parse().ok()? }
            }
            None => Self::Init { stretch: name.strip_suffix(".mp4")?.parse().ok()? },
        };
        Some(piece).filter(|piece| piece.to_string() == name)
    }
}

/// The folder with the pieces of a recording.
pub fn folder(file: &str, vod_id: &str) -> String {
    format!("{}_{vod_id}", Form::stem(file))
}

/// What the keys of the pieces in this folder begin with: in a bucket they lie beside their playlist, whatever the settings
/// say by now.
pub fn beside(playlist: &str, folder: &str) -> String {
    let (beside, _) = playlist.rsplit_once('/').unwrap_or_default();
    format!("{beside}/{folder}/")
}

/// Whose pieces a folder has.
pub fn vod_id_of(folder: &str) -> Option<&str> {
    let (_, vod_id) = folder.rsplit_once('_')?;
    let is_id = vod_id.len() == VOD_ID_LENGTH && vod_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then_some(vod_id)
}

impl Place {
    pub fn is_piece(&self) -> bool {
        self.folder.is_some()
    }

    /// Of a piece of this recording.
    pub fn piece(&self, vod_id: &str, piece: Piece) -> Result<Self, PlaceError> {
        Self::new(&self.app, &piece.to_string())?.within(&folder(&self.file, vod_id))
    }
}

/// What an address below an application asks of its recordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    File(&'a str),
    Piece { folder: &'a str, vod_id: &'a str, piece: Piece },
}

impl Asked<'_> {
    pub fn place(&self, app: &str) -> Result<Place, PlaceError> {
        match self {
            Self::File(file) => Place::new(app, file),
            Self::Piece { folder, piece, .. } => Place::new(app, &piece.to_string())?.within(folder),
        }
    }
}

/// `/{app}/streams/{file}`, and `/{app}/streams/{folder}/{piece}`; live streams have other names in the same places.
pub fn asked(path: &str) -> Option<(&str, Asked<'_>)> {
    let mut parts = path.strip_prefix('/')?.split('/');
    let (app, streams, name, piece) = (parts.next()?, parts.next()?, parts.next()?, parts.next());
    if streams != super::STREAMS || parts.next().is_some() {
        return None;
    }
    let asked = match piece {
        None => Asked::File(Form::of(name).map(|_| name)?),
        Some(piece) => Asked::Piece { folder: name, vod_id: vod_id_of(name)?, piece: Piece::parse(piece)? },
    };
    Some((app, asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0193a1b2c3d4deadbeef";

    #[test]
    fn pieces_have_one_spelling_each() {
        for piece in [Piece::Init { stretch: 0 }, Piece::Segment { stretch: 7, number: u64::MAX }] {
            assert_eq!(Piece::parse(&piece.to_string()), Some(piece));
        }
        for name in
            ["", "0", "-1.mp4", "01.mp4", "0-+1.m4s", "0-1.mp4", "1.m4s", "0-1.m4s.new", "1-0-7.m4s", "../1.mp4"]
        {
            assert_eq!(Piece::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_recording_is_found_in_the_paths_that_name_one() {
        assert_eq!(asked("/live/streams/x.mp4"), Some(("live", Asked::File("x.mp4"))));
        assert_eq!(asked("/live/streams/x_1.vod.m3u8"), Some(("live", Asked::File("x_1.vod.m3u8"))));
        let (folder, piece) = (folder("x_1.vod.m3u8", ID), Piece::Segment { stretch: 1, number: 12 });
        let path = format!("/live/streams/{folder}/1-12.m4s");
        assert_eq!(asked(&path), Some(("live", Asked::Piece { folder: &folder, vod_id: ID, piece })));
        for path in [
            "/live/streams/x.m3u8",
            "/live/streams/x/y.mp4",
            "/live/streams/x_0193a1b2c3d4deadbeef/playlist.m3u8",
            "/live/streams/x_0193a1b2c3d4deadbeef/650f4a-1-7.m4s",
            "/live/streams/x_0193A1b2c3d4deadbeef/0.mp4",
            "/live/streams/0193a1b2c3d4deadbeef/0.mp4",
            "/live/streams/x_0193a1b2c3d4deadbeef/0.mp4/y",
            "/live/whep/x.mp4",
            "/live/streams",
        ] {
            assert_eq!(asked(path), None, "{path}");
        }
    }
}
