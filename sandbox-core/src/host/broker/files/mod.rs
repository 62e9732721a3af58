//! Calls that name a file: read what they name, find it, judge it, do it.
//!
//! Runs in the host, on a worker. Owns which calls these are; `tree` owns the judgement.

mod tree;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use rustix::fs::{FileType, Mode, OFlags};

use self::tree::{Tree, stat_bytes};
use super::requests::{Answer, Attempt, Refused, Request};
use super::{base, memory};
use crate::shared::policy::Grants;

/// Serves a call that names a file; `None` if this is none.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    Some(match request.nr() {
        libc::SYS_openat => request.open(request.named(0, 1), request.int(2)),
        libc::SYS_openat2 => match request.how() {
            Ok(flags) => request.open(request.named(0, 1), flags),
            Err(errno) => Answer::Errno(errno),
        },
        libc::SYS_newfstatat => {
            let follow = request.int(3) & libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() == 0;
            request.stat(request.named(0, 1), follow, request.arg(2))
        }
        libc::SYS_faccessat | libc::SYS_faccessat2 => request.access(request.named(0, 1), request.int(2)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => request.open(request.named_here(0), request.int(1)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            request.open(request.named_here(0), flags.cast_unsigned())
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat => request.stat(request.named_here(0), true, request.arg(1)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lstat => request.stat(request.named_here(0), false, request.arg(1)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_access => request.access(request.named_here(0), request.int(1)),
        _ => return None,
    })
}

/// A path as a plugin names it.
struct Named {
    /// Absolute.
    path: Vec<u8>,
}

impl Request<'_> {
    // ---- paths

    fn named(&self, folder: usize, path: usize) -> Result<Named, Errno> {
        self.path_at(self.arg(path), Some(self.int(folder).cast_signed()))
    }

    #[cfg(target_arch = "x86_64")]
    fn named_here(&self, path: usize) -> Result<Named, Errno> {
        self.path_at(self.arg(path), None)
    }

    fn path_at(&self, address: u64, folder: Option<i32>) -> Result<Named, Errno> {
        let path = self.read_path(address)?;
        match path.first() {
            None => Err(Errno::ENOENT),
            Some(b'/') => Ok(Named { path }),
            // The helper's folder is the root of its empty tree, and no folder is ever handed out.
            Some(_) if folder.is_none_or(|fd| fd == libc::AT_FDCWD) => {
                Ok(Named { path: [b"/", &path[..]].concat() })
            }
            Some(_) => Err(Errno::ENOTDIR),
        }
    }

    fn how(&self) -> Result<u32, Errno> {
        // struct open_how: flags, mode, resolve. Only what open(2) has counts; it is read once.
        let memory = &self.brokered.memory;
        if self.arg(3) < 24 {
            return Err(Errno::EINVAL);
        }
        let (how, resolve) = (self.arg(2), self.arg(2).checked_add(16).ok_or(Errno::EFAULT)?);
        // Ways of walking that the broker does not offer: the caller falls back to openat(2).
        if memory::read_u64(memory, resolve)? != 0 {
            return Err(Errno::ENOSYS);
        }
        u32::try_from(memory::read_u64(memory, how)?).map_err(|_| Errno::EINVAL)
    }

    fn with_tree<T>(&self, work: impl FnOnce(&Tree<'_>, &Grants) -> T) -> T {
        work(&Tree::new(self.brokered.trees.read.as_fd(), self.may_ask()), &self.grants())
    }

    // ---- files

    fn open(&self, named: Result<Named, Errno>, flags: u32) -> Answer {
        let named = match named {
            Ok(named) => named,
            Err(errno) => return Answer::Errno(errno),
        };
        let flags = flags.cast_signed();
        let cloexec = flags & libc::O_CLOEXEC != 0;
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY
            || flags & (libc::O_CREAT | libc::O_TRUNC) != 0
            || flags & libc::O_TMPFILE == libc::O_TMPFILE;
        if !writes && let Some(file) = self.brokered.served.open(&named.path) {
            return file.map_or_else(Answer::Errno, |file| Answer::File { file, cloexec });
        }
        if !writes && let Some(answer) = self.open_fact(&named.path, cloexec) {
            return answer;
        }
        match base::find(&named.path) {
            Some(base::Found::Device) => return open_device(&named.path, flags),
            Some(base::Found::Text(text)) if !writes => {
                return memory_file(text.as_bytes())
                    .map_or_else(Answer::Errno, |file| Answer::File { file, cloexec });
            }
            _ => {}
        }
        if writes {
            self.event(
                Attempt { permission: "file-write", action: "open", object: &named.path },
                None,
                false,
                "writing is not served by this version",
            );
            return Answer::Errno(Errno::EACCES);
        }
        if flags & libc::O_PATH != 0 {
            self.event(
                Attempt { permission: "file-read", action: "open", object: &named.path },
                None,
                false,
                "a handle without a right is not handed out",
            );
            return Answer::Errno(Errno::EACCES);
        }
        let follow = flags & libc::O_NOFOLLOW == 0;
        let opened = self.with_tree(|tree, grants| {
            let judged = tree.judge(&named.path, follow, grants)?;
            let errno = match judged.kind() {
                FileType::RegularFile if flags & libc::O_DIRECTORY != 0 => Errno::ENOTDIR,
                FileType::RegularFile => {
                    return match judged.open().and_then(|file| self.hand_out(file, &judged.resolved)) {
                        Ok(file) => Ok((file, judged.resolved, judged.rule)),
                        Err(errno) => {
                            Err(Refused::new(errno, Some(&judged.resolved), "the host's user may not"))
                        }
                    };
                }
                FileType::Symlink => Errno::ELOOP,
                _ => Errno::EACCES,
            };
            Err(Refused::new(errno, Some(&judged.resolved), "only ordinary files are opened"))
        });
        match opened {
            Ok((file, resolved, rule)) => {
                self.event(
                    Attempt { permission: "file-read", action: "open", object: &named.path },
                    Some(&resolved),
                    true,
                    &rule,
                );
                Answer::File { file, cloexec }
            }
            Err(refused) => {
                self.refuse(Attempt { permission: "file-read", action: "open", object: &named.path }, refused)
            }
        }
    }

    fn stat(&self, named: Result<Named, Errno>, follow: bool, address: u64) -> Answer {
        let named = match named {
            Ok(named) => named,
            Err(errno) => return Answer::Errno(errno),
        };
        if matches!(base::find(&named.path), Some(base::Found::Device)) {
            return match rustix::fs::stat(named.path.as_slice()) {
                Ok(stat) => self.write(address, &stat_bytes(&stat)),
                Err(_) => Answer::Errno(Errno::ENOENT),
            };
        }
        if let Some(answer) = self.stat_fact(&named.path, address) {
            return answer;
        }
        match self.with_tree(|tree, grants| tree.judge(&named.path, follow, grants)) {
            Ok(judged) => {
                self.event(
                    Attempt { permission: "file-read", action: "stat", object: &named.path },
                    Some(&judged.resolved),
                    true,
                    &judged.rule,
                );
                self.write(address, &stat_bytes(&judged.stat))
            }
            Err(_) if self.brokered.served.is_folder(&named.path) => {
                self.write(address, &base::neutral_stat(libc::S_IFDIR | 0o755))
            }
            Err(refused) => {
                self.refuse(Attempt { permission: "file-read", action: "stat", object: &named.path }, refused)
            }
        }
    }

    fn access(&self, named: Result<Named, Errno>, mode: u32) -> Answer {
        let named = match named {
            Ok(named) => named,
            Err(errno) => return Answer::Errno(errno),
        };
        if matches!(base::find(&named.path), Some(base::Found::Device)) {
            return Answer::Value(0);
        }
        if let Some(answer) = self.access_fact(&named.path, mode) {
            return answer;
        }
        match self.with_tree(|tree, grants| tree.judge(&named.path, true, grants)) {
            Ok(judged) => {
                let only_read = mode & (libc::W_OK | libc::X_OK).cast_unsigned() == 0;
                let readable = mode == 0 || judged.kind() == FileType::Directory || judged.open().is_ok();
                let granted = only_read && readable;
                self.event(
                    Attempt { permission: "file-read", action: "access", object: &named.path },
                    Some(&judged.resolved),
                    granted,
                    &judged.rule,
                );
                if granted { Answer::Value(0) } else { Answer::Errno(Errno::EACCES) }
            }
            Err(refused) => self
                .refuse(Attempt { permission: "file-read", action: "access", object: &named.path }, refused),
        }
    }
}

/// A device of the base profile, as the plugin asks for it.
fn open_device(path: &[u8], flags: i32) -> Answer {
    let mut wanted = OFlags::from_bits_truncate((flags & libc::O_ACCMODE).cast_unsigned());
    if path == b"/dev/zero" && wanted == OFlags::RDWR {
        // With the right to write, a shared mapping of it is memory that RLIMIT_DATA does not count. A private one needs
        // only the right to read.
        wanted = OFlags::RDONLY;
    }
    let flags_ours = wanted | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let cloexec = flags & libc::O_CLOEXEC != 0;
    match rustix::fs::open(path, flags_ours, Mode::empty()) {
        Ok(file) => Answer::File { file, cloexec },
        Err(errno) => Answer::Errno(Errno::from_raw(errno.raw_os_error())),
    }
}

/// A file with these bytes that nobody can change.
pub(super) fn memory_file(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let errno = |errno: rustix::io::Errno| Errno::from_raw(errno.raw_os_error());
    let file = memfd_create("base", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(errno)?;
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        written += rustix::io::write(&file, rest).map_err(errno)?;
    }
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
        .map_err(errno)?;
    // Without the right to write, so that it cannot be asked for through this descriptor either.
    let again = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(errno)
}
