//! What the program shows: text for people, one JSON object for programs, and files.
//!
//! Runs in the application's process. Results go to stdout, everything about them to stderr.
//! Never lets a byte of a plugin's reach a terminal unescaped, unless the user asked for raw bytes.

pub(crate) mod escape;
pub(crate) mod file;
pub(crate) mod human;
pub(crate) mod json;
pub(crate) mod tree;
