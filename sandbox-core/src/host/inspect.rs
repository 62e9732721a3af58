//! What a plugin's file says, for a person to read before it is loaded. Runs in the host; never runs a line of the file.

use std::path::{Path, PathBuf};

use plugin_abi::PluginMetadata;
use plugin_abi::metadata::AbiFingerprint;

use super::library::{ExplainedModule, Limits, SealedLibrary, explain};
use super::load;
use crate::error::PluginSandboxError;

/// What a library says of itself.
#[derive(Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The file, as an absolute path.
    pub path: PathBuf,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Its section about itself; `None` if it is no plugin.
    pub metadata: Option<PluginMetadata>,
    /// What differs, if it was built against another plugin interface than this host's.
    pub abi_difference: Option<String>,
    /// Its `NEEDED` closure, as a tree in pre-order.
    pub modules: Vec<ExplainedModule>,
}

/// [`inspect_with`], with no module allowed beyond the C library's own.
///
/// # Errors
/// As [`inspect_with`].
pub fn inspect(path: impl AsRef<Path>) -> Result<Inspection, PluginSandboxError> {
    inspect_with(path, &[])
}

/// Reads the library at `path` as it would be read before a load, with these modules allowed, and loads nothing.
///
/// # Errors
/// [`Library`](PluginSandboxError::Library) if it is no library, [`Metadata`](PluginSandboxError::Metadata) if its section
/// cannot be read.
pub fn inspect_with(path: impl AsRef<Path>, allowed: &[String]) -> Result<Inspection, PluginSandboxError> {
    let library = SealedLibrary::open(path.as_ref())?;
    let metadata = match load::metadata(&library) {
        Err(PluginSandboxError::NotAPlugin { .. }) => None,
        other => Some(other?),
    };
    let current = AbiFingerprint::current();
    let abi_difference = metadata.as_ref().and_then(|metadata| current.difference(&metadata.abi));
    let allows = |soname: &str| allowed.iter().any(|name| name == soname);
    let modules = explain(&library, &allows, load::system_folders(), Limits::default());
    Ok(Inspection { path: library.path, size_bytes: library.size_bytes, metadata, abi_difference, modules })
}
