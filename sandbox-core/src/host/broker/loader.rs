//! What loading needs: the verified bytes of the plugin and of its modules, under the paths that the helper is told.
//!
//! Runs in the host. Served whatever the permissions: a descriptor of these is the only one that can be mapped as code.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};

use crate::host::library::Module;

/// The files that a helper may load.
#[derive(Debug, Default)]
pub(crate) struct Served {
    files: Vec<Arc<OwnedFd>>,
    by_path: HashMap<PathBuf, usize>,
    by_name: HashMap<String, usize>,
    folders: Vec<PathBuf>,
}

impl Served {
    /// The plugin as `path`, and `modules`; those are found in any of the system's `folders` too, since a loader that is
    /// asked for a soname tries them in turn.
    pub(crate) fn new(plugin: Arc<OwnedFd>, path: &str, modules: Vec<Module>, folders: &[PathBuf]) -> Self {
        let mut served = Self { folders: folders.to_vec(), ..Self::default() };
        served.by_path.insert(PathBuf::from(path), 0);
        served.files.push(plugin);
        for module in modules {
            let index = served.files.len();
            served.by_path.insert(module.path, index);
            served
                .by_name
                .extend(module.aliases.into_iter().chain([module.soname]).map(|name| (name, index)));
            served.files.push(Arc::new(module.fd));
        }
        served
    }

    /// The file to be loaded as `path`, opened afresh: one open shared by two would share its offset.
    pub(crate) fn open(&self, path: &[u8]) -> Option<Result<OwnedFd, Errno>> {
        let file = self.files.get(self.find(Path::new(OsStr::from_bytes(path)))?)?;
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let opened = rustix::fs::open(again, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Some(opened.map_err(|errno| Errno::from_raw(errno.raw_os_error())))
    }

    fn find(&self, path: &Path) -> Option<usize> {
        if let Some(index) = self.by_path.get(path) {
            return Some(*index);
        }
        let (folder, name) = (path.parent()?, path.file_name()?.to_str()?);
        let in_system = self.folders.iter().any(|system| system == folder);
        self.by_name.get(name).filter(|_| in_system).copied()
    }
}
