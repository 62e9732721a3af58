//! seccomp(2) and seccomp_unotify(2): installing filters, and the ioctls of a listener.
//!
//! Installing runs in the helper, the ioctls in the host. Never decides what a filter says.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// An instruction of a classic BPF program; seccompiler's has the same layout and is passed on as it is.
pub(crate) use seccompiler::sock_filter;

const WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5; // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, Linux 5.19

const USER_NOTIF_FD_SYNC_WAKE_UP: libc::c_ulong = 1; // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP

/// A system call that waits for the host's answer.
#[derive(Clone)]
pub(crate) struct Notification {
    /// Names the notification in every answer.
    pub(crate) id: u64,
    /// The calling thread's id in the host's pid namespace.
    pub(crate) tid: i32,
    /// The system call's number on this architecture.
    pub(crate) nr: i64,
    /// Its six arguments as registers.
    pub(crate) args: [u64; 6],
}

fn install(flags: libc::c_ulong, program: &[sock_filter]) -> Result<i32, Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>() };
    // SAFETY: `fprog` points at `len` instructions that outlive the call, of the same `repr(C)` layout (u16, u8, u8,
    // u32) as the kernel's; the kernel copies and checks the program and never writes through the pointer.
    let rc =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog) };
    Errno::result(rc).map(|rc| i32::try_from(rc).unwrap_or(-1))
}

/// Adds a filter to this thread, for good. Wants `no_new_privs`.
pub(crate) fn install_filter(program: &[sock_filter]) -> Result<(), Errno> {
    install(0, program).map(drop)
}

/// The same, with a listener for the filter's user notifications; and whether the kernel waits killable (Linux 5.19):
/// below that a signal can make a notified call happen twice.
pub(crate) fn install_notifying_filter(program: &[sock_filter]) -> Result<(OwnedFd, bool), Errno> {
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let (fd, killable) = match install(listener | WAIT_KILLABLE_RECV, program) {
        Err(Errno::EINVAL) => (install(listener, program)?, false),
        other => (other?, true),
    };
    // SAFETY: with NEW_LISTENER a successful call returns a descriptor that it made for the caller alone.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, killable))
}

/// Has whoever waits for this listener's notifications, and whose call was answered, woken where the waker runs: one of them
/// sleeps from then on. Linux 6.6; below that nothing changes.
pub(crate) fn wake_here(listener: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the request takes its flags as the argument itself and reads no memory.
    let rc = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, USER_NOTIF_FD_SYNC_WAKE_UP)
    };
    Errno::result(rc).map(drop)
}

/// Takes the next notification. ENOENT if its caller has ended meanwhile. Does not block after a POLLIN.
pub(crate) fn receive(listener: BorrowedFd<'_>) -> Result<Notification, Errno> {
    let mut raw = libc::seccomp_notif {
        id: 0,
        pid: 0,
        flags: 0,
        data: libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] },
    };
    // SAFETY: the request writes one `struct seccomp_notif`, which `raw` is, zeroed as the kernel demands.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut raw) };
    Errno::result(rc)?;
    Ok(Notification { id: raw.id, tid: raw.pid.cast_signed(), nr: raw.data.nr.into(), args: raw.data.args })
}

/// Whether the notification's caller still waits, so that what was read of its memory was read of its.
pub(crate) fn still_waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the request reads the one `u64` behind the pointer.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) };
    rc == 0
}

/// Lets the call go on as if nobody had been asked. Its arguments in memory may have changed since: only for calls whose
/// outcome is confined whatever they name. Linux 5.5.
pub(crate) fn let_continue(listener: BorrowedFd<'_>, id: u64) -> Result<(), Errno> {
    let flags = u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).map_err(|_| Errno::EINVAL)?;
    let mut raw = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: the request reads one `struct seccomp_notif_resp`, which `raw` is.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut raw) };
    Errno::result(rc).map(drop)
}

/// Answers with a return value, or with an errno.
pub(crate) fn answer(listener: BorrowedFd<'_>, id: u64, result: Result<i64, Errno>) -> Result<(), Errno> {
    let (val, error) = match result {
        Ok(val) => (val, 0),
        Err(errno) => (0, -(errno as i32)),
    };
    let mut raw = libc::seccomp_notif_resp { id, val, error, flags: 0 };
    // SAFETY: the request reads one `struct seccomp_notif_resp`, which `raw` is.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut raw) };
    Errno::result(rc).map(drop)
}

/// Puts a copy of `file` into the caller's descriptor table and answers its call with the number, in one step
/// (SECCOMP_ADDFD_FLAG_SEND, Linux 5.14). EMFILE if the caller is at its limit; then it still waits for an answer.
pub(crate) fn answer_with_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    file: BorrowedFd<'_>,
    cloexec: bool,
) -> Result<RawFd, Errno> {
    let raw = libc::seccomp_notif_addfd {
        id,
        flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SEND).map_err(|_| Errno::EINVAL)?,
        srcfd: file.as_raw_fd().cast_unsigned(),
        newfd: 0,
        newfd_flags: if cloexec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
    };
    // SAFETY: the request reads one `struct seccomp_notif_addfd`, which `raw` is; `file` is open since it is borrowed.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const raw) };
    Errno::result(rc)
}
