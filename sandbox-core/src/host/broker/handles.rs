//! What a plugin is handed of a file that its permissions open.
//!
//! Runs in the host, on a worker. Owns that nothing which a permission opens gets into a plugin's hands unrecorded.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};

use super::ledger::{Access, FileId, Ledger};
use super::requests::Request;
use super::{base, revoke};
use crate::host::decider::Ruling;
use crate::host::lock::lock;
use crate::shared::policy::{Grade, PluginPermission, Scope};

/// What one plugin was handed.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    pub(super) ledger: Mutex<Ledger>,
}

fn from_rustix(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

impl Request<'_> {
    /// What the plugin gets of `file`, an object at `resolved` that was judged and opened for it: as the grade of the grants
    /// has it.
    pub(super) fn hand_out(&self, file: OwnedFd, resolved: &Path) -> Result<OwnedFd, Errno> {
        if base::covers(resolved.as_os_str().as_encoded_bytes()) {
            return Ok(file);
        }
        let mode = fcntl_getfl(&file).map_err(from_rustix)? & OFlags::ACCMODE;
        let access = Access { reads: mode != OFlags::WRONLY, writes: mode != OFlags::RDONLY };
        let scope = Scope::path(resolved).map_err(|_| Errno::EACCES)?;
        let stat = fstat(&file).map_err(from_rustix)?;
        let grants = self.grants();
        let names = ["file-read", "file-write"].into_iter().filter(|name| access.needs(name));
        // A folder is listed through its descriptor, whatever the grade: there are no bytes in it to be served.
        let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        match names.filter_map(|name| grants.grade(name, &scope)).max().filter(|_| !folder) {
            Some(Grade::Mediated) => Err(Errno::EACCES),
            _ => {
                let once = |(permission, ruling): &(PluginPermission, Ruling)| {
                    *ruling == Ruling::AllowOnce && permission.scope() == Some(&scope)
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
                Ok(file)
            }
        }
    }
}
