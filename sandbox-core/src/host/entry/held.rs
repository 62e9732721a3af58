//! A registered plugin, the helper that it has at the moment, and who holds it.
//!
//! Runs in the host, on any thread. When the last that holds a plugin goes, its helper goes, and nothing brings it back.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use plugin_abi::{ErrorKind, PluginMetadata};

use super::turn::{Admission, Operator};
use crate::error::PluginSandboxError;
use crate::host::app::App;
use crate::host::decider::DeciderCell;
use crate::host::end::cause::Cause;
use crate::host::events::{EventHub, escape};
use crate::host::figures::PluginFigures;
use crate::host::instance::{GONE_TIMEOUT, Instance};
use crate::host::library;
use crate::host::lifecycle::Operation;
use crate::host::limits::usage::ResourceUsage;
use crate::host::lock::lock;
use crate::host::mediated;
use crate::host::policy::{PluginPolicy, PolicyCell};
use crate::host::report::EnforcementReport;
use crate::host::runtime::Runtime;
use crate::host::services::messages::Exchange;
use crate::host::subject::Subject;
use crate::host::supervise::quarantine::StoreCell;
use crate::host::supervise::restarts;
use crate::shared::policy::PluginId;
use crate::shared::wire::control::{Fault, FaultKind};

/// A plugin as the manager, or a sandbox that stands alone, knows it.
pub(crate) struct Entry {
    pub(super) subject: Arc<Subject>,
    pub(super) program: Option<PathBuf>,
    pub(super) current: Mutex<Current>,
    pub(super) turn: Mutex<()>,
    pub(super) operator: Mutex<Option<Operator>>,
    pub(super) admission: Mutex<Admission>,
    pub(super) left: Condvar,
    pub(super) wanted: Mutex<Wanted>,
    /// Held while a crash is written down.
    pub(super) writing: Mutex<()>,
    /// Held while limits reach a helper: those that change during a load, which the helper may overwrite with what it
    /// was made with, are told to it again at the load's end.
    pub(super) limits_turn: Mutex<()>,
    /// Held while the allowed modules change.
    pub(super) modules_turn: Mutex<()>,
}

/// What a restart brings back; kept only of a plugin that may be restarted.
#[derive(Default)]
pub(super) struct Wanted {
    pub(super) path: Option<PathBuf>,
    /// The services, if it was active.
    pub(super) app: Option<App>,
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
pub(super) struct Current {
    /// The helper of the last load, which may have ended.
    pub(super) instance: Option<Arc<Instance>>,
    pub(super) runtime: Option<Arc<Runtime>>,
    pub(super) report: Option<Arc<EnforcementReport>>,
    pub(super) activated_before: bool,
}

/// A load that worked.
pub(crate) struct Loaded {
    pub(crate) instance: Arc<Instance>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) report: Arc<EnforcementReport>,
    pub(crate) metadata: Arc<PluginMetadata>,
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

    /// What its helper came to; `None` if it never had one, or has one that lives.
    pub(crate) fn end(&self) -> Option<Cause> {
        self.instance()?.end()
    }

    /// Whether there is anything to be ended.
    pub(crate) fn is_up(&self) -> bool {
        lock(&self.admission).inside > 0 || self.instance().is_some_and(|instance| instance.end().is_none())
    }

    /// Ends the helper for `why`, whatever it does. Returns what it has ended by; `None` if none lived.
    pub(crate) fn kill(&self, why: Cause) -> Option<Cause> {
        let instance = self.instance().filter(|instance| instance.end().is_none())?;
        instance.kill(Some(why));
        Some(instance.wait_end())
    }

    /// Nobody is let in ever again, and nothing comes back.
    pub(crate) fn shut(&self) {
        lock(&self.admission).shut = true;
        self.subject.give_up();
    }

    /// The last that held it has gone.
    pub(super) fn close(&self) {
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

    /// The living helper; its end if it has none.
    pub(super) fn living(&self, operation: Operation) -> Result<Arc<Instance>, PluginSandboxError> {
        let instance = self.instance();
        match instance.as_ref().and_then(|instance| instance.end()) {
            Some(cause) => Err(self.ended(operation, cause)),
            None => instance.ok_or_else(|| self.ended(operation, Cause::Unloaded)),
        }
    }

    pub(super) fn ended(&self, operation: Operation, cause: Cause) -> PluginSandboxError {
        PluginSandboxError::Ended { plugin: self.subject.id().clone(), operation, cause }
    }

    pub(super) fn refused(&self, operation: Operation, fault: Fault) -> PluginSandboxError {
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
