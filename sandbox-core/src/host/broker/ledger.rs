//! Which files a plugin was handed a descriptor of, so that a revoke knows what to look for.
//!
//! Runs in the host. Keeps what they were called when they were opened, never a descriptor. What the loader and the base
//! profile serve is not in it: no permission opens that, and no revoke takes it back.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::shared::policy::{Grants, Scope};

/// How many files are kept track of, and how many bytes of their paths, for each plugin.
const MOST_FILES: usize = 16 << 10;
const MOST_BYTES: usize = 2 << 20;

/// A file, whatever it is called: stat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

/// What a descriptor is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) reads: bool,
    pub(crate) writes: bool,
}

impl Access {
    /// Whether the permission called `name` is needed for it.
    pub(crate) fn needs(self, name: &str) -> bool {
        match name {
            "file-read" => self.reads,
            "file-write" => self.writes,
            _ => false,
        }
    }
}

/// One file under one name.
#[derive(Debug)]
struct HandedOut {
    path: PathBuf,
    access: Access,
    /// Not by a grant that stands: by somebody who was asked, or by one that was revoked and what was open left so.
    exempt: bool,
    /// When it was handed out last.
    mark: Mark,
}

/// A moment in the life of a ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(u64);

/// The files that were handed out to one plugin.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    files: HashMap<FileId, Vec<HandedOut>>,
    bytes: usize,
    now: Mark,
    /// From so many files on it is worth to look which of them are held.
    crowded: usize,
    being_looked_through: bool,
    overflown: bool,
}

/// Files that a plugin may still hold, and may not use any more.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    pub(crate) files: HashSet<FileId>,
    /// What they were called.
    pub(crate) paths: HashSet<PathBuf>,
    /// There may be others.
    pub(crate) overflown: bool,
}

impl Lost {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.overflown
    }
}

impl Ledger {
    /// The file `id` is being handed out, as `path`. `exempt`: though no grant opens it.
    pub(crate) fn record(&mut self, id: FileId, path: &Path, access: Access, exempt: bool) {
        let names = self.files.get_mut(&id);
        let known = names
            .and_then(|names| names.iter_mut().find(|known| known.path == path && known.access == access));
        self.now.0 += 1;
        if let Some(known) = known {
            known.exempt &= exempt;
            known.mark = self.now;
            return;
        }
        self.bytes += path.as_os_str().len();
        if self.files.len() >= MOST_FILES || self.bytes > MOST_BYTES {
            self.bytes -= path.as_os_str().len();
            self.overflown = true;
            return;
        }
        let handed_out = HandedOut { path: path.to_owned(), access, exempt, mark: self.now };
        self.files.entry(id).or_default().push(handed_out);
    }

    /// What is recorded from now on is recorded later than this.
    pub(crate) fn mark(&self) -> Mark {
        self.now
    }

    /// Whether it is so full that it is worth to look which of them are held; once, until [`looked`](Self::looked).
    pub(crate) fn is_crowded(&mut self) -> bool {
        let full = self.files.len().max(self.bytes * MOST_FILES / MOST_BYTES);
        let is_crowded = !self.being_looked_through && full >= self.crowded.max(MOST_FILES / 2);
        self.being_looked_through |= is_crowded;
        is_crowded
    }

    /// Those that are not held are forgotten: from twice as many as are left on it is worth another look.
    pub(crate) fn looked(&mut self) {
        self.being_looked_through = false;
        self.crowded = 2 * self.files.len().max(self.bytes * MOST_FILES / MOST_BYTES);
    }

    /// Every file in it.
    pub(crate) fn all(&self) -> Lost {
        Lost { files: self.files.keys().copied().collect(), ..Lost::default() }
    }

    /// What the permission called `name` was needed for and `grants` do not open any more; of what no grant had opened,
    /// what `covered` says.
    pub(crate) fn lost(&self, name: &str, grants: &Grants, covered: impl Fn(&Scope) -> bool) -> Lost {
        let mut lost = Lost { overflown: self.overflown, ..Lost::default() };
        for (id, names) in &self.files {
            for known in names.iter().filter(|known| known.access.needs(name)) {
                let open = Scope::path(&known.path).is_ok_and(|scope| {
                    grants.judge(name, &scope).is_granted() || (known.exempt && !covered(&scope))
                });
                if !open {
                    lost.files.insert(*id);
                    lost.paths.insert(known.path.clone());
                }
            }
        }
        lost
    }

    /// What is lost stays with the plugin.
    pub(crate) fn leave(&mut self, lost: &Lost) {
        for id in &lost.files {
            for known in self.files.get_mut(id).into_iter().flatten() {
                known.exempt = true;
            }
        }
    }

    /// None of these is held any more, as far as it was handed out before `mark`.
    pub(crate) fn forget(&mut self, files: impl IntoIterator<Item = FileId>, mark: Mark) {
        for id in files {
            let Some(names) = self.files.get_mut(&id) else { continue };
            for gone in names.extract_if(.., |known| known.mark <= mark) {
                self.bytes -= gone.path.as_os_str().len();
            }
            if names.is_empty() {
                self.files.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::policy::{PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PluginPermission};

    const READ: Access = Access { reads: true, writes: false };
    const BOTH: Access = Access { reads: true, writes: true };

    fn file(ino: u64) -> FileId {
        FileId { dev: 1, ino }
    }

    fn granted(permissions: &[PluginPermission]) -> Grants {
        let mut grants = Grants::default();
        permissions.iter().for_each(|permission| grants.grant(permission.clone(), None));
        grants
    }

    fn lost(ledger: &Ledger, name: &str, grants: &Grants) -> Vec<u64> {
        let mut found: Vec<_> =
            ledger.lost(name, grants, |_| true).files.iter().map(|file| file.ino).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn what_the_grants_open_no_more_is_lost_by_what_it_was_opened_for() {
        let mut ledger = Ledger::default();
        ledger.record(file(1), Path::new("/a/1"), READ, false);
        ledger.record(file(2), Path::new("/a/2"), BOTH, false);
        ledger.record(file(3), Path::new("/b/3"), READ, false);
        let a = PERMISSION_FILE_READ.scoped_to_path("/a").unwrap();
        assert_eq!(lost(&ledger, "file-read", &granted(&[PERMISSION_FILE_READ])), Vec::<u64>::new());
        assert_eq!(lost(&ledger, "file-read", &granted(&[a])), [3]);
        assert_eq!(lost(&ledger, "file-read", &granted(&[])), [1, 2, 3]);
        assert_eq!(lost(&ledger, "file-write", &granted(&[PERMISSION_FILE_READ])), [2]);
        assert_eq!(lost(&ledger, "file-write", &granted(&[PERMISSION_FILE_WRITE])), Vec::<u64>::new());
        let mark = ledger.mark();
        ledger.record(file(3), Path::new("/b/3"), BOTH, false);
        ledger.forget([file(2), file(3)], mark);
        assert_eq!(lost(&ledger, "file-write", &granted(&[])), [3], "what came later stays");
    }

    #[test]
    fn a_file_under_two_names_is_lost_with_either() {
        let mut ledger = Ledger::default();
        ledger.record(file(1), Path::new("/a/1"), READ, false);
        ledger.record(file(1), Path::new("/b/1"), READ, false);
        let b = PERMISSION_FILE_READ.scoped_to_path("/b").unwrap();
        assert_eq!(lost(&ledger, "file-read", &granted(&[b])), [1]);
    }

    #[test]
    fn what_was_left_open_is_lost_only_to_what_covers_it_until_a_grant_opens_it_again() {
        let mut ledger = Ledger::default();
        ledger.record(file(1), Path::new("/a/1"), READ, false);
        let none = Grants::default();
        let lost = ledger.lost("file-read", &none, |_| true);
        ledger.leave(&lost);
        assert!(ledger.lost("file-read", &none, |_| false).is_empty());
        assert!(!ledger.lost("file-read", &none, |_| true).is_empty());
        ledger.record(file(1), Path::new("/a/1"), READ, false);
        assert!(!ledger.lost("file-read", &none, |_| false).is_empty());
    }

    #[test]
    fn a_plugin_that_opens_without_end_fills_it_and_no_more() {
        let mut ledger = Ledger::default();
        for ino in 0..2 * MOST_FILES as u64 {
            ledger.record(file(ino), Path::new("/a"), READ, false);
        }
        assert_eq!(ledger.files.len(), MOST_FILES);
        assert!(ledger.is_crowded());
        assert!(!ledger.is_crowded(), "one look at a time");
        let all = granted(&[PERMISSION_FILE_READ]);
        assert!(!ledger.lost("file-read", &all, |_| true).is_empty(), "what is not known may be lost");
        let mut ledger = Ledger::default();
        for ino in 0..1000 {
            ledger.record(file(ino), Path::new(&format!("/{}", "x".repeat(4000))), READ, false);
        }
        assert!(ledger.bytes <= MOST_BYTES);
    }
}
