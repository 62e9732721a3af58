//! Step 1: clones a helper, which execs this image again so that it has an address layout and a stack canary of its own.
//!
//! Runs in the zygote. Owns where a helper's descriptors stand. Never lets another descriptor through: all have
//! close-on-exec.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use rustix::fs::{Mode, OFlags};

use crate::shared::errno::from_rustix;
use crate::shared::sys::clone::{Cloned, clone_into_cgroup, clone_to_exec};
use crate::shared::sys::inherited;
use crate::shared::wire::hand_over::HAND_OVER_FD;
use crate::shared::wire::role::Role;

/// Where the helper finds the namespace with the empty root.
pub(crate) const ROOT_FD: i32 = 5;

/// What every helper is cloned with.
pub(crate) struct Mold {
    pub(crate) image: OwnedFd,
    pub(crate) empty_namespace: Option<OwnedFd>,
    pub(crate) stack: Vec<u8>,
    /// Whether the next helper ends before its exec, for a test.
    pub(crate) is_killed: bool,
}

/// A helper's ends of its pipes and its socket, and the groups of version 1 that it joins.
pub(crate) struct Ends {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
    pub(crate) printed: OwnedFd,
    /// Where it hands over what the host may not take.
    pub(crate) hand_over: Option<OwnedFd>,
    pub(crate) tasks: Vec<OwnedFd>,
}

/// Clones one helper, into its cgroup if it has one; its id here, and its pidfd.
pub(crate) fn helper(
    mold: &mut Mold,
    ends: &Ends,
    cgroup: Option<&OwnedFd>,
) -> Result<(i32, OwnedFd), Errno> {
    // Opened afresh for each: the flags and the offset of one open file would be seen by all who share it.
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(from_rustix)?;
    let (image, null, is_killed) = (mold.image.as_fd(), null.as_fd(), mold.is_killed);
    let namespace = mold.empty_namespace.as_ref().map(AsFd::as_fd);
    let become_helper = || {
        if is_killed {
            inherited::kill_at_once();
        }
        become_helper(image, null, namespace, ends);
    };
    let Some(cgroup) = cgroup else {
        return clone_to_exec(&mut mold.stack, become_helper);
    };
    // The C library's clone(2), which can lend the zygote's memory, has no room for a cgroup.
    match clone_into_cgroup(cgroup.as_fd())? {
        Cloned::Parent { pid, pidfd } => Ok((pid, pidfd)),
        Cloned::Child => {
            become_helper();
            inherited::exit_at_once(74)
        }
    }
}

/// Borrows the zygote's memory, so it allocates nothing: system calls, then the exec.
fn become_helper(
    image: BorrowedFd<'_>,
    null: BorrowedFd<'_>,
    namespace: Option<BorrowedFd<'_>>,
    ends: &Ends,
) {
    // 0 is whoever writes: a thread that moves itself waits for nobody, and whoever moves another waits for all the kernel's
    // processors. The host looks whether it is there.
    for tasks in &ends.tasks {
        let _ = rustix::io::write(tasks, b"0");
    }
    let printed = ends.printed.as_fd();
    let mut places =
        [(null, 0), (printed, 1), (printed, 2), (ends.input.as_fd(), 3), (ends.output.as_fd(), 4)]
            .into_iter();
    let placed = places.all(|(file, number)| inherited::place(file, number).is_ok())
        && namespace.is_none_or(|namespace| inherited::place(namespace, ROOT_FD).is_ok())
        && ends
            .hand_over
            .as_ref()
            .is_none_or(|socket| inherited::place(socket.as_fd(), HAND_OVER_FD).is_ok());
    // The zygote blocks SIGCHLD, and a mask outlives an exec.
    if placed && SigSet::empty().thread_set_mask().is_ok() {
        inherited::exec(image, [c"plugin-helper", Role::Helper.mark(), c""]);
    }
}
