//! Installs the final filter. Runs in the helper, step 8; whatever comes later could be dodged by the plugin.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::shared::notes::Notes;
use crate::shared::plan::seccomp::{Surroundings, programs};
use crate::shared::sys::seccomp::{install_filter, install_notifying_filter};
use crate::shared::sys::trap::answer_stats;
use crate::shared::wire::report::{Call, Step};

/// The listener, and whether the kernel waits killable.
pub(crate) fn install(around: Surroundings, notes: &mut Notes) -> Option<(OwnedFd, bool)> {
    let programs = programs(around, std::process::id()).map_err(|_| Errno::EINVAL);
    let programs = notes.tried(Step::Seccomp, Call::Seccomp, programs)?;
    notes.tried(Step::Seccomp, Call::Seccomp, install_filter(&programs.known));
    if let Some(trap) = &programs.trap {
        notes.tried(Step::Seccomp, Call::Sigaction, answer_stats());
        notes.tried(Step::Seccomp, Call::Seccomp, install_filter(trap));
    }
    // The last: it holds whoever installs another.
    notes.tried(Step::Seccomp, Call::Seccomp, install_notifying_filter(&programs.notify))
}
