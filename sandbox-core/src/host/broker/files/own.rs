//! What this process reaches by a descriptor of its own: where the object is, and the object opened anew.
//!
//! Runs in the host. A worker keeps the folder of its process's descriptors open, so that neither walks through `/proc` each
//! time. Decides nothing.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::path::DecInt;

use super::by_handle;

use crate::shared::errno::from_rustix;

const DESCRIPTORS: &str = "/proc/self/fd";

/// The longest path: PATH_MAX of the kernel.
const PATH_MAX: usize = 4096;

thread_local! {
    static FOLDER: OnceCell<OwnedFd> = const { OnceCell::new() };
}

/// From now on this thread keeps the folder of its process's descriptors open, until it ends.
pub(in super::super) fn keep_folder() {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    if let Ok(folder) = rustix::fs::open(DESCRIPTORS, flags, Mode::empty()) {
        FOLDER.with(|kept| drop(kept.set(folder)));
    }
}

/// Opens the very object behind `handle`.
pub(in super::super) fn open_again(handle: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let opened = FOLDER.with(|folder| match folder.get() {
        Some(folder) => rustix::fs::openat(folder, DecInt::from_fd(handle), flags, Mode::empty()),
        None => rustix::fs::open(by_handle(handle), flags, Mode::empty()),
    });
    opened.map_err(from_rustix)
}

/// Where an object is, with every link followed. `None` if it was removed, or is nowhere.
pub(in super::super) fn resolved_path(handle: &OwnedFd) -> Option<PathBuf> {
    let mut room = [MaybeUninit::<u8>::uninit(); PATH_MAX];
    let (path, left) = FOLDER.with(|folder| match folder.get() {
        Some(folder) => rustix::fs::readlinkat_raw(folder, DecInt::from_fd(handle), &mut room[..]).ok(),
        None => rustix::fs::readlinkat_raw(CWD, by_handle(handle), &mut room[..]).ok(),
    })?;
    // The kernel marks a removed one like this; a file that really is called so is not worth the doubt. One that fills all
    // there is room for was cut.
    let whole = path.starts_with(b"/") && !path.ends_with(b" (deleted)") && !left.is_empty();
    whole.then(|| PathBuf::from(OsStr::from_bytes(path)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_thread_that_keeps_the_folder_finds_and_opens_the_same() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().canonicalize().unwrap().join("file");
        std::fs::write(&file, "x").unwrap();
        let (kept, removed) = (OwnedFd::from(File::open(&file).unwrap()), scratch.path().join("removed"));
        std::fs::write(&removed, "y").unwrap();
        let gone = OwnedFd::from(File::open(&removed).unwrap());
        std::fs::remove_file(&removed).unwrap();
        let look = || {
            assert_eq!(resolved_path(&kept).as_deref(), Some(file.as_path()));
            assert_eq!(resolved_path(&gone), None);
            let again = open_again(&kept, OFlags::RDONLY | OFlags::CLOEXEC).unwrap();
            let ids =
                [&kept, &again].map(|of| rustix::fs::fstat(of).unwrap()).map(|of| (of.st_dev, of.st_ino));
            assert_eq!(ids[0], ids[1]);
        };
        look();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                keep_folder();
                look();
            });
        });
    }
}
