//! What the pieces of a broadcast are called. In and out: the last part of a URI. Made of minted numbers alone, so every
//! edge uses the same names; and since numbering may begin anew when a broadcast was forgotten, of its birth as well:
//! a name never stands for two contents, and may be cached forever.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) born_us: i64,
    pub(super) piece: Piece,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Segment { gop: u64 },
    Part { gop: u64, index: u32 },
    Init { discontinuity: u64, digest: u64 },
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-", self.born_us)?;
        match self.piece {
            Piece::Segment { gop } => write!(f, "{gop}.m4s"),
            Piece::Part { gop, index } => write!(f, "{gop}.{index}.m4s"),
            Piece::Init { discontinuity, digest } => write!(f, "{discontinuity}-{digest:016x}.mp4"),
        }
    }
}

impl Name {
    /// `None` for anything that this module would not have written.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (born, rest) = text.split_once('-')?;
        let born_us = i64::from_str_radix(born, 16).ok()?;
        let piece = match rest.strip_suffix(".m4s") {
            Some(numbers) => match numbers.split_once('.') {
                Some((gop, index)) => Piece::Part { gop: gop.parse().ok()?, index: index.parse().ok()? },
                None => Piece::Segment { gop: numbers.parse().ok()? },
            },
            None => {
                let (discontinuity, digest) = rest.strip_suffix(".mp4")?.split_once('-')?;
                Piece::Init {
                    discontinuity: discontinuity.parse().ok()?,
                    digest: u64::from_str_radix(digest, 16).ok()?,
                }
            }
        };
        // One spelling per piece ("+7", "007"): caches must not hold the same bytes twice.
        Some(Self { born_us, piece }).filter(|name| name.to_string() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_went_out() {
        for piece in [
            Piece::Segment { gop: 0 },
            Piece::Segment { gop: u64::MAX },
            Piece::Part { gop: 17, index: 3 },
            Piece::Init { discontinuity: 2, digest: 0xab },
        ] {
            let name = Name { born_us: 1_763_690_000_123_456, piece };
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in ["", "-", "1-", "1-2", "1-02.m4s", "1-+2.m4s", "1-2.3.4.m4s", "1-2.-3.m4s", "x-2.m4s", "1-2-ab.mp4"]
        {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }
}
