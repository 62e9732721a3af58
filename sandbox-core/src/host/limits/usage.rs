//! How much of the machine one plugin uses, and the most that it has used.
//!
//! Runs in the host, on any thread. Owns what is remembered of it when the helper is gone. What the kernel keeps the most of
//! is the kernel's figure; of the rest the most is of the moments at which somebody looked. Never decides anything.

use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::instance::Instance;
use crate::host::lock::lock;
use crate::host::procfs::{self, HostPid, Status};
use crate::shared::plan::rlimits::OWN_DESCRIPTORS;
use crate::shared::policy::milliseconds;

/// How much of something is used, and the most that was used since the load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct Used {
    /// At the moment; 0 once the helper has ended.
    pub now: u64,
    /// The most since the plugin was loaded.
    pub peak: u64,
}

/// Where the figures on memory are from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MemoryMeter {
    /// The cgroup's own account, version 2 (`memory.current`, `memory.peak`): everything that the plugin and its programs have
    /// caused, what the kernel keeps for them included.
    CgroupV2,
    /// The same of version 1 (`memory.usage_in_bytes`, `memory.max_usage_in_bytes`).
    CgroupV1,
    /// What is resident of each of its processes (`VmRSS`, `VmHWM`): libraries that are shared count for each of them.
    #[default]
    Resident,
}

/// How much of the machine a plugin uses, with everything that it has started, since its last load.
///
/// Readable while its helper lives and after its end. Everything but CPU time and what it has printed is of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[serde(default)]
pub struct ResourceUsage {
    /// Whether its helper has ended: these are the last figures.
    pub ended: bool,
    /// CPU time of all its threads and processes since the load.
    #[serde(rename = "cpu_time_ms", with = "milliseconds")]
    pub cpu_time: Duration,
    /// The same since the last activation: what `max_cpu_time_sec` is compared with.
    #[serde(rename = "activation_cpu_time_ms", with = "milliseconds")]
    pub activation_cpu_time: Duration,
    /// Memory in bytes. The peak is the kernel's own, but for programs that the plugin starts where there is no cgroup.
    pub memory_bytes: Used,
    /// Where that is from.
    pub memory_meter: MemoryMeter,
    /// Descriptors that the plugin itself holds, in its own process; `None` where the host may not look, or nobody has. The peak
    /// is of the moments at which somebody looked.
    pub file_handles: Option<Used>,
    /// Threads besides the one that it is called on, in its own process. The peak is of the moments at which somebody looked.
    pub threads: Used,
    /// Processes beside its own. The peak is of the moments at which one was started or somebody looked.
    pub processes: Used,
    /// Live network connections.
    pub network_connections: Used,
    /// Scratch space in bytes; `None` if it has none. The peak is of the moments at which somebody looked, and of the end.
    pub scratch_bytes: Option<Used>,
    /// How many bytes it has printed.
    pub printed_bytes: u64,
    /// How many of them were over a limit, and dropped.
    pub dropped_output_bytes: u64,
}

impl Used {
    /// It is so much at the moment.
    pub(crate) fn see(&mut self, now: u64) {
        self.now = now;
        self.peak = self.peak.max(now);
    }
}

impl ResourceUsage {
    /// Nothing is used any more; the sums and the peaks stay.
    fn end(&mut self) {
        self.ended = true;
        for used in [&mut self.memory_bytes, &mut self.threads, &mut self.processes] {
            used.now = 0;
        }
        self.network_connections.now = 0;
        for used in [&mut self.file_handles, &mut self.scratch_bytes].into_iter().flatten() {
            used.now = 0;
        }
    }
}

/// What one process shows of itself.
struct Process {
    resident_bytes: u64,
    most_resident_bytes: u64,
    threads: u64,
}

impl Process {
    fn read(pid: HostPid) -> Option<Self> {
        let status = Status::read(pid);
        let kib = |key| status.get(key).split_whitespace().next()?.parse::<u64>().ok();
        let bytes = |key| kib(key).map(|kib| kib.saturating_mul(1024));
        let threads = status.get("Threads").parse().ok()?;
        let (resident_bytes, most_resident_bytes) = (bytes("VmRSS")?, bytes("VmHWM")?);
        Some(Self { resident_bytes, most_resident_bytes, threads })
    }
}

/// How many descriptors a process holds; `None` if nobody may look.
fn descriptors(pid: HostPid) -> Option<u64> {
    let all = fs::read_dir(format!("/proc/{}/fd", pid.0)).ok()?.count();
    u64::try_from(all).ok()
}

impl Instance {
    /// What it uses at the moment; after its end what it has used.
    pub(crate) fn usage(&self) -> ResourceUsage {
        let connections = self.brokered().map(|brokered| brokered.network.live(self));
        let mut usage = self.look();
        if let Some(connections) = connections.filter(|_| !usage.ended) {
            let mut kept = lock(&self.usage);
            if !kept.ended {
                kept.network_connections = connections;
                usage.network_connections = connections;
            }
        }
        usage
    }

    /// As [`usage`](Self::usage), but for the connections, which whoever calls this may be counting.
    pub(in crate::host) fn look(&self) -> ResourceUsage {
        let mut usage = lock(&self.usage);
        (usage.printed_bytes, usage.dropped_output_bytes) = self.printed_bytes();
        if usage.ended {
            return usage.clone();
        }
        let (own, handles) = (Process::read(self.pid), descriptors(self.pid));
        let below = if self.family.has_started() { procfs::descendants(self.pid) } else { Vec::new() };
        let cpu_time = self.cpu_time();
        // What was read is of this helper only if its number still is its own.
        let is_there = self.process().is_some_and(|pidfd| HostPid::of(&pidfd) == Some(self.pid));
        let Some(own) = own.filter(|_| is_there) else { return usage.clone() };
        usage.threads.see(own.threads.saturating_sub(1));
        usage.processes.see(u64::try_from(below.len()).unwrap_or(u64::MAX));
        if let Some(handles) = handles {
            usage.file_handles.get_or_insert_default().see(handles.saturating_sub(OWN_DESCRIPTORS));
        }
        if let Some(cpu_time) = cpu_time {
            self.count_cpu(&mut usage, cpu_time);
        }
        self.see_scratch(&mut usage);
        match self.cgroup.memory() {
            Some((meter, now, peak)) => {
                usage.memory_meter = meter;
                usage.memory_bytes.see(now);
                usage.memory_bytes.peak = usage.memory_bytes.peak.max(peak.unwrap_or(0));
            }
            None => {
                let theirs = below.into_iter().filter_map(Process::read);
                let theirs = theirs.fold(0u64, |sum, one| sum.saturating_add(one.resident_bytes));
                usage.memory_bytes.see(own.resident_bytes.saturating_add(theirs));
                usage.memory_bytes.peak = usage.memory_bytes.peak.max(own.most_resident_bytes);
            }
        }
        usage.clone()
    }

    fn see_scratch(&self, usage: &mut ResourceUsage) {
        let brokered = self.brokered();
        let scratch = brokered.as_ref().and_then(|brokered| brokered.scratch.as_ref());
        if let Some(used) = scratch.and_then(|scratch| scratch.used().ok()) {
            usage.scratch_bytes.get_or_insert_default().see(used);
        }
    }

    fn count_cpu(&self, usage: &mut ResourceUsage, cpu_time: Duration) {
        usage.cpu_time = usage.cpu_time.max(cpu_time);
        usage.activation_cpu_time = usage.cpu_time.saturating_sub(lock(&self.cpu).base);
    }

    /// Its helper has ended. `reaped`: its CPU time and the most memory that it had resident, in KiB, by whoever has reaped it.
    pub(in crate::host) fn end_usage(&self, reaped: Option<(Duration, u64)>) {
        let connections = self.brokered().map(|brokered| brokered.network.most());
        let mut usage = lock(&self.usage);
        self.see_scratch(&mut usage);
        let (cpu_time, max_rss_kib) = reaped.unwrap_or_default();
        self.count_cpu(&mut usage, cpu_time);
        match self.cgroup.most_memory() {
            Some((meter, peak)) => {
                usage.memory_meter = meter;
                usage.memory_bytes.peak = usage.memory_bytes.peak.max(peak.unwrap_or(0));
            }
            None => {
                let most = max_rss_kib.saturating_mul(1024);
                usage.memory_bytes.peak = usage.memory_bytes.peak.max(most);
            }
        }
        usage.network_connections.peak = usage.network_connections.peak.max(connections.unwrap_or(0));
        usage.processes.peak = usage.processes.peak.max(self.family.most());
        usage.end();
    }
}
