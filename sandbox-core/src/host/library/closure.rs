//! The libraries that a plugin will pull in, found and judged before any of them is loaded.
//!
//! Runs in the application's process. Owns the rule of what a plugin may load: what it was allowed, and the base
//! modules of the system's own C library, all the way down its NEEDED entries.
//! Never follows a name that is not allowed, except to explain; never delivers what the helper itself already has.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::elf::{self, ElfFacts, Metadata};
use super::error::LibraryError;
use super::seal::{self, SealedLibrary};
use super::search::{self, Found, Link, SystemFolders};

/// What every plugin may load without being allowed: the C library's family and the compiler's support library.
///
/// They are taken from the system's folders only, so that a plugin cannot bring its own under one of these names.
pub const BASE_MODULES: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libutil.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
    "linux-vdso.so.1",
];

/// What every dynamically linked helper has already: never delivered.
pub(super) const ALREADY_LOADED: &[&str] =
    &["libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "linux-vdso.so.1"];

/// How far NEEDED entries are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many modules one plugin may bring along.
    pub max_modules: usize,
    /// How long a chain from the plugin to a module may be.
    pub max_depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_modules: 256, max_depth: 64 }
    }
}

/// A library to deliver to a helper.
#[derive(Debug, Clone)]
pub struct Module {
    /// The name under which it is needed.
    pub soname: String,
    /// Other names under which it is needed too; the loader knows it again by its device and inode.
    pub aliases: Vec<String>,
    /// Where it was found: absolute, symbolic links not resolved.
    pub path: PathBuf,
    /// Its bytes: the file itself, opened read-only, or a sealed copy. At offset 0, an open description of its own.
    pub fd: Arc<OwnedFd>,
    /// Whether `fd` is a sealed copy, since others than root could change the file.
    pub sealed: bool,
    /// Whether it is one of [`BASE_MODULES`].
    pub base: bool,
    /// How it came to be needed first: the plugin's file name, then the modules above this one.
    pub needed_by: Vec<String>,
    /// The file's device and inode.
    identity: (u64, u64),
}

impl Module {
    /// The names under which it may be loaded: none, if none is `allowed` any more.
    pub fn names(&self, allowed: &dyn Fn(&str) -> bool) -> impl Iterator<Item = &str> {
        let names = std::iter::once(&self.soname).chain(&self.aliases).map(String::as_str);
        names.filter(move |name| is_base(name) || allowed(name))
    }
}

/// A module in the closure of a plugin's `NEEDED` entries, as `inspect` shows it.
#[derive(Debug)]
pub struct ExplainedModule {
    /// The name under which it is needed.
    pub soname: String,
    /// Where it would be loaded from; `None` if it was not found.
    pub path: Option<PathBuf>,
    /// Whether the plugin may load it: a base module, or one that is allowed.
    pub allowed: bool,
    /// Whether it is one of the C library's own, which every plugin may load.
    pub base: bool,
    /// How far below the plugin it stands where it is first met, from 1 on.
    pub depth: usize,
    /// How it came to be needed: the plugin's file name first.
    pub needed_by: Vec<String>,
    /// Why a load would fail on it, if it would.
    pub problem: Option<LibraryError>,
}

/// Everything that `root` needs, directly or not: dependencies before what needs them, each once. Loaded in this
/// order by full path, each finds its own needs already there.
///
/// The C library and its loader are followed but not returned: a helper has them.
///
/// # Errors
/// [`LibraryError::ModuleNotAllowed`] for the first module that is neither a base module nor `allowed`,
/// [`ModuleNotFound`](LibraryError::ModuleNotFound) and [`TooManyModules`](LibraryError::TooManyModules), or what is
/// wrong with a module's file.
pub fn closure(
    root: &SealedLibrary,
    allowed: &dyn Fn(&str) -> bool,
    system: &SystemFolders,
    limits: Limits,
) -> Result<Vec<Module>, LibraryError> {
    let mut walk = Walk::new(root, Vec::new(), allowed, system, limits);
    let name = root.file_name();
    let plugin = Link { name: &name, path: &root.path, facts: &root.facts, needed_by: None };
    for needed in &root.facts.needed {
        walk.visit(needed, &plugin)?;
    }
    Ok(walk.finish())
}

/// `modules`, and after them each of `names` that can be found with what it needs: for libraries that the plugin may
/// open later on its own. A name that is not found, or needs something that is not, is left out.
///
/// # Errors
/// As [`closure`], but for [`LibraryError::ModuleNotFound`]: what a named module needs has to be allowed as well.
pub fn extra_modules<'n>(
    root: &SealedLibrary,
    modules: Vec<Module>,
    names: impl IntoIterator<Item = &'n str>,
    allowed: &dyn Fn(&str) -> bool,
    system: &SystemFolders,
    limits: Limits,
) -> Result<Vec<Module>, LibraryError> {
    let mut walk = Walk::new(root, modules, allowed, system, limits);
    let plugin_name = root.file_name();
    let plugin = Link { name: &plugin_name, path: &root.path, facts: &root.facts, needed_by: None };
    for name in names.into_iter().filter(|name| elf::is_plain_name(name)) {
        let before = walk.mark();
        match walk.visit(name, &plugin) {
            // Half of a closure is of no use: what was found for this name goes again.
            Err(LibraryError::ModuleNotFound { .. }) => walk.back_to(before),
            other => other?,
        }
    }
    Ok(walk.finish())
}

/// Whether a module may be allowed by this name.
///
/// # Errors
/// [`LibraryError::ModuleName`] if none can have it.
pub fn check_name(name: &str) -> Result<(), LibraryError> {
    if elf::is_plain_name(name) {
        return Ok(());
    }
    Err(LibraryError::ModuleName { module: name.chars().take(80).collect() })
}

/// `modules`, and after them the one called `name` with what it needs.
///
/// # Errors
/// As [`closure`].
pub fn with_module(
    root: &SealedLibrary,
    modules: Vec<Module>,
    name: &str,
    allowed: &dyn Fn(&str) -> bool,
    system: &SystemFolders,
    limits: Limits,
) -> Result<Vec<Module>, LibraryError> {
    let mut walk = Walk::new(root, modules, allowed, system, limits);
    let plugin_name = root.file_name();
    let plugin = Link { name: &plugin_name, path: &root.path, facts: &root.facts, needed_by: None };
    check_name(name)?;
    walk.visit(name, &plugin)?;
    Ok(walk.finish())
}

/// Everything that `root` needs, whether it is allowed and there or not, in the order in which one meets it going
/// down: with `depth`, a tree. Each soname stands where it is met first. Nothing is copied.
///
/// It ends early, with [`LibraryError::TooManyModules`] as the last line's problem, at the limits.
pub fn explain(
    root: &SealedLibrary,
    allowed: &dyn Fn(&str) -> bool,
    system: &SystemFolders,
    limits: Limits,
) -> Vec<ExplainedModule> {
    let mut explanation =
        Explanation { soname: root.facts.soname.as_deref(), allowed, system, limits, lines: Vec::new() };
    let name = root.file_name();
    let plugin = Link { name: &name, path: &root.path, facts: &root.facts, needed_by: None };
    explanation.below(&plugin);
    explanation.lines
}

fn is_base(soname: &str) -> bool {
    BASE_MODULES.contains(&soname)
}

fn look_up(soname: &str, by: &Link<'_>, system: &SystemFolders) -> Result<Found, LibraryError> {
    let folders = if is_base(soname) { system.folders().to_vec() } else { by.search_folders(system) };
    match search::find(soname, &folders)? {
        Some(found) => Ok(found),
        None => Err(LibraryError::ModuleNotFound {
            module: soname.to_owned(),
            chain: by.chain(soname),
            searched: folders,
        }),
    }
}

fn check_limits(soname: &str, by: &Link<'_>, modules: usize, limits: Limits) -> Result<(), LibraryError> {
    let (what, limit) = if modules >= limits.max_modules {
        ("modules", limits.max_modules)
    } else if by.depth() > limits.max_depth {
        ("modules in a chain", limits.max_depth)
    } else {
        return Ok(());
    };
    // The whole of a long chain would be no message any more.
    let mut chain = by.names();
    chain.truncate(8);
    chain.push("..".to_owned());
    chain.push(soname.to_owned());
    Err(LibraryError::TooManyModules { what, limit, chain })
}

struct Walk<'a> {
    soname: Option<&'a str>,
    allowed: &'a dyn Fn(&str) -> bool,
    system: &'a SystemFolders,
    limits: Limits,
    modules: Vec<Module>,
    /// Names that were met, whether their module is finished or, in a cycle, still has its needs followed.
    met: Vec<String>,
    met_set: HashSet<String>,
    /// Files that were met.
    files: Vec<(u64, u64)>,
    aliases: Vec<((u64, u64), String)>,
}

/// How much of a [`Walk`] stood at some moment.
#[derive(Clone, Copy)]
struct Mark {
    modules: usize,
    met: usize,
    files: usize,
    aliases: usize,
}

impl<'a> Walk<'a> {
    fn new(
        root: &'a SealedLibrary,
        modules: Vec<Module>,
        allowed: &'a dyn Fn(&str) -> bool,
        system: &'a SystemFolders,
        limits: Limits,
    ) -> Self {
        let names = modules.iter().flat_map(|m| std::iter::once(&m.soname).chain(&m.aliases));
        let met: Vec<String> = names.cloned().collect();
        Self {
            soname: root.facts.soname.as_deref(),
            allowed,
            system,
            limits,
            met_set: met.iter().cloned().collect(),
            met,
            files: modules.iter().map(|m| m.identity).collect(),
            aliases: Vec::new(),
            modules,
        }
    }

    fn mark(&self) -> Mark {
        Mark {
            modules: self.modules.len(),
            met: self.met.len(),
            files: self.files.len(),
            aliases: self.aliases.len(),
        }
    }

    fn back_to(&mut self, mark: Mark) {
        self.modules.truncate(mark.modules);
        for name in self.met.drain(mark.met..) {
            self.met_set.remove(&name);
        }
        self.files.truncate(mark.files);
        self.aliases.truncate(mark.aliases);
    }

    fn finish(mut self) -> Vec<Module> {
        for (identity, name) in self.aliases {
            if let Some(module) = self.modules.iter_mut().find(|m| m.identity == identity) {
                module.aliases.push(name);
            }
        }
        self.modules
    }

    fn visit(&mut self, soname: &str, by: &Link<'_>) -> Result<(), LibraryError> {
        if ALREADY_LOADED.contains(&soname) || self.soname == Some(soname) || self.met_set.contains(soname) {
            return Ok(());
        }
        let base = is_base(soname);
        if !base && !(self.allowed)(soname) {
            return Err(LibraryError::ModuleNotAllowed {
                module: soname.to_owned(),
                chain: by.chain(soname),
            });
        }
        check_limits(soname, by, self.met.len(), self.limits)?;
        let Found { path, file } = look_up(soname, by, self.system)?;
        let identity = identity(&file, &path)?;
        self.met.push(soname.to_owned());
        self.met_set.insert(soname.to_owned());
        if self.files.contains(&identity) {
            self.aliases.push((identity, soname.to_owned()));
            return Ok(());
        }
        self.files.push(identity);

        let sealed = !search::only_root_may_write(&path, &file);
        let file = if sealed { seal::seal(&file, &path)?.0 } else { file };
        let facts = seal::facts_of(&file, &path, Metadata::Skip)?;
        let this = Link { name: soname, path: &path, facts: &facts, needed_by: Some(by) };
        for needed in &facts.needed {
            self.visit(needed, &this)?;
        }
        self.modules.push(Module {
            soname: soname.to_owned(),
            aliases: Vec::new(),
            fd: Arc::new(file.into()),
            sealed,
            base,
            needed_by: by.names(),
            identity,
            path,
        });
        Ok(())
    }
}

fn identity(file: &File, path: &Path) -> Result<(u64, u64), LibraryError> {
    match file.metadata() {
        Ok(metadata) => Ok((metadata.dev(), metadata.ino())),
        Err(error) => Err(seal::unreadable(path, &error)),
    }
}

struct Explanation<'a> {
    soname: Option<&'a str>,
    allowed: &'a dyn Fn(&str) -> bool,
    system: &'a SystemFolders,
    limits: Limits,
    lines: Vec<ExplainedModule>,
}

impl Explanation<'_> {
    fn below(&mut self, by: &Link<'_>) {
        for soname in &by.facts.needed {
            let full = self.lines.len() >= self.limits.max_modules;
            let known = self.lines.iter().any(|line| line.soname == *soname);
            if full || known || self.soname == Some(soname.as_str()) {
                continue;
            }
            self.line(soname, by);
        }
    }

    fn line(&mut self, soname: &str, by: &Link<'_>) {
        let base = is_base(soname);
        let index = self.lines.len();
        let mut line = ExplainedModule {
            soname: soname.to_owned(),
            path: None,
            allowed: base || (self.allowed)(soname),
            base,
            depth: by.depth(),
            needed_by: by.names(),
            problem: None,
        };
        // The last line that fits tells that there may be more.
        let fits = check_limits(soname, by, index + 1, self.limits);
        let found = fits.and_then(|()| self.read(soname, by, &mut line.path));
        if !line.allowed {
            let (module, chain) = (soname.to_owned(), by.chain(soname));
            line.problem = Some(LibraryError::ModuleNotAllowed { module, chain });
        }
        match found {
            Ok(facts) => {
                let path = line.path.clone().unwrap_or_default();
                self.lines.push(line);
                self.below(&Link { name: soname, path: &path, facts: &facts, needed_by: Some(by) });
            }
            Err(error) => {
                // The kernel's own library has no file.
                let missing_is_fine = soname == "linux-vdso.so.1";
                if !missing_is_fine && line.problem.is_none() {
                    line.problem = Some(error);
                }
                self.lines.push(line);
            }
        }
    }

    fn read(
        &self,
        soname: &str,
        by: &Link<'_>,
        path: &mut Option<PathBuf>,
    ) -> Result<ElfFacts, LibraryError> {
        let found = look_up(soname, by, self.system)?;
        let path = path.insert(found.path);
        seal::facts_of(&found.file, path, Metadata::Skip)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;

    /// Libraries in a folder of their own, each of which needs others of the same folder.
    struct Vendor {
        folder: TempDir,
    }

    impl Vendor {
        fn new() -> Self {
            Self { folder: tempfile::tempdir().unwrap() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn build(&self, name: &str, needs: &[&str], extra: &[&str]) {
            let source = self.path("source.c");
            fs::write(&source, "int nothing;\n").unwrap();
            let status = Command::new("cc")
                .args(["-shared", "-nostartfiles", "-fPIC", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", "-o"])
                .arg(self.path(name))
                .arg(&source)
                .args(needs.iter().map(|need| self.path(need)))
                .args(extra)
                .status()
                .expect("a C compiler, which linking Rust needs too");
            assert!(status.success());
        }

        /// As [`build`](Self::build), with its file's name as its soname.
        fn build_named(&self, name: &str, needs: &[&str]) {
            self.build(name, needs, &[&format!("-Wl,-soname,{name}")]);
        }

        fn plugin(&self) -> SealedLibrary {
            SealedLibrary::open(&self.path("plugin.so")).unwrap()
        }
    }

    /// plugin.so -> liba.so -> libb.so, and libm of the system.
    fn chain() -> Vendor {
        let vendor = Vendor::new();
        vendor.build_named("libb.so", &[]);
        vendor.build_named("liba.so", &["libb.so"]);
        vendor.build("plugin.so", &["liba.so"], &["-lm"]);
        vendor
    }

    fn system() -> SystemFolders {
        SystemFolders::of_this_system()
    }

    fn names(modules: &[Module]) -> Vec<&str> {
        modules.iter().map(|m| m.soname.as_str()).collect()
    }

    #[test]
    fn the_closure_comes_bottom_up_with_each_module_once() {
        let vendor = chain();
        let modules = closure(&vendor.plugin(), &|_| true, &system(), Limits::default()).unwrap();
        assert_eq!(names(&modules), ["libb.so", "liba.so", "libm.so.6"]);
        assert_eq!(modules[0].needed_by, ["plugin.so", "liba.so"]);
        assert_eq!(modules[0].path, vendor.path("libb.so"));
        assert_eq!(modules[2].needed_by, ["plugin.so"]);
        assert!(modules[2].base && !modules[0].base);
        assert!(modules.iter().all(|m| m.path.is_absolute()));
    }

    #[test]
    fn modules_that_others_than_root_may_change_are_sealed_copies() {
        let vendor = chain();
        let modules = closure(&vendor.plugin(), &|_| true, &system(), Limits::default()).unwrap();
        for module in modules {
            let before = fs::read(&module.path).unwrap();
            let file = File::from(Arc::into_inner(module.fd).expect("nobody else has it"));
            assert_eq!(rustix::fs::tell(&file).unwrap(), 0, "the loader reads from the offset on");
            assert!(file.write_at(b"x", 0).is_err(), "{}", module.soname);
            assert_eq!(
                module.sealed,
                rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| !seals.is_empty())
            );
            if module.soname == "liba.so" {
                assert!(module.sealed, "it stands below the folder for temporary files");
                fs::write(&module.path, b"exchanged").unwrap();
                let mut start = vec![0; before.len()];
                file.read_exact_at(&mut start, 0).unwrap();
                assert!(start == before);
            }
        }
    }

    #[test]
    fn a_module_that_is_not_allowed_is_refused_with_the_chain_to_it() {
        let vendor = chain();
        let error =
            closure(&vendor.plugin(), &|name| name == "liba.so", &system(), Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), "module libb.so is not allowed: plugin.so -> liba.so -> libb.so");
        assert!(error.help().unwrap().contains("`libb.so`"));
        let LibraryError::ModuleNotAllowed { module, chain } = error else { panic!("{error}") };
        assert_eq!((module.as_str(), chain.len()), ("libb.so", 3));
    }

    #[test]
    fn a_module_that_is_not_found_tells_where_it_was_looked_for() {
        let vendor = chain();
        fs::remove_file(vendor.path("libb.so")).unwrap();
        let error = closure(&vendor.plugin(), &|_| true, &system(), Limits::default()).unwrap_err();
        assert_eq!(error.to_string(), "module libb.so was not found: plugin.so -> liba.so -> libb.so");
        assert!(error.help().unwrap().contains(&vendor.folder.path().display().to_string()));
        let LibraryError::ModuleNotFound { searched, .. } = error else { panic!("{error}") };
        assert_eq!(searched.first().map(PathBuf::as_path), Some(vendor.folder.path()));
    }

    #[test]
    fn a_plugin_cannot_bring_its_own_base_module() {
        let vendor = Vendor::new();
        vendor.build_named("libm.so.6", &[]);
        vendor.build("plugin.so", &["libm.so.6"], &[]);
        let modules = closure(&vendor.plugin(), &|_| false, &system(), Limits::default()).unwrap();
        assert_eq!(names(&modules), ["libm.so.6"]);
        assert!(!modules[0].path.starts_with(vendor.folder.path()));
    }

    #[test]
    fn a_cycle_ends() {
        let vendor = Vendor::new();
        vendor.build_named("libb.so", &[]);
        vendor.build_named("liba.so", &["libb.so"]);
        vendor.build_named("libb.so", &["liba.so"]);
        vendor.build("plugin.so", &["liba.so"], &[]);
        let modules = closure(&vendor.plugin(), &|_| true, &system(), Limits::default()).unwrap();
        assert_eq!(names(&modules), ["libb.so", "liba.so"]);
        let lines = explain(&vendor.plugin(), &|_| true, &system(), Limits::default());
        assert_eq!(lines.iter().filter(|line| !line.base).count(), 2);
    }

    #[test]
    fn one_file_under_two_names_is_delivered_once() {
        let vendor = Vendor::new();
        vendor.build_named("liba.so", &[]);
        vendor.build("plugin.so", &["liba.so"], &[]);
        std::os::unix::fs::symlink("liba.so", vendor.path("libother.so")).unwrap();
        let plugin = vendor.plugin();
        let modules = closure(&plugin, &|_| true, &system(), Limits::default()).unwrap();
        let names = ["libother.so", "libmissing.so"];
        let modules =
            extra_modules(&plugin, modules, names, &|_| true, &system(), Limits::default()).unwrap();
        assert_eq!(modules.len(), 1);
        assert_eq!(modules[0].aliases, ["libother.so"]);
    }

    #[test]
    fn more_modules_than_the_limit_are_refused_and_as_many_are_not() {
        let vendor = chain();
        let plugin = vendor.plugin();
        let ask = |max_modules, max_depth| {
            closure(&plugin, &|_| true, &system(), Limits { max_modules, max_depth }).map(|m| m.len())
        };
        assert!(matches!(ask(3, 2), Ok(3)));
        assert!(matches!(ask(2, 2), Err(LibraryError::TooManyModules { what: "modules", limit: 2, .. })));
        assert!(matches!(ask(3, 1), Err(LibraryError::TooManyModules { limit: 1, .. })));
    }

    #[test]
    fn extra_modules_come_with_what_they_need_or_not_at_all() {
        let vendor = Vendor::new();
        vendor.build_named("libgone.so", &[]);
        vendor.build_named("libdeep.so", &[]);
        vendor.build_named("libextra.so", &["libdeep.so"]);
        vendor.build_named("libhalf.so", &["libdeep.so", "libgone.so"]);
        vendor.build("plugin.so", &[], &["-lm"]);
        fs::remove_file(vendor.path("libgone.so")).unwrap();
        let plugin = vendor.plugin();
        let ask = |names: &[&str], allowed: &dyn Fn(&str) -> bool| {
            let modules = closure(&plugin, &|_| false, &system(), Limits::default()).unwrap();
            extra_modules(&plugin, modules, names.iter().copied(), allowed, &system(), Limits::default())
        };
        let all = |_: &str| true;
        assert_eq!(names(&ask(&["libhalf.so"], &all).unwrap()), ["libm.so.6"]);
        let both = ask(&["libhalf.so", "libextra.so", "libm.so.6", "../x", ""], &all).unwrap();
        assert_eq!(names(&both), ["libm.so.6", "libdeep.so", "libextra.so"]);
        let error = ask(&["libextra.so"], &|name| name == "libextra.so").unwrap_err();
        assert!(matches!(error, LibraryError::ModuleNotAllowed { module, .. } if module == "libdeep.so"));
    }

    #[test]
    fn a_damaged_module_fails_with_its_own_path() {
        let vendor = chain();
        let bytes = fs::read(vendor.path("libb.so")).unwrap();
        fs::write(vendor.path("libb.so"), &bytes[..bytes.len() / 2]).unwrap();
        let error = closure(&vendor.plugin(), &|_| true, &system(), Limits::default()).unwrap_err();
        assert!(
            matches!(&error, LibraryError::Truncated { path, .. } if *path == vendor.path("libb.so")),
            "{error}"
        );
    }

    #[test]
    fn an_explanation_goes_past_what_would_be_refused() {
        let vendor = chain();
        fs::remove_file(vendor.path("libb.so")).unwrap();
        let lines = explain(&vendor.plugin(), &|name| name == "libb.so", &system(), Limits::default());
        let find = |name: &str| lines.iter().find(|line| line.soname == name).expect("is explained");
        let a = find("liba.so");
        assert!(!a.allowed && a.path.is_some() && a.depth == 1);
        assert!(matches!(a.problem, Some(LibraryError::ModuleNotAllowed { .. })));
        let b = find("libb.so");
        assert!(b.allowed && b.path.is_none() && b.depth == 2);
        assert!(matches!(b.problem, Some(LibraryError::ModuleNotFound { .. })));
        assert_eq!(b.needed_by, ["plugin.so", "liba.so"]);
        let libc = find("libc.so.6");
        assert!(libc.base && libc.allowed && libc.problem.is_none() && libc.path.is_some());
    }

    #[test]
    fn the_libraries_of_this_system_can_be_explained() {
        // Whatever is installed: nothing of it may be refused for its layout. A check of the checks.
        let Ok(Some(found)) = search::find("libstdc++.so.6", system().folders()) else {
            eprintln!("not proven: no libstdc++ here");
            return;
        };
        let library = SealedLibrary::open(&found.path).unwrap();
        let lines = explain(&library, &|_| true, &system(), Limits::default());
        assert!(lines.iter().all(|line| line.problem.is_none()), "{lines:?}");
        assert!(lines.iter().any(|line| line.soname == "libm.so.6"));
    }
}
