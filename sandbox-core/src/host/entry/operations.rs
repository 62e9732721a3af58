//! What the host does with a plugin, one at a time: load, activate, call, deactivate, unload.
//!
//! Runs in the host, on the thread that asked. Each operation begins and ends in the table of states (`subject.rs`).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use plugin_abi::PluginMetadata;

use super::held::{Entry, Wanted};
use crate::error::PluginSandboxError;
use crate::host::app::App;
use crate::host::end::cause::Cause;
use crate::host::figures::CallOutcome;
use crate::host::instance::{Expect, Reply};
use crate::host::lifecycle::{Operation, Outcome, PluginState};
use crate::host::load;
use crate::host::lock::lock;
use crate::host::report::EnforcementReport;
use crate::host::supervise::restarts;
use crate::shared::wire::control::{Bytes, ToHelper};

/// The longest name of a method.
const MAX_METHOD_BYTES: usize = 4096;

impl Entry {
    /// Loads what is at `path`.
    pub(crate) fn load(
        self: &Arc<Self>,
        path: &Path,
    ) -> Result<(Arc<PluginMetadata>, Arc<EnforcementReport>), PluginSandboxError> {
        let _admitted = self.admit(Operation::Load)?;
        let _turn = self.turn(Operation::Load)?;
        let before = self.subject.begin(Operation::Load)?;
        let loaded = self.load_in_turn(path, before)?;
        if self.subject.restarts() {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            drop(std::mem::replace(&mut *lock(&self.wanted), Wanted { path: Some(path), app: None }));
        }
        Ok(loaded)
    }

    pub(super) fn load_in_turn(
        self: &Arc<Self>,
        path: &Path,
        before: PluginState,
    ) -> Result<(Arc<PluginMetadata>, Arc<EnforcementReport>), PluginSandboxError> {
        match load::load(self, path) {
            Ok(loaded) => {
                let mut current = lock(&self.current);
                current.runtime = Some(loaded.runtime);
                current.activated_before = false;
                drop(current);
                if !self.subject.loaded() {
                    // It ended, or was unloaded, just after.
                    return Err(self.ended(Operation::Load, loaded.instance.wait_end()));
                }
                self.subject.exchange().enter(&loaded.instance);
                self.subject.counters().loaded();
                if matches!(before, PluginState::Crashed | PluginState::Restarting) {
                    self.subject.counters().restarted();
                }
                Ok((loaded.metadata, loaded.report))
            }
            Err(error) => {
                if let Some(instance) = self.instance().filter(|instance| instance.end().is_none()) {
                    instance.kill(Some(Cause::Unloaded));
                    instance.wait_end();
                }
                let to = match (&error, before) {
                    (PluginSandboxError::Quarantined { .. }, _) => PluginState::Quarantined,
                    (PluginSandboxError::LoadFailed { .. }, _) => PluginState::Unloaded,
                    (_, PluginState::Restarting) => PluginState::Crashed,
                    (_, before) => before,
                };
                self.subject.settle(PluginState::Loading, to);
                Err(error)
            }
        }
    }

    pub(crate) fn activate(&self, app: App) -> Result<(), PluginSandboxError> {
        let _admitted = self.admit(Operation::Activate)?;
        let _turn = self.turn(Operation::Activate)?;
        self.activate_in_turn(app)
    }

    pub(super) fn activate_in_turn(&self, app: App) -> Result<(), PluginSandboxError> {
        self.subject.begin(Operation::Activate)?;
        let kept = self.subject.restarts().then(|| app.clone());
        let instance = self.living(Operation::Activate)?;
        instance.set_app(app);
        let before = std::mem::replace(&mut lock(&self.current).activated_before, true);
        instance.begin_activation(!before);
        let timeout = self.subject.limits().activate_timeout;
        let reply =
            instance.transact(Some(&ToHelper::Activate), Expect::Activated, Operation::Activate, timeout);
        self.concluded(Operation::Activate, PluginState::Activating, reply)?;
        if kept.is_some() {
            // Still in turn: a restart finds it.
            let before = std::mem::replace(&mut lock(&self.wanted).app, kept);
            drop(before);
        }
        Ok(())
    }

    pub(crate) fn deactivate(&self) -> Result<(), PluginSandboxError> {
        let _admitted = self.admit(Operation::Deactivate)?;
        let _turn = self.turn(Operation::Deactivate)?;
        self.deactivate_in_turn()
    }

    /// Deactivates, if nobody does anything else with the plugin at the moment.
    pub(crate) fn deactivate_if_free(&self) -> Option<Result<(), PluginSandboxError>> {
        let _admitted = match self.admit(Operation::Deactivate) {
            Ok(admitted) => admitted,
            Err(error) => return Some(Err(error)),
        };
        let _turn = self.free_turn(Operation::Deactivate)?;
        Some(self.deactivate_in_turn())
    }

    pub(super) fn deactivate_in_turn(&self) -> Result<(), PluginSandboxError> {
        self.subject.begin(Operation::Deactivate)?;
        self.release_services();
        let instance = self.living(Operation::Deactivate)?;
        let timeout = self.subject.limits().deactivate_timeout;
        let order = ToHelper::Deactivate;
        let reply = instance.transact(Some(&order), Expect::Deactivated, Operation::Deactivate, timeout);
        self.concluded(Operation::Deactivate, PluginState::Deactivating, reply)
    }

    pub(super) fn concluded(
        &self,
        operation: Operation,
        under_way: PluginState,
        reply: Result<Reply, Cause>,
    ) -> Result<(), PluginSandboxError> {
        match reply {
            Ok(Reply::Done(Ok(()))) => {
                self.subject.finish(operation, under_way, Outcome::Succeeded);
                Ok(())
            }
            Ok(Reply::Done(Err(fault))) => {
                self.subject.finish(operation, under_way, Outcome::Refused);
                Err(self.refused(operation, fault))
            }
            Ok(_) => {
                Err(self
                    .ended(operation, Cause::Protocol { field: "kind", what: "another reply".to_owned() }))
            }
            Err(cause) => Err(self.ended(operation, cause)),
        }
    }

    pub(crate) fn call(&self, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginSandboxError> {
        let _admitted = self.admit(Operation::Call)?;
        let _turn = self.turn(Operation::Call)?;
        self.subject.begin(Operation::Call)?;
        let instance = self.living(Operation::Call)?;
        // A name is no payload; it travels in the envelope.
        let (len, max) = match method.len() {
            0..=MAX_METHOD_BYTES => (payload.len() as u64, instance.max_message_bytes),
            len => (len as u64, MAX_METHOD_BYTES as u64),
        };
        if len > max {
            return Err(PluginSandboxError::MessageTooLarge { plugin: self.subject.id().clone(), len, max });
        }
        let id = instance.next_call();
        let order = ToHelper::Call { id, method: method.to_owned(), payload: payload.to_vec() };
        let timeout = self.subject.limits().call_timeout;
        let began = Instant::now();
        let reply = instance.transact(Some(&order), Expect::Returned(id), Operation::Call, timeout);
        self.count(began.elapsed(), payload, &reply);
        match reply {
            Ok(Reply::Returned(Ok(Bytes(result)))) => Ok(result),
            Ok(Reply::Returned(Err(fault))) => Err(self.refused(Operation::Call, fault)),
            Ok(_) => Err(self
                .ended(Operation::Call, Cause::Protocol { field: "kind", what: "another reply".to_owned() })),
            Err(cause) => Err(self.ended(Operation::Call, cause)),
        }
    }

    pub(super) fn count(&self, took: Duration, payload: &[u8], reply: &Result<Reply, Cause>) {
        let counters = self.subject.counters();
        counters.sent(payload.len());
        let outcome = match reply {
            Ok(Reply::Returned(Ok(Bytes(result)))) => {
                counters.received(result.len());
                CallOutcome::Returned
            }
            _ => CallOutcome::Failed,
        };
        counters.called(took, outcome);
    }

    /// Ends the helper: politely if it is idle, at once if it is in an operation, which then fails.
    pub(crate) fn unload(&self) -> Result<(), PluginSandboxError> {
        // First of all: whatever comes to an end from here on stays so.
        self.subject.give_up();
        restarts::forget(self);
        let unloaded = self.unload_for_good();
        self.release_services();
        self.write_down_crashes();
        unloaded
    }

    pub(super) fn unload_for_good(&self) -> Result<(), PluginSandboxError> {
        // Taken like any other: a service that runs during `deactivate` below, on this thread, must not wait for it.
        let turn = if self.is_operated_here() { None } else { self.free_turn(Operation::Unload) };
        if turn.is_none() {
            self.subject.begin(Operation::Unload)?;
            // There may be none yet, in a load that has only begun: the load finds out that it is not wanted.
            if let Some(instance) = self.instance() {
                instance.kill(Some(Cause::Unloaded));
                instance.wait_end();
                drop(instance.take_app());
            }
            return Ok(());
        }
        let was_active = self.subject.state() == PluginState::Active;
        // What `deactivate` says changes nothing: the plugin goes.
        let deactivated = was_active.then(|| self.deactivate_in_turn());
        if let Some(Err(PluginSandboxError::Ended { cause, .. })) = deactivated {
            // It has not lived to be unloaded, or a service has unloaded it meanwhile: it is unloaded all the same.
            self.subject.settle(PluginState::Crashed, PluginState::Unloaded);
            return match cause {
                cause if cause.was_asked_for() => Ok(()),
                cause => Err(self.ended(Operation::Unload, cause)),
            };
        }
        let timeout = self.subject.limits().deactivate_timeout;
        self.subject.begin(Operation::Unload)?;
        let Some(instance) = self.instance().filter(|instance| instance.end().is_none()) else {
            return Ok(());
        };
        instance.expect_end();
        instance.send(&ToHelper::Unload);
        let cause = match instance.wait_end_for(timeout) {
            Some(cause) => cause,
            None => {
                instance.kill_for_good(Cause::Deadline { operation: Operation::Unload, timeout });
                instance.wait_end()
            }
        };
        // A service may hold this very sandbox, which would keep itself for ever.
        drop(instance.take_app());
        match cause {
            cause if cause.was_asked_for() => Ok(()),
            cause => Err(self.ended(Operation::Unload, cause)),
        }
    }

    /// Lets nobody in any more, waits until all that were let in have left, or until then, and unloads.
    pub(crate) fn drain(&self, until: Instant) -> Result<(), PluginSandboxError> {
        if self.is_operated_here() {
            let operation = Operation::Unload;
            return Err(PluginSandboxError::Reentrant { plugin: self.subject.id().clone(), operation });
        }
        lock(&self.admission).draining += 1;
        self.wait_idle(until);
        let unloaded = self.unload();
        lock(&self.admission).draining -= 1;
        unloaded
    }

    /// Ends the helper at once, whatever is under way, since the host shuts down.
    pub(crate) fn end_for_shutdown(&self) {
        // A load that has no helper yet finds out that it is not wanted.
        let _ = self.subject.begin(Operation::Unload);
        if let Some(instance) = self.instance() {
            instance.kill_for_shutdown();
        }
    }
}
