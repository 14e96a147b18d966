//! The pages embed one package from npm. Says how to get it where it is missing, instead of a missing-file error.

fn main() {
    const PLAYER: &str = "web/node_modules/hls.js/dist/hls.light.min.mjs";
    println!("cargo::rerun-if-changed={PLAYER}");
    if !std::path::Path::new(PLAYER).exists() {
        println!("cargo::error={PLAYER} is missing: run `make setup` (or `npm ci` in web/) once");
    }
}
