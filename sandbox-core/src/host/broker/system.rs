//! Files that say something of the machine: what the `system` permission opens of `/proc`, `/sys` and `/etc`.
//!
//! Runs in the host, on a worker. Owns the list of them: what is not on it, no permission opens. A plugin gets a copy, made at
//! that moment, which nobody can change; never a descriptor of the kernel's own file systems.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};

use super::base::{self, neutral_file, neutral_stat};
use super::files::memory_file;
use super::requests::{Answer, Attempt, Refused, Request};
use crate::shared::errno::from_rustix;
use crate::shared::policy::PERMISSION_SYSTEM;

/// What is read of one file. On a machine with a thousand CPUs `/proc/cpuinfo` is a megabyte.
const MOST_BYTES: u64 = 4 << 20;

/// Only `system` opens these.
const KERNELS: [&str; 12] = [
    "/proc/cpuinfo",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/osrelease",
    "/proc/sys/kernel/ostype",
    "/proc/uptime",
    "/proc/version",
    "/sys/devices/system/cpu/online",
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/present",
];

/// `system` opens these, and so does a grant of the files themselves.
const FILES: [&str; 3] = ["/etc/hostname", "/etc/os-release", "/usr/lib/os-release"];

/// What of `/proc/stat` is told: the counts of interrupts would tell when a key is pressed.
const STAT_LINES: [&str; 3] = ["cpu", "btime ", "procs_"];

/// A path of the list, and whether somebody else may open it too.
fn find(path: &[u8]) -> Option<(&'static str, bool)> {
    let find = |list: &[&'static str]| list.iter().find(|known| known.as_bytes() == path).copied();
    find(&KERNELS).map(|path| (path, false)).or_else(|| find(&FILES).map(|path| (path, true)))
}

impl Request<'_> {
    /// Opens, for reading, what says something of the machine; `None` if `path` does not, or is somebody else's to judge.
    pub(super) fn open_fact(&self, path: &[u8], cloexec: bool) -> Option<Answer> {
        if let Some(text) = self.resolver_file(path) {
            let file = memory_file(text.as_bytes());
            return Some(file.map_or_else(Answer::Errno, |file| Answer::File { file, cloexec }));
        }
        let path = match self.judge_fact(path, "open")? {
            Ok(path) => path,
            Err(answer) => return Some(answer),
        };
        Some(copy(path).map_or_else(Answer::Errno, |file| Answer::File { file, cloexec }))
    }

    /// The same, of stat(2).
    pub(super) fn stat_fact(&self, path: &[u8], address: u64) -> Option<Answer> {
        if let Some(text) = self.resolver_file(path) {
            // With its length: a C library that found none of it before takes an empty one for the same.
            return Some(self.write(address, &neutral_file(text.len())));
        }
        let judged = self.judge_fact(path, "stat")?;
        Some(
            judged
                .map_or_else(|answer| answer, |_| self.write(address, &neutral_stat(libc::S_IFREG | 0o444))),
        )
    }

    /// The same, of access(2).
    pub(super) fn access_fact(&self, path: &[u8], mode: u32) -> Option<Answer> {
        if mode & (libc::W_OK | libc::X_OK).cast_unsigned() != 0 {
            return None;
        }
        if self.resolver_file(path).is_some() {
            return Some(Answer::Value(0));
        }
        Some(self.judge_fact(path, "access")?.map_or_else(|answer| answer, |_| Answer::Value(0)))
    }

    fn judge_fact(&self, path: &[u8], action: &'static str) -> Option<Result<&'static str, Answer>> {
        let (known, elsewhere) = find(path)?;
        let attempt = Attempt { permission: "system", action, object: path };
        if self.grants().holds_named("system") {
            self.event(attempt, None, true, "granted: system");
            return Some(Ok(known));
        }
        if elsewhere || base::find(path).is_some() {
            return None;
        }
        let refused = Refused::new(Errno::EACCES, None, "not granted");
        Some(Err(self.refuse(attempt, refused.wanting(Some(PERMISSION_SYSTEM)))))
    }
}

/// What stands in a file of the list at this moment, in a file that nobody can change.
fn copy(path: &'static str) -> Result<OwnedFd, Errno> {
    let errno = |error: &std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    // Without O_NONBLOCK a FIFO in its place would hold this thread.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(opened.map_err(from_rustix)?);
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Err(Errno::EACCES);
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|error| errno(&error))?;
    if path == "/proc/stat" {
        bytes = told_of_stat(&bytes);
    }
    memory_file(&bytes)
}

fn told_of_stat(bytes: &[u8]) -> Vec<u8> {
    let told = |line: &&[u8]| STAT_LINES.iter().any(|start| line.starts_with(start.as_bytes()));
    bytes.split_inclusive(|byte| *byte == b'\n').filter(told).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_by_whole_paths() {
        for (path, found) in [
            (&b"/proc/cpuinfo"[..], Some(("/proc/cpuinfo", false))),
            (b"/etc/hostname", Some(("/etc/hostname", true))),
            (b"/proc/cpuinfo2", None),
            (b"/proc/cpuinf", None),
            (b"/proc//cpuinfo", None),
            (b"/proc/self/environ", None),
            (b"/etc/machine-id", None),
        ] {
            assert_eq!(find(path), found);
        }
    }

    #[test]
    fn interrupts_are_not_told() {
        let stat =
            b"cpu  1 2\ncpu0 1 2\nintr 5 1 2\nctxt 9\nbtime 77\nprocesses 3\nprocs_running 1\nsoftirq 1\n";
        assert_eq!(told_of_stat(stat), b"cpu  1 2\ncpu0 1 2\nbtime 77\nprocs_running 1\n");
    }
}
