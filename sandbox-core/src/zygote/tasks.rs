//! What the zygote does for the host because its mount namespace is not the host's.
//!
//! Runs in the zygote, between two helpers. Reads no file and follows no path of the host's tree but that of one device:
//! each task is about descriptors that come with it.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_string, fsmount, fsopen, fspick,
};

use super::reap::Living;
use super::view;
use crate::shared::errno::from_rustix;
use crate::shared::fuse_mount::{self, Users};
use crate::shared::sys::mount_attr::{self, Access};
use crate::shared::wire::zygote::{HelperId, Name, NameKind, Task};

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
            Task::NewScratch { bytes, inodes } => new_scratch(*bytes, *inodes).map(Some).map_err(from_rustix),
            Task::ResizeScratch { bytes, inodes } => {
                let scratch = given.first().ok_or(Errno::EBADF)?;
                resize_scratch(scratch, *bytes, *inodes).map(|()| None).map_err(from_rustix)
            }
            Task::NewFolder => new_folder().map(Some).map_err(from_rustix),
            Task::AddNames(names) => {
                let folder = given.first().ok_or(Errno::EBADF)?;
                names.iter().try_for_each(|name| add(folder, name)).map(|()| None).map_err(from_rustix)
            }
            Task::SealFolder => {
                let folder = given.first().ok_or(Errno::EBADF)?;
                mount_attr::seal_tree(folder.as_fd(), Access::Read).map(|()| None)
            }
            Task::ShowProgram { helper, at } => {
                let (home, program) =
                    (self.home.as_ref().ok_or(Errno::ENOSYS)?, given.first().ok_or(Errno::EBADF)?);
                let helper = number(living, *helper).ok_or(Errno::ESRCH)?;
                view::show(home.as_fd(), helper, at, program.as_fd()).map(|()| None)
            }
            Task::OpenFuse => fuse_mount::open_device().map(Some),
            Task::MountFuse => {
                let device = given.first().ok_or(Errno::EBADF)?;
                fuse_mount::mount(device.as_fd(), Users::Own).map(Some)
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
    let copy = rustix::mount::open_tree(folder, "", flags).map_err(from_rustix)?;
    mount_attr::seal_tree(copy.as_fd(), Access::Read)?;
    Ok(copy)
}

fn new_folder() -> rustix::io::Result<OwnedFd> {
    new_tmpfs(&[("mode", "0755")])
}

fn new_tmpfs(options: &[(&str, &str)]) -> rustix::io::Result<OwnedFd> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    options.iter().try_for_each(|(key, value)| fsconfig_set_string(&fs, *key, *value))?;
    fsconfig_create(&fs)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn new_scratch(bytes: u64, inodes: u64) -> rustix::io::Result<OwnedFd> {
    let (size, inodes) = (bytes.to_string(), inodes.to_string());
    let scratch = new_tmpfs(&[("mode", "0755"), ("size", &size), ("nr_inodes", &inodes)])?;
    // The sticky bit as any system's has it; no umask is in the way here.
    rustix::fs::mkdirat(&scratch, "tmp", Mode::from_raw_mode(0o1777))?;
    Ok(scratch)
}

fn resize_scratch(scratch: &OwnedFd, bytes: u64, inodes: u64) -> rustix::io::Result<()> {
    let flags = FsPickFlags::FSPICK_EMPTY_PATH | FsPickFlags::FSPICK_CLOEXEC;
    let fs = fspick(scratch, "", flags)?;
    fsconfig_set_string(&fs, "size", bytes.to_string())?;
    fsconfig_set_string(&fs, "nr_inodes", inodes.to_string())?;
    fsconfig_reconfigure(&fs)
}

fn add(folder: &OwnedFd, Name { name, kind }: &Name) -> rustix::io::Result<()> {
    match kind {
        NameKind::Folder => rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)),
        NameKind::Link => rustix::fs::symlinkat(".", folder, name),
        NameKind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}
