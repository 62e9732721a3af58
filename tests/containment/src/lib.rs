//! What no plugin may do: one row an attempt, with what must come of it, and with the control that shows that the very same
//! code succeeds where nothing confines it.
//!
//! Runs in a host: in the tests' programs, and in `plugin-host prove`. Owns the table and how a row is judged. Uses what
//! `sandbox-core` makes public and nothing else. Never confines or limits the host itself: what is to be harmed is a plugin's
//! helper, or a child that plays the control.
#![allow(unsafe_code, reason = "the control loads a library into its own process")]

pub mod answer;
pub mod control;
pub mod inventory;
pub mod libraries;
pub mod place;
pub mod row;
pub mod run;
pub mod table;

pub use answer::Answer;
pub use row::{Control, Expected, Group, HeldBy, Row, Step};
pub use run::{Inside, Judged, Rig, Stage, Verdict};
pub use table::table;
