//! One plugin's sandbox, as an embedder holds it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use plugin_abi::PluginMetadata;

use super::app::App;
use super::audit::AuditLog;
use super::broker::HeldFiles;
use super::decider::{AccessRequest, Decider, Ruling};
use super::end::report::EndReport;
use super::entry::{Entry, Held};
use super::events::SandboxEvent;
use super::figures::PluginFigures;
use super::lifecycle::PluginState;
use super::limits::usage::ResourceUsage;
use super::load;
use super::monitor::{MonitorSocket, Monitored};
use super::policy::PluginPolicy;
use super::report::EnforcementReport;
use super::supervise::health::Health;
use super::supervise::quarantine::QuarantineStore;
use crate::error::{PermissionDeniedError, PluginSandboxError};
use crate::shared::policy::{Grade, Grants, PluginId, PluginPermission, ResourceLimits};

/// The sandbox of one plugin: what it may do, and the helper process that it runs in once it is loaded.
///
/// A clone is the same sandbox. When the last clone goes, of one that stands alone, its helper is ended.
///
/// ```no_run
/// use sandbox_core::{App, PERMISSION_FILE_READ, PluginPolicy, PluginSandbox};
/// let policy = PluginPolicy::new().permission(PERMISSION_FILE_READ.scoped_to_path("/srv/photos")?);
/// let sandbox = PluginSandbox::new("thumbs", policy)?;
/// let plugin = sandbox.load_plugin("libthumbs.so")?;
/// sandbox.activate_plugin(App::new())?;
/// let picture = plugin.call("thumbnail", b"...")?;
/// sandbox.deactivate_plugin()?;
/// sandbox.unload_plugin()?;
/// # let _ = picture;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct PluginSandbox {
    entry: Arc<Held>,
}

/// A loaded plugin: what it says of itself, and the way to call it. A clone is the same plugin.
#[derive(Clone, Debug)]
pub struct PluginHandle {
    sandbox: PluginSandbox,
    metadata: Arc<PluginMetadata>,
    report: Arc<EnforcementReport>,
}

/// Loads and activates the plugin at `path` with no permission, the default limits and no services.
///
/// ```no_run
/// let plugin = sandbox_core::run("libhello.so")?;
/// println!("{}", String::from_utf8_lossy(&plugin.call("greet", b"world")?));
/// # Ok::<(), sandbox_core::PluginSandboxError>(())
/// ```
///
/// # Errors
/// As [`PluginSandbox::load_plugin`] and [`PluginSandbox::activate_plugin`].
pub fn run(path: impl AsRef<Path>) -> Result<PluginHandle, PluginSandboxError> {
    let path = path.as_ref();
    let library = super::library::SealedLibrary::open(path)?;
    let sandbox = PluginSandbox::new(&load::metadata(&library)?.id, PluginPolicy::new())?;
    // `library` still is there, so that the load may share its copy instead of making another.
    let plugin = sandbox.load_plugin(path)?;
    sandbox.activate_plugin(())?;
    Ok(plugin)
}

impl PluginSandbox {
    /// A sandbox that stands alone, without a manager.
    ///
    /// # Errors
    /// [`PluginSandboxError::PluginId`] if it cannot be an id, [`PluginSandboxError::Limit`] if a limit is out of range,
    /// [`PluginSandboxError::Permission`] if a permission has not the grade that it is granted as,
    /// [`PluginSandboxError::Library`] if a module is no soname, [`PluginSandboxError::NoMediation`] if that grade cannot be
    /// had here.
    pub fn new(plugin_id: &str, policy: PluginPolicy) -> Result<Self, PluginSandboxError> {
        let id = PluginId::new(plugin_id)?;
        let entry = Entry::hold(id, policy, None, None, Arc::default(), Arc::default(), Arc::default())?;
        Ok(Self { entry: Arc::new(entry) })
    }

    pub(crate) fn of(entry: &Arc<Held>) -> Self {
        Self { entry: Arc::clone(entry) }
    }

    /// The plugin's id.
    pub fn plugin_id(&self) -> &PluginId {
        self.entry.subject().id()
    }

    /// [`PluginSandboxManager::set_decider`](crate::PluginSandboxManager::set_decider), for this plugin; of a manager's
    /// plugin it is the manager's decider that changes.
    pub fn set_decider(
        &self,
        timeout: Duration,
        decide: impl Fn(&AccessRequest) -> Ruling + Send + Sync + 'static,
    ) {
        self.entry.subject().set_decider(Some(Decider::ask(timeout, decide)));
    }

    /// From now on everything that no permission opens and none denies goes through, one attempt at a time, and is told of
    /// as an event: what a run needs can be learnt from its [`AuditLog`](crate::AuditLog). The plugin is then held by
    /// nothing but what was revoked and what no grant opens: not for one that is not trusted.
    pub fn learn(&self) {
        self.entry.subject().set_decider(Some(Decider::Learn));
    }

    /// From now on nobody is asked. Also ends a decider that holds this very sandbox, which would keep itself for ever.
    pub fn remove_decider(&self) {
        self.entry.subject().set_decider(None);
    }

    /// Where the plugin stands at this moment.
    pub fn state(&self) -> PluginState {
        self.entry.subject().state()
    }

    /// Whether the plugin holds `permission`: without a scope, at any scope; with one, whether all of it is covered.
    pub fn has_permission(&self, permission: &PluginPermission) -> bool {
        self.entry.subject().policy().read(|grants| grants.holds(permission))
    }

    /// [`has_permission`](Self::has_permission), with an error for no.
    ///
    /// # Errors
    /// [`PermissionDeniedError`] if it does not hold it.
    pub fn check_permission(&self, permission: &PluginPermission) -> Result<(), PermissionDeniedError> {
        if self.has_permission(permission) {
            return Ok(());
        }
        Err(PermissionDeniedError { plugin: self.plugin_id().clone(), permission: permission.clone() })
    }

    /// What is granted, in the order in which it was.
    pub fn permissions(&self) -> Vec<PluginPermission> {
        self.entry.subject().policy().read(Grants::list)
    }

    /// Grants `permission`, in any state; the very next use goes by it. Granting what is held changes nothing,
    /// its grade included.
    pub fn grant_permission(&self, permission: PluginPermission) {
        self.entry.subject().grant(permission);
    }

    /// [`grant_permission`](Self::grant_permission), with `grade` saying what of it can be taken back. Granting what is held
    /// as another grade counts for later uses: what the plugin has open stays what it is.
    ///
    /// # Errors
    /// [`PluginSandboxError::Permission`] if this permission has no such grade, [`PluginSandboxError::NoMediation`] if the
    /// host cannot serve files here.
    pub fn grant_permission_as(
        &self,
        permission: PluginPermission,
        grade: Grade,
    ) -> Result<(), PluginSandboxError> {
        self.entry.subject().grant_as(permission, grade)
    }

    /// Withdraws `permission`, in any state, and takes back what it had opened. Returns whether any of it was held.
    ///
    /// Once this returns nothing gets through any more that this permission alone allowed. What was decided before has come
    /// to its end, the next use is refused, and a file that was granted as [`Grade::Mediated`] fails at the next read, write
    /// or page fault. A file that was granted as [`Grade::Descriptor`] cannot be taken from a process that lives: a plugin
    /// that still has one open or mapped is ended, with [`Cause::Revoked`](crate::Cause::Revoked). Where the host may not
    /// look into its plugins (an ordinary user without user namespaces), one that ever opened such a file counts as one that
    /// has it open.
    ///
    /// Programs that only this permission let run are ended; of a script its interpreter counts. A revoke of the last of
    /// `process` ends whatever the plugin has started.
    ///
    /// Without a scope every scope is withdrawn; a part of a wider grant leaves a denial, and only granting that very part
    /// lifts it.
    pub fn revoke_permission(&self, permission: &PluginPermission) -> bool {
        self.entry.revoke(permission, HeldFiles::End)
    }

    /// The same, but a plugin that still has a file open or mapped goes on with it: what was granted as
    /// [`Grade::Descriptor`] and is open already stays readable, or writable, as it was opened. All else is as there.
    pub fn revoke_permission_leaving_open(&self, permission: &PluginPermission) -> bool {
        self.entry.revoke(permission, HeldFiles::Leave)
    }

    /// The limits.
    pub fn resource_limits(&self) -> ResourceLimits {
        self.entry.subject().limits()
    }

    /// Changes the limits, of a running plugin too; timeouts from the next operation on. The size of messages is fixed
    /// when a plugin is loaded; and `None`, on a plugin that was loaded with a limit, stands for eight times that until it
    /// is loaded again.
    ///
    /// # Errors
    /// [`PluginSandboxError::Limit`] if one is out of its range, or, on a running plugin, more than eight times what it was
    /// loaded with.
    pub fn set_resource_limits(&self, limits: ResourceLimits) -> Result<(), PluginSandboxError> {
        self.entry.set_limits(limits)
    }

    /// The shared libraries that the plugin may load, by soname, beside the C library's own.
    pub fn allowed_modules(&self) -> Vec<String> {
        self.entry.subject().policy().modules().into_iter().collect()
    }

    /// Allows one more, in any state. Returns whether it is new.
    ///
    /// On a loaded plugin it is looked for and checked at once, with everything that it needs, and the plugin's next `dlopen`
    /// of it loads the bytes that were checked. What it needs has to be allowed before it. One that is allowed already is not
    /// checked again, also if what it needs is not allowed any more: its `dlopen` then fails. On any other plugin the next
    /// load checks.
    ///
    /// # Errors
    /// [`Library`](PluginSandboxError::Library) if it is no soname but a path, or if the plugin is loaded and the module is not
    /// found, is no library, or needs what is not allowed; it names the chain from the plugin. Then nothing has changed.
    pub fn add_allowed_module(&self, soname: &str) -> Result<bool, PluginSandboxError> {
        self.entry.add_module(soname)
    }

    /// Allows it no more, in any state. Returns whether it was allowed.
    ///
    /// Once this returns a loaded plugin's next `dlopen` of it fails. A module that the plugin has loaded already stays
    /// loaded, as code that it has: to take that too, unload the plugin.
    pub fn remove_allowed_module(&self, soname: &str) -> bool {
        self.entry.remove_module(soname)
    }

    /// Checks the library at `path`, confines a helper for it, and loads it there. From `Registered`, `Unloaded`, `Crashed`,
    /// `Restarting` or `Quarantined`.
    ///
    /// What is loaded are the very bytes that were checked, whatever becomes of the path meanwhile.
    ///
    /// # Errors
    /// [`Library`](PluginSandboxError::Library), [`NotAPlugin`](PluginSandboxError::NotAPlugin),
    /// [`Metadata`](PluginSandboxError::Metadata) or [`Abi`](PluginSandboxError::Abi) if the file is not right, before any
    /// of its code has run; [`LayerMissing`](PluginSandboxError::LayerMissing) if a required layer does not stand;
    /// [`LoadFailed`](PluginSandboxError::LoadFailed), [`PluginFailed`](PluginSandboxError::PluginFailed) or
    /// [`Ended`](PluginSandboxError::Ended) if the library's own code fails;
    /// [`Quarantined`](PluginSandboxError::Quarantined) if it has crashed too often, or
    /// [`Quarantine`](PluginSandboxError::Quarantine) if that cannot be known;
    /// [`ShuttingDown`](PluginSandboxError::ShuttingDown), as all operations;
    /// [`WrongState`](PluginSandboxError::WrongState).
    pub fn load_plugin(&self, path: impl AsRef<Path>) -> Result<PluginHandle, PluginSandboxError> {
        let (metadata, report) = self.entry.load(path.as_ref())?;
        Ok(PluginHandle { sandbox: self.clone(), metadata, report })
    }

    /// Activates the plugin and offers it the services of `app`. From `Loaded`.
    ///
    /// # Errors
    /// [`PluginFailed`](PluginSandboxError::PluginFailed) if it says no (it stays loaded),
    /// [`Ended`](PluginSandboxError::Ended), [`WrongState`](PluginSandboxError::WrongState).
    pub fn activate_plugin(&self, app: impl Into<App>) -> Result<(), PluginSandboxError> {
        self.entry.activate(app.into())
    }

    /// Calls a method of the plugin's. From `Active`. A second caller waits for the first.
    ///
    /// # Errors
    /// [`PluginFailed`](PluginSandboxError::PluginFailed) if it answers with an error or panics (it stays active),
    /// [`Ended`](PluginSandboxError::Ended), [`MessageTooLarge`](PluginSandboxError::MessageTooLarge),
    /// [`Reentrant`](PluginSandboxError::Reentrant), [`WrongState`](PluginSandboxError::WrongState).
    pub fn call(&self, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginSandboxError> {
        self.entry.call(method, payload)
    }

    /// Deactivates the plugin; it stays loaded. From `Active`.
    ///
    /// # Errors
    /// [`PluginFailed`](PluginSandboxError::PluginFailed) if it answers with an error (it is loaded all the same),
    /// [`Ended`](PluginSandboxError::Ended), [`WrongState`](PluginSandboxError::WrongState).
    pub fn deactivate_plugin(&self) -> Result<(), PluginSandboxError> {
        self.entry.deactivate()
    }

    /// Ends the helper. From `Loaded` and `Active`, also while another thread is in a call, which then fails with
    /// [`Cause::Unloaded`](crate::Cause::Unloaded); and from `Restarting`. Once this returns, with an error too, no restart
    /// brings the plugin back.
    ///
    /// # Errors
    /// [`Ended`](PluginSandboxError::Ended) if it crashed, or had to be killed, on its way out: it is unloaded all the same.
    /// [`WrongState`](PluginSandboxError::WrongState).
    pub fn unload_plugin(&self) -> Result<(), PluginSandboxError> {
        self.entry.unload()
    }

    /// Unloads it once what is under way has come to its end: calls that wait for their turn still get it, new ones are
    /// refused with [`ShuttingDown`](PluginSandboxError::ShuttingDown). What has not ended within `timeout` is unloaded as by
    /// [`unload_plugin`](Self::unload_plugin). Afterwards it may be loaded again.
    ///
    /// # Errors
    /// As [`unload_plugin`](Self::unload_plugin); [`Reentrant`](PluginSandboxError::Reentrant) from a service that the plugin
    /// waits for.
    pub fn drain_plugin(&self, timeout: Duration) -> Result<(), PluginSandboxError> {
        self.entry.drain(Instant::now() + timeout)
    }

    /// Waits until the plugin is active, such as after a crash that a [`RestartPolicy`](crate::RestartPolicy) makes up for;
    /// at most for so long. Whether it is.
    ///
    /// ```no_run
    /// # let sandbox = sandbox_core::PluginSandbox::new("thumbs", sandbox_core::PluginPolicy::new())?;
    /// use std::time::Duration;
    /// let picture = match sandbox.call("thumbnail", b"...") {
    ///     Err(_) if sandbox.wait_until_active(Duration::from_secs(5)) => sandbox.call("thumbnail", b"..."),
    ///     answer => answer,
    /// };
    /// # let _ = picture;
    /// # Ok::<(), sandbox_core::PluginSandboxError>(())
    /// ```
    pub fn wait_until_active(&self, timeout: Duration) -> bool {
        self.entry.subject().wait_for(PluginState::Active, timeout)
    }

    /// Asks the helper whether it is there, and looks at its process. From `Loaded` and `Active`.
    ///
    /// While an operation is under way nothing is asked, and the answer is [`Answer::Busy`](crate::Answer::Busy): that
    /// operation has a deadline of its own. One that does not answer within `timeout` is ended, with
    /// [`Cause::Deadline`](crate::Cause::Deadline), as by any deadline; its restart policy may bring it back. Nothing but this
    /// ever asks an idle plugin for anything.
    ///
    /// ```no_run
    /// # let sandbox = sandbox_core::PluginSandbox::new("thumbs", sandbox_core::PluginPolicy::new())?;
    /// use sandbox_core::Answer;
    /// match sandbox.check_health(std::time::Duration::from_secs(1))?.answer {
    ///     Answer::Answered { after } => println!("it answered after {after:?}"),
    ///     Answer::Busy { operation, since } => println!("in {operation} since {since:?}"),
    ///     _ => {}
    /// }
    /// # Ok::<(), sandbox_core::PluginSandboxError>(())
    /// ```
    ///
    /// # Errors
    /// [`Ended`](PluginSandboxError::Ended), [`Reentrant`](PluginSandboxError::Reentrant),
    /// [`WrongState`](PluginSandboxError::WrongState).
    pub fn check_health(&self, timeout: Duration) -> Result<Health, PluginSandboxError> {
        self.entry.check_health(timeout)
    }

    /// From the next load on this plugin's crashes are counted in `store`, and a library that is quarantined there is not
    /// loaded, whatever its restart policy. Of a manager's plugin it is the manager's store that changes.
    pub fn quarantine_in(&self, store: &QuarantineStore) {
        self.entry.subject().store().set(store.clone());
    }

    /// Where its crashes are counted: in memory, unless a store was named.
    pub fn quarantine(&self) -> QuarantineStore {
        self.entry.subject().store().get()
    }

    /// What stands between the plugin and the machine, as of the last load, also of one that failed for it.
    pub fn enforcement_report(&self) -> Option<EnforcementReport> {
        self.entry.report().map(|report| (*report).clone())
    }

    /// How the last helper of this plugin ended that did: the cause, the stack of a fault, what was refused and printed last.
    pub fn last_end(&self) -> Option<Arc<EndReport>> {
        self.entry.subject().last_end()
    }

    /// The helper's process id, while it lives.
    pub fn process_id(&self) -> Option<u32> {
        let instance = self.entry.instance().filter(|instance| instance.lives())?;
        u32::try_from(instance.pid.0).ok()
    }

    /// How much of the machine the plugin uses, and the most that it has used, since its last load; after its end too. `None`
    /// if it was never loaded.
    pub fn resource_usage(&self) -> Option<ResourceUsage> {
        self.entry.usage()
    }

    /// The last 64 KiB of what the plugin has printed, with control characters escaped.
    pub fn printed(&self) -> String {
        self.entry.instance().map(|instance| instance.printed()).unwrap_or_default()
    }

    /// What the plugin has done, and uses at the moment.
    pub fn figures(&self) -> PluginFigures {
        self.entry.figures()
    }

    /// [`PluginSandboxManager::monitor_at`](crate::PluginSandboxManager::monitor_at), for this plugin alone.
    ///
    /// # Errors
    /// As there.
    pub fn monitor_at(&self, path: impl AsRef<Path>) -> io::Result<MonitorSocket> {
        let entry = Arc::downgrade(&self.entry);
        let plugins = move || entry.upgrade().iter().map(|held| Arc::clone(held.entry())).collect();
        MonitorSocket::open(path.as_ref(), Monitored { plugins: Box::new(plugins), hub: None })
    }

    /// This plugin's events from now on. At most 1024 wait; what is over is counted and reported. What a plugin repeats
    /// comes sixteen times a second, and then as a count ([`Repeated`](crate::EventKind::Repeated)).
    pub fn events(&self) -> Receiver<SandboxEvent> {
        self.entry.subject().hub().subscribe()
    }

    /// Writes this plugin's events from now on to `log`.
    pub fn audit_to(&self, log: &AuditLog) {
        log.follow(self.entry.subject().hub());
    }
}

impl std::fmt::Debug for PluginSandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginSandbox")
            .field("plugin", self.plugin_id())
            .field("state", &self.state())
            .finish()
    }
}

impl PluginHandle {
    /// What the plugin says of itself.
    pub fn metadata(&self) -> &PluginMetadata {
        &self.metadata
    }

    /// The sandbox that it runs in.
    pub fn sandbox(&self) -> &PluginSandbox {
        &self.sandbox
    }

    /// Calls a method: [`PluginSandbox::call`].
    ///
    /// # Errors
    /// As [`PluginSandbox::call`].
    pub fn call(&self, method: &str, payload: &[u8]) -> Result<Vec<u8>, PluginSandboxError> {
        self.sandbox.call(method, payload)
    }

    /// [`PluginSandbox::resource_usage`].
    pub fn resource_usage(&self) -> Option<ResourceUsage> {
        self.sandbox.resource_usage()
    }

    /// How the last helper ended that did: [`PluginSandbox::last_end`].
    pub fn last_end(&self) -> Option<Arc<EndReport>> {
        self.sandbox.last_end()
    }

    /// What stands between it and the machine.
    pub fn report(&self) -> &EnforcementReport {
        &self.report
    }
}
