//! A plugin that needs a library, which needs another one.
//!
//! Runs in a helper. `build.rs` links it against the libraries in `c/`, which the tests put beside it, or do not.
//! Owns nothing. Never works unless both were found and allowed.
#![allow(unsafe_code, reason = "calls a C library")]

use plugin_abi::{Plugin, PluginResult, export_plugin};

unsafe extern "C" {
    fn probe_near(number: i32) -> i32;
}

struct Modules;

impl Plugin for Modules {
    fn call(&mut self, _method: &str, payload: &[u8]) -> PluginResult {
        let number: i32 = std::str::from_utf8(payload)?.parse()?;
        // SAFETY: a function of an integer, which adds to it and cannot fail; see `c/near.c`.
        let sum = unsafe { probe_near(number) };
        Ok(sum.to_string().into_bytes())
    }
}

export_plugin!(Modules, id: "probe-modules");
