//! A registered plugin and the helper it has at the moment: the operations, one at a time.
//!
//! Runs in the host, on any thread. Owns whose turn it is, and who is let in at all. When the last that holds it goes, its
//! helper goes, and nothing brings it back.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use plugin_abi::{ErrorKind, PluginMetadata};
use rustix::process::{Pid, Rlimit};

use super::app::App;
use super::broker::{self, Brokered, HeldFiles};
use super::decider::DeciderCell;
use super::end::cause::Cause;
use super::events::{EventHub, EventKind, escape};
use super::figures::{CallOutcome, PluginFigures};
use super::instance::{Expect, GONE_TIMEOUT, Instance, Reply};
use super::library;
use super::lifecycle::{Operation, Outcome, PluginState};
use super::limits::usage::ResourceUsage;
use super::load;
use super::lock::lock;
use super::mediated;
use super::policy::{PluginPolicy, PolicyCell};
use super::procfs;
use super::report::EnforcementReport;
use super::runtime::Runtime;
use super::services::messages::Exchange;
use super::subject::{Due, Subject};
use super::supervise::health::{Answer, Health, ProcessHealth};
use super::supervise::quarantine::StoreCell;
use super::supervise::restarts;
use super::verify::kernel_label;
use crate::error::PluginSandboxError;
use crate::shared::plan::rlimits;
use crate::shared::policy::{LimitError, PluginId, PluginPermission, ResourceLimits};
use crate::shared::wire::control::{Bytes, Fault, FaultKind, ToHelper};

/// The longest name of a method.
const MAX_METHOD_BYTES: usize = 4096;

/// How often it is looked whether a plugin that is to be restarted has its turn free.
const TURN_INTERVAL: Duration = Duration::from_millis(20);

/// A plugin as the manager, or a sandbox that stands alone, knows it.
pub(crate) struct Entry {
    subject: Arc<Subject>,
    program: Option<PathBuf>,
    current: Mutex<Current>,
    turn: Mutex<()>,
    operator: Mutex<Option<Operator>>,
    admission: Mutex<Admission>,
    left: Condvar,
    wanted: Mutex<Wanted>,
    /// Held while a crash is written down.
    writing: Mutex<()>,
    /// Held while limits reach a helper: those that change during a load, which the helper may overwrite with what it
    /// was made with, are told to it again at the load's end.
    limits_turn: Mutex<()>,
    /// Held while the allowed modules change.
    modules_turn: Mutex<()>,
}

/// Who has the turn.
#[derive(Debug, Clone, Copy)]
struct Operator {
    thread: ThreadId,
    operation: Operation,
    since: Instant,
}

/// Who has been let in: an operation that has its turn, or waits for it.
#[derive(Debug, Default)]
struct Admission {
    inside: usize,
    /// How many wait for all to leave.
    waiting: usize,
    /// How many wait for all to leave, and let nobody in meanwhile.
    draining: usize,
    /// Nobody is let in ever again.
    shut: bool,
}

struct Admitted<'a>(&'a Entry);

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let mut admission = lock(&self.0.admission);
        admission.inside -= 1;
        // A call is no place for a system call that wakes nobody.
        let is_awaited = admission.inside == 0 && admission.waiting > 0;
        drop(admission);
        if is_awaited {
            self.0.left.notify_all();
        }
    }
}

/// What a restart brings back; kept only of a plugin that may be restarted.
#[derive(Default)]
struct Wanted {
    path: Option<PathBuf>,
    /// The services, if it was active.
    app: Option<App>,
}

/// Holds a plugin. When the last one goes, the plugin's helper goes, and no restart brings it back: whoever looks after
/// restarts holds the entry itself, for a moment.
pub(crate) struct Held(Arc<Entry>);

impl Held {
    /// The plugin, for whoever looks at it for a moment and keeps it from nothing.
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.0
    }
}

impl Deref for Held {
    type Target = Arc<Entry>;

    fn deref(&self) -> &Arc<Entry> {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.close();
    }
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
    pub(crate) fn hold(
        id: PluginId,
        policy: PluginPolicy,
        program: Option<PathBuf>,
        managers: Option<Arc<EventHub>>,
        decider: Arc<DeciderCell>,
        exchange: Arc<Exchange>,
        store: Arc<StoreCell>,
    ) -> Result<Held, PluginSandboxError> {
        policy.limits.check()?;
        policy.restart.check()?;
        policy.modules.iter().try_for_each(|soname| library::check_name(soname))?;
        for (permission, grade) in &policy.permissions {
            if let Some(grade) = grade {
                grade.check(permission)?;
                mediated::can_be_had(*grade)?;
            }
        }
        let entry = Arc::new(Self {
            subject: Arc::new(Subject::new(id, PolicyCell::new(policy), managers, decider, exchange, store)),
            program,
            current: Mutex::default(),
            turn: Mutex::new(()),
            operator: Mutex::new(None),
            admission: Mutex::default(),
            left: Condvar::new(),
            wanted: Mutex::default(),
            writing: Mutex::new(()),
            limits_turn: Mutex::new(()),
            modules_turn: Mutex::new(()),
        });
        entry.subject.set_entry(Arc::downgrade(&entry));
        Ok(Held(entry))
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
        self.instance().filter(|instance| instance.lives())?.brokered()
    }

    // ---- operations

    /// Lets an operation in, which then waits for its turn; not once all are to leave.
    fn admit(&self, operation: Operation) -> Result<Admitted<'_>, PluginSandboxError> {
        let mut admission = lock(&self.admission);
        if admission.shut || admission.draining > 0 {
            return Err(PluginSandboxError::ShuttingDown { plugin: self.subject.id().clone(), operation });
        }
        admission.inside += 1;
        Ok(Admitted(self))
    }

    /// Waits until all have left, or for so long. Whether they have.
    pub(crate) fn wait_idle(&self, until: Instant) -> bool {
        let mut admission = lock(&self.admission);
        admission.waiting += 1;
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.left.wait_timeout_while(admission, left, |admission| admission.inside > 0);
        let mut admission = waited.unwrap_or_else(PoisonError::into_inner).0;
        admission.waiting -= 1;
        admission.inside == 0
    }

    /// Whether this thread runs a service for the operation under way.
    pub(crate) fn is_operated_here(&self) -> bool {
        lock(&self.operator).is_some_and(|operator| operator.thread == std::thread::current().id())
    }

    /// Waits for the plugin to be free. A service that it waits for on this very thread would wait for ever.
    fn turn(&self, operation: Operation) -> Result<Turn<'_>, PluginSandboxError> {
        if self.is_operated_here() {
            return Err(PluginSandboxError::Reentrant { plugin: self.subject.id().clone(), operation });
        }
        let turn = lock(&self.turn);
        Ok(self.taken(turn, operation))
    }

    /// The turn, if nobody has it.
    fn free_turn(&self, operation: Operation) -> Option<Turn<'_>> {
        let turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(self.taken(turn, operation))
    }

    fn taken<'a>(&'a self, turn: MutexGuard<'a, ()>, operation: Operation) -> Turn<'a> {
        let (thread, since) = (std::thread::current().id(), Instant::now());
        *lock(&self.operator) = Some(Operator { thread, operation, since });
        Turn { entry: self, _turn: turn }
    }

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

    fn load_in_turn(
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
        let _admitted = self.admit(Operation::Activate)?;
        let _turn = self.turn(Operation::Activate)?;
        self.activate_in_turn(app)
    }

    fn activate_in_turn(&self, app: App) -> Result<(), PluginSandboxError> {
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

    fn deactivate_in_turn(&self) -> Result<(), PluginSandboxError> {
        self.subject.begin(Operation::Deactivate)?;
        self.release_services();
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

    fn count(&self, took: Duration, payload: &[u8], reply: &Result<Reply, Cause>) {
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

    /// Deactivates, if nobody does anything else with the plugin at the moment.
    pub(crate) fn deactivate_if_free(&self) -> Option<Result<(), PluginSandboxError>> {
        let _admitted = match self.admit(Operation::Deactivate) {
            Ok(admitted) => admitted,
            Err(error) => return Some(Err(error)),
        };
        let _turn = self.free_turn(Operation::Deactivate)?;
        Some(self.deactivate_in_turn())
    }

    /// Ends the helper for `why`, whatever it does. Returns what it has ended by; `None` if none lived.
    pub(crate) fn kill(&self, why: Cause) -> Option<Cause> {
        let instance = self.instance().filter(|instance| instance.end().is_none())?;
        instance.kill(Some(why));
        Some(instance.wait_end())
    }

    /// What the plugin has done, and uses at the moment.
    pub(crate) fn figures(&self) -> PluginFigures {
        let instance = self.instance();
        let living = instance.as_ref().filter(|instance| instance.end().is_none());
        PluginFigures {
            process_id: living.and_then(|instance| u32::try_from(instance.pid.0).ok()),
            usage: self.usage(),
            ..self.subject.figures()
        }
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

    fn unload_for_good(&self) -> Result<(), PluginSandboxError> {
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

    /// Nobody is let in ever again, and nothing comes back.
    pub(crate) fn shut(&self) {
        lock(&self.admission).shut = true;
        self.subject.give_up();
    }

    /// Ends the helper at once, whatever is under way, since the host shuts down.
    pub(crate) fn end_for_shutdown(&self) {
        // A load that has no helper yet finds out that it is not wanted.
        let _ = self.subject.begin(Operation::Unload);
        if let Some(instance) = self.instance() {
            instance.kill_for_shutdown();
        }
    }

    /// What its helper came to; `None` if it never had one, or has one that lives.
    pub(crate) fn end(&self) -> Option<Cause> {
        self.instance()?.end()
    }

    /// Whether there is anything to be ended.
    pub(crate) fn is_up(&self) -> bool {
        lock(&self.admission).inside > 0 || self.instance().is_some_and(|instance| instance.end().is_none())
    }

    /// The last that held it has gone.
    fn close(&self) {
        self.shut();
        // An error is a plugin that has nothing to be unloaded.
        let _ = self.subject.begin(Operation::Unload);
        restarts::forget(self);
        self.release_services();
        if let Some(instance) = self.instance().filter(|instance| instance.end().is_none()) {
            instance.kill(Some(Cause::Unloaded));
            instance.wait_end();
        }
        // A restart that was under way finds out; unless it is the one that runs this, by a service.
        if !self.is_operated_here() {
            self.wait_idle(Instant::now() + GONE_TIMEOUT);
        }
        self.write_down_crashes();
        let current = std::mem::take(&mut *lock(&self.current));
        drop(current);
    }

    // ---- restarts

    /// Lets the services go that a restart would have offered, if it does not come back.
    fn release_services(&self) {
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
    fn restart(self: &Arc<Self>) {
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

    fn bring_back(self: &Arc<Self>) -> Result<(), PluginSandboxError> {
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

    // ---- health

    /// Asks the helper for an answer, if nothing is under way in it.
    pub(crate) fn check_health(&self, timeout: Duration) -> Result<Health, PluginSandboxError> {
        if self.is_operated_here() {
            let operation = Operation::Check;
            return Err(PluginSandboxError::Reentrant { plugin: self.subject.id().clone(), operation });
        }
        let answer = match self.free_turn(Operation::Check) {
            Some(_turn) => {
                self.subject.begin(Operation::Check)?;
                let instance = self.living(Operation::Check)?;
                let id = instance.next_call();
                let asked = Instant::now();
                let order = ToHelper::Ping { id };
                match instance.transact(Some(&order), Expect::Pong(id), Operation::Check, timeout) {
                    Ok(_) => Answer::Answered { after: asked.elapsed() },
                    Err(cause) => return Err(self.ended(Operation::Check, cause)),
                }
            }
            None => match *lock(&self.operator) {
                Some(Operator { operation, since, .. }) => Answer::Busy { operation, since: since.elapsed() },
                // It ends at this moment.
                None => Answer::Busy { operation: Operation::Call, since: Duration::ZERO },
            },
        };
        let instance = self.instance().filter(|instance| instance.end().is_none());
        let process = instance.and_then(|instance| ProcessHealth::of(&instance));
        Ok(Health { state: self.subject.state(), answer, process })
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
    let brokered = instance.brokered();
    let scratch = brokered.as_ref().and_then(|brokered| Some((&brokered.zygote, brokered.scratch.as_ref()?)));
    if scratch.is_some() != (limits.max_scratch_mb > 0) {
        let range = match scratch {
            Some(_) => "more than 0 for a plugin that was loaded with some: load it again",
            None => "0 for a plugin that was loaded without any: load it again",
        };
        let value = limits.max_scratch_mb.to_string();
        return Err(LimitError { name: "max_scratch_mb", value, range }.into());
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
    if let Some((zygote, scratch)) = scratch
        && limits.max_scratch_mb != instance.subject.limits().max_scratch_mb
    {
        // EINVAL below what is in it.
        scratch.resize(zygote, limits.max_scratch_mb).map_err(|errno| PluginSandboxError::Io {
            what: "changing the size of a running plugin's scratch space",
            source: errno.into(),
        })?;
    }
    for (resource, pair) in changes {
        rustix::process::prlimit(Some(pid), resource.kernel(), pair).map_err(|errno| {
            PluginSandboxError::Io { what: "changing a running plugin's limits", source: errno.into() }
        })?;
    }
    Ok(())
}
