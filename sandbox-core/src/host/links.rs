//! Second names that a plugin has given to files, kept so that what is taken back under one is under all.
//!
//! Runs in the host. Lives as long as the plugin is registered, through any number of loads. Bounded: where it is full no
//! further names are given.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::Stat;

use super::lock::lock;

/// How many files of one plugin's may have second names, and how many bytes those may take together.
const MOST_FILES: usize = 4096;
const MOST_BYTES: usize = 1 << 20;

/// The names that one plugin has linked, by file.
#[derive(Debug, Default)]
pub(crate) struct Links(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    names: HashMap<(u64, u64), BTreeSet<PathBuf>>,
    bytes: usize,
}

impl Links {
    /// Keeps that this file is, or will be, called both. False if there is no room.
    pub(crate) fn add(&self, stat: &Stat, one: &Path, other: &Path) -> bool {
        let mut state = lock(&self.0);
        let state = &mut *state;
        let file = (stat.st_dev, stat.st_ino);
        let known = state.names.get(&file);
        let new = |name: &&&Path| !known.is_some_and(|names| names.contains(**name));
        let bytes: usize = [one, other].iter().filter(new).map(|name| name.as_os_str().len()).sum();
        if state.bytes + bytes > MOST_BYTES || (known.is_none() && state.names.len() >= MOST_FILES) {
            return false;
        }
        state.bytes += bytes;
        state.names.entry(file).or_default().extend([one, other].map(Path::to_owned));
        true
    }

    /// Whether there is room for what is at `from` to be known at `to`.
    pub(crate) fn may_move(&self, from: &Path, to: &Path) -> bool {
        let state = lock(&self.0);
        let below = state.names.values().flatten().filter(|name| name.starts_with(from)).count();
        let longer = to.as_os_str().len().saturating_sub(from.as_os_str().len());
        state.bytes.saturating_add(below.saturating_mul(longer)) <= MOST_BYTES
    }

    /// What was at `from` is at `to` now, with everything below.
    pub(crate) fn moved(&self, from: &Path, to: &Path) {
        let mut state = lock(&self.0);
        for names in state.names.values_mut().filter(|names| names.iter().any(|name| name.starts_with(from)))
        {
            *names = std::mem::take(names).into_iter().map(|name| moved(name, from, to)).collect();
        }
        state.bytes = state.names.values().flatten().map(|name| name.as_os_str().len()).sum();
    }

    /// What is at one place is at the other now, and the other way round.
    pub(crate) fn exchanged(&self, one: &Path, other: &Path) {
        let aside = Path::new("aside"); // what is kept here is absolute
        self.moved(one, aside);
        self.moved(other, one);
        self.moved(aside, other);
    }

    /// What else this file was called by the plugin.
    pub(crate) fn of(&self, stat: &Stat) -> Vec<PathBuf> {
        // With one name left it is where it is, as if it had been moved there.
        if stat.st_nlink < 2 {
            return Vec::new();
        }
        let state = lock(&self.0);
        let names = state.names.get(&(stat.st_dev, stat.st_ino));
        names.map(|names| names.iter().cloned().collect()).unwrap_or_default()
    }
}

fn moved(name: PathBuf, from: &Path, to: &Path) -> PathBuf {
    match name.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
        Ok(rest) => to.join(rest),
        Err(_) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_links_without_end_fills_it_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        std::fs::hard_link(&file, folder.path().join("link")).unwrap();
        let mut stat = rustix::fs::stat(&file).unwrap();
        let links = Links::default();
        let long = |n: u64| PathBuf::from(format!("/{n}/{}", "x".repeat(4000)));
        let fitted = (0..1000).filter(|n| links.add(&stat, &long(*n), &long(*n))).count();
        assert!((100..1000).contains(&fitted));
        assert_eq!(links.of(&stat).len(), fitted);
        assert!(links.add(&stat, &long(0), &long(0)), "what is known takes no room");
        let links = Links::default();
        let many = (0..2 * MOST_FILES as u64).filter(|ino| {
            stat.st_ino = *ino;
            links.add(&stat, Path::new("/a"), Path::new("/b"))
        });
        assert_eq!(many.count(), MOST_FILES);
        stat.st_nlink = 1;
        stat.st_ino = 0;
        assert!(links.of(&stat).is_empty());
    }
}
