//! Micro-benchmarks of the rooms that every frame goes through: `cargo bench -p headwater-bench [-- FILTER]`.
//!
//! Read them as ratios on one machine. The frames are those of a 720p30 stream of 1.08 Mbit/s (see [`stream`]).

mod codecs;
mod hall;
mod rtmp;
mod rtp;
mod stream;

fn main() {
    divan::main();
}
