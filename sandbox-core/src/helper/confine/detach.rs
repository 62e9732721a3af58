//! Own session, no descriptor but the channel's and what it prints, and a user namespace of its own where one is planned.
//!
//! Runs in the helper, step 2: freshly execed, one thread, the zygote's file tree still in sight. The environment is empty
//! since the exec. Owns that the namespace is made *before* the rlimits, which it remembers as its own ceiling.

use nix::sched::{CloneFlags, unshare};
use rustix::fs::Mode;

use crate::shared::notes::Notes;
use crate::shared::plan::HelperPlan;
use crate::shared::plan::namespaces::{RootPlan, SHOWN_ID, UserPlan};
use crate::shared::sys::inherited;
use crate::shared::wire::hand_over::HAND_OVER_FD;
use crate::shared::wire::report::{Call, Step};

const ROOT: u32 = 5;
const HAND_OVER: u32 = HAND_OVER_FD.cast_unsigned();

/// Cuts what ties the helper to whoever started it.
pub(crate) fn detach(plan: &HelperPlan, notes: &mut Notes) {
    notes.tried(Step::Detach, Call::Setsid, rustix::process::setsid());
    // What its own children leave behind comes to it, and stays in sight of whoever counts or ends them.
    let itself = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    notes.tried(Step::Detach, Call::Subreaper, itself);
    notes.tried(Step::Detach, Call::Chdir, rustix::process::chdir("/"));
    let _ = rustix::process::umask(Mode::from_raw_mode(0o077));
    // Number 5 is the namespace with the empty root, closed as soon as it is entered; 6 the socket of what is handed over.
    if plan.root != RootPlan::Shared {
        inherited::close_between(ROOT, ROOT);
    }
    inherited::close_from(HAND_OVER + u32::from(plan.hands_over));
    if plan.user == UserPlan::Own {
        own_user_namespace(notes);
    }
}

fn own_user_namespace(notes: &mut Notes) {
    // Read before: inside an unmapped namespace one is nobody.
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let made = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS);
    if notes.tried(Step::Detach, Call::Unshare, made).is_none() {
        return;
    }
    let map = |file: &str, inside: u32, outside: u32| {
        std::fs::write(format!("/proc/self/{file}"), format!("{inside} {outside} 1\n"))
    };
    notes.tried(Step::Detach, Call::UidMap, map("uid_map", SHOWN_ID, user));
    notes.tried(Step::Detach, Call::GidMap, map("gid_map", SHOWN_ID, group));
}
