//! The broker: what a helper asks of the world outside it, decided by the policy of that moment and done by the host.
//!
//! Runs in the host, on bounded workers. Nothing is ever decided by reading a plugin's memory and then letting its call go
//! on: the host performs the call itself and injects the descriptor, or answers with a value or an errno. The two exceptions
//! are in `processes`.

mod base;
mod fault;
mod files;
mod forbidden;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod handles;
mod held;
mod ledger;
mod loader;
mod machine;
mod memory;
mod network;
mod parked;
mod processes;
mod programs;
mod prompts;
mod refused;
mod requests;
mod revoke;
mod system;
mod under_way;
mod workers;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

pub(crate) use files::{Folders, Scratch};
pub(crate) use handles::Handles;
pub(crate) use ledger::Access;
pub(crate) use loader::{Served, open_file};
pub(crate) use memory::{read_bytes, read_path};
pub(crate) use network::{Network, Relays, is_resolver_file};
pub(crate) use revoke::{HeldFiles, take_back};
pub(crate) use under_way::UnderWay;
pub(crate) use workers::Workers;

use crate::host::zygote::{Trees, Zygote};

/// What the broker works with, for one helper.
#[derive(Debug)]
pub(crate) struct Brokered {
    pub(crate) listener: OwnedFd,
    /// The helper's memory, opened while the host might: it stays this process's, whatever its number becomes.
    pub(crate) memory: File,
    /// Whether the helper had to hand both over: then the host may have no descriptor of its, and nothing of what it starts.
    pub(crate) was_handed_over: bool,
    pub(crate) served: Served,
    /// Whom its sockets reach.
    pub(crate) network: Network,
    /// Where files are looked for.
    pub(crate) trees: Arc<Trees>,
    /// What the plugin has at `/tmp`, if it has that.
    pub(crate) scratch: Option<Scratch>,
    /// Where the plugin's processes are in it.
    pub(crate) folders: Folders,
    /// Makes what only it may make.
    pub(crate) zygote: Arc<Zygote>,
    /// What it was handed.
    pub(crate) handles: Handles,
    pub(crate) under_way: UnderWay,
}
