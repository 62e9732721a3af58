//! setsockopt(2) of what the filter does not let go ahead by itself.
//!
//! Runs in the host, on a worker. Two options are set here so that they do not change while the host works with a socket,
//! or would have it wait: the time that a send may take, and what becomes of unsent bytes.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::{Answer, Call, Request, memory};
use crate::shared::sys::sockets;

/// SO_SNDTIMEO_NEW of asm-generic/socket.h; that of the C library is the old one on 64 bits.
const SEND_TIMEOUT_NEW: i32 = 67;

/// `struct timeval`, or the two ints of `struct linger`.
const MOST_BYTES: u32 = 16;

impl Request<'_> {
    pub(super) fn set_option(&self) -> Result<Answer, Errno> {
        let (level, name) = (self.int(1).cast_signed(), self.int(2).cast_signed());
        let known = level == libc::SOL_SOCKET
            && matches!(name, libc::SO_SNDTIMEO | SEND_TIMEOUT_NEW | libc::SO_LINGER);
        if matches!((level, name), (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)) {
            // A C library's resolver sets it on every socket of its own, and it asks for nothing that a grant is about.
            return Err(Errno::EPERM);
        }
        let object = format!("level {level}, option {name}");
        let call = Call { action: "setsockopt", object: &object };
        if !known {
            return Ok(self.refuse_call(call, Errno::EPERM, "this option is not set for a plugin"));
        }
        let len = self.int(4);
        if len > MOST_BYTES {
            return Err(Errno::EINVAL);
        }
        let len = usize::try_from(len).map_err(|_| Errno::EINVAL)?;
        let value = memory::read_bytes(&*self.memory()?, self.arg(3), len)?;
        if !self.still_waits() {
            return Err(Errno::EINTR);
        }
        let word = |at: usize| {
            value.get(at..at + 4).and_then(|word| Some(i32::from_ne_bytes(word.try_into().ok()?)))
        };
        if name == libc::SO_LINGER && word(0) != Some(0) && word(4) != Some(0) {
            // Whoever closes the last copy would wait, and that may be the host.
            return Ok(self.refuse_call(call, Errno::EPERM, "a close that waits is not set for a plugin"));
        }
        let socket = self.socket()?;
        // Not while a connection is being made: see `Socket::connect`.
        let _connections = self.brokered.network.connections();
        sockets::set_option(socket.fd.as_fd(), level, name, &value)?;
        Ok(Answer::Value(0))
    }
}
