//! What goes to one helper: written at once by whoever has it, as far as the pipe takes it; the rest by the reactor.
//!
//! Runs in the host, on application threads and on the reactor. Never blocks, and never lets a SIGPIPE out.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use crate::shared::sys::signals::without_sigpipe;

/// The host's end of a helper's input.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// How many bytes may wait: a helper that asks for more than it reads would fill the host's memory.
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `None` once the helper has ended.
    pipe: Option<OwnedFd>,
    waiting: VecDeque<u8>,
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    All,
    /// The reactor must wait for the pipe to take more.
    Partly,
    /// The helper's end is closed.
    Closed,
    /// The helper has left too much unread. The frame is dropped.
    TooMuch,
}

impl Outbox {
    /// `pipe` must be non-blocking. Once `most` bytes wait, nothing more is taken.
    pub(crate) fn new(pipe: OwnedFd, most: usize) -> Self {
        Self { most, inner: Mutex::new(Inner { pipe: Some(pipe), waiting: VecDeque::new() }) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the pipe, if it is still there.
    pub(crate) fn with_pipe(&self, work: impl FnOnce(BorrowedFd<'_>)) {
        if let Some(pipe) = &self.inner().pipe {
            work(pipe.as_fd());
        }
    }

    /// Sends a frame behind what still waits.
    pub(crate) fn send(&self, frame: &[u8]) -> Written {
        let Inner { pipe, waiting } = &mut *self.inner();
        let Some(pipe) = pipe else { return Written::Closed };
        if waiting.len() > self.most {
            return Written::TooMuch;
        }
        if !waiting.is_empty() {
            waiting.extend(frame);
            return Written::Partly;
        }
        let (done, closed) = without_sigpipe(|| write(pipe, frame));
        if closed {
            return Written::Closed;
        }
        match frame.get(done..) {
            None | Some([]) => Written::All,
            Some(rest) => {
                waiting.extend(rest);
                Written::Partly
            }
        }
    }

    /// Lets go of the pipe and of what waits: the helper has ended.
    pub(crate) fn close(&self) {
        *self.inner() = Inner { pipe: None, waiting: VecDeque::new() };
    }

    /// Writes what waits, as far as the pipe takes it. For the reactor, which blocks SIGPIPE.
    pub(crate) fn flush(&self) -> Written {
        let Inner { pipe, waiting } = &mut *self.inner();
        let Some(pipe) = pipe else { return Written::Closed };
        let (done, closed) = write(pipe, waiting.make_contiguous());
        waiting.drain(..done);
        match (closed, waiting.is_empty()) {
            (true, _) => Written::Closed,
            (false, true) => {
                *waiting = VecDeque::new(); // a large frame's memory is not kept
                Written::All
            }
            (false, false) => Written::Partly,
        }
    }
}

/// How many bytes the pipe took, and whether it is closed.
fn write(pipe: &OwnedFd, bytes: &[u8]) -> (usize, bool) {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match nix::unistd::write(pipe, rest) {
            Ok(n) => done += n,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return (done, false),
            Err(_) => return (done, true),
        }
    }
    (done, false)
}
