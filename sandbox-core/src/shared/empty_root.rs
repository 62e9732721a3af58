//! Swaps this process's file tree for one with nothing in it.
//!
//! Runs in the zygote (once, for helpers to enter) and in a helper that has a mount namespace of its own. Needs
//! CAP_SYS_ADMIN over the mount namespace. Never leaves the old tree reachable by a path.

use std::os::fd::OwnedFd;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use crate::shared::notes::Notes;
use crate::shared::wire::report::{Call, Step};

/// The most files and folders that an empty tree is ever given, to mount programs on.
const MOST_INODES: &str = "4096";

/// Whether the root is an empty tmpfs now: read-only, `nosuid`, `nodev`, `noexec`.
pub(crate) fn enter(notes: &mut Notes, step: Step) -> bool {
    swap(notes, step).is_some()
}

fn swap(notes: &mut Notes, step: Step) -> Option<()> {
    let root = new_tree(notes, step)?;
    let onto = move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH);
    notes.tried(step, Call::MoveMount, onto)?;
    notes.tried(step, Call::Chdir, rustix::process::fchdir(&root))?;
    match rustix::process::pivot_root(".", ".") {
        // The old root now lies on top of the new one: take it off.
        Ok(()) => notes.tried(step, Call::Umount, unmount(".", UnmountFlags::DETACH))?,
        // An initramfs cannot be pivoted away: it stays covered, and no path leads below the cover.
        Err(_) => notes.tried(step, Call::Chroot, rustix::process::chroot("."))?,
    }
    notes.tried(step, Call::Chdir, rustix::process::chdir("/"))
}

/// An empty tmpfs, detached: read-only, `nosuid`, `nodev`, `noexec`.
pub(crate) fn new_tree(notes: &mut Notes, step: Step) -> Option<OwnedFd> {
    let fs = notes.tried(step, Call::Fsopen, fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC))?;
    notes.tried(step, Call::Fsconfig, fsconfig_set_string(&fs, "mode", "0555"))?;
    notes.tried(step, Call::Fsconfig, fsconfig_set_string(&fs, "nr_inodes", MOST_INODES))?;
    notes.tried(step, Call::Fsconfig, fsconfig_create(&fs))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    notes.tried(step, Call::Fsmount, fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes))
}
