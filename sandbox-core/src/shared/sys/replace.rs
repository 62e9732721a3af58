//! dup3(2) onto a descriptor that somebody else owns.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;

/// From now on `target` is what `file` is; what it was is closed, once no call that uses it is under way. Its owner goes on
/// owning it: to be called only while that is certain to have it open.
pub(crate) fn replace(target: RawFd, file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: integers only. `file` is open while it is borrowed; by the caller's promise `target` is open, and stays so.
    let rc = unsafe { libc::dup3(file.as_raw_fd(), target, libc::O_CLOEXEC) };
    Errno::result(rc).map(drop)
}
