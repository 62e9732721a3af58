//! Calls on sockets: the host makes them in its own network, judges whom they reach, and does what could name somebody.
//!
//! Runs in the host, on a worker. Owns which calls these are; what carries bytes alone (read, write, recv) goes on in the
//! kernel and never comes by here. A call that its caller would wait in is answered when its socket is ready.

mod address;
mod connect;
mod connections;
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::host) mod fuzzing;
mod listen;
mod names;
mod options;
mod relay;
mod send;
mod sockets;
mod unix;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use nix::errno::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use self::address::Address;
use self::connections::Connections;
use self::names::Names;
pub(crate) use self::names::is_resolver_file;
pub(crate) use self::relay::Relays;
use self::sockets::Socket;
use super::requests::{Answer, Attempt, Refused, Request};
use super::{Brokered, memory};
use crate::host::end::cause::Cause;
use crate::host::instance::Instance;
use crate::host::limits::usage::Used;
use crate::host::lock::lock;
use crate::shared::errno::from_rustix;
use crate::shared::policy::{Grants, NetworkScope, PERMISSION_NETWORK, PluginPermission, Scope, Verdict};

const NETWORK: &str = "network";

/// What the broker knows of one plugin's network.
#[derive(Debug)]
pub(crate) struct Network {
    connections: Mutex<Connections>,
    /// The most connections that there were at once: read while somebody else holds them.
    most: Arc<AtomicU64>,
    names: Mutex<Names>,
    /// Held while somebody is asked about a name.
    asking: Mutex<()>,
    /// Whether the kernel lets the host have copies of the plugin's descriptors.
    reachable: OnceLock<bool>,
}

impl Default for Network {
    fn default() -> Self {
        let connections = Connections::default();
        let most = connections.most();
        Self {
            connections: Mutex::new(connections),
            most,
            names: Mutex::default(),
            asking: Mutex::default(),
            reachable: OnceLock::new(),
        }
    }
}

/// Serves a call on a socket; `None` if this is none.
pub(super) fn serve(request: &Request<'_>) -> Option<Answer> {
    let served = match request.nr() {
        libc::SYS_socket => request.make_socket(),
        libc::SYS_connect => request.connect(),
        libc::SYS_bind => request.bind(),
        libc::SYS_listen => request.listen(),
        libc::SYS_accept4 => request.accept(request.int(3)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_accept => request.accept(0),
        libc::SYS_sendto => request.send_to(),
        libc::SYS_sendmsg => request.send_message(),
        libc::SYS_sendmmsg => request.send_messages(),
        libc::SYS_setsockopt => request.set_option(),
        _ => return None,
    };
    Some(served.unwrap_or_else(Answer::Errno))
}

impl Network {
    /// Whom the plugin's sockets reach. Held by whoever judges, acts by that and remembers it, until it has.
    fn connections(&self) -> MutexGuard<'_, Connections> {
        lock(&self.connections)
    }

    /// How many connections there are, and the most that there were.
    pub(crate) fn live(&self, instance: &Instance) -> Used {
        let now = self.connections().live(instance);
        Used { now, peak: self.most().max(now) }
    }

    /// The most connections that there were at once.
    pub(crate) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// The names that it was told. Taken after `connections`, by whoever holds both.
    fn names(&self) -> MutexGuard<'_, Names> {
        lock(&self.names)
    }
}

/// Shuts the sockets that `revoked` had opened and `grants`, as they now are, do not; calls that wait are judged anew.
/// Nothing that was decided by the old ones may be under way any more.
pub(super) fn take_back(
    instance: &Instance,
    brokered: &Brokered,
    revoked: &PluginPermission,
    grants: &Grants,
) {
    let Some(core) = instance.core.upgrade() else { return };
    let lost = brokered.network.connections().lost(revoked, grants);
    // What goes by the host is cut there.
    lost.values().filter_map(|socket| socket.line).for_each(|line| core.relays.cut(line));
    let held: HashSet<u64> =
        lost.iter().filter(|(_, socket)| socket.line.is_none()).map(|(inode, _)| *inode).collect();
    if !held.is_empty() && connections::shut(instance, &held).is_err() {
        // Where nobody may look, what may be held counts as held.
        let object = lost.into_values().next().map(|socket| socket.about).unwrap_or_default();
        instance.kill(Some(Cause::Revoked { permission: Box::new(revoked.clone()), object }));
        instance.wait_end();
        return;
    }
    lost.values().for_each(|socket| connections::publish_shut(instance, &socket.about, revoked));
    brokered.network.connections().were_shut(lost.into_keys());
    core.broker.recheck(instance.id);
}

/// The ports that a grant or a denial names, and none: what holds for each of these holds for any.
fn ports_of(grants: &Grants) -> Vec<Option<u16>> {
    let named = grants.scopes(NETWORK).filter_map(|scope| match scope {
        Some(Scope::Network(scope)) => scope.port(),
        _ => None,
    });
    let mut ports: Vec<u16> = named.collect();
    ports.sort_unstable();
    ports.dedup();
    std::iter::once(None).chain(ports.into_iter().map(Some)).collect()
}

/// A call on a socket that is judged.
#[derive(Clone, Copy)]
struct Call<'a> {
    action: &'static str,
    /// Whom it names, in words.
    object: &'a str,
}

impl<'a> Call<'a> {
    fn attempt(self) -> Attempt<'a> {
        Attempt { permission: NETWORK, action: self.action, object: self.object.as_bytes() }
    }
}

impl Request<'_> {
    /// A copy of the socket that argument 0 names.
    fn socket(&self) -> Result<Socket, Errno> {
        Socket::new(self.descriptor(self.int(0).cast_signed())?)
    }

    /// The address that two arguments name, read once.
    fn address(&self, at: u64, len: u64) -> Result<Address, Errno> {
        let len = usize::try_from(len & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        if len > address::MOST_BYTES {
            return Err(Errno::EINVAL);
        }
        let bytes = memory::read_bytes(&*self.memory()?, at, len)?;
        if !self.still_waits() {
            return Err(Errno::EINTR);
        }
        address::read(&bytes)
    }

    /// Refuses a call, with an event that says by which rule.
    fn refuse_call(&self, call: Call<'_>, errno: Errno, rule: impl Into<String>) -> Answer {
        self.refuse(call.attempt(), Refused::new(errno, None, rule))
    }

    /// Whether `scopes`, under all of which somebody is known, are granted: by which rule, or the refusal.
    fn judge_network(&self, call: Call<'_>, scopes: &[Scope]) -> Result<String, Answer> {
        let grants = self.grants();
        let (rule, wanted) = match grants.judge_as(NETWORK, scopes) {
            Verdict::Granted(grant) => return Ok(format!("granted: {grant}")),
            Verdict::Denied(denial) => (format!("denied: {denial}"), None),
            Verdict::NotGranted => ("not granted".to_owned(), scopes.last().cloned()),
        };
        let wanted = wanted.map(|scope| PERMISSION_NETWORK.at(scope));
        Err(self.refuse(call.attempt(), Refused::new(Errno::EACCES, None, rule).wanting(wanted)))
    }

    /// Records that a call was granted, once.
    fn granted(&self, call: Call<'_>, rule: &str) {
        if self.waited_since.is_none() {
            self.event(call.attempt(), None, true, rule);
        }
    }

    // ---- socket(2)

    fn make_socket(&self) -> Result<Answer, Errno> {
        let (family, kind, protocol) =
            (self.int(0).cast_signed(), self.int(1).cast_signed(), self.int(2).cast_signed());
        let flags = kind & (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
        let kind = kind & !flags;
        let object = format!("family {family}, type {kind}, protocol {protocol}");
        let call = Call { action: "socket", object: &object };
        let address_family = match family {
            libc::AF_INET => AddressFamily::INET,
            libc::AF_INET6 => AddressFamily::INET6,
            libc::AF_UNIX => return self.make_unix_socket(call, kind, protocol, flags),
            _ => {
                return Ok(self.refuse_call(
                    call,
                    Errno::EAFNOSUPPORT,
                    "no grant opens sockets of this family",
                ));
            }
        };
        let (socket_type, own) = match kind {
            libc::SOCK_STREAM => (SocketType::STREAM, ipproto::TCP),
            libc::SOCK_DGRAM => (SocketType::DGRAM, ipproto::UDP),
            _ => {
                return Ok(self.refuse_call(
                    call,
                    Errno::EPERM,
                    "no grant opens sockets but those of TCP and UDP",
                ));
            }
        };
        if protocol != 0 && u32::try_from(protocol) != Ok(own.as_raw().get()) {
            let rule = "no grant opens sockets but those of TCP and UDP";
            return Ok(self.refuse_call(call, Errno::EPROTONOSUPPORT, rule));
        }
        // Where somebody is asked, it is about whom the socket is to reach.
        if !self.holds_network(NetworkScope::is_internet) && !self.may_ask() {
            return Ok(self.refuse_call(call, Errno::EACCES, "not granted"));
        }
        if let Some(refused) = self.cannot_copy_descriptors(call) {
            return Ok(refused);
        }
        let mut own_flags = SocketFlags::CLOEXEC;
        own_flags.set(SocketFlags::NONBLOCK, flags & libc::SOCK_NONBLOCK != 0);
        let file = rustix::net::socket_with(address_family, socket_type, own_flags, Some(own))
            .map_err(from_rustix)?;
        let socket = Socket::new(file)?;
        // The kernel binds one for datagrams by itself when it is written to, and takes what comes from anybody then.
        socket.hear_nobody()?;
        let mut connections = self.brokered.network.connections();
        connections.made(self.instance, &socket.fd)?;
        // Before anybody looks which sockets are open.
        Ok(self.answer_with(socket.fd, flags & libc::SOCK_CLOEXEC != 0))
    }

    /// The refusal where no call on a socket could be judged.
    fn cannot_copy_descriptors(&self, call: Call<'_>) -> Option<Answer> {
        // Every helper has its channel; EBADF of one that has closed it says as much.
        let copy = || self.instance.descriptor(0).map_err(from_rustix);
        let copies = || !matches!(copy(), Err(Errno::EPERM | Errno::ENOSYS));
        let rule = "the kernel does not let this host have copies of a plugin's descriptors (pidfd_getfd), so that no \
                    call on a socket could be judged";
        let reachable = *self.brokered.network.reachable.get_or_init(copies);
        (!reachable).then(|| self.refuse_call(call, Errno::EACCES, rule))
    }

    // ---- what several calls do

    /// Whether `network` is held at a scope that is about this, or without a scope.
    pub(super) fn holds_network(&self, about: impl Fn(&NetworkScope) -> bool) -> bool {
        self.grants().list().iter().filter(|permission| permission.name() == NETWORK).any(|permission| {
            permission.scope().is_none_or(|scope| matches!(scope, Scope::Network(scope) if about(scope)))
        })
    }

    /// The scopes that `peer` is known under: its address, and the names that it was found by.
    fn scopes_of(&self, peer: SocketAddr) -> Vec<Scope> {
        let names = self.brokered.network.names();
        let found =
            names.of(peer.ip()).iter().filter_map(|name| NetworkScope::to_name(name, Some(peer.port())));
        std::iter::once(NetworkScope::to(peer)).chain(found).map(Scope::Network).collect()
    }

    /// Whether there is room for one more connection, which the socket `inode` is to be; the refusal if not.
    fn room_for(&self, call: Call<'_>, connections: &mut Connections, inode: u64) -> Result<(), Answer> {
        let limit = self.instance.subject.limits().max_network_connections;
        if connections.have_room(self.instance, inode, limit) {
            return Ok(());
        }
        let rule = format!("max_network_connections is {}", limit.unwrap_or_default());
        Err(self.refuse_call(call, Errno::EMFILE, rule))
    }
}
