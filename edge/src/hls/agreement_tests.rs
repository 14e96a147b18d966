//! Several edges that were fed one broadcast, each from its own moment on: what they list for the same newest part.

use super::{
    mux::Init,
    tests::{BORN_US, CAMERA, Source, Stage, cut, frames_at},
    window::Window,
};

/// Which segment a playlist begins with is decided by what was minted, and by nothing that happened at the edge. One
/// that lacks what others list (rings are bounded by bytes) agrees with them once that is listed nowhere.
#[test]
fn edges_begin_their_playlists_with_the_same_segment_as_soon_as_they_have_it() {
    for gop_frames in [20, 30, 45, 60, 61, 120] {
        let source = Source { gop_frames, ..CAMERA };
        let (videos, audios, target_s) = frames_at(&mut Stage::new(), source, 70);
        let parts = cut(&videos, &audios, target_s, 0);
        // Each from the first gop that begins after so long.
        let mut edges: Vec<_> = (0..8).map(|late| (late * 3_000_000, Window::new(BORN_US, target_s))).collect();
        let (mut all_agreed, mut oldest) = (0, [None; 8]);
        for part in &parts {
            let init = Init::new(part.gop.discontinuity, &part.formats).unwrap();
            let data = init.fragment(part);
            let first = |window: &Window| window.listed().next().unwrap().gop.id;
            let mut warm = None;
            for ((from_us, window), oldest) in edges.iter_mut().zip(&mut oldest) {
                if part.gop.start_us < *from_us {
                    continue;
                }
                window.push(part, &init, data.clone());
                let (warm, oldest) = (*warm.get_or_insert(first(window)), *oldest.get_or_insert(part.gop.id));
                assert_eq!(first(window), warm.max(oldest), "newest {:?}", window.last_part());
            }
            all_agreed += u32::from(oldest.iter().all(|oldest| oldest.is_some() && *oldest <= warm));
        }
        assert!(all_agreed > 50, "gops of {gop_frames} pictures: {all_agreed} parts");
    }
}
