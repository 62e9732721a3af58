//! Does what the benches measure, and as little else as can be.
//!
//! Runs in a helper, or in the bench itself for comparison. Owns the clock around each open, so that the call that
//! orders them does not count. Never looks at what it opens.
#![forbid(unsafe_code)]

use std::fs::File;
use std::time::Instant;

use plugin_abi::{Plugin, PluginError, PluginResult, export_plugin};

struct Bench;

impl Plugin for Bench {
    fn call(&mut self, method: &str, payload: &[u8]) -> PluginResult {
        match method {
            "echo" => Ok(payload.to_vec()),
            "open" => open(payload),
            other => Err(PluginError::unknown_method(other)),
        }
    }
}

/// The payload is how often, as a little-endian `u32`, and the path. The answer is the nanoseconds of each opening and
/// closing, as little-endian `u64`s.
fn open(payload: &[u8]) -> PluginResult {
    let (count, path) = payload.split_first_chunk::<4>().ok_or("a count and a path")?;
    let (count, path) = (u32::from_le_bytes(*count), std::str::from_utf8(path)?);
    let mut nanos = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        drop(File::open(path)?);
        nanos.extend(u64::try_from(began.elapsed().as_nanos())?.to_le_bytes());
    }
    Ok(nanos)
}

export_plugin!(Bench, id: "bench", description: "does what the benches measure");
