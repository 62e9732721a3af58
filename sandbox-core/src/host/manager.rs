//! Many plugins under their ids, from any thread.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crossbeam_channel::Receiver;

use super::app::App;
use super::audit::AuditLog;
use super::broker::HeldFiles;
use super::decider::{AccessRequest, Decider, DeciderCell, Ruling};
use super::end::report::EndReport;
use super::entry::{Entry, Held};
use super::events::{EventHub, SandboxEvent};
use super::figures::HostFigures;
use super::lifecycle::Operation;
use super::limits::usage::ResourceUsage;
use super::monitor::{MonitorSocket, Monitored};
use super::policy::PluginPolicy;
use super::protected;
use super::sandbox::{PluginHandle, PluginSandbox};
use super::services::messages::Exchange;
use super::supervise::health::Health;
use super::supervise::quarantine::{QuarantineStore, StoreCell};
use super::supervise::shutdown::{self, ShutdownReport};
use crate::error::PluginSandboxError;
use crate::shared::nearness::distance;
use crate::shared::policy::{Grade, PluginId, PluginPermission, ResourceLimits};

/// Holds many plugins, each registered under its id with what it may do, each loaded, called and unloaded on its own.
///
/// ```no_run
/// use sandbox_core::{App, PERMISSION_FILE_READ, PluginPolicy, PluginSandboxManager};
/// let manager = PluginSandboxManager::new();
/// manager.register_plugin("thumbs", PluginPolicy::new().permission(PERMISSION_FILE_READ))?;
/// manager.load_plugin("thumbs", "libthumbs.so")?;
/// manager.activate_plugin("thumbs", App::new())?;
/// manager.call("thumbs", "thumbnail", b"...")?;
/// manager.revoke_permission("thumbs", &PERMISSION_FILE_READ)?;
/// manager.unload_plugin("thumbs")?;
/// # Ok::<(), sandbox_core::PluginSandboxError>(())
/// ```
#[derive(Default)]
pub struct PluginSandboxManager {
    entries: Arc<RwLock<HashMap<PluginId, Arc<Held>>>>,
    /// Set with the lock above held.
    shut: AtomicBool,
    store: Arc<StoreCell>,
    hub: Arc<EventHub>,
    decider: Arc<DeciderCell>,
    exchange: Arc<Exchange>,
    program: Option<PathBuf>,
}

impl PluginSandboxManager {
    /// A manager with no plugins. Its helpers are this program itself, run again.
    pub fn new() -> Self {
        Self::default()
    }

    /// A manager whose helpers are another program that links this library, for hosts whose own image is heavy: the
    /// `plugin-sandbox-helper` that comes with it, or one of the embedder's.
    pub fn with_helper_program(path: impl Into<PathBuf>) -> Self {
        Self { program: Some(path.into()), ..Self::default() }
    }

    /// Registers a plugin under `id`.
    ///
    /// # Errors
    /// [`AlreadyRegistered`](PluginSandboxError::AlreadyRegistered), [`PluginId`](PluginSandboxError::PluginId),
    /// [`Limit`](PluginSandboxError::Limit), [`Permission`](PluginSandboxError::Permission),
    /// [`Library`](PluginSandboxError::Library) for a module that is no soname,
    /// [`NoMediation`](PluginSandboxError::NoMediation).
    pub fn register_plugin(&self, id: &str, policy: PluginPolicy) -> Result<(), PluginSandboxError> {
        let id = PluginId::new(id)?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.contains_key(&id) {
            return Err(PluginSandboxError::AlreadyRegistered { plugin: id });
        }
        let (program, hub) = (self.program.clone(), Arc::clone(&self.hub));
        let (decider, exchange) = (Arc::clone(&self.decider), Arc::clone(&self.exchange));
        let store = Arc::clone(&self.store);
        let entry = Entry::hold(id.clone(), policy, program, Some(hub), decider, exchange, store)?;
        if self.shut.load(Ordering::Acquire) {
            entry.shut();
        }
        entries.insert(id, Arc::new(entry));
        Ok(())
    }

    /// Forgets a plugin, and unloads it first if need be.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin).
    pub fn unregister_plugin(&self, id: &str) -> Result<(), PluginSandboxError> {
        let entry = self.entry(id)?;
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        // Another may have been registered under this id meanwhile: that one stays.
        if entries.get(id).is_some_and(|known| Arc::ptr_eq(known, &entry)) {
            entries.remove(id);
        }
        drop(entries);
        // It may not be loaded, or crash on its way out: it is gone either way.
        let _ = entry.unload();
        Ok(())
    }

    /// A live view of a registered plugin: what is changed through either is changed in both.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin).
    pub fn create_sandbox(&self, id: &str) -> Result<PluginSandbox, PluginSandboxError> {
        self.entry(id).map(|entry| PluginSandbox::of(&entry))
    }

    /// The ids of all registered plugins, sorted.
    pub fn plugin_ids(&self) -> Vec<PluginId> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<_> = entries.keys().cloned().collect();
        ids.sort();
        ids
    }

    /// [`PluginSandbox::load_plugin`] of the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin), and as there.
    pub fn load_plugin(&self, id: &str, path: impl AsRef<Path>) -> Result<PluginHandle, PluginSandboxError> {
        self.create_sandbox(id)?.load_plugin(path)
    }

    /// [`PluginSandbox::activate_plugin`] of the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin), and as there.
    pub fn activate_plugin(&self, id: &str, app: impl Into<App>) -> Result<(), PluginSandboxError> {
        self.entry(id)?.activate(app.into())
    }

    /// [`PluginSandbox::call`] of the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin), and as there.
    pub fn call(&self, id: &str, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginSandboxError> {
        self.entry(id)?.call(method, payload)
    }

    /// [`PluginSandbox::deactivate_plugin`] of the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin), and as there.
    pub fn deactivate_plugin(&self, id: &str) -> Result<(), PluginSandboxError> {
        self.entry(id)?.deactivate()
    }

    /// [`PluginSandbox::unload_plugin`] of the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin), and as there.
    pub fn unload_plugin(&self, id: &str) -> Result<(), PluginSandboxError> {
        self.entry(id)?.unload()
    }

    /// [`PluginSandbox::drain_plugin`] of the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin), and as there.
    pub fn drain_plugin(&self, id: &str, timeout: Duration) -> Result<(), PluginSandboxError> {
        self.create_sandbox(id)?.drain_plugin(timeout)
    }

    /// [`PluginSandbox::check_health`] of the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin), and as there.
    pub fn check_health(&self, id: &str, timeout: Duration) -> Result<Health, PluginSandboxError> {
        self.create_sandbox(id)?.check_health(timeout)
    }

    /// From the next load on the crashes of all plugins are counted in `store`, and a library that is quarantined there is not
    /// loaded, whatever its plugin's restart policy.
    pub fn quarantine_in(&self, store: &QuarantineStore) {
        self.store.set(store.clone());
    }

    /// Where the crashes of plugins are counted: in memory, unless a store was named.
    pub fn quarantine(&self) -> QuarantineStore {
        self.store.get()
    }

    /// Ends all plugins, for good: nothing new begins, with [`ShuttingDown`](PluginSandboxError::ShuttingDown); what is under
    /// way, or waits for its turn, may come to its end; then each is deactivated and unloaded, up to 32 at once. What has not
    /// ended after `timeout` is killed, with [`Cause::HostShutdown`](crate::Cause::HostShutdown). A manager that was shut down
    /// stays so; to do it again does nothing more.
    ///
    /// Takes no longer than `timeout`, but for what the kernel needs to end a process. A service that never returns holds up
    /// its thread, and not this.
    ///
    /// ```
    /// use std::time::Duration;
    /// let manager = sandbox_core::PluginSandboxManager::new();
    /// let report = manager.shutdown(Duration::from_secs(10))?;
    /// for (plugin, ending) in &report.plugins {
    ///     println!("{plugin}: {ending}");
    /// }
    /// # Ok::<(), sandbox_core::PluginSandboxError>(())
    /// ```
    ///
    /// # Errors
    /// [`Reentrant`](PluginSandboxError::Reentrant) from a service that one of its plugins waits for; nothing has happened
    /// then.
    pub fn shutdown(&self, timeout: Duration) -> Result<ShutdownReport, PluginSandboxError> {
        let entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<Arc<Held>> = entries.values().map(Arc::clone).collect();
        if let Some(busy) = all.iter().find(|entry| entry.is_operated_here()) {
            let (plugin, operation) = (busy.subject().id().clone(), Operation::Unload);
            return Err(PluginSandboxError::Reentrant { plugin, operation });
        }
        self.shut.store(true, Ordering::Release);
        drop(entries);
        Ok(shutdown::shutdown(&all, timeout))
    }

    /// From now on `decide` is asked about every access of any plugin that no permission opens and none denies; an answer
    /// that does not come within `timeout` is [`Ruling::Deny`].
    ///
    /// It runs on a thread of its own, and may take as long as a person needs: only the plugin that asks waits, and the
    /// deadline of a call into it does not run meanwhile. Each plugin has one question at a time, and at most 30 a minute;
    /// what is beyond is denied. What was denied once is not asked again while that helper lives.
    ///
    /// ```
    /// use std::time::Duration;
    /// use sandbox_core::{PluginSandboxManager, Ruling};
    /// let manager = PluginSandboxManager::new();
    /// manager.set_decider(Duration::from_secs(30), |request| {
    ///     if request.permission.name() == "file-read" { Ruling::AllowOnce } else { Ruling::Deny }
    /// });
    /// ```
    pub fn set_decider(
        &self,
        timeout: Duration,
        decide: impl Fn(&AccessRequest) -> Ruling + Send + Sync + 'static,
    ) {
        self.decider.set(Some(Decider::ask(timeout, decide)));
    }

    /// From now on nobody is asked: what is not granted is refused.
    pub fn remove_decider(&self) {
        self.decider.set(None);
    }

    /// What is granted to the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin).
    pub fn get_plugin_permissions(&self, id: &str) -> Result<Vec<PluginPermission>, PluginSandboxError> {
        Ok(self.create_sandbox(id)?.permissions())
    }

    /// Grants the plugin `id` a permission, in any state; true, also if it is held already.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin).
    pub fn grant_permission(
        &self,
        id: &str,
        permission: PluginPermission,
    ) -> Result<bool, PluginSandboxError> {
        self.entry(id)?.subject().grant(permission);
        Ok(true)
    }

    /// [`PluginSandbox::grant_permission_as`] of the plugin `id`; true, also if it is held already.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin), and as there.
    pub fn grant_permission_as(
        &self,
        id: &str,
        permission: PluginPermission,
        grade: Grade,
    ) -> Result<bool, PluginSandboxError> {
        self.entry(id)?.subject().grant_as(permission, grade)?;
        Ok(true)
    }

    /// [`PluginSandbox::revoke_permission`] of the plugin `id`: whether any of it was held.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin).
    pub fn revoke_permission(
        &self,
        id: &str,
        permission: &PluginPermission,
    ) -> Result<bool, PluginSandboxError> {
        Ok(self.entry(id)?.revoke(permission, HeldFiles::End))
    }

    /// [`PluginSandbox::revoke_permission_leaving_open`] of the plugin `id`: whether any of it was held.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin).
    pub fn revoke_permission_leaving_open(
        &self,
        id: &str,
        permission: &PluginPermission,
    ) -> Result<bool, PluginSandboxError> {
        Ok(self.entry(id)?.revoke(permission, HeldFiles::Leave))
    }

    /// The limits of the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin).
    pub fn get_resource_limits(&self, id: &str) -> Result<ResourceLimits, PluginSandboxError> {
        Ok(self.entry(id)?.subject().limits())
    }

    /// [`PluginSandbox::last_end`] of the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin).
    pub fn get_last_end(&self, id: &str) -> Result<Option<Arc<EndReport>>, PluginSandboxError> {
        Ok(self.entry(id)?.subject().last_end())
    }

    /// [`PluginSandbox::resource_usage`] of the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin).
    pub fn get_resource_usage(&self, id: &str) -> Result<Option<ResourceUsage>, PluginSandboxError> {
        Ok(self.entry(id)?.usage())
    }

    /// [`PluginSandbox::set_resource_limits`] of the plugin `id`.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin), and as there.
    pub fn set_resource_limits(&self, id: &str, limits: ResourceLimits) -> Result<(), PluginSandboxError> {
        self.entry(id)?.set_limits(limits)
    }

    /// The modules that the plugin `id` may load, beside the C library's own.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin).
    pub fn get_allowed_modules(&self, id: &str) -> Result<Vec<String>, PluginSandboxError> {
        Ok(self.create_sandbox(id)?.allowed_modules())
    }

    /// [`PluginSandbox::add_allowed_module`] of the plugin `id`: whether it is new.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin), and as there.
    pub fn add_allowed_module(&self, id: &str, soname: &str) -> Result<bool, PluginSandboxError> {
        self.create_sandbox(id)?.add_allowed_module(soname)
    }

    /// [`PluginSandbox::remove_allowed_module`] of the plugin `id`: whether it was allowed.
    ///
    /// # Errors
    /// [`UnknownPlugin`](PluginSandboxError::UnknownPlugin).
    pub fn remove_allowed_module(&self, id: &str, soname: &str) -> Result<bool, PluginSandboxError> {
        Ok(self.create_sandbox(id)?.remove_allowed_module(soname))
    }

    /// From now on no permission, at whatever scope, reaches the file or tree at `path` for any plugin of this process, nor
    /// a file beside it whose name goes on after a dot, as rotated records are called. For what is the host's own: records,
    /// grants, keys. What plugins were loaded from is protected from writing without a word.
    pub fn protect(&self, path: impl AsRef<Path>) {
        protected::protect(path.as_ref());
    }

    /// The events of all plugins from now on. At most 1024 wait; what is over is counted and reported. What a plugin repeats
    /// comes sixteen times a second, and then as a count ([`Repeated`](crate::EventKind::Repeated)).
    pub fn events(&self) -> Receiver<SandboxEvent> {
        self.hub.subscribe()
    }

    /// Writes the events of all plugins from now on to `log`. Following a manager and one of its sandboxes too would write
    /// that plugin's events twice.
    pub fn audit_to(&self, log: &AuditLog) {
        log.follow(&self.hub);
    }

    /// What the plugins have done, and use at the moment.
    pub fn figures(&self) -> HostFigures {
        self.monitored().figures()
    }

    /// Opens a socket at `path` for operators, who see these figures there with `plugin-host top`, or as text for Prometheus,
    /// and can deactivate and end plugins and revoke what they hold. It is there until what is returned is dropped.
    ///
    /// The socket has mode 600; only root and this process's user may connect, and no plugin, whatever it is granted. Each
    /// command is an event, [`EventKind::OperatorCommand`](crate::EventKind::OperatorCommand).
    ///
    /// ```
    /// use std::io::{BufRead, BufReader, Write};
    /// use std::os::unix::net::UnixStream;
    /// use sandbox_core::{MonitorAnswer, MonitorCommand, MonitorReply, MonitorRequest};
    /// use sandbox_core::{PluginPolicy, PluginSandboxManager};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("monitor.sock");
    /// let manager = PluginSandboxManager::new();
    /// manager.register_plugin("thumbs", PluginPolicy::new())?;
    /// let monitor = manager.monitor_at(&path)?;
    ///
    /// // What an operator's program does:
    /// let mut stream = BufReader::new(UnixStream::connect(&path)?);
    /// stream.get_mut().write_all(MonitorRequest::new(MonitorCommand::Snapshot).line().as_bytes())?;
    /// let mut line = String::new();
    /// stream.read_line(&mut line)?;
    /// let reply: MonitorReply = line.parse()?;
    /// let MonitorAnswer::Figures { figures } = reply.answer else { panic!("{reply:?}") };
    /// assert_eq!(figures.plugins[0].state, "registered");
    ///
    /// drop(monitor);
    /// assert!(!path.exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// What the system says; and where others may write to the folder, where another monitor is served at `path`, and where
    /// something is there that is no socket of this user's.
    pub fn monitor_at(&self, path: impl AsRef<Path>) -> io::Result<MonitorSocket> {
        MonitorSocket::open(path.as_ref(), self.monitored())
    }

    fn monitored(&self) -> Monitored {
        let entries = Arc::downgrade(&self.entries);
        let plugins = move || {
            let Some(entries) = entries.upgrade() else { return Vec::new() };
            let entries = entries.read().unwrap_or_else(PoisonError::into_inner);
            entries.values().map(|held| Arc::clone(held.entry())).collect()
        };
        Monitored { plugins: Box::new(plugins), hub: Some(Arc::clone(&self.hub)) }
    }

    fn entry(&self, id: &str) -> Result<Arc<Held>, PluginSandboxError> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(id).cloned().ok_or_else(|| {
            let nearest = entries.keys().map(|known| (distance(id, known.as_str()), known));
            let nearest = nearest
                .filter(|(distance, _)| *distance <= 3 && *distance < id.chars().count())
                .min_by_key(|(distance, _)| *distance);
            PluginSandboxError::UnknownPlugin {
                plugin: id.chars().take(80).collect(),
                nearest: nearest.map(|(_, known)| known.clone()),
            }
        })
    }
}

impl std::fmt::Debug for PluginSandboxManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginSandboxManager").field("plugins", &self.plugin_ids()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_known_id_is_named() {
        let manager = PluginSandboxManager::new();
        manager.register_plugin("thumbs", PluginPolicy::new()).unwrap();
        let unknown = manager.create_sandbox("thumb").unwrap_err();
        assert_eq!(unknown.help().as_deref(), Some("did you mean \"thumbs\"?"));
    }

    #[test]
    fn a_manager_can_be_used_from_any_thread() {
        fn usable_from_any_thread<T: Send + Sync>() {}
        usable_from_any_thread::<PluginSandboxManager>();
        usable_from_any_thread::<PluginSandbox>();
        usable_from_any_thread::<PluginHandle>();
    }
}
