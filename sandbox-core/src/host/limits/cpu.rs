//! A helper's CPU time, which the host reads from the process's own clock: a soft `RLIMIT_CPU` could be caught.
//!
//! Runs in the host: the reactor looks when the limit could be reached at the earliest.

use std::time::Duration;

use crate::host::end::cause::Cause;
use crate::host::instance::Instance;
use crate::host::lock::lock;
use crate::shared::policy::ResourceLimits;

/// CPU time, as of the last activation.
#[derive(Debug, Default, Clone, Copy)]
pub(in crate::host) struct CpuBudget {
    pub(in crate::host) base: Duration,
    pub(in crate::host) limit_sec: Option<u64>,
}

impl Instance {
    /// The CPU time of all its threads so far, from the process's own clock, clock_getcpuclockid(3); and that of what it has
    /// started.
    pub(in crate::host) fn cpu_time(&self) -> Option<Duration> {
        let clock = nix::time::ClockId::pid_cpu_clock_id(nix::unistd::Pid::from_raw(self.pid.0)).ok()?;
        let own = clock.now().ok().map(Duration::from)?;
        Some(if self.family.has_started() { own + self.family.cpu_time(self.pid) } else { own })
    }

    /// A new activation begins: what was used before does not count. The first one counts from the constructors on.
    pub(crate) fn begin_activation(&self, is_first: bool) {
        if !is_first && let Some(used) = self.cpu_time() {
            lock(&self.cpu).base = used;
        }
    }

    /// Changes the limits that the host itself holds, while it runs.
    pub(crate) fn set_limits(&self, limits: &ResourceLimits) {
        lock(&self.cpu).limit_sec = limits.max_cpu_time_sec;
        lock(&self.ending).memory_limit_mb = limits.max_memory_mb;
        self.cgroup.set_limits(limits);
        self.set_output_limits(limits);
        if let Some(core) = self.core.upgrade() {
            core.reactor.recheck_cpu(self.id);
        }
    }

    /// Ends it if it is over its limit; else, when it could be at the earliest, on `cpus` at once.
    pub(crate) fn check_cpu(&self, cpus: u32) -> Option<Duration> {
        let budget = *lock(&self.cpu);
        let limit_sec = budget.limit_sec?;
        let limit = Duration::from_secs(limit_sec);
        let used = self.cpu_time()?.saturating_sub(budget.base);
        if used >= limit {
            self.kill(Some(Cause::CpuTime { used, limit_sec }));
            return None;
        }
        Some(((limit - used) / cpus.max(1)).max(Duration::from_millis(2)))
    }
}
