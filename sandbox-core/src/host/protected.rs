//! What is the host's own, and no grant reaches: its records, and, for writing, what its plugins are loaded from.
//!
//! Runs in the host. One list for the whole process, so that no manager's plugin writes what another's is loaded from.
//! Judged on where an object really is, and on which object it is: another name does not help.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use rustix::fs::Stat;

/// The rule that refuses what is here.
pub(crate) const RULE: &str = "it is the host's own";

/// As many links are followed on the way to a file as the kernel follows.
const MOST_LINKS: usize = 40;

/// Which file it is, whatever it is called.
type Identity = (u64, u64);

#[derive(Debug, Default)]
struct Protected {
    /// Files, and trees, that no grant reaches.
    closed: BTreeMap<PathBuf, Option<Identity>>,
    /// Files that plugins were loaded from: they are not written.
    loaded: BTreeMap<PathBuf, Option<Identity>>,
    /// The folders of those: nothing is put there, taken from there or put in another's place.
    folders: BTreeSet<PathBuf>,
    /// Links on the way to any of it, by the path that the host knows it by: they stay as they are.
    links: BTreeSet<PathBuf>,
}

static PROTECTED: RwLock<Option<Protected>> = RwLock::new(None);

fn change(change: impl FnOnce(&mut Protected)) {
    change(PROTECTED.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_default());
}

fn look(look: impl FnOnce(&Protected) -> bool) -> bool {
    PROTECTED.read().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(look)
}

fn identity(path: &Path) -> Option<Identity> {
    let is_one = |of: &Metadata| of.is_file() || of.file_type().is_socket();
    path.metadata().ok().filter(is_one).map(|of| (of.dev(), of.ino()))
}

/// Where `path` really is, also if it is not there yet.
fn real(path: &Path) -> PathBuf {
    let in_its_folder = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(in_its_folder).unwrap_or_else(|| path.to_owned())
}

/// The links that are followed on the way to `path`.
fn links_on_the_way(path: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let Ok(path) = std::path::absolute(path) else { return found };
    let mut left: Vec<PathBuf> =
        path.components().rev().map(|part| PathBuf::from(part.as_os_str())).collect();
    let mut here = PathBuf::from("/");
    while let Some(part) = left.pop() {
        // No link is before it: those were followed.
        let named = here.join(part);
        match named.read_link() {
            Ok(target) if found.len() < MOST_LINKS && found.insert(named.clone()) => {
                left.extend(target.components().rev().map(|part| PathBuf::from(part.as_os_str())));
            }
            Ok(_) => return found, // a loop
            Err(_) if named.ends_with("..") => here = here.parent().unwrap_or(Path::new("/")).to_owned(),
            Err(_) => here = named,
        }
    }
    found
}

/// From now on no grant reaches the file or tree at `path`, nor a file beside it whose name goes on after a dot.
pub(crate) fn protect(path: &Path) {
    let real = real(path);
    let (identity, links) = (identity(&real), links_on_the_way(path));
    change(|list| {
        list.links.extend(links);
        list.closed.insert(real, identity);
    });
}

/// From now on no grant writes this file, from which a plugin is loaded, or what stands in its folder.
pub(crate) fn protect_loaded(path: &Path) {
    let real = real(path);
    let (identity, links) = (identity(&real), links_on_the_way(path));
    change(|list| {
        list.links.extend(links);
        list.folders.extend(real.parent().map(Path::to_owned));
        list.loaded.insert(real, identity);
    });
}

/// Whether what is at `resolved` is closed whatever is granted: for writing, or for reading.
pub(crate) fn closes(resolved: &Path, stat: Option<&Stat>, writing: bool) -> bool {
    let object = stat.map(|stat| (stat.st_dev, stat.st_ino));
    // The number may be another file's since: then the path no longer leads to it.
    let is = |(path, known): (&PathBuf, &Option<Identity>)| {
        known.is_some() && *known == object && identity(path) == *known
    };
    look(|list| {
        let closed = list.closed.iter().any(|own| reaches(own.0, resolved) || is(own));
        let written = || {
            list.folders.contains(resolved)
                || list.links.contains(resolved)
                || resolved.parent().is_some_and(|folder| list.folders.contains(folder))
                || list.loaded.iter().any(is)
        };
        closed || (writing && written())
    })
}

/// Whether something of the host's own is below `path`, which must stay where it is.
pub(crate) fn is_below(path: &Path) -> bool {
    look(|list| list.closed.keys().chain(&list.folders).chain(&list.links).any(|own| own.starts_with(path)))
}

/// Whether `path` is `own`, below it, or beside it under a name that goes on after a dot: `audit.jsonl.1`.
fn reaches(own: &Path, path: &Path) -> bool {
    let beside = || {
        let rest = path.file_name()?.as_bytes().strip_prefix(own.file_name().map(OsStr::as_bytes)?)?;
        Some(own.parent() == path.parent() && rest.starts_with(b"."))
    };
    path.starts_with(own) || beside().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(path: &Path, writing: bool) -> bool {
        let stat = rustix::fs::stat(path).ok();
        closes(path, stat.as_ref(), writing)
    }

    #[test]
    fn what_is_the_hosts_own_is_closed_under_whichever_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        std::fs::write(at("audit"), "record").unwrap();
        std::fs::write(at("other"), "other").unwrap();
        std::fs::hard_link(at("audit"), at("alias")).unwrap();
        protect(&at("audit"));
        for name in ["audit", "audit.1", "audit.2.gz", "audit/below", "alias"] {
            assert!(closed(&at(name), false), "{name}");
        }
        for name in ["other", "audit2", "audi", ""] {
            assert!(!closed(&at(name), true), "{name}");
        }
        assert!(is_below(&at("")) && !is_below(&at("other")));
    }

    #[test]
    fn a_socket_of_the_hosts_is_closed_under_another_name_too() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        let _listener = std::os::unix::net::UnixListener::bind(at("monitor")).unwrap();
        std::fs::hard_link(at("monitor"), at("alias")).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(at("other")).unwrap();
        protect(&at("monitor"));
        for (name, is_closed) in [("monitor", true), ("alias", true), ("other", false)] {
            assert_eq!(closed(&at(name), true), is_closed, "{name}");
        }
    }

    #[test]
    fn the_links_on_the_way_to_it_stay_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(at("app-1/plugins")).unwrap();
        std::fs::write(at("app-1/plugins/plugin.so"), "code").unwrap();
        std::os::unix::fs::symlink("app-1", at("current")).unwrap();
        std::os::unix::fs::symlink(at("current"), at("app")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("other")).unwrap();
        protect_loaded(&at("app/plugins/plugin.so"));
        for name in ["app", "current"] {
            assert!(closed(&at(name), true), "{name}");
        }
        assert!(closed(&at("app-1/plugins/plugin.so"), true));
        assert!(!closed(&at("other"), true));
        assert!(is_below(&at("")) && is_below(&at("app-1")));
    }

    #[test]
    fn what_a_plugin_is_loaded_from_is_read_and_never_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().canonicalize().unwrap().join(name);
        std::fs::create_dir_all(at("plugins/data")).unwrap();
        std::fs::write(at("plugins/plugin.so"), "code").unwrap();
        std::fs::hard_link(at("plugins/plugin.so"), at("alias")).unwrap();
        protect_loaded(&at("plugins/plugin.so"));
        for name in ["plugins", "plugins/plugin.so", "plugins/new", "alias"] {
            assert!(closed(&at(name), true), "{name}");
            assert!(!closed(&at(name), false), "{name}");
        }
        assert!(!closed(&at("plugins/data/file"), true), "what is deeper is not what is loaded");
        assert!(is_below(&at("plugins")));
    }
}
