//! Policy and kernel facts in, what each layer must be out. Pure: no system call is made here.
//!
//! Runs in the host, which makes the plan, and in the helper, which carries it out.

pub(crate) mod caps;
pub(crate) mod namespaces;
pub(crate) mod rlimits;
pub(crate) mod seccomp;
mod seccomp_conditions;
#[cfg(feature = "test-support")]
pub(crate) mod seccomp_document;
#[cfg(any(test, feature = "test-support"))]
pub(crate) mod seccomp_evaluator;
mod seccomp_table;

use serde::{Deserialize, Serialize};

use crate::shared::policy::Sabotage;

/// Everything a helper needs to know to confine itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HelperPlan {
    pub(crate) wire_version: u32,
    pub(crate) user: namespaces::UserPlan,
    pub(crate) root: namespaces::RootPlan,
    pub(crate) ids: Option<caps::Ids>,
    pub(crate) rlimits: Vec<rlimits::Rlimit>,
    pub(crate) max_message_bytes: u64,
    /// Whether it hands its listener and its memory over, to a host that may not take them.
    pub(crate) hands_over: bool,
    pub(crate) sabotage: Sabotage,
}
