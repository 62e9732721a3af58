//! Which files a view serves, to which opens, and which it serves no more.
//!
//! Runs in the host. Owns the numbers by which the kernel knows them. Never touches a file.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use crate::host::broker::Access;
use crate::host::lock::lock;
use crate::shared::policy::PluginPermission;

/// The number of the folder that all files are in: FUSE_ROOT_ID.
pub(super) const ROOT: u64 = 1;

/// A file under the name that it was opened by: under another name it may be judged otherwise.
pub(super) type Key = ((u64, u64), PathBuf);

/// The files of one view.
#[derive(Debug, Default)]
pub(super) struct Table(Mutex<Nodes>);

#[derive(Debug, Default)]
struct Nodes {
    last: u64,
    by_key: HashMap<Key, u64>,
    nodes: HashMap<u64, Node>,
    opens: HashMap<u64, Open>,
    refused: Option<Refusal>,
}

#[derive(Debug)]
struct Node {
    key: Key,
    reads: Served,
    writes: Served,
    /// What was revoked, once something was.
    revoked: Option<PluginPermission>,
    /// How often the kernel has looked it up and not forgotten it.
    lookups: u64,
    opens: usize,
    /// The file of the open that is under way.
    expected: Option<Arc<File>>,
}

/// What becomes of a use of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    Yes,
    /// Only what the kernel brings back of what was written before.
    Last,
    No,
}

/// One open of a file.
#[derive(Debug)]
struct Open {
    node: u64,
    file: Arc<File>,
}

/// What somebody wants of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Look,
    Read,
    Write,
    /// The kernel brings back what was written into memory.
    WriteBack,
}

/// A use that was refused since a permission was revoked.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) permission: PluginPermission,
    pub(crate) path: PathBuf,
}

impl Nodes {
    fn number(&mut self) -> u64 {
        self.last += 1;
        ROOT + self.last
    }

    fn drop_if_unused(&mut self, number: u64) {
        let unused = |node: &Node| node.lookups == 0 && node.opens == 0 && node.expected.is_none();
        if self.nodes.get(&number).is_some_and(unused)
            && let Some(node) = self.nodes.remove(&number)
            && self.by_key.get(&node.key) == Some(&number)
        {
            self.by_key.remove(&node.key);
        }
    }
}

impl Table {
    /// `file` is going to be opened for `access` under the number that this gives; there are at most `most` open at once.
    pub(super) fn expect(&self, key: Key, file: File, access: Access, most: usize) -> Result<u64, Errno> {
        let mut nodes = lock(&self.0);
        if nodes.opens.len() >= most {
            return Err(Errno::EMFILE);
        }
        let number = match nodes.by_key.get(&key) {
            Some(number) => *number,
            None => {
                let number = nodes.number();
                nodes.by_key.insert(key.clone(), number);
                let (reads, writes) = (Served::No, Served::No);
                let node = Node { key, reads, writes, revoked: None, lookups: 0, opens: 0, expected: None };
                nodes.nodes.insert(number, node);
                number
            }
        };
        if let Some(node) = nodes.nodes.get_mut(&number) {
            // One of which something was withdrawn has another number than this.
            if access.reads {
                node.reads = Served::Yes;
            }
            if access.writes {
                node.writes = Served::Yes;
            }
            node.expected = Some(Arc::new(file));
        }
        Ok(number)
    }

    /// That open is over, however it went.
    pub(super) fn expect_no_more(&self, number: u64) {
        let mut nodes = lock(&self.0);
        if let Some(node) = nodes.nodes.get_mut(&number) {
            node.expected = None;
        }
        nodes.drop_if_unused(number);
    }

    /// The kernel looks up `number`: there is such a file only while it is being opened.
    pub(super) fn look_up(&self, number: u64) -> Result<Arc<File>, Errno> {
        let mut nodes = lock(&self.0);
        let node = nodes.nodes.get_mut(&number).ok_or(Errno::ENOENT)?;
        let file = node.expected.clone().ok_or(Errno::ENOENT)?;
        node.lookups += 1;
        Ok(file)
    }

    /// The kernel opens it: the open's number.
    pub(super) fn open(&self, number: u64) -> Result<u64, Errno> {
        let mut nodes = lock(&self.0);
        let open = nodes.number();
        let node = nodes.nodes.get_mut(&number).ok_or(Errno::ESTALE)?;
        let file = node.expected.take().ok_or(Errno::EACCES)?;
        node.opens += 1;
        nodes.opens.insert(open, Open { node: number, file });
        Ok(open)
    }

    /// The kernel has no use for that open any more.
    pub(super) fn release(&self, open: u64) {
        let mut nodes = lock(&self.0);
        let Some(Open { node: number, .. }) = nodes.opens.remove(&open) else { return };
        if let Some(node) = nodes.nodes.get_mut(&number) {
            node.opens = node.opens.saturating_sub(1);
        }
        nodes.drop_if_unused(number);
    }

    /// The kernel forgets so many of its lookups.
    pub(super) fn forget(&self, number: u64, lookups: u64) {
        let mut nodes = lock(&self.0);
        if let Some(node) = nodes.nodes.get_mut(&number) {
            node.lookups = node.lookups.saturating_sub(lookups);
        }
        nodes.drop_if_unused(number);
    }

    /// The file for `what` of `number`, by this open of it, or by any.
    pub(super) fn file(&self, number: u64, open: Option<u64>, what: Use) -> Result<Arc<File>, Errno> {
        let mut nodes = lock(&self.0);
        let node = nodes.nodes.get(&number).ok_or(Errno::ESTALE)?;
        let served = match what {
            Use::Look => node.reads == Served::Yes || node.writes == Served::Yes,
            Use::Read => node.reads == Served::Yes,
            Use::Write => node.writes == Served::Yes,
            Use::WriteBack => node.writes != Served::No,
        };
        if !served {
            if let Some(permission) = node.revoked.clone() {
                nodes.refused = Some(Refusal { permission, path: node.key.1.clone() });
            }
            return Err(Errno::EACCES);
        }
        let by_open = open.and_then(|open| nodes.opens.get(&open)).filter(|open| open.node == number);
        let any = || nodes.opens.values().find(|open| open.node == number);
        let file = by_open.or_else(any).map(|open| Arc::clone(&open.file));
        file.or_else(|| node.expected.clone()).ok_or(Errno::EBADF)
    }

    /// Serves no more of what `permission` was needed for, of the files for whose names `lost` says so; but for what was
    /// written already. The numbers of those files.
    pub(super) fn withdraw(&self, permission: &PluginPermission, lost: impl Fn(&Path) -> bool) -> Vec<u64> {
        let mut nodes = lock(&self.0);
        let mut withdrawn = Vec::new();
        let Nodes { nodes: known, by_key, .. } = &mut *nodes;
        for (number, node) in known.iter_mut() {
            let (served, last) = match permission.name() {
                "file-read" => (&mut node.reads, Served::No),
                _ => (&mut node.writes, Served::Last),
            };
            if *served == Served::Yes && lost(&node.key.1) {
                *served = last;
                node.revoked = Some(permission.clone());
                withdrawn.push(*number);
                // What is granted and opened again is another file to the kernel: this one stays as it is.
                by_key.remove(&node.key);
            }
        }
        withdrawn
    }

    /// Nothing that was written before is on its way any more.
    pub(super) fn withdrawn(&self, numbers: &[u64]) {
        let mut nodes = lock(&self.0);
        for number in numbers {
            if let Some(node) = nodes.nodes.get_mut(number).filter(|node| node.writes == Served::Last) {
                node.writes = Served::No;
            }
        }
    }

    /// Nothing is answered until this is dropped.
    #[cfg(test)]
    pub(super) fn hold(&self) -> impl Drop + '_ {
        lock(&self.0)
    }

    /// What was refused last since a permission was revoked.
    pub(super) fn refused(&self) -> Option<Refusal> {
        lock(&self.0).refused.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::policy::{PERMISSION_FILE_READ, PERMISSION_FILE_WRITE};

    const BOTH: Access = Access { reads: true, writes: true };

    fn null() -> File {
        File::open("/dev/null").unwrap()
    }

    fn key(ino: u64, path: &str) -> Key {
        ((1, ino), path.into())
    }

    /// A file that is open; its number, and the open's.
    fn opened(table: &Table, key: Key) -> (u64, u64) {
        let number = table.expect(key, null(), BOTH, 16).unwrap();
        table.look_up(number).unwrap();
        let open = table.open(number).unwrap();
        table.expect_no_more(number);
        (number, open)
    }

    #[test]
    fn a_file_is_there_only_while_it_is_being_opened() {
        let table = Table::default();
        assert_eq!(table.look_up(2).unwrap_err(), Errno::ENOENT);
        let (number, open) = opened(&table, key(1, "/a"));
        assert_eq!(table.look_up(number).unwrap_err(), Errno::ENOENT);
        assert_eq!(table.open(number).unwrap_err(), Errno::EACCES, "nobody expects another open");
        assert!(table.file(number, Some(open), Use::Read).is_ok());
        assert_eq!(opened(&table, key(1, "/a")).0, number, "one file, however often it is opened");
        assert_ne!(opened(&table, key(1, "/b")).0, number, "under another name another");
    }

    #[test]
    fn what_nobody_has_open_is_forgotten_in_whatever_order_the_kernel_says_so() {
        for forget_first in [true, false] {
            let table = Table::default();
            let (number, open) = opened(&table, key(1, "/a"));
            if forget_first {
                table.forget(number, 1);
                table.release(open);
            } else {
                table.release(open);
                table.forget(number, 1);
            }
            let nodes = lock(&table.0);
            assert!(nodes.nodes.is_empty() && nodes.by_key.is_empty() && nodes.opens.is_empty());
        }
    }

    #[test]
    fn what_is_withdrawn_stays_so_whatever_is_granted_again() {
        let table = Table::default();
        let (number, open) = opened(&table, key(1, "/a"));
        let (other, _) = opened(&table, key(2, "/b"));
        let withdrawn = table.withdraw(&PERMISSION_FILE_READ, |path| path == Path::new("/a"));
        assert_eq!(withdrawn, [number]);
        assert_eq!(table.file(number, Some(open), Use::Read).unwrap_err(), Errno::EACCES);
        assert_eq!(table.refused().unwrap().path, Path::new("/a"));
        assert!(table.file(number, Some(open), Use::Write).is_ok(), "another permission");
        assert!(table.file(other, None, Use::Read).is_ok());
        let (again, _) = opened(&table, key(1, "/a"));
        assert_ne!(again, number);
        assert!(table.file(again, None, Use::Read).is_ok());
        assert!(table.file(number, Some(open), Use::Read).is_err());
    }

    #[test]
    fn what_was_written_before_the_write_was_revoked_still_arrives() {
        let table = Table::default();
        let (number, open) = opened(&table, key(1, "/a"));
        let withdrawn = table.withdraw(&PERMISSION_FILE_WRITE, |_| true);
        assert_eq!(table.file(number, Some(open), Use::Write).unwrap_err(), Errno::EACCES);
        assert!(table.file(number, Some(open), Use::WriteBack).is_ok());
        table.withdrawn(&withdrawn);
        assert_eq!(table.file(number, Some(open), Use::WriteBack).unwrap_err(), Errno::EACCES);
        assert!(table.file(number, Some(open), Use::Read).is_ok());
    }

    #[test]
    fn there_are_so_many_open_and_no_more() {
        let table = Table::default();
        for ino in 0..16 {
            opened(&table, key(ino, "/a"));
        }
        assert_eq!(table.expect(key(99, "/a"), null(), BOTH, 16).unwrap_err(), Errno::EMFILE);
    }
}
