//! What a plugin is registered with, and the cell in which a running plugin's policy can change.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use super::real_scope;
use crate::shared::policy::{Grade, Grants, LayerPolicy, PluginPermission, ResourceLimits, RestartPolicy};

/// What a plugin may do: nothing, until something is added.
///
/// ```
/// use sandbox_core::{PERMISSION_FILE_READ, PluginPolicy, ResourceLimits};
/// let policy = PluginPolicy::new()
///     .permission(PERMISSION_FILE_READ.scoped_to_path("/srv/photos")?)
///     .limits(ResourceLimits::default().max_memory_mb(64))
///     .allow_module("libz.so.1");
/// # let _ = policy;
/// # Ok::<(), sandbox_core::PermissionError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct PluginPolicy {
    pub(crate) permissions: Vec<(PluginPermission, Option<Grade>)>,
    pub(crate) limits: ResourceLimits,
    pub(crate) modules: BTreeSet<String>,
    pub(crate) layers: LayerPolicy,
    pub(crate) restart: RestartPolicy,
}

impl PluginPolicy {
    /// No permission, the default limits, no module beyond the C library's own, every layer required, no restart.
    pub fn new() -> Self {
        Self::default()
    }

    /// Grants `permission` from the start.
    #[must_use]
    pub fn permission(mut self, permission: PluginPermission) -> Self {
        self.permissions.push((permission, None));
        self
    }

    /// Grants `permission` from the start, with `grade` saying what of it can be taken back. A grade that this permission
    /// does not have is an error when the plugin is registered.
    #[must_use]
    pub fn permission_as(mut self, permission: PluginPermission, grade: Grade) -> Self {
        self.permissions.push((permission, Some(grade)));
        self
    }

    /// Grants each of `permissions` from the start.
    #[must_use]
    pub fn permissions(mut self, permissions: impl IntoIterator<Item = PluginPermission>) -> Self {
        self.permissions.extend(permissions.into_iter().map(|permission| (permission, None)));
        self
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, limits: ResourceLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Lets the plugin load the shared library with this soname, such as `libz.so.1`.
    #[must_use]
    pub fn allow_module(mut self, soname: impl Into<String>) -> Self {
        self.modules.insert(soname.into());
        self
    }

    /// Lets the plugin load each of these shared libraries.
    #[must_use]
    pub fn allow_modules(mut self, sonames: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.modules.extend(sonames.into_iter().map(Into::into));
        self
    }

    /// Replaces which layers are insisted on.
    #[must_use]
    pub fn layers(mut self, layers: LayerPolicy) -> Self {
        self.layers = layers;
        self
    }

    /// Replaces what becomes of the plugin when it ends without being asked to.
    #[must_use]
    pub fn restart(mut self, restart: RestartPolicy) -> Self {
        self.restart = restart;
        self
    }
}

/// A policy that changes under a running plugin: whoever decides reads it at that moment.
#[derive(Debug)]
pub(crate) struct PolicyCell {
    /// Replaced and never changed, so that whoever decides holds no lock while the file system works.
    grants: RwLock<Arc<Grants>>,
    limits: RwLock<ResourceLimits>,
    modules: RwLock<BTreeSet<String>>,
    pub(crate) layers: LayerPolicy,
    pub(crate) restart: RestartPolicy,
}

impl PolicyCell {
    /// Of a policy whose grades have been checked.
    pub(crate) fn new(policy: PluginPolicy) -> Self {
        // All of them, before it is asked which links are the plugin's own.
        let mut all = Grants::default();
        policy.permissions.iter().for_each(|(permission, _)| all.grant(permission.clone(), None));
        let mut grants = Grants::default();
        for (permission, grade) in policy.permissions {
            let real = real_scope::granted(&permission, &all);
            match grade {
                None => grants.grant(permission, real),
                Some(grade) => grants.grant_as(permission, grade, real),
            }
        }
        Self {
            grants: RwLock::new(Arc::new(grants)),
            limits: RwLock::new(policy.limits),
            modules: RwLock::new(policy.modules),
            layers: policy.layers,
            restart: policy.restart,
        }
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&Grants) -> T) -> T {
        look(&self.grants())
    }

    /// The grants as they are at this moment.
    pub(crate) fn grants(&self) -> Arc<Grants> {
        Arc::clone(&self.grants.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Grants) -> T) -> T {
        change(Arc::make_mut(&mut self.grants.write().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(crate) fn grant(&self, permission: PluginPermission) {
        let real = real_scope::granted(&permission, &self.grants()); // before the lock is held
        self.change(|grants| grants.grant(permission, real));
    }

    /// As a grade that has been checked.
    pub(crate) fn grant_as(&self, permission: PluginPermission, grade: Grade) {
        let real = real_scope::granted(&permission, &self.grants());
        self.change(|grants| grants.grant_as(permission, grade, real));
    }

    pub(crate) fn revoke(&self, permission: &PluginPermission) -> bool {
        let real = real_scope::followed(permission);
        self.change(|grants| grants.revoke(permission, real))
    }

    pub(crate) fn limits(&self) -> ResourceLimits {
        self.limits.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_limits(&self, limits: ResourceLimits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    pub(crate) fn modules(&self) -> BTreeSet<String> {
        self.modules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn change_modules<T>(&self, change: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        change(&mut self.modules.write().unwrap_or_else(PoisonError::into_inner))
    }
}
