//! Streams that go by the host: the far end is the host's own socket, the plugin holds one that leads to the host.
//!
//! Runs in the host, on a thread of its own for all plugins, which never waits for any one of them. Owns that nothing but
//! bytes passes, that what lies in the host is bounded, and that a stream that is cut is cut in both directions at once.
//! The resolver that plugins ask is at the host's end of such a stream too.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFlags, Timespec, eventfd};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, acceptfrom_with, bind,
    getsockname, listen, recv, send, shutdown, socket_with,
};

use super::names::{Conversation, Lookups};
use super::sockets::Socket;
use crate::error::PluginSandboxError;
use crate::host::lock::lock;
use crate::shared::errno::from_rustix;
use crate::shared::sys::signals;
use crate::shared::wire::zygote::HelperId;

/// How much lies in the host of one direction of a stream.
const BUFFER_BYTES: usize = 64 << 10;

/// How many one helper may have. Those count, too, whose plugin has closed its end and whose last bytes nobody takes.
const MOST_OF_ONE: usize = 256;

/// How many pieces of one stream are moved before the others have their turn.
const TURN: usize = 16;

const WAKE: u64 = u64::MAX;

/// What goes by the thread, under a number.
enum Line {
    /// A plugin that asks for names.
    Names(Conversation),
    /// A Unix socket of a plugin's that reaches nobody yet.
    Idle(OwnedFd),
    Pump(Box<Pump>),
}

/// A line that its own thread, and who cuts it, may hold.
type Shared = Arc<Mutex<Line>>;

/// The thread, and what goes by it. The thread starts with the first.
pub(crate) struct Relays {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the thread shares with those who give it something to do.
pub(super) struct Inner {
    epoll: OwnedFd,
    wake: OwnedFd,
    stop: AtomicBool,
    next: AtomicU64,
    lines: Mutex<HashMap<u64, (HelperId, Shared)>>,
    pub(super) lookups: Lookups,
}

impl Relays {
    pub(crate) fn new() -> Result<Self, PluginSandboxError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(PluginSandboxError::io("making an epoll for relays"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(PluginSandboxError::io("making an eventfd"))?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)
            .map_err(PluginSandboxError::io("watching an eventfd"))?;
        let inner = Inner {
            epoll,
            wake,
            stop: AtomicBool::new(false),
            next: AtomicU64::new(0),
            lines: Mutex::default(),
            lookups: Lookups::default(),
        };
        Ok(Self { inner: Arc::new(inner), thread: Mutex::default() })
    }

    fn start(&self) -> Result<(), Errno> {
        let mut thread = lock(&self.thread);
        if thread.is_none() {
            let inner = Arc::clone(&self.inner);
            let named = std::thread::Builder::new().name("plugin-relay".to_owned());
            *thread = Some(named.spawn(move || inner.run()).map_err(|_| Errno::EAGAIN)?);
        }
        Ok(())
    }

    /// Answers what is asked over `socket`, the host's end, from now on.
    pub(super) fn converse(&self, conversation: Conversation) -> Result<(), Errno> {
        self.start()?;
        let (number, whose) = (self.inner.next_number(), conversation.whose());
        self.inner.watch(conversation.socket(), number, 0, EventFlags::IN)?;
        lock(&self.inner.lines).insert(number, (whose, Arc::new(Mutex::new(Line::Names(conversation)))));
        Ok(())
    }

    /// Keeps `near`, the host's end, until it is to reach somebody. Returns its number.
    pub(super) fn keep(&self, whose: HelperId, near: OwnedFd) -> Result<u64, Errno> {
        self.start()?;
        if lock(&self.inner.lines).values().filter(|(of, _)| *of == whose).count() >= MOST_OF_ONE {
            return Err(Errno::EMFILE);
        }
        let number = self.inner.next_number();
        self.inner.watch(&near, number, 0, EventFlags::empty())?;
        lock(&self.inner.lines).insert(number, (whose, Arc::new(Mutex::new(Line::Idle(near)))));
        Ok(number)
    }

    /// Lets the end that is kept under `number` reach `far`. ENOTCONN if it is not kept any more, EISCONN if it reaches
    /// somebody.
    pub(super) fn reach(&self, number: u64, far: OwnedFd) -> Result<(), Errno> {
        let line = self.inner.line(number).ok_or(Errno::ENOTCONN)?;
        let mut line = lock(&line);
        let Line::Idle(near) = &*line else { return Err(Errno::EISCONN) };
        let near = near.try_clone().map_err(|_| Errno::EMFILE)?;
        let pump = Box::new(Pump::new(near, far)?);
        self.inner.unwatch_all(&line);
        self.inner.wake();
        self.inner.watch(&pump.near.socket, number, 0, EventFlags::IN)?;
        self.inner.watch(&pump.far.socket, number, 1, EventFlags::IN)?;
        *line = Line::Pump(pump);
        Ok(())
    }

    /// Pumps between `near`, the host's end, and `far`, from now on. Returns its number.
    pub(super) fn pump(&self, whose: HelperId, near: OwnedFd, far: OwnedFd) -> Result<u64, Errno> {
        let number = self.keep(whose, near)?;
        self.reach(number, far)?;
        Ok(number)
    }

    /// The plugin has closed its end: once its last bytes are on their way, the stream is cut. A stream does not say by
    /// itself whether who sends no more still reads.
    pub(super) fn end(&self, number: u64) {
        let Some(line) = self.inner.line(number) else { return };
        let ended = match &mut *lock(&line) {
            Line::Pump(pump) => {
                pump.is_closed = true;
                pump.go_on()
            }
            Line::Idle(_) | Line::Names(_) => true,
        };
        if ended {
            self.inner.cut(number);
        }
    }

    /// Cuts a stream: once this returns nothing passes any more.
    pub(super) fn cut(&self, number: u64) {
        self.inner.cut(number);
    }

    /// Cuts what this helper had: it has ended.
    pub(crate) fn forget(&self, id: HelperId) {
        self.inner.cut_those(|whose, _| whose == id);
    }

    /// Gives up conversations of this helper's that nobody may be at the other end of: who closes a datagram socket says
    /// so to nobody.
    pub(super) fn give_up_idle(&self, id: HelperId) {
        self.inner.cut_those(|whose, line| {
            whose == id && matches!(&*lock(line), Line::Names(conversation) if conversation.is_idle())
        });
    }

    /// Ends the thread.
    pub(crate) fn stop(&self) {
        self.inner.stop.store(true, Ordering::Release);
        self.inner.wake();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Has the thread look again when it is to wake up.
    pub(super) fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn watch(&self, socket: impl AsFd, number: u64, side: u64, flags: EventFlags) -> Result<(), Errno> {
        epoll::add(&self.epoll, socket, EventData::new_u64(number << 1 | side), flags).map_err(from_rustix)
    }

    /// A socket stays in an epoll for as long as anybody has it open.
    fn unwatch_all(&self, line: &Line) {
        let unwatch = |socket: BorrowedFd<'_>| {
            let _ = epoll::delete(&self.epoll, socket);
        };
        match line {
            Line::Names(conversation) => unwatch(conversation.socket()),
            Line::Idle(near) => unwatch(near.as_fd()),
            Line::Pump(pump) => {
                [&pump.near, &pump.far].into_iter().for_each(|end| unwatch(end.socket.as_fd()))
            }
        }
    }

    fn line(&self, number: u64) -> Option<Shared> {
        Some(Arc::clone(&lock(&self.lines).get(&number)?.1))
    }

    fn cut_those(&self, which: impl Fn(HelperId, &Mutex<Line>) -> bool) {
        let all: Vec<_> = {
            let lines = lock(&self.lines);
            lines.iter().map(|(number, (whose, line))| (*number, *whose, Arc::clone(line))).collect()
        };
        for (number, ..) in all.iter().filter(|(_, whose, line)| which(*whose, line)) {
            self.cut(*number);
        }
    }

    fn cut(&self, number: u64) {
        let Some((_, line)) = lock(&self.lines).remove(&number) else { return };
        let line = lock(&line);
        self.unwatch_all(&line);
        if let Line::Pump(pump) = &*line {
            for end in [&pump.near, &pump.far] {
                let _ = shutdown(&end.socket, Shutdown::Both);
            }
        }
    }

    /// Sends an answer to whoever asked for a name over this line.
    pub(super) fn deliver(&self, number: u64, answer: &[u8]) {
        let Some(line) = self.line(number) else { return };
        let mut line = lock(&line);
        if let Line::Names(conversation) = &mut *line {
            conversation.answer(answer);
            let flags = conversation.wants();
            let _ = epoll::modify(&self.epoll, conversation.socket(), EventData::new_u64(number << 1), flags);
        }
    }

    fn run(self: Arc<Self>) {
        signals::block_all();
        let mut events = [MaybeUninit::<Event>::uninit(); 32];
        while !self.stop.load(Ordering::Acquire) {
            let next = self.lookups.answer_late(&self, Instant::now());
            let timeout = next.and_then(|wait| Timespec::try_from(wait).ok());
            let ready = match epoll::wait(&self.epoll, &mut events[..], timeout.as_ref()) {
                Ok((ready, _)) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            };
            for event in ready.iter() {
                match event.data.u64() {
                    WAKE => drop(rustix::io::read(&self.wake, &mut [0u8; 8][..])),
                    data => self.serve(data >> 1, event.flags),
                }
            }
        }
    }

    fn serve(self: &Arc<Self>, number: u64, flags: EventFlags) {
        let Some(line) = self.line(number) else { return };
        let ended = match &mut *lock(&line) {
            // Its plugin has closed it.
            Line::Idle(_) => flags.intersects(EventFlags::HUP | EventFlags::ERR),
            Line::Names(conversation) => {
                let ended = conversation.go_on(self, number);
                let data = EventData::new_u64(number << 1);
                ended
                    || epoll::modify(&self.epoll, conversation.socket(), data, conversation.wants()).is_err()
            }
            Line::Pump(pump) => {
                let ended = pump.go_on();
                let sides = [(&pump.near, 0), (&pump.far, 1)];
                ended
                    || sides.into_iter().any(|(end, side)| {
                        let data = EventData::new_u64(number << 1 | side);
                        // One that wants nothing would be heard to hang up over and over.
                        let flags = pump.wants(side == 0);
                        let watched = if flags.is_empty() {
                            epoll::delete(&self.epoll, &end.socket).or(Ok(()))
                        } else {
                            epoll::modify(&self.epoll, &end.socket, data, flags)
                                .or_else(|_| epoll::add(&self.epoll, &end.socket, data, flags))
                        };
                        let _: Result<(), rustix::io::Errno> = watched;
                        watched.is_err()
                    })
            }
        };
        if ended {
            self.cut(number);
        }
    }
}

/// One end of a stream, and what has been read of it and not yet written to the other.
struct End {
    socket: OwnedFd,
    unwritten: Vec<u8>,
    /// Nothing more comes from here.
    has_ended: bool,
    /// The other end has been told so.
    end_is_told: bool,
}

/// Moves bytes both ways.
struct Pump {
    near: End,
    far: End,
    /// Whether what is moved are messages, which stay whole.
    messages: bool,
    /// Whether the plugin has closed its end, and reads no more.
    is_closed: bool,
}

impl End {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, unwritten: Vec::new(), has_ended: false, end_is_told: false }
    }

    /// Reads one piece, if there is room; whether anything came.
    fn read(&mut self, messages: bool) -> Result<bool, Errno> {
        if self.has_ended || !self.unwritten.is_empty() {
            return Ok(false);
        }
        let mut piece = vec![0; BUFFER_BYTES];
        let flags = if messages { RecvFlags::DONTWAIT | RecvFlags::TRUNC } else { RecvFlags::DONTWAIT };
        match recv(&self.socket, &mut piece[..], flags) {
            Ok((_, 0)) => self.has_ended = true,
            // A message that is longer than may be is lost, as those are that a network does not take.
            Ok((_, len)) if len > piece.len() => {}
            Ok((_, len)) => {
                piece.truncate(len);
                self.unwritten = piece;
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(false),
            Err(errno) => return Err(from_rustix(errno)),
        }
        Ok(true)
    }

    /// Writes what was read here to `other`; whether anything went.
    fn write_to(&mut self, other: &OwnedFd) -> Result<bool, Errno> {
        if self.unwritten.is_empty() {
            if self.has_ended && !self.end_is_told {
                self.end_is_told = true;
                let _ = shutdown(other, Shutdown::Write);
                return Ok(true);
            }
            return Ok(false);
        }
        match send(other, &self.unwritten, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => {
                self.unwritten.drain(..sent.min(self.unwritten.len()));
                Ok(true)
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(from_rustix(errno)),
        }
    }
}

impl Pump {
    fn new(near: OwnedFd, far: OwnedFd) -> Result<Self, Errno> {
        let kind = rustix::net::sockopt::socket_type(&far).map_err(from_rustix)?;
        Ok(Self {
            near: End::new(near),
            far: End::new(far),
            messages: kind != SocketType::STREAM,
            is_closed: false,
        })
    }

    /// Moves what there is; whether it has come to its end.
    fn go_on(&mut self) -> bool {
        let Self { near, far, messages, is_closed } = self;
        for _ in 0..TURN {
            let moved = [
                near.read(*messages),
                near.write_to(&far.socket),
                far.read(*messages),
                far.write_to(&near.socket),
            ];
            let mut any = false;
            for step in moved {
                match step {
                    Ok(moved) => any |= moved,
                    Err(_) => return true,
                }
            }
            if !any {
                break;
            }
        }
        near.end_is_told && (far.end_is_told || *is_closed)
    }

    /// What the near or the far end is to be watched for.
    fn wants(&self, near: bool) -> EventFlags {
        let (own, other) = if near { (&self.near, &self.far) } else { (&self.far, &self.near) };
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, own.unwritten.is_empty() && !own.has_ended);
        flags.set(EventFlags::OUT, !other.unwritten.is_empty());
        flags
    }
}

/// Connects a plugin's socket to the host itself, over the loopback address; the host's end of it.
///
/// It stays the very socket that the plugin made, with its options, its copies, and whoever watches it.
pub(super) fn lead_here(socket: &Socket) -> Result<OwnedFd, Errno> {
    let any: [(AddressFamily, IpAddr); 2] = [
        (AddressFamily::INET6, Ipv6Addr::LOCALHOST.into()),
        (AddressFamily::INET, Ipv4Addr::LOCALHOST.into()),
    ];
    let mut last = Errno::EADDRNOTAVAIL;
    for (family, ip) in any.into_iter().skip(usize::from(socket.family == AddressFamily::INET)) {
        let own = socket_with(family, socket.kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
            .map_err(from_rustix)?;
        let bound = bind(&own, &SocketAddr::new(ip, 0)).and_then(|()| getsockname(&own));
        let Some(at) = bound.ok().and_then(|at| SocketAddr::try_from(at).ok()) else { continue };
        // An IPv6 socket reaches an IPv4 address as one that is written as IPv6.
        let to = match (socket.family, at) {
            (AddressFamily::INET6, SocketAddr::V4(at)) => {
                SocketAddr::new(at.ip().to_ipv6_mapped().into(), at.port())
            }
            (_, at) => at,
        };
        match meet(socket, own, to) {
            Ok(end) => return Ok(end),
            Err(errno) => last = errno,
        }
    }
    Err(last)
}

fn meet(socket: &Socket, own: OwnedFd, at: SocketAddr) -> Result<OwnedFd, Errno> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    if !socket.is_stream() {
        socket.connect(at)?;
        rustix::net::connect(&own, &plain(socket.local()?)).map_err(from_rustix)?;
        return Ok(own);
    }
    listen(&own, 4).map_err(from_rustix)?;
    match socket.connect(at) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    let local = plain(socket.local()?);
    let deadline = Instant::now() + Duration::from_millis(100);
    loop {
        match acceptfrom_with(&own, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            // Anybody on this machine could have been quicker.
            Ok((end, Some(peer))) if SocketAddr::try_from(peer.clone()).map(plain) == Ok(local) => {
                return Ok(end);
            }
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) if Instant::now() < deadline => {
                super::sockets::wait_briefly(own.as_fd(), PollFlags::IN);
            }
            Err(errno) => return Err(from_rustix(errno)),
        }
    }
}
