//! Other processes and programs.
//!
//! Runs in a host. Signals are number 0, which does nothing and needs the same rights; who is asked about is this host, or a
//! plugin of its own.

use sandbox_core::Layer;

use crate::Control::{Got, Reaches, Works, WorksForRoot};
use crate::Expected::{Errno, Forbidden};
use crate::row::{ALL_BUT_PROCESS, EVERYTHING, NOTHING, ONE_FOLDER};
use crate::{Control, Expected, HeldBy, Row};

const REACH: &[HeldBy] =
    &[HeldBy::Layer(Layer::Seccomp), HeldBy::Layer(Layer::PidNamespace), HeldBy::Layer(Layer::Ids)];
const SIGNALS: &[HeldBy] = &[
    HeldBy::Layer(Layer::Seccomp),
    HeldBy::Layer(Layer::LandlockScopes),
    HeldBy::Layer(Layer::PidNamespace),
    HeldBy::Layer(Layer::Ids),
];
const PROGRAMS: &[HeldBy] =
    &[HeldBy::Broker, HeldBy::Layer(Layer::Landlock), HeldBy::Layer(Layer::EmptyRoot)];

fn refused(name: &'static str, nr: libc::c_long, arguments: &str, control: Control) -> Row {
    Row::raw(name, nr, arguments, Errno(libc::EPERM), control).told("process").held_by(SIGNALS)
}

fn own(name: &'static str, nr: libc::c_long, arguments: &str, control: Control) -> Row {
    Row::raw(name, nr, arguments, Errno(libc::EPERM), control).told("system")
}

fn ends(name: &'static str, nr: libc::c_long, arguments: &str, control: Control) -> Row {
    Row::raw(name, nr, arguments, Forbidden, control).held_by(REACH)
}

fn starts(name: &'static str, method: &str, payload: &str, expected: Expected, control: Control) -> Row {
    Row::new(name, method, payload, expected, control).told("process").held_by(PROGRAMS)
}

/// The CPU clock of a process: clock_getcpuclockid(3).
fn cpu_clock_of(pid: u32) -> i32 {
    const SCHEDULED: u32 = 2;
    (!pid << 3 | SCHEDULED).cast_signed()
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = started();
    rows.extend(touched());
    rows.extend(clocks());
    rows.extend(itself());
    rows
}

fn started() -> Vec<Row> {
    let mut rows = vec![
        starts("forks", "fork", "", Errno(libc::EPERM), Works).under(&[NOTHING, ALL_BUT_PROCESS]),
        refused("clones without its memory", libc::SYS_clone, "0x800 0 0 0 0", Reaches(&[libc::EINVAL]))
            .under(&[NOTHING, EVERYTHING]),
        refused(
            "clones a thread in a namespace",
            libc::SYS_clone,
            "0x103d0f00 0 0 0 0",
            Reaches(&[libc::EINVAL]),
        ),
        Row::raw(
            "clones the new way",
            libc::SYS_clone3,
            "0 0",
            Errno(libc::ENOSYS),
            Reaches(&[libc::EINVAL]),
        ),
        starts("becomes another program", "exec", "/bin/true", Errno(libc::EACCES), Works),
        starts("starts a program", "run", "/bin/true\n\n", Errno(libc::EACCES), Works)
            .without(Layer::EmptyRoot, Errno(libc::EPERM))
            .under(&[ONE_FOLDER]),
        starts("starts a program by fork", "run_by_fork", "/bin/true\n\n", Errno(libc::EPERM), Works)
            .under(&[NOTHING, ALL_BUT_PROCESS]),
        starts("starts a shell", "run", "/bin/sh\n-c\ntrue\n\n", Errno(libc::EACCES), Works)
            .without(Layer::EmptyRoot, Errno(libc::EPERM))
            .under(&[ONE_FOLDER]),
        starts("has a shell run a line", "system", "true", Expected::Got("32512".to_owned()), Got("0"))
            .under(&[NOTHING, ALL_BUT_PROCESS]),
        Row::raw(
            "becomes a program by descriptor",
            libc::SYS_execveat,
            "-100 s:/nowhere 0 0 0",
            Errno(libc::EACCES),
            Reaches(&[libc::ENOENT]),
        )
        .told("process")
        .held_by(PROGRAMS),
        Row::new("makes a program in memory", "memfd", "", Errno(libc::EPERM), Works).told("system"),
    ];
    if cfg!(target_arch = "x86_64") {
        rows.push(
            starts(
                "has the loader start a program",
                "run",
                "/lib64/ld-linux-x86-64.so.2\n/bin/true\n\n",
                Errno(libc::EACCES),
                Works,
            )
            .without(Layer::EmptyRoot, Errno(libc::EPERM))
            .under(&[ONE_FOLDER]),
        );
    }
    rows
}

fn touched() -> Vec<Row> {
    vec![
        refused("signals the host", libc::SYS_kill, "{host} 0", Works),
        refused("signals a sibling", libc::SYS_kill, "{sibling} 0", WorksForRoot),
        refused("signals the first process", libc::SYS_kill, "1 0", WorksForRoot),
        refused("signals everybody", libc::SYS_kill, "-1 0", Works),
        refused("signals its group", libc::SYS_kill, "0 0", Works),
        refused("signals nobody, to see who is there", libc::SYS_kill, "4000000 0", Reaches(&[libc::ESRCH])),
        refused("signals another's thread", libc::SYS_tgkill, "{host} {host} 0", Works),
        refused("signals a thread by its number alone", libc::SYS_tkill, "{host} 0", Works),
        refused("queues a signal", libc::SYS_rt_sigqueueinfo, "{host} 0 0", Reaches(&[libc::EFAULT])),
        refused(
            "queues a signal for a thread",
            libc::SYS_rt_tgsigqueueinfo,
            "{host} {host} 0 0",
            Reaches(&[libc::EFAULT]),
        ),
        refused("takes hold of the host", libc::SYS_pidfd_open, "{host} 0", Works),
        refused("takes hold of a sibling", libc::SYS_pidfd_open, "{sibling} 0", Works),
        refused("signals by a hold", libc::SYS_pidfd_send_signal, "-1 0 0 0", Reaches(&[libc::EBADF])),
        ends("takes a descriptor of another's", libc::SYS_pidfd_getfd, "-1 0 0", Reaches(&[libc::EBADF])),
        ends("traces somebody", libc::SYS_ptrace, "16 0 0 0", Reaches(&[libc::ESRCH])),
        ends(
            "traces the host",
            libc::SYS_ptrace,
            "0x4206 {host} 0 0xffffffff",
            Reaches(&[libc::EIO, libc::EPERM]),
        ),
        ends(
            "traces a sibling",
            libc::SYS_ptrace,
            "0x4206 {sibling} 0 0xffffffff",
            Reaches(&[libc::EIO, libc::EPERM]),
        ),
        ends("reads the host's memory", libc::SYS_process_vm_readv, "{host} 0 0 0 0 0", Works),
        ends("writes the host's memory", libc::SYS_process_vm_writev, "{host} 0 0 0 0 0", Works),
        ends("writes a sibling's memory", libc::SYS_process_vm_writev, "{sibling} 0 0 0 0 0", Works),
        ends("advises on another's memory", libc::SYS_process_madvise, "-1 0 0 0 0", Reaches(&[libc::EBADF])),
        ends("compares itself with the host", libc::SYS_kcmp, "{host} {host} 0 0 0", WorksForRoot),
        Row::raw(
            "ends another's memory",
            libc::SYS_process_mrelease,
            "-1 0",
            Errno(libc::ENOSYS),
            Reaches(&[libc::EBADF]),
        ),
        own("reads the limits of the host", libc::SYS_prlimit64, "{host} 7 0 q:0,0", WorksForRoot),
        // The new limits are where nothing is: with any others the control would change this host's.
        own("changes the limits of the host", libc::SYS_prlimit64, "{host} 7 8 0", Reaches(&[libc::EFAULT])),
        own(
            "changes the limits of a sibling",
            libc::SYS_prlimit64,
            "{sibling} 7 8 0",
            Reaches(&[libc::EFAULT]),
        ),
        Row::raw(
            "reads the robust list of the host",
            libc::SYS_get_robust_list,
            "{host} q:0 q:0",
            Errno(libc::ENOSYS),
            WorksForRoot,
        ),
        refused(
            "moves the host to one CPU",
            libc::SYS_sched_setaffinity,
            "{host} 0 0",
            Reaches(&[libc::EINVAL]),
        ),
    ]
}

fn clocks() -> Vec<Row> {
    let (host, first) = (cpu_clock_of(std::process::id()), cpu_clock_of(1));
    vec![
        own("reads the host's clock", libc::SYS_clock_gettime, &format!("{host} q:0,0"), Works),
        own("reads the first process's clock", libc::SYS_clock_gettime, &format!("{first} q:0,0"), Works),
        own("asks whether a process has a clock", libc::SYS_clock_getres, &format!("{first} q:0,0"), Works),
        own("waits for another's clock", libc::SYS_clock_nanosleep, &format!("{first} 1 q:0,1 0"), Works),
        own("is woken by another's clock", libc::SYS_timer_create, &format!("{first} 0 q:0"), Works),
    ]
}

fn itself() -> Vec<Row> {
    vec![
        own("raises its own limits", libc::SYS_setrlimit, "7 0", Reaches(&[libc::EFAULT])),
        own("raises its limits the new way", libc::SYS_prlimit64, "0 7 q:64,64 0", Works),
        own("lets others look into it", libc::SYS_prctl, "4 1 0 0 0", Works),
        own("outlives its parent", libc::SYS_prctl, "1 0 0 0 0", Works),
        own("takes in orphans", libc::SYS_prctl, "36 1 0 0 0", Works),
        own("asks which capabilities it could have", libc::SYS_prctl, "23 0 0 0 0", Works),
        own("keeps its capabilities", libc::SYS_prctl, "8 1 0 0 0", Works),
        refused("raises its priority", libc::SYS_setpriority, "0 0 -5", WorksForRoot),
        refused("asks for real time", libc::SYS_sched_setscheduler, "0 1 q:1", WorksForRoot),
        refused("asks for real time the other way", libc::SYS_sched_setparam, "0 q:0", Works),
        refused("joins a group of processes", libc::SYS_setpgid, "0 -1", Reaches(&[libc::EINVAL])),
        own("becomes root", libc::SYS_setuid, "0", WorksForRoot)
            .held_by(&[HeldBy::Layer(Layer::Seccomp), HeldBy::Layer(Layer::Capabilities)]),
        own("becomes root's group", libc::SYS_setgid, "0", WorksForRoot)
            .held_by(&[HeldBy::Layer(Layer::Seccomp), HeldBy::Layer(Layer::Capabilities)]),
        own("becomes root in every way", libc::SYS_setresuid, "0 0 0", WorksForRoot)
            .held_by(&[HeldBy::Layer(Layer::Seccomp), HeldBy::Layer(Layer::Capabilities)]),
        own("leaves its groups", libc::SYS_setgroups, "0 0", WorksForRoot)
            .held_by(&[HeldBy::Layer(Layer::Seccomp), HeldBy::Layer(Layer::Capabilities)]),
        own("takes capabilities", libc::SYS_capset, "0 0", Reaches(&[libc::EFAULT]))
            .held_by(&[HeldBy::Layer(Layer::Seccomp), HeldBy::Layer(Layer::Capabilities)]),
    ]
}
