//! The contract between native plugins and the sandbox that runs them.
//!
//! Linked by vendors into their plugins, by host applications, and by the helper process that loads a plugin.
//! Owns the plugin trait, the host-services handle, the export macro, and the types that cross the boundary.
//! Never opens a library, never confines anything, and never shows a vendor which crate carries the boundary.
//!
//! A complete plugin, in a crate of type `cdylib` that depends on `plugin-abi` alone:
//!
//! ```
//! use plugin_abi::{Plugin, PluginResult, export_plugin};
//! struct Hello;
//! impl Plugin for Hello {
//!     fn call(&mut self, _method: &str, name: &[u8]) -> PluginResult {
//!         Ok([b"hello, ", name].concat())
//!     }
//! }
//! export_plugin!(Hello, id: "hello", description: "greets whoever calls");
//! ```
//!
//! A panic anywhere in the plugin becomes a [`PluginError`] of kind [`ErrorKind::Panicked`], as long as the
//! plugin is built with unwinding panics (the default). With `panic = "abort"` it ends the helper process.

mod binding;
mod error;
mod export;
pub mod files;
pub mod messages;
pub mod metadata;
mod plugin;
mod services;

pub use binding::loader;
pub use error::{ErrorKind, PluginError, PluginResult};
pub use messages::{Message, SendError};
pub use metadata::{ABI_VERSION, AbiFingerprint, BoundaryType, MetadataError, PluginMetadata};
pub use plugin::Plugin;
pub use services::{Host, HostServices, ServiceError};

/// What [`export_plugin!`] expands to needs these; nothing else may use them.
#[doc(hidden)]
pub mod __private {
    pub use crate::binding::{RootHeader, root_header};
    pub use crate::export::Export;
    pub use crate::metadata::{Declaration, section, section_len};
}
