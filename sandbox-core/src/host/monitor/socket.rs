//! The file of a monitor's socket: where it may be, whose it is, and that it goes again.
//!
//! Runs in the host, on the thread that opens and drops the monitor. Never takes the place of a host that lives, nor of a file
//! that is no socket of the same user's.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 16;

/// How long another host may take to open or remove its socket in the same folder.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A socket that listens, and its name, which goes with it.
#[derive(Debug)]
pub(super) struct SocketFile {
    folder: OwnedFd,
    name: OsString,
    pub(super) path: PathBuf,
    /// Device and inode: another's socket may stand there by the time that this one goes.
    identity: (u64, u64),
}

impl SocketFile {
    /// Makes the socket, of mode 600, in the place of one that nobody listens at any more.
    pub(super) fn listen(path: &Path) -> io::Result<(Self, UnixListener)> {
        let absolute = std::path::absolute(path)?;
        let name = absolute.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        let parent = absolute.parent().unwrap_or(Path::new("/")).canonicalize()?;
        // Held, so that whoever moves the folder's own path does not move the socket.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&parent, flags, Mode::empty())?;
        check_folder(&rustix::fs::fstat(&folder)?, &parent)?;
        // Two hosts that find the same dead socket would each remove the other's new one.
        let _lock = Lock::take(&folder)?;

        let through = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(&name);
        let address = SocketAddrUnix::new(&through)?;
        remove_dead(&folder, &name, &address)?;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &address)?;
        // Before it listens: until then nobody can connect, whatever the umask has let the mode be.
        let ready = rustix::fs::chmodat(&folder, &name, Mode::RUSR | Mode::WUSR, AtFlags::empty())
            .and_then(|()| rustix::net::listen(&socket, BACKLOG))
            .and_then(|()| rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW));
        match ready {
            Ok(stat) => {
                let identity = (stat.st_dev, stat.st_ino);
                Ok((Self { path: parent.join(&name), folder, name, identity }, UnixListener::from(socket)))
            }
            Err(errno) => {
                let _ = rustix::fs::unlinkat(&folder, &name, AtFlags::empty());
                Err(errno.into())
            }
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _lock = Lock::take(&self.folder);
        let stat = rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.identity) {
            let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
    }
}

/// Whoever may write to the folder could put a socket of theirs in this one's place.
fn check_folder(stat: &Stat, folder: &Path) -> io::Result<()> {
    let own = [rustix::process::geteuid().as_raw(), 0].contains(&stat.st_uid);
    if own && stat.st_mode & 0o022 == 0 {
        return Ok(());
    }
    let folder = folder.display();
    Err(io::Error::other(format!(
        "others may write to {folder}: a monitor wants a folder that only its user may write to, such as one of mode 700, \
         or $XDG_RUNTIME_DIR"
    )))
}

/// Removes a socket that a host has left behind which was killed.
fn remove_dead(folder: &OwnedFd, name: &OsString, address: &SocketAddrUnix) -> io::Result<()> {
    let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    if !is_socket || stat.st_uid != rustix::process::geteuid().as_raw() {
        let what = if is_socket { "another user's socket" } else { "something that is no socket" };
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{what} is there, and is left alone"),
        ));
    }
    // Not to wait where a host that lives has all the connections that it takes.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&probe, address) {
        Err(Errno::CONNREFUSED) => Ok(rustix::fs::unlinkat(folder, name, AtFlags::empty())?),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another monitor is served there")),
    }
}

/// The turn to make or remove a socket in a folder.
struct Lock(OwnedFd);

impl Lock {
    fn take(folder: &OwnedFd) -> io::Result<Self> {
        // The copy is the same open folder, and has the same lock.
        let folder = folder.try_clone()?;
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) if began.elapsed() < LOCK_TIMEOUT => std::thread::sleep(LOOK_AGAIN),
                Err(Errno::WOULDBLOCK) => {
                    return Err(io::Error::other("another program holds a lock on the folder"));
                }
                locked => return Ok(locked.map(|()| Self(folder))?),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("monitor");
        (folder, path)
    }

    fn refusal(path: &Path) -> String {
        SocketFile::listen(path).expect_err("it must not be made").to_string()
    }

    #[test]
    fn a_socket_is_its_users_alone_and_goes_with_its_owner() {
        let (_folder, path) = folder();
        let (file, listener) = SocketFile::listen(&path).unwrap();
        let about = fs::symlink_metadata(&path).unwrap();
        assert!(about.file_type().is_socket());
        assert_eq!(about.permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop((file, listener));
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let (_folder, path) = folder();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "closed, and left behind");
        let (file, listener) = SocketFile::listen(&path).unwrap();
        assert!(refusal(&path).contains("another monitor is served there"));
        UnixStream::connect(&path).expect("which goes on");
        drop((file, listener));
    }

    #[test]
    fn what_is_no_socket_of_the_users_stays_as_it_is() {
        let (folder, path) = folder();
        fs::write(&path, "notes").unwrap();
        assert!(refusal(&path).contains("no socket"));
        assert_eq!(fs::read(&path).unwrap(), b"notes");
        let link = folder.path().join("link");
        drop(UnixListener::bind(folder.path().join("dead")).unwrap());
        std::os::unix::fs::symlink("dead", &link).unwrap();
        assert!(refusal(&link).contains("no socket"), "not what a link leads to either");
        assert!(folder.path().join("dead").exists());
    }

    #[test]
    fn a_folder_that_others_may_write_to_holds_no_monitor() {
        for mode in [0o777, 0o1777, 0o770, 0o702] {
            let (folder, path) = folder();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert!(refusal(&path).contains("others may write"), "{mode:o}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_stands_in_its_place_by_then_is_not_removed() {
        let (_folder, path) = folder();
        let (file, listener) = SocketFile::listen(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop((file, listener));
        assert_eq!(fs::read(&path).unwrap(), b"another's");
    }
}
