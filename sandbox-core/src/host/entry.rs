//! A registered plugin and the helper it has at the moment: the operations, one at a time.
//!
//! Runs in the host, on any thread. Owns whose turn it is. When it goes, its helper goes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::thread::ThreadId;
use std::time::Duration;

use plugin_abi::{ErrorKind, PluginMetadata};
use rustix::process::{Pid, Rlimit};

use super::app::App;
use super::broker::{self, Brokered, HeldFiles};
use super::cause::Cause;
use super::decider::DeciderCell;
use super::events::{EventHub, escape};
use super::instance::{Expect, Instance, Reply};
use super::library;
use super::lifecycle::{Operation, Outcome, PluginState};
use super::lock::lock;
use super::mediated;
use super::messages::Exchange;
use super::policy::{PluginPolicy, PolicyCell};
use super::procfs;
use super::report::EnforcementReport;
use super::runtime::Runtime;
use super::subject::Subject;
use super::usage::ResourceUsage;
use super::verify::kernel_label;
use crate::error::PluginSandboxError;
use crate::shared::plan::rlimits;
use crate::shared::policy::{LimitError, PluginId, PluginPermission, ResourceLimits};
use crate::shared::wire::control::{Bytes, Fault, FaultKind, ToHelper};

/// The longest name of a method.
const MAX_METHOD_BYTES: usize = 4096;

/// A plugin as the manager, or a sandbox that stands alone, knows it.
pub(crate) struct Entry {
    subject: Arc<Subject>,
    program: Option<PathBuf>,
    current: Mutex<Current>,
    turn: Mutex<()>,
    operator: Mutex<Option<ThreadId>>,
    /// Held while limits reach a helper: those that change during a load, which the helper may overwrite with what it
    /// was made with, are told to it again at the load's end.
    limits_turn: Mutex<()>,
    /// Held while the allowed modules change.
    modules_turn: Mutex<()>,
}

/// What it has at the moment.
#[derive(Default)]
struct Current {
    /// The helper of the last load, which may have ended.
    instance: Option<Arc<Instance>>,
    runtime: Option<Arc<Runtime>>,
    report: Option<Arc<EnforcementReport>>,
    activated_before: bool,
}

/// A load that worked.
pub(crate) struct Loaded {
    pub(crate) instance: Arc<Instance>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) report: Arc<EnforcementReport>,
    pub(crate) metadata: Arc<PluginMetadata>,
}

/// The turn to do something with the plugin: calls into one plugin are serial.
struct Turn<'a> {
    entry: &'a Entry,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.entry.operator) = None;
    }
}

impl Entry {
    pub(crate) fn new(
        id: PluginId,
        policy: PluginPolicy,
        program: Option<PathBuf>,
        managers: Option<Arc<EventHub>>,
        decider: Arc<DeciderCell>,
        exchange: Arc<Exchange>,
    ) -> Result<Self, PluginSandboxError> {
        policy.limits.check()?;
        policy.modules.iter().try_for_each(|soname| library::check_name(soname))?;
        for (permission, grade) in &policy.permissions {
            if let Some(grade) = grade {
                grade.check(permission)?;
                mediated::can_be_had(*grade)?;
            }
        }
        Ok(Self {
            subject: Arc::new(Subject::new(id, PolicyCell::new(policy), managers, decider, exchange)),
            program,
            current: Mutex::default(),
            turn: Mutex::new(()),
            operator: Mutex::new(None),
            limits_turn: Mutex::new(()),
            modules_turn: Mutex::new(()),
        })
    }

    pub(crate) fn subject(&self) -> &Arc<Subject> {
        &self.subject
    }

    pub(crate) fn program(&self) -> Option<PathBuf> {
        self.program.clone()
    }

    pub(crate) fn report(&self) -> Option<Arc<EnforcementReport>> {
        lock(&self.current).report.clone()
    }

    /// The helper of the last load, whether it lives or not.
    pub(crate) fn instance(&self) -> Option<Arc<Instance>> {
        lock(&self.current).instance.clone()
    }

    /// What the helper of the last load uses, or has used; `None` if there never was one.
    pub(crate) fn usage(&self) -> Option<ResourceUsage> {
        self.instance().map(|instance| instance.usage())
    }

    /// Changes the limits, of a running helper too.
    pub(crate) fn set_limits(&self, limits: ResourceLimits) -> Result<(), PluginSandboxError> {
        limits.check()?;
        let _turn = lock(&self.limits_turn);
        if let Some(instance) = self.instance().filter(|instance| instance.end().is_none()) {
            apply_limits(&instance, &limits)?;
            instance.set_limits(&limits);
        }
        self.subject.policy().set_limits(limits);
        Ok(())
    }

    /// Tells a helper that has just loaded of the limits as they are now.
    pub(crate) fn settle_limits(&self, instance: &Instance) -> Result<(), PluginSandboxError> {
        let _turn = lock(&self.limits_turn);
        let limits = self.subject.limits();
        apply_limits(instance, &limits)?;
        instance.set_limits(&limits);
        Ok(())
    }

    /// Withdraws a permission, and takes back of a running helper what it had opened; whether any of it was held.
    pub(crate) fn revoke(&self, permission: &PluginPermission, held_files: HeldFiles) -> bool {
        let held = self.subject.revoke(permission);
        self.subject.exchange().settle(permission);
        // Also if it was not held: what an earlier revoke has left open may be taken now.
        if let Some(instance) = self.instance().filter(|instance| instance.end().is_none()) {
            broker::take_back(&instance, permission, held_files);
        }
        held
    }

    /// Allows a module, for a running plugin's next `dlopen` too: not if it is not found, or needs what is not allowed.
    pub(crate) fn add_module(&self, soname: &str) -> Result<bool, PluginSandboxError> {
        library::check_name(soname)?;
        let _turn = lock(&self.modules_turn);
        let policy = self.subject.policy();
        if let Some(brokered) = self.brokered() {
            let mut names = policy.modules();
            names.insert(soname.to_owned());
            brokered.served.allow(soname, &|name| names.contains(name))?;
        }
        Ok(policy.change_modules(|modules| modules.insert(soname.to_owned())))
    }

    /// Allows it no more. Whether it was allowed.
    pub(crate) fn remove_module(&self, soname: &str) -> bool {
        let _turn = lock(&self.modules_turn);
        let policy = self.subject.policy();
        let held = policy.change_modules(|modules| modules.remove(soname));
        if let Some(brokered) = self.brokered() {
            let names = policy.modules();
            brokered.served.keep(&|name| names.contains(name));
        }
        held
    }

    /// Tells the broker of a helper that has just loaded of the modules that became allowed, or not, since the load began.
    pub(crate) fn settle_modules(
        &self,
        instance: &Instance,
        then: &BTreeSet<String>,
    ) -> Result<(), PluginSandboxError> {
        let _turn = lock(&self.modules_turn);
        let names = self.subject.policy().modules();
        if let Some(brokered) = instance.brokered().filter(|_| names != *then) {
            let allowed = |name: &str| names.contains(name);
            brokered.served.keep(&allowed);
            names.difference(then).try_for_each(|name| brokered.served.allow(name, &allowed))?;
        }
        Ok(())
    }

    /// What the broker works with for the helper of the last load, if that lives.
    fn brokered(&self) -> Option<Arc<Brokered>> {
        self.instance()?.brokered()
    }

    // ---- operations

    /// Waits for the plugin to be free. A service that it waits for on this very thread would wait for ever.
    fn turn(&self, operation: Operation) -> Result<Turn<'_>, PluginSandboxError> {
        let this = std::thread::current().id();
        if *lock(&self.operator) == Some(this) {
            return Err(PluginSandboxError::Reentrant { plugin: self.subject.id().clone(), operation });
        }
        let turn = lock(&self.turn);
        *lock(&self.operator) = Some(this);
        Ok(Turn { entry: self, _turn: turn })
    }

    /// The turn, if nobody has it.
    fn free_turn(&self) -> Option<Turn<'_>> {
        let turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        *lock(&self.operator) = Some(std::thread::current().id());
        Some(Turn { entry: self, _turn: turn })
    }

    /// Loads, with `load` doing the work.
    pub(crate) fn load(
        &self,
        load: impl FnOnce() -> Result<Loaded, PluginSandboxError>,
    ) -> Result<(Arc<PluginMetadata>, Arc<EnforcementReport>), PluginSandboxError> {
        let _turn = self.turn(Operation::Load)?;
        let before = self.subject.begin(Operation::Load)?;
        match load() {
            Ok(loaded) => {
                let mut current = lock(&self.current);
                current.runtime = Some(loaded.runtime);
                current.activated_before = false;
                drop(current);
                if !self.subject.settle(PluginState::Loading, PluginState::Loaded) {
                    // It ended, or was unloaded, just after.
                    return Err(self.ended(Operation::Load, loaded.instance.wait_end()));
                }
                self.subject.exchange().enter(&loaded.instance);
                Ok((loaded.metadata, loaded.report))
            }
            Err(error) => {
                if let Some(instance) = self.instance().filter(|instance| instance.end().is_none()) {
                    instance.kill(Some(Cause::Unloaded));
                    instance.wait_end();
                }
                let touched = matches!(error, PluginSandboxError::LoadFailed { .. });
                let to = if touched { PluginState::Unloaded } else { before };
                self.subject.settle(PluginState::Loading, to);
                Err(error)
            }
        }
    }

    /// The helper of a load under way: what ends is this one from now on.
    /// Fails if the plugin was unloaded before there was one.
    pub(crate) fn set_instance(&self, instance: &Arc<Instance>) -> Result<(), PluginSandboxError> {
        lock(&self.current).instance = Some(Arc::clone(instance));
        if self.subject.set_helper(instance.id) {
            return Ok(());
        }
        instance.kill(Some(Cause::Unloaded));
        Err(self.ended(Operation::Load, Cause::Unloaded))
    }

    /// The report of a load under way, kept even if the load fails for it.
    pub(crate) fn set_report(&self, report: &Arc<EnforcementReport>) {
        lock(&self.current).report = Some(Arc::clone(report));
    }

    pub(crate) fn activate(&self, app: App) -> Result<(), PluginSandboxError> {
        let _turn = self.turn(Operation::Activate)?;
        self.subject.begin(Operation::Activate)?;
        let instance = self.living(Operation::Activate)?;
        instance.set_app(app);
        let before = std::mem::replace(&mut lock(&self.current).activated_before, true);
        instance.begin_activation(!before);
        let timeout = self.subject.limits().activate_timeout;
        let reply =
            instance.transact(Some(&ToHelper::Activate), Expect::Activated, Operation::Activate, timeout);
        self.concluded(Operation::Activate, PluginState::Activating, reply)
    }

    pub(crate) fn deactivate(&self) -> Result<(), PluginSandboxError> {
        let _turn = self.turn(Operation::Deactivate)?;
        self.deactivate_in_turn()
    }

    fn deactivate_in_turn(&self) -> Result<(), PluginSandboxError> {
        self.subject.begin(Operation::Deactivate)?;
        let instance = self.living(Operation::Deactivate)?;
        let timeout = self.subject.limits().deactivate_timeout;
        let order = ToHelper::Deactivate;
        let reply = instance.transact(Some(&order), Expect::Deactivated, Operation::Deactivate, timeout);
        self.concluded(Operation::Deactivate, PluginState::Deactivating, reply)
    }

    fn concluded(
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
            Ok(_) => Err(self.ended(operation, Cause::Protocol { what: "another reply".to_owned() })),
            Err(cause) => Err(self.ended(operation, cause)),
        }
    }

    pub(crate) fn call(&self, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginSandboxError> {
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
        match instance.transact(Some(&order), Expect::Returned(id), Operation::Call, timeout) {
            Ok(Reply::Returned(Ok(Bytes(result)))) => Ok(result),
            Ok(Reply::Returned(Err(fault))) => Err(self.refused(Operation::Call, fault)),
            Ok(_) => Err(self.ended(Operation::Call, Cause::Protocol { what: "another reply".to_owned() })),
            Err(cause) => Err(self.ended(Operation::Call, cause)),
        }
    }

    /// Ends the helper: politely if it is idle, at once if it is in an operation, which then fails.
    pub(crate) fn unload(&self) -> Result<(), PluginSandboxError> {
        let own = *lock(&self.operator) == Some(std::thread::current().id());
        // Taken like any other: a service that runs during `deactivate` below, on this thread, must not wait for it.
        let turn = if own { None } else { self.free_turn() };
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

    /// The living helper; its end if it has none.
    fn living(&self, operation: Operation) -> Result<Arc<Instance>, PluginSandboxError> {
        let instance = self.instance();
        match instance.as_ref().and_then(|instance| instance.end()) {
            Some(cause) => Err(self.ended(operation, cause)),
            None => instance.ok_or_else(|| self.ended(operation, Cause::Unloaded)),
        }
    }

    fn ended(&self, operation: Operation, cause: Cause) -> PluginSandboxError {
        PluginSandboxError::Ended { plugin: self.subject.id().clone(), operation, cause }
    }

    fn refused(&self, operation: Operation, fault: Fault) -> PluginSandboxError {
        let kind = match fault.kind {
            FaultKind::UnknownMethod => ErrorKind::UnknownMethod,
            FaultKind::InvalidPayload => ErrorKind::InvalidPayload,
            FaultKind::Panicked => ErrorKind::Panicked,
            FaultKind::Failed | FaultKind::TooLarge => ErrorKind::Failed,
        };
        let message = escape(fault.message.as_bytes());
        PluginSandboxError::PluginFailed { plugin: self.subject.id().clone(), operation, kind, message }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Some(instance) = self.instance().filter(|instance| instance.end().is_none()) else { return };
        instance.kill(Some(Cause::Unloaded));
        instance.wait_end();
    }
}

/// Tells the kernel of a running helper's new limits: prlimit(2).
pub(crate) fn apply_limits(instance: &Instance, limits: &ResourceLimits) -> Result<(), PluginSandboxError> {
    let Some(pid) = Pid::from_raw(instance.pid.0) else { return Ok(()) };
    let plan = rlimits::plan(limits, instance.counts_alone, instance.family.has_started());
    let standing = procfs::Limits::read(instance.pid);
    // All are judged before the first is changed: what is refused must leave the plugin as it was.
    if let Some(percent) = limits.max_cpu_percent.filter(|_| !instance.cgroup.has_cpu()) {
        let range = "none for a plugin that was loaded without one: load it again";
        return Err(LimitError { name: "max_cpu_percent", value: percent.to_string(), range }.into());
    }
    let mut changes = Vec::new();
    for planned in plan.iter().filter(|planned| planned.resource.is_settable()) {
        let Some((stands, ceiling)) = standing.get(kernel_label(planned.resource)) else {
            continue;
        };
        let soft = planned.soft.or(ceiling);
        if soft == stands {
            continue;
        }
        if ceiling.is_some_and(|ceiling| soft.is_none_or(|soft| soft > ceiling)) {
            let (name, value) = planned.resource.limit_of(limits);
            let value = value.map_or_else(|| "none".to_owned(), |value| value.to_string());
            let range = "at most eight times what the plugin was loaded with: load it again for more";
            return Err(LimitError { name, value, range }.into());
        }
        changes.push((planned.resource, Rlimit { current: soft, maximum: ceiling }));
    }
    for (resource, pair) in changes {
        rustix::process::prlimit(Some(pid), resource.kernel(), pair).map_err(|errno| {
            PluginSandboxError::Io { what: "changing a running plugin's limits", source: errno.into() }
        })?;
    }
    Ok(())
}

/// How long is left of a timeout that began then.
pub(crate) fn left_of(timeout: Duration, began: std::time::Instant) -> Duration {
    timeout.saturating_sub(began.elapsed())
}
