//! Calls that open or create a file, or open a folder: open(2), openat2(2), creat(2).
//!
//! Runs in the host, on a worker. An object is judged before anything of it is changed: nothing is truncated, and no file
//! of that name is made, before that. Owns which descriptors are handed out.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use rustix::fs::{FileType, MemfdFlags, Mode, OFlags, SealFlags, Stat, fcntl_add_seals, memfd_create};

use super::super::base;
use super::super::ledger::Access;
use super::super::requests::{Answer, Attempt, Refused, Request};
use super::by_handle;
use super::named::Named;
use super::tree::{Judged, Right, Tree};

use crate::shared::errno::from_rustix;

/// How often a name may come and go under a call that would create it.
const TRIES: usize = 8;

/// What a caller may ask of a description beside the right to read or write.
const PASSED_ON: OFlags =
    OFlags::APPEND.union(OFlags::SYNC).union(OFlags::DSYNC).union(OFlags::DIRECT).union(OFlags::TRUNC);

/// Serves a call that opens; `None` if this is none.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    let answer = match request.nr() {
        libc::SYS_openat => request.at(0, 1).map(|named| request.open(named, request.int(2), request.int(3))),
        libc::SYS_openat2 => request.how().and_then(|how| {
            request.at(0, 1).map(|named| request.open(named.resolving(how.resolve), how.flags, how.mode))
        }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => request.here(0).map(|named| request.open(named, request.int(1), request.int(2))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            request.here(0).map(|named| request.open(named, flags.cast_unsigned(), request.int(1)))
        }
        _ => return None,
    };
    Some(answer.unwrap_or_else(Answer::Errno))
}

/// What was opened, where it is, and by which decision.
struct Opened {
    file: OwnedFd,
    /// What was judged, where that is what is handed out.
    stat: Option<Stat>,
    resolved: PathBuf,
    rule: String,
}

impl Request<'_> {
    fn open(&self, named: Named, flags: u32, mode: u32) -> Answer {
        let flags = OFlags::from_bits_retain(flags);
        let cloexec = flags.contains(OFlags::CLOEXEC);
        let right = match (flags & OFlags::ACCMODE, flags.intersects(OFlags::CREATE | OFlags::TRUNC)) {
            (OFlags::RDONLY, false) => Right::Read,
            (OFlags::WRONLY, _) => Right::Write,
            (OFlags::RDONLY | OFlags::RDWR, _) => Right::Both,
            _ => return Answer::Errno(Errno::EINVAL),
        };
        if right == Right::Read
            && let Some(file) = self.brokered.served.open(&named.path)
        {
            return file.map_or_else(Answer::Errno, |file| Answer::File { file, cloexec });
        }
        if right == Right::Read
            && let Some(answer) = self.open_fact(&named.path, cloexec)
        {
            return answer;
        }
        match base::find(&named.path) {
            Some(base::Found::Device) => return open_device(&named.path, flags),
            Some(base::Found::Text(text)) if right == Right::Read => {
                return memory_file(text.as_bytes())
                    .map_or_else(Answer::Errno, |file| Answer::File { file, cloexec });
            }
            _ => {}
        }
        let exclusive = flags.contains(OFlags::CREATE | OFlags::EXCL);
        let named = named.following(!flags.contains(OFlags::NOFOLLOW) && !exclusive);
        let permission = if right == Right::Read { "file-read" } else { "file-write" };
        let attempt = Attempt { permission, action: "open", object: &named.path };
        let opened = if flags.contains(OFlags::PATH) {
            Err(Refused::new(Errno::EACCES, None, "a handle without a right is not handed out"))
        } else if flags.contains(OFlags::TMPFILE) {
            Err(Refused::new(Errno::EOPNOTSUPP, None, "a file without a name is not made"))
        } else if flags.contains(OFlags::CREATE) {
            self.create(&named, right, flags, mode)
        } else {
            self.with_tree(&named.path, right, |tree| {
                let judged = tree.judge(&named, right)?;
                self.open_judged(tree, judged, right, flags)
            })
        };
        let handed_out = opened.and_then(|Opened { file, stat, resolved, rule }| {
            // No permission has opened it, and none that goes takes it back.
            if self.brokered.scratch_at(&named.path).is_some() {
                return Ok(Opened { file, stat, resolved, rule });
            }
            let access = Access { reads: right != Right::Write, writes: right.writes() };
            Ok(Opened { file: self.hand_out(file, stat, &resolved, access)?, stat, resolved, rule })
        });
        match handed_out {
            Ok(Opened { file, resolved, rule, .. }) => {
                // Two permissions were needed: whoever reads the record is to find both.
                if right == Right::Both
                    && self.instance.subject.is_heard()
                    && let Ok(rule) =
                        self.with_tree(&named.path, Right::Read, |tree| tree.rule_for(&resolved, Right::Read))
                {
                    self.event(Attempt { permission: "file-read", ..attempt }, Some(&resolved), true, &rule);
                }
                self.event(attempt, Some(&resolved), true, &rule);
                Answer::File { file, cloexec }
            }
            Err(refused) => {
                let lacking = refused.wanted.as_ref().is_some_and(|wanted| wanted.name() == "file-read");
                let permission = if lacking { "file-read" } else { permission };
                self.refuse(Attempt { permission, ..attempt }, refused)
            }
        }
    }

    /// Opens what is there, or else makes it: whichever it is, it is judged first.
    fn create(&self, named: &Named, right: Right, flags: OFlags, mode: u32) -> Result<Opened, Refused> {
        for _ in 0..TRIES {
            let tried = self.with_tree(&named.path, right, |tree| match tree.judge(named, right) {
                Ok(judged) if flags.contains(OFlags::EXCL) => {
                    Err(Refused::failed(Errno::EEXIST, Some(&judged.resolved), judged.rule))
                }
                Ok(judged) => self.open_judged(tree, judged, right, flags).map(Some),
                Err(refused) if refused.errno == Errno::ENOENT => self.make(tree, named, right, flags, mode),
                Err(refused) => Err(refused),
            });
            if let Some(opened) = tried? {
                return Ok(opened);
            }
        }
        Err(Refused::new(Errno::EAGAIN, None, "it comes and goes"))
    }

    /// Makes a file of this name. `None` if there is one by now.
    fn make(
        &self,
        tree: &Tree<'_>,
        named: &Named,
        right: Right,
        flags: OFlags,
        mode: u32,
    ) -> Result<Option<Opened>, Refused> {
        let place = tree.place(named, right, Errno::EISDIR)?;
        let refuse = |errno, rule: &str| Err(Refused::new(errno, Some(&place.resolved), rule));
        if place.as_folder {
            return Err(Refused::failed(Errno::EISDIR, Some(&place.resolved), place.rule));
        }
        let ours = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
        let flags = (flags & (PASSED_ON | OFlags::ACCMODE)) | ours;
        match rustix::fs::openat(&place.parent, &place.name, flags, self.mode_of_new(mode)) {
            Ok(file) => Ok(Some(Opened { file, stat: None, resolved: place.resolved, rule: place.rule })),
            Err(rustix::io::Errno::EXIST) => match tree.standing(&place)? {
                // It leads nowhere, and where it leads nothing is made: the name says one place, the link another.
                Some(judged) if judged.kind() == FileType::Symlink => {
                    refuse(Errno::ELOOP, "no file is made by way of a link")
                }
                _ => Ok(None),
            },
            Err(errno) => refuse(from_rustix(errno), "the host's user may not"),
        }
    }

    fn open_judged(
        &self,
        tree: &Tree<'_>,
        judged: Judged,
        right: Right,
        flags: OFlags,
    ) -> Result<Opened, Refused> {
        let refuse = |errno, rule: &str| Err(Refused::new(errno, Some(&judged.resolved), rule));
        match judged.kind() {
            FileType::RegularFile if flags.contains(OFlags::DIRECTORY) => {
                return refuse(Errno::ENOTDIR, "it is no folder");
            }
            FileType::RegularFile => {}
            FileType::Symlink => return refuse(Errno::ELOOP, "only ordinary files are opened"),
            _ if right != Right::Read => return refuse(Errno::EISDIR, "a folder is not written"),
            _ => {
                let file = self.open_folder(tree, &judged)?;
                return Ok(Opened { file, stat: None, resolved: judged.resolved, rule: judged.rule });
            }
        }
        if right != Right::Read && judged.runs_with_rights() {
            return refuse(Errno::EACCES, "what runs with rights of its own is not written");
        }
        match judged.open(flags & (PASSED_ON | OFlags::ACCMODE)) {
            Ok(file) => {
                Ok(Opened { file, stat: Some(judged.stat), resolved: judged.resolved, rule: judged.rule })
            }
            Err(errno) => refuse(errno, "the host's user may not"),
        }
    }
}

/// A device of the base profile, as the plugin asks for it.
fn open_device(path: &[u8], flags: OFlags) -> Answer {
    let mut wanted = flags & OFlags::ACCMODE;
    if path == b"/dev/zero" && wanted == OFlags::RDWR {
        // With the right to write, a shared mapping of it is memory that RLIMIT_DATA does not count. A private one needs
        // only the right to read.
        wanted = OFlags::RDONLY;
    }
    let flags_ours = wanted | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags_ours, Mode::empty()) {
        Ok(file) => Answer::File { file, cloexec: flags.contains(OFlags::CLOEXEC) },
        Err(errno) => Answer::Errno(from_rustix(errno)),
    }
}

/// A file with these bytes that nobody can change.
pub(crate) fn memory_file(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd_create("base", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(from_rustix)?;
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        written += rustix::io::write(&file, rest).map_err(from_rustix)?;
    }
    fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)
        .map_err(from_rustix)?;
    // Without the right to write, so that it cannot be asked for through this descriptor either.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(by_handle(&file), flags, Mode::empty()).map_err(from_rustix)
}
