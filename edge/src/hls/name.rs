//! What the pieces of a broadcast are called. In and out: the last part of a URI. Made of minted numbers alone, so every
//! edge uses the same names; and since numbering may begin anew when a broadcast was forgotten, of its birth as well, and
//! of the publisher's claim, since numbers that died with a node may be used again: a name never stands for two contents,
//! and may be cached forever.

use std::{fmt, num::NonZeroU32};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) born_us: i64,
    pub(super) piece: Piece,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Segment {
        epoch: u64,
        gop: u64,
    },
    /// The first parts of a segment, where it is not known to everybody how that went on.
    Stump {
        epoch: u64,
        gop: u64,
        parts: NonZeroU32,
    },
    Part {
        epoch: u64,
        gop: u64,
        index: u32,
    },
    Init {
        discontinuity: u64,
        digest: u64,
    },
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-", self.born_us)?;
        match self.piece {
            Piece::Segment { epoch, gop } => write!(f, "{epoch:x}-{gop}.m4s"),
            Piece::Stump { epoch, gop, parts } => write!(f, "{epoch:x}-{gop}.0-{}.m4s", parts.get() - 1),
            Piece::Part { epoch, gop, index } => write!(f, "{epoch:x}-{gop}.{index}.m4s"),
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
            Some(numbers) => {
                let (epoch, numbers) = numbers.split_once('-')?;
                let epoch = u64::from_str_radix(epoch, 16).ok()?;
                match numbers.split_once('.') {
                    Some((gop, parts)) => {
                        let gop = gop.parse().ok()?;
                        match parts.strip_prefix("0-") {
                            Some(last) => {
                                let parts = NonZeroU32::MIN.checked_add(last.parse().ok()?)?;
                                Piece::Stump { epoch, gop, parts }
                            }
                            None => Piece::Part { epoch, gop, index: parts.parse().ok()? },
                        }
                    }
                    None => Piece::Segment { epoch, gop: numbers.parse().ok()? },
                }
            }
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
            Piece::Segment { epoch: 1, gop: 0 },
            Piece::Segment { epoch: u64::MAX, gop: u64::MAX },
            Piece::Stump { epoch: 1 << 32, gop: 17, parts: NonZeroU32::MIN },
            Piece::Stump { epoch: 1 << 32, gop: 17, parts: NonZeroU32::MAX },
            Piece::Part { epoch: 0xab, gop: 17, index: 3 },
            Piece::Init { discontinuity: 2, digest: 0xab },
        ] {
            let name = Name { born_us: 1_763_690_000_123_456, piece };
            assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in
            ["", "-", "1-", "1-2", "1-2.m4s", "1-2-03.m4s", "1-02-3.m4s", "1-2-+3.m4s", "1-2-3.4.5.m4s", "1-2-3.-4.m4s"]
        {
            assert_eq!(Name::parse(text), None, "{text}");
        }
        for text in ["x-2-3.m4s", "1-2-ab.mp4", "1-2-3.0-4294967295.m4s", "1-2-3.1-4.m4s", "1-2-3.0-.m4s", "1-A-3.m4s"]
        {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }
}
