//! Scratch space: what a plugin finds at `/tmp`, its own alone, of a bounded size.
//!
//! Runs in the host. A file system that is mounted nowhere, made by the zygote, with a folder `tmp` in it: what is called
//! `/tmp/a` there is what the plugin calls so, and nothing that a link in it says leads out. It goes with its last descriptor.
//! Never in the host's `/tmp`: that is not reached by a plugin that has this.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use super::super::Brokered;
use super::super::requests::Request;
use super::tree::{Right, Tree};
use crate::host::links::Links;
use crate::host::zygote::Zygote;
use crate::shared::errno::from_rustix;
use crate::shared::policy::{Grants, PERMISSION_FILE_READ, PERMISSION_FILE_WRITE};
use crate::shared::wire::zygote::Task;

/// Where a plugin finds it.
pub(super) const FOLDER: &str = "/tmp";

/// The rule by which all of it is open.
pub(super) const RULE: &str = "scratch space";

/// How many files there may be for each MiB: what the kernel keeps for them is not more than they may hold.
const INODES_PER_MIB: u64 = 1024;

/// The root of the file system and the folder in it, which the plugin has not made.
const OWN_INODES: u64 = 2;

/// One plugin's.
#[derive(Debug)]
pub(crate) struct Scratch {
    root: OwnedFd,
    grants: Grants,
    /// The second names of files in it: they go with it.
    links: Links,
}

fn size(mb: u64) -> (u64, u64) {
    (mb << 20, mb.saturating_mul(INODES_PER_MIB).saturating_add(OWN_INODES))
}

impl Scratch {
    /// A new, empty one.
    pub(crate) fn new(zygote: &Zygote, mb: u64) -> Result<Self, Errno> {
        let (bytes, inodes) = size(mb);
        let root = zygote.perform(Task::NewScratch { bytes, inodes }, &[])?.ok_or(Errno::EIO)?;
        let mut grants = Grants::default();
        for permission in [PERMISSION_FILE_READ, PERMISSION_FILE_WRITE] {
            let permission = permission.scoped_to_path(FOLDER).map_err(|_| Errno::EINVAL)?;
            let real = permission.scope().cloned();
            grants.grant(permission, real);
        }
        Ok(Self { root, grants, links: Links::default() })
    }

    /// Changes its size; not below what is in it.
    pub(crate) fn resize(&self, zygote: &Zygote, mb: u64) -> Result<(), Errno> {
        let (bytes, inodes) = size(mb);
        zygote.perform(Task::ResizeScratch { bytes, inodes }, &[self.root.as_fd()]).map(drop)
    }

    /// How many bytes are used of it.
    pub(crate) fn used(&self) -> Result<u64, Errno> {
        let of = rustix::fs::fstatvfs(&self.root).map_err(from_rustix)?;
        Ok(of.f_blocks.saturating_sub(of.f_bfree).saturating_mul(of.f_frsize))
    }
}

impl Brokered {
    /// The scratch space, if the plugin has one and `path`, which is absolute, is in it.
    pub(super) fn scratch_at(&self, path: &[u8]) -> Option<&Scratch> {
        self.scratch.as_ref().filter(|_| plain(path).starts_with(FOLDER))
    }

    /// Where a path is looked for to be read.
    pub(super) fn root_at(&self, path: &Path) -> BorrowedFd<'_> {
        match self.scratch_at(path.as_os_str().as_bytes()) {
            Some(scratch) => scratch.root.as_fd(),
            None => self.trees.read.as_fd(),
        }
    }

    /// The tree in which `path` is, for what needs no judgement of `right` beside that of `outside`.
    pub(super) fn tree_at<'a>(&'a self, path: &[u8], right: Right, outside: Tree<'a>) -> Tree<'a> {
        match self.scratch_at(path) {
            Some(Scratch { root, grants, links }) => {
                Tree { root: root.as_fd(), grants, links, asks: false, learns: false, scratch: true }
            }
            None => {
                let root = if right.writes() { &self.trees.write } else { &self.trees.read };
                Tree { root: root.as_fd(), ..outside }
            }
        }
    }
}

impl Request<'_> {
    /// Whether both ends of a call are in the same file system, as far as that is the plugin's own.
    pub(super) fn are_together(&self, one: &[u8], other: &[u8]) -> bool {
        self.brokered.scratch_at(one).is_some() == self.brokered.scratch_at(other).is_some()
    }

    /// The same path, as short as it gets, if that is in the scratch space and begins elsewhere: what is elsewhere is not to be
    /// found from there.
    pub(super) fn straight_to_scratch(&self, path: Vec<u8>) -> Vec<u8> {
        if self.brokered.scratch.is_none() {
            return path;
        }
        let mut parts = Path::new(OsStr::from_bytes(&path)).components().skip(1);
        let begins_there = parts.next() == Some(Component::Normal(OsStr::new("tmp")));
        let short = plain(&path);
        if begins_there || !short.starts_with(FOLDER) {
            path
        } else {
            short.into_os_string().into_encoded_bytes()
        }
    }
}

/// A path without the steps back in it, as it is written: no link is looked at.
fn plain(path: &[u8]) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in Path::new(OsStr::from_bytes(path)).components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => drop(plain.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_in_the_scratch_space_by_how_it_is_written() {
        for (path, is_in) in [
            ("/tmp", true),
            ("/tmp/a/b", true),
            ("//tmp/./a", true),
            ("/srv/../tmp/a", true),
            ("/tmp/a/../../tmp/b", true),
            ("/tmp/../etc/passwd", false),
            ("/tmpfile", false),
            ("/var/tmp/a", false),
            ("/", false),
        ] {
            assert_eq!(plain(path.as_bytes()).starts_with(FOLDER), is_in, "{path}");
        }
    }

    #[test]
    fn the_largest_that_there_is_does_not_overflow() {
        assert_eq!(size(1 << 16), (1 << 36, (1 << 26) + 2));
        assert_eq!(size(1), (1 << 20, 1026));
    }
}
