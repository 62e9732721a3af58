//! What the host learns from a plugin's file, and from the libraries that it needs, before anything is loaded.
//!
//! Runs in the application's process, on whichever thread loads a plugin: everything here may block on a slow disk.
//! Owns the bytes: what is checked here is a sealed memory file, and the helper loads that one, not the path.
//! Never loads, maps or runs a library, and never panics on what a file holds.

mod closure;
mod digest;
mod elf;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod seal;
mod search;

pub(crate) use closure::BASE_MODULES;
pub use closure::{
    ExplainedModule, Limits, Module, check_name, closure, explain, extra_modules, with_module,
};
pub use digest::LibraryDigest;
pub use error::LibraryError;
pub use seal::SealedLibrary;
pub use search::SystemFolders;
pub(crate) use search::only_root_may_write;
