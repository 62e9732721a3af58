//! What keeps plugins going, and what gives them up: restarts, quarantine, questions for health, shutdown.
//!
//! Runs in the host. Decides when; how a plugin is loaded and ended is `load.rs` and `instance.rs`.

pub(super) mod health;
pub(super) mod quarantine;
pub(super) mod restarts;
pub(super) mod shutdown;
