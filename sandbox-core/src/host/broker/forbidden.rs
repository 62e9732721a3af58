//! Calls that no plugin makes by accident: whoever makes one is ended, and its caller never hears of it again.
//!
//! Runs in the host, on a worker. Owns that the call never happens: it is not answered, and never let go on, whatever comes
//! of the kill, and who ends for it: the plugin, whichever of its processes asks, for that is its code; but of a program that it
//! was granted that process alone, since programs of the system's try such calls at their start and mean nothing by it.

use nix::errno::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::requests::{Answer, Attempt, Request};
use crate::host::end::cause::Cause;
use crate::host::procfs;
use crate::shared::plan::seccomp;

/// Ends who asks, if it asks for one of these.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    let name = seccomp::forbidden(request.nr())?;
    let attempt = Attempt { permission: "system", action: name, object: b"" };
    request.event(attempt, None, false, "no plugin may, and it ends who tries");
    if is_of_a_program(request) && end_process(request).is_ok() {
        return Some(Answer::Given);
    }
    request.instance.kill_guilty(Cause::ForbiddenCall {
        call: Some(name),
        number: Some(request.nr()),
        arguments: Box::new(request.notification.args),
    });
    Some(Answer::Given)
}

/// Whether another program runs in the process that asks: not the helper's own, whose forks run the plugin's code, perhaps in
/// the plugin's very memory. A process that cannot be looked at is the plugin's.
fn is_of_a_program(request: &Request<'_>) -> bool {
    if request.is_helper() {
        return false;
    }
    let (helper, caller) = (request.instance.pid.0, request.notification.tid);
    match (procfs::program(helper), procfs::program(caller)) {
        (Some(helper), Some(caller)) => caller != helper,
        // One that has been ended meanwhile does not wait, and is of no account.
        _ => !request.still_waits(),
    }
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
