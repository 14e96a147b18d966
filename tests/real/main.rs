//! Real encoders and real players against the real binary, on loopback. `tests/setup.sh` installs them.
//!
//! Each test starts a server of its own, waits for conditions, and has a limit. `harness/turns` says which of them run beside which.

mod antmedia;
mod antmedia_sdk;
mod channels;
mod cli;
mod cluster;
mod cluster_death;
mod cluster_drain;
mod cluster_network;
mod cluster_reach;
mod cluster_recording;
mod cluster_registry;
mod drain;
mod harness;
mod hls;
mod house;
mod ladder;
mod layers;
mod lossy;
mod obs;
mod page;
mod publish;
mod publish_page;
mod record;
mod recording_rules;
mod registry;
mod registry_cost;
mod removal;
mod rest;
mod rtmp_bad;
mod s3;
mod simulcast;
mod takeover;
mod tls;
mod turn;
mod webhooks;
mod webrtc;
mod whip;
mod whip_bad;
mod whip_encoders;
mod whip_path;
