//! The trait that a plugin implements.
//!
//! Runs in the helper, compiled into the plugin.
//! Owns the order of a plugin's life as a vendor sees it: made, activated, called, deactivated, dropped.
//! Never mentions the binary interface: `export_plugin!` puts it around this trait.

use crate::{Host, PluginError, PluginResult};

/// A plugin, as its vendor writes it. Give a value of it to [`export_plugin!`](crate::export_plugin).
///
/// The sandbox calls one method at a time; `activate` and `deactivate` come on one thread.
/// A panic in any method is reported to the host as an error of kind
/// [`Panicked`](crate::ErrorKind::Panicked), and the value stays: what a panic left half done is still half done.
pub trait Plugin: Send + 'static {
    /// Called once before the first [`call`](Self::call). `host` reaches the host's services; keep it to use it later.
    ///
    /// # Errors
    /// Whatever keeps the plugin from working. It then counts as not activated.
    fn activate(&mut self, host: Host) -> Result<(), PluginError> {
        drop(host);
        Ok(())
    }

    /// Called once after the last [`call`](Self::call). The plugin may be activated again afterwards.
    ///
    /// # Errors
    /// Whatever went wrong. The plugin counts as deactivated all the same.
    fn deactivate(&mut self) -> Result<(), PluginError> {
        Ok(())
    }

    /// Answers one request. What methods there are, and what their bytes mean, is between vendor and host.
    ///
    /// # Errors
    /// [`PluginError::unknown_method`] for a method that the plugin does not have; otherwise what `?` makes of
    /// the error at hand.
    fn call(&mut self, method: &str, payload: &[u8]) -> PluginResult;
}
