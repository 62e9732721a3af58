//! A helper: our own code until `load`, and not trusted from then on.
//!
//! Runs in a process of its own, execed by the zygote. Never names `host` or `zygote`: it hears what to do over the wire.

mod confine;
mod hand_over;
mod link;
mod load;
mod readback;
pub(crate) mod run;
mod serve;
