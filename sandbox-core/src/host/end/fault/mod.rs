//! What a faulting thread of a plugin's looks like from outside: the signal, and the stack with names.
//!
//! Runs in the host, on a thread of its own, while the thread that is looked at stands still. Everything that is read of it is
//! hostile, read once and bounded: bytes, frames, modules, time. Nothing that is seen here decides anything.

mod image;
mod look;
mod registers;
mod unwind;

pub(in crate::host) use look::{Place, look};
