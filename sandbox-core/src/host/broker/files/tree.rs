//! Files: resolve once, judge the resolved object, use that object.
//!
//! Runs in the host, on a worker. Owns the judgement: which objects are ordinary at all, and what the grants of this moment
//! say of where an object really is. Never opens anything but an `O_PATH` handle before that.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, openat2};

use super::super::base;
use super::super::requests::Refused;
use crate::shared::policy::{Grants, PERMISSION_FILE_READ, PluginPermission, Scope, Verdict};

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

/// How many folders a path may climb out of.
const MOST_CLIMBS: usize = 32;

/// How often a walk that a rename or a mount got in the way of is begun anew.
const TRIES: usize = 64;

/// Where the broker looks: the detached, noexec copy of the host's tree, or the tree itself where there is none.
pub(crate) struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// Whether somebody wants to be asked about what is not granted: it has to be found then.
    asks: bool,
}

/// An object that was found and judged.
pub(crate) struct Judged {
    pub(crate) handle: OwnedFd,
    pub(crate) stat: Stat,
    pub(crate) resolved: PathBuf,
    pub(crate) rule: String,
}

fn from_rustix(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

impl<'a> Tree<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>, asks: bool) -> Self {
        Self { root, asks }
    }

    /// A handle of what `path` leads to, opening nothing.
    fn find(&self, path: &Path, follow: bool) -> Result<OwnedFd, Errno> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, !follow);
        // An absolute link stays inside the tree; a magic link leads out of any tree.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..TRIES {
            match openat2(self.root, path, flags, Mode::empty(), resolve) {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {} // a rename or mount was under way
                other => return other.map_err(from_rustix),
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Whether the plugin may see every folder that `path` climbs out of again: `/home/x/../../granted` leads somewhere
    /// only if `/home/x` is there, and would tell so.
    fn climbs_in_sight(&self, path: &Path, grants: &Grants) -> bool {
        let (mut climbed, mut climbs) = (PathBuf::new(), 0);
        for part in path.components() {
            if part == Component::ParentDir && climbed != Path::new("/") {
                climbs += 1;
                let folder = self.find(&climbed, true).ok().and_then(|handle| resolved_path(&handle));
                let in_sight = folder.is_some_and(|folder| rule_for(&folder, grants).is_ok());
                if !in_sight || climbs > MOST_CLIMBS {
                    return false;
                }
            }
            climbed.push(part);
        }
        true
    }

    /// What `path` leads to, if `grants` open it for reading. `follow`: a link at its end too.
    pub(crate) fn judge(&self, path: &[u8], follow: bool, grants: &Grants) -> Result<Judged, Refused> {
        let asked = Path::new(OsStr::from_bytes(path));
        // A walk alone tells something, wakes automounts and reaches network file systems: no more of it than need be.
        let may_look = self.asks || grants.holds_named("file-read") || base::find(path).is_some();
        if !may_look || !self.climbs_in_sight(asked, grants) {
            return Err(Refused::new(Errno::EACCES, None, "not granted"));
        }
        let handle = match self.find(asked, follow) {
            Ok(handle) => handle,
            Err(errno) => return Err(self.not_found(asked, errno, grants)),
        };
        let resolved = resolved_path(&handle)
            .ok_or_else(|| Refused::new(Errno::EACCES, None, "it has no path any more"))?;
        let refuse = |rule: &str| Refused::new(Errno::EACCES, Some(&resolved), rule);
        let rule =
            rule_for(&resolved, grants).map_err(|closed| refuse(&closed.rule).wanting(closed.wanted))?;
        let stat =
            fstat(&handle).map_err(|errno| Refused::new(from_rustix(errno), Some(&resolved), "fstat"))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::RegularFile | FileType::Directory | FileType::Symlink) {
            return Err(refuse("no grant reaches devices, FIFOs and sockets"));
        }
        let magic = fstatfs(&handle).map_err(|_| refuse("its file system does not say what it is"))?.f_type;
        if KERNELS_OWN.contains(&magic) {
            return Err(refuse("no grant reaches the kernel's own file systems"));
        }
        Ok(Judged { handle, stat, resolved, rule })
    }

    /// The errno of a path that leads nowhere: the true one only where the plugin may look.
    fn not_found(&self, asked: &Path, errno: Errno, grants: &Grants) -> Refused {
        let within = |path: &Path| rule_for(path, grants);
        // The nearest folder that exists decides: what is not there cannot be resolved. Those above it exist too, so that
        // a path of two thousand parts takes eleven looks.
        let ancestors: Vec<&Path> = asked.ancestors().skip(1).collect();
        let missing = ancestors.partition_point(|ancestor| self.find(ancestor, true).is_err());
        let nearest = ancestors
            .get(missing)
            .and_then(|path| self.find(path, true).ok())
            .and_then(|h| resolved_path(&h));
        let here = nearest.map(|nearest| match asked.file_name() {
            Some(name) => nearest.join(name),
            None => nearest,
        });
        match here.as_deref().map(within) {
            Some(Ok(rule)) => Refused::new(errno, here.as_deref(), rule),
            Some(Err(closed)) => Refused::new(Errno::EACCES, None, closed.rule).wanting(closed.wanted),
            None => Refused::new(Errno::EACCES, None, "not granted"),
        }
    }
}

impl Judged {
    /// Opens the very object that was judged, for reading.
    pub(crate) fn open(&self) -> Result<OwnedFd, Errno> {
        let again = format!("/proc/self/fd/{}", self.handle.as_fd().as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        rustix::fs::open(again, flags, Mode::empty()).map_err(from_rustix)
    }

    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// Why an object is closed.
struct Closed {
    rule: String,
    /// What would open it, if nobody has decided about it.
    wanted: Option<PluginPermission>,
}

/// The decision that opens `resolved`, in words; else the one that does not.
fn rule_for(resolved: &Path, grants: &Grants) -> Result<String, Closed> {
    if base::covers(resolved.as_os_str().as_bytes()) {
        return Ok("base profile".to_owned());
    }
    let closed = |rule: String, wanted| Err(Closed { rule, wanted });
    // The object's own path has no link in it, and a scope is where it was when it was granted.
    let Ok(scope) = Scope::path(resolved) else {
        return closed("its path cannot be judged".to_owned(), None);
    };
    match grants.judge("file-read", &scope) {
        Verdict::Granted(grant) => Ok(format!("granted: {grant}")),
        Verdict::Denied(denial) => closed(format!("denied: {denial}"), None),
        Verdict::NotGranted => closed("not granted".to_owned(), Some(PERMISSION_FILE_READ.at(scope))),
    }
}

/// Where an object is, with every link followed. `None` if it was removed, or is nowhere.
fn resolved_path(handle: &OwnedFd) -> Option<PathBuf> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", handle.as_raw_fd())).ok()?;
    let bytes = path.as_os_str().as_bytes();
    // The kernel marks a removed one like this; a file that really is called so is not worth the doubt.
    (bytes.starts_with(b"/") && !bytes.ends_with(b" (deleted)")).then_some(path)
}

/// A `struct stat` as this architecture's kernel writes it: stat(2).
pub(crate) fn stat_bytes(stat: &Stat) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(144);
    bytes.extend(stat.st_dev.to_ne_bytes());
    bytes.extend(stat.st_ino.to_ne_bytes());
    #[cfg(target_arch = "x86_64")]
    {
        bytes.extend(stat.st_nlink.to_ne_bytes());
        bytes.extend(stat.st_mode.to_ne_bytes());
        bytes.extend(stat.st_uid.to_ne_bytes());
        bytes.extend(stat.st_gid.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(stat.st_rdev.to_ne_bytes());
        bytes.extend(stat.st_size.to_ne_bytes());
        bytes.extend(stat.st_blksize.to_ne_bytes());
        bytes.extend(stat.st_blocks.to_ne_bytes());
    }
    #[cfg(target_arch = "aarch64")]
    {
        bytes.extend(stat.st_mode.to_ne_bytes());
        bytes.extend(stat.st_nlink.to_ne_bytes());
        bytes.extend(stat.st_uid.to_ne_bytes());
        bytes.extend(stat.st_gid.to_ne_bytes());
        bytes.extend(stat.st_rdev.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(stat.st_size.to_ne_bytes());
        bytes.extend(stat.st_blksize.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(stat.st_blocks.to_ne_bytes());
    }
    for (seconds, nanos) in [
        (stat.st_atime, stat.st_atime_nsec),
        (stat.st_mtime, stat.st_mtime_nsec),
        (stat.st_ctime, stat.st_ctime_nsec),
    ] {
        bytes.extend(seconds.to_ne_bytes());
        bytes.extend(nanos.to_ne_bytes());
    }
    bytes.resize(base::STAT_BYTES, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::policy::PERMISSION_FILE_READ;

    fn host_root() -> OwnedFd {
        rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    /// The verdict on `path` under one grant of `scope`.
    fn judged(scope: &Path, path: &Path) -> Result<PathBuf, Errno> {
        let root = host_root();
        let real = Scope::path(scope.canonicalize().unwrap()).ok();
        let mut grants = Grants::default();
        grants.grant(PERMISSION_FILE_READ.scoped_to_path(scope).unwrap(), real);
        let verdict = Tree::new(root.as_fd(), false).judge(path.as_os_str().as_bytes(), true, &grants);
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
