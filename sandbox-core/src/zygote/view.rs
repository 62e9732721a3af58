//! Puts a program into the otherwise empty root of one helper, so that the kernel finds it there when it is started.
//!
//! Runs in the zygote, between two helpers, with CAP_SYS_ADMIN over the helper's mount namespace. What is shown is one file,
//! read-only, `nosuid` and `nodev`, and no path leads from it to another. Never follows a path of the host's tree.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use rustix::fs::{AtFlags, CWD, FileType, Mode, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, unmount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::shared::empty_root;
use crate::shared::errno::from_rustix;
use crate::shared::notes::Notes;
use crate::shared::sys::inherited;
use crate::shared::sys::mount_attr::{self, Access};
use crate::shared::wire::report::Step;

/// What anybody may do with the folders and files that are mounted upon: pass through.
const READABLE: Mode = Mode::from_raw_mode(0o555);

/// Shows `program` at the path `at`, absolute and plain, to the helper with this id, which is a child of this process.
pub(crate) fn show(
    home: BorrowedFd<'_>,
    helper: i32,
    at: &[u8],
    program: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let copy = copy(program, Path::new(""))?;
    mount_attr::seal_tree(copy.as_fd(), Access::Execute)?;
    let helper =
        pidfd_open(Pid::from_raw(helper).ok_or(Errno::ESRCH)?, PidfdFlags::empty()).map_err(from_rustix)?;
    setns(&helper, CloneFlags::CLONE_NEWNS)?;
    let placed = place(&copy, Path::new(OsStr::from_bytes(at)));
    if setns(home, CloneFlags::CLONE_NEWNS).is_err() {
        inherited::exit_at_once(77); // in a helper's root there is nothing left to be done
    }
    placed
}

/// A detached copy of one mount, from the folder or file at `path` on.
fn copy(from: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(from, path, flags).map_err(from_rustix)
}

fn place(program: &OwnedFd, at: &Path) -> Result<(), Errno> {
    let inside = at.strip_prefix("/").map_err(|_| Errno::EINVAL)?;
    let mut parts = inside.components();
    let first = Path::new("/").join(parts.next().ok_or(Errno::EINVAL)?);
    let rest = parts.as_path();
    if rest.as_os_str().is_empty() {
        prepare(Path::new("/"), inside)?;
    } else {
        own_folder(&first)?;
        prepare(&first, rest)?;
    }
    take_off(at)?;
    mount(program, at)
}

/// Takes away the program that was shown there before. What runs of it runs on.
fn take_off(at: &Path) -> Result<(), Errno> {
    let there = statx(CWD, at, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE).map_err(from_rustix)?;
    let is_program = FileType::from_raw_mode(there.stx_mode.into()) == FileType::RegularFile;
    if is_program && there.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        unmount(at, UnmountFlags::DETACH).map_err(from_rustix)?;
    }
    Ok(())
}

/// Makes the folder `first` of the root a file system of this helper's own: the root's is every helper's, and would show
/// them what others are shown.
fn own_folder(first: &Path) -> Result<(), Errno> {
    let name = first.strip_prefix("/").map_err(|_| Errno::EINVAL)?;
    let made = rustix::fs::mkdirat(writable(Path::new("/"))?, name, READABLE).map_err(from_rustix);
    if !matches!(made, Ok(()) | Err(Errno::EEXIST)) {
        return made;
    }
    let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev).map_err(from_rustix);
    if device(first)? != device(Path::new("/"))? {
        return Ok(());
    }
    let mut notes = Notes::default();
    let folder = empty_root::new_tree(&mut notes, Step::EmptyRoot);
    let failure = notes.into_failures().first().map_or(Errno::EIO, |failure| Errno::from_raw(failure.errno));
    mount(&folder.ok_or(failure)?, first)
}

/// Makes an empty file at `rest` below `base`, and the folders on the way.
fn prepare(base: &Path, rest: &Path) -> Result<(), Errno> {
    let base = writable(base)?;
    let exists = |made: rustix::io::Result<()>| match made {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => other.map_err(from_rustix),
    };
    let mut folder = PathBuf::new();
    for part in rest.parent().unwrap_or(Path::new("")) {
        folder.push(part);
        exists(rustix::fs::mkdirat(&base, &folder, READABLE))?;
    }
    exists(rustix::fs::mknodat(&base, rest, FileType::RegularFile, READABLE, 0))
}

/// The mount at `base` once more, to be written through this descriptor alone.
fn writable(base: &Path) -> Result<OwnedFd, Errno> {
    let copy = copy(CWD, base)?;
    mount_attr::unseal(copy.as_fd())?;
    Ok(copy)
}

fn mount(tree: &OwnedFd, at: &Path) -> Result<(), Errno> {
    move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(from_rustix)
}
