//! A plugin that acts in a constructor of its library: before its metadata could be asked, before anything is agreed. And in
//! a resolver of one of its functions (`c/resolver.c`), which the loader runs earlier still.
//!
//! Runs in a helper, and unconfined in the tests' control processes. What it does is written in the file itself, in a
//! place that the tests overwrite in a copy: nothing else could tell a constructor anything.
//! Owns that place. Never does anything but remember how its opens went, in the file as it is built.
#![allow(unsafe_code, reason = "a constructor is a link section, and misbehaves by hand")]

use std::sync::atomic::{AtomicI32, Ordering};

use plugin_abi::{Plugin, PluginError, PluginResult, export_plugin};

/// What the constructor does, up to the blank. The tests look for the part before the colon.
#[used]
static ACT: [u8; 32] = *b"PROBE-CONSTRUCTOR:open          ";

const NOT_RUN: i32 = -1;

/// How the constructor's open went: 0 or an errno.
static ERRNO: AtomicI32 = AtomicI32::new(NOT_RUN);

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = constructor;

extern "C" fn constructor() {
    // SAFETY: a static of this file's. Volatile, since its value is not what the compiler saw.
    let act = unsafe { std::ptr::read_volatile(&raw const ACT) };
    let act = act.split(|byte| *byte == b':').nth(1).unwrap_or_default();
    match act.trim_ascii_end() {
        b"open" => ERRNO.store(open(), Ordering::Relaxed),
        // SAFETY: none. A write to an address where nothing is mapped is what this is here to make.
        b"segfault" => unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) },
        b"abort" => std::process::abort(),
        // SAFETY: ends this process without running anything of it.
        b"exit" => unsafe { libc::_exit(3) },
        // A panic cannot unwind out of a C function: it aborts.
        b"panic" => panic!("in the constructor"),
        b"hang" => loop {
            std::thread::park();
        },
        b"spin" => loop {
            std::hint::spin_loop();
        },
        // SAFETY: this request reads none of its other arguments.
        b"ptrace" => drop(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }),
        b"rubbish" => rubbish(),
        b"close" => {
            // SAFETY: an integer. The owner of the descriptor is cheated, which is the point.
            unsafe { libc::close(3) };
            // SAFETY: as above.
            unsafe { libc::close(4) };
        }
        _ => {}
    }
}

fn open() -> i32 {
    // SAFETY: a terminated literal, and an integer.
    let fd = unsafe { libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if fd < 0 {
        return std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    }
    // SAFETY: opened just now, and nothing else knows of it.
    unsafe { libc::close(fd) };
    0
}

/// Claims, in place of the helper, that the load went well, in bytes that are none of its messages.
fn rubbish() {
    let frame = [4_u8, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
    // SAFETY: reads as many bytes as the array has.
    unsafe { libc::write(4, frame.as_ptr().cast(), frame.len()) };
}

unsafe extern "C" {
    fn probe_resolver_errno() -> i32;
}

struct Constructed;

impl Plugin for Constructed {
    fn call(&mut self, method: &str, _payload: &[u8]) -> PluginResult {
        match method {
            "constructor_errno" => Ok(ERRNO.load(Ordering::Relaxed).to_string().into_bytes()),
            // SAFETY: a function of nothing, which reads an integer of its file's; see `c/resolver.c`.
            "resolver_errno" => Ok(unsafe { probe_resolver_errno() }.to_string().into_bytes()),
            other => Err(PluginError::unknown_method(other)),
        }
    }
}

export_plugin!(Constructed, id: "probe-constructor");
