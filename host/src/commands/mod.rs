//! What the program does, one file for each command.
//!
//! Runs in the application's process. Each uses what `sandbox-core` makes public and nothing else.

pub(crate) mod audit;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod inspect;
pub(crate) mod metrics;
pub(crate) mod prove;
pub(crate) mod quarantine;
pub(crate) mod run;
pub(crate) mod top;
