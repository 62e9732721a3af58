//! The resolver that a plugin finds: the C library asks it as it would any name server, and the host answers names in scope.
//!
//! Runs in the host: judged on the relays' thread, looked up on threads that do nothing else, of which there are so many and
//! one for each plugin. Remembers what was answered, since that is what a connection to a name is judged by.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

use super::relay::Inner;
use super::{NETWORK, ports_of};
use crate::host::broker::requests::Request;
use crate::host::decider::{self, AccessRequest, Ruling};
use crate::host::events::{EventKind, escape};
use crate::host::instance::Instance;
use crate::host::lock::lock;
use crate::shared::policy::{Grants, NetworkScope, PERMISSION_NETWORK, Scope, Verdict, host_name};
use crate::shared::sys::signals;
use crate::shared::wire::zygote::HelperId;

/// Where the plugin is told that its name server is: an address for documentation, which is nobody's (RFC 5737).
pub(super) const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53)), 53);

/// What a C library reads to find its name server, and what else it looks for on the way to it.
const FILES: [(&str, &str); 7] = [
    ("/etc/resolv.conf", "nameserver 192.0.2.53\nsearch .\noptions use-vc timeout:30 attempts:1\n"),
    ("/etc/nsswitch.conf", "hosts: dns\nservices: files\nprotocols: files\nnetworks: files\n"),
    ("/etc/hosts", "# Names are answered by the sandbox's own name server.\n"),
    ("/etc/host.conf", "multi on\n"),
    ("/etc/gai.conf", "# Addresses are sorted as RFC 6724 says.\n"),
    (
        "/etc/services",
        "ftp 21/tcp\nssh 22/tcp\nsmtp 25/tcp\ndomain 53/tcp\ndomain 53/udp\nhttp 80/tcp\npop3 110/tcp\nntp 123/udp\n\
         imap2 143/tcp\nldap 389/tcp\nhttps 443/tcp\nhttps 443/udp\nsubmission 587/tcp\nldaps 636/tcp\nimaps 993/tcp\n\
         postgresql 5432/tcp\namqp 5672/tcp\n",
    ),
    ("/etc/protocols", "ip 0 IP\ntcp 6 TCP\nudp 17 UDP\nipv6 41 IPv6\n"),
];

/// A service of the C library's that is asked before the name server; there is none.
const NAME_CACHE: [&[u8]; 2] = [b"/var/run/nscd/socket", b"/run/nscd/socket"];

/// How long a name may take to be found.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How many are looked for at once, of all plugins; a name server that never answers holds one for each plugin.
const MOST_LOOKUPS: usize = 32;

/// How many questions of one plugin may wait, and over how many sockets it may ask.
const MOST_UNANSWERED: usize = 32;
const MOST_CONVERSATIONS: usize = 16;

/// How many questions of one plugin may wait for somebody to be asked about them, one after the other.
const MOST_ASKING: usize = 4;

/// How many addresses are told of one name, and remembered of one plugin, with how many names each.
const MOST_TOLD: usize = 16;
const MOST_REMEMBERED: usize = 1024;
const MOST_NAMES: usize = 8;

/// How long what was found is told again: a program asks for both kinds of address at once.
const TOLD_AGAIN: Duration = Duration::from_secs(2);
const MOST_TOLD_AGAIN: usize = 32;

/// After how long a socket that nobody can be heard to close may be given up: who asks over it again is refused.
const IDLE_AFTER: Duration = Duration::from_secs(10);

/// The longest question, and how much of questions and answers may lie here for a plugin that does not read.
const MOST_QUESTION_BYTES: usize = 1024;
const MOST_UNREAD_BYTES: usize = 64 << 10;

/// What a plugin has asked, and what it was told.
#[derive(Debug, Default)]
pub(super) struct Names {
    answered: HashMap<IpAddr, Vec<String>>,
    order: VecDeque<IpAddr>,
    found: VecDeque<Found>,
    unanswered: HashMap<u64, Question>,
    next: u64,
    looking: bool,
    conversations: Arc<AtomicUsize>,
    asking: Arc<AtomicUsize>,
    /// The name that was allowed last, this once, and until when that is the same once.
    allowed: Option<(String, Instant)>,
}

#[derive(Debug)]
struct Found {
    name: String,
    addresses: Vec<IpAddr>,
    until: Instant,
}

/// A question that is to be answered.
#[derive(Debug, Clone)]
struct Question {
    /// Over which line it came.
    line: u64,
    bytes: Vec<u8>,
    name: String,
    kind: Kind,
    /// Whether somebody has allowed it, this once.
    allowed: bool,
    due: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    V4,
    V6,
}

/// What all plugins share: how many look-ups there are, and who waits for one.
#[derive(Default)]
pub(super) struct Lookups {
    running: Arc<AtomicUsize>,
    /// The plugins that wait for an answer.
    waiting: Mutex<HashMap<HelperId, Arc<Instance>>>,
}

/// A seat among a bounded number, for as long as it is held.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(taken: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let took = taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < most).then_some(n + 1));
        took.is_ok().then(|| Self(Arc::clone(taken)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Request<'_> {
    /// What the plugin is to find at `path` so that it asks the host for names; `None` if that is nothing of this kind.
    pub(in super::super) fn resolver_file(&self, path: &[u8]) -> Option<&'static str> {
        let (_, text) = FILES.iter().find(|(known, _)| known.as_bytes() == path)?;
        self.may_look_up().then_some(*text)
    }

    /// Whether there are names that could be looked up.
    pub(super) fn may_look_up(&self) -> bool {
        self.holds_network(NetworkScope::is_connect) || self.may_ask()
    }
}

/// Whether a C library reads this on its way to a name server.
pub(crate) fn is_resolver_file(path: &Path) -> bool {
    FILES.iter().any(|(known, _)| Path::new(known) == path)
}

/// Whether this is the socket of a service that no plugin finds, and every C library looks for.
pub(super) fn is_name_cache(path: &[u8]) -> bool {
    NAME_CACHE.contains(&path)
}

impl Names {
    /// The names that `address` was found by.
    pub(super) fn of(&self, address: IpAddr) -> &[String] {
        self.answered.get(&address.to_canonical()).map(Vec::as_slice).unwrap_or_default()
    }

    fn remember(&mut self, name: &str, addresses: &[IpAddr]) {
        for address in addresses {
            let names = self.answered.entry(*address).or_default();
            if names.is_empty() {
                self.order.push_back(*address);
            }
            if !names.iter().any(|known| known == name) {
                names.truncate(MOST_NAMES - 1);
                names.insert(0, name.to_owned());
            }
        }
        while self.order.len() > MOST_REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.answered.remove(&oldest);
            }
        }
    }

    fn found(&mut self, name: &str, now: Instant) -> Option<Vec<IpAddr>> {
        self.found.retain(|found| found.until > now);
        self.found.iter().find(|found| found.name == name).map(|found| found.addresses.clone())
    }

    fn keep_found(&mut self, name: String, addresses: Vec<IpAddr>, now: Instant) {
        if self.found.len() >= MOST_TOLD_AGAIN {
            self.found.pop_front();
        }
        self.found.push_back(Found { name, addresses, until: now + TOLD_AGAIN });
    }
}

/// Whether `name` may be looked up: if any port of it may be connected to.
fn judge(grants: &Grants, name: &str) -> Result<String, (String, bool)> {
    let mut refused = ("not granted".to_owned(), true);
    for port in ports_of(grants) {
        let Some(scope) = NetworkScope::to_name(name, port) else { break };
        match grants.judge(NETWORK, &Scope::Network(scope)) {
            Verdict::Granted(grant) => return Ok(format!("granted: {grant}")),
            Verdict::Denied(denial) => refused = (format!("denied: {denial}"), false),
            Verdict::NotGranted => {}
        }
    }
    Err(refused)
}

/// Whether `name` may be said to be at `address`. Who answers for a name does not decide that a plugin reaches this machine, or
/// what is on its links alone: that takes a grant of the address, or a name that means this machine (RFC 6761).
fn may_be_told(grants: &Grants, name: &str, address: IpAddr) -> bool {
    let is_near = match address.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_loopback()
                || matches!(ip.octets(), [0, ..])
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_broadcast()
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_unicast_link_local() || ip.is_multicast()
        }
    };
    let is_this_machines = || name == "localhost" || name.ends_with(".localhost");
    let is_granted = |port| {
        let scope = Scope::Network(NetworkScope::to_host(address, port));
        grants.judge(NETWORK, &scope).is_granted()
    };
    !is_near || is_this_machines() || ports_of(grants).into_iter().any(is_granted)
}

fn publish(instance: &Instance, name: &str, granted: bool, rule: &str) {
    instance.subject.publish_decision(Some(NETWORK), granted, || EventKind::Access {
        permission: NETWORK,
        action: "lookup",
        object: escape(name.as_bytes()),
        resolved: None,
        granted,
        rule: rule.to_owned(),
    });
}

/// A plugin's socket that leads to the resolver, seen from the host's end.
pub(super) struct Conversation {
    socket: OwnedFd,
    instance: Arc<Instance>,
    /// The thread that has opened it, which most likely waits for the answer.
    tid: i32,
    /// Whether messages have their lengths before them.
    stream: bool,
    unparsed: Vec<u8>,
    unsent: VecDeque<Vec<u8>>,
    last_asked: Instant,
    _seat: Seat,
}

impl Conversation {
    pub(super) fn new(socket: OwnedFd, stream: bool, request: &Request<'_>) -> Result<Self, Errno> {
        let conversations = Arc::clone(&request.brokered.network.names().conversations);
        let seat = Seat::take(&conversations, MOST_CONVERSATIONS).or_else(|| {
            let core = request.instance.core.upgrade()?;
            core.relays.give_up_idle(request.instance.id);
            Seat::take(&conversations, MOST_CONVERSATIONS)
        });
        let seat = seat.ok_or(Errno::ECONNREFUSED)?;
        Ok(Self {
            socket,
            instance: Arc::clone(request.instance),
            tid: request.notification.tid,
            stream,
            unparsed: Vec::new(),
            unsent: VecDeque::new(),
            last_asked: Instant::now(),
            _seat: seat,
        })
    }

    pub(super) fn whose(&self) -> HelperId {
        self.instance.id
    }

    /// Whether this is a datagram socket that has not been used for long.
    pub(super) fn is_idle(&self) -> bool {
        !self.stream && self.last_asked.elapsed() >= IDLE_AFTER
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn wants(&self) -> EventFlags {
        if self.unsent.is_empty() { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT }
    }

    /// Sends an answer as soon as it can be sent.
    pub(super) fn answer(&mut self, answer: &[u8]) {
        let mut whole = Vec::with_capacity(answer.len() + 2);
        if self.stream {
            whole.extend(u16::try_from(answer.len()).unwrap_or(u16::MAX).to_be_bytes());
        }
        whole.extend_from_slice(answer);
        self.unsent.push_back(whole);
    }

    /// Reads what is asked, and sends what is answered; whether it has come to its end.
    pub(super) fn go_on(&mut self, relays: &Arc<Inner>, line: u64) -> bool {
        let mut piece = [0; MOST_QUESTION_BYTES];
        match recv(&self.socket, &mut piece[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) if self.stream => return true,
            Ok((_, len)) => self.unparsed.extend(piece.get(..len).unwrap_or_default()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => return true,
        }
        while let Some(question) = self.next_question() {
            self.last_asked = Instant::now();
            if let Some(answer) = take_question(&self.instance, self.tid, relays, line, question) {
                self.answer(&answer);
            }
        }
        if self.unparsed.len() > MOST_QUESTION_BYTES {
            return true;
        }
        while let Some(first) = self.unsent.front_mut() {
            match send(&self.socket, first, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) if sent < first.len() && self.stream => drop(first.drain(..sent)),
                Ok(_) => drop(self.unsent.pop_front()),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => break,
                Err(_) => return true,
            }
        }
        self.unsent.iter().map(Vec::len).sum::<usize>() > MOST_UNREAD_BYTES
    }

    fn next_question(&mut self) -> Option<Vec<u8>> {
        if !self.stream {
            return (!self.unparsed.is_empty()).then(|| std::mem::take(&mut self.unparsed));
        }
        let len: [u8; 2] = self.unparsed.get(..2)?.try_into().ok()?;
        let end = usize::from(u16::from_be_bytes(len)) + 2;
        let question = self.unparsed.get(2..end)?.to_vec();
        self.unparsed.drain(..end);
        Some(question)
    }
}

/// Deals with a question: the answer, if there is one already.
fn take_question(
    instance: &Arc<Instance>,
    tid: i32,
    relays: &Arc<Inner>,
    line: u64,
    bytes: Vec<u8>,
) -> Option<Vec<u8>> {
    let (name, kind) = match parse(&bytes)? {
        Ok(asked) => asked,
        Err(rcode) => return reply(&bytes, rcode, &[]),
    };
    let brokered = instance.brokered()?;
    let grants = instance.subject.policy().grants();
    let due = Instant::now() + LOOKUP_TIMEOUT;
    let question = Question { line, bytes, name, kind, allowed: false, due };
    match judge(&grants, &question.name) {
        Ok(rule) => {
            let mut names = brokered.network.names();
            if let Some(mut addresses) = names.found(&question.name, Instant::now()) {
                addresses.retain(|address| may_be_told(&grants, &question.name, *address));
                names.remember(&question.name, &addresses);
                return reply_with(&question, &addresses);
            }
            publish(instance, &question.name, true, &rule);
            look_up(instance, &mut names, relays, question)
        }
        Err((_, true)) if instance.subject.has_decider() => {
            let ask = {
                let asking = Arc::clone(&brokered.network.names().asking);
                let Some(seat) = Seat::take(&asking, MOST_ASKING) else {
                    return reply(&question.bytes, RCODE::ServerFailure, &[]);
                };
                let (instance, relays, mut question) =
                    (Arc::clone(instance), Arc::clone(relays), question.clone());
                move || {
                    signals::block_all();
                    let _seat = seat;
                    question.allowed = ask(&instance, tid, &question.name);
                    question.due = Instant::now() + LOOKUP_TIMEOUT;
                    let line = question.line;
                    let answer = if question.allowed {
                        publish(&instance, &question.name, true, "allowed when asked");
                        let brokered = instance.brokered()?;
                        let mut names = brokered.network.names();
                        look_up(&instance, &mut names, &relays, question)
                    } else {
                        publish(&instance, &question.name, false, "not granted, and denied when asked");
                        reply(&question.bytes, RCODE::NameError, &[])
                    };
                    relays.deliver(line, &answer?);
                    Some(())
                }
            };
            let asked = std::thread::Builder::new().name("plugin-prompt".to_owned()).spawn(ask);
            if asked.is_ok() { None } else { reply(&question.bytes, RCODE::NameError, &[]) }
        }
        Err((rule, _)) => {
            publish(instance, &question.name, false, &rule);
            reply(&question.bytes, RCODE::NameError, &[])
        }
    }
}

/// Whether somebody who is asked about looking this name up says yes.
fn ask(instance: &Arc<Instance>, tid: i32, name: &str) -> bool {
    let Some(scope) = NetworkScope::to_name(name, None) else { return false };
    let wish = AccessRequest {
        plugin: instance.subject.id().clone(),
        permission: PERMISSION_NETWORK.at(Scope::Network(scope)),
        action: "lookup",
        object: escape(name.as_bytes()),
        resolved: None,
    };
    let Some(brokered) = instance.brokered() else { return false };
    // A program asks for both kinds of address at once: who is asked about the first has said what holds for the second.
    let _turn = lock(&brokered.network.asking);
    let was_allowed = || {
        let names = brokered.network.names();
        names.allowed.as_ref().is_some_and(|(last, until)| last == name && *until > Instant::now())
    };
    let allowed = was_allowed() || {
        let _waits = instance.waits_for_a_person(tid);
        decider::rule(instance, &wish) != Ruling::Deny
    };
    if allowed {
        brokered.network.names().allowed = Some((name.to_owned(), Instant::now() + TOLD_AGAIN));
    }
    allowed
}

/// Has a name looked up; the answer, if that cannot be.
fn look_up(
    instance: &Arc<Instance>,
    names: &mut Names,
    relays: &Arc<Inner>,
    question: Question,
) -> Option<Vec<u8>> {
    if names.unanswered.len() >= MOST_UNANSWERED {
        return reply(&question.bytes, RCODE::ServerFailure, &[]);
    }
    let number = names.next;
    names.next += 1;
    let bytes = question.bytes.clone();
    names.unanswered.insert(number, question);
    lock(&relays.lookups.waiting).insert(instance.id, Arc::clone(instance));
    relays.wake();
    if start_next(instance, names, relays) {
        return None;
    }
    names.unanswered.remove(&number);
    reply(&bytes, RCODE::ServerFailure, &[])
}

/// Looks the next name up that this plugin waits for, unless one is being looked up. False if there is no thread for it.
fn start_next(instance: &Arc<Instance>, names: &mut Names, relays: &Arc<Inner>) -> bool {
    let next =
        names.unanswered.iter().min_by_key(|(number, _)| **number).map(|(_, question)| question.name.clone());
    let Some(name) = next.filter(|_| !names.looking) else { return true };
    let Some(seat) = Seat::take(&relays.lookups.running, MOST_LOOKUPS) else { return false };
    let (instance, relays) = (Arc::clone(instance), Arc::clone(relays));
    let work = move || {
        signals::block_all();
        let _seat = seat;
        let found = (name.as_str(), 0).to_socket_addrs().map(|found| {
            let mut addresses: Vec<IpAddr> = Vec::new();
            for address in found.map(|address| address.ip().to_canonical()) {
                if !addresses.contains(&address) && addresses.len() < MOST_TOLD {
                    addresses.push(address);
                }
            }
            addresses
        });
        finish(&instance, &relays, name, found.ok());
    };
    names.looking = std::thread::Builder::new().name("plugin-names".to_owned()).spawn(work).is_ok();
    names.looking
}

/// Answers everybody who waits for this name, and goes on with the next.
fn finish(instance: &Arc<Instance>, relays: &Arc<Inner>, name: String, found: Option<Vec<IpAddr>>) {
    let Some(brokered) = instance.brokered() else { return };
    let grants = instance.subject.policy().grants();
    let mut names = brokered.network.names();
    names.looking = false;
    let waiting: Vec<Question> = names
        .unanswered
        .extract_if(|_, question| question.name == name)
        .map(|(_, question)| question)
        .collect();
    // What was granted when it was asked may not be any more.
    let granted = judge(&grants, &name).is_ok();
    let mut answers = Vec::new();
    for question in waiting {
        let answer = match &found {
            Some(addresses) if granted || question.allowed => {
                let told = addresses.iter().filter(|address| may_be_told(&grants, &name, **address));
                let told: Vec<IpAddr> = told.copied().collect();
                names.remember(&name, &told);
                reply_with(&question, &told)
            }
            _ => reply(&question.bytes, RCODE::NameError, &[]),
        };
        answers.extend(answer.map(|answer| (question.line, answer)));
    }
    if let Some(addresses) = found {
        names.keep_found(name, addresses, Instant::now());
    }
    start_next(instance, &mut names, relays);
    drop(names);
    for (line, answer) in answers {
        relays.deliver(line, &answer);
    }
    relays.wake();
}

impl Lookups {
    /// Answers those whose time is up. Returns how long it is until the next is late.
    pub(super) fn answer_late(&self, relays: &Arc<Inner>, now: Instant) -> Option<Duration> {
        let waiting: Vec<Arc<Instance>> = lock(&self.waiting).values().cloned().collect();
        let mut next = None;
        for instance in waiting {
            let Some(brokered) = instance.brokered() else {
                lock(&self.waiting).remove(&instance.id);
                continue;
            };
            let mut names = brokered.network.names();
            let late: Vec<Question> = names
                .unanswered
                .extract_if(|_, question| question.due <= now)
                .map(|(_, question)| question)
                .collect();
            let due = names.unanswered.values().map(|question| question.due).min();
            if due.is_none() {
                // In this order everywhere: names, then who waits.
                lock(&self.waiting).remove(&instance.id);
            }
            drop(names);
            next = next.into_iter().chain(due).min();
            for question in late {
                if let Some(answer) = reply(&question.bytes, RCODE::ServerFailure, &[]) {
                    relays.deliver(question.line, &answer);
                }
            }
        }
        next.map(|due| due.saturating_duration_since(now))
    }
}

// ---- messages

/// The name and kind of address that a message asks for, or what it is answered. `None` if it is no question.
pub(super) fn parse(bytes: &[u8]) -> Option<Result<(String, Kind), RCODE>> {
    let packet = Packet::parse(bytes).ok()?;
    if packet.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    let [question] = packet.questions.as_slice() else { return Some(Err(RCODE::FormatError)) };
    let kind = match question.qtype {
        QTYPE::TYPE(TYPE::A) => Kind::V4,
        QTYPE::TYPE(TYPE::AAAA) => Kind::V6,
        // There are no records of other kinds.
        QTYPE::TYPE(_) => return Some(Err(RCODE::NoError)),
        _ => return Some(Err(RCODE::NotImplemented)),
    };
    Some(host_name(&question.qname.to_string()).map(|name| (name, kind)).map_err(|_| RCODE::NameError))
}

fn reply_with(question: &Question, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let of_kind = |address: &&IpAddr| address.is_ipv4() == (question.kind == Kind::V4);
    let addresses: Vec<IpAddr> = addresses.iter().filter(of_kind).copied().collect();
    reply(&question.bytes, RCODE::NoError, &addresses)
}

/// The answer to a question.
pub(super) fn reply(question: &[u8], rcode: RCODE, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let asked = Packet::parse(question).ok()?;
    let mut packet = Packet::new_reply(asked.id());
    packet.set_flags(PacketFlag::RECURSION_AVAILABLE | PacketFlag::RECURSION_DESIRED);
    *packet.rcode_mut() = rcode;
    if let [question] = asked.questions.as_slice() {
        for address in addresses {
            let data = match address {
                IpAddr::V4(address) => RData::A(A::from(*address)),
                IpAddr::V6(address) => RData::AAAA(AAAA::from(*address)),
            };
            // Not kept: what was in scope may not be a moment later.
            packet.answers.push(ResourceRecord::new(question.qname.clone(), CLASS::IN, 0, data));
        }
    }
    packet.questions = asked.questions;
    packet.build_bytes_vec_compressed().ok()
}

#[cfg(test)]
mod tests {
    use simple_dns::{Name, QCLASS};

    use super::*;

    fn question(name: &str, kind: QTYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        let name = Name::new_unchecked(name);
        packet.questions.push(simple_dns::Question::new(name, kind, QCLASS::CLASS(CLASS::IN), false));
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn a_question_is_for_one_kind_of_address_of_one_name() {
        let asked = |name, kind| parse(&question(name, kind)).unwrap();
        assert_eq!(asked("Example.org", QTYPE::TYPE(TYPE::A)), Ok(("example.org".to_owned(), Kind::V4)));
        assert_eq!(asked("example.org", QTYPE::TYPE(TYPE::AAAA)), Ok(("example.org".to_owned(), Kind::V6)));
        assert_eq!(asked("example.org", QTYPE::TYPE(TYPE::MX)), Err(RCODE::NoError));
        assert_eq!(asked("example.org", QTYPE::AXFR), Err(RCODE::NotImplemented));
        assert_eq!(asked("exa mple.org", QTYPE::TYPE(TYPE::A)), Err(RCODE::NameError));
        assert_eq!(parse(b"nothing"), None);
        assert_eq!(parse(&Packet::new_reply(7).build_bytes_vec().unwrap()), None);
    }

    #[test]
    fn an_answer_has_the_addresses_of_the_kind_that_was_asked_for() {
        let bytes = question("a.org", QTYPE::TYPE(TYPE::AAAA));
        let due = Instant::now();
        let asked =
            Question { line: 0, bytes, name: "a.org".to_owned(), kind: Kind::V6, allowed: false, due };
        let answer = reply_with(&asked, &["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()]).unwrap();
        let answer = Packet::parse(&answer).unwrap();
        assert_eq!((answer.id(), answer.answers.len(), answer.questions.len()), (7, 1, 1));
        assert!(matches!(answer.answers[0].rdata, RData::AAAA(_)));
    }

    #[test]
    fn no_name_but_its_own_leads_to_this_machine_without_a_grant_of_the_address() {
        for (granted, name, address, told) in [
            ("a.org", "a.org", "93.184.216.34", true),
            ("a.org", "a.org", "10.0.0.1", true),
            ("a.org", "a.org", "127.0.0.1", false),
            ("a.org", "a.org", "127.9.9.9", false),
            ("a.org", "a.org", "0.0.0.0", false),
            ("a.org", "a.org", "169.254.169.254", false),
            ("a.org", "a.org", "::1", false),
            ("a.org", "a.org", "::", false),
            ("a.org", "a.org", "fe80::1", false),
            ("a.org", "a.org", "::ffff:127.0.0.1", false),
            ("localhost", "localhost", "127.0.0.1", true),
            ("*.localhost", "a.localhost", "::1", true),
            ("*.org", "localhost.org", "127.0.0.1", false),
            ("127.0.0.0/8:80", "a.org", "127.0.0.1", true),
            ("*", "a.org", "127.0.0.1", true),
        ] {
            let mut grants = Grants::default();
            grants.grant(PERMISSION_NETWORK.scoped(granted).unwrap(), None);
            let address = address.parse().unwrap();
            assert_eq!(may_be_told(&grants, name, address), told, "{granted} {name} {address}");
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic() {
        let plain = question("www.example.org", QTYPE::TYPE(TYPE::A));
        let mut state = 88172645463325252_u64;
        for _ in 0..20_000 {
            let mut bytes = plain.clone();
            for _ in 0..4 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let at = state as usize % bytes.len();
                bytes[at] = (state >> 32) as u8;
            }
            bytes.truncate(1 + state as usize % plain.len());
            if parse(&bytes).is_some() {
                let _ = reply(&bytes, RCODE::NameError, &[]);
            }
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_newest_names_stay() {
        let mut names = Names::default();
        let address = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        (0..2 * MOST_REMEMBERED).for_each(|n| names.remember("a.org", &[address(n)]));
        assert_eq!(names.answered.len(), MOST_REMEMBERED);
        assert!(names.of(address(0)).is_empty());
        let last = address(2 * MOST_REMEMBERED - 1);
        (0..20).for_each(|n| names.remember(&format!("{n}.org"), &[last]));
        assert_eq!((names.of(last).len(), names.of(last)[0].as_str()), (MOST_NAMES, "19.org"));
    }
}
