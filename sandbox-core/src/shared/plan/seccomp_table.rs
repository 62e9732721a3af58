//! What becomes of each system call, as one table.
//!
//! Pure. Owns the verdict on every call: what is not here answers ENOSYS, so that the next C library's next call falls back.
//! docs/syscalls.md is this table in words; a test fails when it is out of date.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::seccomp_conditions::Holds::{Has, IntNoneOf, Is, Lacks, Masked, NoneOf};
use super::seccomp_conditions::{Condition, Holds, Value, cpu_clock, named};

/// What the filter must know of the place that it will stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// Whether the helper sees an empty tree. Without one, a stat by descriptor could name any of the host's files.
    pub(crate) empty_root: bool,
}

/// What becomes of a system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes ahead.
    Allow,
    /// It waits for the broker.
    Ask,
    /// It waits for the broker if all conditions of one of the lists hold, and goes ahead otherwise.
    AskIf(Vec<Vec<Condition>>),
    /// The process ends: nobody tries this by accident. The call waits for the host, which is told which one it was, and ends
    /// the process instead of answering.
    Kill,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// Its name, as `SYS_read`.
    pub(super) call: &'static str,
    pub(super) nr: i64,
    pub(super) verdict: Verdict,
    /// Why, in a few words.
    pub(super) why: &'static str,
}

impl Row {
    /// The call's name as people know it.
    pub(super) fn name(&self) -> &'static str {
        self.call.trim_start_matches("SYS_")
    }
}

macro_rules! calls {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), libc::$name)),*] };
}

pub(super) const THREAD_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64; // what glibc's pthread_create(3) asks for
const THREAD_FLAGS_MUSL: u64 = THREAD_FLAGS | libc::CLONE_DETACHED as u64;

/// prctl(2) options that only tell, or only name things; to become undumpable, PR_SET_DUMPABLE has its own condition.
const PRCTL_HARMLESS: [Value; 6] =
    named![PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE, PR_SET_VMA, PR_GET_NO_NEW_PRIVS, PR_SET_DUMPABLE];
/// fcntl(2) commands that stay inside the process; and locks of the process's own, which others see and wait for, but which
/// nobody else can take for it. The other kinds of locks are the broker's to refuse.
const FCNTL_HARMLESS: [Value; 11] = named![
    F_DUPFD,
    F_DUPFD_CLOEXEC,
    F_GETFD,
    F_SETFD,
    F_GETFL,
    F_SETFL,
    F_GETPIPE_SZ,
    F_GET_SEALS,
    F_GETLK,
    F_SETLK,
    F_SETLKW,
];
const IOCTL_HARMLESS: [Value; 6] = named![FIONBIO, FIOCLEX, FIONCLEX, FIONREAD, TCGETS, TIOCGWINSZ];

type Levels<'a> = [(Value, &'a [Value]); 4];

/// The four levels of options that sockets of ours have.
const LEVELS: [Value; 4] = named![SOL_SOCKET, IPPROTO_TCP, IPPROTO_IP, IPPROTO_IPV6];

/// setsockopt(2): how a socket sends and waits, and nothing of where to. What is not here the host does, or refuses.
const OPTIONS_TO_SET: Levels<'_> = [
    (
        LEVELS[0],
        &named![
            SO_REUSEADDR,
            SO_KEEPALIVE,
            SO_RCVTIMEO,
            SO_RCVTIMEO_NEW,
            SO_SNDBUF,
            SO_RCVBUF,
            SO_OOBINLINE,
            SO_RCVLOWAT,
        ],
    ),
    (
        LEVELS[1],
        &named![
            TCP_NODELAY,
            TCP_CORK,
            TCP_KEEPIDLE,
            TCP_KEEPINTVL,
            TCP_KEEPCNT,
            TCP_QUICKACK,
            TCP_USER_TIMEOUT,
        ],
    ),
    (LEVELS[2], &named![IP_TOS, IP_TTL]),
    (LEVELS[3], &named![IPV6_V6ONLY, IPV6_TCLASS, IPV6_UNICAST_HOPS]),
];

/// getsockopt(2): those, and what a socket is.
const OPTIONS_TO_READ: Levels<'_> = [
    (
        LEVELS[0],
        &named![
            SO_REUSEADDR,
            SO_KEEPALIVE,
            SO_RCVTIMEO,
            SO_RCVTIMEO_NEW,
            SO_SNDTIMEO,
            SO_SNDTIMEO_NEW,
            SO_SNDBUF,
            SO_RCVBUF,
            SO_OOBINLINE,
            SO_RCVLOWAT,
            SO_LINGER,
            SO_BROADCAST,
            SO_ERROR,
            SO_TYPE,
            SO_DOMAIN,
            SO_PROTOCOL,
            SO_ACCEPTCONN,
        ],
    ),
    (
        LEVELS[1],
        &named![
            TCP_NODELAY,
            TCP_CORK,
            TCP_KEEPIDLE,
            TCP_KEEPINTVL,
            TCP_KEEPCNT,
            TCP_QUICKACK,
            TCP_USER_TIMEOUT,
            TCP_MAXSEG,
            TCP_INFO,
        ],
    ),
    (LEVELS[2], &named![IP_TOS, IP_TTL, IP_MTU]),
    (LEVELS[3], &named![IPV6_V6ONLY, IPV6_TCLASS, IPV6_UNICAST_HOPS, IPV6_MTU]),
];

/// Holds if argument `argument` does.
fn arg(argument: u8, holds: Holds) -> Vec<Condition> {
    vec![Condition::new(argument, holds)]
}

/// The conditions of which one holds if arguments 1 and 2 are none of these levels' options.
fn none_of_options(levels: &Levels<'_>) -> Vec<Vec<Condition>> {
    let other_level = arg(1, NoneOf(levels.iter().map(|(level, _)| *level).collect()));
    let other_option = |(level, options): &(Value, &[Value])| {
        vec![Condition::new(1, Is(*level)), Condition::new(2, NoneOf(options.to_vec()))]
    };
    std::iter::once(other_level).chain(levels.iter().map(other_option)).collect()
}

/// Holds if argument 0 is the CPU clock of another process, which the kernel shows to everybody: clock_getcpuclockid(3).
/// It is a negative int, so that the upper half does not count; those of threads are only shown to their own process.
fn clock_of_another() -> Vec<Condition> {
    const NEGATIVE_NOT_A_THREADS: u64 = 0x8000_0004;
    let callers_own = (0..3).map(|which| Value::Number(cpu_clock(0, which).into()));
    let own = callers_own.chain((0..3).map(Value::OwnClock)).collect();
    vec![Condition::new(0, Masked(NEGATIVE_NOT_A_THREADS, 0x8000_0000)), Condition::new(0, IntNoneOf(own))]
}

/// The name of this call, if nobody makes it and lives.
pub(crate) fn forbidden(nr: i64) -> Option<&'static str> {
    // Asked for each request that the broker serves.
    static FORBIDDEN: LazyLock<BTreeMap<i64, &'static str>> = LazyLock::new(|| {
        let all = table(Surroundings { empty_root: true }).into_iter();
        all.filter(|row| row.verdict == Verdict::Kill).map(|row| (row.nr, row.name())).collect()
    });
    FORBIDDEN.get(&nr).copied()
}

/// Every call that is known, each once.
pub(super) fn table(around: Surroundings) -> Vec<Row> {
    use Verdict::{Allow, Ask, AskIf, Kill};
    let mut table = Vec::new();
    let mut rows = |calls: &[(&'static str, libc::c_long)], verdict: Verdict, why: &'static str| {
        let rows = calls.iter().map(|(call, nr)| Row { call, nr: *nr, verdict: verdict.clone(), why });
        table.extend(rows);
    };

    rows(
        calls![
            SYS_read,
            SYS_write,
            SYS_readv,
            SYS_writev,
            SYS_pread64,
            SYS_pwrite64,
            SYS_preadv,
            SYS_pwritev,
            SYS_lseek,
            SYS_close,
            SYS_fstat,
            SYS_dup,
            SYS_dup3,
            SYS_pipe2,
            SYS_ftruncate,
            SYS_fsync,
            SYS_fdatasync,
            SYS_sync_file_range,
            SYS_fstatfs,
            SYS_fadvise64,
            SYS_getdents64,
            SYS_recvfrom,
            SYS_recvmsg,
            SYS_recvmmsg,
            SYS_shutdown,
            SYS_getsockname,
            SYS_getpeername,
            SYS_eventfd2,
            SYS_epoll_create1,
            SYS_epoll_ctl,
            SYS_epoll_pwait,
            SYS_ppoll,
            SYS_pselect6,
            SYS_timerfd_create,
            SYS_timerfd_settime,
            SYS_timerfd_gettime,
            SYS_signalfd4,
        ],
        Allow,
        "descriptors that are held already, or lead nowhere",
    );
    #[cfg(target_arch = "x86_64")]
    rows(
        calls![SYS_poll, SYS_select, SYS_epoll_create, SYS_epoll_wait, SYS_pipe, SYS_eventfd, SYS_dup2,],
        Allow,
        "descriptors that are held already, or lead nowhere",
    );
    rows(
        calls![SYS_munmap, SYS_mremap, SYS_madvise, SYS_mincore, SYS_msync, SYS_brk, SYS_mlock, SYS_munlock,],
        Allow,
        "memory of its own; the limits count it",
    );
    rows(
        calls![
            SYS_rt_sigaction,
            SYS_rt_sigprocmask,
            SYS_rt_sigreturn,
            SYS_rt_sigpending,
            SYS_rt_sigtimedwait,
            SYS_rt_sigsuspend,
            SYS_sigaltstack,
            SYS_futex,
            SYS_futex_waitv,
            SYS_set_robust_list,
            SYS_rseq,
            SYS_membarrier,
            SYS_set_tid_address,
            SYS_sched_yield,
            SYS_sched_getaffinity,
            SYS_sched_getparam,
            SYS_sched_getscheduler,
            SYS_sched_get_priority_max,
            SYS_sched_get_priority_min,
            SYS_getcpu,
            SYS_wait4,
            SYS_waitid,
            SYS_exit,
            SYS_exit_group,
            SYS_restart_syscall,
        ],
        Allow,
        "threads and signals of its own",
    );
    #[cfg(target_arch = "x86_64")]
    rows(calls![SYS_pause,], Allow, "threads and signals of its own");
    rows(
        calls![
            SYS_nanosleep,
            SYS_gettimeofday,
            SYS_times,
            SYS_getitimer,
            SYS_setitimer,
            SYS_timer_settime,
            SYS_timer_gettime,
            SYS_timer_delete,
            SYS_timer_getoverrun,
        ],
        Allow,
        "time, and timers of its own",
    );
    #[cfg(target_arch = "x86_64")]
    rows(calls![SYS_alarm, SYS_time,], Allow, "time, and timers of its own");
    rows(
        calls![
            SYS_getrandom,
            SYS_getpid,
            SYS_getppid,
            SYS_gettid,
            SYS_getuid,
            SYS_geteuid,
            SYS_getgid,
            SYS_getegid,
            SYS_getresuid,
            SYS_getresgid,
            SYS_getgroups,
            SYS_getpgid,
            SYS_getsid,
            SYS_getpriority,
            SYS_getrusage,
            SYS_capget,
            SYS_umask,
        ],
        Allow,
        "what it is, as its own namespaces and ids show it",
    );
    #[cfg(target_arch = "x86_64")]
    rows(calls![SYS_getpgrp, SYS_getrlimit,], Allow, "what it is, as its own namespaces and ids show it");

    // What names something outside: the broker serves it, or refuses it and keeps a record.
    rows(
        calls![
            SYS_openat,
            SYS_openat2,
            SYS_faccessat,
            SYS_faccessat2,
            SYS_readlinkat,
            SYS_getcwd,
            SYS_chdir,
            SYS_fchdir,
            SYS_statfs,
            SYS_mkdirat,
            SYS_unlinkat,
            SYS_renameat,
            SYS_renameat2,
            SYS_linkat,
            SYS_symlinkat,
            SYS_truncate,
            SYS_fchmodat,
            SYS_fchownat,
            SYS_utimensat,
            SYS_mknodat,
            SYS_fchmod,
            SYS_fchown,
            SYS_flock,
            SYS_setxattr,
            SYS_fsetxattr,
            SYS_inotify_init1,
        ],
        Ask,
        "files: file-read, file-write",
    );
    #[cfg(target_arch = "x86_64")]
    rows(
        calls![
            SYS_open,
            SYS_creat,
            SYS_stat,
            SYS_lstat,
            SYS_access,
            SYS_readlink,
            SYS_mkdir,
            SYS_rmdir,
            SYS_unlink,
            SYS_rename,
            SYS_link,
            SYS_symlink,
            SYS_chmod,
            SYS_chown,
            SYS_lchown,
            SYS_utime,
            SYS_utimes,
            SYS_futimesat,
            SYS_mknod,
        ],
        Ask,
        "files: file-read, file-write",
    );
    rows(
        calls![SYS_socket, SYS_connect, SYS_bind, SYS_listen, SYS_accept4, SYS_sendmsg, SYS_sendmmsg,],
        Ask,
        "sockets: network",
    );
    #[cfg(target_arch = "x86_64")]
    rows(calls![SYS_accept,], Ask, "sockets: network");
    rows(calls![SYS_execve, SYS_execveat,], Ask, "programs: process");
    #[cfg(target_arch = "x86_64")]
    rows(calls![SYS_fork, SYS_vfork,], Ask, "programs: process");
    rows(
        calls![SYS_uname, SYS_sysinfo,],
        Ask,
        "the machine; without system it is told as little as a C library needs",
    );
    rows(
        calls![
            SYS_memfd_create,
            SYS_shmget,
            SYS_tkill,
            SYS_rt_sigqueueinfo,
            SYS_rt_tgsigqueueinfo,
            SYS_pidfd_open,
            SYS_pidfd_send_signal,
            SYS_setuid,
            SYS_setgid,
            SYS_setresuid,
            SYS_setresgid,
            SYS_setgroups,
            SYS_setsid,
            SYS_setpgid,
            SYS_capset,
            SYS_setrlimit,
            SYS_setpriority,
            SYS_sched_setscheduler,
            SYS_sched_setparam,
        ],
        Ask,
        "refused, and told: programs try it with no harm in mind",
    );

    // Bytes go to the peer that the host has connected a socket to; who names another is asked about.
    rows(
        calls![SYS_sendto],
        AskIf(vec![arg(4, NoneOf(vec![NUL]))]),
        "an address names another peer: network",
    );
    let unix = named![AF_UNIX].to_vec();
    rows(calls![SYS_socketpair], AskIf(vec![arg(0, NoneOf(unix))]), "a pair of Unix sockets leads nowhere");
    let other_way = "how a socket waits is its own; where it leads is not";
    rows(calls![SYS_setsockopt], AskIf(none_of_options(&OPTIONS_TO_SET)), other_way);
    rows(calls![SYS_getsockopt], AskIf(none_of_options(&OPTIONS_TO_READ)), other_way);
    let holes = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64;
    let holes = Value::Named("FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE", holes);
    let space = "space within the limit of a file's size is taken, or given back; never beyond a file's end";
    rows(calls![SYS_fallocate], AskIf(vec![arg(1, NoneOf(vec![NUL, holes]))]), space);
    let [unshare] = named![CLOSE_RANGE_UNSHARE];
    let table_of_own = "a thread with a table of its own would have RLIMIT_NOFILE descriptors of its own";
    rows(calls![SYS_close_range], AskIf(vec![arg(2, Has(unshare))]), table_of_own);
    rows(
        calls![SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_timer_create],
        AskIf(vec![clock_of_another()]),
        "the kernel tells everybody how busy another process is",
    );
    let threads = vec![
        Value::Named("threads-of-glibc", THREAD_FLAGS),
        Value::Named("threads-of-musl", THREAD_FLAGS_MUSL),
    ];
    let in_register = "only for threads; flags sit in a register (clone3's do not: ENOSYS)";
    rows(calls![SYS_clone], AskIf(vec![arg(0, NoneOf(threads))]), in_register);
    // In an empty root a path beside the flag finds nothing. Elsewhere see the program that traps.
    let [empty_path] = named![AT_EMPTY_PATH];
    let path_stat = if around.empty_root { AskIf(vec![arg(3, Lacks(empty_path))]) } else { Ask };
    rows(calls![SYS_newfstatat], path_stat, "glibc 2.33 to 2.38 has no other fstat(3)");
    let shared = Value::Named("MAP_SHARED|MAP_ANONYMOUS", (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u64);
    let [growing] = named![MAP_GROWSDOWN];
    let writable_code = Value::Named("PROT_WRITE|PROT_EXEC", (libc::PROT_WRITE | libc::PROT_EXEC) as u64);
    let [exec] = named![PROT_EXEC];
    let [anonymous] = named![MAP_ANONYMOUS];
    rows(
        calls![SYS_mmap],
        AskIf(vec![
            arg(3, Has(shared)),
            // A stack's pages are not counted by RLIMIT_DATA: getrlimit(2).
            arg(3, Has(growing)),
            arg(2, Has(writable_code)),
            vec![Condition::new(2, Has(exec)), Condition::new(3, Has(anonymous))],
        ]),
        "no memory that is shared, that is not counted, or that becomes code",
    );
    // What memory-deny-write-execute holds from Linux 6.3 on, here on every kernel.
    rows(calls![SYS_mprotect], AskIf(vec![arg(2, Has(exec))]), "nothing becomes code afterwards");
    #[cfg(target_arch = "x86_64")]
    rows(
        calls![SYS_arch_prctl],
        AskIf(vec![arg(0, NoneOf(named![ARCH_SET_FS].to_vec()))]),
        "the loader of a program that is started",
    );
    let own = || NoneOf(vec![Value::OwnPid]);
    rows(calls![SYS_kill, SYS_tgkill], AskIf(vec![arg(0, own())]), "signals to itself");
    let own_limits = AskIf(vec![arg(2, NoneOf(vec![NUL])), arg(0, NoneOf(vec![NUL, Value::OwnPid]))]);
    rows(calls![SYS_prlimit64], own_limits, "its own limits can be read");
    rows(calls![SYS_sched_setaffinity], AskIf(vec![arg(0, NoneOf(vec![NUL]))]), "its own CPUs");
    let [set_dumpable] = named![PR_SET_DUMPABLE];
    let dumpable = vec![Condition::new(0, Is(set_dumpable)), Condition::new(1, NoneOf(vec![NUL]))];
    rows(
        calls![SYS_prctl],
        AskIf(vec![arg(0, NoneOf(PRCTL_HARMLESS.to_vec())), dumpable]),
        "what only tells or names; to become undumpable",
    );
    rows(
        calls![SYS_fcntl],
        AskIf(vec![arg(1, NoneOf(FCNTL_HARMLESS.to_vec()))]),
        "what stays inside the process, and locks of its own",
    );
    let terminals = "what stays inside the process; no terminal is typed into, no interface looked up";
    rows(calls![SYS_ioctl], AskIf(vec![arg(1, NoneOf(IOCTL_HARMLESS.to_vec()))]), terminals);

    rows(calls![SYS_seccomp,], Kill, "another filter, or a listener of its own");
    rows(
        calls![
            SYS_ptrace,
            SYS_process_vm_readv,
            SYS_process_vm_writev,
            SYS_process_madvise,
            SYS_pidfd_getfd,
            SYS_kcmp,
        ],
        Kill,
        "other processes",
    );
    rows(
        calls![SYS_bpf, SYS_perf_event_open, SYS_userfaultfd, SYS_keyctl, SYS_add_key, SYS_request_key,],
        Kill,
        "the kernel's own machines",
    );
    rows(
        calls![
            SYS_mount,
            SYS_umount2,
            SYS_pivot_root,
            SYS_chroot,
            SYS_fsopen,
            SYS_fsmount,
            SYS_fsconfig,
            SYS_fspick,
            SYS_open_tree,
            SYS_move_mount,
            SYS_mount_setattr,
            SYS_setns,
            SYS_unshare,
            SYS_open_by_handle_at,
        ],
        Kill,
        "file trees and namespaces",
    );
    rows(
        calls![
            SYS_init_module,
            SYS_finit_module,
            SYS_delete_module,
            SYS_kexec_load,
            SYS_reboot,
            SYS_swapon,
            SYS_swapoff,
            SYS_acct,
            SYS_quotactl,
            SYS_settimeofday,
            SYS_clock_settime,
            SYS_clock_adjtime,
            SYS_sethostname,
            SYS_setdomainname,
            SYS_syslog,
            SYS_vhangup,
        ],
        Kill,
        "the machine as a whole",
    );
    #[cfg(target_arch = "x86_64")]
    rows(calls![SYS_iopl, SYS_ioperm, SYS_modify_ldt, SYS_kexec_file_load,], Kill, "the machine as a whole");
    table
}

const NUL: Value = Value::Number(0);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_call_stands_twice() {
        for empty_root in [true, false] {
            let table = table(Surroundings { empty_root });
            let numbers: BTreeSet<i64> = table.iter().map(|row| row.nr).collect();
            assert_eq!(numbers.len(), table.len());
        }
    }
}
