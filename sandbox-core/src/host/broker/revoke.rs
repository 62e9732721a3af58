//! Taking back what a plugin has got for a permission that it does not hold any more.
//!
//! Runs in the host, on the thread that revokes, after the policy has changed. Owns the order: what was decided by the old
//! grants comes to its end first, then what was handed out is taken back, and what cannot be taken back ends the plugin.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use super::held::{self, Held};
use super::ledger::{FileId, Lost, Mark};
use super::{Brokered, network, programs};
use crate::host::end::cause::Cause;
use crate::host::events::escape;
use crate::host::instance::Instance;
use crate::host::lock::lock;
use crate::host::real_scope;
use crate::host::stop::{self, Process};
use crate::shared::policy::{Grants, PluginPermission, Scope};

/// How long requests that were decided by the old grants may take to come to their end. One that takes longer has stalled.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(6);

/// What becomes of a file that the plugin still holds when it may not use it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldFiles {
    /// The plugin is ended.
    End,
    /// It keeps them.
    Leave,
}

/// Takes back, of a running plugin, what `permission` had opened and the grants as they now are do not.
pub(crate) fn take_back(instance: &Instance, permission: &PluginPermission, held: HeldFiles) {
    let Some(brokered) = instance.brokered() else { return };
    let mark = lock(&brokered.handles.ledger).mark();
    if !brokered.under_way.settled(SETTLE_TIMEOUT) {
        instance.kill(Some(Cause::Stalled));
        instance.wait_end();
        return;
    }
    let grants = instance.subject.policy().grants();
    if !withdraw_files(instance, &brokered, permission, &grants) {
        instance.kill(Some(Cause::Stalled));
        instance.wait_end();
        return;
    }
    take_back_files(instance, &brokered, permission, &grants, mark, held);
    if held == HeldFiles::End {
        programs::take_back(instance, permission, &grants);
    }
    if permission.name() == "network" {
        network::take_back(instance, &brokered, permission, &grants);
    }
}

/// Serves no more of the files that the host serves and the grants do not open any more; whether that was possible.
fn withdraw_files(
    instance: &Instance,
    brokered: &Brokered,
    permission: &PluginPermission,
    grants: &Grants,
) -> bool {
    let Some(view) = brokered.handles.view() else { return true };
    let name = permission.name();
    if !matches!(name, "file-read" | "file-write") {
        return true;
    }
    let lost = |path: &Path| Scope::path(path).map_or(true, |scope| !grants.judge(name, &scope).is_granted());
    // While nothing of it runs: no thread is left then in a read that has its bytes already. Where it cannot be stopped it
    // is no less withdrawn.
    let mut withdrawn = None;
    let _ = stop::stopped(instance, |_| withdrawn = Some(view.withdraw(permission, lost)));
    withdrawn.unwrap_or_else(|| view.withdraw(permission, lost))
}

/// Forgets files of which `instance` holds nothing any more, as far as may be told.
pub(crate) fn forget_what_is_closed(instance: &Instance) {
    let Some(brokered) = instance.brokered() else { return };
    let mark = lock(&brokered.handles.ledger).mark();
    if !brokered.under_way.settled(SETTLE_TIMEOUT) {
        return;
    }
    let all = lock(&brokered.handles.ledger).all();
    let held = stop::stopped(instance, |processes| {
        let held: Result<Vec<_>, _> = processes.iter().map(|process| held::of(process, &all)).collect();
        held.map(|held| held.into_iter().flatten().map(|held| held.file).collect::<HashSet<_>>())
    });
    let mut ledger = lock(&brokered.handles.ledger);
    // One that cannot be told apart could be any.
    if let Ok(Ok(held)) = held
        && !held.contains(&None)
    {
        ledger.forget(all.files.into_iter().filter(|file| !held.contains(&Some(*file))), mark);
    }
    ledger.looked();
}

fn take_back_files(
    instance: &Instance,
    brokered: &Brokered,
    permission: &PluginPermission,
    grants: &Grants,
    mark: Mark,
    held: HeldFiles,
) {
    let real = real_scope::followed(permission);
    let covered = |scope: &Scope| {
        let own = permission.scope();
        own.is_none() || own.into_iter().chain(&real).any(|own| own.covers(scope))
    };
    let lost = lock(&brokered.handles.ledger).lost(permission.name(), grants, covered);
    if lost.is_empty() {
        return;
    }
    if held == HeldFiles::Leave {
        lock(&brokered.handles.ledger).leave(&lost);
        return;
    }
    let found = stop::stopped(instance, |processes| {
        let found = look(processes, &lost, permission, grants);
        // Before it runs again.
        if let Err(object) = &found {
            let cause = Cause::Revoked { permission: Box::new(permission.clone()), object: object.clone() };
            instance.kill(Some(cause));
        }
        found
    });
    match found {
        Ok(Ok(still)) => {
            let gone = lost.files.iter().filter(|file| !still.contains(file));
            lock(&brokered.handles.ledger).forget(gone.copied(), mark);
        }
        Ok(Err(_)) => drop(instance.wait_end()),
        // Where nobody may look, what may be held counts as held.
        Err(stop::NotStopped) => {
            let object = lost.paths.iter().next().map(|path| name(path)).unwrap_or_default();
            instance.kill(Some(Cause::Revoked { permission: Box::new(permission.clone()), object }));
            instance.wait_end();
        }
    }
}

/// Looks for what is lost, in processes that are stopped. Those files that are held by a right that still stands; an error
/// names one that is not.
fn look(
    processes: &[Process],
    lost: &Lost,
    permission: &PluginPermission,
    grants: &Grants,
) -> Result<HashSet<FileId>, String> {
    let mut still = HashSet::new();
    for process in processes {
        let found = held::of(process, lost).map_err(|error| format!("what cannot be looked at: {error}"))?;
        for Held { file, path, access } in found {
            // Where it is now counts: what was moved to where the plugin may go anyway is its to have.
            let granted = || {
                let scope = Scope::path(&path);
                scope.is_ok_and(|scope| grants.judge(permission.name(), &scope).is_granted())
            };
            if access.needs(permission.name()) && !granted() {
                return Err(name(&path));
            }
            still.extend(file);
        }
    }
    Ok(still)
}

fn name(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}
