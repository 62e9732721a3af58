//! A plugin that needs a library, which needs another one, and that loads more of them when it is asked to.
//!
//! Runs in a helper. `build.rs` links it against the libraries in `c/`, which the tests put beside it, or do not.
//! Owns nothing. Never works unless both were found and allowed.
#![allow(unsafe_code, reason = "calls C libraries")]

use std::ffi::{CStr, CString};

use plugin_abi::{Plugin, PluginResult, export_plugin};

unsafe extern "C" {
    fn probe_near(number: i32) -> i32;
}

struct Modules;

impl Plugin for Modules {
    fn call(&mut self, method: &str, payload: &[u8]) -> PluginResult {
        if method == "dlopen" {
            return load(payload);
        }
        let number: i32 = std::str::from_utf8(payload)?.parse()?;
        // SAFETY: a function of an integer, which adds to it and cannot fail; see `c/near.c`.
        let sum = unsafe { probe_near(number) };
        Ok(sum.to_string().into_bytes())
    }
}

/// Loads the library of this name, or says why not, and answers what its function `probe_more` returns, if it has one.
fn load(name: &[u8]) -> PluginResult {
    let name = CString::new(name)?;
    // SAFETY: a terminated string. The tests name libraries of their own.
    let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
    if library.is_null() {
        // SAFETY: reads this thread's last error, of which there is one.
        let error = unsafe { libc::dlerror() };
        // SAFETY: not null, terminated, and valid until the next call of the dl functions on this thread.
        let error = unsafe { CStr::from_ptr(error) };
        return Err(error.to_string_lossy().into_owned().into());
    }
    // SAFETY: an open library, and a terminated string.
    let symbol = unsafe { libc::dlsym(library, c"probe_more".as_ptr()) };
    if symbol.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: the tests' libraries have it as a function of nothing that returns an integer.
    let more: extern "C" fn() -> i32 = unsafe { std::mem::transmute(symbol) };
    Ok(more().to_string().into_bytes())
}

export_plugin!(Modules, id: "probe-modules");
