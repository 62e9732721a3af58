//! What `/proc/PID` shows of a helper from outside: proc_pid_status(5) and its neighbours.
//!
//! Runs in the host. What cannot be read counts as not standing.

use std::fs;

/// A process's id in the host's pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct HostPid(pub(crate) i32);

impl HostPid {
    /// The process behind a pidfd, which the kernel shows in the pid namespace of this `/proc`.
    pub(crate) fn of(pidfd: &impl std::os::fd::AsRawFd) -> Option<Self> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
        (pid > 0).then_some(Self(pid))
    }
}

/// `/proc/PID/status`, as it was at one moment.
#[derive(Debug, Default)]
pub(crate) struct Status(String);

impl Status {
    pub(crate) fn read(pid: HostPid) -> Self {
        Self(fs::read_to_string(format!("/proc/{}/status", pid.0)).unwrap_or_default())
    }

    /// The value of one line; empty if it is not there.
    pub(crate) fn get(&self, key: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_default().trim()
    }
}

/// The inode number of one of a process's namespaces.
pub(crate) fn namespace(pid: Option<HostPid>, kind: &str) -> Option<String> {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.0.to_string());
    let link = fs::read_link(format!("/proc/{process}/ns/{kind}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// The mounts that a process sees, one line each.
pub(crate) fn mounts(pid: HostPid) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{}/mountinfo", pid.0)).ok()?;
    Some(text.lines().map(str::to_owned).collect())
}

/// `/proc/PID/limits`, as it was at one moment.
#[derive(Debug, Default)]
pub(crate) struct Limits(String);

impl Limits {
    pub(crate) fn read(pid: HostPid) -> Self {
        Self(fs::read_to_string(format!("/proc/{}/limits", pid.0)).unwrap_or_default())
    }

    /// The soft and the hard limit of this name; `None` inside for unlimited.
    pub(crate) fn get(&self, name: &str) -> Option<(Option<u64>, Option<u64>)> {
        let row = self.0.lines().find_map(|line| line.strip_prefix(name))?;
        let mut columns = row.split_whitespace().map(|column| match column {
            "unlimited" => Some(None),
            number => number.parse().ok().map(Some),
        });
        Some((columns.next()??, columns.next()??))
    }
}
