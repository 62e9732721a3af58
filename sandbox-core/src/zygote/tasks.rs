//! What the zygote does for the host because its mount namespace is not the host's.
//!
//! Runs in the zygote, between two helpers. Reads no file and follows no path: each task is about descriptors that come
//! with it.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use rustix::mount::OpenTreeFlags;

use crate::shared::sys::mount_attr::{self, Access};
use crate::shared::wire::zygote::Task;

/// Does `task`; what it makes goes back to the host.
pub(crate) fn perform(task: &Task, given: &[OwnedFd]) -> Result<Option<OwnedFd>, Errno> {
    match task {
        Task::CopyFolder => {
            let folder = given.first().ok_or(Errno::EBADF)?;
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_EMPTY_PATH;
            let copy = rustix::mount::open_tree(folder, "", flags)
                .map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
            mount_attr::seal_tree(copy.as_fd(), Access::Read)?;
            Ok(Some(copy))
        }
    }
}
