//! Files: resolve once, judge the resolved object, use that object.
//!
//! Runs in the host, on a worker. Owns the judgement: which objects are ordinary at all, and what the grants of this moment
//! say of where an object really is. Never opens anything but an `O_PATH` handle before that.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, major, openat2};

use super::super::base;
use super::super::requests::{Refused, Request};
use super::by_handle;
use super::named::{Named, Walk};
use super::own::{open_again, resolved_path};
use super::scratch;
use crate::host::decider::Decider;
use crate::host::links::Links;
use crate::host::protected;
use crate::host::wide::{is_any_systems, is_too_wide};
use crate::shared::errno::from_rustix;
use crate::shared::policy::{
    Grants, PERMISSION_FILE_READ, PERMISSION_FILE_WRITE, PluginPermission, Scope, Verdict,
};

/// File systems whose files are the kernel's: what is read there is not a file's bytes. linux/magic.h
const KERNELS_OWN: [i64; 22] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x1cd1,      // devpts
    0xf97c_ff8c, // selinux
    0x4341_5d53, // smackfs
    0x6165_676c, // pstore
    0x6265_6570, // configfs
    0xde5e_81e4, // efivarfs
    0x1980_0202, // mqueue
    0x6e73_6673, // nsfs
    0x5049_5045, // pipefs
    0x534f_434b, // sockfs
    0x0904_1934, // anon_inode
    0x4249_4e4d, // binfmt_misc
    0x6573_5543, // fusectl
    0x5048_4d46, // (reserved by the kernel for pidfs)
];

/// How many parts a path may have, with those of the links on its way; and how many links.
const MOST_STEPS: usize = 4096;
const MOST_LINKS: usize = 40;

/// How many folders a path may climb out of.
const MOST_CLIMBS: usize = 32;

/// How often a walk that a rename or a mount got in the way of is begun anew.
const TRIES: usize = 64;

/// What is to be done with an object, and so which permissions open it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// `file-read`.
    Read,
    /// `file-write`.
    Write,
    /// `file-read` and `file-write`.
    Both,
    /// To know that it is there, and what it is: either of them, since whoever may write a file can hold it and ask; and of
    /// a folder on the way to what is granted, that it is one.
    See,
}

impl Right {
    fn permissions(self) -> &'static [PluginPermission] {
        static BOTH: [PluginPermission; 2] = [PERMISSION_FILE_READ, PERMISSION_FILE_WRITE];
        static READ: [PluginPermission; 1] = [PERMISSION_FILE_READ];
        static WRITE: [PluginPermission; 1] = [PERMISSION_FILE_WRITE];
        match self {
            Self::Read => &READ,
            Self::Write => &WRITE,
            Self::Both | Self::See => &BOTH,
        }
    }

    pub(super) fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

/// Where the broker looks, and by which grants: the detached, noexec copy of the host's tree, or the tree itself where there
/// is none.
pub(super) struct Tree<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) grants: &'a Grants,
    pub(super) links: &'a Links,
    /// Whether somebody wants to be asked about what is not granted: it has to be found then.
    pub(super) asks: bool,
    /// Whether everything is let through once.
    pub(super) learns: bool,
    /// Whether it is the plugin's own: all below `/tmp` is open, and nothing of the host's is there.
    pub(super) scratch: bool,
}

/// An object that was found and judged.
pub(super) struct Judged {
    pub(super) handle: OwnedFd,
    pub(super) stat: Stat,
    pub(super) resolved: PathBuf,
    pub(super) rule: String,
    /// Nothing but that it is a folder may be told.
    pub(super) on_the_way: bool,
}

/// A place for a name in a folder, found and judged; whether there is anything of that name or not.
pub(super) struct Place {
    pub(super) parent: OwnedFd,
    /// One plain component.
    pub(super) name: OsString,
    /// Whether the path ended in a slash: it means a folder.
    pub(super) as_folder: bool,
    pub(super) resolved: PathBuf,
    pub(super) rule: String,
}

impl Place {
    /// The name as the kernel is told it.
    pub(super) fn spelled(&self) -> OsString {
        let mut name = self.name.clone();
        if self.as_folder {
            name.push("/");
        }
        name
    }
}

impl Request<'_> {
    /// Works in the tree in which `path` is, and `right` can be used.
    pub(super) fn with_tree<T>(&self, path: &[u8], right: Right, work: impl FnOnce(&Tree<'_>) -> T) -> T {
        let (grants, links) = (self.grants(), self.instance.subject.links());
        let asks = self.may_ask();
        let learns = asks && matches!(self.instance.subject.decider(), Some(Decider::Learn));
        let root = self.brokered.trees.read.as_fd();
        let outside = Tree { root, grants: &grants, links, asks, learns, scratch: false };
        work(&self.brokered.tree_at(path, right, outside))
    }
}

impl Tree<'_> {
    /// A handle of what `path` leads to, opening nothing.
    fn find(&self, path: &Path, walk: Walk) -> Result<OwnedFd, Lost> {
        let climbs = path.as_os_str().as_bytes().split(|byte| *byte == b'/').any(|part| part == b"..");
        if !climbs {
            let plain = Walk { resolve: walk.resolve | ResolveFlags::NO_SYMLINKS, ..walk };
            if let Ok(handle) = find(self.root, path, plain) {
                return Ok(handle);
            }
        }
        self.walk(path, walk)
    }

    /// The same, step by step: where links and steps back are on the way, or where it leads nowhere. A path, or a link of the
    /// plugin's own making, must not tell by whether it leads somewhere what is where the plugin may not look.
    fn walk(&self, path: &Path, walk: Walk) -> Result<OwnedFd, Lost> {
        let nowhere = Lost::nowhere;
        let root = || find_plain(self.root, Path::new("/")).map_err(nowhere);
        let mut current = root()?;
        let mut as_folder = path.as_os_str().as_bytes().ends_with(b"/");
        let mut left: VecDeque<Part> = parts(path, false).collect();
        let (mut steps, mut links, mut climbs) = (0, 0, 0);
        while let Some(part) = left.pop_front() {
            steps += 1;
            let name = match part {
                _ if steps > MOST_STEPS => return Err(nowhere(Errno::ENAMETOOLONG)),
                Part::Up { seen } => {
                    climbs += 1;
                    let above = |folder: PathBuf| folder == Path::new("/") || self.is_in_sight(&folder);
                    if climbs > MOST_CLIMBS || !(seen || resolved_path(&current).is_some_and(above)) {
                        return Err(nowhere(Errno::EACCES));
                    }
                    let lost = |errno| Lost::new(errno, resolved_path(&current));
                    current = step(&current, OsStr::new("..")).map_err(lost)?;
                    continue;
                }
                Part::Name(name) => name,
            };
            let lost = |errno| Lost::new(errno, resolved_path(&current).map(|at| at.join(&name)));
            let found = step(&current, &name).map_err(lost)?;
            let stat = fstat(&found).map_err(|errno| lost(from_rustix(errno)))?;
            let follow = !left.is_empty() || walk.follow || as_folder;
            if !follow || FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                current = found;
                continue;
            }
            links += 1;
            if walk.resolve.contains(ResolveFlags::NO_SYMLINKS) || links > MOST_LINKS {
                return Err(lost(Errno::ELOOP));
            }
            // The kernel's own links lead where no text says.
            ordinary(&found, &stat).map_err(|why| Lost { closed: Some(why), ..nowhere(Errno::EACCES) })?;
            let target = rustix::fs::readlinkat(&found, "", Vec::new());
            let target = target.map_err(|errno| lost(from_rustix(errno)))?;
            let target = Path::new(OsStr::from_bytes(target.as_bytes()));
            if left.is_empty() {
                as_folder |= target.as_os_str().as_bytes().ends_with(b"/");
            }
            if target.is_absolute() {
                current = root()?;
            }
            // That the folders which a link is in are there, it tells by being there itself.
            let parts: Vec<_> = parts(target, !target.is_absolute()).collect();
            parts.into_iter().rev().for_each(|part| left.push_front(part));
        }
        let is_folder = || {
            let stat = fstat(&current).map_err(|errno| nowhere(from_rustix(errno)))?;
            Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        };
        if as_folder && !is_folder()? {
            return Err(Lost::new(Errno::ENOTDIR, resolved_path(&current)));
        }
        Ok(current)
    }

    /// Whether the plugin may know that something is at `resolved`.
    pub(super) fn is_in_sight(&self, resolved: &Path) -> bool {
        (self.rule_for(resolved, Right::See).is_ok() || self.is_on_the_way(resolved))
            && !self.is_protected(resolved, None, false)
    }

    /// Whether the folder at `resolved` is above something that is granted: that it is there is no news. Nor is it above what
    /// may be granted in a moment, of a folder that any system has, or where everything is let through.
    fn is_on_the_way(&self, resolved: &Path) -> bool {
        self.grants.grants_below(resolved)
            || (self.asks && is_any_systems(resolved))
            || (self.learns && is_too_wide(resolved, true))
    }

    /// Refuses to walk at all where nothing could come of it: a walk alone tells something, wakes automounts and reaches
    /// network file systems.
    fn may_walk(&self, path: &Path, right: Right) -> Result<(), Refused> {
        let held = |permission: &PluginPermission| self.grants.holds_named(permission.name());
        let wanted = right.permissions();
        let held = if right == Right::See { wanted.iter().any(held) } else { wanted.iter().all(held) };
        let known = || !right.writes() && base::find(path.as_os_str().as_bytes()).is_some();
        if self.asks || held || known() {
            return Ok(());
        }
        Err(Refused::new(Errno::EACCES, None, "not granted"))
    }

    /// What `named` leads to, if the grants open it for `right`.
    pub(super) fn judge(&self, named: &Named, right: Right) -> Result<Judged, Refused> {
        let path = named.path();
        self.may_walk(path, right)?;
        let handle = match self.find(path, named.walk) {
            Ok(handle) => handle,
            Err(lost) => return Err(self.not_found(lost, right)),
        };
        let judged = self.judge_found(handle, right)?;
        match named.object {
            Some(object) if object != (judged.stat.st_dev, judged.stat.st_ino) => {
                Err(Refused::new(Errno::EACCES, Some(&judged.resolved), "another stands there by now"))
            }
            _ => Ok(judged),
        }
    }

    fn judge_found(&self, handle: OwnedFd, right: Right) -> Result<Judged, Refused> {
        let resolved = resolved_path(&handle)
            .ok_or_else(|| Refused::new(Errno::EACCES, None, "it has no path any more"))?;
        let refuse = |rule: &str| Refused::new(Errno::EACCES, Some(&resolved), rule);
        let (rule, on_the_way) = match self.rule_for(&resolved, right) {
            Ok(rule) => (rule, false),
            Err(_) if right == Right::See && self.is_on_the_way(&resolved) => {
                ("on the way to what is granted".to_owned(), true)
            }
            Err(closed) => {
                // What cannot be told is taken for a folder.
                let folder = |stat: Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let is_folder = fstat(&handle).map_or(true, folder);
                return Err(self.closed(closed, Some(&resolved), &resolved, is_folder));
            }
        };
        let stat =
            fstat(&handle).map_err(|errno| Refused::new(from_rustix(errno), Some(&resolved), "fstat"))?;
        ordinary(&handle, &stat).map_err(refuse)?;
        if self.is_protected(&resolved, Some(&stat), right.writes()) {
            return Err(refuse(protected::RULE));
        }
        if on_the_way && FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(refuse("not granted"));
        }
        self.under_every_name(&resolved, &stat, right)?;
        Ok(Judged { handle, stat, resolved, rule, on_the_way })
    }

    /// Whether `right` is granted under each name that the plugin has given to the file: what is taken back under one name
    /// is not kept under another.
    fn under_every_name(&self, resolved: &Path, stat: &Stat, right: Right) -> Result<(), Refused> {
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(());
        }
        self.links.of(stat).iter().try_for_each(|name| match self.rule_for(name, right) {
            Ok(_) => Ok(()),
            Err(closed) => {
                let rule = format!("under another name: {}", closed.rule);
                Err(Refused::new(Errno::EACCES, Some(resolved), rule))
            }
        })
    }

    /// The place that `named` names, if the grants open it for `right`. `odd` is the answer where that is no plain name.
    pub(super) fn place(&self, named: &Named, right: Right, odd: Errno) -> Result<Place, Refused> {
        let path = named.path.as_slice();
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let (bare, slashes) = path.split_at(end);
        let start = bare.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let (parent, name) = bare.split_at(start);
        if matches!(name, b"" | b"." | b"..") {
            return Err(Refused::new(odd, None, "that names no place"));
        }
        let (parent, name) = (Path::new(OsStr::from_bytes(parent)), OsStr::from_bytes(name).to_owned());
        self.may_walk(parent, right)?;
        // The slash at its end says that it must be a folder.
        let parent = match self.find(parent, Walk { follow: true, resolve: named.walk.resolve }) {
            Ok(parent) => parent,
            Err(lost) => return Err(self.not_found(lost, right)),
        };
        let folder = resolved_path(&parent)
            .ok_or_else(|| Refused::new(Errno::ENOENT, None, "its folder has no path any more"))?;
        let resolved = folder.join(&name);
        let refuse = |rule: &str| Refused::new(Errno::EACCES, Some(&resolved), rule);
        // What is to be there may be a folder.
        let closed = |closed| self.closed(closed, Some(&resolved), &resolved, true);
        let rule = self.rule_for(&resolved, right).map_err(closed)?;
        if self.scratch && resolved == Path::new(scratch::FOLDER) {
            return Err(Refused::new(odd, Some(&resolved), "the scratch space itself stays"));
        }
        let stat =
            fstat(&parent).map_err(|errno| Refused::new(from_rustix(errno), Some(&folder), "fstat"))?;
        ordinary(&parent, &stat).map_err(refuse)?;
        if self.is_protected(&resolved, None, right.writes()) {
            return Err(refuse(protected::RULE));
        }
        Ok(Place { parent, name, as_folder: !slashes.is_empty(), resolved, rule })
    }

    /// What stands in a place, a link itself and not where it leads. `None` if nothing does.
    pub(super) fn standing(&self, place: &Place) -> Result<Option<Judged>, Refused> {
        let walk = Walk { follow: false, resolve: ResolveFlags::empty() };
        let handle = match find(place.parent.as_fd(), Path::new(&place.name), walk) {
            Ok(handle) => handle,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(Refused::failed(errno, Some(&place.resolved), place.rule.as_str())),
        };
        let refuse = |rule: &str| Refused::new(Errno::EACCES, Some(&place.resolved), rule);
        let stat = fstat(&handle)
            .map_err(|errno| Refused::new(from_rustix(errno), Some(&place.resolved), "fstat"))?;
        ordinary(&handle, &stat).map_err(refuse)?;
        if self.is_protected(&place.resolved, Some(&stat), true) {
            return Err(refuse(protected::RULE));
        }
        self.under_every_name(&place.resolved, &stat, Right::Write)?;
        let (resolved, rule) = (place.resolved.clone(), place.rule.clone());
        Ok(Some(Judged { handle, stat, resolved, rule, on_the_way: false }))
    }

    /// Whether what is at `from` may come to be at `to` as well, or instead: nothing may be granted there that is not
    /// granted here, or a name would be a way to a right.
    pub(super) fn may_come_to(&self, from: &Path, to: &Path) -> Result<(), Refused> {
        let granted = |path: &Path, permission: &PluginPermission| {
            Scope::path(path).is_ok_and(|scope| self.grants.judge(permission.name(), &scope).is_granted())
        };
        let gains =
            Right::Both.permissions().iter().find(|right| granted(to, right) && !granted(from, right));
        let grade = |path: &Path, permission: &PluginPermission| {
            Scope::path(path).ok().and_then(|scope| self.grants.grade(permission.name(), &scope))
        };
        let refuse = |rule| Err(Refused::new(Errno::EACCES, Some(from), rule));
        if let Some(gained) = gains {
            return refuse(format!("{} is granted there and not here", gained.name()));
        }
        // Nor what could be taken back more gently here.
        let keeps =
            |right: &PluginPermission| grade(to, right).is_none_or(|there| Some(there) >= grade(from, right));
        if !Right::Both.permissions().iter().all(keeps) {
            return refuse("what is granted there is of a lower grade".to_owned());
        }
        Ok(())
    }

    /// Whether a link may stand at `path`: where something was decided, or above that, the next decision about that place
    /// would be one about where the link leads.
    pub(super) fn may_be_link(&self, path: &Path) -> Result<(), Refused> {
        if self.grants.decides_at(path) || self.grants.decides_below(path) {
            return Err(Refused::new(Errno::EACCES, Some(path), "what was decided about becomes no link"));
        }
        Ok(())
    }

    /// Whether what is at `path` may go, or something come there, with everything below: a decision about a part of it would
    /// come to be about something else.
    pub(super) fn may_move(&self, path: &Path) -> Result<(), Refused> {
        let refuse = |rule| Err(Refused::new(Errno::EACCES, Some(path), rule));
        if self.grants.decides_below(path) {
            return refuse("something was decided about a part of it");
        }
        if self.protects_below(path) { refuse(protected::RULE) } else { Ok(()) }
    }

    /// Whether an object that was judged for one thing is open for `right` too.
    pub(super) fn opens(&self, judged: &Judged, right: Right) -> Result<(), Refused> {
        let at = judged.resolved.as_path();
        let closed = |closed| self.closed(closed, Some(at), at, judged.kind() == FileType::Directory);
        self.rule_for(at, right).map(drop).map_err(closed)
    }

    /// Whether a part of the tree at `path` must not be seen.
    pub(super) fn hides_below(&self, path: &Path) -> bool {
        self.grants.denies_below(PERMISSION_FILE_READ.name(), path) || self.protects_below(path)
    }

    /// Whether what is at `path` is the host's own, whatever is granted.
    fn is_protected(&self, path: &Path, stat: Option<&Stat>, writes: bool) -> bool {
        !self.scratch && protected::closes(path, stat, writes)
    }

    /// Whether something below `path` is.
    pub(super) fn protects_below(&self, path: &Path) -> bool {
        !self.scratch && protected::is_below(path)
    }

    /// The errno of a path that leads nowhere: the true one only where the plugin may look, which is where it got lost.
    fn not_found(&self, lost: Lost, right: Right) -> Refused {
        let Some(place) = lost.place else {
            return Refused::new(Errno::EACCES, None, lost.closed.unwrap_or("not granted"));
        };
        match self.rule_for(&place, right) {
            _ if self.is_protected(&place, None, false) => Refused::new(Errno::EACCES, None, protected::RULE),
            Ok(rule) => Refused::failed(lost.errno, Some(&place), rule),
            Err(_) if self.is_on_the_way(&place) => {
                Refused::failed(lost.errno, Some(&place), "on the way to what is granted")
            }
            Err(closed) => self.closed(closed, None, &place, false),
        }
    }

    /// The refusal of what is closed, `at` a place that may be told or not. Nobody is asked about a good part of the machine:
    /// a plugin that looks at a folder by the way would be given all that is below.
    fn closed(&self, closed: Closed, told: Option<&Path>, at: &Path, is_folder: bool) -> Refused {
        match closed.wanted {
            Some(_) if self.asks && is_too_wide(at, is_folder) => {
                Refused::new(Errno::EACCES, told, "not granted, and too wide to be asked about")
            }
            wanted => Refused::new(Errno::EACCES, told, closed.rule).wanting(wanted),
        }
    }

    /// The decision that opens `resolved`, in words; else the one that does not.
    pub(super) fn rule_for(&self, resolved: &Path, right: Right) -> Result<String, Closed> {
        if self.scratch {
            let closed = || Closed { rule: "outside the scratch space".to_owned(), wanted: None };
            return resolved
                .starts_with(scratch::FOLDER)
                .then(|| scratch::RULE.to_owned())
                .ok_or_else(closed);
        }
        if !right.writes() && base::covers(resolved.as_os_str().as_bytes()) {
            return Ok("base profile".to_owned());
        }
        // The object's own path has no link in it, and a scope is where it was when it was granted.
        let Ok(scope) = Scope::of_object(resolved) else {
            return Err(Closed { rule: "its path cannot be judged".to_owned(), wanted: None });
        };
        let judge = |permission: &PluginPermission| match self.grants.judge(permission.name(), &scope) {
            Verdict::Granted(grant) => Ok(format!("granted: {grant}")),
            Verdict::Denied(denial) => Err(Closed { rule: format!("denied: {denial}"), wanted: None }),
            Verdict::NotGranted => {
                let wanted = Some(permission.at(scope.clone()));
                Err(Closed { rule: "not granted".to_owned(), wanted })
            }
        };
        match right {
            Right::Read => judge(&PERMISSION_FILE_READ),
            Right::Write => judge(&PERMISSION_FILE_WRITE),
            Right::Both => judge(&PERMISSION_FILE_READ).and_then(|_| judge(&PERMISSION_FILE_WRITE)),
            Right::See => judge(&PERMISSION_FILE_READ)
                .or_else(|closed| judge(&PERMISSION_FILE_WRITE).map_err(|_| closed)),
        }
    }
}

impl Judged {
    /// Opens the very object that was judged.
    pub(super) fn open(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        // Not even a lease of somebody else's holds a worker up.
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        open_again(&self.handle, flags)
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Why its contents must not change: it runs with rights that whoever writes it does not have. The kernel takes those
    /// away on a write(2), and not on a store to shared memory.
    pub(super) fn runs_with_rights(&self) -> bool {
        let mode = self.stat.st_mode;
        let capable = || {
            let mut value = [0_u8; 64];
            let found = rustix::fs::getxattr(by_handle(&self.handle), "security.capability", &mut value[..]);
            mode & 0o111 != 0
                && !matches!(found, Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP))
        };
        self.kind() == FileType::RegularFile && (mode & 0o6000 != 0 || capable())
    }
}

/// Why an object is closed.
pub(super) struct Closed {
    rule: String,
    /// What would open it, if nobody has decided about it.
    wanted: Option<PluginPermission>,
}

/// A path that leads nowhere.
pub(in super::super) struct Lost {
    pub(in super::super) errno: Errno,
    /// The first place on the way at which there is nothing, or nothing that leads on.
    pub(in super::super) place: Option<PathBuf>,
    /// What stands on the way that no grant opens, in words.
    closed: Option<&'static str>,
}

impl Lost {
    fn new(errno: Errno, place: Option<PathBuf>) -> Self {
        Self { errno, place, closed: None }
    }

    /// Nowhere that can be told.
    pub(in super::super) fn nowhere(errno: Errno) -> Self {
        Self::new(errno, None)
    }
}

/// A part of a path.
enum Part {
    Name(OsString),
    /// `..`; and whether it is known that there is something to climb out of.
    Up {
        seen: bool,
    },
}

/// The parts of a path; `seen`: those that climb at its beginning climb out of what is known.
fn parts(path: &Path, seen: bool) -> impl Iterator<Item = Part> {
    let mut seen = seen;
    path.components().filter_map(move |part| match part {
        Component::Normal(name) => {
            seen = false;
            Some(Part::Name(name.to_owned()))
        }
        Component::ParentDir => Some(Part::Up { seen }),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// What is called `name` in `folder`: one step, which follows nothing.
fn step(folder: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    loop {
        match openat2(folder, name, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(from_rustix),
        }
    }
}

fn find(root: BorrowedFd<'_>, path: &Path, walk: Walk) -> Result<OwnedFd, Errno> {
    let mut flags = OFlags::PATH | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, !walk.follow);
    // An absolute link stays inside the tree; a magic link leads out of any tree.
    let resolve = walk.resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {} // a rename or mount was under way
            other => return other.map_err(from_rustix),
        }
    }
    Err(Errno::EAGAIN)
}

/// A handle of what `path` leads to in the tree at `root`, with every link followed.
pub(in super::super) fn find_real(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    find(root, path, Walk { follow: true, resolve: ResolveFlags::empty() })
}

/// A handle of what `path` leads to in the tree at `root`, for a plugin with these grants: by whether it leads somewhere it
/// does not tell what is out of their sight.
pub(in super::super) fn find_in_sight(
    root: BorrowedFd<'_>,
    path: &Path,
    grants: &Grants,
) -> Result<OwnedFd, Lost> {
    let tree = Tree { root, grants, links: &Links::default(), asks: false, learns: false, scratch: false };
    tree.find(path, Walk { follow: true, resolve: ResolveFlags::empty() })
}

/// A handle of what stands at `path` of the tree at `root`, which has no link in it.
pub(in super::super) fn find_plain(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    find(root, path, Walk { follow: false, resolve: ResolveFlags::NO_SYMLINKS })
}

/// Whether it is a file, a folder or a link, and in a file system that has such.
fn ordinary(handle: &OwnedFd, stat: &Stat) -> Result<(), &'static str> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink) {
        return Err("no grant reaches devices, FIFOs and sockets");
    }
    // Those of the kernel are on no device.
    if major(stat.st_dev) != 0 {
        return Ok(());
    }
    match fstatfs(handle) {
        Err(_) => Err("its file system does not say what it is"),
        Ok(of) if KERNELS_OWN.contains(&of.f_type) => Err("no grant reaches the kernel's own file systems"),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_root() -> OwnedFd {
        rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    /// The verdict on `path` under one grant, whose scope really is at `real`.
    fn judged_under(grant: PluginPermission, real: Option<Scope>, path: &Path) -> Result<Judged, Refused> {
        let root = host_root();
        let mut grants = Grants::default();
        grants.grant(grant, real);
        let named = Named::absolute(path.as_os_str().as_bytes().to_vec());
        let tree = Tree {
            root: root.as_fd(),
            grants: &grants,
            links: &Links::default(),
            asks: false,
            learns: false,
            scratch: false,
        };
        tree.judge(&named, Right::Read)
    }

    /// The same under one of `scope`.
    fn judged(scope: &Path, path: &Path) -> Result<PathBuf, Errno> {
        let real = Scope::path(scope.canonicalize().unwrap()).ok();
        let verdict = judged_under(PERMISSION_FILE_READ.scoped_to_path(scope).unwrap(), real, path);
        verdict.map(|judged| judged.resolved).map_err(|refused| refused.errno)
    }

    #[test]
    fn the_object_is_judged_and_not_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        let (inside, outside) = (base.join("in"), base.join("in2"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(inside.join("a"), "a").unwrap();
        std::fs::write(outside.join("b"), "b").unwrap();
        std::os::unix::fs::symlink(outside.join("b"), inside.join("out")).unwrap();
        std::os::unix::fs::symlink(inside.join("a"), outside.join("back")).unwrap();
        std::os::unix::fs::symlink(&inside, base.join("link")).unwrap();

        assert_eq!(judged(&inside, &inside.join("a")), Ok(inside.join("a")));
        assert_eq!(judged(&inside, &outside.join("back")), Ok(inside.join("a")), "a link that leads in");
        assert_eq!(
            judged(&base.join("link"), &inside.join("a")),
            Ok(inside.join("a")),
            "a scope that is a link"
        );
        assert_eq!(judged(&inside, &base.join("link/a")), Ok(inside.join("a")));
        assert_eq!(judged(&inside, &inside.join("out")), Err(Errno::EACCES), "a link that leads out");
        assert_eq!(judged(&inside, &outside.join("b")), Err(Errno::EACCES), "what merely starts alike");
        assert_eq!(judged(&inside, &inside.join("../in2/b")), Err(Errno::EACCES));
        assert_eq!(judged(&inside, &inside.join("none")), Err(Errno::ENOENT), "the truth where it may look");
        assert_eq!(judged(&inside, &outside.join("none")), Err(Errno::EACCES), "and not where it may not");
        assert_eq!(judged(&inside, &base.join("nowhere/at/all")), Err(Errno::EACCES));
    }

    #[test]
    fn a_path_does_not_tell_whether_a_folder_outside_is_there() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        for folder in ["in/deep", "out"] {
            std::fs::create_dir_all(base.join(folder)).unwrap();
        }
        let inside = base.join("in");
        std::fs::write(inside.join("a"), "a").unwrap();
        assert_eq!(judged(&inside, &base.join("out/../in/a")), Err(Errno::EACCES));
        assert_eq!(judged(&inside, &base.join("none/../in/a")), Err(Errno::EACCES));
        assert_eq!(
            judged(&inside, &inside.join("deep/../a")),
            Ok(inside.join("a")),
            "what it may see is climbed"
        );
        assert_eq!(judged(&inside, &inside.join(["deep/.."; 33].join("/")).join("a")), Err(Errno::EACCES));
    }

    #[test]
    fn where_everything_is_granted_what_no_grant_reaches_is_refused_for_that() {
        // The first is behind a link of the kernel's own.
        for path in ["/proc/self/status", "/proc/version", "/dev/null"] {
            let refused = judged_under(PERMISSION_FILE_READ, None, Path::new(path)).err().unwrap();
            assert_eq!(refused.errno, Errno::EACCES, "{path}");
            assert!(refused.rule.starts_with("no grant reaches "), "{path}: {}", refused.rule);
        }
    }

    #[test]
    fn no_grant_reaches_what_is_no_ordinary_file() {
        for path in [
            "/proc/self/mem",
            "/proc/self/environ",
            "/proc/version",
            "/sys/kernel/notes",
            "/dev/mem",
            "/dev/full",
        ] {
            if Path::new(path).exists() {
                assert_eq!(judged(Path::new("/"), Path::new(path)), Err(Errno::EACCES), "{path}");
            }
        }
    }
}
