//! The monitor: a Unix socket at which an operator reads a host's figures, and ends or holds back its plugins.
//!
//! Runs in the host, on threads of its own, made when an embedder opens one and joined when it is dropped.

mod commands;
mod connection;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http;
mod server;
mod socket;
mod wire;

pub use server::MonitorSocket;
pub use wire::{MONITOR_VERSION, MonitorAnswer, MonitorCommand, MonitorReply, MonitorRequest};

pub(crate) use commands::Monitored;
