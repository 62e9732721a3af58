//! Which CPU a process's threads run on: it decides whether a wake-up costs five microseconds or fifty.
//!
//! Owns that every pin is undone. Never pins a thread of a process that the bench did not start.

use std::fs;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Where the two sides of a measured exchange run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Wherever the kernel puts them.
    Free,
    /// Both on one CPU.
    One,
    /// Each on its own.
    Two,
}

impl Placement {
    /// The ones that this machine has.
    pub(crate) fn all() -> Vec<Self> {
        if allowed().len() < 2 { vec![Self::Free, Self::One] } else { vec![Self::Free, Self::One, Self::Two] }
    }

    /// As part of a row's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Free => "",
            Self::One => ", on one CPU",
            Self::Two => ", on two CPUs",
        }
    }
}

/// The CPUs that this thread may use.
pub(crate) fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("one's own affinity can be read");
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Runs `work` with all of this process's threads, and all of `other`'s, placed so.
pub(crate) fn placed<T>(placement: Placement, other: u32, work: impl FnOnce() -> T) -> T {
    let all = allowed();
    let (ours, theirs) = match (placement, all.as_slice()) {
        (Placement::Free, _) | (_, []) => return work(),
        (Placement::One, [first, ..]) | (Placement::Two, [first]) => (*first, *first),
        (Placement::Two, [first, second, ..]) => (*first, *second),
    };
    pin(std::process::id(), &[ours]);
    pin(other, &[theirs]);
    let result = work();
    pin(std::process::id(), &all);
    pin(other, &all);
    result
}

fn pin(process: u32, cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return };
    let ids = threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok());
    for id in ids.filter_map(Pid::from_raw) {
        // A thread may have ended meanwhile.
        let _ = sched_setaffinity(Some(id), &set);
    }
}
