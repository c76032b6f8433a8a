#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| rissole_fuzz::packed(data));
