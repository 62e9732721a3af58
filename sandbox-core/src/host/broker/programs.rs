//! Programs that a plugin may start: judged by the grants of that moment, then shown in the helper's root. And what a
//! program needs of the system while it is loaded.
//!
//! Runs in the host, on a worker. Owns which files a program gets beyond the plugin's own: libraries that only root can
//! change, to be mapped as code. The helper's process itself never gets those.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{FileType, OFlags, Stat, fstat};

use super::files::{find_in_sight, find_plain, find_real, open_again, resolved_path, stat_bytes};
use super::processes::as_the_kernel_walks;
use super::requests::{Answer, Attempt, Refused, Request};
use crate::host::end::cause::Cause;
use crate::host::family::Shown;
use crate::host::instance::Instance;
use crate::host::library::only_root_may_write;
use crate::host::load::system_folders;
use crate::host::lock::lock;
use crate::host::{procfs, protected, stop};
use crate::shared::errno::from_rustix;
use crate::shared::policy::{Grants, PERMISSION_PROCESS, PluginPermission, Scope, Verdict};
use crate::shared::wire::zygote::Task;

/// What the kernel starts in the place of every program that is linked dynamically.
#[cfg(target_arch = "x86_64")]
const LOADER: &str = "/lib64/ld-linux-x86-64.so.2";
#[cfg(target_arch = "aarch64")]
const LOADER: &str = "/lib/ld-linux-aarch64.so.1";

/// How many programs one plugin may have been shown.
const MOST_SHOWN: usize = 256;

/// How many scripts may be each other's interpreter, as in the kernel.
const MOST_INTERPRETERS: usize = 5;

/// The most of a script that says what its interpreter is, as in the kernel.
const HEAD_BYTES: u64 = 256;

/// Something that the kernel opens when it starts a program.
pub(super) struct Judged {
    /// The path that the kernel walks.
    pub(super) at: PathBuf,
    pub(super) resolved: PathBuf,
    /// The decision that lets it; `None` of the loader.
    pub(super) rule: Option<String>,
    handle: OwnedFd,
}

/// Whether the grants of this moment let the plugin start what `path` leads to, and its interpreters: all of these.
pub(super) fn judge(request: &Request<'_>, path: &[u8]) -> Result<Vec<Judged>, Refused> {
    let Some(source) = &request.brokered.trees.source else {
        return Err(Refused::new(Errno::EACCES, None, "there is no tree to start programs from"));
    };
    let grants = request.grants();
    let may_look = request.may_ask() || grants.holds_named("process");
    if !may_look {
        return Err(Refused::new(Errno::EACCES, None, "not granted"));
    }
    let mut named = PathBuf::from(OsStr::from_bytes(path));
    let mut judged = Vec::new();
    for _ in 0..=MOST_INTERPRETERS {
        // For the kernel the caller is at the root; for the caller, wherever it went.
        let at = as_the_kernel_walks(&named);
        let path = as_the_kernel_walks(&request.current_folder().join(&named));
        let found = judge_one(source.as_fd(), &path, &grants)?;
        let interpreter = interpreter_of(&found.handle);
        judged.push(Judged { at, resolved: found.resolved, rule: Some(found.rule), handle: found.handle });
        let Some(next) = interpreter else {
            if let Ok(handle) = find_real(source.as_fd(), Path::new(LOADER)) {
                let (at, resolved) = (PathBuf::from(LOADER), resolved_path(&handle).unwrap_or_default());
                judged.push(Judged { at, resolved, rule: None, handle });
            }
            return Ok(judged);
        };
        named = next;
    }
    Err(Refused::new(Errno::ELOOP, None, "too many interpreters of interpreters"))
}

struct Found {
    handle: OwnedFd,
    resolved: PathBuf,
    rule: String,
}

fn judge_one(source: BorrowedFd<'_>, at: &Path, grants: &Grants) -> Result<Found, Refused> {
    let handle = find_in_sight(source, at, grants).map_err(|lost| {
        // Only where the plugin may look is it told the truth.
        let place = lost.place.and_then(|place| Scope::path(place).ok());
        let seen = place.is_some_and(|place| grants.judge("process", &place).is_granted());
        if seen {
            Refused::failed(lost.errno, None, "it is not there")
        } else {
            Refused::new(Errno::EACCES, None, "not granted")
        }
    })?;
    let resolved =
        resolved_path(&handle).ok_or_else(|| Refused::new(Errno::EACCES, None, "it has no path any more"))?;
    let rule = may_start(&handle, &resolved, grants)?;
    Ok(Found { handle, resolved, rule })
}

/// The decision by which the object at `resolved` may be started.
fn may_start(handle: &OwnedFd, resolved: &Path, grants: &Grants) -> Result<String, Refused> {
    let refuse = |rule: &str| Refused::new(Errno::EACCES, Some(resolved), rule);
    let scope = Scope::path(resolved).map_err(|_| refuse("its path cannot be judged"))?;
    let rule = match grants.judge("process", &scope) {
        Verdict::Granted(grant) => {
            // Nobody has named it: then it is one of the system's own.
            let named = grant.scope().is_some();
            if !named
                && !handle.try_clone().is_ok_and(|file| only_root_may_write(resolved, &File::from(file)))
            {
                return Err(refuse(
                    "without a scope only programs that none but root can change are started",
                ));
            }
            format!("granted: {grant}")
        }
        Verdict::Denied(denial) => return Err(refuse(&format!("denied: {denial}"))),
        // Nobody is asked about a folder: all that is in it would be opened by the way.
        Verdict::NotGranted => {
            let is_file = fstat(handle)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
            let wanted = is_file.then(|| PERMISSION_PROCESS.at(scope));
            return Err(refuse("not granted").wanting(wanted));
        }
    };
    let stat = fstat(handle).map_err(|error| Refused::new(from_rustix(error), Some(resolved), "fstat"))?;
    if protected::closes(resolved, Some(&stat), false) {
        return Err(refuse(protected::RULE));
    }
    if !is_program(&stat) {
        return Err(refuse("it is no program"));
    }
    Ok(rule)
}

fn is_program(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0
}

fn reopen(handle: &OwnedFd) -> Result<OwnedFd, Errno> {
    open_again(handle, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY)
}

/// What a script names as its interpreter, as the kernel reads it: execve(2).
fn interpreter_of(program: &OwnedFd) -> Option<PathBuf> {
    let mut head = Vec::new();
    File::from(reopen(program).ok()?).take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\0');
    let name = line.split(blank).find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(name)))
}

/// Puts what the kernel will open into the helper's root, where it is not there already.
pub(super) fn show(request: &Request<'_>, judged: &[Judged]) -> Result<(), Refused> {
    let mut shown = lock(&request.instance.family.shown);
    for Judged { at, resolved, handle, .. } in judged {
        let refuse = |errno, rule: &str| Refused::new(errno, Some(resolved), rule);
        let stat = fstat(handle).map_err(|error| refuse(from_rustix(error), "fstat"))?;
        let identity = (stat.st_dev, stat.st_ino);
        if shown.get(at).is_some_and(|shown| shown.identity == identity) {
            continue;
        }
        if shown.len() >= MOST_SHOWN {
            return Err(refuse(Errno::EAGAIN, "too many different programs"));
        }
        let task = Task::ShowProgram { helper: request.instance.id, at: at.as_os_str().as_bytes().to_vec() };
        let made = request.brokered.zygote.perform(task, &[handle.as_fd()]);
        made.map_err(|errno| refuse(errno, "it could not be put into the plugin's root"))?;
        shown.insert(at.clone(), Shown { identity, resolved: resolved.clone() });
    }
    Ok(())
}

/// Ends the programs that `permission` alone had let run, and with the last of `process` whatever the plugin has started.
pub(super) fn take_back(instance: &Instance, permission: &PluginPermission, grants: &Grants) {
    if permission.name() != PERMISSION_PROCESS.name() || !instance.family.has_started() {
        return;
    }
    let granted = |resolved: &Path| {
        Scope::path(resolved).is_ok_and(|scope| grants.judge(permission.name(), &scope).is_granted())
    };
    let held = grants.holds_named(permission.name());
    let helper = procfs::program(instance.pid.0);
    let looked = stop::stopped(instance, |processes| {
        // By now whatever was let go on has come to its end: a clone, or an execve.
        let shown = lock(&instance.family.shown);
        for process in processes.iter().filter(|process| process.pid != instance.pid) {
            let program = procfs::program(process.pid.0);
            let named =
                || shown.values().any(|shown| Some(shown.identity) == program && granted(&shown.resolved));
            if !held || (program != helper && !named()) {
                process.kill();
            }
        }
    });
    if looked.is_err() && instance.end().is_none() {
        let cause =
            Cause::Revoked { permission: Box::new(permission.clone()), object: "its programs".to_owned() };
        instance.kill(Some(cause));
        instance.wait_end();
    }
}

// ---- what a program needs of the system

/// Serves a program's call that names a library of the system's, or a program that it may start; `None` for any other.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    let (path, what) = match request.nr() {
        libc::SYS_openat => (1, What::Open(request.int(2))),
        libc::SYS_newfstatat => (1, What::Stat(request.arg(2))),
        libc::SYS_faccessat | libc::SYS_faccessat2 => (1, What::Access(request.int(2))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => (0, What::Open(request.int(1))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat | libc::SYS_lstat => (0, What::Stat(request.arg(1))),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_access => (0, What::Access(request.int(1))),
        _ => return None,
    };
    if request.is_helper() {
        return None;
    }
    // The helper's own image in a process that was only forked, and may share the helper's memory.
    let helper = procfs::program(request.instance.pid.0)?;
    if procfs::program(request.notification.tid).is_none_or(|program| program == helper) {
        return None;
    }
    let asked = request.read_path(request.arg(path)).ok().filter(|path| path.starts_with(b"/"))?;
    let answer = needed(request, &asked, what)?;
    let action = match what {
        What::Open(_) => "open",
        What::Stat(_) => "stat",
        What::Access(_) => "access",
    };
    if let Ok(resolved) = &answer.1 {
        let attempt = Attempt { permission: "process", action, object: &asked };
        request.event(attempt, Some(resolved), true, "a program's library");
    }
    Some(answer.0)
}

/// What a program wants of a file.
#[derive(Clone, Copy)]
enum What {
    /// With these flags.
    Open(u32),
    /// At this address.
    Stat(u64),
    /// With this mode.
    Access(u32),
}

/// The answer, and where the object really is if there is one.
fn needed(request: &Request<'_>, asked: &[u8], what: What) -> Option<(Answer, Result<PathBuf, Errno>)> {
    let nothing = |errno| (Answer::Errno(errno), Err(errno));
    // Would have every program load what the plugin may not.
    if asked == b"/etc/ld.so.preload" {
        return Some(nothing(Errno::ENOENT));
    }
    if matches!(what, What::Open(flags) if flags.cast_signed() & (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_PATH) != libc::O_RDONLY)
    {
        return None;
    }
    let trees = &request.brokered.trees;
    let path = Path::new(OsStr::from_bytes(asked));
    let is_cache = asked == b"/etc/ld.so.cache";
    let grants = request.grants();
    let execute = trees.execute.as_ref()?;
    let handle = match find_in_sight(execute.as_fd(), path, &grants) {
        Ok(handle) => handle,
        // A loader tries many names: these say nothing but which libraries the system has.
        Err(lost) => {
            let among_libraries = lost.place.is_some_and(|place| is_in_system_folders(&place));
            return among_libraries.then(|| nothing(lost.errno));
        }
    };
    let resolved = resolved_path(&handle)?;
    let stat = fstat(&handle).ok()?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let everybodys = stat.st_mode & libc::S_IROTH != 0;
    let is_library = is_in_system_folders(&resolved)
        && everybodys
        && matches!(kind, FileType::RegularFile | FileType::Directory)
        && handle.try_clone().is_ok_and(|file| only_root_may_write(&resolved, &File::from(file)));
    if !is_library && !is_cache && may_start(&handle, &resolved, &grants).is_err() {
        return None;
    }
    let answer = match what {
        What::Stat(address) => request.write(address, &stat_bytes(&stat)),
        What::Access(mode) if mode & libc::W_OK.cast_unsigned() == 0 => Answer::Value(0),
        What::Access(_) => Answer::Errno(Errno::EACCES),
        What::Open(flags)
            if kind == FileType::RegularFile && flags & libc::O_DIRECTORY.cast_unsigned() == 0 =>
        {
            // Only libraries become code in this way.
            let file =
                if is_library { reopen(&handle) } else { read_only(trees.read.as_fd(), &resolved, &stat) };
            match file {
                Ok(file) => Answer::File { file, cloexec: flags & libc::O_CLOEXEC.cast_unsigned() != 0 },
                Err(errno) => Answer::Errno(errno),
            }
        }
        What::Open(_) => return None,
    };
    Some((answer, Ok(resolved)))
}

fn is_in_system_folders(path: &Path) -> bool {
    system_folders().folders().iter().any(|folder| {
        path.starts_with(folder) || folder.canonicalize().is_ok_and(|real| path.starts_with(real))
    })
}

/// The file at `resolved`, an ordinary one that was judged, through a tree whose files are never code.
fn read_only(read: BorrowedFd<'_>, resolved: &Path, judged: &Stat) -> Result<OwnedFd, Errno> {
    let handle = find_plain(read, resolved)?;
    let found = fstat(&handle).map_err(from_rustix)?;
    let same = (found.st_dev, found.st_ino) == (judged.st_dev, judged.st_ino);
    if same { reopen(&handle) } else { Err(Errno::EACCES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scripts_interpreter_is_what_the_kernel_takes() {
        let folder = tempfile::tempdir().unwrap();
        for (text, expected) in [
            ("#!/bin/sh\necho", Some("/bin/sh")),
            ("#! \t/usr/bin/env  python3\n", Some("/usr/bin/env")),
            ("#!/bin/sh", Some("/bin/sh")),
            ("#!\n/bin/sh", None),
            ("#!", None),
            ("\x7fELF", None),
            ("", None),
            (" #!/bin/sh", None),
        ] {
            let path = folder.path().join("script");
            std::fs::write(&path, text).unwrap();
            let handle = rustix::fs::open(&path, OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
            assert_eq!(interpreter_of(&handle), expected.map(PathBuf::from), "{text:?}");
        }
    }

    #[test]
    fn a_path_is_walked_as_in_a_tree_without_links() {
        for (path, expected) in [
            ("/bin/true", "/bin/true"),
            ("bin//./true", "/bin/true"),
            ("/usr/bin/../lib/x", "/usr/lib/x"),
            ("/../../x", "/x"),
            ("..", "/"),
        ] {
            assert_eq!(as_the_kernel_walks(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
