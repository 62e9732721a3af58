//! What becomes of each system call, as one table.
//!
//! Pure. Owns the verdict on every call: what is not here answers ENOSYS, so that the next C library's next call falls back.

use std::collections::BTreeMap;

use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{BackendError, SeccompCmpArgLen, SeccompCondition};

/// What the filter must know of the place that it will stand in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// Whether the helper sees an empty tree. Without one, a stat by descriptor could name any of the host's files.
    pub(crate) empty_root: bool,
}

/// What becomes of a system call.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    /// It goes ahead.
    Allow,
    /// It waits for the broker.
    Ask,
    /// It waits for the broker if all conditions of one of the lists hold, and goes ahead otherwise.
    AskIf(Vec<Vec<SeccompCondition>>),
    /// The process ends: nobody tries this by accident. The call waits for the host, which is told which one it was, and ends
    /// the process instead of answering.
    Kill,
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

#[cfg(target_arch = "x86_64")]
const ARCH_SET_FS: u64 = 0x1002; // asm/prctl.h

/// prctl(2) options that only tell, or only name things.
const PRCTL_HARMLESS: [i32; 6] = [
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_VMA,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_SET_DUMPABLE, // only to become undumpable: see its own condition
];
/// fcntl(2) commands that stay inside the process; and locks of the process's own, which others see and wait for, but which
/// nobody else can take for it. The other kinds of locks are the broker's to refuse.
const FCNTL_HARMLESS: [i32; 11] = [
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETPIPE_SZ,
    libc::F_GET_SEALS,
    libc::F_GETLK,
    libc::F_SETLK,
    libc::F_SETLKW,
];
const IOCTL_HARMLESS: [u64; 6] =
    [libc::FIONBIO, libc::FIOCLEX, libc::FIONCLEX, libc::FIONREAD, libc::TCGETS, libc::TIOCGWINSZ];

/// SO_RCVTIMEO_NEW and SO_SNDTIMEO_NEW of asm-generic/socket.h; those of the C library are the old ones on 64 bits.
const RECEIVE_TIMEOUT_NEW: i32 = 66;
const SEND_TIMEOUT_NEW: i32 = 67;

/// setsockopt(2): how a socket sends and waits, and nothing of where to. What is not here the host does, or refuses.
const OPTIONS_TO_SET: [(i32, &[i32]); 4] = [
    (
        libc::SOL_SOCKET,
        &[
            libc::SO_REUSEADDR,
            libc::SO_KEEPALIVE,
            libc::SO_RCVTIMEO,
            RECEIVE_TIMEOUT_NEW,
            libc::SO_SNDBUF,
            libc::SO_RCVBUF,
            libc::SO_OOBINLINE,
            libc::SO_RCVLOWAT,
        ],
    ),
    (
        libc::IPPROTO_TCP,
        &[
            libc::TCP_NODELAY,
            libc::TCP_CORK,
            libc::TCP_KEEPIDLE,
            libc::TCP_KEEPINTVL,
            libc::TCP_KEEPCNT,
            libc::TCP_QUICKACK,
            libc::TCP_USER_TIMEOUT,
        ],
    ),
    (libc::IPPROTO_IP, &[libc::IP_TOS, libc::IP_TTL]),
    (libc::IPPROTO_IPV6, &[libc::IPV6_V6ONLY, libc::IPV6_TCLASS, libc::IPV6_UNICAST_HOPS]),
];

/// getsockopt(2): those, and what a socket is.
const OPTIONS_TO_READ: [(i32, &[i32]); 4] = [
    (
        libc::SOL_SOCKET,
        &[
            libc::SO_REUSEADDR,
            libc::SO_KEEPALIVE,
            libc::SO_RCVTIMEO,
            RECEIVE_TIMEOUT_NEW,
            libc::SO_SNDTIMEO,
            SEND_TIMEOUT_NEW,
            libc::SO_SNDBUF,
            libc::SO_RCVBUF,
            libc::SO_OOBINLINE,
            libc::SO_RCVLOWAT,
            libc::SO_LINGER,
            libc::SO_BROADCAST,
            libc::SO_ERROR,
            libc::SO_TYPE,
            libc::SO_DOMAIN,
            libc::SO_PROTOCOL,
            libc::SO_ACCEPTCONN,
        ],
    ),
    (
        libc::IPPROTO_TCP,
        &[
            libc::TCP_NODELAY,
            libc::TCP_CORK,
            libc::TCP_KEEPIDLE,
            libc::TCP_KEEPINTVL,
            libc::TCP_KEEPCNT,
            libc::TCP_QUICKACK,
            libc::TCP_USER_TIMEOUT,
            libc::TCP_MAXSEG,
            libc::TCP_INFO,
        ],
    ),
    (libc::IPPROTO_IP, &[libc::IP_TOS, libc::IP_TTL, libc::IP_MTU]),
    (libc::IPPROTO_IPV6, &[libc::IPV6_V6ONLY, libc::IPV6_TCLASS, libc::IPV6_UNICAST_HOPS, libc::IPV6_MTU]),
];

/// Both halves of a register count, whatever width the kernel reads: garbage above an int is not the value compared.
pub(super) fn arg(
    index: u8,
    op: seccompiler::SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, op, value)
}

/// Holds if argument `index` is none of `values`.
fn none_of(index: u8, values: impl IntoIterator<Item = u64>) -> Result<Vec<SeccompCondition>, BackendError> {
    values.into_iter().map(|value| arg(index, Ne, value)).collect()
}

/// The conditions of which one holds if arguments 1 and 2 are none of these levels' options.
fn none_of_options(levels: &[(i32, &[i32])]) -> Result<Vec<Vec<SeccompCondition>>, BackendError> {
    let other_level = none_of(1, levels.iter().map(|(level, _)| *level as u64));
    let other_option = |(level, options): &(i32, &[i32])| {
        let mut all = vec![arg(1, Eq, *level as u64)?];
        all.extend(none_of(2, options.iter().map(|option| *option as u64))?);
        Ok(all)
    };
    std::iter::once(other_level).chain(levels.iter().map(other_option)).collect()
}

/// Holds if argument 0 is the CPU clock of another process, which the kernel shows to everybody: clock_getcpuclockid(3).
/// It is a negative int, so that the upper half does not count; those of threads are only shown to their own process.
fn clock_of_another(own_pid: u32) -> Result<Vec<SeccompCondition>, BackendError> {
    const NEGATIVE_NOT_A_THREADS: u64 = 0x8000_0004;
    let negative = arg(0, MaskedEq(NEGATIVE_NOT_A_THREADS), 0x8000_0000)?;
    let own = [0, own_pid].into_iter().flat_map(|pid| (0..3).map(move |which| (!pid << 3) | which));
    let others = own.map(|clock| SeccompCondition::new(0, SeccompCmpArgLen::Dword, Ne, u64::from(clock)));
    [Ok(negative)].into_iter().chain(others).collect()
}

macro_rules! forbidden {
    ($($(#[$cfg:meta])* $call:ident;)*) => {
        /// Calls that end the process, and their names.
        const FORBIDDEN: [(libc::c_long, &str); [$($(#[$cfg])* stringify!($call)),*].len()] =
            [$($(#[$cfg])* (libc::$call, stringify!($call))),*];
    };
}

forbidden! {
    SYS_seccomp;
    SYS_ptrace;
    SYS_process_vm_readv;
    SYS_process_vm_writev;
    SYS_process_madvise;
    SYS_pidfd_getfd;
    SYS_kcmp;
    SYS_bpf;
    SYS_perf_event_open;
    SYS_userfaultfd;
    SYS_mount;
    SYS_umount2;
    SYS_pivot_root;
    SYS_chroot;
    SYS_fsopen;
    SYS_fsmount;
    SYS_fsconfig;
    SYS_fspick;
    SYS_open_tree;
    SYS_move_mount;
    SYS_mount_setattr;
    SYS_setns;
    SYS_unshare;
    SYS_open_by_handle_at;
    SYS_keyctl;
    SYS_add_key;
    SYS_request_key;
    SYS_init_module;
    SYS_finit_module;
    SYS_delete_module;
    SYS_kexec_load;
    SYS_reboot;
    SYS_swapon;
    SYS_swapoff;
    SYS_acct;
    SYS_quotactl;
    SYS_settimeofday;
    SYS_clock_settime;
    SYS_clock_adjtime;
    SYS_sethostname;
    SYS_setdomainname;
    SYS_syslog;
    SYS_vhangup;
    #[cfg(target_arch = "x86_64")] SYS_iopl;
    #[cfg(target_arch = "x86_64")] SYS_ioperm;
    #[cfg(target_arch = "x86_64")] SYS_modify_ldt;
    #[cfg(target_arch = "x86_64")] SYS_kexec_file_load;
}

/// The name of this call, if nobody makes it and lives.
pub(crate) fn forbidden(nr: i64) -> Option<&'static str> {
    let row = FORBIDDEN.iter().find(|(forbidden, _)| *forbidden == nr);
    row.map(|(_, name)| name.trim_start_matches("SYS_"))
}

pub(super) fn table(around: Surroundings, own_pid: u32) -> Result<BTreeMap<i64, Verdict>, BackendError> {
    use Verdict::{Allow, Ask, AskIf, Kill};
    let own = u64::from(own_pid);
    let mut table = BTreeMap::new();
    let mut row = |calls: &[libc::c_long], verdict: Verdict| {
        table.extend(calls.iter().map(|nr| (*nr, verdict.clone())));
    };

    // Memory, threads, time, descriptors that are already held: they reach nothing outside the process.
    row(
        &[
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_readv,
            libc::SYS_writev,
            libc::SYS_pread64,
            libc::SYS_pwrite64,
            libc::SYS_preadv,
            libc::SYS_pwritev,
            libc::SYS_lseek,
            libc::SYS_close,
            libc::SYS_fstat,
            libc::SYS_dup,
            libc::SYS_dup3,
            libc::SYS_pipe2,
            libc::SYS_ftruncate,
            libc::SYS_fsync,
            libc::SYS_fdatasync,
            libc::SYS_sync_file_range,
            libc::SYS_fstatfs,
            libc::SYS_fadvise64,
            libc::SYS_getdents64,
            libc::SYS_recvfrom,
            libc::SYS_recvmsg,
            libc::SYS_recvmmsg,
            libc::SYS_shutdown,
            libc::SYS_getsockname,
            libc::SYS_getpeername,
            libc::SYS_eventfd2,
            libc::SYS_epoll_create1,
            libc::SYS_epoll_ctl,
            libc::SYS_epoll_pwait,
            libc::SYS_ppoll,
            libc::SYS_pselect6,
            libc::SYS_timerfd_create,
            libc::SYS_timerfd_settime,
            libc::SYS_timerfd_gettime,
            libc::SYS_signalfd4,
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_madvise,
            libc::SYS_mincore,
            libc::SYS_msync,
            libc::SYS_brk,
            libc::SYS_mlock,
            libc::SYS_munlock,
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_rt_sigpending,
            libc::SYS_rt_sigtimedwait,
            libc::SYS_rt_sigsuspend,
            libc::SYS_sigaltstack,
            libc::SYS_futex,
            libc::SYS_futex_waitv,
            libc::SYS_set_robust_list,
            libc::SYS_rseq,
            libc::SYS_membarrier,
            libc::SYS_set_tid_address,
            libc::SYS_sched_yield,
            libc::SYS_sched_getaffinity,
            libc::SYS_sched_getparam,
            libc::SYS_sched_getscheduler,
            libc::SYS_sched_get_priority_max,
            libc::SYS_sched_get_priority_min,
            libc::SYS_getcpu,
            libc::SYS_nanosleep,
            libc::SYS_gettimeofday,
            libc::SYS_times,
            libc::SYS_getitimer,
            libc::SYS_setitimer,
            libc::SYS_timer_settime,
            libc::SYS_timer_gettime,
            libc::SYS_timer_delete,
            libc::SYS_timer_getoverrun,
            libc::SYS_getrandom,
            libc::SYS_getpid,
            libc::SYS_getppid,
            libc::SYS_gettid,
            libc::SYS_getuid,
            libc::SYS_geteuid,
            libc::SYS_getgid,
            libc::SYS_getegid,
            libc::SYS_getresuid,
            libc::SYS_getresgid,
            libc::SYS_getgroups,
            libc::SYS_getpgid,
            libc::SYS_getsid,
            libc::SYS_getpriority,
            libc::SYS_getrusage,
            libc::SYS_capget,
            libc::SYS_umask,
            libc::SYS_wait4,
            libc::SYS_waitid,
            libc::SYS_exit,
            libc::SYS_exit_group,
            libc::SYS_restart_syscall,
        ],
        Allow,
    );
    #[cfg(target_arch = "x86_64")]
    row(
        &[
            libc::SYS_poll,
            libc::SYS_select,
            libc::SYS_epoll_create,
            libc::SYS_epoll_wait,
            libc::SYS_pipe,
            libc::SYS_eventfd,
            libc::SYS_dup2,
            libc::SYS_pause,
            libc::SYS_alarm,
            libc::SYS_time,
            libc::SYS_getpgrp,
            libc::SYS_getrlimit,
        ],
        Allow,
    );

    // What names something outside: the broker serves it, or refuses it and keeps a record.
    row(
        &[
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_faccessat,
            libc::SYS_faccessat2,
            libc::SYS_readlinkat,
            libc::SYS_uname,
            libc::SYS_sysinfo,
            libc::SYS_getcwd,
            libc::SYS_chdir,
            libc::SYS_fchdir,
            libc::SYS_statfs,
            libc::SYS_mkdirat,
            libc::SYS_unlinkat,
            libc::SYS_renameat,
            libc::SYS_renameat2,
            libc::SYS_linkat,
            libc::SYS_symlinkat,
            libc::SYS_truncate,
            libc::SYS_fchmodat,
            libc::SYS_fchownat,
            libc::SYS_utimensat,
            libc::SYS_mknodat,
            libc::SYS_fchmod,
            libc::SYS_fchown,
            libc::SYS_flock,
            libc::SYS_setxattr,
            libc::SYS_fsetxattr,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_accept4,
            libc::SYS_sendmsg,
            libc::SYS_sendmmsg,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_memfd_create,
            libc::SYS_shmget,
            libc::SYS_tkill,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_rt_tgsigqueueinfo,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_send_signal,
            libc::SYS_setuid,
            libc::SYS_setgid,
            libc::SYS_setresuid,
            libc::SYS_setresgid,
            libc::SYS_setgroups,
            libc::SYS_setsid,
            libc::SYS_setpgid,
            libc::SYS_capset,
            libc::SYS_setrlimit,
            libc::SYS_setpriority,
            libc::SYS_sched_setscheduler,
            libc::SYS_sched_setparam,
            libc::SYS_inotify_init1,
        ],
        Ask,
    );
    #[cfg(target_arch = "x86_64")]
    row(
        &[
            libc::SYS_open,
            libc::SYS_creat,
            libc::SYS_stat,
            libc::SYS_lstat,
            libc::SYS_access,
            libc::SYS_readlink,
            libc::SYS_mkdir,
            libc::SYS_rmdir,
            libc::SYS_unlink,
            libc::SYS_rename,
            libc::SYS_link,
            libc::SYS_symlink,
            libc::SYS_chmod,
            libc::SYS_chown,
            libc::SYS_lchown,
            libc::SYS_utime,
            libc::SYS_utimes,
            libc::SYS_futimesat,
            libc::SYS_mknod,
            libc::SYS_accept,
            libc::SYS_fork,
            libc::SYS_vfork,
        ],
        Ask,
    );

    // Sockets are the host's. Bytes go to the peer that the host has connected one to; who names another is asked about.
    // A pair of Unix sockets leads nowhere, and nothing but bytes goes through it.
    row(&[libc::SYS_sendto], AskIf(vec![vec![arg(4, Ne, 0)?]]));
    row(&[libc::SYS_socketpair], AskIf(vec![vec![arg(0, Ne, libc::AF_UNIX as u64)?]]));
    row(&[libc::SYS_setsockopt], AskIf(none_of_options(&OPTIONS_TO_SET)?));
    row(&[libc::SYS_getsockopt], AskIf(none_of_options(&OPTIONS_TO_READ)?));
    // Space is taken within the limit of a file's size, or given back; never taken beyond a file's end.
    let holes = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE) as u64;
    row(&[libc::SYS_fallocate], AskIf(vec![none_of(1, [0, holes])?]));
    // A thread with a table of its own would have RLIMIT_NOFILE descriptors of its own.
    let unshare = u64::from(libc::CLOSE_RANGE_UNSHARE);
    row(&[libc::SYS_close_range], AskIf(vec![vec![arg(2, MaskedEq(unshare), unshare)?]]));
    row(
        &[libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep, libc::SYS_timer_create],
        AskIf(vec![clock_of_another(own_pid)?]),
    );
    // Only for threads; flags and nothing else decide, since they sit in a register (clone3's do not: ENOSYS below).
    row(&[libc::SYS_clone], AskIf(vec![none_of(0, [THREAD_FLAGS, THREAD_FLAGS_MUSL])?]));
    // glibc 2.33 to 2.38 has no other fstat(3). In an empty root a path beside the flag finds nothing.
    let path_stat = if around.empty_root {
        AskIf(vec![vec![arg(3, MaskedEq(libc::AT_EMPTY_PATH as u64), 0)?]])
    } else {
        Ask
    };
    row(&[libc::SYS_newfstatat], path_stat);
    let shared = (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u64;
    let growing = libc::MAP_GROWSDOWN as u64;
    let writable_code = (libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    row(
        &[libc::SYS_mmap],
        AskIf(vec![
            vec![arg(3, MaskedEq(shared), shared)?],
            // A stack's pages are not counted by RLIMIT_DATA: getrlimit(2).
            vec![arg(3, MaskedEq(growing), growing)?],
            vec![arg(2, MaskedEq(writable_code), writable_code)?],
            vec![
                arg(2, MaskedEq(libc::PROT_EXEC as u64), libc::PROT_EXEC as u64)?,
                arg(3, MaskedEq(libc::MAP_ANONYMOUS as u64), libc::MAP_ANONYMOUS as u64)?,
            ],
        ]),
    );
    // What memory-deny-write-execute holds from Linux 6.3 on, here on every kernel: nothing becomes code afterwards.
    let exec = arg(2, MaskedEq(libc::PROT_EXEC as u64), libc::PROT_EXEC as u64)?;
    row(&[libc::SYS_mprotect], AskIf(vec![vec![exec]]));
    #[cfg(target_arch = "x86_64")]
    row(&[libc::SYS_arch_prctl], AskIf(vec![none_of(0, [ARCH_SET_FS])?])); // the loader of a program that is started
    row(&[libc::SYS_kill, libc::SYS_tgkill], AskIf(vec![none_of(0, [own])?]));
    row(&[libc::SYS_prlimit64], AskIf(vec![none_of(2, [0])?, none_of(0, [0, own])?]));
    row(&[libc::SYS_sched_setaffinity], AskIf(vec![none_of(0, [0])?]));
    let harmless = PRCTL_HARMLESS.map(|option| option as u64);
    let dumpable = vec![arg(0, Eq, libc::PR_SET_DUMPABLE as u64)?, arg(1, Ne, 0)?];
    row(&[libc::SYS_prctl], AskIf(vec![none_of(0, harmless)?, dumpable]));
    row(&[libc::SYS_fcntl], AskIf(vec![none_of(1, FCNTL_HARMLESS.map(|command| command as u64))?]));
    row(&[libc::SYS_ioctl], AskIf(vec![none_of(1, IOCTL_HARMLESS)?]));

    row(&FORBIDDEN.map(|(nr, _)| nr), Kill);
    Ok(table)
}
