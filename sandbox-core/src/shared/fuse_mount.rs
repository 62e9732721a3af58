//! A FUSE file system that is mounted nowhere: fuse(4), fsopen(2), fsmount(2).
//!
//! Runs in the host where that may mount, else in the zygote, whose user namespace may. The device must be opened in the
//! user namespace that mounts.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::shared::errno::from_rustix;

pub(crate) const DEVICE: &str = "/dev/fuse";

/// Who may use what is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Users {
    /// Whoever mounts it.
    Own,
    /// All that are in its user namespace, or in one of that one's.
    All,
}

/// A connection of its own to the kernel.
pub(crate) fn open_device() -> Result<OwnedFd, Errno> {
    rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(from_rustix)
}

/// The root of a file system that whoever reads from `device` serves: `nosuid`, `nodev`, `noexec`, detached.
pub(crate) fn mount(device: BorrowedFd<'_>, users: Users) -> Result<OwnedFd, Errno> {
    let file_system = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).map_err(from_rustix)?;
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let set = |key, value: &str| fsconfig_set_string(&file_system, key, value).map_err(from_rustix);
    set("source", "plugin-files")?;
    set("fd", &device.as_raw_fd().to_string())?;
    set("rootmode", "40000")?; // a folder; octal
    set("user_id", &user.to_string())?;
    set("group_id", &group.to_string())?;
    if users == Users::All {
        fsconfig_set_flag(&file_system, "allow_other").map_err(from_rustix)?;
    }
    fsconfig_create(&file_system).map_err(from_rustix)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&file_system, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(from_rustix)
}
