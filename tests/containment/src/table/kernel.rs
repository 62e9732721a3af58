//! What else the kernel offers: namespaces, modules, filters, keys, other architectures' calls.
//!
//! Runs in a host. Controls are refused by the kernel for their arguments wherever another answer would change the machine.

use sandbox_core::Layer;

use crate::Control::{Reaches, Works, WorksForRoot};
use crate::Expected::{Errno, Forbidden};
use crate::{Control, HeldBy, Row};

const FILTER: HeldBy = HeldBy::Layer(Layer::Seccomp);
const ADMINISTRATORS: &[HeldBy] = &[FILTER, HeldBy::Layer(Layer::Capabilities)];

/// What nobody tries by accident.
fn door(name: &'static str, nr: libc::c_long, arguments: &str, control: Control) -> Row {
    Row::raw(name, nr, arguments, Forbidden, control)
}

/// The same, where the kernel asks for a capability too.
fn administrators(name: &'static str, nr: libc::c_long, arguments: &str, errnos: &'static [i32]) -> Row {
    door(name, nr, arguments, Reaches(errnos)).held_by(ADMINISTRATORS)
}

/// What is on no list.
fn unknown(name: &'static str, nr: libc::c_long, arguments: &str, control: Control) -> Row {
    Row::raw(name, nr, arguments, Errno(libc::ENOSYS), control)
}

pub(super) fn rows() -> Vec<Row> {
    let mut rows = doors();
    rows.extend(not_listed());
    rows.extend(other_architectures());
    rows
}

fn doors() -> Vec<Row> {
    use libc::{EBADF, EFAULT, EINVAL, ENOEXEC, EOPNOTSUPP, EPERM};
    let mut rows = vec![
        door("makes namespaces", libc::SYS_unshare, "0x7e020001", Reaches(&[EINVAL])),
        door("enters a namespace", libc::SYS_setns, "0 0", Reaches(&[EINVAL])),
        door("installs a filter", libc::SYS_seccomp, "1 0 0", Reaches(&[EFAULT])),
        door("installs a filter with a listener", libc::SYS_seccomp, "1 8 0", Reaches(&[EFAULT])),
        door("asks about listeners", libc::SYS_seccomp, "3 0 q:0", Works),
        door("loads BPF", libc::SYS_bpf, "0 0 0", Reaches(&[EINVAL, libc::E2BIG, EPERM])),
        door("handles its own faults", libc::SYS_userfaultfd, "0xffff", Reaches(&[EINVAL])),
        door("counts events", libc::SYS_perf_event_open, "0 0 -1 -1 0", Reaches(&[EFAULT])),
        door("keeps keys", libc::SYS_add_key, "0 0 0 0 0", Reaches(&[EFAULT])),
        door("asks for a key", libc::SYS_request_key, "0 0 0 0", Reaches(&[EFAULT])),
        door("manages keys", libc::SYS_keyctl, "9999 0 0 0 0", Reaches(&[EOPNOTSUPP])),
        administrators("loads a module", libc::SYS_init_module, "0 0 0", &[EFAULT, ENOEXEC, EPERM]),
        administrators(
            "loads a module from a file",
            libc::SYS_finit_module,
            "-1 0 0",
            &[EFAULT, EBADF, EPERM],
        ),
        administrators("unloads a module", libc::SYS_delete_module, "0 0", &[EFAULT, EPERM]),
        administrators("loads another kernel", libc::SYS_kexec_load, "0 0 0 0xffff", &[EINVAL, EPERM]),
        administrators("restarts the machine", libc::SYS_reboot, "0 0 0 0", &[EINVAL, EPERM]),
        administrators("sets the time", libc::SYS_settimeofday, "q:0,2000000 0", &[EINVAL, EPERM]),
        administrators("sets a clock", libc::SYS_clock_settime, "1 q:0,0", &[EINVAL, EPERM]),
        administrators("adjusts a clock", libc::SYS_clock_adjtime, "0 0", &[EFAULT]),
        administrators("names the machine", libc::SYS_sethostname, "0 -1", &[EINVAL, EPERM]),
        administrators("names the machine's domain", libc::SYS_setdomainname, "0 -1", &[EINVAL, EPERM]),
        administrators("reads the kernel's log", libc::SYS_syslog, "99 0 0", &[EINVAL, EPERM]),
        door("hangs up a terminal", libc::SYS_vhangup, "", WorksForRoot).held_by(ADMINISTRATORS),
    ];
    #[cfg(target_arch = "x86_64")]
    rows.extend([
        administrators(
            "loads another kernel from a file",
            libc::SYS_kexec_file_load,
            "-1 -1 0 0 0xffff",
            &[EINVAL, EBADF, EPERM],
        ),
        administrators("asks for the machine's ports", libc::SYS_iopl, "9", &[EINVAL]),
        administrators("asks for some of the machine's ports", libc::SYS_ioperm, "70000 1 1", &[EINVAL]),
        door("reads its segments", libc::SYS_modify_ldt, "0 q:0 8", Works),
    ]);
    rows
}

fn not_listed() -> Vec<Row> {
    use libc::{EBADF, EFAULT, EINVAL, ENOENT};
    vec![
        unknown("sets up io_uring", libc::SYS_io_uring_setup, "1 0", Reaches(&[EFAULT])),
        unknown("enters io_uring", libc::SYS_io_uring_enter, "-1 0 0 0 0 0", Reaches(&[EBADF])),
        unknown(
            "registers with io_uring",
            libc::SYS_io_uring_register,
            "-2 0 0 0",
            Reaches(&[EBADF, EINVAL]),
        ),
        unknown("asks which Landlock there is", libc::SYS_landlock_create_ruleset, "0 0 1", Works),
        unknown("adds to a Landlock ruleset", libc::SYS_landlock_add_rule, "-1 1 0 0", Reaches(&[EBADF])),
        unknown(
            "puts a Landlock ruleset on",
            libc::SYS_landlock_restrict_self,
            "-1 0",
            Reaches(&[EBADF, libc::EPERM]),
        ),
        unknown("hides memory from the kernel", libc::SYS_memfd_secret, "0", Works),
        unknown("makes semaphores", libc::SYS_semget, "1234567 1 0", Reaches(&[ENOENT])),
        unknown("makes a queue of messages", libc::SYS_msgget, "1234567 0", Reaches(&[ENOENT])),
        unknown(
            "opens a queue of messages by name",
            libc::SYS_mq_open,
            "s:containment-nowhere 0 0 0",
            Reaches(&[ENOENT]),
        ),
        unknown("becomes another kind of program", libc::SYS_personality, "0xffffffff", Works),
        unknown("moves bytes between pipes", libc::SYS_splice, "-1 0 -1 0 1 0", Reaches(&[EBADF])),
        unknown("moves memory into a pipe", libc::SYS_vmsplice, "-1 0 1 0", Reaches(&[EBADF])),
        unknown("sends a file", libc::SYS_sendfile, "-1 -1 0 1", Reaches(&[EBADF])),
        unknown("moves pages between nodes", libc::SYS_move_pages, "0 0 0 0 0 0", Works),
        unknown("sets up the kernel's asynchronous reads", libc::SYS_io_setup, "0 q:0", Reaches(&[EINVAL])),
        unknown("schedules itself the new way", libc::SYS_sched_setattr, "0 0 0", Reaches(&[EINVAL])),
        unknown("reads ahead", libc::SYS_readahead, "-1 0 0", Reaches(&[EBADF])),
        Row::raw(
            "filters the old way",
            libc::SYS_prctl,
            "22 2 0 0 0",
            Errno(libc::EPERM),
            Reaches(&[EFAULT]),
        )
        .told("system"),
        Row::raw(
            "makes System V memory",
            libc::SYS_shmget,
            "1234567 4096 0",
            Errno(libc::EPERM),
            Reaches(&[ENOENT]),
        )
        .told("system"),
        Row::raw(
            "answers notifications in the host's place",
            libc::SYS_ioctl,
            "199 0xc0502100 q:0,0,0,0,0,0,0,0,0,0",
            Errno(libc::ENOTTY),
            Reaches(&[EBADF]),
        )
        .told("system"),
        Row::raw(
            "makes a pipe larger",
            libc::SYS_fcntl,
            "199 1031 65536",
            Errno(libc::EPERM),
            Reaches(&[EBADF]),
        )
        .told("system"),
        Row::raw(
            "is told of what others do with a file",
            libc::SYS_fcntl,
            "199 1024 0",
            Errno(libc::EPERM),
            Reaches(&[EBADF]),
        )
        .told("system"),
    ]
}

#[cfg(target_arch = "x86_64")]
fn other_architectures() -> Vec<Row> {
    const X32: libc::c_long = 0x4000_0000;
    vec![
        Row::new("asks for its id as a 32-bit program", "int80", "", Forbidden, Works),
        door("asks for its id as an x32 program", X32 | libc::SYS_getpid, "", Works),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn other_architectures() -> Vec<Row> {
    Vec::new()
}
