//! What the tests stand on: built libraries, folders that any user reaches, child processes, and a count of what is left.
//!
//! Runs in the test programs, which are the host applications of these tests.
//! Owns the meaning of a probe's answer, and every wait, each of which has a deadline.
//! Never confines, limits or re-environs the test program itself: that goes into a child.

pub mod causes;
pub mod child;
pub mod events;
pub mod libraries;
pub mod plugins;
pub mod scratch;
pub mod servers;
pub mod unconfined;
pub mod wait;

pub use containment::{Answer, inventory};
pub use libraries::library;
pub use plugins::{active, loaded, probe, probe_with};
pub use scratch::Scratch;
