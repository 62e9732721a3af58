//! What a plugin asks of the application, and of other plugins by way of it.
//!
//! Runs in the host. Files by way of services are the broker's (`broker/files/service.rs`).

pub(super) mod calls;
pub(super) mod messages;
pub(super) mod pool;
