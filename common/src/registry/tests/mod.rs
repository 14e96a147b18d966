use super::*;
use crate::live::{Publisher, Takeover};

/// Each test is run on every registry.
macro_rules! contract {
    ($($test:ident,)*) => {
        mod in_a_file {
            $(#[tokio::test]
            async fn $test() {
                let scratch = super::embedded::Scratch::new(stringify!($test));
                super::$test(&scratch.open()).await;
            })*
        }

        mod in_a_standalone {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::mongo::on_a_standalone(stringify!($test)).await).await;
            })*
        }

        mod in_a_replica_set {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&super::mongo::on_a_replica_set(stringify!($test)).await).await;
            })*
        }
    };
}

mod contract;
mod embedded;
mod mailboxes;
mod mongo;
mod removal;
mod simulation;

/// A second, in the unit of the registry's clock.
const S: i64 = 1_000_000;

fn id(stream: &str) -> BroadcastId {
    BroadcastId::new("live", stream).unwrap()
}

fn life(node: &str) -> Life {
    Life { node: node.into(), incarnation: 7 }
}

fn bid(node: &str, now_us: i64) -> Bid {
    let publisher = Publisher { protocol: "rtmp", remote: "192.0.2.7:5000".into(), agent: "OBS".into() };
    Bid { life: life(node), publisher, ask: Ask::Enter(Takeover::Replace), hall: None, webhook: true, now_us }
}

fn progress(stream: &str, epoch: u64, next_gop: u64, discontinuity: u64) -> Progress {
    Progress { id: id(stream), epoch, next_gop, discontinuity, segment_target_s: None, silent: false }
}

/// Of the claim with this number.
fn epoch(claims: u64) -> u64 {
    (0..claims).fold(0, |epoch, _| super::epoch::after(epoch))
}
