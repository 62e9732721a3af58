//! connect(2): whom a socket is to reach is read once, judged, and connected to by the host.
//!
//! Runs in the host, on a worker.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketFlags, socket_with};

use super::address::Address;
use super::connections::{Connections, Peer};
use super::names::{self, Conversation};
use super::sockets::Socket;
use super::{Answer, Call, NETWORK, Request, relay};
use crate::host::broker::parked::Wait;
use crate::shared::errno::from_rustix;
use crate::shared::policy::Grade;

/// How long a connection may take to be made: the kernel itself gives up a little earlier.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(130);

/// Waits until a connection is made or not, for as long as its owner said.
fn wait_for(socket: OwnedFd, owners: Option<Duration>) -> Wait {
    // With a timeout of its owner's, the errno is the one that says so: socket(7).
    let late = if owners.is_some() { Errno::EINPROGRESS } else { Errno::ETIMEDOUT };
    let after = Some(owners.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT));
    Wait { socket, events: EventFlags::OUT, after, late }
}

impl Request<'_> {
    pub(super) fn connect(&self) -> Result<Answer, Errno> {
        let socket = self.socket()?;
        let address = self.address(self.arg(1), self.arg(2))?.into_peer();
        let mut connections = self.brokered.network.connections();
        match address {
            Address::Internet(names::SERVER) if socket.is_internet() => self.connect_to_resolver(&socket),
            Address::Internet(peer) if peer.port() == 0 && socket.is_internet() && !socket.is_stream() => {
                self.point_at(&socket, peer, &mut connections)
            }
            Address::Internet(peer) if socket.is_internet() => {
                self.connect_to(socket, peer, &mut connections)
            }
            Address::Dissolve if socket.is_internet() => {
                rustix::net::connect_unspec(&socket.fd).map_err(from_rustix)?;
                connections.reaches_nobody(socket.inode);
                if connections.bound_at(socket.inode).is_none() {
                    socket.hear_nobody()?;
                }
                Ok(Answer::Value(0))
            }
            Address::Unix(path) if names::is_name_cache(&path) => Err(Errno::ENOENT),
            Address::Unix(path) if socket.family == AddressFamily::UNIX => {
                self.connect_to_unix(&socket, &path, &mut connections)
            }
            Address::UnixWithoutPath if socket.family == AddressFamily::UNIX => {
                let call = Call { action: "connect", object: "a Unix socket without a path" };
                Ok(self.refuse_call(call, Errno::EACCES, "no grant reaches Unix sockets without a path"))
            }
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }

    /// The address that a plugin takes for its name server's is the host's own.
    fn connect_to_resolver(&self, socket: &Socket) -> Result<Answer, Errno> {
        if !self.may_look_up() {
            let call = Call { action: "connect", object: "the name server" };
            return Ok(self.refuse_call(call, Errno::EACCES, "not granted"));
        }
        let core = self.instance.core.upgrade().ok_or(Errno::ECONNREFUSED)?;
        let end = relay::lead_here(socket)?;
        socket.hear_others()?;
        core.relays.converse(Conversation::new(end, socket.is_stream(), self)?)?;
        Ok(Answer::Value(0))
    }

    /// Points a datagram socket at a host and no port, by which C libraries find out from where they would send. Who may reach
    /// the host at some port may do this, and is connected to that port, since something could be sent; others are refused
    /// without a word.
    fn point_at(
        &self,
        socket: &Socket,
        mut peer: SocketAddr,
        connections: &mut Connections,
    ) -> Result<Answer, Errno> {
        let grants = self.grants();
        let granted = super::ports_of(&grants).into_iter().find_map(|port| {
            let port = port.unwrap_or(0);
            let scopes = self.scopes_of(SocketAddr::new(peer.ip(), port));
            grants.judge_as(NETWORK, &scopes).is_granted().then_some((port, scopes))
        });
        let (port, scopes) = granted.ok_or(Errno::EACCES)?;
        let limit = self.instance.subject.limits().max_network_connections;
        if !connections.have_room(self.instance, socket.inode, limit) {
            return Err(Errno::EMFILE);
        }
        peer.set_port(port);
        socket.connect(peer)?;
        socket.hear_others()?;
        connections.reaches_nobody(socket.inode);
        connections.reaches(socket.inode, Peer(scopes));
        Ok(Answer::Value(0))
    }

    fn connect_to(
        &self,
        socket: Socket,
        peer: SocketAddr,
        connections: &mut Connections,
    ) -> Result<Answer, Errno> {
        let object = peer.to_string();
        let call = Call { action: "connect", object: &object };
        let scopes = self.scopes_of(peer);
        let rule = match self.judge_network(call, &scopes) {
            Ok(rule) => rule,
            Err(refused) => return Ok(refused),
        };
        if let Err(refused) = self.room_for(call, connections, socket.inode) {
            return Ok(refused);
        }
        self.granted(call, &rule);
        if socket.is_stream() && self.grants().grade_as(NETWORK, &scopes) == Some(Grade::Relay) {
            return self.relay_to(socket, peer, Peer(scopes), connections);
        }
        let connected = socket.connect(peer);
        match connected {
            Ok(()) | Err(Errno::EINPROGRESS | Errno::EALREADY) => {
                // A datagram socket reaches the last one alone; a stream keeps the one that it was first told to reach.
                if !socket.is_stream() {
                    connections.reaches_nobody(socket.inode);
                }
                connections.reaches(socket.inode, Peer(scopes));
                socket.hear_others()?;
            }
            // Of these the socket stays what it was; a datagram socket does so of any.
            Err(Errno::EISCONN | Errno::EINVAL | Errno::EAFNOSUPPORT) => {}
            Err(_) if !socket.is_stream() => {}
            Err(_) => connections.reaches_nobody(socket.inode),
        }
        match connected {
            Err(Errno::EINPROGRESS | Errno::EALREADY) if !socket.is_nonblocking() => {
                let owners = socket.timeout(Timeout::Send);
                Ok(Answer::Later(wait_for(socket.fd, owners)))
            }
            connected => connected.map(|()| Answer::Value(0)),
        }
    }

    /// Connects a socket of the host's own, and the plugin's to the host. Who does not wait is connected at once, and told
    /// of a failure by the end of what it reads.
    fn relay_to(
        &self,
        socket: Socket,
        peer: SocketAddr,
        scopes: Peer,
        connections: &mut Connections,
    ) -> Result<Answer, Errno> {
        let core = self.instance.core.upgrade().ok_or(Errno::ECONNREFUSED)?;
        if connections.line(socket.inode).is_some() {
            return Err(Errno::EISCONN);
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let far = match connections.take_far(socket.inode) {
            Some(far) => far,
            None => socket_with(socket.family, socket.kind, flags, None).map_err(from_rustix)?,
        };
        match rustix::net::connect(&far, &peer).map_err(from_rustix) {
            Ok(()) | Err(Errno::EISCONN) => {}
            Err(Errno::EINPROGRESS | Errno::EALREADY) if !socket.is_nonblocking() => {
                let waits = far.try_clone().map_err(|_| Errno::EMFILE)?;
                connections.keep_far(socket.inode, far);
                connections.reaches(socket.inode, scopes);
                return Ok(Answer::Later(wait_for(waits, socket.timeout(Timeout::Send))));
            }
            Err(Errno::EINPROGRESS | Errno::EALREADY) => {}
            Err(errno) => {
                connections.reaches_nobody(socket.inode);
                return Err(errno);
            }
        }
        let near = relay::lead_here(&socket)?;
        connections.goes_by(socket.inode, core.relays.pump(self.instance.id, near, far)?);
        connections.reaches(socket.inode, scopes);
        Ok(Answer::Value(0))
    }
}
