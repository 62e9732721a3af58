//! Folders: the one that a caller is in, and those that it holds descriptors of.
//!
//! Runs in the host, on a worker. A helper never is anywhere but in its empty root: where it believes to be is a path kept
//! here. A folder's descriptor is of a detached copy of that folder alone, which leads nowhere up and is good for listing;
//! what a call names from there is found from where the folder is in the host's tree.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::errno::Errno;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat};

use super::super::requests::{Answer, Attempt, Refused, Request};
use super::named::Named;
use super::own::resolved_path;
use super::tree::{Judged, Right, Tree, find_plain};
use crate::host::lock::lock;
use crate::host::procfs::{self, HostPid};
use crate::shared::errno::from_rustix;
use crate::shared::wire::zygote::{MAX_PACKET_BYTES, Name, NameKind, Task};

/// How many folders a plugin may hold descriptors of that still lead somewhere.
const MOST_HANDED: usize = 1024;

/// How many names a folder may have that cannot be handed out as it is.
const MOST_NAMES: usize = 8192;

/// How many bytes of them go into one packet to the zygote, and what each takes beside its own.
const NAMES_PACKET_BYTES: usize = MAX_PACKET_BYTES - 128;
const NAME_EXTRA_BYTES: usize = 8;

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
    /// What its descriptor is of.
    held: Object,
    /// What it stands for.
    real: Object,
    path: PathBuf,
}

/// An object, by device and inode.
pub(super) type Object = (u64, u64);

pub(super) fn object(stat: &Stat) -> Object {
    (stat.st_dev, stat.st_ino)
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
        state.handed.retain(|known| known.held != folder.held);
        if state.handed.len() >= MOST_HANDED {
            state.handed.pop_front();
        }
        state.handed.push_back(folder);
    }

    /// What a descriptor of `held` stands for, and where that was last.
    fn known(&self, held: Object) -> Option<(Object, PathBuf)> {
        let state = lock(&self.0);
        let known = state.handed.iter().find(|known| known.held == held);
        known.map(|known| (known.real, known.path.clone()))
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
        let held = fstat(self.file_descriptor(number, "file-read")?).map_err(from_rustix)?;
        if FileType::from_raw_mode(held.st_mode) != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let (real, path) = self.brokered.folders.known(object(&held)).ok_or(Errno::ENOENT)?;
        let found = find_plain(self.brokered.root_at(&path), &path).map_err(|_| Errno::ENOENT)?;
        // Another may stand there by now.
        let same = object(&fstat(&found).map_err(from_rustix)?) == real;
        if same { Ok(path) } else { Err(Errno::ENOENT) }
    }

    /// Where the object `held` is, to which the caller's descriptor leads, and which it is.
    pub(super) fn held(&self, number: i32, held: &OwnedFd) -> Result<(PathBuf, Object), Errno> {
        let stat = fstat(held).map_err(from_rustix)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let path = self.folder(number)?;
            let (real, _) = self.brokered.folders.known(object(&stat)).ok_or(Errno::ENOENT)?;
            return Ok((path, real));
        }
        Ok((resolved_path(held).ok_or(Errno::EPERM)?, object(&stat)))
    }

    /// A descriptor of a folder, for listing it.
    pub(super) fn open_folder(&self, tree: &Tree<'_>, judged: &Judged) -> Result<OwnedFd, Refused> {
        let refuse = |errno, rule: &str| Refused::new(errno, Some(&judged.resolved), rule);
        let opened = if tree.scratch {
            // Nothing is above it that is not the plugin's own.
            judged.open(OFlags::RDONLY | OFlags::DIRECTORY).map_err(|errno| refuse(errno, "open"))?
        } else {
            self.open_outside(tree, judged)?
        };
        let stat = fstat(&opened).map_err(|errno| refuse(from_rustix(errno), "fstat"))?;
        let (held, real) = (object(&stat), object(&judged.stat));
        self.brokered.folders.hand_out(Handed { held, real, path: judged.resolved.clone() });
        Ok(opened)
    }

    /// A descriptor of a folder of the host's.
    fn open_outside(&self, tree: &Tree<'_>, judged: &Judged) -> Result<OwnedFd, Refused> {
        let refuse = |errno, rule: &str| Refused::new(errno, Some(&judged.resolved), rule);
        let Some(source) = &self.brokered.trees.source else {
            return Err(refuse(Errno::EACCES, "without namespaces no folder is listed"));
        };
        // By the descriptor a plugin can ask for the attributes of all that is below.
        let copied = if tree.hides_below(&judged.resolved) {
            Err(Errno::EINVAL)
        } else {
            self.copy_of(source, judged)
        };
        let folder = match copied {
            // And below it something is mounted, which a copy of the folder alone would uncover.
            Err(Errno::EINVAL) => self.names_of(tree, judged),
            copied => copied,
        };
        let folder = folder.map_err(|errno| refuse(errno, "no copy of it can be made"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let opened = rustix::fs::openat(&folder, ".", flags, Mode::empty()).map_err(from_rustix);
        opened.map_err(|errno| refuse(errno, "the host's user may not"))
    }

    /// A detached copy of the folder alone.
    fn copy_of(&self, source: &OwnedFd, judged: &Judged) -> Result<OwnedFd, Errno> {
        let found = find_plain(source.as_fd(), &judged.resolved)?;
        if object(&fstat(&found).map_err(from_rustix)?) != object(&judged.stat) {
            return Err(Errno::ENOENT);
        }
        self.brokered.zygote.perform(Task::CopyFolder, &[found.as_fd()])?.ok_or(Errno::EIO)
    }

    /// A folder with the same names as far as they may be seen, and nothing behind them.
    fn names_of(&self, tree: &Tree<'_>, judged: &Judged) -> Result<OwnedFd, Errno> {
        let listed = judged.open(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::new(listed).map_err(from_rustix)? {
            let entry = entry.map_err(from_rustix)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." || !tree.is_in_sight(&judged.resolved.join(name)) {
                continue;
            }
            if names.len() == MOST_NAMES {
                return Err(Errno::ENOMEM);
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let of = rustix::fs::statat(&judged.handle, name, AtFlags::SYMLINK_NOFOLLOW);
                    of.map_or(FileType::Unknown, |of| FileType::from_raw_mode(of.st_mode))
                }
                known => known,
            };
            let kind = match kind {
                FileType::Directory => NameKind::Folder,
                FileType::Symlink => NameKind::Link,
                _ => NameKind::File,
            };
            names.push(Name { name: name.to_owned(), kind });
        }
        let zygote = &self.brokered.zygote;
        let folder = zygote.perform(Task::NewFolder, &[])?.ok_or(Errno::EIO)?;
        let mut names = names.into_iter().peekable();
        while names.peek().is_some() {
            let mut room = NAMES_PACKET_BYTES;
            let mut packet = Vec::new();
            while let Some(name) = names.next_if(|name| name.name.len() + NAME_EXTRA_BYTES <= room) {
                room -= name.name.len() + NAME_EXTRA_BYTES;
                packet.push(name);
            }
            zygote.perform(Task::AddNames(packet), &[folder.as_fd()])?;
        }
        zygote.perform(Task::SealFolder, &[folder.as_fd()])?;
        Ok(folder)
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
        let entered = self.with_tree(&named.path, Right::See, |tree| {
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
        Handed { held: (1, inode), real: (1, inode), path: PathBuf::from(path) }
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
