//! Ends what helpers that have ended leave behind: processes that plugins had started.
//!
//! Runs in the zygote. A living helper's are its own, even those whose parent has ended (it is a subreaper); the others come
//! to the zygote, as the first process of the pid namespace.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::reap::Living;

/// Kills every child that is no helper. Whether there is one that is not reaped yet.
pub(super) fn end_all(living: &Living) -> bool {
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let mut left = false;
    for child in children.split_whitespace() {
        // This /proc is the host's, and its numbers too.
        let Some(pid) = own_number(child).filter(|pid| !living.contains_key(pid)) else { continue };
        left = true;
        // Nobody else reaps it, so that the number is its own.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    left
}

/// The number that a process has in this pid namespace: proc_pid_status(5), NSpid.
fn own_number(child: &str) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{child}/status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().last()?.parse().ok()
}
