//! Calls that the broker serves nobody, and hears only so that the attempt is an event.
//!
//! Runs in the host, on a worker. Owns which errno each gets.

use nix::errno::Errno;

use super::requests::{Answer, Attempt, Request};

/// Refuses the call, with an event that names what was tried.
pub(super) fn serve(request: &Request<'_>) -> Answer {
    let Some(known) = REFUSED.iter().find(|refused| refused.nr == request.nr()) else {
        return Answer::Errno(Errno::EPERM);
    };
    let action = known.name.trim_start_matches("SYS_");
    // Only for the record: what the path says decides nothing.
    let object = known.path.and_then(|index| {
        let heard = request.instance.subject.is_heard();
        heard.then(|| request.read_path(request.arg(index)).ok())?
    });
    let object = object.unwrap_or_default();
    let attempt = Attempt { permission: known.permission, action, object: &object };
    request.event(attempt, None, false, "not served by this version");
    Answer::Errno(known.errno)
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
    SYS_mknodat: "file-write", EACCES, path 1;
    SYS_flock: "file-write", EPERM;
    SYS_fallocate: "file-write", EOPNOTSUPP;
    SYS_close_range: "system", EPERM;
    SYS_clock_gettime: "system", EPERM;
    SYS_clock_getres: "system", EPERM;
    SYS_clock_nanosleep: "system", EPERM;
    SYS_timer_create: "system", EPERM;
    SYS_setxattr: "file-write", EPERM, path 0;
    SYS_fsetxattr: "file-write", EPERM;
    SYS_socketpair: "network", EACCES;
    SYS_getsockopt: "network", ENOPROTOOPT;
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
    #[cfg(target_arch = "x86_64")] SYS_mknod: "file-write", EACCES, path 0;
    #[cfg(target_arch = "x86_64")] SYS_fork: "process", EPERM;
    #[cfg(target_arch = "x86_64")] SYS_vfork: "process", EPERM;
}
