//! What is not a plugin's to know.
//!
//! Runs in a host. What is told inside says nothing; what is told outside is something else.

use sandbox_core::Layer;

use crate::Control::{Reaches, Works};
use crate::Expected::{Errno, Got, GotNot, GotOther};
use crate::row::{ALL_BUT_FILES, NOTHING, ONE_FOLDER};
use crate::{Expected, HeldBy, Row};

const EXEC: &[HeldBy] = &[HeldBy::Host];
const FILTER: &[HeldBy] = &[HeldBy::Layer(Layer::Seccomp), HeldBy::Layer(Layer::OtherNamespaces)];

fn told(name: &'static str, method: &str, payload: &str, expected: Expected) -> Row {
    Row::new(name, method, payload, expected, Works).held_by(EXEC)
}

/// What `system` opens as a copy is nobody's without it.
fn reads(name: &'static str, path: &str) -> Row {
    Row::new(name, "open", path, Errno(libc::EACCES), Works)
        .under(&[NOTHING, &["file-read:{dir}/granted"]])
        .held_by(&[HeldBy::Broker, HeldBy::Layer(Layer::EmptyRoot)])
}

pub(super) fn rows() -> Vec<Row> {
    let missing = |name, method, errno| {
        Row::new(name, method, "{dir}/outside/nothing", Errno(libc::EACCES), Reaches(errno))
            .under(&[NOTHING, ONE_FOLDER, ALL_BUT_FILES])
            .held_by(&[HeldBy::Broker])
    };
    vec![
        told("reads its environment", "environment", "", Got(String::new())),
        told("counts its variables", "fact", "variables", Got("0".to_owned())),
        told("reads what it was started with", "argv", "", GotOther),
        told(
            "lists its descriptors",
            "descriptors",
            "",
            Got("0:device 1:pipe 2:pipe 3:pipe 4:pipe".to_owned()),
        ),
        told("asks for the host's name", "host_name", "", Got("localhost".to_owned()))
            .under(&[NOTHING])
            .held_by(FILTER),
        told(
            "asks for the host's name as the kernel has it",
            "fact",
            "nodename",
            Got("localhost".to_owned()),
        )
        .under(&[NOTHING])
        .held_by(FILTER),
        told("asks for the kernel's version", "fact", "version", GotOther).under(&[NOTHING]).held_by(FILTER),
        told("asks who it is", "fact", "uid", GotNot("0")).held_by(&[HeldBy::Layer(Layer::Ids)]),
        told("asks which group it is in", "fact", "gid", GotNot("0")).held_by(&[HeldBy::Layer(Layer::Ids)]),
        Row::raw("asks who its parent is", libc::SYS_getppid, "", GotOther, Works)
            .held_by(&[HeldBy::Host, HeldBy::Layer(Layer::PidNamespace)]),
        Row::new("asks how much memory the machine has", "sysinfo", "", GotOther, Works)
            .held_by(&[HeldBy::Broker])
            .under(&[NOTHING]),
        missing("asks whether a file is there that is not", "stat", &[libc::ENOENT]),
        missing("opens a file that is not there", "open", &[libc::ENOENT]),
        missing("lists a folder that is not there", "read_dir", &[libc::ENOENT]),
        Row::raw(
            "asks whether a process is there that is not",
            libc::SYS_kill,
            "3999999 0",
            Errno(libc::EPERM),
            Reaches(&[libc::ESRCH]),
        )
        .held_by(&[HeldBy::Layer(Layer::Seccomp)]),
        reads("reads its command line", "/proc/self/cmdline"),
        reads("reads its control group", "/proc/self/cgroup"),
        reads("reads how its memory is laid out", "/proc/self/smaps"),
        reads("reads what the machine's processor is", "/proc/cpuinfo"),
        reads("reads how much memory there is", "/proc/meminfo"),
        reads("reads how long the machine runs", "/proc/uptime"),
        reads("reads who is connected", "/proc/net/tcp"),
        reads("reads what the kernel was started with", "/proc/cmdline"),
        reads("reads which users there are", "/etc/passwd"),
        reads("reads the number of this boot", "/proc/sys/kernel/random/boot_id"),
        reads("reads what hardware there is", "/sys/kernel/uevent_seqnum"),
        Row::raw(
            "asks where the machine's CPUs are set",
            libc::SYS_get_mempolicy,
            "0 0 0 0 0",
            Errno(libc::ENOSYS),
            Works,
        ),
        Row::raw("asks for a list of its mounts", libc::SYS_listxattr, "s:/ 0 0", Errno(libc::ENOSYS), Works),
        Row::raw(
            "asks for a file's attribute",
            libc::SYS_getxattr,
            "s:{dir}/outside/secret s:user.none 0 0",
            Errno(libc::ENOSYS),
            Reaches(&[libc::ENODATA, libc::EOPNOTSUPP]),
        ),
    ]
}
