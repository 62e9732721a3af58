//! Descriptors that a fresh exec has inherited at agreed numbers, and the exec itself.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::shared::errno::from_rustix;

/// Takes over a descriptor that this process was started with, at a number that its maker and it agree on.
/// To be called once for each number, before anything else could have opened a file there.
pub(crate) fn take(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_GETFD only asks whether the number is in use.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    Errno::result(flags)?;
    // SAFETY: the number is open, and by the agreement nothing in this process owns it: it was put there by the maker.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// As [`take`], and no program that this process starts gets it.
pub(crate) fn take_for_good(number: RawFd) -> Result<OwnedFd, Errno> {
    let file = take(number)?;
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::CLOEXEC).map_err(from_rustix)?;
    Ok(file)
}

/// Puts a copy of `file` at `number`, without close-on-exec. For a process that is about to exec.
pub(crate) fn place(file: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: integers only. What stood at `number` is closed in this process's own table, which ends with the exec.
    let rc = unsafe { libc::dup2(file.as_raw_fd(), number) };
    Errno::result(rc).map(drop)
}

/// Becomes `image` with these arguments and an empty environment. Returns only if that failed.
pub(crate) fn exec(image: BorrowedFd<'_>, arguments: [&CStr; 3]) -> Errno {
    let [name, role, detail] = arguments;
    let argv = [name.as_ptr(), role.as_ptr(), detail.as_ptr(), std::ptr::null()];
    let envp: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: both arrays end with a null and point at C strings that outlive the call, which only reads them; with
    // AT_EMPTY_PATH the empty path names `image` itself, which stays open. Nothing of this process runs on if it works.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            image.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}

/// Closes every descriptor from `first` on. For a process that has just been execed and owns none of them yet.
pub(crate) fn close_from(first: u32) {
    close_between(first, u32::MAX);
}

/// The same, up to `last`.
pub(crate) fn close_between(first: u32, last: u32) {
    // SAFETY: integers only; by the caller's promise no `OwnedFd` of this process stands from `first` to `last`, so none is
    // closed behind its owner's back. Linux 5.9.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Ends this process at once: no destructors, no exit handlers.
pub(crate) fn exit_at_once(status: i32) -> ! {
    // SAFETY: takes an integer and does not return; nothing is left to be unsound.
    unsafe { libc::_exit(status) }
}

/// Ends this process by SIGKILL, as somebody else would.
pub(crate) fn kill_at_once() -> ! {
    // SAFETY: takes nothing and reads no memory.
    let own = unsafe { libc::getpid() };
    // SAFETY: two integers; the signal cannot be handled, so that nothing of this process runs afterwards.
    unsafe { libc::kill(own, libc::SIGKILL) };
    exit_at_once(78)
}

/// Whether the kernel started this program with privileges that its caller did not have (AT_SECURE, getauxval(3)).
pub(crate) fn is_privileged_exec() -> bool {
    // SAFETY: reads a value that the kernel put beside the arguments; any type of entry may be asked for.
    let secure = unsafe { libc::getauxval(libc::AT_SECURE) };
    secure != 0
}
