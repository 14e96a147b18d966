//! What crosses the wire between nodes, and nothing else: who is there and what is live (`cluster.proto`), and media
//! (`relay.proto`). The schema files are the documentation; the code here is made from them.

#![allow(unreachable_pub)]

mod together;

pub use prost::Message;
pub use together::TOGETHER_BYTES;

tonic::include_proto!("headwater.v1");
