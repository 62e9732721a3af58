//! System calls that no crate wraps, each behind a safe function; one file per family.
//!
//! Runs in any process. Knows none of our own types. Everything else goes through `nix`, `rustix`, `caps` and `landlock`.
#![allow(unsafe_code, reason = "the one place for raw system calls; each block argues for its own")]

pub(crate) mod clone;
pub(crate) mod fault;
pub(crate) mod inherited;
pub(crate) mod mdwe;
pub(crate) mod mount_attr;
pub(crate) mod replace;
pub(crate) mod seccomp;
pub(crate) mod signals;
pub(crate) mod sockets;
pub(crate) mod trap;
pub(crate) mod wait;
