//! mount_setattr(2): attributes of a whole detached tree at once, Linux 5.12.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// What a tree is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Makes every mount of the detached tree `nosuid`, `nodev` and `noexec`, and read-only if it is to be read.
pub(crate) fn seal_tree(tree: BorrowedFd<'_>, access: Access) -> Result<(), Errno> {
    let read_only = if access == Access::Read { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let attr = libc::mount_attr {
        attr_set: read_only | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the path is an empty C string, `attr` is the kernel's own layout with its size beside it, and both outlive
    // the call, which only reads them; `tree` stays open since it is borrowed.
    let rc = unsafe {
        libc::syscall(libc::SYS_mount_setattr, tree.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size)
    };
    Errno::result(rc).map(drop)
}
