//! The end of a helper: why, where in its code, and what is left to tell of it.
//!
//! Runs in the host. Decides no end: whoever does gives the cause.

pub(super) mod cause;
pub(super) mod fault;
pub(super) mod report;
