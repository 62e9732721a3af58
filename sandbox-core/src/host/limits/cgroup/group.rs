//! One helper's groups: bounded, read, and removed with it.
//!
//! Runs in the host. Owns the folders. What is told of them is what the kernel shows.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};

use super::home::Controller;
use super::leftovers::{Leftovers, is_busy, remove_empty, told};
use crate::host::limits::usage::MemoryMeter;
use crate::shared::policy::ResourceLimits;

/// What the kernel itself keeps for a helper, beside what its limit is about: page tables, pipes, the start of its image.
const KERNELS_OWN_BYTES: u64 = 16 << 20;

/// In what time a CPU share is to be kept, in microseconds: as the kernel has it from the start.
const CPU_PERIOD_US: u64 = 100_000;

/// One helper's groups. Removed when it is dropped, if not before; either must be after the helper's end.
#[derive(Debug)]
pub(crate) struct Group {
    pub(super) unified: Option<PathBuf>,
    pub(super) legacy_memory: Option<PathBuf>,
    pub(super) legacy_cpu: Option<PathBuf>,
    /// Whether each is bounded, or why it is not.
    pub(super) memory: Result<(), String>,
    pub(super) pids: Result<(), String>,
    pub(super) cpu: Result<(), String>,
    /// Whether threads and processes are counted by nothing else. A helper that has no namespaces starts no processes.
    pub(super) counts_threads: bool,
    pub(super) removed: AtomicBool,
    pub(super) leftovers: Arc<Leftovers>,
}

/// By what a helper's groups hold it; else why they do not.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) memory: Result<String, String>,
    /// Its CPU share.
    pub(crate) cpu: Result<String, String>,
    /// Its threads and processes together.
    pub(crate) tasks: Result<String, String>,
}

/// What a zygote needs to have a helper in its groups from the start.
#[derive(Debug, Default)]
pub(crate) struct Doors {
    /// For clone3(2)'s CLONE_INTO_CGROUP.
    pub(crate) unified: Option<OwnedFd>,
    /// `tasks` of version 1: a thread that writes 0 there is in that group, without a wait.
    pub(crate) legacy: Vec<OwnedFd>,
}

impl Group {
    /// What has a helper in it from its start.
    pub(crate) fn doors(&self) -> io::Result<Doors> {
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let unified = self.unified.as_ref().map(|path| rustix::fs::open(path, folder, Mode::empty()));
        let join = |path: &PathBuf| {
            rustix::fs::open(path.join("tasks"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        };
        let legacy = self.legacy_memory.iter().chain(&self.legacy_cpu).map(join);
        Ok(Doors { unified: unified.transpose()?, legacy: legacy.collect::<Result<_, _>>()? })
    }

    /// The helper could not be cloned into its group.
    pub(crate) fn was_not_entered(&mut self, why: &str) {
        for (folder, state) in [(&self.legacy_memory, &mut self.memory), (&self.legacy_cpu, &mut self.cpu)] {
            if folder.is_none() && state.is_ok() {
                *state = Err(why.to_owned());
            }
        }
        if self.pids.is_ok() {
            self.pids = Err(why.to_owned());
        }
    }

    /// Sets the limits for the first time: while the helper starts, which takes longer. None of the plugin's code runs before
    /// the host has read them back. `counts_alone`: whether an rlimit counts this helper's threads and no others.
    /// `with_courier`: whether it has a child that has ended by then, for which there must be room.
    pub(crate) fn bound(&mut self, limits: &ResourceLimits, counts_alone: bool, with_courier: bool) {
        self.counts_threads = !counts_alone;
        let failed = |error: io::Error| error.to_string();
        if self.memory.is_ok() {
            self.memory = self.set_memory(limits.max_memory_mb).and_then(|()| self.bound_swap());
        }
        if self.pids.is_ok() {
            self.pids = self.set_tasks(limits, if with_courier { 2 } else { 1 }).map_err(failed);
        }
        if self.cpu.is_ok() {
            self.cpu = self.set_cpu(limits.max_cpu_percent).map_err(failed);
        }
    }

    /// The courier has ended, and its room goes with it.
    pub(crate) fn bound_without_courier(&self, limits: &ResourceLimits) -> io::Result<()> {
        if self.pids.is_ok() { self.set_tasks(limits, 1) } else { Ok(()) }
    }

    /// Sets the limit, of a running helper too.
    pub(crate) fn set_memory(&self, max_mb: Option<u64>) -> Result<(), String> {
        let bytes = max_mb.map(|mb| (mb << 20).saturating_add(KERNELS_OWN_BYTES));
        if let Some(folder) = &self.legacy_memory {
            let text = bytes.map_or_else(|| "-1".to_owned(), |bytes| bytes.to_string());
            let (memory, both) =
                (folder.join("memory.limit_in_bytes"), folder.join("memory.memsw.limit_in_bytes"));
            // The first may never be above the second: whichever way it goes, one of the two orders is right.
            return fs::write(&memory, &text)
                .and_then(|()| write_if_there(&both, &text))
                .or_else(|_| write_if_there(&both, &text).and_then(|()| fs::write(&memory, &text)))
                .map_err(|error| format!("memory.limit_in_bytes: {error}"));
        }
        let text = bytes.map_or_else(|| "max".to_owned(), |bytes| bytes.to_string());
        self.write("memory.max", &text).map_err(|error| format!("memory.max: {error}"))
    }

    /// A bound on memory that lets it be swapped out is none.
    fn bound_swap(&self) -> Result<(), String> {
        let bounded = match &self.legacy_memory {
            Some(folder) => folder.join("memory.memsw.limit_in_bytes").exists(),
            None => {
                let _ = self.write("memory.oom.group", "1");
                self.write("memory.swap.max", "0").is_ok()
            }
        };
        if bounded || !swap_is_on() {
            return Ok(());
        }
        Err("swap is on and cannot be bounded: a bound on memory alone is none".to_owned())
    }

    /// Sets how many threads and processes there may be together.
    fn set_tasks(&self, limits: &ResourceLimits, least: u64) -> io::Result<()> {
        let processes = if self.counts_threads { Some(0) } else { limits.max_processes };
        let most = limits.max_threads.zip(processes);
        // As RLIMIT_NPROC counts them: all that runs.
        let most =
            most.map(|(threads, processes)| threads.saturating_add(processes).saturating_add(1).max(least));
        let text = most.map_or_else(|| "max".to_owned(), |most| most.to_string());
        self.write("pids.max", &text)
    }

    /// Sets which part of one CPU it may use.
    pub(crate) fn set_cpu(&self, percent: Option<u64>) -> io::Result<()> {
        let quota = percent.map(|percent| percent.saturating_mul(CPU_PERIOD_US / 100));
        if let Some(folder) = &self.legacy_cpu {
            let text = quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string());
            return fs::write(folder.join("cpu.cfs_quota_us"), text);
        }
        match (&self.unified, quota) {
            (Some(_), quota) => {
                let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                self.write("cpu.max", &format!("{quota} {CPU_PERIOD_US}"))
            }
            // Its tree was not entered, since no share was asked for.
            (None, None) => Ok(()),
            (None, Some(_)) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Changes all of them while the helper runs, as far as they are held.
    pub(crate) fn set_limits(&self, limits: &ResourceLimits) {
        let text = |error: io::Error| error.to_string();
        let changes = [
            self.memory.is_ok().then(|| self.set_memory(limits.max_memory_mb)),
            self.pids.is_ok().then(|| self.set_tasks(limits, 1).map_err(text)),
            self.has_cpu().then(|| self.set_cpu(limits.max_cpu_percent).map_err(text)),
        ];
        for error in changes.into_iter().flatten().filter_map(Result::err) {
            tracing::warn!(error, "a limit of a running plugin's cgroup stays as it was");
        }
    }

    /// Whether a running helper's CPU share can be changed.
    pub(crate) fn has_cpu(&self) -> bool {
        self.cpu.is_ok() && (self.unified.is_some() || self.legacy_cpu.is_some())
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let folder = self.unified.as_ref().ok_or(io::ErrorKind::NotFound)?;
        fs::write(folder.join(file), text)
    }

    fn read(&self, folder: Option<&PathBuf>, file: &str) -> Option<String> {
        Some(fs::read_to_string(folder?.join(file)).ok()?.trim().to_owned())
    }

    /// What holds a helper, as the kernel tells it.
    pub(crate) fn standing(&self, pid: i32) -> Standing {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Standing {
            memory: self.memory_stands(&groups),
            cpu: self.cpu_stands(&groups),
            tasks: self.tasks_stand(&groups),
        }
    }

    /// Whether a process of these groups is in that one.
    fn has(&self, groups: &str, folder: &Path, controller: Controller) -> bool {
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else { return false };
        let unified = self.unified.as_deref() == Some(folder);
        groups.lines().filter(|line| line.ends_with(name)).any(|line| {
            let controllers = line.split(':').nth(1).unwrap_or_default();
            if unified {
                controllers.is_empty()
            } else {
                controllers.split(',').any(|has| has == controller.name())
            }
        })
    }

    fn memory_stands(&self, groups: &str) -> Result<String, String> {
        self.memory.clone()?;
        let show = |folder: Option<&PathBuf>, file: &str| {
            self.read(folder, file).map(|text| format!("{file}: {text}"))
        };
        let (folder, files) = match &self.legacy_memory {
            Some(folder) => (Some(folder), ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]),
            None => (self.unified.as_ref(), ["memory.max", "memory.swap.max"]),
        };
        let is_in = folder.is_some_and(|folder| self.has(groups, folder, Controller::Memory));
        let shown = show(folder, files[0]).filter(|_| is_in);
        let shown = shown.ok_or("the kernel does not show the helper in its group")?;
        let swap = show(folder, files[1]).unwrap_or_else(|| "no swap is on".to_owned());
        Ok(format!("{shown}, {swap}"))
    }

    fn cpu_stands(&self, groups: &str) -> Result<String, String> {
        self.cpu.clone()?;
        let (folder, file) = match &self.legacy_cpu {
            Some(folder) => (Some(folder), "cpu.cfs_quota_us"),
            None => (self.unified.as_ref(), "cpu.max"),
        };
        let is_in = folder.is_some_and(|folder| self.has(groups, folder, Controller::Cpu));
        let shown = self.read(folder, file).filter(|_| is_in);
        shown
            .map(|text| format!("{file}: {text}"))
            .ok_or_else(|| "the kernel does not show the helper in its group".to_owned())
    }

    fn tasks_stand(&self, groups: &str) -> Result<String, String> {
        self.pids.clone()?;
        let is_in = self.unified.as_ref().is_some_and(|folder| self.has(groups, folder, Controller::Pids));
        let shown = self.read(self.unified.as_ref(), "pids.max").filter(|_| is_in);
        shown.map(|text| format!("pids.max: {text}")).ok_or_else(|| "it is in no such group".to_owned())
    }

    /// By whose account, and which files of it: how many bytes are charged now, and the most that were.
    fn account(&self) -> Option<(MemoryMeter, &PathBuf, [&'static str; 2])> {
        self.memory.as_ref().ok()?;
        match (&self.legacy_memory, &self.unified) {
            (Some(folder), _) => {
                let files = ["memory.usage_in_bytes", "memory.max_usage_in_bytes"];
                Some((MemoryMeter::CgroupV1, folder, files))
            }
            (None, Some(folder)) => Some((MemoryMeter::CgroupV2, folder, ["memory.current", "memory.peak"])),
            (None, None) => None,
        }
    }

    /// How many bytes are charged to it, and the most that were: of version 2 from Linux 5.19 on. By whose account.
    pub(crate) fn memory(&self) -> Option<(MemoryMeter, u64, Option<u64>)> {
        let (meter, folder, [now, peak]) = self.account()?;
        let number = |file| self.read(Some(folder), file)?.parse().ok();
        Some((meter, number(now)?, number(peak)))
    }

    /// The most bytes that were charged to it, at the end.
    pub(crate) fn most_memory(&self) -> Option<(MemoryMeter, Option<u64>)> {
        let (meter, folder, [_, peak]) = self.account()?;
        Some((meter, self.read(Some(folder), peak).and_then(|text| text.parse().ok())))
    }

    /// Whether the kernel has killed a member for want of memory.
    pub(crate) fn was_out_of_memory(&self) -> bool {
        let (folder, file) = match &self.legacy_memory {
            Some(folder) => (Some(folder), "memory.oom_control"),
            None => (self.unified.as_ref(), "memory.events"),
        };
        let events = self.read(folder, file).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }

    /// Removes them, their helper having ended. Who ends plugins does this, and does not wait for what a plugin may hold up: a
    /// member that does not end.
    pub(crate) fn remove(&self) {
        if self.removed.swap(true, Ordering::AcqRel) {
            return;
        }
        for folder in self.unified.iter().chain(&self.legacy_memory).chain(&self.legacy_cpu) {
            match remove_empty(folder) {
                Err(error) if is_busy(&error) => self.leftovers.add(folder.clone()),
                other => told(other),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.remove();
    }
}

fn write_if_there(file: &Path, text: &str) -> io::Result<()> {
    match fs::write(file, text) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A kernel without accounts of swap does not let the file be made, either.
        Err(_) if !file.exists() => Ok(()),
        other => other,
    }
}

fn swap_is_on() -> bool {
    fs::read_to_string("/proc/swaps").is_ok_and(|swaps| swaps.lines().count() > 1)
}
