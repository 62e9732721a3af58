//! What changes under a running plugin: limits, permissions that are taken back, modules.
//!
//! Runs in the host, on the thread that asked, beside whatever operation is under way. A load under way is told at its end.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustix::process::{Pid, Rlimit};

use super::held::Entry;
use crate::error::PluginSandboxError;
use crate::host::broker::{self, Brokered, HeldFiles};
use crate::host::instance::Instance;
use crate::host::library;
use crate::host::lock::lock;
use crate::host::procfs;
use crate::host::verify::kernel_label;
use crate::shared::plan::rlimits;
use crate::shared::policy::{LimitError, PluginPermission, ResourceLimits};

impl Entry {
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
    pub(super) fn brokered(&self) -> Option<Arc<Brokered>> {
        self.instance().filter(|instance| instance.lives())?.brokered()
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
