//! The file trees that the zygote makes once: the empty one that helpers enter, and the host's own as it is handed out.
//!
//! Runs in the zygote before its first helper. Needs CAP_SYS_ADMIN in the zygote's user namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::OpenTreeFlags;

use crate::shared::empty_root;
use crate::shared::notes::Notes;
use crate::shared::policy::{Layer, Sabotage};
use crate::shared::sys::mount_attr::{self, Access};
use crate::shared::wire::report::{Call, Step};

/// The host's file tree, as the host gets it.
pub(crate) struct Trees {
    /// A detached copy, read-only and `noexec`: what is opened through it can be read, and never mapped as code.
    pub(crate) read: OwnedFd,
    /// The same, but what is opened through it can be written.
    pub(crate) write: OwnedFd,
    /// As `read`, but what is opened through it can be code.
    pub(crate) execute: OwnedFd,
    /// The root of this mount namespace: parts of it, and of nothing else, can be copied later.
    pub(crate) source: OwnedFd,
}

/// Makes them.
pub(crate) fn file_trees(sabotage: &Sabotage, notes: &mut Notes) -> Option<Trees> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let mut copy = |access| {
        let tree = notes.tried(Step::Spawn, Call::OpenTree, rustix::mount::open_tree(CWD, "/", flags))?;
        let sealed = mount_attr::seal_tree(tree.as_fd(), access);
        notes.tried(Step::Spawn, Call::MountSetattr, sealed)?;
        Some(tree)
    };
    let to_read = if sabotage.takes(Layer::NoExecFiles) { Access::Execute } else { Access::Read };
    let (read, write, execute) = (copy(to_read)?, copy(Access::Write)?, copy(Access::Execute)?);
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    Some(Trees { read, write, execute, source: root.ok()? })
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
