//! What a plugin's sockets are about: whom they reach, where they listen; counted, and shut when a permission goes.
//!
//! Runs in the host: on a worker, and on the thread that revokes. Knows sockets by their inode numbers. The host keeps no
//! duplicate of any, since the peer would never see the plugin close it. An epoll holds none either, and the kernel drops
//! what nobody has open any more from it: what is in it is open, wherever the plugin has put it meanwhile.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::fstat;
use rustix::net::sockopt::socket_type;
use rustix::net::{RecvFlags, Shutdown, SocketType, recv, shutdown};

use crate::host::events::EventKind;
use crate::host::instance::Instance;
use crate::host::stop::{self, NotStopped};
use crate::shared::errno::from_rustix;
use crate::shared::policy::{Grants, PluginPermission, Scope};
use crate::shared::sys::sockets;

/// How many peers of one socket are remembered one by one: those of a UDP socket that sends to many.
const MOST_PEERS: usize = 32;

/// How many sockets may be remembered before it is looked which are still open.
const LOOK_AT: usize = 64;

/// How much of what lies unread in a socket is read at once when it is shut, and how often: more than a socket may hold.
const DRAIN_BYTES: usize = 16 << 10;
const MOST_DRAINS: usize = 4096;

/// The sockets of one plugin's.
#[derive(Debug)]
pub(super) struct Connections {
    /// All that it was given and may still have open.
    sockets: HashMap<u64, Socket>,
    /// At this many it is looked which are still open.
    look_at: usize,
    /// Has each of them in it for as long as it is open, under its inode number.
    open: Option<OwnedFd>,
    /// The most connections that there were at once.
    most: Arc<AtomicU64>,
}

/// One socket: whom it reaches, if anybody, and where it can be reached.
#[derive(Debug, Default)]
struct Socket {
    /// Where it was bound to, as it was asked for.
    bound: Option<Scope>,
    /// Whether it was accepted from one that listens.
    accepted: bool,
    peers: Vec<Peer>,
    /// Whether it has had more peers than are remembered.
    crowded: bool,
    /// The host's own socket, which is being connected, of one that is to go by the host.
    far: Option<OwnedFd>,
    /// Under which number it goes by the host.
    line: Option<u64>,
}

/// A socket that is to be shut.
#[derive(Debug)]
pub(super) struct LostSocket {
    /// What it is about, in words.
    pub(super) about: String,
    /// Under which number it goes by the host, if it does.
    pub(super) line: Option<u64>,
}

/// Somebody whom a socket reaches, as it was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer(pub(super) Vec<Scope>);

impl Default for Connections {
    fn default() -> Self {
        Self { sockets: HashMap::new(), look_at: LOOK_AT, open: None, most: Arc::default() }
    }
}

impl Socket {
    fn counts(&self) -> bool {
        self.accepted || !self.peers.is_empty()
    }

    /// What it is about, as `revoked` concerns it and `grants` do not open it any more.
    fn lost(&self, revoked: &PluginPermission, grants: &Grants) -> Option<String> {
        let name = revoked.name();
        let concerned =
            |scopes: &[Scope]| scopes.iter().any(|scope| revoked.takes_along(&revoked.at(scope.clone())));
        let lost = |scopes: &[Scope]| concerned(scopes) && !grants.judge_as(name, scopes).is_granted();
        let bound = self.bound.iter().map(std::slice::from_ref);
        let about = bound.chain(self.peers.iter().map(|peer| peer.0.as_slice()));
        let found = about.into_iter().find(|scopes| lost(scopes));
        let found = found.map(|scopes| scopes.iter().map(Scope::to_string).collect::<Vec<_>>().join(", "));
        found.or_else(|| self.crowded.then(|| "more peers than are remembered".to_owned()))
    }
}

impl Connections {
    /// The plugin is about to be given this socket. Returns its inode number.
    pub(super) fn made(&mut self, instance: &Instance, socket: &OwnedFd) -> Result<u64, Errno> {
        if self.sockets.len() >= self.look_at {
            self.forget_closed(instance);
            self.look_at = LOOK_AT.max(2 * self.sockets.len());
        }
        let inode = fstat(socket).map_err(from_rustix)?.st_ino;
        let open = match self.open.take() {
            Some(open) => open,
            None => epoll::create(CreateFlags::CLOEXEC).map_err(from_rustix)?,
        };
        let open = self.open.insert(open);
        epoll::add(open, socket, EventData::new_u64(inode), EventFlags::empty()).map_err(from_rustix)?;
        self.sockets.insert(inode, Socket::default());
        Ok(inode)
    }

    /// Whether there is room for the socket `inode` to be one of at most `limit` connections. Forgets those that are closed,
    /// if it must.
    pub(super) fn have_room(&mut self, instance: &Instance, inode: u64, limit: Option<u64>) -> bool {
        let Some(limit) = limit else { return true };
        let full = |own: &Self| {
            let others = own.sockets.iter().filter(|(of, socket)| **of != inode && socket.counts()).count();
            u64::try_from(others).unwrap_or(u64::MAX) >= limit
        };
        if full(self) {
            self.forget_closed(instance);
        }
        !full(self)
    }

    /// How many connections there are.
    pub(super) fn live(&mut self, instance: &Instance) -> u64 {
        self.forget_closed(instance);
        u64::try_from(self.sockets.values().filter(|socket| socket.counts()).count()).unwrap_or(u64::MAX)
    }

    /// Where the most that there were at once is counted.
    pub(super) fn most(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.most)
    }

    /// One more socket has become a connection.
    fn count(&mut self) {
        let counted = |open: Option<&HashSet<u64>>| {
            let is_open = |inode: &u64| open.is_none_or(|open| open.contains(inode));
            let all = self.sockets.iter().filter(|(inode, socket)| socket.counts() && is_open(inode));
            u64::try_from(all.count()).unwrap_or(u64::MAX)
        };
        // Some may be closed: that is looked at only if it could matter.
        if counted(None) > self.most.load(Ordering::Relaxed) {
            let open = self.open.as_ref().and_then(members);
            self.most.fetch_max(counted(open.as_ref()), Ordering::Relaxed);
        }
    }

    fn forget_closed(&mut self, instance: &Instance) {
        let Some(open) = self.open.as_ref().and_then(members) else { return };
        let closed: Vec<Socket> =
            self.sockets.extract_if(|inode, _| !open.contains(inode)).map(|(_, socket)| socket).collect();
        if let Some(core) = instance.core.upgrade() {
            closed.iter().filter_map(|socket| socket.line).for_each(|line| core.relays.end(line));
        }
    }

    /// The socket is bound there.
    pub(super) fn bound(&mut self, inode: u64, at: Scope) {
        self.sockets.entry(inode).or_default().bound = Some(at);
    }

    /// Where it was bound to, as it was asked for.
    pub(super) fn bound_at(&self, inode: u64) -> Option<&Scope> {
        self.sockets.get(&inode)?.bound.as_ref()
    }

    /// The socket was accepted by one that listens there.
    pub(super) fn accepted(&mut self, inode: u64, at: Scope, line: Option<u64>) {
        let socket = Socket { bound: Some(at), accepted: true, line, ..Socket::default() };
        self.sockets.insert(inode, socket);
        self.count();
    }

    /// The socket reaches `peer` too.
    pub(super) fn reaches(&mut self, inode: u64, peer: Peer) {
        let socket = self.sockets.entry(inode).or_default();
        if socket.peers.contains(&peer) {
            return;
        }
        if socket.peers.len() >= MOST_PEERS {
            socket.crowded = true;
            return;
        }
        socket.peers.push(peer);
        if socket.peers.len() == 1 {
            self.count();
        }
    }

    /// The socket reaches nobody any more.
    pub(super) fn reaches_nobody(&mut self, inode: u64) {
        if let Some(socket) = self.sockets.get_mut(&inode) {
            socket.peers.clear();
            socket.crowded = false;
            socket.line = None;
            socket.far = None;
        }
    }

    /// Keeps the host's own socket until it is connected.
    pub(super) fn keep_far(&mut self, inode: u64, far: OwnedFd) {
        self.sockets.entry(inode).or_default().far = Some(far);
    }

    /// The host's own socket that was kept.
    pub(super) fn take_far(&mut self, inode: u64) -> Option<OwnedFd> {
        self.sockets.get_mut(&inode)?.far.take()
    }

    /// The socket goes by the host.
    pub(super) fn goes_by(&mut self, inode: u64, line: u64) {
        self.sockets.entry(inode).or_default().line = Some(line);
    }

    /// Under which number the socket goes by the host.
    pub(super) fn line(&self, inode: u64) -> Option<u64> {
        self.sockets.get(&inode)?.line
    }

    /// The sockets that `revoked` concerns and `grants` do not open any more.
    pub(super) fn lost(&self, revoked: &PluginPermission, grants: &Grants) -> HashMap<u64, LostSocket> {
        let lost = |(inode, socket): (&u64, &Socket)| {
            Some((*inode, LostSocket { about: socket.lost(revoked, grants)?, line: socket.line }))
        };
        self.sockets.iter().filter_map(lost).collect()
    }

    /// These were shut: they reach nobody any more, and nobody reaches them.
    pub(super) fn were_shut(&mut self, inodes: impl IntoIterator<Item = u64>) {
        for inode in inodes {
            self.sockets.entry(inode).and_modify(|socket| *socket = Socket::default());
        }
    }
}

/// The numbers under which an epoll has what is in it, one line each: proc_pid_fdinfo(5). `None` if that is not to be seen.
fn members(epoll: &OwnedFd) -> Option<HashSet<u64>> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", epoll.as_raw_fd())).ok()?;
    let lines = info.lines().filter(|line| line.starts_with("tfd:"));
    let number = |line: &str| {
        let data = line.split_once("data:")?.1.split_ascii_whitespace().next()?;
        u64::from_str_radix(data, 16).ok()
    };
    lines.map(number).collect()
}

/// The inode number behind `socket:[4711]`.
fn socket_inode(leads_to: &Path) -> Option<u64> {
    leads_to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Shuts the sockets of `lost` wherever the plugin holds them.
///
/// # Errors
/// [`NotStopped`] if nobody can say what it holds.
pub(super) fn shut(instance: &Instance, lost: &HashSet<u64>) -> Result<(), NotStopped> {
    stop::stopped(instance, |processes| {
        for process in processes {
            let held = process.descriptors().map_err(|_| NotStopped)?;
            let concerned = |leads_to: &Path| socket_inode(leads_to).filter(|inode| lost.contains(inode));
            for (number, inode) in held.iter().filter_map(|(number, to)| Some((*number, concerned(to)?))) {
                let socket = process.descriptor(number).map_err(|_| NotStopped)?;
                if fstat(&socket).is_ok_and(|stat| stat.st_ino == inode) {
                    close_for_good(&socket);
                }
            }
        }
        Ok(())
    })?
}

/// Nothing goes through this socket any more, in either direction, and what lies in it unread is gone.
fn close_for_good(socket: &OwnedFd) {
    // A UDP socket goes on receiving what comes: nothing passes this filter.
    if socket_type(socket) == Ok(SocketType::DGRAM) {
        let _ = sockets::drop_everything(socket.as_fd());
    }
    // ENOTCONN of one that has no peer, which is shut all the same.
    let _ = shutdown(socket, Shutdown::Both);
    let mut piece = [0; DRAIN_BYTES];
    for _ in 0..MOST_DRAINS {
        match recv(socket, &mut piece[..], RecvFlags::DONTWAIT) {
            Ok((1.., _)) => {}
            _ => return,
        }
    }
}

/// Tells whoever listens that a socket was shut.
pub(super) fn publish_shut(instance: &Instance, about: &str, revoked: &PluginPermission) {
    instance.subject.publish(|| EventKind::Access {
        permission: "network",
        action: "revoke",
        object: about.to_owned(),
        resolved: None,
        granted: false,
        rule: format!("revoked: {revoked}; the socket was shut"),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::policy::PERMISSION_NETWORK;

    fn peer(scopes: &[&str]) -> Peer {
        Peer(scopes.iter().map(|scope| Scope::network(scope).unwrap()).collect())
    }

    #[test]
    fn a_socket_is_in_an_epoll_for_as_long_as_anybody_has_it_open() {
        let open = epoll::create(CreateFlags::CLOEXEC).unwrap();
        assert_eq!(members(&open), Some(HashSet::new()));
        let sockets = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        for (number, socket) in [u64::MAX, 7].into_iter().zip(&sockets) {
            epoll::add(&open, socket, EventData::new_u64(number), EventFlags::empty()).unwrap();
        }
        assert_eq!(members(&open), Some([u64::MAX, 7].into()));
        let copy = sockets[0].try_clone().unwrap();
        drop(sockets);
        assert_eq!(members(&open), Some([u64::MAX].into()));
        drop(copy);
        assert_eq!(members(&open), Some(HashSet::new()));
    }

    #[test]
    fn a_revoke_concerns_the_sockets_that_it_covers_and_that_nothing_else_opens() {
        let network = |scope: &str| PERMISSION_NETWORK.scoped(scope).unwrap();
        let mut connections = Connections::default();
        connections.reaches(1, peer(&["10.0.0.1:80"]));
        connections.reaches(2, peer(&["10.0.0.2:80", "a.org:80"]));
        connections.bound(3, Scope::network("listen:80").unwrap());
        let lost = |grants: &[&str], revoked: &PluginPermission| {
            let mut all = Grants::default();
            grants.iter().for_each(|scope| all.grant(network(scope), None));
            let mut lost: Vec<u64> = connections.lost(revoked, &all).into_keys().collect();
            lost.sort_unstable();
            lost
        };
        assert_eq!(lost(&[], &PERMISSION_NETWORK), [1, 2, 3]);
        assert_eq!(lost(&["listen:*", "10.0.0.1"], &PERMISSION_NETWORK), [2]);
        assert_eq!(lost(&[], &network("a.org")), [2]);
        assert_eq!(lost(&["10.0.0.0/8"], &network("a.org")), [0; 0]);
        assert_eq!(lost(&[], &network("unix:/run")), [0; 0]);
    }

    #[test]
    fn what_is_not_remembered_of_a_crowded_socket_counts_as_lost() {
        let mut connections = Connections::default();
        (0..=MOST_PEERS).for_each(|n| connections.reaches(1, peer(&[&format!("10.0.0.{n}:80")])));
        let mut grants = Grants::default();
        grants.grant(PERMISSION_NETWORK, None);
        assert_eq!(connections.lost(&PERMISSION_NETWORK.scoped("1.1.1.1").unwrap(), &grants).len(), 1);
    }
}
