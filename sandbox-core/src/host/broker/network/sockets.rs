//! The sockets themselves: made by the host in its own network, copied back from the plugin for each call on them.
//!
//! Runs in the host, on a worker. Owns that no call on a socket waits, whatever the plugin makes of it meanwhile: a copy is
//! the same socket, with the flags and options that the plugin gives it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fstat};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketType, getsockname};

use crate::shared::errno::from_rustix;
use crate::shared::sys::sockets;

/// The shortest time that a socket can be told to wait: the kernel makes one tick of its clock of it.
const ONE_TICK: Duration = Duration::from_micros(1);

/// A copy of one of the plugin's sockets.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) inode: u64,
    pub(super) family: AddressFamily,
    pub(super) kind: SocketType,
}

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let inode = fstat(&fd).map_err(from_rustix)?.st_ino;
        // ENOTSOCK for anything else.
        let kind = sockopt::socket_type(&fd).map_err(from_rustix)?;
        let family = sockopt::socket_domain(&fd).map_err(from_rustix)?;
        Ok(Self { fd, inode, family, kind })
    }

    pub(super) fn is_internet(&self) -> bool {
        matches!(self.family, AddressFamily::INET | AddressFamily::INET6)
    }

    pub(super) fn is_stream(&self) -> bool {
        self.kind == SocketType::STREAM
    }

    /// Whether its owner does not wait.
    pub(super) fn is_nonblocking(&self) -> bool {
        fcntl_getfl(&self.fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
    }

    /// How long its owner waits, at most.
    pub(super) fn timeout(&self, of: Timeout) -> Option<Duration> {
        sockopt::socket_timeout(&self.fd, of).ok().flatten()
    }

    /// Whether it listens.
    pub(super) fn is_listening(&self) -> Result<bool, Errno> {
        sockopt::socket_acceptconn(&self.fd).map_err(from_rustix)
    }

    /// Where it is bound to.
    pub(super) fn local(&self) -> Result<SocketAddr, Errno> {
        let name = getsockname(&self.fd).map_err(from_rustix)?;
        SocketAddr::try_from(name).map_err(|_| Errno::EINVAL)
    }

    /// What comes for a datagram socket is heard from now on: until somebody has judged it, it is not.
    pub(super) fn hear_others(&self) -> Result<(), Errno> {
        if self.is_internet() && !self.is_stream() { sockets::let_pass(self.fd.as_fd()) } else { Ok(()) }
    }

    /// And no more.
    pub(super) fn hear_nobody(&self) -> Result<(), Errno> {
        if self.is_internet() && !self.is_stream() {
            sockets::drop_everything(self.fd.as_fd())
        } else {
            Ok(())
        }
    }

    /// connect(2) that waits no longer than one tick. EINPROGRESS, or EALREADY of one that is under way, is not the end.
    ///
    /// Whether it waits is not left to `O_NONBLOCK`, which the plugin can take away in between; the timeout it cannot
    /// change while the plugin's connections are locked.
    pub(super) fn connect(&self, to: SocketAddr) -> Result<(), Errno> {
        if !self.is_stream() {
            return rustix::net::connect(&self.fd, &to).map_err(from_rustix);
        }
        let owners = self.timeout(Timeout::Send);
        sockopt::set_socket_timeout(&self.fd, Timeout::Send, Some(ONE_TICK)).map_err(from_rustix)?;
        let connected = rustix::net::connect(&self.fd, &to).map_err(from_rustix);
        sockopt::set_socket_timeout(&self.fd, Timeout::Send, owners).map_err(from_rustix)?;
        connected
    }

    /// Whether one of these is so, at this moment.
    pub(super) fn is_ready(&self, flags: PollFlags) -> bool {
        is_ready(self.fd.as_fd(), flags)
    }
}

fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut fds = [PollFd::new(&fd, flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Waits for one of these, for as long as the loopback address may need: a few milliseconds.
pub(super) fn wait_briefly(fd: BorrowedFd<'_>, flags: PollFlags) {
    let mut fds = [PollFd::new(&fd, flags)];
    let briefly = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
    let _ = poll(&mut fds, Some(&briefly));
}
