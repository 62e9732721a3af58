//! A plugin's thread has faulted and stands still for the host to look: `shared::sys::fault`.
//!
//! Runs in the host. Owns how often, and that the thread goes on, to its end, whatever comes of the look. That is on a thread of
//! its own, since it reads files: no worker is held. What it sees is the plugin's own word.

use std::os::fd::AsFd;
use std::sync::Arc;

use nix::errno::Errno;

use super::Brokered;
use super::requests::{Answer, Request};
use crate::host::end::fault::{Place, look};
use crate::host::instance::Instance;
use crate::shared::sys::fault::SHOW_FAULT;
use crate::shared::sys::{seccomp, signals};

/// How often one helper is looked at: a thread that faults, others that do meanwhile, and some that were survived.
const MOST_LOOKS: u32 = 4;

/// Has the fault looked at, if this is one that is shown.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    if request.nr() != libc::SYS_prctl || request.arg(0) != SHOW_FAULT {
        return None;
    }
    // Of a process that the plugin has started its parent is told how it ended.
    if !request.is_helper() || request.instance.count_look() > MOST_LOOKS {
        return Some(Answer::Errno(Errno::ENOSYS));
    }
    let shown = Shown {
        instance: Arc::clone(request.instance),
        brokered: Arc::clone(request.brokered),
        id: request.notification.id,
    };
    let place = Place {
        tid: request.notification.tid,
        info: request.arg(1),
        context: request.arg(2),
        loaded: request.arg(3),
    };
    let thread = std::thread::Builder::new().name("plugin-fault".to_owned());
    // Where no thread can be had `shown` is dropped, which answers.
    let _ = thread.spawn(move || {
        signals::block_all();
        let _in_turn = shown.instance.looking();
        let Shown { instance, brokered, .. } = &shown;
        if let Some(fault) = look(instance.pid, &brokered.memory, &brokered.served, &place) {
            instance.has_faulted(fault);
        }
    });
    Some(Answer::Given)
}

/// A thread that waits until it was looked at.
struct Shown {
    instance: Arc<Instance>,
    brokered: Arc<Brokered>,
    id: u64,
}

impl Drop for Shown {
    fn drop(&mut self) {
        let _ = seccomp::answer(self.brokered.listener.as_fd(), self.id, Ok(0));
    }
}
