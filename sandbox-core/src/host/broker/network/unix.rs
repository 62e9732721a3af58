//! Unix sockets: one that a plugin makes leads to the host, and what it then connects to is the host's own socket.
//!
//! Runs in the host, on a worker. So nothing but bytes passes: whoever is at the other end can send it no descriptor.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use rustix::fs::{FileType, OFlags, fstat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with, socketpair};

use super::super::files::{Lost, find_in_sight, resolved_path};
use super::connections::{Connections, Peer};
use super::sockets::Socket;
use super::{Answer, Call, Request};
use crate::host::protected;
use crate::shared::errno::from_rustix;
use crate::shared::policy::{NetworkScope, Scope};

impl Request<'_> {
    pub(super) fn make_unix_socket(
        &self,
        call: Call<'_>,
        kind: i32,
        protocol: i32,
        flags: i32,
    ) -> Result<Answer, Errno> {
        let kind = match kind {
            libc::SOCK_STREAM => SocketType::STREAM,
            libc::SOCK_SEQPACKET => SocketType::SEQPACKET,
            // Nobody hears of it when one is closed.
            _ => {
                return Ok(self.refuse_call(
                    call,
                    Errno::EPROTONOSUPPORT,
                    "no grant opens Unix sockets for datagrams",
                ));
            }
        };
        if !self.holds_unix() && !self.may_ask() {
            return Ok(self.refuse_call(call, Errno::EACCES, "not granted"));
        }
        if protocol != 0 {
            return Err(Errno::EPROTONOSUPPORT);
        }
        if let Some(refused) = self.cannot_copy_descriptors(call) {
            return Ok(refused);
        }
        let core = self.instance.core.upgrade().ok_or(Errno::ENOBUFS)?;
        let mut connections = self.brokered.network.connections();
        let (theirs, near) =
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map_err(from_rustix)?;
        if flags & libc::SOCK_NONBLOCK != 0 {
            rustix::fs::fcntl_setfl(&theirs, OFlags::NONBLOCK).map_err(from_rustix)?;
        }
        let inode = connections.made(self.instance, &theirs)?;
        connections.goes_by(inode, core.relays.keep(self.instance.id, near)?);
        Ok(self.answer_with(theirs, flags & libc::SOCK_CLOEXEC != 0))
    }

    fn holds_unix(&self) -> bool {
        self.grants().scopes(super::NETWORK).flatten().any(Scope::is_apart)
    }

    pub(super) fn connect_to_unix(
        &self,
        socket: &Socket,
        path: &[u8],
        connections: &mut Connections,
    ) -> Result<Answer, Errno> {
        let asked = Path::new(OsStr::from_bytes(path));
        let object = format!("unix:{}", asked.display());
        let call = Call { action: "connect", object: &object };
        // A pair of the plugin's own, which leads nowhere else.
        let line = connections.line(socket.inode).ok_or(Errno::EISCONN)?;
        let (found, resolved) = match self.find_unix(asked) {
            Ok((found, resolved)) => (Ok(found), resolved),
            // Only who may look there is told why nothing is found.
            Err(Lost { errno, place: Some(place), .. }) => {
                (Err(errno), if asked.starts_with(&place) { asked.to_owned() } else { place })
            }
            Err(Lost { place: None, .. }) => {
                return Ok(self.refuse_call(call, Errno::EACCES, "its path cannot be judged"));
            }
        };
        let Ok(scope) = NetworkScope::unix(&resolved) else {
            return Ok(self.refuse_call(call, Errno::EACCES, "its path cannot be judged"));
        };
        let scopes = vec![Scope::Network(scope)];
        let rule = match self.judge_network(call, &scopes) {
            Ok(rule) => rule,
            Err(refused) => return Ok(refused),
        };
        let found = found?;
        let stat = fstat(&found).map_err(from_rustix)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Ok(self.refuse_call(call, Errno::ECONNREFUSED, "it is no socket"));
        }
        if protected::closes(&resolved, Some(&stat), true) {
            return Ok(self.refuse_call(call, Errno::EACCES, protected::RULE));
        }
        if let Err(refused) = self.room_for(call, connections, socket.inode) {
            return Ok(refused);
        }
        let core = self.instance.core.upgrade().ok_or(Errno::ECONNREFUSED)?;
        self.granted(call, &rule);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let far = socket_with(AddressFamily::UNIX, socket.kind, flags, None).map_err(from_rustix)?;
        let again =
            SocketAddrUnix::new(format!("/proc/self/fd/{}", found.as_raw_fd())).map_err(from_rustix)?;
        // EAGAIN of one whose queue is full: there is nothing that tells when it is not.
        rustix::net::connect(&far, &again).map_err(from_rustix)?;
        core.relays.reach(line, far)?;
        connections.reaches(socket.inode, Peer(scopes));
        Ok(Answer::Value(0))
    }

    /// A handle of what `path` leads to, and where that is.
    fn find_unix(&self, path: &Path) -> Result<(OwnedFd, PathBuf), Lost> {
        let nothing = || Lost::nowhere(Errno::ENOENT);
        if !path.is_absolute() {
            return Err(nothing());
        }
        let found = find_in_sight(self.brokered.trees.read.as_fd(), path, &self.grants())?;
        let resolved = resolved_path(&found).ok_or_else(nothing)?;
        Ok((found, resolved))
    }
}
