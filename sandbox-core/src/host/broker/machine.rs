//! Calls that ask about the machine: uname(2), sysinfo(2).
//!
//! Runs in the host, on a worker. Neutral answers, unless `system` is granted.

use super::base;
use super::requests::{Answer, Request};

/// Serves a call about the machine; `None` if this is none.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    let subject = &request.instance.subject;
    Some(match request.nr() {
        libc::SYS_uname => request.write(request.arg(0), &base::utsname(subject.holds_named("system"))),
        libc::SYS_sysinfo => request.write(request.arg(0), &base::sysinfo(subject.limits().max_memory_mb)),
        _ => return None,
    })
}
