//! Asking others how far a broadcast has come, over real links.

use bytes::Bytes;

use super::{
    Health,
    tests::{Peer, id},
};
use crate::{
    live::{Reach, Writer},
    media::{Codec, Info, Kind, Sample, Shape},
};

fn publish(writer: &mut Writer, gops: i64) {
    let shape = Shape::Video { width: 64, height: 36, reorders: false };
    writer.announce(Info { codec: Codec::H264, config: Bytes::new(), shape }).unwrap();
    for dts_us in (0..gops).map(|gop| gop * 2_000_000) {
        let sample = Sample { dts_us, pts_us: dts_us, keyframe: true, payload: Bytes::from_static(b"picture") };
        writer.write(Kind::Video, sample, crate::clock::now_us()).unwrap();
    }
}

fn asks(peer: &Peer, name: &str) -> Option<Reach> {
    peer.runtime.as_ref().unwrap().block_on(peer.cluster.reach(&id(name), 9))
}

#[test]
fn the_furthest_counts_and_who_is_dead_is_not_waited_for() {
    let mut first = Peer::origin("origin-1", &[]);
    let second = Peer::origin("origin-2", &[&first]);
    let edge = Peer::edge("edge", &[&first, &second]);
    for other in ["origin-1", "edge"] {
        second.sees(other, Health::Alive);
    }
    let (mut more, mut less) = (first.publish("x", 1), edge.publish("x", 1));
    publish(&mut more, 5);
    publish(&mut less, 3);
    assert_eq!(asks(&second, "other"), None);
    assert_eq!(asks(&second, "x"), Some(Reach { next_gop: 5, discontinuity: 0 }));
    first.kill();
    assert_eq!(asks(&second, "x"), Some(Reach { next_gop: 3, discontinuity: 0 }));
}
