//! Signal dispositions and masks, which outlive an exec, back to their defaults; and SIGPIPE kept from the application.

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, signal};

/// Every signal's disposition to its default and none blocked. For a process that has just been execed.
pub(crate) fn reset() {
    for which in Signal::iterator().filter(|which| !matches!(which, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default disposition runs no code of ours, so no handler can meet a broken invariant.
        // A failure would leave the disposition as it was: none fails for a valid signal other than the two left out.
        let _ = unsafe { signal(which, SigHandler::SigDfl) };
    }
    // Real-time signals are not in nix's list: they are ignored only where the host's own parent set them so.
    for which in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        // SAFETY: as above, with a number in the range that the C library gives out.
        let _ = unsafe { libc::signal(which, libc::SIG_DFL) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// A file that would grow over its limit is an error of the write, EFBIG, and no end: setrlimit(2).
pub(crate) fn ignore_file_size() {
    // SAFETY: an ignored signal runs no code at all. It does not fail for a valid signal other than KILL and STOP.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Blocks every signal on this thread, which is ours: the application's signals go to the application's threads, and a
/// broken pipe is an error of the write instead of a SIGPIPE.
pub(crate) fn block_all() {
    let _ = SigSet::all().thread_set_mask();
}

/// Runs `write` with SIGPIPE kept from this thread, which is the application's: blocked during the write, and taken off
/// the queue if the write raised it, unless one was pending before.
pub(crate) fn without_sigpipe<T>(write: impl FnOnce() -> T) -> T {
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    let mut before = SigSet::empty();
    if pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&pipe), Some(&mut before)).is_err() {
        return write();
    }
    let was_blocked = before.contains(Signal::SIGPIPE);
    let result = write();
    if !was_blocked {
        let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the set and the time are live and only read; the null pointer says that nobody wants the details.
        // Takes at most the one SIGPIPE that the write above raised on this thread, which had it blocked just for that.
        unsafe { libc::sigtimedwait(pipe.as_ref(), std::ptr::null_mut(), &raw const none) };
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
    }
    result
}
