//! Leaves the host's file tree. Runs in the helper, step 4, while it still has CAP_SYS_ADMIN over its mount namespace.

use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns, unshare};

use crate::shared::empty_root;
use crate::shared::notes::Notes;
use crate::shared::plan::namespaces::RootPlan;
use crate::shared::sys::inherited;
use crate::shared::wire::report::{Call, Step};

/// Where the zygote puts the namespace with the empty root.
const SHARED_ROOT_FD: i32 = 5;

/// Enters the planned root. Whether it is empty now: the filter goes by that.
pub(crate) fn enter(plan: RootPlan, notes: &mut Notes) -> bool {
    match plan {
        RootPlan::None => false,
        RootPlan::Own => empty_root::enter(notes, Step::EmptyRoot),
        RootPlan::Shared => {
            let entered = inherited::take(SHARED_ROOT_FD)
                .and_then(|namespace| setns(namespace.as_fd(), CloneFlags::CLONE_NEWNS));
            // A copy of that one mount, so that a program which is shown to this plugin is shown to no other.
            notes.tried(Step::EmptyRoot, Call::Setns, entered).is_some()
                && notes.tried(Step::EmptyRoot, Call::Unshare, unshare(CloneFlags::CLONE_NEWNS)).is_some()
        }
    }
}
