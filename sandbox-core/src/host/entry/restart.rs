//! What is done about a plugin that has ended: its crash is written down, and it is brought back.
//!
//! Runs in the host, on the threads of `supervise/restarts.rs`, which decides when. Takes the plugin's turn like anybody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::held::Entry;
use crate::error::PluginSandboxError;
use crate::host::end::cause::Cause;
use crate::host::events::{EventKind, escape};
use crate::host::lifecycle::{Operation, PluginState};
use crate::host::lock::lock;
use crate::host::subject::Due;
use crate::host::supervise::restarts;

/// How often it is looked whether a plugin that is to be restarted has its turn free.
const TURN_INTERVAL: Duration = Duration::from_millis(20);

impl Entry {
    /// Lets the services go that a restart would have offered, if it does not come back.
    pub(super) fn release_services(&self) {
        let app = lock(&self.wanted).app.take();
        drop(app); // with no lock held: a service may own anything
    }

    /// Writes down what has crashed. Once this returns, whoever asks the store knows of it.
    pub(crate) fn write_down_crashes(&self) {
        let _one_at_a_time = lock(&self.writing);
        let policy = self.subject.policy().restart;
        while let Some(crash) = self.subject.next_crash() {
            let most = policy.crashes.unwrap_or(u32::MAX);
            let store = self.subject.store().get();
            let record = store.record(crash.digest, &crash.path, crash.record, most, policy.window);
            if let Some(record) = record {
                self.subject.quarantine(&record);
            }
        }
    }

    /// What is to be done about a plugin that has ended. Waits for the disk, and for the plugin.
    pub(crate) fn look_after(self: &Arc<Self>) {
        self.write_down_crashes();
        match self.subject.restart_due(false) {
            Due::At(due) => restarts::look_at(&Arc::downgrade(self), due),
            Due::Now { .. } => self.restart(),
            Due::Never => {
                let mut wanted = lock(&self.wanted);
                let app = if self.subject.is_kept_up() { None } else { wanted.app.take() };
                drop(wanted);
                drop(app);
            }
        }
    }

    /// Loads it again, and activates it if it was active. Gives way to whatever the host wants of it.
    pub(super) fn restart(self: &Arc<Self>) {
        let Ok(_admitted) = self.admit(Operation::Load) else { return };
        // A plugin that has crashed while a service runs for it must not keep the others from being restarted meanwhile.
        let Some(_turn) = self.free_turn(Operation::Load) else {
            return restarts::look_at(&Arc::downgrade(self), Instant::now() + TURN_INTERVAL);
        };
        if let Some(instance) = self.instance() {
            instance.wait_end(); // whoever ended it may still be at it
        }
        let Due::Now { attempt } = self.subject.restart_due(true) else { return };
        match self.bring_back() {
            Ok(()) => self.subject.publish(|| EventKind::Restarted { attempt }),
            Err(error) => {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                let why = escape(format!("{error}{}", source.unwrap_or_default()).as_bytes());
                tracing::debug!(plugin = %self.subject.id(), attempt, %why, "a restart failed");
                if let Some(instance) = self.instance().filter(|instance| instance.end().is_none()) {
                    instance.kill(Some(Cause::Unloaded));
                    instance.wait_end();
                }
                self.subject.restart_failed(why);
                restarts::look_at(&Arc::downgrade(self), Instant::now());
            }
        }
    }

    pub(super) fn bring_back(self: &Arc<Self>) -> Result<(), PluginSandboxError> {
        let (path, app) = {
            let wanted = lock(&self.wanted);
            (wanted.path.clone().unwrap_or_default(), wanted.app.clone())
        };
        self.load_in_turn(&path, PluginState::Restarting)?;
        match app {
            Some(app) => self.activate_in_turn(app),
            None => Ok(()),
        }
    }
}
