//! What an operator may ask for, done.
//!
//! Runs in the host, on the thread of the connection that asked. Owns that each command is an event, and that none of them
//! waits for longer than it says.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::wire::{MonitorAnswer, MonitorCommand};
use crate::error::PluginSandboxError;
use crate::host::broker::HeldFiles;
use crate::host::end::cause::Cause;
use crate::host::entry::Entry;
use crate::host::events::{EventHub, EventKind, escape};
use crate::host::figures::HostFigures;
use crate::shared::policy::PluginPermission;

/// How long a plugin may be busy before it is not deactivated.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked whether a plugin is free: nothing announces it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The plugins that a monitor is of. Holds none of them: they go when the embedder lets them go.
pub(crate) struct Monitored {
    pub(crate) plugins: Box<dyn Fn() -> Vec<Arc<Entry>> + Send + Sync>,
    /// The manager's.
    pub(crate) hub: Option<Arc<EventHub>>,
}

impl Monitored {
    pub(crate) fn figures(&self) -> HostFigures {
        let mut plugins: Vec<_> = (self.plugins)().iter().map(|entry| entry.figures()).collect();
        plugins.sort_by(|a, b| a.plugin.cmp(&b.plugin));
        HostFigures {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process_id: std::process::id(),
            events_lost: self.hub.as_ref().map(|hub| hub.lost()).unwrap_or_default(),
            plugins,
        }
    }

    /// Does what the user `uid` asks for. Stops waiting once `stopped` is disconnected.
    pub(super) fn obey(&self, command: MonitorCommand, uid: u32, stopped: &Receiver<()>) -> MonitorAnswer {
        let done = match command {
            MonitorCommand::Snapshot => return MonitorAnswer::Figures { figures: self.figures() },
            MonitorCommand::Metrics => return MonitorAnswer::Metrics { text: self.figures().prometheus() },
            MonitorCommand::Deactivate { plugin } => self.deactivate(&plugin, uid, stopped),
            MonitorCommand::Kill { plugin } => self.kill(&plugin, uid),
            MonitorCommand::Revoke { plugin, permission } => self.revoke(&plugin, &permission, uid),
        };
        match done {
            Ok(message) => MonitorAnswer::Done { message },
            Err(message) => MonitorAnswer::Failed { message },
        }
    }

    fn entry(&self, plugin: &str) -> Result<Arc<Entry>, String> {
        let entry = (self.plugins)().into_iter().find(|entry| entry.subject().id().as_str() == plugin);
        entry.ok_or_else(|| format!("no plugin is registered as {}", escape(plugin.as_bytes())))
    }

    fn deactivate(&self, plugin: &str, uid: u32, stopped: &Receiver<()>) -> Result<String, String> {
        let entry = self.entry(plugin)?;
        tell(&entry, uid, "deactivate".to_owned());
        let began = Instant::now();
        loop {
            match entry.deactivate_if_free() {
                Some(Ok(())) => return Ok(format!("{plugin} is deactivated")),
                Some(Err(error)) => return Err(words(&error)),
                None if began.elapsed() >= BUSY_TIMEOUT => {
                    return Err(format!(
                        "{plugin} is busy, and was for {BUSY_TIMEOUT:?}: kill does not wait"
                    ));
                }
                None => {}
            }
            if stopped.recv_timeout(LOOK_AGAIN) == Err(RecvTimeoutError::Disconnected) {
                return Err("the host closes its monitor".to_owned());
            }
        }
    }

    fn kill(&self, plugin: &str, uid: u32) -> Result<String, String> {
        let entry = self.entry(plugin)?;
        tell(&entry, uid, "kill".to_owned());
        match entry.kill(Cause::ByOperator { uid }) {
            Some(Cause::ByOperator { .. }) => Ok(format!("{plugin} is ended")),
            Some(cause) => Err(format!("{plugin} was ending already: {cause}")),
            None => Err(format!("{plugin} has no process that lives")),
        }
    }

    fn revoke(&self, plugin: &str, permission: &str, uid: u32) -> Result<String, String> {
        let entry = self.entry(plugin)?;
        let permission = PluginPermission::of_text(permission)
            .map_err(|error| format!("{}: {error}", escape(permission.as_bytes())))?;
        let shown = escape(permission.to_string().as_bytes());
        tell(&entry, uid, format!("revoke {shown}"));
        if entry.revoke(&permission, HeldFiles::End) {
            Ok(format!("{shown} is revoked from {plugin}"))
        } else {
            Err(format!("{plugin} did not hold {shown}; what of it was still open is closed"))
        }
    }
}

fn tell(entry: &Entry, uid: u32, command: String) {
    tracing::info!(plugin = %entry.subject().id(), uid, command, "an operator's command, by the monitor");
    entry.subject().publish(|| EventKind::OperatorCommand { command, uid });
}

fn words(error: &PluginSandboxError) -> String {
    escape(error.to_string().as_bytes())
}
