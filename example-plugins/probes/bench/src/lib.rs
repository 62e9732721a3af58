//! Does what the benches measure, and as little else as can be.
//!
//! Runs in a helper, or in the bench itself for comparison. Owns the clock around each open, so that the call that
//! orders them does not count. Never looks at what it opens.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use plugin_abi::{Plugin, PluginError, PluginResult, export_plugin};

/// How many reads make a sample: one is shorter than a look at the clock.
const READS: u32 = 1000;

#[derive(Default)]
struct Bench {
    kept: Option<File>,
    connected: Option<TcpStream>,
}

impl Plugin for Bench {
    fn call(&mut self, method: &str, payload: &[u8]) -> PluginResult {
        match method {
            "echo" => Ok(payload.to_vec()),
            "open" => open(payload),
            "read" => read(payload),
            "keep" => {
                let mut file = File::open(std::str::from_utf8(payload)?)?;
                file.read_to_end(&mut Vec::new())?;
                self.kept = Some(file);
                Ok(Vec::new())
            }
            "connect" => {
                self.connected = Some(TcpStream::connect(std::str::from_utf8(payload)?)?);
                Ok(Vec::new())
            }
            "let_go" => {
                self.kept = None;
                self.connected = None;
                Ok(Vec::new())
            }
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

/// The payload is how many samples, as a little-endian `u32`, and the path of a file, which is opened once. The answer is the
/// nanoseconds of each 1000 reads of its first 4 KiB.
fn read(payload: &[u8]) -> PluginResult {
    let (count, path) = payload.split_first_chunk::<4>().ok_or("a count and a path")?;
    let (count, path) = (u32::from_le_bytes(*count), std::str::from_utf8(path)?);
    let (file, mut bytes, mut nanos) = (File::open(path)?, [0; 4096], Vec::new());
    file.read_exact_at(&mut bytes, 0)?;
    for _ in 0..count {
        let began = Instant::now();
        for _ in 0..READS {
            file.read_exact_at(&mut bytes, 0)?;
        }
        nanos.extend(u64::try_from(began.elapsed().as_nanos())?.to_le_bytes());
    }
    Ok(nanos)
}

export_plugin!(Bench::default(), id: "bench", description: "does what the benches measure");
