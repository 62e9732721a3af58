//! sendto(2), sendmsg(2), sendmmsg(2): sending what could name somebody else, or carry more than bytes.
//!
//! Runs in the host, on a worker. Sends from a copy of what the plugin gives, never waits, and lets nothing pass but bytes.

use std::fs::File;

use nix::errno::Errno;
use rustix::event::epoll::EventFlags;
use rustix::net::sockopt::Timeout;
use rustix::net::{SendFlags, send, sendto};

use super::address::{Address, as_peer};
use super::connections::Peer;
use super::sockets::Socket;
use super::{Answer, Call, Request, memory};
use crate::host::broker::parked::Wait;
use crate::shared::errno::from_rustix;

/// How much is sent at once: of a stream no more than this is taken, a datagram cannot be longer.
pub(super) const MOST_BYTES: usize = 256 << 10;

/// How many pieces a message may be in: UIO_MAXIOV.
const MOST_PIECES: u64 = 1024;

/// `struct msghdr`, and the same with a length behind it.
const MESSAGE_BYTES: usize = size_of::<libc::msghdr>();
const MESSAGES_LEN_AT: u64 = size_of::<libc::msghdr>() as u64;

/// `struct msghdr`, read once.
pub(super) struct Header {
    /// Where the address is, and its length.
    name: (u64, u64),
    /// Where the pieces are told of, and how many there are.
    pieces: (u64, u64),
    control_len: u64,
}

impl Header {
    pub(super) fn read(memory: &File, at: u64) -> Result<Self, Errno> {
        let header = memory::read_bytes(memory, at, MESSAGE_BYTES)?;
        let number = |at| number(&header, at);
        Ok(Self {
            name: (number(0)?, number(8)?),
            pieces: (number(16)?, number(24)?),
            control_len: number(40)?,
        })
    }

    /// Whether it carries what is no byte.
    pub(super) fn has_control(&self) -> bool {
        self.control_len != 0
    }

    /// What the pieces hold, as far as it is sent.
    pub(super) fn gather(&self, memory: &File, is_stream: bool) -> Result<Vec<u8>, Errno> {
        let (pieces, count) = self.pieces;
        if count > MOST_PIECES {
            return Err(Errno::EMSGSIZE);
        }
        let vector_len = usize::try_from(count * 16).map_err(|_| Errno::EMSGSIZE)?;
        let vector = memory::read_bytes(memory, pieces, vector_len)?;
        let mut whole: u64 = 0;
        let mut bytes = Vec::new();
        for piece in vector.chunks_exact(16) {
            let (base, len) = (number(piece, 0)?, number(piece, 8)?);
            whole = whole.checked_add(len).filter(|len| i64::try_from(*len).is_ok()).ok_or(Errno::EINVAL)?;
            let upto = bounded(is_stream, whole)?;
            let more = upto.saturating_sub(bytes.len());
            bytes.extend(memory::read_bytes(memory, base, more)?);
        }
        Ok(bytes)
    }
}

/// How much of `len` bytes is sent.
fn bounded(is_stream: bool, len: u64) -> Result<usize, Errno> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if is_stream {
        Ok(len.min(MOST_BYTES))
    } else if len > MOST_BYTES {
        Err(Errno::EMSGSIZE)
    } else {
        Ok(len)
    }
}

/// What is to be sent.
struct Message {
    to: Option<Address>,
    bytes: Vec<u8>,
    flags: u32,
}

fn number(bytes: &[u8], at: usize) -> Result<u64, Errno> {
    let end = at.checked_add(8).ok_or(Errno::EFAULT)?;
    let word = bytes.get(at..end).and_then(|word| word.try_into().ok()).ok_or(Errno::EFAULT)?;
    Ok(u64::from_ne_bytes(word))
}

impl Request<'_> {
    pub(super) fn send_to(&self) -> Result<Answer, Errno> {
        let socket = self.socket()?;
        let to = (self.arg(4) != 0).then(|| self.address(self.arg(4), self.arg(5))).transpose()?;
        let len = bounded(socket.is_stream(), self.arg(2))?;
        let bytes = memory::read_bytes(&*self.memory()?, self.arg(1), len)?;
        self.send(socket, "sendto", Message { to, bytes, flags: self.int(3) })
    }

    pub(super) fn send_message(&self) -> Result<Answer, Errno> {
        let socket = self.socket()?;
        match self.message(&socket, self.arg(1), self.int(2))? {
            Ok(message) => self.send(socket, "sendmsg", message),
            Err(refused) => Ok(refused),
        }
    }

    /// The first of the messages: the caller comes again for the others.
    pub(super) fn send_messages(&self) -> Result<Answer, Errno> {
        let socket = self.socket()?;
        if self.int(2) == 0 {
            return Ok(Answer::Value(0));
        }
        let message = match self.message(&socket, self.arg(1), self.int(3))? {
            Ok(message) => message,
            Err(refused) => return Ok(refused),
        };
        match self.send(socket, "sendmmsg", message)? {
            Answer::Value(sent) => {
                let sent = u32::try_from(sent).unwrap_or(u32::MAX);
                let at = self.arg(1).checked_add(MESSAGES_LEN_AT).ok_or(Errno::EFAULT)?;
                self.put(at, &sent.to_ne_bytes())?;
                Ok(Answer::Value(1))
            }
            other => Ok(other),
        }
    }

    /// The message at `at`, read once; the refusal if it carries what is no byte.
    fn message(&self, socket: &Socket, at: u64, flags: u32) -> Result<Result<Message, Answer>, Errno> {
        let memory = &*self.memory()?;
        let header = Header::read(memory, at)?;
        if header.has_control() {
            let call = Call { action: "sendmsg", object: "with control data" };
            let rule = "descriptors, credentials and packet options are not sent for a plugin";
            return Ok(Err(self.refuse_call(call, Errno::EPERM, rule)));
        }
        let (name, name_len) = header.name;
        let to = (name != 0 && name_len & u64::from(u32::MAX) != 0)
            .then(|| self.address(name, name_len))
            .transpose()?;
        let bytes = header.gather(memory, socket.is_stream())?;
        Ok(Ok(Message { to, bytes, flags }))
    }

    fn send(&self, socket: Socket, action: &'static str, message: Message) -> Result<Answer, Errno> {
        if !self.still_waits() {
            return Err(Errno::EINTR);
        }
        let Message { to, bytes, flags } = message;
        // A connection of this kind is made by what it sends.
        if flags & libc::MSG_FASTOPEN.cast_unsigned() != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let kept = (libc::MSG_OOB | libc::MSG_MORE | libc::MSG_EOR).cast_unsigned();
        let own = SendFlags::from_bits_retain(flags & kept) | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = match to {
            Some(Address::Internet(to)) if socket.is_internet() && !socket.is_stream() => {
                let to = as_peer(to);
                let mut connections = self.brokered.network.connections();
                let (object, scopes) = (to.to_string(), self.scopes_of(to));
                let call = Call { action, object: &object };
                let rule = match self.judge_network(call, &scopes) {
                    Ok(rule) => rule,
                    Err(refused) => return Ok(refused),
                };
                if let Err(refused) = self.room_for(call, &mut connections, socket.inode) {
                    return Ok(refused);
                }
                self.granted(call, &rule);
                connections.reaches(socket.inode, Peer(scopes));
                socket.hear_others()?;
                sendto(&socket.fd, &bytes, own, &to)
            }
            // A stream goes to its peer, whatever else is named: send(2).
            Some(Address::Internet(_)) if socket.is_internet() => send(&socket.fd, &bytes, own),
            None | Some(Address::Dissolve) => send(&socket.fd, &bytes, own),
            Some(_) => {
                let call = Call { action, object: "a Unix socket" };
                return Ok(self.refuse_call(
                    call,
                    Errno::EACCES,
                    "datagrams to Unix sockets are not sent for a plugin",
                ));
            }
        };
        match sent.map_err(from_rustix) {
            Ok(sent) => Ok(Answer::Value(i64::try_from(sent).unwrap_or(i64::MAX))),
            Err(Errno::EAGAIN)
                if flags & libc::MSG_DONTWAIT.cast_unsigned() == 0 && !socket.is_nonblocking() =>
            {
                let after = socket.timeout(Timeout::Send);
                Ok(Answer::Later(Wait {
                    socket: socket.fd,
                    events: EventFlags::OUT,
                    after,
                    late: Errno::EAGAIN,
                }))
            }
            Err(errno) => Err(errno),
        }
    }
}
