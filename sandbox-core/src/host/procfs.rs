//! What `/proc/PID` shows of a helper from outside: proc_pid_status(5) and its neighbours.
//!
//! Runs in the host. What cannot be read counts as not standing.

use std::collections::HashSet;
use std::fs;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

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

/// The children that one thread has started and that live, or were not waited for.
pub(crate) fn children_of_thread(tid: i32) -> Vec<HostPid> {
    let text = fs::read_to_string(format!("/proc/{tid}/task/{tid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(HostPid).collect()
}

/// Whether this kernel tells of a thread's children at all (CONFIG_PROC_CHILDREN).
pub(crate) fn shows_children() -> bool {
    fs::metadata("/proc/thread-self/children").is_ok()
}

/// The threads of a process.
pub(crate) fn threads(pid: HostPid) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{}/task", pid.0)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The most processes of one plugin that are looked at: more than a system has.
const MOST_DESCENDANTS: usize = 1 << 22;

/// All below a process, which itself is not among them. One that is started or moves meanwhile may be missed.
pub(crate) fn descendants(of: HostPid) -> Vec<HostPid> {
    let (mut found, mut known) = (Vec::new(), HashSet::from([of]));
    let (mut next, mut looked_at) = (Some(of), 0);
    while let Some(pid) = next {
        // One may be seen twice, with its parent and, when that has ended, with the helper.
        let children = threads(pid).into_iter().flat_map(children_of_thread);
        found.extend(children.filter(|child| known.insert(*child)));
        next = found.get(looked_at).copied().filter(|_| found.len() < MOST_DESCENDANTS);
        looked_at += 1;
    }
    found
}

/// What the first thread of a process does: `R`, `S`, `T` for stopped, `Z` for one that has ended before the others.
pub(crate) fn first_thread(pid: HostPid) -> Option<char> {
    Status::read(pid).get("State").chars().next()
}

/// Whether `tid` is a thread of the process `pid`.
pub(crate) fn is_thread_of(pid: HostPid, tid: i32) -> bool {
    fs::symlink_metadata(format!("/proc/{}/task/{tid}", pid.0)).is_ok()
}

/// The process that a thread is of.
pub(crate) fn process_of(tid: i32) -> Option<HostPid> {
    Status::read(HostPid(tid)).get("Tgid").parse().ok().map(HostPid)
}

/// How often a thread has come off a processor, of its own or not.
pub(crate) fn switches(tid: i32) -> u64 {
    let status = Status::read(HostPid(tid));
    let count = |key| status.get(key).parse().unwrap_or(0_u64);
    count("voluntary_ctxt_switches").saturating_add(count("nonvoluntary_ctxt_switches"))
}

/// The process that has started this one, or that it came to when that had ended.
pub(crate) fn parent_of(pid: HostPid) -> Option<HostPid> {
    Status::read(pid).get("PPid").parse().ok().filter(|pid| *pid > 0).map(HostPid)
}

/// A copy of a descriptor of the process that a thread is of, whoever that is by now: pidfd_getfd(2).
pub(crate) fn descriptor_of(tid: i32, number: RawFd) -> Result<OwnedFd, rustix::io::Errno> {
    let process = process_of(tid).and_then(|pid| Pid::from_raw(pid.0)).ok_or(rustix::io::Errno::SRCH)?;
    pidfd_getfd(pidfd_open(process, PidfdFlags::empty())?, number, PidfdGetfdFlags::empty())
}

/// The id that a process has in its own pid namespace.
pub(crate) fn own_number(pid: HostPid) -> Option<i32> {
    Status::read(pid).get("NSpid").split_whitespace().last()?.parse().ok()
}

/// Which file a thread's program is.
pub(crate) fn program(tid: i32) -> Option<(u64, u64)> {
    let file = fs::metadata(format!("/proc/{tid}/exe")).ok()?;
    Some((file.dev(), file.ino()))
}

/// CPU time of a process, in ticks of some ten milliseconds: proc_pid_stat(5).
pub(crate) struct Times {
    pub(crate) own: Duration,
    /// That of the children that it has waited for, and of theirs.
    pub(crate) waited_for: Duration,
}

pub(crate) fn times(pid: HostPid) -> Option<Times> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.0)).ok()?;
    let ticks_a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let millis = 1000 / u64::try_from(ticks_a_second).ok()?.max(1);
    // Behind the name, which may hold anything: the state, ten more numbers, and the four times.
    let mut numbers = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut time =
        || Some(Duration::from_millis(numbers.next()?.parse::<u64>().ok()?.saturating_mul(millis)));
    let (user, system, waited_user, waited_system) = (time()?, time()?, time()?, time()?);
    Some(Times { own: user + system, waited_for: waited_user + waited_system })
}

/// Whether a process is on its way out: what can be seen of it is less and less. One that is gone is.
pub(crate) fn is_exiting(pid: HostPid) -> bool {
    const PF_EXITING: u64 = 0x4; // linux/sched.h
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.0)).unwrap_or_default();
    // Behind the name: the state, five more numbers, and the flags.
    let flags =
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & PF_EXITING != 0)
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
