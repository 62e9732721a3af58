//! A control group of its own for each helper, where the host may make one: cgroups(7), version 2, and version 1 for the
//! controllers that are there.
//!
//! Runs in the host. Never moves a process: a helper is cloned into its group, or joins it itself before it is one, since a move
//! of another process waits for the kernel for milliseconds.

mod group;
mod groups;
mod home;
mod leftovers;

pub(in crate::host) use group::{Doors, Group, Standing};
pub(in crate::host) use groups::Groups;
