//! What a plugin is handed of a file that its permissions open.
//!
//! Runs in the host, on a worker. Owns that nothing which a permission opens gets into a plugin's hands unrecorded.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use nix::errno::Errno;
use rustix::fs::{FileType, OFlags, Stat, fcntl_getfl, fstat};

use super::ledger::{Access, FileId, Ledger};
use super::requests::{Refused, Request};
use super::{base, revoke};
use crate::host::decider::Ruling;
use crate::host::lock::lock;
use crate::host::mediated::View;
use crate::shared::errno::from_rustix;
use crate::shared::policy::{Grade, PluginPermission, Scope};

/// What one plugin was handed.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    pub(super) ledger: Mutex<Ledger>,
    /// The files that the host serves it, once there is one; or why there can be none.
    view: OnceLock<Result<View, String>>,
}

impl Handles {
    /// The files that the host serves, if there are any. Never waits for them to be made.
    pub(crate) fn view(&self) -> Option<&View> {
        self.view.get()?.as_ref().ok()
    }
}

impl Request<'_> {
    /// What the plugin gets of `file`, an object at `resolved` that was judged and opened for it: as the grade of the grants
    /// has it. `stat` is what is known of the file already.
    pub(super) fn hand_out(
        &self,
        file: OwnedFd,
        stat: Option<Stat>,
        resolved: &Path,
        access: Access,
    ) -> Result<OwnedFd, Refused> {
        if base::covers(resolved.as_os_str().as_encoded_bytes()) {
            return Ok(file);
        }
        let failed = |errno: rustix::io::Errno| {
            Refused::new(from_rustix(errno), Some(resolved), "what was opened is not known")
        };
        let stat = stat.map_or_else(|| fstat(&file).map_err(failed), Ok)?;
        let scope = Scope::of_object(resolved)
            .map_err(|_| Refused::new(Errno::EACCES, Some(resolved), "its path cannot be judged"))?;
        let grants = self.grants();
        let names = ["file-read", "file-write"].into_iter().filter(|name| access.needs(name));
        let grades: Option<Vec<Grade>> = names.map(|name| grants.grade(name, &scope)).collect();
        // It was granted a moment ago, when it was judged.
        let grades = grades.ok_or_else(|| {
            Refused::new(Errno::EACCES, Some(resolved), "not granted any more, once it was open")
        })?;
        // A folder is listed through its descriptor, whatever the grade: there are no bytes in it to be served.
        let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        match grades.into_iter().max() {
            Some(Grade::Mediated) if !folder => {
                let flags = fcntl_getfl(&file).map_err(failed)?;
                self.mediate(file, &stat, resolved, (flags, access))
            }
            _ => {
                self.record(&stat, resolved, access, &scope);
                Ok(file)
            }
        }
    }

    fn mediate(
        &self,
        file: OwnedFd,
        stat: &Stat,
        resolved: &Path,
        how: (OFlags, Access),
    ) -> Result<OwnedFd, Refused> {
        let view = self.brokered.handles.view.get_or_init(|| View::new(&self.brokered.zygote));
        let view = view.as_ref().map_err(|why| {
            Refused::new(Errno::EACCES, Some(resolved), format!("no file can be mediated: {why}"))
        })?;
        let most = self.instance.subject.limits().max_file_handles;
        view.open(file, (stat.st_dev, stat.st_ino), resolved, how, most)
            .map_err(|errno| Refused::new(errno, Some(resolved), "the file cannot be mediated"))
    }

    fn record(&self, stat: &Stat, resolved: &Path, access: Access, scope: &Scope) {
        let once = |(permission, ruling): &(PluginPermission, Ruling)| {
            *ruling == Ruling::AllowOnce && permission.scope() == Some(scope)
        };
        let exempt = self.rulings.iter().any(once);
        let id = FileId { dev: stat.st_dev, ino: stat.st_ino };
        let mut ledger = lock(&self.brokered.handles.ledger);
        ledger.record(id, resolved, access, exempt);
        if ledger.is_crowded()
            && let Some(core) = self.instance.core.upgrade()
        {
            let instance = Arc::clone(self.instance);
            core.services.run(move || revoke::forget_what_is_closed(&instance));
        }
    }
}
