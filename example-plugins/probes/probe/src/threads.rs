//! Attempts at processor time and threads.

use std::io;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use crate::{Attempt, check, number};

/// Uses this many milliseconds of the processor, on this thread.
pub(crate) fn spin(ms: usize) -> Vec<u8> {
    let until = thread_time_ms().saturating_add(ms);
    while thread_time_ms() < until {
        for _ in 0..10_000 {
            std::hint::spin_loop();
        }
    }
    Vec::new()
}

fn thread_time_ms() -> usize {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills the one timespec that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    let ms = time.tv_sec * 1000 + time.tv_nsec / 1_000_000;
    usize::try_from(ms).unwrap_or(0)
}

pub(crate) fn spin_forever() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

pub(crate) fn sleep_forever() -> ! {
    loop {
        thread::park();
    }
}

/// Starts up to `most` threads that live at once. Answers how many there were, and what refused the next one.
pub(crate) fn many(most: usize) -> Vec<u8> {
    let gate = (Mutex::new(false), Condvar::new());
    let (mut started, mut refused) = (0, 0);
    thread::scope(|scope| {
        for _ in 0..most {
            let wait = || {
                let open = gate.0.lock().unwrap_or_else(PoisonError::into_inner);
                drop(gate.1.wait_while(open, |open| !*open));
            };
            match thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, wait) {
                Ok(_) => started += 1,
                Err(error) => {
                    refused = error.raw_os_error().unwrap_or(-1);
                    break;
                }
            }
        }
        *gate.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        gate.1.notify_all();
    });
    format!("{started} {refused}").into_bytes()
}

/// Sends this process a signal.
pub(crate) fn kill_self(payload: &[u8]) -> Attempt {
    let signal = i32::try_from(number(payload)?).map_err(io::Error::other)?;
    let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    // SAFETY: two integers.
    check(unsafe { libc::kill(own, signal) })?;
    Ok(Vec::new())
}
