//! setsockopt(2) with what no crate takes: a filter, and options as bytes. Runs in the host.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::seccomp::sock_filter;

fn set<T>(socket: BorrowedFd<'_>, level: i32, name: i32, value: *const T, len: usize) -> Result<(), Errno> {
    let len = libc::socklen_t::try_from(len).map_err(|_| Errno::EINVAL)?;
    // SAFETY: every caller in this file gives a live value of that many bytes, which the kernel only reads.
    let rc = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.cast(), len) };
    Errno::result(rc).map(drop)
}

/// Sets an option to the bytes that its C type has.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    set(socket, level, name, value.as_ptr(), value.len())
}

/// Lets every packet pass again: SO_DETACH_FILTER.
pub(crate) fn let_pass(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    match set_option(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &0_i32.to_ne_bytes()) {
        // There was no filter.
        Err(Errno::ENOENT) => Ok(()),
        set => set,
    }
}

/// Lets no packet pass that comes for this socket from now on: SO_ATTACH_FILTER, socket(7).
pub(crate) fn drop_everything(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    let keep_nothing = u16::try_from(libc::BPF_RET | libc::BPF_K).map_err(|_| Errno::EINVAL)?;
    let program = [sock_filter { code: keep_nothing, jt: 0, jf: 0, k: 0 }];
    // The kernel copies and checks the program, and never writes through the pointer.
    let fprog = libc::sock_fprog { len: 1, filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &raw const fprog, size_of::<libc::sock_fprog>())
}
