//! The file trees that the zygote makes once: the empty one that helpers enter, and the host's own as it is handed out.
//!
//! Runs in the zygote before its first helper. Needs CAP_SYS_ADMIN in the zygote's user namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use crate::shared::empty_root;
use crate::shared::notes::Notes;
use crate::shared::sys::mount_attr;
use crate::shared::wire::report::{Call, Step};

/// A detached copy of the host's file tree, read-only and `noexec`: what is opened through it can be read, and never
/// mapped as code.
pub(crate) fn file_tree(notes: &mut Notes) -> Option<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = notes.tried(Step::Spawn, Call::OpenTree, rustix::mount::open_tree(CWD, "/", flags))?;
    notes.tried(Step::Spawn, Call::MountSetattr, mount_attr::seal_tree(tree.as_fd()))?;
    Some(tree)
}

/// A mount namespace with nothing in it but an empty, read-only root, as a descriptor for setns(2).
pub(crate) fn empty_namespace(notes: &mut Notes) -> Option<OwnedFd> {
    let proc =
        rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let before = own_mount_namespace(proc.as_fd())?;
    notes.tried(Step::Spawn, Call::Unshare, unshare(CloneFlags::CLONE_NEWNS))?;
    let made = empty_root::enter(notes, Step::Spawn).then(|| own_mount_namespace(proc.as_fd())).flatten();
    notes.tried(Step::Spawn, Call::Setns, setns(&before, CloneFlags::CLONE_NEWNS))?;
    made
}

fn own_mount_namespace(proc: BorrowedFd<'_>) -> Option<OwnedFd> {
    rustix::fs::openat(proc, "self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}
