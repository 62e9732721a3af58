//! clone(2): the processes that we make without letting the standard library do it.
//!
//! Runs in the launcher (the zygote), in the zygote (the helpers), and in a helper (its courier), each of one thread.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sched::CloneFlags;

/// Which side of a clone one finds oneself on.
pub(crate) enum Cloned {
    /// The maker, with the new process's id in the maker's pid namespace.
    Parent { pid: i32, pidfd: OwnedFd },
    /// The new process.
    Child,
}

/// A copy of this process in the namespaces that `flags` names, as a child of this process's *parent*, which so is the
/// one to reap it. clone3(2); where a container answers ENOSYS to that, clone(2).
///
/// The caller must have one thread: the copy has only that one, and what others held would stay locked.
pub(crate) fn clone_sibling(flags: CloneFlags) -> Result<Cloned, Errno> {
    let mut pidfd: libc::c_int = -1;
    let flags = u64::from((flags | CloneFlags::CLONE_PARENT).bits().cast_unsigned())
        | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    let args = CloneArgs { flags, pidfd: (&raw mut pidfd) as u64, ..CloneArgs::default() };
    let mut pid = clone3(&args);
    if Errno::result(pid) == Err(Errno::ENOSYS) {
        // SAFETY: as above; a null stack means "as this one", and the third argument is where CLONE_PIDFD writes.
        let fallback =
            unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize) };
        pid = fallback;
    }
    match Errno::result(pid)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us alone, as CLONE_PIDFD promises on success.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?, pidfd })
        }
    }
}

/// A child in the cgroup behind `cgroup`, which otherwise is a copy of this process: clone3(2) with CLONE_INTO_CGROUP.
/// The caller must have one thread, as for [`clone_sibling`].
pub(crate) fn clone_into_cgroup(cgroup: BorrowedFd<'_>) -> Result<Cloned, Errno> {
    let mut pidfd: libc::c_int = -1;
    let args = CloneArgs {
        flags: u64::from(libc::CLONE_PIDFD.cast_unsigned()) | CLONE_INTO_CGROUP,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        cgroup: u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::EBADF)?,
        ..CloneArgs::default()
    };
    match Errno::result(clone3(&args))? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: the kernel has just made this descriptor for us alone, as CLONE_PIDFD promises on success.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?, pidfd })
        }
    }
}

/// A child that shares this process's descriptors, those that are still to come too, and nothing else; its id here. It has the
/// filters that this process has by now, and none that comes later. clone(2) with CLONE_FILES.
///
/// The caller must have one thread, as for [`clone_sibling`]. The child must end by `exit_at_once`: what it drops it closes for
/// both.
pub(crate) fn clone_sharing_descriptors() -> Result<Option<i32>, Errno> {
    let flags = u64::from((libc::CLONE_FILES | libc::SIGCHLD).cast_unsigned());
    // SAFETY: integers only; a null stack means "as this one", of which the child has a copy, as of all memory.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize) };
    match Errno::result(pid)? {
        0 => Ok(None),
        pid => Ok(Some(i32::try_from(pid).map_err(|_| Errno::EOVERFLOW)?)),
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000; // linux/sched.h; wider than libc's constants

/// `struct clone_args` up to CLONE_ARGS_SIZE_VER2, Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn clone3(args: &CloneArgs) -> libc::c_long {
    // SAFETY: `args` is a whole `struct clone_args` with its size beside it, and outlives the call. None of our flags is
    // CLONE_VM, so the child goes on with a copy of this stack; the caller has one thread, so no lock is held in the copy.
    unsafe { libc::syscall(libc::SYS_clone3, &raw const *args, size_of::<CloneArgs>()) }
}

/// A child that runs `become_another`, which is to exec: it borrows this process's memory, and this process stands still
/// until then. Saves the copying of page tables that a fork does. clone(2) with CLONE_VM and CLONE_VFORK.
///
/// Returns the child's id in this process's pid namespace.
pub(crate) fn clone_to_exec<F: FnMut()>(
    stack: &mut [u8],
    mut become_another: F,
) -> Result<(i32, OwnedFd), Errno> {
    extern "C" fn run<F: FnMut()>(argument: *mut libc::c_void) -> libc::c_int {
        let closure = argument.cast::<F>();
        // SAFETY: `argument` is the `&mut become_another` of the frame below, which CLONE_VFORK keeps standing still
        // until this process has execed or ended; nothing else touches the closure meanwhile.
        let become_another = unsafe { &mut *closure };
        become_another();
        74 // the exec has failed
    }
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: libc::c_int = -1;
    let top = stack.as_mut_ptr_range().end;
    let top = top.map_addr(|address| address & !0xf).cast::<libc::c_void>();
    let argument = (&raw mut become_another).cast::<libc::c_void>();
    // SAFETY: `top` is the 16-byte aligned end of a stack that only the child uses and that outlives it, since
    // CLONE_VFORK holds this call until the child has execed or ended; `run::<F>` fits the type behind `argument`.
    let pid = unsafe { libc::clone(run::<F>, top, flags, argument, &raw mut pidfd) };
    let pid = Errno::result(pid)?;
    // SAFETY: the kernel has just made this descriptor for us alone, as CLONE_PIDFD promises on success.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}
