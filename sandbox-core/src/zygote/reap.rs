//! Reaps the helpers, and tells the host how each has ended. Runs in the zygote, all of whose children are helpers, and, as
//! the first process of its pid namespace, what they have left behind.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use crate::shared::sys::wait::{Ended, reap_one};
use crate::shared::wire::packets;
use crate::shared::wire::zygote::{FromZygote, HelperId, Reaped};

/// The helpers that live, by their ids in the zygote's pid namespace.
pub(crate) type Living = HashMap<i32, HelperId>;

/// Reaps all that have ended.
pub(crate) fn all(socket: BorrowedFd<'_>, living: &mut Living) {
    while let Some(Ended { pid, status, max_rss_kib, cpu_time }) = reap_one() {
        if let Some(id) = living.remove(&pid) {
            let reaped = Reaped { status, max_rss_kib, cpu_time };
            let exited = FromZygote::Exited { id, reaped };
            // If the host is gone the loop's next read says so.
            let _ = packets::send(socket, &exited, &[]);
        }
    }
}
