//! Compiles the schema without `protoc`: protox is a compiler in Rust.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = ["headwater/v1/cluster.proto", "headwater/v1/relay.proto"];
    files.iter().for_each(|file| println!("cargo::rerun-if-changed={file}"));
    let descriptors = protox::compile(files, ["."])?;
    // Payloads are shared with what they were made of, and are slices of what arrived.
    tonic_prost_build::configure().bytes(".").codec_path("crate::together::Together").compile_fds(descriptors)?;
    Ok(())
}
