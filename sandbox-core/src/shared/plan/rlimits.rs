//! Resource limits as the kernel is told them: getrlimit(2).

use rustix::process::Resource as Kernel;
use serde::{Deserialize, Serialize};

use crate::shared::policy::ResourceLimits;

/// Descriptors of the sandbox's own in a helper: standard input and output, errors, and the channel's two.
pub(crate) const OWN_DESCRIPTORS: u64 = 5;

/// Memory of the sandbox's own in a helper that its limit must not count: the image's data, the allocator's start.
const OWN_MEMORY_MB: u64 = 4;

/// Timers and queued signals, which are counted with all of the user's: without a bound one plugin could take all of them.
const PENDING_SIGNALS: u64 = 256;

/// How far above its limit a plugin may later be raised without a new load.
const CEILING: u64 = 8;

/// A resource whose limit a helper sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Resource {
    AddressSpace,
    Data,
    OpenFiles,
    Processes,
    CoreDump,
    FileSize,
    LockedMemory,
    MessageQueues,
    PendingSignals,
    RealTimePriority,
    Nice,
}

impl Resource {
    /// The kernel's own name for it.
    pub(crate) fn kernel(self) -> Kernel {
        match self {
            Self::AddressSpace => Kernel::As,
            Self::Data => Kernel::Data,
            Self::OpenFiles => Kernel::Nofile,
            Self::Processes => Kernel::Nproc,
            Self::CoreDump => Kernel::Core,
            Self::FileSize => Kernel::Fsize,
            Self::LockedMemory => Kernel::Memlock,
            Self::MessageQueues => Kernel::Msgqueue,
            Self::PendingSignals => Kernel::Sigpending,
            Self::RealTimePriority => Kernel::Rtprio,
            Self::Nice => Kernel::Nice,
        }
    }

    /// The limit that an embedder sets for it, by its field's name, and what it is.
    pub(crate) fn limit_of(self, limits: &ResourceLimits) -> (&'static str, Option<u64>) {
        match self {
            Self::OpenFiles => ("max_file_handles", limits.max_file_handles),
            Self::Processes => ("max_threads", limits.max_threads),
            Self::FileSize => ("max_file_size_mb", limits.max_file_size_mb),
            _ => ("max_memory_mb", limits.max_memory_mb),
        }
    }

    /// Whether its limit is one that an embedder sets, and may change while the plugin runs.
    pub(crate) fn is_settable(self) -> bool {
        matches!(self, Self::AddressSpace | Self::Data | Self::OpenFiles | Self::Processes | Self::FileSize)
    }
}

/// One limit; `None` leaves that bound as the host has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rlimit {
    pub(crate) resource: Resource,
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
}

/// Descriptors that a helper needs at once while it confines itself and loads, whatever the plugin may hold later.
const OWN_AT_START: u64 = 3;

/// What a helper sets itself: as [`plan`], with room for what it opens until it is loaded.
pub(crate) fn plan_at_start(limits: &ResourceLimits, counts_alone: bool) -> Vec<Rlimit> {
    let mut plan = plan(limits, counts_alone, false);
    for limit in plan.iter_mut().filter(|limit| limit.resource == Resource::OpenFiles) {
        let least = |bound: Option<u64>| bound.map(|bound| bound.max(OWN_DESCRIPTORS + OWN_AT_START));
        (limit.soft, limit.hard) = (least(limit.soft), least(limit.hard));
    }
    plan
}

/// Whether [`plan_at_start`] is wider than [`plan`], so that the host must lower it after the load.
pub(crate) fn is_wider_at_start(limits: &ResourceLimits) -> bool {
    limits.max_file_handles.is_some_and(|handles| handles < OWN_AT_START)
}

/// What the kernel is told for `limits`. `counts_alone`: whether `RLIMIT_NPROC` counts this helper only, and not every
/// process of the host's user. `starts_programs`: whether there is room for more processes than the helper, which count
/// with its threads: the broker counts them apart.
pub(crate) fn plan(limits: &ResourceLimits, counts_alone: bool, starts_programs: bool) -> Vec<Rlimit> {
    let bounded =
        |resource, soft: Option<u64>| Rlimit { resource, soft, hard: soft.map(|soft| soft * CEILING) };
    let nothing = |resource| Rlimit { resource, soft: Some(0), hard: Some(0) };
    let data = limits.max_memory_mb.map(|mb| (mb + OWN_MEMORY_MB) << 20);
    let mut plan = vec![
        bounded(Resource::Data, data),
        // Looser: reserved but unused address space (a C library's arenas, thread stacks) is not memory.
        bounded(Resource::AddressSpace, data.map(|data| data * 4 + (4 << 30))),
        bounded(Resource::OpenFiles, limits.max_file_handles.map(|handles| handles + OWN_DESCRIPTORS)),
        // 0 is no bound to a program that core dumps are piped to, and 1 is: core(5).
        Rlimit { resource: Resource::CoreDump, soft: Some(1), hard: Some(1) },
        bounded(Resource::FileSize, limits.max_file_size_mb.map(|mb| mb << 20)),
        nothing(Resource::LockedMemory),
        nothing(Resource::MessageQueues),
        Rlimit {
            resource: Resource::PendingSignals,
            soft: Some(PENDING_SIGNALS),
            hard: Some(PENDING_SIGNALS),
        },
        nothing(Resource::RealTimePriority),
        nothing(Resource::Nice),
    ];
    if counts_alone {
        let most = |processes: Option<u64>| {
            limits.max_threads.zip(processes).map(|(threads, processes)| threads + processes + 1)
        };
        let soft = most(if starts_programs { limits.max_processes } else { Some(0) });
        let hard = most(limits.max_processes).map(|most| most * CEILING);
        plan.push(Rlimit { resource: Resource::Processes, soft, hard });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandboxs_own_descriptors_and_memory_do_not_count() {
        let plan = plan(&ResourceLimits::default(), true, false);
        let soft = |resource| plan.iter().find(|limit| limit.resource == resource).unwrap().soft;
        assert_eq!(soft(Resource::OpenFiles), Some(15));
        assert_eq!(soft(Resource::Data), Some(104 << 20));
        assert_eq!(soft(Resource::Processes), Some(17));
        assert_eq!(soft(Resource::CoreDump), Some(1));
    }

    #[test]
    fn an_unlimited_plugin_still_dumps_no_core() {
        let limits = ResourceLimits::default().max_memory_mb(None).max_file_handles(None);
        let plan = plan(&limits, false, false);
        assert!(plan.contains(&Rlimit { resource: Resource::CoreDump, soft: Some(1), hard: Some(1) }));
        assert!(plan.contains(&Rlimit { resource: Resource::Data, soft: None, hard: None }));
    }

    #[test]
    fn the_greatest_limits_that_there_are_do_not_overflow() {
        let most = ResourceLimits::default()
            .max_memory_mb(1 << 20)
            .max_file_handles(1 << 19)
            .max_file_size_mb(1 << 30)
            .max_threads(1 << 15)
            .max_processes(1 << 15);
        most.check().unwrap();
        for limit in plan(&most, true, true).iter().chain(&plan_at_start(&most, true)) {
            assert!(limit.soft <= limit.hard, "{limit:?}");
        }
    }
}
