//! Calls that ask about the machine: uname(2), sysinfo(2).
//!
//! Runs in the host, on a worker. Neutral answers, unless `system` is granted.

use super::base;
use super::requests::{Answer, Attempt, Request};

/// Serves a call about the machine; `None` if this is none.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    let action = match request.nr() {
        libc::SYS_uname => "uname",
        libc::SYS_sysinfo => "sysinfo",
        _ => return None,
    };
    let subject = &request.instance.subject;
    let own = subject.holds_named("system");
    if own {
        let attempt = Attempt { permission: "system", action, object: b"" };
        request.event(attempt, None, true, "granted: system");
    }
    let bytes = match action {
        "uname" => base::utsname(own),
        _ if own => base::own_sysinfo(),
        _ => base::sysinfo(subject.limits().max_memory_mb),
    };
    Some(request.write(request.arg(0), &bytes))
}
