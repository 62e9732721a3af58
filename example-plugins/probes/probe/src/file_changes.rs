//! Attempts at changing files and at moving among folders: by the standard library, and by the C library's own calls.
//!
//! A tour makes every kind of call once, in a folder that holds a file `a`, a folder `d` with a file `inner`, and a link `l`
//! to `a`; it answers a line for each. What it answers is the same wherever it may do all that.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::{Attempt, check, text};

const AT: Duration = Duration::from_secs(1_000_000_000);

/// A folder's names, sorted, a folder's with a slash.
fn names(folder: &Path) -> io::Result<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let mark = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(format!("{}{mark}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(names.join(" "))
}

fn modified(path: &Path) -> io::Result<u64> {
    let since = fs::metadata(path)?.modified()?.duration_since(UNIX_EPOCH);
    Ok(since.map_err(io::Error::other)?.as_secs())
}

fn mode(path: &Path) -> io::Result<String> {
    Ok(format!("{:o}", fs::symlink_metadata(path)?.mode()))
}

/// One thing by the standard library: `OPERATION`, and paths, a line each.
pub(crate) fn by_std(payload: &[u8]) -> Attempt {
    let mut lines = payload.split(|byte| *byte == b'\n');
    let operation = lines.next().unwrap_or_default();
    let paths: Vec<&Path> = lines.map(|line| Path::new(OsStr::from_bytes(line))).collect();
    let [one, other] = match paths.as_slice() {
        [one] => [*one, Path::new("")],
        [one, other, ..] => [*one, *other],
        [] => [Path::new(""); 2],
    };
    one_by_std(text(operation)?, one, other).map(String::into_bytes)
}

fn one_by_std(operation: &str, one: &Path, other: &Path) -> io::Result<String> {
    let nothing = |()| String::new();
    match operation {
        "read" => fs::read_to_string(one),
        "write" => fs::write(one, "written").map(nothing),
        "append" => {
            let mut file = OpenOptions::new().append(true).open(one)?;
            file.write_all(b" and more").map(nothing)
        }
        "create new" => File::create_new(one)?.write_all(b"new").map(nothing),
        "create new to write" => {
            OpenOptions::new().write(true).create_new(true).open(one).map(|_| String::new())
        }
        "create with every mode" => OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o6777)
            .open(one)
            .map(|_| String::new()),
        "read and write" => {
            let mut file = OpenOptions::new().read(true).write(true).open(one)?;
            file.write_all_at(b"C", 0)?;
            let mut contents = String::new();
            file.seek(SeekFrom::Start(0))?;
            file.read_to_string(&mut contents).map(|_| contents)
        }
        "read what is written only" => {
            let mut file = OpenOptions::new().write(true).open(one)?;
            let mut contents = String::new();
            file.read_to_string(&mut contents).map(|_| contents)
        }
        "set length" => OpenOptions::new().write(true).open(one)?.set_len(3).map(nothing),
        "sync" => OpenOptions::new().write(true).open(one)?.sync_all().map(nothing),
        "copy" => fs::copy(one, other).map(|bytes| bytes.to_string()),
        "make folder" => fs::create_dir(one).map(nothing),
        "make folders" => fs::create_dir_all(one).map(nothing),
        "names" => names(one),
        "stat" => {
            fs::metadata(one).map(|of| if of.is_dir() { "folder".into() } else { of.len().to_string() })
        }
        "lstat" => fs::symlink_metadata(one).map(|of| format!("{:?}", of.file_type().is_symlink())),
        "exists" => one.try_exists().map(|there| there.to_string()),
        "rename" => fs::rename(one, other).map(nothing),
        "link" => fs::hard_link(one, other).map(nothing),
        "symlink" => std::os::unix::fs::symlink(one, other).map(nothing),
        "readlink" => fs::read_link(one).map(|target| target.to_string_lossy().into_owned()),
        "unlink" => fs::remove_file(one).map(nothing),
        "remove folder" => fs::remove_dir(one).map(nothing),
        "remove all" => fs::remove_dir_all(one).map(nothing),
        "chmod" => fs::set_permissions(one, PermissionsExt::from_mode(0o600)).and_then(|()| mode(one)),
        "chmod all" => fs::set_permissions(one, PermissionsExt::from_mode(0o7777)).and_then(|()| mode(one)),
        "chmod held" => {
            let file = OpenOptions::new().write(true).open(one)?;
            file.set_permissions(PermissionsExt::from_mode(0o640)).and_then(|()| mode(one))
        }
        "set times" => {
            let file = OpenOptions::new().write(true).open(one)?;
            file.set_times(FileTimes::new().set_modified(UNIX_EPOCH + AT))?;
            modified(one).map(|at| at.to_string())
        }
        "chown" => {
            let of = fs::symlink_metadata(one)?;
            std::os::unix::fs::chown(one, Some(of.uid()), Some(of.gid())).map(nothing)
        }
        "give away" => std::os::unix::fs::chown(one, Some(54321), None).map(nothing),
        "canonicalize" => fs::canonicalize(one).map(|path| path.to_string_lossy().into_owned()),
        "go" => {
            std::env::set_current_dir(one)?;
            let here = std::env::current_dir()?;
            let got = fs::read_to_string(other);
            std::env::set_current_dir("/")?;
            Ok(format!("{} {}", here.display(), got?))
        }
        "map" => map_shared(one),
        "map as code" => map_as_code(one),
        _ => Err(io::Error::other("no such operation")),
    }
}

/// A file of the plugin's own making, written through shared memory.
fn map_shared(path: &Path) -> io::Result<String> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.set_len(4096)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at a place of the kernel's choice, of a descriptor that is open.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the page was mapped just now, with the right to write, and nothing else uses it.
    unsafe { at.cast::<[u8; 4]>().write(*b"mine") };
    let mut contents = [0; 4];
    file.read_exact_at(&mut contents, 0)?;
    Ok(String::from_utf8_lossy(&contents).into_owned())
}

/// A file of the plugin's own making, mapped as code.
fn map_as_code(path: &Path) -> io::Result<String> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o777).open(path)?;
    file.set_len(4096)?;
    let protection = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: a new mapping at a place of the kernel's choice, of a descriptor that is open.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(String::new()) }
}

fn line(lines: &mut String, what: &str, outcome: io::Result<String>) {
    let outcome = match outcome {
        Ok(got) => format!("ok {got}"),
        Err(error) => match error.raw_os_error() {
            Some(errno) => format!("errno {errno}"),
            None => format!("error {error}"),
        },
    };
    lines.push_str(&format!("{what}: {outcome}\n"));
}

/// Every kind of call by the standard library.
pub(crate) fn tour_by_std(payload: &[u8]) -> Attempt {
    let folder = Path::new(OsStr::from_bytes(payload));
    let at = |name: &str| if name.is_empty() { PathBuf::new() } else { folder.join(name) };
    let mut lines = String::new();
    for (operation, one, other) in [
        ("read", "a", ""),
        ("write", "new", ""),
        ("append", "new", ""),
        ("read", "new", ""),
        ("create new", "new", ""),
        ("create new", "newer", ""),
        ("read and write", "a", ""),
        ("read what is written only", "a", ""),
        ("set length", "newer", ""),
        ("sync", "newer", ""),
        ("copy", "a", "copy"),
        ("read", "copy", ""),
        ("make folder", "e", ""),
        ("make folder", "e", ""),
        ("make folder", "none/e", ""),
        ("make folders", "e/f/g", ""),
        ("make folders", "e/f/g", ""),
        ("names", ".", ""),
        ("names", "e", ""),
        ("names", "a", ""),
        ("names", "none", ""),
        ("stat", "a", ""),
        ("stat", "d", ""),
        ("stat", "none", ""),
        ("stat", "a/none", ""),
        ("lstat", "l", ""),
        ("exists", "a", ""),
        ("exists", "none", ""),
        ("rename", "new", "e/new"),
        ("rename", "none", "e/none"),
        ("rename", "e/f", "f"),
        ("rename", "f", "e/f"),
        ("rename", "e", "e/f/e"),
        ("rename", "a", "d"),
        ("link", "a", "hard"),
        ("link", "a", "hard"),
        ("link", "d", "hard2"),
        ("read", "hard", ""),
        ("symlink", "a", "soft"),
        ("read", "soft", ""),
        ("read", "l", ""),
        ("readlink", "l", ""),
        ("readlink", "a", ""),
        ("unlink", "hard", ""),
        ("unlink", "none", ""),
        ("unlink", "d", ""),
        ("remove folder", "e", ""),
        ("remove folder", "a", ""),
        ("remove folder", "e/f/g", ""),
        ("remove all", "e", ""),
        ("remove all", "none", ""),
        ("chmod", "a", ""),
        ("chmod held", "a", ""),
        ("set times", "a", ""),
        ("chown", "a", ""),
        ("map", "mapped", ""),
        ("go", "d", "inner"),
        ("go", "none", "inner"),
        ("go", "a", "inner"),
        ("names", ".", ""),
    ] {
        // A path that is relative, for what is done from another folder.
        let (one_path, other_path) = (at(one), if operation == "go" { other.into() } else { at(other) });
        let mut outcome = one_by_std(operation, &one_path, &other_path);
        if let Ok(got) = &mut outcome {
            *got = got.replace(&*folder.to_string_lossy(), "FOLDER");
        }
        line(&mut lines, &format!("{operation} {one} {other}"), outcome);
    }
    Ok(lines.into_bytes())
}

fn c(path: impl AsRef<OsStr>) -> CString {
    CString::new(path.as_ref().as_bytes()).unwrap_or_default()
}

fn open_folder(path: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a terminated string that lives until the call returns.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags) })?;
    // SAFETY: opened just now, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}

fn read_at(folder: RawFd, name: &CStr, flags: libc::c_int) -> io::Result<String> {
    // SAFETY: a terminated string that lives until the call returns.
    let fd = check(unsafe { libc::openat(folder, name.as_ptr(), flags | libc::O_CLOEXEC, 0o666) })?;
    // SAFETY: opened just now, and nothing else knows of it.
    let mut file = unsafe { File::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) };
    let mut contents = String::new();
    file.read_to_string(&mut contents).map(|_| contents)
}

fn stat_at(folder: RawFd, name: &CStr, flags: libc::c_int) -> io::Result<String> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: a terminated string, and room for what is written.
    check(unsafe { libc::fstatat(folder, name.as_ptr(), stat.as_mut_ptr(), flags) })?;
    // SAFETY: the call went well, so it was written.
    let stat = unsafe { stat.assume_init() };
    let folder = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
    Ok(if folder { "folder".to_owned() } else { format!("{:o} {}", stat.st_mode, stat.st_size) })
}

fn readlink_at(folder: RawFd, name: &CStr) -> io::Result<String> {
    let mut target = [0_u8; 256];
    // SAFETY: a terminated string, and as many bytes of room as are told.
    let got = unsafe { libc::readlinkat(folder, name.as_ptr(), target.as_mut_ptr().cast(), target.len()) };
    let got = usize::try_from(check(got as i64)?).unwrap_or(0);
    Ok(String::from_utf8_lossy(&target[..got]).into_owned())
}

/// What a call of the C library's came to that is given integers, and strings and structures that outlive it.
macro_rules! call {
    ($function:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: as the macro says of its arguments, which are all that the call reads.
        check(unsafe { libc::$function($($argument),*) }).map(|_| String::new())
    };
}

/// Every kind of call by the C library, from a descriptor of the folder.
pub(crate) fn tour_by_c(payload: &[u8]) -> Attempt {
    let folder = open_folder(&c(OsStr::from_bytes(payload)))?;
    let fd = folder.as_raw_fd();
    let mut lines = String::new();
    let mut say = |what: &str, outcome| line(&mut lines, what, outcome);
    let (a, d, e, inner, none, link) = (c"a", c"d", c"e", c"d/inner", c"none", c"l");
    say("openat", read_at(fd, a, libc::O_RDONLY));
    say("openat, deeper", read_at(fd, inner, libc::O_RDONLY));
    say("openat, deeper and back", read_at(fd, c"d/../a", libc::O_RDONLY));
    say("openat, nothing", read_at(fd, none, libc::O_RDONLY));
    say("openat, a link", read_at(fd, link, libc::O_RDONLY));
    say("openat, a link itself", read_at(fd, link, libc::O_RDONLY | libc::O_NOFOLLOW));
    say("openat, a file as a folder", read_at(fd, a, libc::O_RDONLY | libc::O_DIRECTORY));
    say("openat, a folder to write", read_at(fd, d, libc::O_WRONLY));
    say("openat, new", read_at(fd, c"new", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL));
    say("openat, new again", read_at(fd, c"new", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL));
    say("openat, new or not", read_at(fd, c"new", libc::O_RDWR | libc::O_CREAT));
    say("openat, cut", read_at(fd, c"new", libc::O_RDWR | libc::O_TRUNC));
    say("openat, new with a slash", read_at(fd, c"newer/", libc::O_RDWR | libc::O_CREAT));
    say("fstatat", stat_at(fd, a, 0));
    say("fstatat, a folder", stat_at(fd, d, 0));
    say("fstatat, a link", stat_at(fd, link, 0));
    say("fstatat, a link itself", stat_at(fd, link, libc::AT_SYMLINK_NOFOLLOW));
    say("fstatat, here", stat_at(fd, c".", 0));
    say("readlinkat", readlink_at(fd, link));
    say("readlinkat, a file", readlink_at(fd, a));
    say("faccessat, read", call!(faccessat(fd, a.as_ptr(), libc::R_OK, 0)));
    say("faccessat, write", call!(faccessat(fd, a.as_ptr(), libc::W_OK, 0)));
    say("faccessat, nothing", call!(faccessat(fd, none.as_ptr(), libc::F_OK, 0)));
    say("mkdirat", call!(mkdirat(fd, e.as_ptr(), 0o755)));
    say("mkdirat, again", call!(mkdirat(fd, e.as_ptr(), 0o755)));
    say("mkdirat, with a slash", call!(mkdirat(fd, c"e/f/".as_ptr(), 0o755)));
    say("mkdirat, here", call!(mkdirat(fd, c".".as_ptr(), 0o755)));
    say("renameat", call!(renameat(fd, c"new".as_ptr(), fd, c"e/new".as_ptr())));
    let keep = libc::RENAME_NOREPLACE;
    say("renameat2, kept", call!(renameat2(fd, c"e/new".as_ptr(), fd, a.as_ptr(), keep)));
    let both = libc::RENAME_EXCHANGE;
    say("renameat2, exchanged", call!(renameat2(fd, c"e/f".as_ptr(), fd, a.as_ptr(), both)));
    say("fstatat, exchanged", stat_at(fd, a, 0));
    say("renameat2, back", call!(renameat2(fd, c"e/f".as_ptr(), fd, a.as_ptr(), both)));
    say("linkat", call!(linkat(fd, a.as_ptr(), fd, c"hard".as_ptr(), 0)));
    say("linkat, a link itself", call!(linkat(fd, link.as_ptr(), fd, c"hard2".as_ptr(), 0)));
    say("fstatat, a link itself", stat_at(fd, c"hard2", libc::AT_SYMLINK_NOFOLLOW));
    say("symlinkat", call!(symlinkat(c"d/inner".as_ptr(), fd, c"soft".as_ptr())));
    say("symlinkat, again", call!(symlinkat(c"d/inner".as_ptr(), fd, c"soft".as_ptr())));
    say("openat, a link of its own", read_at(fd, c"soft", libc::O_RDONLY));
    say("fchmodat", call!(fchmodat(fd, a.as_ptr(), 0o600, 0)));
    say("fstatat, its mode", stat_at(fd, a, 0));
    let times = [libc::timespec { tv_sec: 7, tv_nsec: 9 }; 2];
    say("utimensat", call!(utimensat(fd, a.as_ptr(), times.as_ptr(), 0)));
    let nofollow = libc::AT_SYMLINK_NOFOLLOW;
    say("utimensat, a link itself", call!(utimensat(fd, link.as_ptr(), times.as_ptr(), nofollow)));
    let wrong = [libc::timespec { tv_sec: 7, tv_nsec: -9 }; 2];
    say("utimensat, no time", call!(utimensat(fd, a.as_ptr(), wrong.as_ptr(), 0)));
    say("futimens, the folder", call!(futimens(fd, times.as_ptr())));
    say("fchmod, the folder", call!(fchmod(fd, 0o755)));
    say("fsync, the folder", call!(fsync(fd)).or(Ok(String::new())));
    say("fchdir", call!(fchdir(fd)));
    say("open, from there", read_at(libc::AT_FDCWD, inner, libc::O_RDONLY));
    say("truncate", call!(truncate(a.as_ptr(), 2)));
    say("open, what was cut", read_at(libc::AT_FDCWD, a, libc::O_RDONLY));
    say("chdir", call!(chdir(c"d".as_ptr())));
    say("open, from below", read_at(libc::AT_FDCWD, c"inner", libc::O_RDONLY));
    say("chdir, up", call!(chdir(c"..".as_ptr())));
    say("open, from above", read_at(libc::AT_FDCWD, a, libc::O_RDONLY));
    say("legacy", legacy());
    for (what, room) in [("getcwd", 4096), ("getcwd, no room", 2)] {
        let mut buffer = vec![0_u8; room];
        // SAFETY: as many bytes of room as are told.
        let here = unsafe { libc::getcwd(buffer.as_mut_ptr().cast(), room) };
        say(what, if here.is_null() { Err(io::Error::last_os_error()) } else { Ok(String::new()) });
    }
    let mut of = MaybeUninit::<libc::statfs>::zeroed();
    say("statfs", call!(statfs(a.as_ptr(), of.as_mut_ptr())));
    say("unlinkat", call!(unlinkat(fd, c"hard".as_ptr(), 0)));
    say("unlinkat, a folder as a file", call!(unlinkat(fd, e.as_ptr(), 0)));
    say("unlinkat, a full folder", call!(unlinkat(fd, e.as_ptr(), libc::AT_REMOVEDIR)));
    say("unlinkat, here", call!(unlinkat(fd, c".".as_ptr(), libc::AT_REMOVEDIR)));
    say("walk", walk(c"."));
    say("chdir, home", call!(chdir(c"/".as_ptr())));
    Ok(lines.into_bytes())
}

/// The old calls that only some architectures have, of which C libraries still make some.
fn legacy() -> io::Result<String> {
    #[cfg(target_arch = "x86_64")]
    {
        let (a, old, older) = (c"a".as_ptr(), c"old".as_ptr(), c"older".as_ptr());
        let times = [0_i64; 4];
        macro_rules! raw {
            ($nr:ident, $($argument:expr),*) => {
                // SAFETY: terminated strings that outlive the call, times that are read, and integers.
                unsafe { libc::syscall(libc::$nr, $($argument),*) }
            };
        }
        let calls = [
            raw!(SYS_mkdir, old, 0o755),
            raw!(SYS_rmdir, old),
            raw!(SYS_link, a, old),
            raw!(SYS_rename, old, older),
            raw!(SYS_unlink, older),
            raw!(SYS_symlink, a, old),
            raw!(SYS_unlink, old),
            raw!(SYS_chmod, a, 0o644),
            raw!(SYS_lchown, a, -1, -1),
            raw!(SYS_chown, a, -1, -1),
            raw!(SYS_utime, a, times.as_ptr()),
            raw!(SYS_utimes, a, times.as_ptr()),
            raw!(SYS_futimesat, libc::AT_FDCWD, a, times.as_ptr()),
            raw!(SYS_access, a, libc::R_OK),
        ];
        if let Some(at) = calls.iter().position(|rc| *rc != 0) {
            return Err(io::Error::other(format!("call {at}")));
        }
    }
    Ok(String::new())
}

/// A walk as the C library does it: nftw(3), fts(3) and their like open each folder and look at what is in it.
fn walk(folder: &CStr) -> io::Result<String> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn see(
        _: *const libc::c_char,
        _: *const libc::stat,
        _: libc::c_int,
        _: *mut Ftw,
    ) -> libc::c_int {
        SEEN.fetch_add(1, Ordering::Relaxed);
        0
    }
    #[repr(C)]
    struct Ftw {
        base: libc::c_int,
        level: libc::c_int,
    }
    unsafe extern "C" {
        fn nftw(
            path: *const libc::c_char,
            see: extern "C" fn(*const libc::c_char, *const libc::stat, libc::c_int, *mut Ftw) -> libc::c_int,
            most: libc::c_int,
            flags: libc::c_int,
        ) -> libc::c_int;
    }
    SEEN.store(0, Ordering::Relaxed);
    const PHYSICAL: libc::c_int = 1; // FTW_PHYS
    // SAFETY: a terminated string, and a function that touches nothing but a counter.
    check(unsafe { nftw(folder.as_ptr(), see, 4, PHYSICAL) })?;
    Ok(SEEN.load(Ordering::Relaxed).to_string())
}
