//! Every byte that goes between our processes, and every decoder for it.
//!
//! Runs in any process. Owns the wire version and the bounds. Never trusts a length before it has been compared with one.

pub(crate) mod control;
pub(crate) mod frame;
pub(crate) mod hand_over;
pub(crate) mod packets;
pub(crate) mod report;
pub(crate) mod role;
pub(crate) mod zygote;

/// The version of everything in this folder. It goes up with each change of a message; host, zygote and helper are the
/// same program run again, so they differ only where an embedder names another helper program. It is apart from the
/// plugin ABI's version: plugins do not speak this, and survive a change of it.
pub(crate) const WIRE_VERSION: u32 = 3;
