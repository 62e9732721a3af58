//! A plugin that misbehaves at the moments of its life at which the host calls it without a method's name.
//!
//! Runs in a helper. What it does in `activate` the host's service `test.activate` says; what it does in `deactivate`,
//! calling the host's service `test.deactivate` among it, and while it is dropped is told it by calls before.
//! Owns the list of misdeeds. Never does any without being told.
#![allow(unsafe_code, reason = "misbehaves by hand")]

use plugin_abi::{Host, Plugin, PluginError, PluginResult, export_plugin};

#[derive(Default)]
struct Life {
    host: Option<Host>,
    at_deactivate: String,
    at_drop: String,
}

/// Does what it is told, and returns if that leaves something to return.
fn act(what: &str) -> Result<(), PluginError> {
    match what {
        "" | "ok" => Ok(()),
        "error" => Err("told to fail".into()),
        "panic" => panic!("told to panic"),
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        "segfault" => {
            // SAFETY: none. A write to an address where nothing is mapped is what this is here to make.
            unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
            Ok(())
        }
        "hang" => loop {
            std::thread::park();
        },
        "ptrace" => {
            // SAFETY: this request reads none of its other arguments.
            unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            Ok(())
        }
        other => Err(format!("does not know how to {other}").into()),
    }
}

impl Plugin for Life {
    fn activate(&mut self, host: Host) -> Result<(), PluginError> {
        // A host without the service wants an ordinary activation.
        let told = host.call("test.activate", b"").unwrap_or_default();
        self.host = Some(host);
        act(&String::from_utf8_lossy(&told))
    }

    fn deactivate(&mut self) -> Result<(), PluginError> {
        match std::mem::take(&mut self.at_deactivate).as_str() {
            "service" => {
                let host = self.host.as_ref().ok_or("not activated")?;
                host.call("test.deactivate", b"")?;
                Ok(())
            }
            what => act(what),
        }
    }

    fn call(&mut self, method: &str, payload: &[u8]) -> PluginResult {
        let what = String::from_utf8_lossy(payload).into_owned();
        match method {
            "at_deactivate" => self.at_deactivate = what,
            "at_drop" => self.at_drop = what,
            "now" => act(&what)?,
            "service" => {
                let host = self.host.as_ref().ok_or("not activated")?;
                return Ok(host.call(&what, b"")?);
            }
            other => return Err(PluginError::unknown_method(other)),
        }
        Ok(Vec::new())
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        // There is nobody to tell of an error.
        let _ = act(&self.at_drop);
    }
}

export_plugin!(Life::default(), id: "probe-life");
