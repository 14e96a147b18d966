//! A byte range of RFC 9110 14: in, the header's text and a length; out, the bytes that are meant. Several ranges at
//! once are not understood, and may be ignored.

use std::ops;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    From { first: usize, last: Option<usize> },
    Suffix(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsatisfiable;

impl Range {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
        if first.is_empty() {
            return last.parse().ok().map(Self::Suffix);
        }
        let first = first.parse().ok()?;
        let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
        last.is_none_or(|last| last >= first).then_some(Self::From { first, last })
    }

    /// Never empty.
    pub(super) fn within(self, length: usize) -> Result<ops::Range<usize>, Unsatisfiable> {
        let bytes = match self {
            Self::From { first, last } => first..last.map_or(length, |last| last.saturating_add(1).min(length)),
            Self::Suffix(count) => length.saturating_sub(count)..length,
        };
        if bytes.is_empty() { Err(Unsatisfiable) } else { Ok(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_players_write_them() {
        let within = |text| Range::parse(text).map(|range| range.within(100));
        assert_eq!(within("bytes=0-9"), Some(Ok(0..10)));
        assert_eq!(within("bytes=90-"), Some(Ok(90..100)));
        assert_eq!(within("bytes=90-1000"), Some(Ok(90..100)));
        assert_eq!(within("bytes=-10"), Some(Ok(90..100)));
        assert_eq!(within("bytes=-1000"), Some(Ok(0..100)));
        assert_eq!(within("bytes=100-"), Some(Err(Unsatisfiable)));
        assert_eq!(within("bytes=-0"), Some(Err(Unsatisfiable)));
        for ignored in ["bytes=9-0", "bytes=0-1,5-6", "items=0-1", "bytes=-", "bytes=x-1"] {
            assert_eq!(within(ignored), None, "{ignored}");
        }
    }
}
