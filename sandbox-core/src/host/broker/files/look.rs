//! Calls that look at what a path leads to: stat(2), access(2), readlink(2), statfs(2).
//!
//! Runs in the host, on a worker. What may be seen is what may be read or written. Of the folders on the way to that, a
//! plugin learns that they are folders, which it knows already: libraries look at each part of a path in turn. So of the root,
//! whatever is granted.

use std::path::Component;

use nix::errno::Errno;
use rustix::fs::{Access, AtFlags, CWD, FileType, Stat};

use super::super::base;
use super::super::requests::{Answer, Attempt, Refused, Request};
use super::by_handle;
use super::named::Named;
use super::tree::{Judged, Right};

use crate::shared::errno::from_rustix;

const PATH_MAX: usize = 4096;

/// Serves a call that looks; `None` if this is none.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    let answer = match request.nr() {
        libc::SYS_newfstatat => {
            let follow = request.int(3) & libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() == 0;
            request.at(0, 1).map(|named| request.stat(&named.following(follow), request.arg(2)))
        }
        libc::SYS_faccessat => request.at(0, 1).map(|named| request.access(&named, request.int(2))),
        libc::SYS_faccessat2 => {
            let follow = request.int(3) & libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() == 0;
            request.at(0, 1).map(|named| request.access(&named.following(follow), request.int(2)))
        }
        libc::SYS_readlinkat => {
            request.at(0, 1).map(|named| request.readlink(named, request.arg(2), request.int(3)))
        }
        libc::SYS_statfs => request.here(0).map(|named| request.statfs(&named, request.arg(1))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat => request.here(0).map(|named| request.stat(&named, request.arg(1))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lstat => request.here(0).map(|named| request.stat(&named.following(false), request.arg(1))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_access => request.here(0).map(|named| request.access(&named, request.int(1))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_readlink => {
            request.here(0).map(|named| request.readlink(named, request.arg(1), request.int(2)))
        }
        _ => return None,
    };
    Some(answer.unwrap_or_else(Answer::Errno))
}

fn attempt<'a>(action: &'static str, named: &'a Named) -> Attempt<'a> {
    Attempt { permission: "file-read", action, object: &named.path }
}

impl Request<'_> {
    fn stat(&self, named: &Named, address: u64) -> Answer {
        if matches!(base::find(&named.path), Some(base::Found::Device)) {
            return match rustix::fs::stat(named.path.as_slice()) {
                Ok(stat) => self.write(address, &stat_bytes(&stat)),
                Err(_) => Answer::Errno(Errno::ENOENT),
            };
        }
        if let Some(answer) = self.stat_fact(&named.path, address) {
            return answer;
        }
        let seen = self.with_tree(&named.path, Right::See, |tree| tree.judge(named, Right::See));
        let attempt = attempt("stat", named);
        match seen {
            Ok(judged) => {
                self.event(attempt, Some(&judged.resolved), true, &judged.rule);
                self.write(address, &stat_bytes(&told(&judged)))
            }
            Err(_) if self.brokered.served.is_folder(&named.path) || is_root(named) => {
                self.write(address, &base::neutral_stat(libc::S_IFDIR | 0o755))
            }
            Err(refused) => self.refuse(attempt, refused),
        }
    }

    fn access(&self, named: &Named, mode: u32) -> Answer {
        if matches!(base::find(&named.path), Some(base::Found::Device)) {
            return Answer::Value(0);
        }
        if let Some(answer) = self.access_fact(&named.path, mode) {
            return answer;
        }
        let Some(mode) = Access::from_bits(mode) else { return Answer::Errno(Errno::EINVAL) };
        let right = match (mode.contains(Access::READ_OK), mode.contains(Access::WRITE_OK)) {
            (true, true) => Right::Both,
            (true, false) => Right::Read,
            (false, true) => Right::Write,
            (false, false) => Right::See,
        };
        let attempt = attempt("access", named);
        let judged = self.with_tree(&named.path, right, |tree| {
            tree.judge(named, Right::See).and_then(|judged| {
                if judged.on_the_way {
                    // A folder on the way can be gone through, and that is all.
                    let refused = || Refused::new(Errno::EACCES, Some(&judged.resolved), "on the way only");
                    return if right == Right::See { Ok(judged) } else { Err(refused()) };
                }
                tree.opens(&judged, right)?;
                Ok(judged)
            })
        });
        match judged {
            Ok(judged) => {
                self.event(attempt, Some(&judged.resolved), true, &judged.rule);
                // The rights of the host's user, whose the file is used as.
                let may = judged.on_the_way
                    || judged.kind() == FileType::Symlink
                    || rustix::fs::accessat(CWD, by_handle(&judged.handle), mode, AtFlags::EACCESS).is_ok();
                if may { Answer::Value(0) } else { Answer::Errno(Errno::EACCES) }
            }
            // As with a folder on the way.
            Err(_) if right == Right::See && is_root(named) => Answer::Value(0),
            Err(refused) => self.refuse(attempt, refused),
        }
    }

    fn readlink(&self, named: Named, address: u64, room: u32) -> Answer {
        let Ok(room @ 1..) = usize::try_from(room.cast_signed()) else { return Answer::Errno(Errno::EINVAL) };
        let named = named.following(false);
        let attempt = attempt("readlink", &named);
        let read = self.with_tree(&named.path, Right::Read, |tree| {
            let judged = tree.judge(&named, Right::See)?;
            if judged.kind() == FileType::Symlink {
                tree.opens(&judged, Right::Read)?;
            }
            Ok(judged)
        });
        let judged = match read {
            Ok(judged) => judged,
            Err(refused) => return self.refuse(attempt, refused),
        };
        self.event(attempt, Some(&judged.resolved), true, &judged.rule);
        if judged.kind() != FileType::Symlink {
            return Answer::Errno(Errno::EINVAL);
        }
        match rustix::fs::readlinkat(&judged.handle, "", Vec::with_capacity(PATH_MAX)) {
            Ok(target) => {
                let target = target.as_bytes();
                let target = target.get(..room).unwrap_or(target);
                match self.write(address, target) {
                    Answer::Value(_) => Answer::Value(i64::try_from(target.len()).unwrap_or_default()),
                    other => other,
                }
            }
            Err(errno) => Answer::Errno(from_rustix(errno)),
        }
    }

    fn statfs(&self, named: &Named, address: u64) -> Answer {
        let attempt = attempt("statfs", named);
        let seen = self.with_tree(&named.path, Right::See, |tree| {
            let judged = tree.judge(named, Right::See)?;
            if judged.on_the_way {
                return Err(Refused::new(Errno::EACCES, Some(&judged.resolved), "on the way only"));
            }
            match rustix::fs::fstatfs(&judged.handle) {
                Ok(of) => Ok((judged, of)),
                Err(errno) => Err(Refused::new(from_rustix(errno), Some(&judged.resolved), "fstatfs")),
            }
        });
        match seen {
            Ok((judged, of)) => {
                self.event(attempt, Some(&judged.resolved), true, &judged.rule);
                self.write(address, &statfs_bytes(&of))
            }
            Err(refused) => self.refuse(attempt, refused),
        }
    }
}

/// Whether it names the root: that it is a folder is no news, and libraries look at it before any other.
fn is_root(named: &Named) -> bool {
    named.path().components().all(|part| matches!(part, Component::RootDir | Component::CurDir))
}

/// What is told of an object: of a folder on the way only which one it is.
fn told(judged: &Judged) -> Stat {
    let mut stat = judged.stat;
    if judged.on_the_way {
        stat.st_mode = libc::S_IFDIR | 0o555;
        stat.st_nlink = 1;
        (stat.st_uid, stat.st_gid, stat.st_size, stat.st_blocks) = (0, 0, 0, 0);
        (stat.st_atime, stat.st_mtime, stat.st_ctime) = (0, 0, 0);
        (stat.st_atime_nsec, stat.st_mtime_nsec, stat.st_ctime_nsec) = (0, 0, 0);
    }
    stat
}

/// A `struct statfs` as a 64-bit kernel writes it, without the file system's id: statfs(2).
fn statfs_bytes(of: &rustix::fs::StatFs) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(120);
    bytes.extend(of.f_type.to_ne_bytes());
    bytes.extend(of.f_bsize.to_ne_bytes());
    for count in [of.f_blocks, of.f_bfree, of.f_bavail, of.f_files, of.f_ffree] {
        bytes.extend(count.to_ne_bytes());
    }
    bytes.extend([0; 8]);
    bytes.extend(of.f_namelen.to_ne_bytes());
    bytes.extend(of.f_frsize.to_ne_bytes());
    bytes.extend(of.f_flags.to_ne_bytes());
    bytes.resize(120, 0);
    bytes
}

/// A `struct stat` as this architecture's kernel writes it: stat(2).
pub(in super::super) fn stat_bytes(stat: &Stat) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(144);
    bytes.extend(stat.st_dev.to_ne_bytes());
    bytes.extend(stat.st_ino.to_ne_bytes());
    #[cfg(target_arch = "x86_64")]
    {
        bytes.extend(stat.st_nlink.to_ne_bytes());
        bytes.extend(stat.st_mode.to_ne_bytes());
        bytes.extend(stat.st_uid.to_ne_bytes());
        bytes.extend(stat.st_gid.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(stat.st_rdev.to_ne_bytes());
        bytes.extend(stat.st_size.to_ne_bytes());
        bytes.extend(stat.st_blksize.to_ne_bytes());
        bytes.extend(stat.st_blocks.to_ne_bytes());
    }
    #[cfg(target_arch = "aarch64")]
    {
        bytes.extend(stat.st_mode.to_ne_bytes());
        bytes.extend(stat.st_nlink.to_ne_bytes());
        bytes.extend(stat.st_uid.to_ne_bytes());
        bytes.extend(stat.st_gid.to_ne_bytes());
        bytes.extend(stat.st_rdev.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(stat.st_size.to_ne_bytes());
        bytes.extend(stat.st_blksize.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(stat.st_blocks.to_ne_bytes());
    }
    for (seconds, nanos) in [
        (stat.st_atime, stat.st_atime_nsec),
        (stat.st_mtime, stat.st_mtime_nsec),
        (stat.st_ctime, stat.st_ctime_nsec),
    ] {
        bytes.extend(seconds.to_ne_bytes());
        bytes.extend(nanos.to_ne_bytes());
    }
    bytes.resize(base::STAT_BYTES, 0);
    bytes
}
