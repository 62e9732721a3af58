//! What the zygote does for the host because its mount namespace is not the host's.
//!
//! Runs in the zygote, between two helpers. Reads no file and follows no path of the host's tree: each task is about
//! descriptors that come with it.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use rustix::mount::OpenTreeFlags;

use super::reap::Living;
use super::view;
use crate::shared::sys::mount_attr::{self, Access};
use crate::shared::wire::zygote::{HelperId, Task};

/// What the zygote can do for the host at once.
pub(crate) struct Workshop {
    /// Its own mount namespace, to come back to.
    pub(crate) home: Option<OwnedFd>,
}

impl Workshop {
    /// Does `task`; what it makes goes back to the host.
    pub(crate) fn perform(
        &self,
        task: &Task,
        given: &[OwnedFd],
        living: &Living,
    ) -> Result<Option<OwnedFd>, Errno> {
        match task {
            Task::CopyFolder => copy_folder(given.first().ok_or(Errno::EBADF)?).map(Some),
            Task::ShowProgram { helper, at } => {
                let (home, program) =
                    (self.home.as_ref().ok_or(Errno::ENOSYS)?, given.first().ok_or(Errno::EBADF)?);
                let helper = number(living, *helper).ok_or(Errno::ESRCH)?;
                view::show(home.as_fd(), helper, at, program.as_fd()).map(|()| None)
            }
            Task::Sweep => Err(Errno::EINVAL), // takes its time: the loop does it
        }
    }
}

fn number(living: &Living, helper: HelperId) -> Option<i32> {
    living.iter().find(|(_, id)| **id == helper).map(|(pid, _)| *pid)
}

fn copy_folder(folder: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let copy =
        rustix::mount::open_tree(folder, "", flags).map_err(|errno| Errno::from_raw(errno.raw_os_error()))?;
    mount_attr::seal_tree(copy.as_fd(), Access::Read)?;
    Ok(copy)
}
