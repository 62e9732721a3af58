//! Folders: the one that a caller is in, and those that it holds descriptors of.
//!
//! Runs in the host, on a worker. A helper never is anywhere but in its empty root: where it believes to be is a path kept
//! here. A folder's descriptor is of a detached copy of that folder alone, which leads nowhere up and is good for listing;
//! what a call names from there is found from where the folder is in the host's tree.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::errno::Errno;
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat};

use super::super::requests::{Answer, Attempt, Refused, Request};
use super::from_rustix;
use super::named::Named;
use super::tree::{Judged, Right, Tree, find_plain, resolved_path};
use crate::host::lock::lock;
use crate::host::procfs::{self, HostPid};
use crate::shared::wire::zygote::Task;

/// How many folders a plugin may hold descriptors of that still lead somewhere.
const MOST_HANDED: usize = 1024;

/// How many processes of one plugin's are known to be somewhere.
const MOST_PROCESSES: usize = 256;

/// Where a plugin's processes are, and which folders it was given.
#[derive(Debug, Default)]
pub(crate) struct Folders(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By process; one that is not here is where the helper is.
    current: HashMap<i32, PathBuf>,
    /// The oldest first.
    handed: VecDeque<Handed>,
}

#[derive(Debug, PartialEq, Eq)]
struct Handed {
    device: u64,
    inode: u64,
    path: PathBuf,
}

/// Serves a call about the current folder; `None` if this is none.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    let answer = match request.nr() {
        libc::SYS_getcwd => Ok(request.getcwd(request.arg(0), request.arg(1))),
        libc::SYS_chdir => request.here(0).map(|named| request.chdir(&named)),
        libc::SYS_fchdir => request
            .folder(request.int(0).cast_signed())
            .map(|folder| request.chdir(&Named::absolute(folder.into_os_string().into_encoded_bytes()))),
        _ => return None,
    };
    Some(answer.unwrap_or_else(Answer::Errno))
}

impl Folders {
    /// Where `process` is: where it went, or else where the nearest of `parents` is that went anywhere.
    fn current(&self, process: i32, parents: impl Iterator<Item = i32>) -> PathBuf {
        let mut state = lock(&self.0);
        if let Some(known) = state.current.get(&process) {
            return known.clone();
        }
        let inherited = parents.into_iter().find_map(|parent| state.current.get(&parent).cloned());
        let Some(folder) = inherited else { return PathBuf::from("/") };
        // Its parent goes its own way from now on.
        if state.current.len() < MOST_PROCESSES {
            state.current.insert(process, folder.clone());
        }
        folder
    }

    /// Forgets processes that have ended: their numbers come to be others'.
    pub(crate) fn forget_ended(&self) {
        lock(&self.0).current.retain(|pid, _| Path::new("/proc").join(pid.to_string()).exists());
    }

    /// From now on `process` is in `folder`. Those that have ended are forgotten where there are too many.
    fn enter(&self, process: i32, helper: i32, folder: PathBuf) -> Result<(), Errno> {
        let mut state = lock(&self.0);
        if state.current.len() >= MOST_PROCESSES && !state.current.contains_key(&process) {
            let lives = |pid: i32| Path::new("/proc").join(pid.to_string()).exists();
            state.current.retain(|pid, _| *pid == helper || lives(*pid));
            if state.current.len() >= MOST_PROCESSES {
                return Err(Errno::ENOMEM);
            }
        }
        state.current.insert(process, folder);
        Ok(())
    }

    fn hand_out(&self, folder: Handed) {
        let mut state = lock(&self.0);
        state.handed.retain(|known| (known.device, known.inode) != (folder.device, folder.inode));
        if state.handed.len() >= MOST_HANDED {
            state.handed.pop_front();
        }
        state.handed.push_back(folder);
    }

    fn path_of(&self, stat: &Stat) -> Option<PathBuf> {
        let state = lock(&self.0);
        let known = state.handed.iter().find(|known| known.is(stat));
        known.map(|known| known.path.clone())
    }

    /// What was at one place is at the other now, and the other way round.
    pub(super) fn exchanged(&self, one: &Path, other: &Path) {
        let aside = Path::new("aside"); // what is kept here is absolute
        self.moved(one, aside);
        self.moved(other, one);
        self.moved(aside, other);
    }

    /// What was at `from` is at `to` now, with everything below.
    pub(super) fn moved(&self, from: &Path, to: &Path) {
        let mut state = lock(&self.0);
        let State { current, handed } = &mut *state;
        for path in current.values_mut().chain(handed.iter_mut().map(|handed| &mut handed.path)) {
            if let Ok(rest) = path.strip_prefix(from) {
                *path = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            }
        }
    }
}

impl Handed {
    fn is(&self, stat: &Stat) -> bool {
        (self.device, self.inode) == (stat.st_dev, stat.st_ino)
    }
}

impl Request<'_> {
    /// Where the caller is.
    pub(in super::super) fn current_folder(&self) -> PathBuf {
        let (process, helper) = (self.process(), self.instance.pid.0);
        let parents = std::iter::successors(Some(process), |pid| {
            (*pid != helper).then(|| procfs::parent_of(HostPid(*pid)))?.map(|parent| parent.0)
        });
        self.brokered.folders.current(process, parents.skip(1).take(MOST_PROCESSES).chain([helper]))
    }

    /// Where the folder is of which the caller holds this descriptor.
    pub(super) fn folder(&self, number: i32) -> Result<PathBuf, Errno> {
        let held = fstat(self.descriptor(number)?).map_err(from_rustix)?;
        if FileType::from_raw_mode(held.st_mode) != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let path = self.brokered.folders.path_of(&held).ok_or(Errno::ENOENT)?;
        let found = find_plain(self.brokered.trees.read.as_fd(), &path).map_err(|_| Errno::ENOENT)?;
        let found = fstat(&found).map_err(from_rustix)?;
        // Another may stand there by now.
        let same = (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino);
        if same { Ok(path) } else { Err(Errno::ENOENT) }
    }

    /// Where the object is of which the caller holds this descriptor, and what it is.
    pub(super) fn held(&self, number: i32) -> Result<(PathBuf, Stat), Errno> {
        let held = self.descriptor(number)?;
        let stat = fstat(&held).map_err(from_rustix)?;
        let path = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => self.folder(number)?,
            _ => resolved_path(&held).ok_or(Errno::EPERM)?,
        };
        Ok((path, stat))
    }

    /// A descriptor of a folder, for listing it.
    pub(super) fn folder_copy(&self, tree: &Tree<'_>, judged: &Judged) -> Result<OwnedFd, Refused> {
        let refuse = |errno, rule: &str| Refused::new(errno, Some(&judged.resolved), rule);
        // Through the descriptor a plugin can see the names and the attributes of all that is below.
        if tree.denies_below(&judged.resolved) {
            return Err(refuse(Errno::EACCES, "a folder of which a part is denied is not listed"));
        }
        let Some(source) = &self.brokered.trees.source else {
            return Err(refuse(Errno::EACCES, "without namespaces no folder is listed"));
        };
        let failed = |errno| refuse(errno, "no copy of it can be made");
        let found = find_plain(source.as_fd(), &judged.resolved).map_err(failed)?;
        let stat = fstat(&found).map_err(from_rustix).map_err(failed)?;
        let handed =
            Handed { device: judged.stat.st_dev, inode: judged.stat.st_ino, path: judged.resolved.clone() };
        if !handed.is(&stat) {
            return Err(failed(Errno::ENOENT));
        }
        let copy = self.brokered.zygote.perform(Task::CopyFolder, &[found.as_fd()]);
        let copy = copy.and_then(|copy| copy.ok_or(Errno::EIO)).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = rustix::fs::openat(&copy, ".", flags, Mode::empty()).map_err(from_rustix);
        let opened = opened.map_err(|errno| refuse(errno, "the host's user may not"))?;
        self.brokered.folders.hand_out(handed);
        Ok(opened)
    }

    fn getcwd(&self, address: u64, room: u64) -> Answer {
        let folder = self.current_folder();
        let text = [folder.as_os_str().as_bytes(), b"\0"].concat();
        let length = text.len() as u64;
        if room < length {
            return Answer::Errno(Errno::ERANGE);
        }
        match self.write(address, &text) {
            Answer::Value(_) => Answer::Value(length.cast_signed()),
            other => other,
        }
    }

    fn chdir(&self, named: &Named) -> Answer {
        let attempt = Attempt { permission: "file-read", action: "chdir", object: &named.path };
        let enter = |folder| {
            self.brokered.folders.enter(self.process(), self.instance.pid.0, folder).map(|()| 0).into()
        };
        if named.path == b"/" {
            return enter(PathBuf::from("/")); // where everybody starts
        }
        let entered = self.with_tree(Right::See, |tree| {
            let judged = tree.judge(named, Right::See)?;
            match judged.kind() {
                FileType::Directory => Ok(judged),
                _ => Err(Refused::new(Errno::ENOTDIR, Some(&judged.resolved), judged.rule)),
            }
        });
        match entered {
            Ok(judged) => {
                self.event(attempt, Some(&judged.resolved), true, &judged.rule);
                enter(judged.resolved)
            }
            Err(refused) => self.refuse(attempt, refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed(inode: u64, path: &str) -> Handed {
        Handed { device: 1, inode, path: PathBuf::from(path) }
    }

    #[test]
    fn a_child_starts_where_the_helper_is_and_goes_its_own_way() {
        let folders = Folders::default();
        let (helper, child) = (7, 8);
        let current = |process| folders.current(process, [helper].into_iter());
        assert_eq!(current(child), Path::new("/"));
        folders.enter(helper, helper, PathBuf::from("/a/b")).unwrap();
        assert_eq!(current(child), Path::new("/a/b"));
        folders.enter(child, helper, PathBuf::from("/c")).unwrap();
        assert_eq!(current(child), Path::new("/c"));
        assert_eq!(current(helper), Path::new("/a/b"));
    }

    #[test]
    fn a_folder_that_is_moved_is_still_known_and_one_that_starts_alike_is_not_moved() {
        let folders = Folders::default();
        folders.enter(7, 7, PathBuf::from("/a/b/c")).unwrap();
        let known = [handed(1, "/a/b"), handed(2, "/a/bb"), handed(3, "/a/b/c/d")];
        known.into_iter().for_each(|folder| folders.hand_out(folder));
        folders.moved(Path::new("/a/b"), Path::new("/x"));
        assert_eq!(folders.current(7, [].into_iter()), Path::new("/x/c"));
        let paths: Vec<_> = lock(&folders.0).handed.iter().map(|handed| handed.path.clone()).collect();
        assert_eq!(paths, ["/x", "/a/bb", "/x/c/d"].map(PathBuf::from));
    }

    #[test]
    fn so_many_folders_are_known_and_no_more() {
        let folders = Folders::default();
        (0..2 * MOST_HANDED as u64).for_each(|inode| folders.hand_out(handed(inode, "/a")));
        assert_eq!(lock(&folders.0).handed.len(), MOST_HANDED);
        (0..2 * MOST_HANDED as u64).for_each(|_| folders.hand_out(handed(0, "/a")));
        assert_eq!(lock(&folders.0).handed.len(), MOST_HANDED);
    }
}
