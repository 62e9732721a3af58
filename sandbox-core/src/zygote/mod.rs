//! The zygote: one thread of our own code, no secrets, the parent of every helper.
//!
//! Runs in processes of its own, each freshly execed: the launcher, which makes the namespaces, and the zygote in them.

mod clone;
pub(crate) mod launch;
mod orphans;
mod reap;
mod roots;
pub(crate) mod serve;
mod tasks;
mod view;
