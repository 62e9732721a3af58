//! mount_setattr(2): attributes of a whole detached tree at once, Linux 5.12.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// What a tree is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    /// To read, and to map and start as code.
    Execute,
}

/// Makes every mount of the detached tree `nosuid` and `nodev`; read-only unless it is to be written, `noexec` unless it
/// holds what is to be code. What forbids more on a mount already stays.
pub(crate) fn seal_tree(tree: BorrowedFd<'_>, access: Access) -> Result<(), Errno> {
    let read_only = if access == Access::Write { 0 } else { libc::MOUNT_ATTR_RDONLY };
    let no_exec = if access == Access::Execute { 0 } else { libc::MOUNT_ATTR_NOEXEC };
    change(tree, read_only | no_exec | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV, 0)
}

/// Lets the detached `tree`, one of our own, be written through this descriptor.
pub(crate) fn unseal(tree: BorrowedFd<'_>) -> Result<(), Errno> {
    change(tree, 0, libc::MOUNT_ATTR_RDONLY)
}

fn change(tree: BorrowedFd<'_>, attr_set: u64, attr_clr: u64) -> Result<(), Errno> {
    let propagation = libc::MS_PRIVATE;
    let attr = libc::mount_attr { attr_set, attr_clr, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the path is an empty C string, `attr` is the kernel's own layout with its size beside it, and both outlive
    // the call, which only reads them; `tree` stays open since it is borrowed.
    let rc = unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size)
    };
    Errno::result(rc).map(drop)
}
