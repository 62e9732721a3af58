//! The host's readers of hostile bytes, and what must hold of each whatever they are. See `crate::fuzzing`.

pub(crate) use super::broker::fuzzing::{dns_message, in_memory, socket_address};
pub(crate) use super::library::fuzzing::{libraries, library};
pub(crate) use super::monitor::fuzzing::monitor_line;

#[cfg(test)]
pub(crate) use super::broker::fuzzing::request_seeds;
