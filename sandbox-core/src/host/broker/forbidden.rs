//! Calls that no plugin makes by accident: whoever makes one is ended, and its caller never hears of it again.
//!
//! Runs in the host, on a worker. Owns that the call never happens: it is not answered, and never let go on, whatever comes
//! of the kill. A helper's end is the plugin's; of what a plugin has started that process alone ends.

use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::requests::{Answer, Attempt, Request};
use crate::host::end::cause::Cause;
use crate::shared::plan::seccomp;

/// Ends who asks, if it asks for one of these.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    let name = seccomp::forbidden(request.nr())?;
    let attempt = Attempt { permission: "system", action: name, object: b"" };
    request.event(attempt, None, false, "no plugin may, and it ends who tries");
    if !request.is_helper() && end_process(request).is_ok() {
        return Some(Answer::Given);
    }
    request.instance.kill_guilty(Cause::ForbiddenCall {
        call: Some(name),
        number: Some(request.nr()),
        arguments: Box::new(request.notification.args),
    });
    Some(Answer::Given)
}

/// Ends the process whose thread asks, and no other that has its number by now.
fn end_process(request: &Request<'_>) -> Result<(), Errno> {
    let pid = Pid::from_raw(request.process()).ok_or(Errno::ESRCH)?;
    let gone = |errno: rustix::io::Errno| Errno::from_raw(errno.raw_os_error());
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(errno) => return if request.still_waits() { Err(gone(errno)) } else { Ok(()) },
    };
    if !request.still_waits() {
        return Ok(());
    }
    pidfd_send_signal(process, Signal::KILL).map_err(gone)
}
