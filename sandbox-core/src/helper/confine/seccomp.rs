//! Installs the final filter. Runs in the helper, step 8; whatever comes later could be dodged by the plugin.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use super::privileges;
use crate::shared::notes::Notes;
use crate::shared::plan::seccomp::{Surroundings, loading_program, programs};
use crate::shared::policy::{Layer, Sabotage};
use crate::shared::sys::seccomp::{install_filter, install_notifying_filter};
use crate::shared::sys::trap::answer_stats;
use crate::shared::wire::report::{Call, Step};

/// The listener, and whether the kernel waits killable.
pub(crate) fn install(
    around: Surroundings,
    sabotage: &Sabotage,
    notes: &mut Notes,
) -> Option<(OwnedFd, bool)> {
    if sabotage.takes(Layer::Seccomp) {
        return without(sabotage, notes);
    }
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

/// For a test: what is left without the layer is that the library comes through the broker.
fn without(sabotage: &Sabotage, notes: &mut Notes) -> Option<(OwnedFd, bool)> {
    let program = loading_program().map_err(|_| Errno::EINVAL);
    let program = notes.tried(Step::Seccomp, Call::Seccomp, program)?;
    let listener = notes.tried(Step::Seccomp, Call::Seccomp, install_notifying_filter(&program));
    if sabotage.takes(Layer::NoNewPrivs) {
        privileges::clear_sets(notes); // what was kept for the line above
    }
    listener
}
