//! A registered plugin and the helper it has at the moment: the operations, one at a time, and what goes on beside them.
//!
//! Runs in the host, on any thread.

mod changes;
mod health;
mod held;
mod operations;
mod restart;
mod turn;

pub(crate) use changes::apply_limits;
pub(crate) use held::{Entry, Held, Loaded};
