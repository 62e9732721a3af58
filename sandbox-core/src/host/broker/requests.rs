//! What becomes of one notified system call.
//!
//! Runs in the host, on a worker. Owns which calls the broker serves; whatever it does not is refused, with an event.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use rustix::fs::{FileType, Mode, OFlags};

use super::files::{Refused, Tree, stat_bytes};
use super::{base, memory};
use crate::host::events::{EventKind, escape};
use crate::host::instance::{Brokered, Instance};
use crate::shared::policy::Grants;
use crate::shared::sys::seccomp::{self, Notification};

/// What the caller gets.
enum Answer {
    Value(i64),
    Errno(Errno),
    File { file: OwnedFd, cloexec: bool },
}

impl From<Result<i64, Errno>> for Answer {
    fn from(result: Result<i64, Errno>) -> Self {
        result.map_or_else(Self::Errno, Self::Value)
    }
}

/// Serves one request.
pub(crate) fn serve(instance: &Instance, brokered: &Brokered, notification: &Notification) {
    let answer = Request { instance, brokered, notification }.answer();
    let listener = brokered.listener.as_fd();
    // An error here is a caller that has ended meanwhile: there is nobody left to be answered.
    let id = notification.id;
    let _ = match answer {
        Answer::Value(value) => seccomp::answer(listener, id, Ok(value)),
        Answer::Errno(errno) => seccomp::answer(listener, id, Err(errno)),
        Answer::File { file, cloexec } => {
            match seccomp::answer_with_fd(listener, id, file.as_fd(), cloexec) {
                Ok(_) => Ok(()),
                // EMFILE: the plugin is at its limit.
                Err(errno) => seccomp::answer(listener, id, Err(errno)),
            }
        }
    };
}

struct Request<'a> {
    instance: &'a Instance,
    brokered: &'a Brokered,
    notification: &'a Notification,
}

/// A path as a plugin names it.
struct Named {
    /// Absolute.
    path: Vec<u8>,
}

impl Request<'_> {
    fn arg(&self, index: usize) -> u64 {
        self.notification.args.get(index).copied().unwrap_or_default()
    }

    /// An argument of which the kernel reads the lower half.
    fn int(&self, index: usize) -> u32 {
        self.arg(index) as u32
    }

    fn answer(&self) -> Answer {
        match self.notification.nr {
            libc::SYS_openat => self.open(self.named(0, 1), self.int(2)),
            libc::SYS_openat2 => match self.how() {
                Ok(flags) => self.open(self.named(0, 1), flags),
                Err(errno) => Answer::Errno(errno),
            },
            libc::SYS_newfstatat => {
                let follow = self.int(3) & libc::AT_SYMLINK_NOFOLLOW.cast_unsigned() == 0;
                self.stat(self.named(0, 1), follow, self.arg(2))
            }
            libc::SYS_faccessat | libc::SYS_faccessat2 => self.access(self.named(0, 1), self.int(2)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => self.open(self.named_here(0), self.int(1)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => self
                .open(self.named_here(0), (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC).cast_unsigned()),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_stat => self.stat(self.named_here(0), true, self.arg(1)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lstat => self.stat(self.named_here(0), false, self.arg(1)),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_access => self.access(self.named_here(0), self.int(1)),
            libc::SYS_uname => {
                let own = self.instance.subject.holds_named("system");
                self.write(self.arg(0), &base::utsname(own))
            }
            libc::SYS_sysinfo => {
                self.write(self.arg(0), &base::sysinfo(self.instance.subject.limits().max_memory_mb))
            }
            nr => self.refuse(nr),
        }
    }

    // ---- paths

    fn named(&self, folder: usize, path: usize) -> Result<Named, Errno> {
        self.path_at(self.arg(path), Some(self.int(folder).cast_signed()))
    }

    #[cfg(target_arch = "x86_64")]
    fn named_here(&self, path: usize) -> Result<Named, Errno> {
        self.path_at(self.arg(path), None)
    }

    fn path_at(&self, address: u64, folder: Option<i32>) -> Result<Named, Errno> {
        let memory = &self.brokered.memory;
        let path = memory::read_path(memory, address)?;
        // What was read was read while the caller waited.
        if !seccomp::still_waits(self.brokered.listener.as_fd(), self.notification.id) {
            return Err(Errno::EINTR);
        }
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
        // As the grants are at this moment; the lock is not held while the file system works.
        let grants = self.instance.subject.policy().read(Grants::clone);
        work(&Tree::new(self.brokered.tree.as_fd()), &grants)
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
        match base::find(&named.path) {
            Some(base::Found::Device) => return open_device(&named.path, flags),
            Some(base::Found::Text(text)) if !writes => {
                return memory_file(&text).map_or_else(Answer::Errno, |file| Answer::File { file, cloexec });
            }
            _ => {}
        }
        if writes {
            self.event(
                "file-write",
                "open",
                &named.path,
                None,
                false,
                "writing is not served by this version",
            );
            return Answer::Errno(Errno::EACCES);
        }
        if flags & libc::O_PATH != 0 {
            self.event(
                "file-read",
                "open",
                &named.path,
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
                    return match judged.open() {
                        Ok(file) => Ok((file, judged.resolved, judged.rule)),
                        Err(errno) => Err(Refused {
                            errno,
                            resolved: Some(judged.resolved),
                            rule: "the host's user may not".into(),
                        }),
                    };
                }
                FileType::Symlink => Errno::ELOOP,
                _ => Errno::EACCES,
            };
            Err(Refused {
                errno,
                resolved: Some(judged.resolved),
                rule: "only ordinary files are opened".into(),
            })
        });
        match opened {
            Ok((file, resolved, rule)) => {
                self.event("file-read", "open", &named.path, Some(&resolved), true, &rule);
                Answer::File { file, cloexec }
            }
            Err(refused) => self.refused("open", &named, &refused),
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
        match self.with_tree(|tree, grants| tree.judge(&named.path, follow, grants)) {
            Ok(judged) => {
                self.event("file-read", "stat", &named.path, Some(&judged.resolved), true, &judged.rule);
                self.write(address, &stat_bytes(&judged.stat))
            }
            Err(refused) => self.refused("stat", &named, &refused),
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
        match self.with_tree(|tree, grants| tree.judge(&named.path, true, grants)) {
            Ok(judged) => {
                let only_read = mode & (libc::W_OK | libc::X_OK).cast_unsigned() == 0;
                let readable = mode == 0 || judged.kind() == FileType::Directory || judged.open().is_ok();
                let granted = only_read && readable;
                self.event("file-read", "access", &named.path, Some(&judged.resolved), granted, &judged.rule);
                if granted { Answer::Value(0) } else { Answer::Errno(Errno::EACCES) }
            }
            Err(refused) => self.refused("access", &named, &refused),
        }
    }

    fn refused(&self, action: &'static str, named: &Named, refused: &Refused) -> Answer {
        let resolved = refused.resolved.as_deref();
        self.event("file-read", action, &named.path, resolved, false, &refused.rule);
        Answer::Errno(refused.errno)
    }

    // ---- the rest

    fn write(&self, address: u64, bytes: &[u8]) -> Answer {
        if !seccomp::still_waits(self.brokered.listener.as_fd(), self.notification.id) {
            return Answer::Errno(Errno::EINTR);
        }
        memory::write(&self.brokered.memory, self.notification.tid, address, bytes).map(|()| 0).into()
    }

    /// What this version serves nobody.
    fn refuse(&self, nr: i64) -> Answer {
        let Some(known) = REFUSED.iter().find(|refused| refused.nr == nr) else {
            return Answer::Errno(Errno::EPERM);
        };
        let action = known.name.trim_start_matches("SYS_");
        // Only for the record: what the path says decides nothing.
        let object = known.path.and_then(|index| {
            let heard = self.instance.subject.is_heard();
            heard.then(|| memory::read_path(&self.brokered.memory, self.arg(index)).ok())?
        });
        let object = object.unwrap_or_default();
        self.event(known.permission, action, &object, None, false, "not served by this version");
        Answer::Errno(known.errno)
    }

    fn event(
        &self,
        permission: &'static str,
        action: &'static str,
        object: &[u8],
        resolved: Option<&std::path::Path>,
        granted: bool,
        rule: &str,
    ) {
        self.instance.subject.publish(|| EventKind::Access {
            permission,
            action,
            object: escape(object),
            resolved: resolved.map(|path| escape(path.as_os_str().as_encoded_bytes())),
            granted,
            rule: rule.to_owned(),
        });
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
fn memory_file(text: &str) -> Result<OwnedFd, Errno> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let errno = |errno: rustix::io::Errno| Errno::from_raw(errno.raw_os_error());
    let file = memfd_create("base", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(errno)?;
    rustix::io::pwrite(&file, text.as_bytes(), 0).map_err(errno)?;
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
        .map_err(errno)?;
    // Without the right to write, so that it cannot be asked for through this descriptor either.
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    rustix::fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(errno)
}

struct RefusedCall {
    nr: i64,
    name: &'static str,
    permission: &'static str,
    errno: Errno,
    /// The argument that is a path, if one is.
    path: Option<usize>,
}

macro_rules! refused {
    ($($(#[$cfg:meta])* $call:ident: $permission:literal, $errno:ident $(, path $path:literal)?;)*) => {
        /// Calls that are notified so that somebody hears of the attempt.
        const REFUSED: &[RefusedCall] = &[$($(#[$cfg])* RefusedCall {
            nr: libc::$call, name: stringify!($call), permission: $permission, errno: Errno::$errno,
            path: [$($path)?].first().copied(),
        }),*];
    };
}

refused! {
    SYS_readlinkat: "file-read", EACCES, path 1;
    SYS_statfs: "file-read", EACCES, path 0;
    SYS_chdir: "file-read", EACCES, path 0;
    SYS_fchdir: "file-read", EACCES;
    SYS_mkdirat: "file-write", EACCES, path 1;
    SYS_unlinkat: "file-write", EACCES, path 1;
    SYS_renameat2: "file-write", EACCES, path 1;
    SYS_linkat: "file-write", EACCES, path 1;
    SYS_symlinkat: "file-write", EACCES, path 2;
    SYS_truncate: "file-write", EACCES, path 0;
    SYS_fchmodat: "file-write", EACCES, path 1;
    SYS_fchownat: "file-write", EACCES, path 1;
    SYS_utimensat: "file-write", EACCES, path 1;
    SYS_mknodat: "file-write", EACCES, path 1;
    SYS_fchmod: "file-write", EPERM;
    SYS_fchown: "file-write", EPERM;
    SYS_flock: "file-write", EPERM;
    SYS_fsync: "file-write", EPERM;
    SYS_fdatasync: "file-write", EPERM;
    SYS_close_range: "system", EPERM;
    SYS_clock_gettime: "system", EPERM;
    SYS_clock_getres: "system", EPERM;
    SYS_clock_nanosleep: "system", EPERM;
    SYS_timer_create: "system", EPERM;
    SYS_setxattr: "file-write", EPERM, path 0;
    SYS_fsetxattr: "file-write", EPERM;
    SYS_socket: "network", EACCES;
    SYS_socketpair: "network", EACCES;
    SYS_connect: "network", EACCES;
    SYS_bind: "network", EACCES;
    SYS_listen: "network", EACCES;
    SYS_accept4: "network", EACCES;
    SYS_sendto: "network", EACCES;
    SYS_sendmsg: "network", EACCES;
    SYS_recvfrom: "network", EACCES;
    SYS_recvmsg: "network", EACCES;
    SYS_execve: "process", EACCES, path 0;
    SYS_execveat: "process", EACCES, path 1;
    SYS_clone: "process", EPERM;
    SYS_kill: "process", EPERM;
    SYS_tkill: "process", EPERM;
    SYS_tgkill: "process", EPERM;
    SYS_rt_sigqueueinfo: "process", EPERM;
    SYS_rt_tgsigqueueinfo: "process", EPERM;
    SYS_pidfd_open: "process", EPERM;
    SYS_pidfd_send_signal: "process", EPERM;
    SYS_setsid: "process", EPERM;
    SYS_setpgid: "process", EPERM;
    SYS_setpriority: "process", EPERM;
    SYS_sched_setscheduler: "process", EPERM;
    SYS_sched_setparam: "process", EPERM;
    SYS_sched_setaffinity: "process", EPERM;
    SYS_setuid: "system", EPERM;
    SYS_setgid: "system", EPERM;
    SYS_setresuid: "system", EPERM;
    SYS_setresgid: "system", EPERM;
    SYS_setgroups: "system", EPERM;
    SYS_capset: "system", EPERM;
    SYS_setrlimit: "system", EPERM;
    SYS_prlimit64: "system", EPERM;
    SYS_prctl: "system", EPERM;
    SYS_memfd_create: "system", EPERM;
    SYS_shmget: "system", EPERM;
    SYS_mmap: "system", EPERM;
    SYS_mprotect: "system", EACCES;
    SYS_fcntl: "system", EPERM;
    SYS_ioctl: "system", ENOTTY;
    SYS_inotify_init1: "system", EPERM;
    #[cfg(target_arch = "x86_64")] SYS_readlink: "file-read", EACCES, path 0;
    #[cfg(target_arch = "x86_64")] SYS_mkdir: "file-write", EACCES, path 0;
    #[cfg(target_arch = "x86_64")] SYS_rmdir: "file-write", EACCES, path 0;
    #[cfg(target_arch = "x86_64")] SYS_unlink: "file-write", EACCES, path 0;
    #[cfg(target_arch = "x86_64")] SYS_rename: "file-write", EACCES, path 0;
    #[cfg(target_arch = "x86_64")] SYS_link: "file-write", EACCES, path 0;
    #[cfg(target_arch = "x86_64")] SYS_symlink: "file-write", EACCES, path 1;
    #[cfg(target_arch = "x86_64")] SYS_chmod: "file-write", EACCES, path 0;
    #[cfg(target_arch = "x86_64")] SYS_chown: "file-write", EACCES, path 0;
    #[cfg(target_arch = "x86_64")] SYS_mknod: "file-write", EACCES, path 0;
    #[cfg(target_arch = "x86_64")] SYS_accept: "network", EACCES;
    #[cfg(target_arch = "x86_64")] SYS_fork: "process", EPERM;
    #[cfg(target_arch = "x86_64")] SYS_vfork: "process", EPERM;
}
