//! The broker: what a helper asks of the world outside it, decided by the policy of that moment and done by the host.
//!
//! Runs in the host, on bounded workers. Nothing is ever decided by reading a plugin's memory and then letting its call go
//! on: the host performs the call itself and injects the descriptor, or answers with a value or an errno.

mod base;
mod files;
mod loader;
mod memory;
mod requests;
mod workers;

pub(crate) use loader::Served;
pub(crate) use workers::Workers;
