#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| headwater_common::fuzz::sealed(data));
