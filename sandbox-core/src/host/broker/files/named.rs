//! What a call names: a path, from where, and how it may be walked.
//!
//! Runs in the host, on a worker. Owns how a relative path becomes an absolute one. Decides nothing: where a path leads is
//! found, and judged, afterwards.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::ResolveFlags;

use super::super::memory;
use super::super::requests::Request;

/// A path as a plugin names it.
pub(super) struct Named {
    /// Absolute.
    pub(super) path: Vec<u8>,
    pub(super) walk: Walk,
    /// Which object it must be, by device and inode, where the caller holds it.
    pub(super) object: Option<(u64, u64)>,
}

/// How a path is walked.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    /// Whether a link at the path's end is followed.
    pub(super) follow: bool,
    /// What openat2(2) was asked for beyond what the broker asks for itself.
    pub(super) resolve: ResolveFlags,
}

/// What openat2(2) is told: `struct open_how`.
pub(super) struct How {
    pub(super) flags: u32,
    pub(super) mode: u32,
    pub(super) resolve: ResolveFlags,
}

impl Named {
    pub(super) fn absolute(path: Vec<u8>) -> Self {
        Self { path, walk: Walk { follow: true, resolve: ResolveFlags::empty() }, object: None }
    }

    pub(super) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The same, where a link at its end is followed only if `follow`.
    pub(super) fn following(mut self, follow: bool) -> Self {
        self.walk.follow = follow;
        self
    }

    pub(super) fn resolving(mut self, resolve: ResolveFlags) -> Self {
        self.walk.resolve = resolve;
        self
    }
}

impl Request<'_> {
    /// The path in argument `path`, from the folder whose descriptor is argument `folder`.
    pub(super) fn at(&self, folder: usize, path: usize) -> Result<Named, Errno> {
        self.path_at(self.arg(path), self.int(folder).cast_signed())
    }

    /// The path in argument `path`, from the caller's current folder.
    pub(super) fn here(&self, path: usize) -> Result<Named, Errno> {
        self.path_at(self.arg(path), libc::AT_FDCWD)
    }

    fn path_at(&self, address: u64, folder: i32) -> Result<Named, Errno> {
        let path = self.read_path(address)?;
        let path = match path.first() {
            None => return Err(Errno::ENOENT),
            Some(b'/') => path,
            Some(_) => {
                let from =
                    if folder == libc::AT_FDCWD { self.current_folder() } else { self.folder(folder)? };
                [from.as_os_str().as_bytes(), b"/", &path].concat()
            }
        };
        Ok(Named::absolute(self.straight_to_scratch(path)))
    }

    /// What openat2(2) is told.
    pub(super) fn how(&self) -> Result<How, Errno> {
        let memory = self.memory()?;
        self.read_of(&memory, How::read(&memory, self.arg(2), self.arg(3))?)
    }
}

impl How {
    /// The structure of `size` bytes at `at`, read once.
    pub(super) fn read(memory: &File, at: u64, size: u64) -> Result<Self, Errno> {
        const SIZE: u64 = 24;
        let word = |index: u64| memory::read_u64(memory, at.checked_add(8 * index).ok_or(Errno::EFAULT)?);
        match size {
            SIZE => {}
            less if less < SIZE => return Err(Errno::EINVAL),
            _ => return Err(Errno::E2BIG), // of a kernel to come: what it means is not known here
        }
        const KNOWN: ResolveFlags = ResolveFlags::NO_MAGICLINKS
            .union(ResolveFlags::NO_SYMLINKS)
            .union(ResolveFlags::NO_XDEV)
            .union(ResolveFlags::BENEATH)
            .union(ResolveFlags::IN_ROOT)
            .union(ResolveFlags::CACHED);
        let resolve = ResolveFlags::from_bits_retain(word(2)?);
        if !KNOWN.contains(resolve) {
            return Err(Errno::EINVAL);
        }
        // Walks that start or must stay somewhere are not offered: the caller falls back to openat(2). Nothing is in a
        // cache of the plugin's.
        if resolve.intersects(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT | ResolveFlags::NO_XDEV) {
            return Err(Errno::ENOSYS);
        }
        if resolve.contains(ResolveFlags::CACHED) {
            return Err(Errno::EAGAIN);
        }
        let narrow = |word: u64| u32::try_from(word).map_err(|_| Errno::EINVAL);
        Ok(Self { flags: narrow(word(0)?)?, mode: narrow(word(1)?)?, resolve })
    }
}
