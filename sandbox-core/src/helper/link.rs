//! The helper's end of the channel: orders come in, answers and service calls go out.
//!
//! Runs in the helper. Any thread of the plugin's may call a service, so that whoever waits reads the pipe for all:
//! no thread of ours, and the thread that is called is the one that wakes.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::ThreadId;

use nix::errno::Errno;
use plugin_abi::ServiceError;

use crate::shared::sys::inherited;
use crate::shared::wire::control::{Bytes, FromHelper, ServiceCallId, ToHelper, WireServiceError};
use crate::shared::wire::frame::{self, ENVELOPE_BYTES};

const IN_FD: i32 = 3;
const OUT_FD: i32 = 4;

/// Both pipes, and what has come but not been taken.
pub(crate) struct Link {
    input: File,
    output: Mutex<File>,
    inbox: Mutex<Inbox>,
    came: Condvar,
    next_service_call: AtomicU64,
    max_message: u64,
    operator: ThreadId,
    in_operation: AtomicBool,
}

#[derive(Default)]
struct Inbox {
    /// Whether a thread is at the pipe.
    read: bool,
    closed: bool,
    orders: VecDeque<ToHelper>,
    replies: HashMap<ServiceCallId, Result<Bytes, WireServiceError>>,
}

impl Link {
    /// The channel that the zygote has put at numbers 3 and 4.
    pub(crate) fn inherited() -> Result<Self, Errno> {
        let file = |number| inherited::take_for_good(number).map(|fd: OwnedFd| File::from(fd));
        Ok(Self {
            input: file(IN_FD)?,
            output: Mutex::new(file(OUT_FD)?),
            inbox: Mutex::default(),
            came: Condvar::new(),
            next_service_call: AtomicU64::new(1),
            max_message: 0,
            operator: std::thread::current().id(),
            in_operation: AtomicBool::new(false),
        })
    }

    pub(crate) fn set_max_message(&mut self, bytes: u64) {
        self.max_message = bytes;
    }

    /// Payloads of more bytes than this are not sent.
    pub(crate) fn max_message(&self) -> u64 {
        self.max_message
    }

    /// Marks the time in which the plugin is called on the operator's thread.
    pub(crate) fn in_operation(&self, yes: bool) {
        self.in_operation.store(yes, Ordering::Relaxed);
    }

    /// Sends one message, whole. Ends the process if the host is gone.
    pub(crate) fn send(&self, message: &FromHelper) {
        let Ok(frame) = frame::encode(message) else { inherited::exit_at_once(76) };
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.write_all(&frame).is_err() {
            inherited::exit_at_once(0);
        }
    }

    /// The next order. `None` once the host has closed the channel.
    pub(crate) fn next_order(&self) -> Option<ToHelper> {
        self.wait(|inbox| inbox.orders.pop_front())
    }

    /// Calls one of the host's services and waits for the reply, on whichever thread of the plugin's.
    pub(crate) fn call_service(&self, service: &str, payload: &[u8]) -> Result<Vec<u8>, ServiceError> {
        if payload.len() as u64 > self.max_message {
            let (len, max) = (payload.len(), self.max_message);
            return Err(ServiceError::failed(format!(
                "a payload of {len} bytes, where at most {max} are allowed"
            )));
        }
        let id = ServiceCallId(self.next_service_call.fetch_add(1, Ordering::Relaxed));
        let during_operation =
            std::thread::current().id() == self.operator && self.in_operation.load(Ordering::Relaxed);
        let (service, payload) = (service.to_owned(), payload.to_vec());
        self.send(&FromHelper::Service { id, during_operation, service, payload });
        match self.wait(|inbox| inbox.replies.remove(&id)) {
            Some(Ok(Bytes(reply))) => Ok(reply),
            Some(Err(error)) => Err(error.into()),
            None => Err(ServiceError::Disconnected),
        }
    }

    /// Waits until `take` finds something, reading the pipe unless another thread does already.
    fn wait<T>(&self, mut take: impl FnMut(&mut Inbox) -> Option<T>) -> Option<T> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(taken) = take(&mut inbox) {
                return Some(taken);
            }
            if inbox.closed {
                return None;
            }
            if inbox.read {
                inbox = self.came.wait(inbox).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            inbox.read = true;
            drop(inbox);
            let message = self.read();
            inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            inbox.read = false;
            match message {
                Some(ToHelper::ServiceReply { id, reply }) => drop(inbox.replies.insert(id, reply)),
                Some(order) => inbox.orders.push_back(order),
                None => inbox.closed = true,
            }
            self.came.notify_all();
        }
    }

    fn read(&self) -> Option<ToHelper> {
        let max = usize::try_from(self.max_message).unwrap_or(usize::MAX).saturating_add(ENVELOPE_BYTES);
        let body = frame::read_blocking(&mut &self.input, max).ok()??;
        frame::decode(&body).ok()
    }
}
