//! The table.
//!
//! Runs in a host. Each group of rows is a file. Never carries anything out.

mod exhaustion;
mod files;
mod information;
mod kernel;
mod lifecycle;
mod loader;
mod network;
mod processes;
mod protocol;

use crate::{Group, Row};

/// Every row, group by group.
pub fn table() -> Vec<Row> {
    let rows = |group| match group {
        Group::Files => files::rows(),
        Group::Network => network::rows(),
        Group::Processes => processes::rows(),
        Group::Kernel => kernel::rows(),
        Group::Exhaustion => exhaustion::rows(),
        Group::Protocol => protocol::rows(),
        Group::Loader => loader::rows(),
        Group::Information => information::rows(),
        Group::Lifecycle => lifecycle::rows(),
    };
    let of = |group| rows(group).into_iter().map(move |row| Row { group, ..row });
    Group::ALL.into_iter().flat_map(of).collect()
}
