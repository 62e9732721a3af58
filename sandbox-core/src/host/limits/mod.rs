//! The limits that are held from here, beside the rlimits that a helper sets itself, and what was used of each.
//!
//! Runs in the host. Owns no limit's value: those are the policy's.

pub(super) mod cgroup;
pub(super) mod cpu;
pub(super) mod output;
pub(super) mod usage;
