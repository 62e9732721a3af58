//! What else the kernel offers: namespaces, mounts, modules, filters, other architectures' calls.
//!
//! Runs in a host. Controls are refused by the kernel for their arguments wherever another answer would change the machine.

use sandbox_core::Layer;

use crate::Control::{Reaches, WorksForRoot};
use crate::Expected::{Errno, Forbidden};
use crate::{HeldBy, Row};

const CAPABILITIES: HeldBy = HeldBy::Layer(Layer::Capabilities);
const FILTER: HeldBy = HeldBy::Layer(Layer::Seccomp);

pub(super) fn rows() -> Vec<Row> {
    vec![
        Row::raw("mounts", libc::SYS_mount, "0 0 0 0 0", Forbidden, Reaches(&[libc::EFAULT]))
            .held_by(&[FILTER, CAPABILITIES]),
        Row::raw(
            "pivots the root",
            libc::SYS_pivot_root,
            "0 0",
            Forbidden,
            Reaches(&[libc::EFAULT, libc::EPERM]),
        )
        .held_by(&[FILTER, CAPABILITIES]),
        Row::raw("changes the root", libc::SYS_chroot, "s:/", Forbidden, WorksForRoot)
            .held_by(&[FILTER, CAPABILITIES]),
        Row::raw(
            "sets up io_uring",
            libc::SYS_io_uring_setup,
            "1 0",
            Errno(libc::ENOSYS),
            Reaches(&[libc::EFAULT]),
        ),
        Row::raw("enters a namespace", libc::SYS_setns, "0 0", Forbidden, Reaches(&[libc::EINVAL])),
        Row::raw("becomes root", libc::SYS_setuid, "0", Errno(libc::EPERM), WorksForRoot)
            .told("system")
            .held_by(&[FILTER, CAPABILITIES]),
        Row::raw("traces somebody", libc::SYS_ptrace, "16 0 0 0", Forbidden, Reaches(&[libc::ESRCH])),
    ]
}
