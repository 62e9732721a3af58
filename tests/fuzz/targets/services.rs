//! See `sandbox_core::fuzzing::services`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sandbox_core::fuzzing::services(data));
