//! Has a fault shown to the host before it ends the process: signal handlers on a stack of their own.
//!
//! Installed in a helper, before the plugin is loaded. A handler does one thing: a system call that stops its thread until the
//! host, which hears of the call, has looked at it from outside; then it lets the signal end the process, as it would have.
//! Runs with nothing but the plugin's own rights: a plugin may replace the handlers, and then nothing is shown, or make that call
//! itself, and then it is shown something of which nobody but its own report takes notice.

use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

/// The option of prctl(2) that shows a fault: none of the kernel's, so that the filter has the host asked, and that the kernel
/// itself would answer with EINVAL. Its arguments are the addresses of the `siginfo_t`, the `ucontext_t` and the loader's
/// `r_debug`.
pub(crate) const SHOW_FAULT: u64 = 0x5a5a_0001;

/// What ends a process for what it did.
const FAULTS: [Signal; 6] =
    [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE, Signal::SIGABRT, Signal::SIGTRAP];

/// What the handler needs beside what the kernel puts there, which is up to three pages with AMX.
const STACK_BYTES: usize = 32 << 10;

/// Where the loader tells debuggers what is loaded; 0 if that is not known.
static LOADED: AtomicUsize = AtomicUsize::new(0);

/// Shows faults from now on, of this thread even where its stack is used up.
pub(crate) fn show_faults() -> Result<(), Errno> {
    // SAFETY: looks a name up, which is a C string, in what is loaded; null if nothing has it.
    let loaded = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_r_debug".as_ptr()) };
    LOADED.store(loaded.addr(), Ordering::Relaxed);
    // SAFETY: reads a number of this process's auxiliary vector; 0 where the kernel gives none.
    let least = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) };
    let size = STACK_BYTES.saturating_add(usize::try_from(least).unwrap_or(0));
    // For this process's life: a thread may fault at any moment.
    let stack = Box::leak(vec![0u8; size].into_boxed_slice());
    let stack = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: size };
    // SAFETY: the memory is `size` bytes that nothing else refers to and that are never freed; the old one is not asked for.
    Errno::result(unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) })?;
    let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
    for fault in FAULTS {
        let action = SigAction::new(SigHandler::SigAction(on_fault), flags, SigSet::all());
        // SAFETY: the handler makes system calls and touches nothing: all of it is async-signal-safe.
        unsafe { sigaction(fault, &action) }?;
    }
    Ok(())
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let loaded = LOADED.load(Ordering::Relaxed);
    // SAFETY: passes three addresses to whoever listens, none of which the kernel reads; every argument is a full register.
    unsafe { libc::syscall(libc::SYS_prctl, SHOW_FAULT, info, context, loaded, 0usize) };
    // SAFETY: the default disposition runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // A fault would come again by itself, a signal that was sent would not. This one waits until the handler has returned.
    let (process, thread) = (nix::unistd::getpid().as_raw(), nix::unistd::gettid().as_raw());
    // SAFETY: numbers only; to this very thread.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) };
}
