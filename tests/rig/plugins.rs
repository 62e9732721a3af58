//! Plugins brought to the point from which a test goes on.

use std::path::Path;

use sandbox_core::{App, PluginPolicy, PluginSandbox, PluginSandboxError};

use crate::{Answer, library};

/// A plugin that stands alone and is loaded.
///
/// # Panics
/// If it cannot be loaded.
#[track_caller]
pub fn loaded(id: &str, policy: PluginPolicy, library: impl AsRef<Path>) -> PluginSandbox {
    let sandbox = PluginSandbox::new(id, policy).expect("a sandbox");
    if let Err(error) = sandbox.load_plugin(library) {
        panic!("{id} does not load: {}", explained(&error));
    }
    sandbox
}

/// A plugin that stands alone and is active.
///
/// # Panics
/// If it cannot be loaded or activated.
#[track_caller]
pub fn active(
    id: &str,
    policy: PluginPolicy,
    library: impl AsRef<Path>,
    app: impl Into<App>,
) -> PluginSandbox {
    let sandbox = loaded(id, policy, library);
    if let Err(error) = sandbox.activate_plugin(app) {
        panic!("{id} is not activated: {}", explained(&error));
    }
    sandbox
}

/// The plugin `probe`, active, with no services and this policy.
#[track_caller]
pub fn probe_with(policy: PluginPolicy) -> PluginSandbox {
    active("probe", policy, library("probe"), ())
}

/// The plugin `probe`, active, with no services and no permission.
#[track_caller]
pub fn probe() -> PluginSandbox {
    probe_with(PluginPolicy::new())
}

/// An error with everything that it has to say.
pub fn explained(error: &PluginSandboxError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    if let Some(help) = error.help() {
        text.push_str(&format!("\nhelp: {help}"));
    }
    text
}

/// Calls of the plugin `probe`.
pub trait Attempts {
    /// What the attempt `method` came to.
    ///
    /// # Panics
    /// If there was no answer at all.
    fn attempt(&self, method: &str, payload: impl AsRef<[u8]>) -> Answer;

    /// Why there was no answer.
    ///
    /// # Panics
    /// If there was one.
    fn refused(&self, method: &str, payload: impl AsRef<[u8]>) -> PluginSandboxError;
}

impl Attempts for PluginSandbox {
    #[track_caller]
    fn attempt(&self, method: &str, payload: impl AsRef<[u8]>) -> Answer {
        match self.call(method, payload.as_ref()) {
            Ok(reply) => Answer::read(&reply),
            Err(error) => panic!("{method}: {}\nprinted: {}", explained(&error), self.printed()),
        }
    }

    #[track_caller]
    fn refused(&self, method: &str, payload: impl AsRef<[u8]>) -> PluginSandboxError {
        match self.call(method, payload.as_ref()) {
            Ok(reply) => panic!("{method} was answered: {:?}", String::from_utf8_lossy(&reply)),
            Err(error) => error,
        }
    }
}
