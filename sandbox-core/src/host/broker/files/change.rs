//! Calls that change what stands under a name, or an object that they name: mkdir(2), rename(2), unlink(2), link(2),
//! symlink(2), truncate(2), chmod(2), chown(2), utimensat(2) and their kin.
//!
//! Runs in the host, on a worker. A name that is made or taken away is judged by the folder that it is in, an object as any
//! other. Owns that no name is a way to a right: what is moved or linked never comes to where more is granted.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags, Timestamps};

use super::super::requests::{Answer, Attempt, Refused, Request};
use super::by_handle;
use super::folders::object;
use super::named::Named;
use super::tree::{Judged, Place, Right, Tree};
use crate::host::procfs::{HostPid, Status};
use crate::host::protected;
use crate::shared::errno::from_rustix;

/// What no mode that a plugin asks for turns on.
const RIGHTS_OF_ITS_OWN: u32 = libc::S_ISUID | libc::S_ISGID | libc::S_ISVTX;

/// Serves a call that changes something named; `None` if this is none.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    let at = |folder, path| request.at(folder, path);
    let here = |path| request.here(path);
    let two =
        |first: Result<Named, Errno>, second: Result<Named, Errno>| first.and_then(|a| Ok((a, second?)));
    let answer = match request.nr() {
        libc::SYS_mkdirat => at(0, 1).map(|named| request.mkdir(&named, request.int(2))),
        libc::SYS_unlinkat => match request.int(2).cast_signed() {
            0 => at(0, 1).map(|named| request.unlink(&named)),
            libc::AT_REMOVEDIR => at(0, 1).map(|named| request.rmdir(&named)),
            _ => Err(Errno::EINVAL),
        },
        libc::SYS_renameat2 => {
            two(at(0, 1), at(2, 3)).map(|(old, new)| request.rename(&old, &new, request.int(4)))
        }
        libc::SYS_renameat => two(at(0, 1), at(2, 3)).map(|(old, new)| request.rename(&old, &new, 0)),
        libc::SYS_linkat => match request.int(4).cast_signed() {
            flags @ (0 | libc::AT_SYMLINK_FOLLOW) => two(at(0, 1), at(2, 3))
                .map(|(old, new)| request.link(&old.following(flags == libc::AT_SYMLINK_FOLLOW), &new)),
            _ => Err(Errno::EINVAL),
        },
        libc::SYS_symlinkat => {
            request.read_path(request.arg(0)).and_then(|target| Ok(request.symlink(&target, &at(1, 2)?)))
        }
        libc::SYS_truncate => here(0).map(|named| request.truncate(&named, request.arg(1).cast_signed())),
        libc::SYS_fchmodat => at(0, 1).map(|named| request.chmod(&named, request.int(2))),
        libc::SYS_fchownat => {
            let follow = request.int(4) & libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() == 0;
            at(0, 1).map(|named| request.chown(&named.following(follow), request.int(2), request.int(3)))
        }
        libc::SYS_utimensat if request.arg(1) != 0 => {
            let follow = request.int(3) & libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() == 0;
            two_of(at(0, 1), request.times(request.arg(2), Times::Nanoseconds))
                .map(|(named, times)| request.set_times(&named.following(follow), &times))
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir => here(0).map(|named| request.mkdir(&named, request.int(1))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rmdir => here(0).map(|named| request.rmdir(&named)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => here(0).map(|named| request.unlink(&named)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => two(here(0), here(1)).map(|(old, new)| request.rename(&old, &new, 0)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link => two(here(0), here(1)).map(|(old, new)| request.link(&old.following(false), &new)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_symlink => {
            request.read_path(request.arg(0)).and_then(|target| Ok(request.symlink(&target, &here(1)?)))
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => here(0).map(|named| request.chmod(&named, request.int(1))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown => here(0).map(|named| request.chown(&named, request.int(1), request.int(2))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown => {
            here(0).map(|named| request.chown(&named.following(false), request.int(1), request.int(2)))
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_utime => two_of(here(0), request.times(request.arg(1), Times::Seconds))
            .map(|(named, times)| request.set_times(&named, &times)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_utimes => two_of(here(0), request.times(request.arg(1), Times::Microseconds))
            .map(|(named, times)| request.set_times(&named, &times)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_futimesat if request.arg(1) != 0 => {
            two_of(at(0, 1), request.times(request.arg(2), Times::Microseconds))
                .map(|(named, times)| request.set_times(&named, &times))
        }
        _ => return None,
    };
    Some(answer.unwrap_or_else(Answer::Errno))
}

fn two_of<A, B>(first: Result<A, Errno>, second: Result<B, Errno>) -> Result<(A, B), Errno> {
    Ok((first?, second?))
}

/// How a call writes times down.
#[derive(Clone, Copy)]
pub(super) enum Times {
    /// `struct timespec [2]`
    Nanoseconds,
    #[cfg(target_arch = "x86_64")]
    /// `struct timeval [2]`
    Microseconds,
    #[cfg(target_arch = "x86_64")]
    /// `struct utimbuf`
    Seconds,
}

/// What was done, or what the kernel said to it, once it was granted.
struct Done {
    resolved: PathBuf,
    rule: String,
    result: Result<(), Errno>,
    /// Where else, for what has two ends: as the plugin names it, where that is, and by which rule.
    also: Option<(Vec<u8>, PathBuf, String)>,
}

impl Done {
    fn at(resolved: &Path, rule: &str, result: rustix::io::Result<()>) -> Result<Self, Refused> {
        let result = result.map_err(from_rustix);
        Ok(Self { resolved: resolved.to_owned(), rule: rule.to_owned(), result, also: None })
    }

    fn also_at(self, named: &Named, place: Place) -> Self {
        Self { also: Some((named.path.clone(), place.resolved, place.rule)), ..self }
    }
}

impl Request<'_> {
    /// Changes something where it may be written, and tells of it.
    fn change(
        &self,
        action: &'static str,
        object: &[u8],
        work: impl FnOnce(&Tree<'_>) -> Result<Done, Refused>,
    ) -> Answer {
        self.change_at(action, object, |tree, _| work(tree))
    }

    /// The same of what has two ends: `work` says which of them it is about when it is refused.
    fn change_at<'a>(
        &self,
        action: &'static str,
        object: &'a [u8],
        work: impl FnOnce(&Tree<'_>, &mut &'a [u8]) -> Result<Done, Refused>,
    ) -> Answer {
        let mut refused_at = object;
        let done = self.with_tree(object, Right::Write, |tree| work(tree, &mut refused_at));
        let attempt = |object| Attempt { permission: "file-write", action, object };
        match done {
            Ok(Done { resolved, rule, result, also }) => {
                self.event(attempt(object), Some(&resolved), true, &rule);
                if let Some((object, resolved, rule)) = also {
                    self.event(attempt(&object), Some(&resolved), true, &rule);
                }
                result.map(|()| 0).into()
            }
            Err(refused) => self.refuse(attempt(refused_at), refused),
        }
    }

    /// The mode of something new: what the plugin asks for, less its own umask.
    pub(super) fn mode_of_new(&self, asked: u32) -> Mode {
        without_umask();
        let status = Status::read(HostPid(self.notification.tid));
        let umask = u32::from_str_radix(status.get("Umask"), 8).unwrap_or(0o077);
        Mode::from_raw_mode(asked & 0o777 & !umask)
    }

    fn mkdir(&self, named: &Named, mode: u32) -> Answer {
        self.change("mkdir", &named.path, |tree| {
            let place = match tree.place(named, Right::Write, Errno::EEXIST) {
                // What is above a granted folder is there: programs make each part of a path in turn.
                Err(refused) if refused.errno == Errno::EACCES => {
                    let above = tree.judge(named, Right::See).is_ok_and(|judged| judged.on_the_way);
                    return Err(if above {
                        Refused { errno: Errno::EEXIST, wanted: None, ..refused }
                    } else {
                        refused
                    });
                }
                place => place?,
            };
            let made = rustix::fs::mkdirat(&place.parent, place.spelled(), self.mode_of_new(mode));
            Done::at(&place.resolved, &place.rule, made)
        })
    }

    fn rmdir(&self, named: &Named) -> Answer {
        self.change("rmdir", &named.path, |tree| {
            let odd = if named.path.ends_with(b"..") { Errno::ENOTEMPTY } else { Errno::EINVAL };
            let place = tree.place(named, Right::Write, odd)?;
            tree.standing(&place)?;
            let gone = rustix::fs::unlinkat(&place.parent, place.spelled(), AtFlags::REMOVEDIR);
            Done::at(&place.resolved, &place.rule, gone)
        })
    }

    fn unlink(&self, named: &Named) -> Answer {
        self.change("unlink", &named.path, |tree| {
            let place = tree.place(named, Right::Write, Errno::EISDIR)?;
            tree.standing(&place)?;
            let gone = rustix::fs::unlinkat(&place.parent, place.spelled(), AtFlags::empty());
            Done::at(&place.resolved, &place.rule, gone)
        })
    }

    fn rename(&self, old: &Named, new: &Named, flags: u32) -> Answer {
        let Some(flags) = RenameFlags::from_bits(flags) else { return Answer::Errno(Errno::EINVAL) };
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if flags.contains(RenameFlags::WHITEOUT) || (exchange && flags.contains(RenameFlags::NOREPLACE)) {
            return Answer::Errno(Errno::EINVAL);
        }
        if !self.are_together(&old.path, &new.path) {
            return Answer::Errno(Errno::EXDEV);
        }
        self.change_at("rename", &old.path, |tree, refused_at| {
            let from = tree.place(old, Right::Write, Errno::EBUSY)?;
            *refused_at = &new.path;
            let to = tree.place(new, Right::Write, Errno::EBUSY)?;
            *refused_at = &old.path;
            let Some(moves) = tree.standing(&from)? else {
                return Err(Refused::failed(Errno::ENOENT, Some(&from.resolved), from.rule));
            };
            *refused_at = &new.path;
            let replaced = tree.standing(&to)?;
            if moves.kind() == FileType::Symlink {
                tree.may_be_link(&to.resolved)?;
            }
            tree.may_move(&to.resolved)?;
            *refused_at = &old.path;
            if exchange && replaced.as_ref().is_some_and(|replaced| replaced.kind() == FileType::Symlink) {
                tree.may_be_link(&from.resolved)?;
            }
            tree.may_move(&from.resolved)?;
            tree.may_come_to(&from.resolved, &to.resolved)?;
            if exchange {
                tree.may_come_to(&to.resolved, &from.resolved)?;
            }
            let links = tree.links;
            let (one, other) = (&from.resolved, &to.resolved);
            if !links.may_move(one, other) || (exchange && !links.may_move(other, one)) {
                return Err(Refused::new(Errno::EMLINK, Some(one), "too many second names"));
            }
            // Two names of one file both stay: rename(2).
            let same = |replaced: &Judged| object(&replaced.stat) == object(&moves.stat);
            let stays = replaced.as_ref().is_some_and(same);
            let moved =
                rustix::fs::renameat_with(&from.parent, from.spelled(), &to.parent, to.spelled(), flags);
            if moved.is_ok() && !stays {
                let folders = &self.brokered.folders;
                if exchange {
                    folders.exchanged(one, other);
                    links.exchanged(one, other);
                } else {
                    folders.moved(one, other);
                    links.moved(one, other);
                }
            }
            Ok(Done::at(&from.resolved, &from.rule, moved)?.also_at(new, to))
        })
    }

    fn link(&self, old: &Named, new: &Named) -> Answer {
        if !self.are_together(&old.path, &new.path) {
            return Answer::Errno(Errno::EXDEV);
        }
        self.change_at("link", &old.path, |tree, refused_at| {
            let judged = tree.judge(old, Right::Write)?;
            *refused_at = &new.path;
            let to = tree.place(new, Right::Write, Errno::EEXIST)?;
            *refused_at = &old.path;
            tree.may_come_to(&judged.resolved, &to.resolved)?;
            if judged.kind() == FileType::Directory {
                return Err(Refused::new(Errno::EPERM, Some(&judged.resolved), "a folder has one name"));
            }
            if judged.kind() == FileType::Symlink {
                *refused_at = &new.path;
                tree.may_be_link(&to.resolved)?;
                *refused_at = &old.path;
            }
            if !tree.links.add(&judged.stat, &judged.resolved, &to.resolved) {
                return Err(Refused::new(Errno::EMLINK, Some(&judged.resolved), "too many second names"));
            }
            // By way of the handle, so that it is the object that was judged; the link that is followed is the handle's.
            let flags = AtFlags::SYMLINK_FOLLOW;
            let linked = rustix::fs::linkat(CWD, by_handle(&judged.handle), &to.parent, to.spelled(), flags);
            Ok(Done::at(&judged.resolved, &judged.rule, linked)?.also_at(new, to))
        })
    }

    fn symlink(&self, target: &[u8], named: &Named) -> Answer {
        if target.is_empty() {
            return Answer::Errno(Errno::ENOENT);
        }
        self.change("symlink", &named.path, |tree| {
            let place = tree.place(named, Right::Write, Errno::EEXIST)?;
            tree.may_be_link(&place.resolved)?;
            let made = rustix::fs::symlinkat(target, &place.parent, place.spelled());
            Done::at(&place.resolved, &place.rule, made)
        })
    }

    fn truncate(&self, named: &Named, length: i64) -> Answer {
        if length < 0 {
            return Answer::Errno(Errno::EINVAL);
        }
        let most = self.instance.subject.limits().max_file_size_mb.map(|mb| mb << 20);
        if most.is_some_and(|most| length.cast_unsigned() > most) {
            return Answer::Errno(Errno::EFBIG);
        }
        self.change("truncate", &named.path, |tree| {
            let judged = tree.judge(named, Right::Write)?;
            let refuse = |errno, rule: &str| Err(Refused::new(errno, Some(&judged.resolved), rule));
            match judged.kind() {
                FileType::RegularFile if judged.runs_with_rights() => {
                    return refuse(Errno::EACCES, "what runs with rights of its own is not written");
                }
                FileType::RegularFile => {}
                FileType::Directory => return refuse(Errno::EISDIR, "it is a folder"),
                _ => return refuse(Errno::EINVAL, "it is no file"),
            }
            let cut = nix::unistd::truncate(&by_handle(&judged.handle), length);
            let rule = judged.rule.clone();
            Ok(Done { resolved: judged.resolved, rule, result: cut, also: None })
        })
    }

    /// Does something to the object that `named` leads to, if it may be written.
    fn alter(
        &self,
        action: &'static str,
        named: &Named,
        work: impl FnOnce(&Judged) -> rustix::io::Result<()>,
    ) -> Answer {
        self.change(action, &named.path, |tree| {
            let judged = tree.judge(named, Right::Write)?;
            // Who may go into a folder decides about what is in it.
            if judged.kind() == FileType::Directory && tree.protects_below(&judged.resolved) {
                return Err(Refused::new(Errno::EACCES, Some(&judged.resolved), protected::RULE));
            }
            Done::at(&judged.resolved, &judged.rule, work(&judged))
        })
    }

    pub(super) fn chmod(&self, named: &Named, mode: u32) -> Answer {
        self.alter("chmod", named, |judged| {
            let kept = judged.stat.st_mode & mode & RIGHTS_OF_ITS_OWN;
            let mode = Mode::from_raw_mode(mode & 0o777 | kept);
            rustix::fs::chmod(by_handle(&judged.handle), mode)
        })
    }

    /// A file stays its owner's; only what changes nothing is done.
    pub(super) fn chown(&self, named: &Named, user: u32, group: u32) -> Answer {
        self.alter("chown", named, |judged| {
            let stays = |asked: u32, now: u32| asked == u32::MAX || asked == now;
            let stays = stays(user, judged.stat.st_uid) && stays(group, judged.stat.st_gid);
            if stays { Ok(()) } else { Err(rustix::io::Errno::PERM) }
        })
    }

    pub(super) fn set_times(&self, named: &Named, times: &Timestamps) -> Answer {
        self.alter("utimensat", named, |judged| {
            rustix::fs::utimensat(&judged.handle, "", times, AtFlags::EMPTY_PATH)
        })
    }

    /// The times at `address`: of the last access, and of the last change.
    pub(super) fn times(&self, address: u64, written: Times) -> Result<Timestamps, Errno> {
        let time = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
        if address == 0 {
            let now = time(0, libc::UTIME_NOW);
            return Ok(Timestamps { last_access: now, last_modification: now });
        }
        let word = |index: u64| {
            let at = address.checked_add(8 * index).ok_or(Errno::EFAULT)?;
            self.read_u64(at).map(u64::cast_signed)
        };
        let (last_access, last_modification) = match written {
            Times::Nanoseconds => (time(word(0)?, word(1)?), time(word(2)?, word(3)?)),
            #[cfg(target_arch = "x86_64")]
            Times::Seconds => (time(word(0)?, 0), time(word(1)?, 0)),
            #[cfg(target_arch = "x86_64")]
            Times::Microseconds => {
                let nanos = |micros: i64| {
                    let proper = (0..1_000_000).contains(&micros);
                    if proper { Ok(micros * 1000) } else { Err(Errno::EINVAL) }
                };
                (time(word(0)?, nanos(word(1)?)?), time(word(2)?, nanos(word(3)?)?))
            }
        };
        Ok(Timestamps { last_access, last_modification })
    }
}

/// Takes the host's own umask off this thread, which is one of the broker's: what a plugin asks for is cut by the plugin's.
/// Where that is not to be had, the host's cuts too.
fn without_umask() {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if !DONE.replace(true) && unshare(CloneFlags::CLONE_FS).is_ok() {
        rustix::process::umask(Mode::empty());
    }
}
