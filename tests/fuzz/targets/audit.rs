//! See `sandbox_core::fuzzing::audit_log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sandbox_core::fuzzing::audit_log(data));
