//! What loading needs: the verified bytes of the plugin and of its modules, under the paths that the helper is told.
//!
//! Runs in the host. Served whatever the permissions: a descriptor of these is the only one that can be mapped as code. Which
//! modules there are changes under a running plugin; no lock is held while a file is looked for, read or opened.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};

use super::files::open_again;
use crate::host::events::escape;
use crate::host::library::{LibraryError, Limits, Module, SealedLibrary, with_module};
use crate::host::load::system_folders;

/// The files that a helper may load.
#[derive(Debug, Default)]
pub(crate) struct Served {
    plugin: Option<Plugin>,
    modules: RwLock<Modules>,
}

#[derive(Debug)]
struct Plugin {
    library: SealedLibrary,
    /// The path that the helper is told.
    place: PathBuf,
}

#[derive(Debug, Default)]
struct Modules {
    list: Vec<Module>,
    by_path: HashMap<PathBuf, usize>,
    by_name: HashMap<String, usize>,
}

impl Modules {
    /// Those of `modules` that may be loaded under some name.
    fn new(modules: Vec<Module>, allowed: &dyn Fn(&str) -> bool) -> Self {
        let (mut list, mut by_path, mut by_name) = (Vec::new(), HashMap::new(), HashMap::new());
        for module in modules {
            let names: Vec<String> = module.names(allowed).map(str::to_owned).collect();
            if names.is_empty() {
                continue;
            }
            by_path.insert(module.path.clone(), list.len());
            by_name.extend(names.into_iter().map(|name| (name, list.len())));
            list.push(module);
        }
        Self { list, by_path, by_name }
    }

    fn index_of(&self, path: &Path) -> Option<usize> {
        let by_name = || {
            let name = path.file_name()?.to_str()?;
            self.by_name.get(name).filter(|_| path.parent().is_some_and(is_system))
        };
        self.by_path.get(path).or_else(by_name).copied()
    }
}

/// The file behind something that is loaded.
#[derive(Debug)]
pub(crate) struct Behind {
    /// What a person knows it by, escaped.
    pub(crate) name: String,
    /// The bytes that were loaded, or all of the file.
    pub(crate) file: Option<File>,
    /// Where they were copied from: whatever is there by now.
    pub(crate) origin: Option<PathBuf>,
    /// Whether it is one of the C library's own.
    pub(crate) systems: bool,
}

impl Served {
    /// The plugin as `place`, and `modules`; those are found in any of the system's folders too, since a loader that is asked
    /// for a soname tries them in turn.
    pub(crate) fn new(
        library: SealedLibrary,
        place: &str,
        modules: Vec<Module>,
        allowed: &dyn Fn(&str) -> bool,
    ) -> Self {
        let plugin = Some(Plugin { library, place: place.into() });
        Self { plugin, modules: RwLock::new(Modules::new(modules, allowed)) }
    }

    /// The file to be loaded as `path`, opened afresh: one open shared by two would share its offset.
    pub(crate) fn open(&self, path: &[u8]) -> Option<Result<OwnedFd, Errno>> {
        let file = self.find(Path::new(OsStr::from_bytes(path)))?;
        Some(open_again(&file, OFlags::RDONLY | OFlags::CLOEXEC))
    }

    /// What was served as `path`, to be read: for a stack with names. The path is the plugin's word: beside what was served only
    /// those of the system's files are looked for that `is_loaded`, which is asked for their names.
    pub(crate) fn behind(&self, path: &[u8], is_loaded: impl FnOnce(&OsStr) -> bool) -> Option<Behind> {
        let path = Path::new(OsStr::from_bytes(path));
        let open = |fd: &OwnedFd| open_again(fd, OFlags::RDONLY | OFlags::CLOEXEC).ok().map(File::from);
        if let Some(Plugin { library, .. }) = self.plugin.as_ref().filter(|plugin| plugin.place == path) {
            let (file, origin) = (open(&library.fd), Some(library.path.clone()));
            let name = escape(library.file_name().as_bytes());
            return Some(Behind { name, file, origin, systems: false });
        }
        let module = {
            let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
            modules.index_of(path).and_then(|index| modules.list.get(index)).cloned()
        };
        let Some(module) = module else {
            // What the helper's own program was started with, before there was a broker: of the system's, by its name.
            let name = path.file_name().filter(|name| is_loaded(name))?;
            let file = system_folders().folders().iter().find_map(|folder| open_file(&folder.join(name)))?;
            let name = escape(name.as_bytes());
            return Some(Behind { name, file: Some(file), origin: None, systems: true });
        };
        let origin = module.sealed.then(|| module.path.clone());
        let (name, file) = (escape(module.soname.as_bytes()), open(&module.fd));
        Some(Behind { name, file, origin, systems: module.base })
    }

    fn find(&self, path: &Path) -> Option<Arc<OwnedFd>> {
        if let Some(plugin) = self.plugin.as_ref().filter(|plugin| plugin.place == path) {
            return Some(Arc::clone(&plugin.library.fd));
        }
        let modules = self.modules.read().unwrap_or_else(PoisonError::into_inner);
        modules.list.get(modules.index_of(path)?).map(|module| Arc::clone(&module.fd))
    }

    /// Whether the loader looks for modules there. It never looks again into a folder that it once took for missing.
    pub(crate) fn is_folder(&self, path: &[u8]) -> bool {
        is_system(Path::new(OsStr::from_bytes(path)))
    }

    /// From now on the module called `name` can be loaded, and what it needs, if all of that is `allowed`: else nothing changes.
    pub(crate) fn allow(&self, name: &str, allowed: &dyn Fn(&str) -> bool) -> Result<(), LibraryError> {
        let known = self.modules.read().unwrap_or_else(PoisonError::into_inner).list.clone();
        let Some(Plugin { library, .. }) = &self.plugin else { return Ok(()) };
        // One that is not allowed any more is looked for and judged anew, with what it needs.
        let known = known.into_iter().filter(|module| module.names(allowed).next().is_some()).collect();
        let modules = with_module(library, known, name, allowed, system_folders(), Limits::default())?;
        self.change(modules, allowed);
        Ok(())
    }

    /// From now on only what is `allowed` can be loaded.
    pub(crate) fn keep(&self, allowed: &dyn Fn(&str) -> bool) {
        let known = self.modules.read().unwrap_or_else(PoisonError::into_inner).list.clone();
        self.change(known, allowed);
    }

    /// Its callers take turns: whoever changes the policy's modules holds a lock of the plugin's.
    fn change(&self, modules: Vec<Module>, allowed: &dyn Fn(&str) -> bool) {
        let modules = Modules::new(modules, allowed);
        let before =
            std::mem::replace(&mut *self.modules.write().unwrap_or_else(PoisonError::into_inner), modules);
        drop(before); // closes files
    }
}

/// The ordinary file at `path`. Whoever may write there may have put anything in its place.
pub(crate) fn open_file(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
}

fn is_system(folder: &Path) -> bool {
    system_folders().folders().iter().any(|system| system == folder)
}
