//! Where on this system a soname is found: the order in which the dynamic loader would look.
//!
//! Runs in the application's process. Owns that order: RUNPATH or RPATH of the file that needs it, then the folders of
//! `/etc/ld.so.conf`, then the C library's own. Folders of the running CPU's level (`glibc-hwcaps`) are passed over.
//! Never looks at `LD_LIBRARY_PATH`, at relative folders or at the loader's cache.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::elf::{self, ElfFacts};
use super::error::LibraryError;
use super::seal::open_regular;

#[cfg(target_arch = "x86_64")]
const DEFAULT_FOLDERS: &[&str] =
    &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
#[cfg(target_arch = "aarch64")]
const DEFAULT_FOLDERS: &[&str] =
    &["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

const MAX_CONFIG_BYTES: u64 = 64 * 1024;
const MAX_CONFIG_FILES: usize = 128;
const MAX_CONFIG_DEPTH: usize = 4;
const MAX_FOLDERS: usize = 256;

/// The folders in which every program of this system looks for libraries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemFolders {
    folders: Vec<PathBuf>,
}

impl SystemFolders {
    /// Those of `/etc/ld.so.conf` with what it includes, then the C library's default ones. Reads files: ask once.
    ///
    /// What cannot be read is left out.
    pub fn of_this_system() -> Self {
        Self::from_config(Path::new("/etc/ld.so.conf"))
    }

    /// These folders, in this order, instead of the system's. Relative ones are left out.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut list = Self { folders: Vec::new() };
        folders.into_iter().for_each(|folder| list.push(folder));
        list
    }

    /// The folders, in the order in which they are looked into.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    fn from_config(config: &Path) -> Self {
        let mut list = Self { folders: Vec::new() };
        let mut files_left = MAX_CONFIG_FILES;
        list.read_config(config, 0, &mut files_left);
        DEFAULT_FOLDERS.iter().for_each(|folder| list.push(PathBuf::from(folder)));
        list
    }

    fn push(&mut self, folder: PathBuf) {
        if folder.is_absolute() && self.folders.len() < MAX_FOLDERS && !self.folders.contains(&folder) {
            self.folders.push(folder);
        }
    }

    fn read_config(&mut self, config: &Path, depth: usize, files_left: &mut usize) {
        if depth >= MAX_CONFIG_DEPTH || *files_left == 0 {
            return;
        }
        *files_left -= 1;
        let Ok(file) = open_regular(config) else { return };
        let mut text = Vec::new();
        if file.take(MAX_CONFIG_BYTES).read_to_end(&mut text).is_err() {
            return;
        }
        for line in String::from_utf8_lossy(&text).lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            match line.split_once(char::is_whitespace) {
                Some(("include", patterns)) => {
                    for pattern in patterns.split_whitespace() {
                        for included in matching_files(config, pattern) {
                            self.read_config(&included, depth + 1, files_left);
                        }
                    }
                }
                // `hwcap` lines are from before glibc 2.37 and mean nothing any more; a folder has no second word.
                Some(_) => {}
                None => self.push(PathBuf::from(line)),
            }
        }
    }
}

/// The files that `pattern` names, in order: one `*` in the last part is understood, which is all that is in use.
fn matching_files(config: &Path, pattern: &str) -> Vec<PathBuf> {
    let pattern = config.parent().unwrap_or(Path::new("/")).join(pattern);
    let (Some(folder), Some(name)) = (pattern.parent(), pattern.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    let Some((before, after)) = name.split_once('*') else { return vec![pattern] };
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let matches = |name: &str| {
        !name.starts_with('.') && name.strip_prefix(before).is_some_and(|rest| rest.ends_with(after))
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(matches))
        .map(|entry| entry.path())
        .take(MAX_CONFIG_FILES)
        .collect();
    found.sort();
    found
}

/// A file that needs another, and the one that needs it in turn: the loader's own path back to the plugin.
pub(super) struct Link<'p> {
    pub(super) name: &'p str,
    pub(super) path: &'p Path,
    pub(super) facts: &'p ElfFacts,
    pub(super) needed_by: Option<&'p Link<'p>>,
}

impl<'p> Link<'p> {
    /// This one and those above it.
    fn upwards(&self) -> impl Iterator<Item = &Link<'p>> {
        std::iter::successors(Some(self), |link| link.needed_by)
    }

    /// How many files stand above what this one needs.
    pub(super) fn depth(&self) -> usize {
        self.upwards().count()
    }

    /// The names from the plugin down to this one.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.upwards().map(|link| link.name.to_owned()).collect();
        names.reverse();
        names
    }

    /// [`names`](Self::names), with `last` at its end.
    pub(super) fn chain(&self, last: &str) -> Vec<String> {
        let mut chain = self.names();
        chain.push(last.to_owned());
        chain
    }

    /// The folders in which the loader looks for what this file needs, the system's at the end.
    pub(super) fn search_folders(&self, system: &SystemFolders) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = Vec::new();
        let mut add = |link: &Link<'_>, entries: &[String]| {
            for folder in entries.iter().filter_map(|entry| expand(entry, link.path)) {
                if folders.len() < MAX_FOLDERS && !folders.contains(&folder) {
                    folders.push(folder);
                }
            }
        };
        if self.facts.runpath.is_empty() {
            // RPATH is inherited, from each that has no RUNPATH; RUNPATH is not.
            for link in self.upwards().filter(|link| link.facts.runpath.is_empty()) {
                add(link, &link.facts.rpath);
            }
        } else {
            add(self, &self.facts.runpath);
        }
        folders.extend_from_slice(&system.folders);
        folders
    }
}

/// An entry of RUNPATH or RPATH as a folder. `$ORIGIN` is understood at its start; `$LIB` and `$PLATFORM`, which few
/// use and each distribution reads its own way, are not, and relative folders would depend on the working directory.
fn expand(entry: &str, path: &Path) -> Option<PathBuf> {
    let rest = entry.strip_prefix("$ORIGIN").or_else(|| entry.strip_prefix("${ORIGIN}"));
    let folder = match rest {
        None => PathBuf::from(entry),
        Some("") => path.parent()?.to_owned(),
        Some(rest) => path.parent()?.join(rest.strip_prefix('/')?.trim_start_matches('/')),
    };
    let plain = !rest.unwrap_or(entry).contains('$');
    (plain && folder.is_absolute()).then_some(folder)
}

/// A library that was found: opened, and of the host's class and machine.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) file: File,
}

/// The first library of this name in `folders`. A candidate that is not there, may not be read, or is for another
/// machine is passed over, as the loader does.
pub(super) fn find(soname: &str, folders: &[PathBuf]) -> Result<Option<Found>, LibraryError> {
    for folder in folders {
        let path = folder.join(soname);
        let file = match open_regular(&path) {
            Ok(file) => file,
            Err(LibraryError::NotFound { .. } | LibraryError::NotARegularFile { .. }) => continue,
            Err(LibraryError::Unreadable {
                errno: Errno::EACCES | Errno::EPERM | Errno::ELOOP | Errno::ENAMETOOLONG,
                ..
            }) => continue,
            Err(error) => return Err(error),
        };
        let mut start = [0; elf::IDENTIFYING_BYTES];
        if file.read_exact_at(&mut start, 0).is_ok() && elf::is_for_this_machine(&start) {
            return Ok(Some(Found { path, file }));
        }
    }
    Ok(None)
}

/// Whether only root can change what `path` leads to or what stands there: then the opened file itself may be handed
/// out, for whoever could exchange it could do worse. Everything else is to be copied and sealed.
pub(crate) fn only_root_may_write(path: &Path, file: &File) -> bool {
    only_owner_may_write(path, file, 0)
}

fn only_owner_may_write(path: &Path, file: &File, owner: u32) -> bool {
    // Group bits also show the mask of an access control list.
    let closed = |metadata: &fs::Metadata| metadata.uid() == owner && metadata.mode() & 0o022 == 0;
    let Ok(opened) = file.metadata() else { return false };
    // Without symbolic links: where they stand does not matter, only what the path led to.
    let Ok(real) = fs::canonicalize(path) else { return false };
    let Ok(named) = fs::symlink_metadata(&real) else { return false };
    (opened.dev(), opened.ino()) == (named.dev(), named.ino())
        && closed(&opened)
        && real.ancestors().skip(1).all(|folder| fs::symlink_metadata(folder).is_ok_and(|m| closed(&m)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_configuration_is_followed_through_its_includes_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let parts = folder.path().join("conf.d");
        fs::create_dir(&parts).unwrap();
        fs::write(parts.join("b.conf"), "/from/b\nrelative\n").unwrap();
        fs::write(parts.join("a.conf"), "# a comment\n/from/a # another\nhwcap 0 nosegneg\n").unwrap();
        fs::write(parts.join("c.txt"), "/from/c\n").unwrap();
        let config = folder.path().join("ld.so.conf");
        // It includes itself: that has to end.
        fs::write(&config, "/first\ninclude conf.d/*.conf\ninclude ld.so.conf\n/last\n").unwrap();
        let found = SystemFolders::from_config(&config);
        let expected: Vec<_> = ["/first", "/from/a", "/from/b", "/last"]
            .iter()
            .chain(DEFAULT_FOLDERS)
            .map(PathBuf::from)
            .collect();
        assert_eq!(found.folders(), expected);
    }

    #[test]
    fn a_system_without_configuration_has_the_default_folders() {
        let found = SystemFolders::from_config(Path::new("/nonexistent/ld.so.conf"));
        assert_eq!(found.folders().len(), DEFAULT_FOLDERS.len());
    }

    #[test]
    fn only_origin_and_absolute_entries_become_folders() {
        let at = Path::new("/opt/vendor/plugin.so");
        let cases = [
            ("$ORIGIN", Some("/opt/vendor")),
            ("${ORIGIN}/lib", Some("/opt/vendor/lib")),
            ("$ORIGIN/../lib", Some("/opt/vendor/../lib")),
            ("$ORIGIN//etc", Some("/opt/vendor/etc")),
            ("/abs", Some("/abs")),
            ("$ORIGINAL", None),
            ("/usr/$LIB", None),
            ("$ORIGIN/$PLATFORM", None),
            ("relative", None),
            ("", None),
        ];
        for (entry, expected) in cases {
            assert_eq!(expand(entry, at).as_deref(), expected.map(Path::new), "{entry}");
        }
    }

    #[test]
    fn rpath_is_inherited_and_runpath_is_not() {
        let with = |runpath: &str, rpath: &str| ElfFacts {
            runpath: Some(runpath).filter(|p| !p.is_empty()).map(str::to_owned).into_iter().collect(),
            rpath: Some(rpath).filter(|p| !p.is_empty()).map(str::to_owned).into_iter().collect(),
            ..ElfFacts::default()
        };
        let system = SystemFolders::new(["/sys".into()]);
        let check = |upper: &ElfFacts, lower: &ElfFacts, expected: &[&str]| {
            let top = Link { name: "top", path: Path::new("/t/top.so"), facts: upper, needed_by: None };
            let low = Link { name: "low", path: Path::new("/l/low.so"), facts: lower, needed_by: Some(&top) };
            let expected: Vec<_> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(low.search_folders(&system), expected);
        };
        check(&with("", "$ORIGIN"), &with("", "/r"), &["/r", "/t", "/sys"]);
        check(&with("$ORIGIN", ""), &with("", "/r"), &["/r", "/sys"]);
        check(&with("", "$ORIGIN"), &with("$ORIGIN", "/r"), &["/l", "/sys"]);
    }

    #[test]
    fn candidates_that_are_no_library_for_this_machine_are_passed_over() {
        let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        fs::write(folders[0].path().join("libm.so.6"), "INPUT(-lm) a linker script").unwrap();
        fs::create_dir(folders[1].path().join("libm.so.6")).unwrap();
        let mut list: Vec<_> = folders.iter().map(|f| f.path().to_owned()).collect();
        list.push("/nonexistent".into());
        assert!(find("libm.so.6", &list).unwrap().is_none());
        list.extend_from_slice(SystemFolders::of_this_system().folders());
        let found = find("libm.so.6", &list).unwrap().expect("every glibc system has libm");
        assert!(!found.path.starts_with(folders[0].path()) && !found.path.starts_with(folders[1].path()));
    }

    #[test]
    fn a_folder_or_file_that_others_may_write_makes_a_module_changeable() {
        // Below a folder that everybody may write to, nothing is safe, whoever owns it.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lib.so");
        fs::write(&path, b"x").unwrap();
        let file = File::open(&path).unwrap();
        let owner = file.metadata().unwrap().uid();
        let tmp_is_shared = fs::metadata(std::env::temp_dir()).unwrap().mode() & 0o022 != 0;
        if tmp_is_shared {
            assert!(!only_owner_may_write(&path, &file, owner));
        }
        assert!(!only_owner_may_write(&path, &file, owner + 1));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!only_owner_may_write(&path, &file, owner));

        // The control: the C library's own place, and the same name leading to another file.
        let system = SystemFolders::of_this_system();
        let libm = find("libm.so.6", system.folders()).unwrap().expect("every glibc system has libm");
        let root_stands = fs::metadata("/").unwrap().uid() == 0;
        assert_eq!(only_root_may_write(&libm.path, &libm.file), root_stands);
        assert!(!only_root_may_write(&libm.path, &file), "not the file that was opened");
    }
}
