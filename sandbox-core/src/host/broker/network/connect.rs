//! connect(2): whom a socket is to reach is read once, judged, and connected to by the host.
//!
//! Runs in the host, on a worker.

use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::Timeout;

use super::address::Address;
use super::connections::{Connections, Peer};
use super::names::{self, Conversation};
use super::sockets::{Socket, from_rustix};
use super::{Answer, Call, Request, relay};
use crate::host::broker::parked::Wait;

/// How long a connection may take to be made: the kernel itself gives up a little earlier.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(130);

impl Request<'_> {
    pub(super) fn connect(&self) -> Result<Answer, Errno> {
        let socket = self.socket()?;
        let address = self.address(self.arg(1), self.arg(2))?;
        let mut connections = self.brokered.network.connections();
        match address {
            Address::Internet(names::SERVER) if socket.is_internet() => self.connect_to_resolver(&socket),
            Address::Internet(peer) if peer.port() == 0 && socket.is_internet() && !socket.is_stream() => {
                self.point_at(&socket, peer)
            }
            Address::Internet(peer) if socket.is_internet() => {
                self.connect_to(socket, peer, &mut connections)
            }
            Address::Dissolve if socket.is_internet() => {
                rustix::net::connect_unspec(&socket.fd).map_err(from_rustix)?;
                connections.reaches_nobody(socket.inode);
                Ok(Answer::Value(0))
            }
            Address::Unix(path) if names::is_name_cache(&path) => Err(Errno::ENOENT),
            Address::UnixWithoutPath | Address::Unix(_) => {
                let call = Call { action: "connect", object: "a Unix socket" };
                Ok(self.refuse_call(call, Errno::EACCES, "not granted"))
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
        core.relays.converse(Conversation::new(end, socket.is_stream(), self)?)?;
        Ok(Answer::Value(0))
    }

    /// Points a datagram socket at a host and no port, by which C libraries find out from where they would send: nothing is
    /// sent. Who may reach the host at some port may do this; others are refused without a word.
    fn point_at(&self, socket: &Socket, peer: SocketAddr) -> Result<Answer, Errno> {
        let grants = self.grants();
        let granted = super::ports_of(&grants).into_iter().any(|port| {
            let scopes = self.scopes_of(SocketAddr::new(peer.ip(), port.unwrap_or(0)));
            grants.judge_as(super::NETWORK, &scopes).is_granted()
        });
        if !granted {
            return Err(Errno::EACCES);
        }
        socket.connect(peer)?;
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
        let connected = socket.connect(peer);
        match connected {
            Ok(()) | Err(Errno::EINPROGRESS | Errno::EALREADY) => {
                // A datagram socket reaches the last one alone; a stream keeps the one that it was first told to reach.
                if !socket.is_stream() {
                    connections.reaches_nobody(socket.inode);
                }
                connections.reaches(socket.inode, Peer(scopes));
            }
            // Of these the socket stays what it was.
            Err(Errno::EISCONN | Errno::EINVAL | Errno::EAFNOSUPPORT) => {}
            Err(_) => connections.reaches_nobody(socket.inode),
        }
        match connected {
            Err(Errno::EINPROGRESS | Errno::EALREADY) if !socket.is_nonblocking() => {
                let owners = socket.timeout(Timeout::Send);
                // With a timeout of its owner's, the errno is the one that says so: socket(7).
                let late = if owners.is_some() { Errno::EINPROGRESS } else { Errno::ETIMEDOUT };
                let after = Some(owners.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT));
                Ok(Answer::Later(Wait { socket: socket.fd, events: EventFlags::OUT, after, late }))
            }
            connected => connected.map(|()| Answer::Value(0)),
        }
    }
}
