//! See `sandbox_core::fuzzing::monitor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sandbox_core::fuzzing::monitor(data));
