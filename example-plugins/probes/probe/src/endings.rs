//! Attempts to end in an unusual way, or not to end at all.

use std::io;

use crate::threads::sleep_forever;
use crate::{Attempt, check};

/// Blocks every signal that can be blocked, ignores the others, and sleeps.
pub(crate) fn block_signals() -> Attempt {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: fills the one set that it is given.
    check(unsafe { libc::sigfillset(all.as_mut_ptr()) })?;
    // SAFETY: reads the set that was filled just now.
    let rc = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut()) };
    if rc != 0 {
        return Err(io::Error::from_raw_os_error(rc));
    }
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: a disposition, no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    sleep_forever()
}

extern "C" fn hang() {
    sleep_forever()
}

/// Exits, with a function registered that never returns.
pub(crate) fn exit_and_hang() -> Attempt {
    // SAFETY: registers a function that takes and returns nothing, in a library that is never unloaded.
    check(unsafe { libc::atexit(hang) })?;
    std::process::exit(0)
}

/// Exits from another thread than the one that was called.
pub(crate) fn exit_on_thread() -> Attempt {
    std::thread::Builder::new().stack_size(64 << 10).spawn(|| std::process::exit(7))?;
    sleep_forever()
}

/// Ends the thread that was called, and no other.
pub(crate) fn exit_thread() -> Attempt {
    // SAFETY: ends this thread alone, without running anything of it.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    sleep_forever()
}

/// Ends the process and runs nothing of it.
pub(crate) fn exit_at_once() -> Attempt {
    // SAFETY: ends this process.
    unsafe { libc::_exit(5) }
}

/// An instruction that no program has.
pub(crate) fn illegal_instruction() -> Attempt {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: none. That it ends the process is what this is here for.
    unsafe {
        std::arch::asm!("ud2", options(noreturn));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("udf #0", options(noreturn));
    }
}

/// Raises a signal in this thread.
pub(crate) fn raise(payload: &[u8]) -> Attempt {
    let signal = i32::try_from(crate::number(payload)?).map_err(io::Error::other)?;
    // SAFETY: a signal to this thread.
    check(unsafe { libc::raise(signal) })?;
    Ok(Vec::new())
}
