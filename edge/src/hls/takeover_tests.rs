//! A node dies and its broadcast goes on at another one: what several edges make of it that have heard different amounts
//! of the first one's last moments.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use headwater_common::media::Frame;

use super::{
    lint::{Lint, Playlist},
    name::{Name, Piece},
    tests::{BORN_US, CAMERA, Stage, cut, frames_at, playlists, text_of},
    window::Window,
};

type Frames = (Vec<Arc<Frame>>, Vec<Arc<Frame>>);

/// 11.3 seconds of the first owner, from gop 40 on: the last gop is 45.
fn before() -> (Frames, u32) {
    let (mut videos, mut audios, target_s) = frames_at(&mut Stage::new(), CAMERA, 12);
    for track in [&mut videos, &mut audios] {
        track.retain(|frame| frame.dts_us < 11_300_000);
    }
    ((videos, audios), target_s)
}

/// So much of the second one, 14 seconds after the broadcast's birth.
fn after(next_gop: u64, seconds: i64) -> Frames {
    let mut stage = Stage::new();
    (stage.epoch, stage.numbers, stage.now_us) = (1, (next_gop, 4), BORN_US + 14_000_000);
    let (videos, audios, _) = frames_at(&mut stage, CAMERA, seconds);
    (videos, audios)
}

/// An edge that heard of the first owner up to there. Every text of its playlist is judged, and none is empty.
fn edge(before: &Frames, until_us: i64, after: &Frames, target_s: u32) -> (Window, String) {
    let both = |before: &[Arc<Frame>], after: &[Arc<Frame>]| -> Vec<Arc<Frame>> {
        before.iter().filter(|frame| frame.dts_us < until_us).chain(after).cloned().collect()
    };
    let (videos, audios) = (both(&before.0, &after.0), both(&before.1, &after.1));
    playlists(cut(&videos, &audios, target_s, 0), BORN_US, target_s, &mut Lint::default())
}

fn bytes(window: &Window, piece: Piece) -> Option<Bytes> {
    let whole = |chunks: Vec<&[u8]>| Bytes::from(chunks.concat());
    let parts = |epoch, gop, parts| {
        let (_, chunks) = window.parts(epoch, gop, parts)?;
        Some(whole(chunks.iter().map(|chunk| &chunk.data[..]).collect()))
    };
    match piece {
        Piece::Segment { epoch, gop } => {
            Some(whole(window.segment(epoch, gop)?.chunks().map(|data| &data[..]).collect()))
        }
        Piece::Stump { epoch, gop, parts: count } => parts(epoch, gop, 0..count.get()),
        Piece::Part { epoch, gop, index } => parts(epoch, gop, index..index + 1),
        Piece::Init { discontinuity, digest } => Some(window.init(discontinuity, digest)?.data.clone()),
    }
}

/// What is listed, by name, with the numbers that stand at it.
fn listed(text: &str) -> BTreeMap<String, (u64, u64)> {
    let list = Playlist::parse(text).unwrap();
    let numbered = (list.media_sequence..).zip(&list.segments);
    numbered.map(|(number, segment)| (segment.uri.clone(), (number, segment.discontinuity))).collect()
}

#[test]
fn playlists_go_on_without_a_hole_and_edges_that_heard_different_amounts_agree() {
    let (first, target_s) = before();
    let second = after(46, 10);
    let (whole, whole_text) = edge(&first, i64::MAX, &second, target_s);
    assert_eq!(whole_text.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{whole_text}");
    assert!(!whole_text.contains("#EXT-X-GAP"), "{whole_text}");
    assert!(whole_text.contains("#EXT-X-MEDIA-SEQUENCE:40\n"), "{whole_text}");
    let stump = whole.listed().find(|segment| segment.gop.id == 45).unwrap();
    assert_eq!(stump.parts.len(), 6, "1.3 s and no frame that would prove more");
    assert_eq!(Name { born_us: BORN_US, piece: stump.piece() }.to_string(), format!("{BORN_US:x}-1-45.0-5.m4s"));

    for (until_us, gaps) in [(11_290_000, 0), (10_950_000, 0), (10_150_000, 1), (9_900_000, 1), (7_500_000, 2)] {
        let (other, text) = edge(&first, until_us, &second, target_s);
        assert_eq!(text.matches("#EXT-X-GAP\n").count(), gaps, "{until_us}: {text}");
        assert_eq!(text.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{until_us}: {text}");
        let (here, there) = (listed(&whole_text), listed(&text));
        assert_eq!((here.len(), there.len()), (10, 10));
        for (name, numbers) in &there {
            assert!(here.get(name).is_none_or(|known| known == numbers), "{until_us}: {name}");
            let piece = Name::parse(name).unwrap().piece;
            let Some(served) = bytes(&other, piece) else { continue };
            assert!(!served.is_empty());
            assert_eq!(Some(served), bytes(&whole, piece), "{until_us}: {name} is another one there");
        }
        let served = there.keys().filter(|name| bytes(&other, Name::parse(name).unwrap().piece).is_some());
        assert_eq!(served.count(), 10 - gaps);
    }

    // One that comes afterwards.
    let (late, text) = edge(&first, i64::MIN, &second, target_s);
    let list = Playlist::parse(&text).unwrap();
    assert_eq!((list.media_sequence, list.discontinuity_sequence), (46, 4), "{text}");
    for (name, numbers) in listed(&text) {
        assert_eq!(listed(&whole_text).get(&name), Some(&numbers));
        let piece = Name::parse(&name).unwrap().piece;
        assert_eq!(bytes(&late, piece), bytes(&whole, piece));
    }
}

#[test]
fn a_jump_that_nobody_can_explain_begins_the_playlist_anew_when_there_is_a_segment() {
    let (first, target_s) = before();
    let second = after(130, 10);
    let (window, text) = edge(&first, i64::MAX, &second, target_s);
    assert!(text.contains("#EXT-X-MEDIA-SEQUENCE:130\n#EXT-X-DISCONTINUITY-SEQUENCE:4\n"), "{text}");
    assert!(window.segment(1, 44).is_some(), "players that read about it may still fetch it");
    let begun = |frames: &[Arc<Frame>]| frames.iter().filter(|frame| frame.gop.id == 130).cloned().collect();
    let (window, text) = edge(&first, i64::MAX, &(begun(&second.0), begun(&second.1)), target_s);
    let numbers: Vec<u64> = window.listed().map(|segment| segment.gop.id).collect();
    assert_eq!(numbers, [40, 41, 42, 43, 44, 45], "{text}");
    assert_eq!(text_of(&window, false), text);
}

#[test]
fn a_playlist_that_begins_anew_leaves_players_the_time_to_fetch_what_the_old_one_listed() {
    let (first, target_s) = before();
    // Two seconds each, and the old playlist was of ten and a bit.
    for (seconds, stays) in [(10, true), (20, false)] {
        let (window, text) = edge(&first, i64::MAX, &after(130, seconds), target_s);
        assert!(text.contains("#EXT-X-MEDIA-SEQUENCE:130\n"), "{text}");
        for gop in 40..45 {
            assert_eq!(window.segment(1, gop).is_some(), stays, "{gop} after {seconds} s");
        }
    }
}
