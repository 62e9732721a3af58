//! Attempts at processor time and threads.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::ptr;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Instant, SystemTime};

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

/// Ends the thread that it is called on, and leaves the process to another one.
pub(crate) fn end_this_one() -> ! {
    drop(thread::spawn(|| sleep_forever()));
    loop {
        // SAFETY: ends this thread alone, whose stack nobody uses any more. It does not return.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// Takes no signal that can be left, on this thread and all that it starts, and never returns.
pub(crate) fn block_signals_and_sleep() -> ! {
    let mut all = std::mem::MaybeUninit::uninit();
    // SAFETY: fills the one set that it is given.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: reads that set, and writes nothing.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut()) };
    drop(thread::spawn(|| sleep_forever()));
    sleep_forever()
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

/// Makes up to `most` timers. Answers how many there were at once, and what refused the next one.
pub(crate) fn timers(most: usize) -> Vec<u8> {
    let (mut made, mut refused) = (Vec::new(), 0);
    while made.len() < most {
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: fills the one id that it is given; no event means the default one.
        let rc = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, ptr::null_mut(), &raw mut timer) };
        match check(rc) {
            Ok(_) => made.push(timer),
            Err(error) => {
                refused = error.raw_os_error().unwrap_or(-1);
                break;
            }
        }
    }
    for timer in &made {
        // SAFETY: made above, and deleted once.
        unsafe { libc::timer_delete(*timer) };
    }
    format!("{} {refused}", made.len()).into_bytes()
}

/// Fails with the error number that a function of pthreads' returns.
fn returned(errno: libc::c_int) -> io::Result<()> {
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Reads every clock that belongs to this process or to nobody, in all the ways there are.
pub(crate) fn own_clocks() -> Attempt {
    let mut clocks = vec![
        libc::CLOCK_REALTIME,
        libc::CLOCK_MONOTONIC,
        libc::CLOCK_BOOTTIME,
        libc::CLOCK_PROCESS_CPUTIME_ID,
        libc::CLOCK_THREAD_CPUTIME_ID,
    ];
    let mut clock = 0;
    for pid in [0, i32::try_from(std::process::id()).map_err(io::Error::other)?] {
        // SAFETY: fills the one id that it is given.
        returned(unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) })?;
        clocks.push(clock);
    }
    // SAFETY: it has no condition, and cannot fail.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: this thread lives, and the one id is filled.
    returned(unsafe { libc::pthread_getcpuclockid(this, &raw mut clock) })?;
    clocks.push(clock);
    let other = thread::Builder::new().stack_size(64 << 10).spawn(thread::park)?;
    // SAFETY: that thread is not joined before the end, and the one id is filled.
    returned(unsafe { libc::pthread_getcpuclockid(other.as_pthread_t(), &raw mut clock) })?;
    clocks.push(clock);
    for clock in &clocks {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: fills the one timespec that it is given.
        check(unsafe { libc::clock_gettime(*clock, &raw mut time) })?;
        // SAFETY: as above.
        check(unsafe { libc::clock_getres(*clock, &raw mut time) })?;
    }
    other.thread().unpark();
    other.join().map_err(|_| io::Error::other("the thread panicked"))?;
    // They panic if they cannot.
    let _ = (Instant::now(), SystemTime::now());
    Ok(clocks.len().to_string().into_bytes())
}

/// Has the kernel send this process SIGCONT, every so many microseconds.
pub(crate) fn continue_by_timer(payload: &[u8]) -> io::Result<Vec<u8>> {
    let every =
        libc::timespec { tv_sec: 0, tv_nsec: i64::try_from(number(payload)? * 1000).unwrap_or(i64::MAX) };
    // SAFETY: plain numbers, for which zero is a value.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGCONT;
    let mut timer = ptr::null_mut();
    // SAFETY: reads the one event and fills the one id.
    check(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) })?;
    let when = libc::itimerspec { it_interval: every, it_value: every };
    // SAFETY: a timer made just now; reads the one value.
    check(unsafe { libc::timer_settime(timer, 0, &raw const when, ptr::null_mut()) })?;
    Ok(Vec::new())
}
