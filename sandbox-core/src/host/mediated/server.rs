//! Answers the kernel's requests for a view's files: fuse(4), by way of the crate `fuser`.
//!
//! Runs in the host, on the view's own thread: a file system that does not answer holds up this plugin's files only. Waits
//! for nobody but that file system. Serves one folder with numbers for names, which nobody lists.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{Mode, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fchmod, fstat, futimens};

use super::nodes::{ROOT, Table, Use};

/// How long the kernel goes by what it knows of a file's size and times: a change by somebody else shows after that.
const FRESH: Duration = Duration::from_secs(1);

/// The largest read or write at once.
const MOST_BYTES: u32 = 1 << 20;

/// A view's server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) table: Arc<Table>,
    /// Whom the files belong to, as the mount's user namespace calls them.
    pub(super) owners: Owners,
}

/// How owners are told to the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owners {
    /// As they are.
    Real,
    /// From a user namespace in which this user and group are 0, and nobody else is anybody.
    Mapped { user: u32, group: u32 },
}

/// The owner of what has none in a user namespace: user_namespaces(7).
const NOBODY: u32 = 65534;

fn refusal(errno: nix::errno::Errno) -> Errno {
    Errno::from_i32(errno as i32)
}

fn from_rustix(errno: rustix::io::Errno) -> Errno {
    Errno::from_i32(errno.raw_os_error())
}

fn time(seconds: i64, nanos: u64) -> SystemTime {
    let nanos = Duration::from_nanos(nanos);
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

impl Server {
    fn attributes(&self, file: &File) -> Result<FileAttr, Errno> {
        fstat(file).map(|stat| self.of_stat(&stat)).map_err(from_rustix)
    }

    fn of_stat(&self, stat: &Stat) -> FileAttr {
        let (uid, gid) = match self.owners {
            Owners::Real => (stat.st_uid, stat.st_gid),
            Owners::Mapped { user, group } => {
                let mapped = |id, own| if id == own { 0 } else { NOBODY };
                (mapped(stat.st_uid, user), mapped(stat.st_gid, group))
            }
        };
        FileAttr {
            ino: INodeNo(stat.st_ino),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            blocks: u64::try_from(stat.st_blocks).unwrap_or_default(),
            atime: time(stat.st_atime, stat.st_atime_nsec),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: (stat.st_mode & 0o7777) as u16,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid,
            gid,
            rdev: 0,
            blksize: u32::try_from(stat.st_blksize).unwrap_or(4096),
            flags: 0,
        }
    }

    fn root(&self) -> FileAttr {
        let (uid, gid) = match self.owners {
            Owners::Real => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
            Owners::Mapped { .. } => (0, 0),
        };
        FileAttr {
            ino: INodeNo(ROOT),
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::Directory,
            perm: 0o700,
            nlink: 2,
            uid,
            gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn file(&self, node: INodeNo, open: Option<FileHandle>, what: Use) -> Result<Arc<File>, Errno> {
        self.table.file(node.0, open.map(|open| open.0), what).map_err(refusal)
    }

    /// What a plugin may change of a file that it has open: its size and its times. The kernel takes the bits away that a
    /// write takes away, and nobody gives them.
    fn change(&self, file: &File, change: &Change) -> Result<FileAttr, Errno> {
        if let Some(mode) = change.mode {
            let now = fstat(file).map_err(from_rustix)?.st_mode & 0o7777;
            if mode & 0o7777 & !now != 0 || (mode & 0o777) != (now & 0o777) {
                return Err(Errno::EPERM);
            }
            fchmod(file, Mode::from_raw_mode(mode & 0o7777)).map_err(from_rustix)?;
        }
        if let Some(size) = change.size {
            file.set_len(size).map_err(Errno::from)?;
        }
        if let Some(times) = &change.times {
            futimens(file, times).map_err(from_rustix)?;
        }
        self.attributes(file)
    }
}

/// What is to be changed.
struct Change {
    mode: Option<u32>,
    size: Option<u64>,
    times: Option<Timestamps>,
}

fn times(access: Option<TimeOrNow>, modification: Option<TimeOrNow>) -> Option<Timestamps> {
    let spec = |time: Option<TimeOrNow>| match time {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(TimeOrNow::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(TimeOrNow::SpecificTime(time)) => match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Timespec {
                tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: since.subsec_nanos().into(),
            },
            Err(_) => Timespec { tv_sec: 0, tv_nsec: 0 },
        },
    };
    (access.is_some() || modification.is_some())
        .then(|| Timestamps { last_access: spec(access), last_modification: spec(modification) })
}

/// As much of `file` as there is, up to `size` bytes.
fn read_from(file: &File, offset: u64, size: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; size.min(MOST_BYTES) as usize];
    let mut got = 0;
    while let Some(rest) = bytes.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + got as u64) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(got);
    Ok(bytes)
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What the kernel does not offer it does without: pages are kept longer then, or written in smaller pieces.
        let _ = config.add_capabilities(InitFlags::FUSE_AUTO_INVAL_DATA);
        let _ = config.add_capabilities(InitFlags::FUSE_BIG_WRITES);
        let _ = config.set_max_write(MOST_BYTES);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let number = name.to_str().and_then(|name| name.parse().ok()).filter(|_| parent.0 == ROOT);
        let found = number.ok_or(Errno::ENOENT).and_then(|number: u64| {
            let file = self.table.look_up(number).map_err(refusal)?;
            let attributes = self.attributes(&file).inspect_err(|_| self.table.forget(number, 1))?;
            // Here this is the number that the kernel is to use; what stat(2) tells is asked for later.
            Ok(FileAttr { ino: INodeNo(number), ..attributes })
        });
        match found {
            Ok(attributes) => reply.entry(&Duration::ZERO, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, _: &Request, node: INodeNo, lookups: u64) {
        self.table.forget(node.0, lookups);
    }

    fn getattr(&self, _: &Request, node: INodeNo, open: Option<FileHandle>, reply: ReplyAttr) {
        let attributes = match node.0 {
            ROOT => Ok(self.root()),
            _ => self.file(node, open, Use::Look).and_then(|file| self.attributes(&file)),
        };
        match attributes {
            Ok(attributes) => reply.attr(&FRESH, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        open: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if uid.is_some() || gid.is_some() {
            return reply.error(Errno::EPERM);
        }
        let change = Change { mode, size, times: times(atime, mtime) };
        match self.file(node, open, Use::Write).and_then(|file| self.change(&file, &change)) {
            Ok(attributes) => reply.attr(&FRESH, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, node: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.table.open(node.0) {
            Ok(open) => {
                reply.opened(FileHandle(open), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
            }
            Err(errno) => reply.error(refusal(errno)),
        }
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        open: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = self.file(node, Some(open), Use::Read);
        match file.and_then(|file| read_from(&file, offset, size).map_err(Errno::from)) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        open: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let back = flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let file = self.file(node, Some(open), if back { Use::WriteBack } else { Use::Write });
        match file.and_then(|file| file.write_all_at(data, offset).map_err(Errno::from)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok(); // nothing is kept back here
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        open: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.table.release(open.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, node: INodeNo, open: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let synced = self.file(node, Some(open), Use::Look).and_then(|file| {
            let synced = if data_only { file.sync_data() } else { file.sync_all() };
            synced.map_err(Errno::from)
        });
        match synced {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }
}
