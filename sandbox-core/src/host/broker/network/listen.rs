//! bind(2), listen(2), accept(2): where a plugin may be reached.
//!
//! Runs in the host, on a worker.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use rustix::event::PollFlags;
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketFlags, SocketType, acceptfrom_with, socket_with};

use super::address::{self, Address};
use super::connections::Connections;
use super::sockets::Socket;
use super::{Answer, Call, NETWORK, Request, memory, relay};
use crate::host::broker::parked::Wait;
use crate::shared::errno::from_rustix;
use crate::shared::policy::{Grade, NetworkScope, Scope};

fn listening(at: SocketAddr) -> Scope {
    Scope::Network(NetworkScope::listen(at))
}

impl Request<'_> {
    pub(super) fn bind(&self) -> Result<Answer, Errno> {
        let socket = self.socket()?;
        let at = match self.address(self.arg(1), self.arg(2))? {
            Address::Internet(at) if socket.is_internet() => at,
            Address::Unix(_) | Address::UnixWithoutPath => {
                let call = Call { action: "bind", object: "a Unix socket" };
                return Ok(self.refuse_call(
                    call,
                    Errno::EACCES,
                    "no grant makes Unix sockets that others can find",
                ));
            }
            _ => return Err(Errno::EAFNOSUPPORT),
        };
        // What the kernel does by itself for a datagram socket that sends: it says nothing of where to.
        let as_the_kernel_would = at.ip().is_unspecified() && at.port() == 0 && !socket.is_stream();
        if as_the_kernel_would && self.holds_network(NetworkScope::is_connect) {
            rustix::net::bind(&socket.fd, &at).map_err(from_rustix)?;
            return Ok(Answer::Value(0));
        }
        let mut connections = self.brokered.network.connections();
        let (object, scope) = (at.to_string(), listening(at));
        let call = Call { action: "bind", object: &object };
        match self.judge_network(call, std::slice::from_ref(&scope)) {
            Ok(rule) => {
                self.granted(call, &rule);
                rustix::net::bind(&socket.fd, &at).map_err(from_rustix)?;
                socket.hear_others()?;
                connections.bound(socket.inode, scope);
                Ok(Answer::Value(0))
            }
            Err(refused) => Ok(refused),
        }
    }

    /// Where the socket listens, as it was asked for, if that is granted; the refusal if not.
    fn judge_listening(
        &self,
        action: &'static str,
        socket: &Socket,
        connections: &Connections,
    ) -> Result<Scope, Answer> {
        let at = match connections.bound_at(socket.inode) {
            Some(scope) => scope.clone(),
            // Never bound: the kernel is to choose.
            None => listening(socket.local()?),
        };
        let object = at.to_string();
        let call = Call { action, object: &object };
        let rule = self.judge_network(call, std::slice::from_ref(&at))?;
        self.granted(call, &rule);
        Ok(at)
    }

    pub(super) fn listen(&self) -> Result<Answer, Errno> {
        let socket = self.socket()?;
        if !socket.is_internet() {
            let call = Call { action: "listen", object: "a Unix socket" };
            return Ok(self.refuse_call(
                call,
                Errno::EACCES,
                "no grant makes Unix sockets that others can find",
            ));
        }
        let mut connections = self.brokered.network.connections();
        Ok(match self.judge_listening("listen", &socket, &connections) {
            Ok(at) => {
                rustix::net::listen(&socket.fd, self.int(1).cast_signed()).map_err(from_rustix)?;
                connections.bound(socket.inode, at);
                Answer::Value(0)
            }
            Err(refused) => refused,
        })
    }

    pub(super) fn accept(&self, flags: u32) -> Result<Answer, Errno> {
        let flags = flags.cast_signed();
        if flags & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) != 0 {
            return Err(Errno::EINVAL);
        }
        let socket = self.socket()?;
        if !socket.is_internet() || !socket.is_stream() {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut connections = self.brokered.network.connections();
        let at = match self.judge_listening("accept", &socket, &connections) {
            Ok(at) => at,
            Err(refused) => return Ok(refused),
        };
        let call = Call { action: "accept", object: &at.to_string() };
        // Nobody else takes from its queue while `connections` is held.
        if socket.is_listening()? && !socket.is_ready(PollFlags::IN) {
            if socket.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            let after = socket.timeout(Timeout::Recv);
            return Ok(Answer::Later(Wait {
                socket: socket.fd,
                events: EventFlags::IN,
                after,
                late: Errno::EAGAIN,
            }));
        }
        // An inode that no socket has: the one to come.
        if let Err(refused) = self.room_for(call, &mut connections, 0) {
            return Ok(refused);
        }
        let mut own = SocketFlags::CLOEXEC;
        own.set(SocketFlags::NONBLOCK, flags & libc::SOCK_NONBLOCK != 0);
        let (accepted, peer) = acceptfrom_with(&socket.fd, own).map_err(from_rustix)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        if let Some(peer) = peer {
            self.write_address(peer)?;
        }
        let relayed = self.grants().grade(NETWORK, &at) == Some(Grade::Relay);
        let (accepted, line) = if relayed { self.relay_from(accepted, own)? } else { (accepted, None) };
        let inode = connections.made(self.instance, &accepted)?;
        connections.accepted(inode, at, line);
        // Before anybody looks which sockets are open.
        Ok(self.answer_with(accepted, flags & libc::SOCK_CLOEXEC != 0))
    }

    /// Keeps what was accepted, and makes another socket for the plugin, which leads to the host.
    fn relay_from(&self, far: OwnedFd, flags: SocketFlags) -> Result<(OwnedFd, Option<u64>), Errno> {
        let core = self.instance.core.upgrade().ok_or(Errno::ECONNABORTED)?;
        let own = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).map_err(from_rustix)?;
        let own = Socket::new(own)?;
        let near = relay::lead_here(&own)?;
        let line = core.relays.pump(self.instance.id, near, far)?;
        Ok((own.fd, Some(line)))
    }

    /// Writes an address where arguments 1 and 2 say, and how long it is.
    fn write_address(&self, address: SocketAddr) -> Result<(), Errno> {
        if self.arg(1) == 0 {
            return Ok(());
        }
        let room = memory::read_bytes(&*self.memory()?, self.arg(2), 4)?;
        let room = room.try_into().map(u32::from_ne_bytes).map_err(|_| Errno::EFAULT)?;
        if room > i32::MAX.cast_unsigned() {
            return Err(Errno::EINVAL);
        }
        let mut bytes = address::write(address);
        let whole = u32::try_from(bytes.len()).unwrap_or_default();
        bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        self.put(self.arg(1), &bytes)?;
        self.put(self.arg(2), &whole.to_ne_bytes())
    }
}
